"""The next token of each row from its logits: the likeliest, or drawn.

On a CPU in NumPy: MLX takes 13 ns for each `exp` or `log` of a logit, three times over the vocabulary; and where a
guide allows a few tokens only, those alone are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.sample_utils import apply_top_k, apply_top_p

Bools = npt.NDArray[np.bool_]
Sampler = Callable[[mx.array, Bools | None], list[int]]  # logits (B, V), which tokens each row may take (B, V)

COLDEST = 1e-3  # below it logits over temperature overflow, and the likeliest token is drawn anyway


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0, and all but 0, takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def sampler(self) -> Sampler:
        """With random numbers of its own. The one that takes the likeliest is the same for all, so that rows of it
        are looked at together."""
        on_cpu = mx.default_device() == mx.cpu
        if self.temperature < COLDEST:
            return _likeliest(on_cpu)
        return self._on_cpu() if on_cpu else self._on_gpu()

    def _on_gpu(self) -> Sampler:
        seeds = np.random.default_rng(self.seed)  # not MLX's own state: other replies draw meanwhile

        def sampler(logits: mx.array, allowed: Bools | None) -> list[int]:
            if allowed is not None:
                logits = mx.where(mx.array(allowed), logits, mx.array(-mx.inf, logits.dtype))
            if self.temperature < COLDEST:
                return mx.argmax(logits, axis=-1).tolist()  # type: ignore[no-any-return]
            if self.top_p < 1 or self.top_k:
                logits = self._cut(logits)
            key = mx.random.key(int(seeds.integers(1 << 63)))
            return mx.random.categorical(logits / self.temperature, key=key).tolist()  # type: ignore[no-any-return]

        return sampler

    def _cut(self, logits: mx.array) -> mx.array:
        """The logits of the likely tokens, as mlx-lm's sampler cuts them; -inf for the others."""
        logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        if self.top_p < 1:
            logits = apply_top_p(logits, self.top_p)
        if self.top_k and self.top_k < logits.shape[-1]:
            logits = apply_top_k(logits, self.top_k)
        return logits

    def _on_cpu(self) -> Sampler:
        random = np.random.default_rng(self.seed)

        def sampler(logits: mx.array, allowed: Bools | None) -> list[int]:
            rows = np.array(logits.astype(mx.float32), copy=False)
            if allowed is None:
                return [self._of(row, random) for row in rows]
            found = []
            for row, may in zip(rows, allowed, strict=True):
                some = np.flatnonzero(may)
                found.append(int(some[self._of(row[some], random)]))
            return found

        return sampler

    def _of(self, logits: npt.NDArray[np.float32], random: np.random.Generator) -> int:
        """One of the logits."""
        if self.temperature < COLDEST:
            return int(np.argmax(logits))
        weights = np.exp((logits - logits.max()) / np.float32(self.temperature))
        some: Any = None
        if self.top_k and self.top_k < len(weights):
            some = np.argpartition(weights, -self.top_k)[-self.top_k :]
            weights = weights[some]
        if self.top_p < 1:
            order = np.argsort(-weights)
            before = np.cumsum(weights[order], dtype=np.float64)
            order = order[: 1 + int(np.searchsorted(before, self.top_p * before[-1]))]
            some, weights = (order if some is None else some[order]), weights[order]
        sums = np.cumsum(weights, dtype=np.float64)
        # The first whose sum is beyond the drawn number: one of weight 0 is never it.
        at = int(np.searchsorted(sums, random.random() * sums[-1], side="right"))
        at = min(at, len(sums) - 1)
        return int(at if some is None else some[at])


@cache
def _likeliest(on_cpu: bool) -> Sampler:
    return Sampling()._on_cpu() if on_cpu else Sampling()._on_gpu()
