"""The next token of each row from its logits: the likeliest, or drawn.

On a CPU in NumPy: MLX takes 13 ns for each `exp` or `log` of a logit, three times over the vocabulary; and where a
guide allows a few tokens only, those alone are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.sample_utils import make_sampler

Bools = npt.NDArray[np.bool_]
Sampler = Callable[[mx.array, Bools | None], list[int]]  # logits (B, V), which tokens each row may take (B, V)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def sampler(self) -> Sampler:
        return self._on_cpu() if mx.default_device() == mx.cpu else self._on_gpu()

    def _on_gpu(self) -> Sampler:
        if self.seed is not None:
            mx.random.seed(self.seed)
        draw = make_sampler(temp=self.temperature, top_p=self.top_p, top_k=self.top_k)
        cut = self.temperature and (self.top_p < 1 or self.top_k)

        def sampler(logits: mx.array, allowed: Bools | None) -> list[int]:
            if allowed is not None:
                logits = mx.where(mx.array(allowed), logits, mx.array(-mx.inf, logits.dtype))
            if cut:
                logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            found: list[int] = draw(logits).tolist()
            return found

        return sampler

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
        if self.temperature == 0:
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
