"""One reply as it is made: choosing tokens, under a guide or freely, and what must follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from calltune.engine.sampling import Sampler


@dataclass(frozen=True)
class Generated:
    """Ids that the model wrote, the stop token left out. `truncated`: the limit ended it."""

    ids: tuple[int, ...]
    truncated: bool


class Guide(Protocol):
    """What binds a reply to a form while it is made (calltune.guide)."""

    @property
    def finished(self) -> bool: ...

    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]: ...

    def takes(self, token: int) -> bool: ...

    def forced(self) -> list[int]: ...


@dataclass
class Writing:
    """One reply as it is made: the ids so far, and those of them that the model has not run over yet."""

    stop_ids: frozenset[int]
    limit: int
    guide: Guide | None = None
    ids: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    ended: bool = False
    truncated: bool = False
    lacks: bool = False  # the limit fell among tokens that were forced: the guide is further than the ids

    def begin(self, prompt: Sequence[int]) -> None:
        """The prompt, and what must follow it."""
        self.queue = list(prompt)
        self._force()

    def add(self, token: int) -> None:
        """A token that was chosen, and those that must follow: they need no choice, so no run of their own."""
        if token in self.stop_ids:
            self.ended = True
            return
        self._append(token)
        self._force()

    def _force(self) -> None:
        for token in self.guide.forced() if self.guide and not self.ended else ():
            if self.truncated:
                self.lacks = self.lacks or token not in self.stop_ids
            elif token in self.stop_ids:
                self.ended = True
            elif not self.ended:
                self._append(token)
        self.ended = self.ended or (self.guide is not None and self.guide.finished)

    def _append(self, token: int) -> None:
        self.ids.append(token)
        self.queue.append(token)
        if len(self.ids) >= self.limit:
            self.ended = self.truncated = True

    def finish(self) -> Generated:
        # A reply whose last allowed token is also its end by the grammar was not cut.
        cut = self.truncated and (self.lacks or self.guide is None or not self.guide.finished)
        return Generated(tuple(self.ids), cut)


def choose(logits: mx.array, writing: Sequence[Writing], sampler: Sampler) -> list[int]:
    """The next token of each row (B, V), of those that its guide allows."""
    masks = [w.guide.mask() if w.guide else None for w in writing]
    if not any(mask is not None for mask in masks):
        return sampler(logits, None)
    width = logits.shape[-1]
    allowed = np.ones((len(masks), width), np.bool_)
    for row, mask in zip(allowed, masks, strict=True):
        if mask is not None:
            row[: len(mask)] = mask[:width]
            row[len(mask) :] = False  # rows of the head that stand for no token
    tokens = sampler(logits, allowed)
    for i, w in enumerate(writing):
        while w.guide and tokens[i] not in w.stop_ids and not w.guide.takes(tokens[i]):
            allowed[i, tokens[i]] = False
            if not allowed[i].any():
                break
            tokens[i] = sampler(logits[i : i + 1], allowed[i : i + 1])[0]
    return tokens
