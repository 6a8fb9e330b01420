"""One reply as it is made: choosing tokens, under a guide or freely, and what must follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from calltune.engine.sampling import Sampler, Sampling
from calltune.errors import CannotFinish

Found = TypeVar("Found")


@dataclass(frozen=True)
class Generated:
    """Ids that the model wrote, the stop token left out. `truncated`: the limit ended it."""

    ids: tuple[int, ...]
    truncated: bool


class Guide(Protocol):
    """What binds a reply while it is made: to a form (calltune.guide), to words (calltune.copying). `mask`: the
    tokens that may come, None for any; `takes` is told each that was chosen, and may refuse it; `forced`: those that
    must follow."""

    @property
    def finished(self) -> bool: ...

    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None: ...

    def takes(self, token: int) -> bool: ...

    def forced(self) -> list[int]: ...


@dataclass
class Writing:
    """One reply as it is made: the ids so far, and those of them that the model has not run over yet."""

    stop_ids: frozenset[int]
    limit: int
    guide: Guide | None = None
    sampler: Sampler = field(default_factory=lambda: Sampling().sampler())
    ids: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    joined: bool = False  # a batch: the model has run over its prompt
    ended: bool = False
    truncated: bool = False
    lacks: bool = False  # the limit fell among tokens that were forced: the guide is further than the ids
    error: Exception | None = None  # of its guide: it ends this reply, not those beside it

    def begin(self, prompt: Sequence[int]) -> None:
        """The prompt, and what must follow it."""
        self.queue = list(prompt)
        self._guided(self._force)

    def add(self, token: int) -> None:
        """A token that was chosen, and those that must follow: they need no choice, so no run of their own."""
        if self.error or token in self.stop_ids:
            self.ended = True
            return
        self._append(token)
        self._guided(self._force)

    def fail(self, error: Exception) -> None:
        self.error, self.ended = error, True

    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Which tokens may come; None for any."""
        return self._guided(self.guide.mask) if self.guide and not self.error else None

    def takes(self, token: int) -> bool:
        """Whether the guide goes on with a token."""
        return not self.guide or bool(self._guided(lambda: self.guide and self.guide.takes(token)))

    def _guided(self, ask: Callable[[], Found]) -> Found | None:
        """What the guide answers; None if it fails."""
        try:
            return ask()
        except Exception as error:
            self.fail(error)
            return None

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
        """The whole reply. Raises what its guide raised."""
        if self.error:
            raise self.error
        # A reply whose last allowed token is also its end by the grammar was not cut.
        cut = self.truncated and (self.lacks or self.guide is None or not self.guide.finished)
        return Generated(tuple(self.ids), cut)


def choose(logits: mx.array, writing: Sequence[Writing]) -> list[int]:
    """The next token of each row (B, V), of those that its guide allows."""
    masks = [w.mask() for w in writing]
    allowed = None
    if any(mask is not None for mask in masks):
        width = logits.shape[-1]
        allowed = np.ones((len(masks), width), np.bool_)
        for row, mask in zip(allowed, masks, strict=True):
            if mask is not None:
                row[: len(mask)] = mask[:width]
                row[len(mask) :] = False  # rows of the head that stand for no token
    tokens = _sampled(logits, allowed, [w.sampler for w in writing])
    for i, w in enumerate(writing):
        while not w.error and tokens[i] not in w.stop_ids and not w.takes(tokens[i]):
            allowed = np.ones(logits.shape, np.bool_) if allowed is None else allowed
            allowed[i, tokens[i]] = False
            if w.error:
                break
            if not allowed[i].any():
                step = "decode freely, without copying"
                w.fail(CannotFinish("no token can follow what the reply is bound to", next_step=step))
                break
            tokens[i] = w.sampler(logits[i : i + 1], allowed[i : i + 1])[0]
    return tokens


def _sampled(logits: mx.array, allowed: Any, samplers: Sequence[Sampler]) -> list[int]:
    """A token of each row; the rows of one sampler together."""
    if all(sampler is samplers[0] for sampler in samplers):
        return samplers[0](logits, allowed)
    mx.eval(logits)
    tokens = [0] * len(samplers)
    for sampler in dict.fromkeys(samplers):
        places = [i for i, other in enumerate(samplers) if other is sampler]
        found = sampler(logits[mx.array(places)], None if allowed is None else allowed[places])
        for place, token in zip(places, found, strict=True):
            tokens[place] = token
    return tokens
