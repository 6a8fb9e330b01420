"""Key/value caches for a prefix that many rows share: computed once, seen by all, differentiable.

They follow mlx-lm's cache protocol (`offset`, `update_and_fetch`, `make_mask`; mlx_lm/models/cache.py), one
object a layer, so that any attention model of mlx-lm runs with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from calltune.engine.attention import Split

KeyValues = list[tuple[mx.array, mx.array]]  # a layer each: (1, G, P, D)


def padded(array: mx.array, width: int) -> mx.array:
    """Keys or values (B, G, S, D) with zeros before them to `width` slots."""
    b, g, s, d = array.shape
    return array if s == width else mx.concatenate([mx.zeros((b, g, width - s, d), array.dtype), array], axis=2)


def supports_sharing(model: nn.Module) -> bool:
    """Whether every layer keeps keys and values (a state-space layer, say, keeps something else)."""
    return all(type(c) in (KVCache, RotatingKVCache) for c in make_prompt_cache(model))


class Recorder:
    """Runs under the prefix itself, batch 1: keeps the keys and values of its layer."""

    def __init__(self) -> None:
        self.offset = 0
        self.keys_values: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys_values = (keys, values)
        return keys, values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if return_array or (window_size and n > window_size):
            return create_causal_mask(n, window_size=window_size)
        return None if n == 1 else "causal"


class Attached:
    """Runs under the rows that follow a prefix, in training: every row sees the prefix, nothing is stored."""

    prefix: tuple[mx.array, ...]

    def __init__(self, keys: mx.array, values: mx.array, split: bool) -> None:
        self.prefix = (keys, values)
        self.offset = keys.shape[2]
        self.split = split

    def holding(self, prefix: Sequence[mx.array]) -> Attached:
        """The same with other keys and values."""
        return Attached(prefix[0], prefix[1], split=self.split)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        pair = Split(self.prefix[0], keys), Split(self.prefix[1], values)
        return pair if self.split else (pair[0].joined(), pair[1].joined())

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if return_array or (window_size and self.offset + n > window_size):
            return create_causal_mask(n, self.offset, window_size=window_size)
        return "causal"


class Extending(Attached):
    """Runs under tokens that follow a prefix and are a prefix themselves, batch 1: keeps both together."""

    keys_values: tuple[mx.array, mx.array] | None = None

    def holding(self, prefix: Sequence[mx.array]) -> Extending:
        return Extending(prefix[0], prefix[1], split=self.split)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        pair = Split(self.prefix[0], keys), Split(self.prefix[1], values)
        self.keys_values = pair[0].joined(), pair[1].joined()
        return pair if self.split else self.keys_values


class Standing(Attached):
    """Stands for a layer that does not run, of which models ask the place of the next token only."""

    def __init__(self, offset: int) -> None:
        self.offset, self.prefix, self.split = offset, (), False


class Slots:
    """Which slots of the rows of a batch are padding, and where each row stands; one for the caches of all layers.

    Rows after a shared prefix of `length` tokens. A row that has fewer tokens than the others in a step is padded on
    the left there, so padding may lie anywhere.
    """

    def __init__(self, rows: int, length: int = 0) -> None:
        self.length = length
        self.hidden = np.zeros((rows, 0), np.bool_)
        self.offset = mx.array([length] * rows)

    def extend(self, pads: Sequence[int], n: int) -> None:
        """The next step has `n` slots, of which the first `pads[row]` are padding. To be called before it."""
        before = self.length + (~self.hidden).sum(axis=1)
        self.offset = mx.array(before - np.array(pads))  # of each row's first slot, so that the first token is right
        self.hidden = np.concatenate([self.hidden, np.arange(n)[None] < np.array(pads)[:, None]], axis=1)

    @property
    def padded(self) -> bool:
        return bool(self.hidden.any())

    def keep(self, rows: Sequence[int]) -> int:
        """Only these rows go on. Returns how many slots at the front are then padding in all of them, and gone."""
        hidden = self.hidden[list(rows)]
        real = ~hidden.all(axis=0)
        front = int(np.argmax(real)) if real.any() else 0
        self.hidden = hidden[:, front:]
        return front

    def add(self, hidden: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """More rows below, of slots (B, S) of which these are padding; the narrower ones get padding in front."""
        width = max(hidden.shape[1], self.hidden.shape[1])
        both = [np.pad(h, ((0, 0), (width - h.shape[1], 0)), constant_values=True) for h in (self.hidden, hidden)]
        self.hidden = np.concatenate(both)


class Decoding:
    """Runs under generation: a shared prefix (or none) and rows of different lengths, as `slots` has them.

    `grouped_mask`: masks have an axis more, for attention that keeps the heads of a group apart.
    """

    step = 64  # slots that the buffer grows by

    def __init__(
        self, prefix: tuple[mx.array, mx.array] | None, slots: Slots, split: bool, grouped_mask: bool = False
    ) -> None:
        self.prefix = prefix
        self.slots = slots
        self.split = split
        self.grouped_mask = grouped_mask
        self.used = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def offset(self) -> mx.array:
        """Position of the next slot of each row, (B,)."""
        return self.slots.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        b, g, n, d = keys.shape
        if self.keys is None or self.values is None:
            self.keys = mx.zeros((b, g, 0, d), keys.dtype)
            self.values = mx.zeros((b, g, 0, values.shape[-1]), values.dtype)
        if self.used + n > self.keys.shape[2]:
            more = -(-(self.used + n - self.keys.shape[2]) // self.step) * self.step
            room = mx.zeros((b, g, more, d), keys.dtype), mx.zeros((b, g, more, values.shape[-1]), values.dtype)
            self.keys = mx.concatenate([self.keys, room[0]], axis=2)
            self.values = mx.concatenate([self.values, room[1]], axis=2)
        self.keys[:, :, self.used : self.used + n] = keys
        self.values[:, :, self.used : self.used + n] = values
        self.used += n
        own = self.keys[:, :, : self.used], self.values[:, :, : self.used]
        if self.prefix is None:
            return own
        pair = Split(self.prefix[0], own[0]), Split(self.prefix[1], own[1])
        return pair if self.split else (pair[0].joined(), pair[1].joined())

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """Bool (B, 1, n, P + S) or a shorter form where nothing needs hiding."""
        length, own_hidden = self.slots.length, self.slots.hidden
        windowed = window_size is not None and length + own_hidden.shape[1] > window_size
        if not (windowed or self.slots.padded or return_array):
            return None if n == 1 else "causal"
        rows, total = own_hidden.shape
        own = length + np.cumsum(~own_hidden, axis=1) - 1  # (B, S) positions
        keys = np.concatenate([np.broadcast_to(np.arange(length), (rows, length)), own], axis=1)  # (B, P + S)
        hidden = np.concatenate([np.zeros((rows, length), np.bool_), own_hidden], axis=1)
        queries = own[:, -n:, None]
        seen = (keys[:, None] <= queries) & ~hidden[:, None]
        if window_size is not None:
            seen &= queries - keys[:, None] < window_size
        # A padding query sees only itself: a row of nothing but hidden keys would be NaN.
        seen[:, np.arange(n), length + total - n + np.arange(n)] = True
        mask = mx.array(seen)[:, None]
        return mask[:, None] if self.grouped_mask else mask

    def whole(self, start: int = 0) -> tuple[mx.array, mx.array]:
        """All keys and values of the rows from a position on, (B, G, P + S - start, D)."""
        assert self.keys is not None and self.values is not None
        own = self.keys[:, :, : self.used], self.values[:, :, : self.used]
        if self.prefix is None or self.prefix[0].shape[2] == start:
            return own
        prefix = self.prefix[0][:, :, start:], self.prefix[1][:, :, start:]
        return Split(prefix[0], own[0]).joined(), Split(prefix[1], own[1]).joined()

    def keep(self, rows: mx.array, front: int) -> None:
        """Only these rows go on, without the first slots."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows][:, :, front:], self.values[rows][:, :, front:]
            self.used -= front

    def add(self, pairs: Sequence[tuple[mx.array, mx.array]]) -> None:
        """More rows below, as `Slots.add` has them."""
        if self.keys is not None and self.values is not None:
            pairs = [(self.keys[:, :, : self.used], self.values[:, :, : self.used]), *pairs]
        self.used = max(keys.shape[2] for keys, _ in pairs)
        self.keys, self.values = (
            mx.concatenate([padded(pair[side], self.used) for pair in pairs]) for side in (0, 1)
        )
