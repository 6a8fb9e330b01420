"""The examples of one conversation: which rows they are, and which of their tokens they share.

Where a template changes earlier turns (drops their thinking), each assistant turn is an example of its own, and most
of its tokens are those of the turn before. `shared_tree` finds them, so that each is run once:

    tools, question 1 | think 1, call 1                                         example 1
                      | call 1, result | think 2, answer 1                      example 2
                                       | answer 1, question 2 | think 3 ...     example 3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calltune.batching import MIN_PREFIX, Batch, Ints, take_rows
from calltune.render import Example


@dataclass(frozen=True)
class Node:
    """Columns [start, stop) of a batch's `ids` that all of `rows` have in common. Behind them some rows end by
    themselves (`leaves`), others share more (`children`)."""

    start: int
    stop: int
    rows: tuple[int, ...]
    leaves: tuple[int, ...]
    children: tuple[Node, ...]

    def nodes(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.nodes()


def conversation_groups(examples: Sequence[Example], prefix: int = 0) -> tuple[int, ...] | None:
    """A number for each example: the same for neighbours of one conversation that share tokens beyond the first
    `prefix`. None where no two do."""
    numbers: list[int] = []
    for place, example in enumerate(examples):
        before = examples[place - 1] if place else None
        same = before is not None and example.id is not None and example.id == before.id
        if same and before is not None and _shares(before, example, prefix):
            numbers.append(numbers[-1])
        else:
            numbers.append(place)
    return tuple(numbers) if len(set(numbers)) < len(numbers) else None


def _shares(first: Example, second: Example, prefix: int) -> bool:
    stop = prefix + MIN_PREFIX
    return min(first.first_loss, second.first_loss) > stop and first.ids[prefix:stop] == second.ids[prefix:stop]


def parted(batch: Batch) -> tuple[list[tuple[Batch, Node]], Batch | None]:
    """The conversations of a batch of which some tokens are shared, and a batch of all other rows, if any."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(batch.groups):
        members.setdefault(group, []).append(row)
    found, shared = [], set[int]()
    for rows in members.values():
        if len(rows) < 2:
            continue
        part = take_rows(batch, rows)
        if (tree := shared_tree(part)) is not None:
            found.append((part, tree))
            shared.update(rows)
    rest = [row for row in range(len(batch.indices)) if row not in shared]
    if not found:
        return [], batch
    return found, take_rows(batch, rest) if rest else None


def shared_tree(batch: Batch) -> Node | None:
    """What the rows of a batch share, in runs of at least MIN_PREFIX columns; None for nothing. A column that
    predicts a trained token of a row is never shared by that row."""
    limits = [int(batch.columns[batch.rows == row].min()) for row in range(len(batch.indices))]
    tree = _node(batch.ids, limits, tuple(range(len(limits))), 0)
    return tree if any(node.stop > node.start for node in tree.nodes()) else None


def _node(ids: Ints, limits: Sequence[int], rows: tuple[int, ...], start: int) -> Node:
    cap = min(limits[row] for row in rows)
    differs = (ids[list(rows), :cap] != ids[rows[0], :cap]).any(axis=0)
    at = int(np.argmax(differs)) if differs.any() else cap
    stop = at if at - start >= MIN_PREFIX else start
    leaves = [row for row in rows if limits[row] <= at]
    ways: dict[int, list[int]] = {}
    for row in rows:
        if limits[row] > at:
            ways.setdefault(int(ids[row, at]), []).append(row)
    children = []
    for members in ways.values():
        child = _node(ids, limits, tuple(members), stop) if len(members) > 1 else None
        if child is not None and any(node.stop > node.start for node in child.nodes()):
            children.append(child)
        else:
            leaves += members
    return Node(start, stop, rows, tuple(sorted(leaves)), tuple(children))


def cells(batch: Batch, tree: Node, width: int) -> tuple[int, int]:
    """Cells that a conversation runs, leaves padded to multiples of `width`, and how many of them are real tokens."""
    lengths = (batch.ids >= 0).sum(axis=1)
    total = real = 0
    for node in tree.nodes():
        own = node.stop - node.start
        total, real = total + own, real + own
        if node.leaves:
            rest = [int(lengths[row]) - node.stop for row in node.leaves]
            total, real = total + len(rest) * -(-max(rest) // width) * width, real + sum(rest)
    return total, real


def target_order(batch: Batch, pieces: Sequence[Batch]) -> npt.NDArray[np.intp] | None:
    """For each target of `batch` its place among the targets of the pieces one after the other; None: as they are."""
    rows = {index: row for row, index in enumerate(batch.indices)}
    own = [rows[index] for piece in pieces for index in piece.indices]
    if own == sorted(own):
        return None
    places = [np.flatnonzero(batch.rows == row) for row in own]
    return np.argsort(np.concatenate(places))
