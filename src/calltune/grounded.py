"""Keeps a reply's plan to functions that can be called with what was said.

A model settles on a function in its plan, before it looks for the values, and then makes one up that nobody said.
Where the values of a parameter were said in every training row (data/said.py), a function for which the conversation
has none cannot be called yet. So a plan that settles on one such function goes on with the words by which the rows
ask, of several functions a plan names only those that can be called, and none that is not offered:

    One call: set_timer.                    Two calls: set_light, ...    (any but set_timer)
    Ask first: set_timer needs minutes.

Plans in other words than calltune's own (data/plans.py) are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calltune.copying import Copying, Vocabulary
from calltune.data.plans import NUMBERS, ask_plan
from calltune.frames import Frame
from calltune.guide import GrammarGuide
from calltune.tokenizer import Tokenizer

SEVERAL = "|".join(NUMBERS[2:])
PLAN_MARKS = frozenset(".,\n")
LONGEST = 1000  # bytes of a reply, behind which no plan is looked for
AFTER_NAME = (b",", b", ", b".", b".\n")  # what may follow a name in a plan, as tokens have it


class Grounded:
    """A guide that keeps a plan to the functions in `names`, and those `lacking` a value to asking for it; it else
    leaves all to `inner`, if any."""

    def __init__(
        self, lacking: Mapping[str, str], names: Sequence[str], frame: Frame, tokenizer: Tokenizer,
        vocabulary: Vocabulary, inner: Copying | GrammarGuide | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.vocabulary, self.inner, self.frame = tokenizer, vocabulary, inner, frame
        # A name with a mark of the plan in it cannot be told from the plan.
        self.names = [] if any(PLAN_MARKS & set(name) for name in names) else list(names)
        self.lacking = {name: value for name, value in lacking.items() if name in self.names}
        able = [name for name in self.names if name not in lacking]
        self.callable = able if len(able) > 1 else self.names  # with one alone, it would be made up twice
        self.asked = -1  # up to where a plan to ask was written; -1: none
        begin = rf"\s*{re.escape(frame.think[0])}\s*"
        self.settled = re.compile(rf"{begin}One call: ({'|'.join(map(re.escape, self.lacking))})\.(\s*)")
        self.one = re.compile(rf"{begin}One call:([^.,\n]*)")
        self.several = re.compile(rf"{begin}(?:{SEVERAL}) calls:(?:[^.,\n]*,)*([^.,\n]*)")
        self.written = b""

    @property
    def finished(self) -> bool:
        return self.inner is not None and self.inner.finished

    def mask(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next; None: any."""
        given = self.inner.mask() if self.inner else None
        if len(self.written) > LONGEST or not self.names:
            return given
        text = self._text()
        one, several = self.one.fullmatch(text), self.several.fullmatch(text)
        if one:
            own = self._naming(one[1].encode(), self.names)
        elif several:
            own = self._naming(several[1].encode(), self.callable)
        else:
            return given
        if given is not None:
            own = own[: len(given)] & given[: len(own)]
        return own if own.any() else given

    def takes(self, token: int) -> bool:
        """Goes on with a token; False, and nothing has changed, where `inner` refuses it, or it begins a call though
        the plan is to ask."""
        if (self.asked >= 0 and self._begins_call(token)) or (self.inner and not self.inner.takes(token)):
            return False
        self.written += self.vocabulary.text(token)
        return True

    def forced(self) -> list[int]:
        tokens = self.inner.forced() if self.inner else []
        self.written += b"".join(map(self.vocabulary.text, tokens))
        if self.lacking and len(self.written) <= LONGEST and (found := self.settled.fullmatch(self._text())):
            asked = ask_plan(found[1], self.lacking[found[1]])
            for token in self.tokenizer.encode(asked if found[2] else "\n" + asked):
                if not self.takes(token):  # a grammar that has no room for it
                    break
                tokens.append(token)
            self.asked = len(self.written)
        return tokens

    def _begins_call(self, token: int) -> bool:
        """Whether a call's mark would stand behind the plan, or a beginning of it: the first thing there, or of two
        letters at least."""
        mark, end = self.frame.mark.strip().encode(), self.frame.think[1].encode()
        text = self.written[max(self.asked, len(self.written) - 100) :] + self.vocabulary.text(token)
        first = text.rpartition(end)[2].lstrip() if end in text else b""
        beginnings = [mark[:stop] for stop in range(2, len(mark))]
        return mark in text or (first != b"" and mark.startswith(first)) or text.endswith(tuple(beginnings))

    def _text(self) -> str:
        return self.written.decode("utf-8", "replace")

    def _naming(self, begun: bytes, names: Sequence[str]) -> NDArray[np.bool_]:
        """The tokens that go on with one of the names, a space before it, or with what follows it."""
        allowed = np.zeros(len(self.vocabulary.texts), np.bool_)
        for name in (b" " + name.encode() for name in names):
            if name.startswith(begun):
                rest = name[len(begun) :]
                parts = [rest[:stop] for stop in range(1, len(rest) + 1)] + [rest + after for after in AFTER_NAME]
                allowed[[token for part in parts if part for token in self.vocabulary.ids.get(part, ())]] = True
        return allowed
