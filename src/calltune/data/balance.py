"""What a set of conversations teaches beside the calls: biases that `train` and `check` warn of."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from calltune.errors import Problem
from calltune.schema import Conversation

ENOUGH = 20  # rows below which a share says nothing
FIRST_LIMIT = 0.5  # with two tools in random order half of the right ones stand first


Traits = tuple[bool, bool, bool, bool]  # what a conversation adds to the four counts


def traits(conversation: Conversation) -> Traits:
    if not conversation.messages:  # a row of raw text
        return (False, False, False, False)
    calls = [call for message in conversation.messages for call in message.calls]
    single = len(calls) == 1 and len(conversation.tools) > 1
    return (True, not calls, single, single and calls[0].name == conversation.tools[0].name)


@dataclass
class Balance:
    """Counts over a stream of conversations."""

    rows: int = 0
    without_call: int = 0
    single: int = 0  # rows with one call and at least two tools
    first: int = 0  # of these, the called tool is listed first

    def add(self, conversation: Conversation) -> None:
        self.count(traits(conversation))

    def count(self, found: Traits) -> None:
        self.rows += found[0]
        self.without_call += found[1]
        self.single += found[2]
        self.first += found[3]

    def warnings(self) -> list[Problem]:
        """What is wrong with the set as a whole (`row` is None)."""
        found = []
        if self.single >= ENOUGH and self.first > FIRST_LIMIT * self.single:
            share = f"{self.first / self.single:.0%} of the rows with one call"
            expected = "any order: a model that takes the first tool looks trained; shuffle the tools"
            found.append(Problem("right_tool_first", share, expected, "/tools", severity="warning"))
        if self.rows >= ENOUGH and not self.without_call:
            expected = "rows that no tool can serve, or the model learns to call always"
            found.append(
                Problem("no_row_without_call", f"{self.rows} rows, each with a call", expected, severity="warning")
            )
        return found


def balance_of(conversations: Iterable[Conversation]) -> Balance:
    balance = Balance()
    for conversation in conversations:
        balance.add(conversation)
    return balance


def right_tool_first_share(conversations: Iterable[Conversation]) -> float | None:
    """The share of rows with one call, and at least two tools, where the called tool is listed first (T22).

    With n tools in random order it is near 1/n. None where no row has one call among several tools.
    """
    balance = balance_of(conversations)
    return balance.first / balance.single if balance.single else None


def no_call_share(conversations: Iterable[Conversation]) -> float:
    """The share of conversations in which no tool is called; at 0 a model learns to call always (T23)."""
    balance = balance_of(conversations)
    return balance.without_call / balance.rows if balance.rows else 0.0


def shuffle_tools(conversations: Iterable[Conversation], seed: int = 0) -> list[Conversation]:
    """The same conversations, each with its tools in a random order that `seed` and its place decide."""
    rng = random.Random(seed)
    return [replace(c, tools=tuple(rng.sample(c.tools, len(c.tools)))) for c in conversations]
