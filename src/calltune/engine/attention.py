"""Attention for CPUs, with a shared prefix that is never copied.

MLX's CPU backend computes softmax with a scalar `exp` on one thread (17 ns an element where NumPy needs 2),
visits the half of the scores that a causal mask hides, and copies a cache that is broadcast over the batch in
every layer of every step. Here:

- in training, blocks of queries small enough for the processor's cache run on all cores, keys beyond the mask
  are not visited, and the backward pass computes the weights again from the row's log-sum instead of keeping
  them (FlashAttention, Dao et al. 2022);
- in decoding, the scores against a prefix shared by all rows are one matrix product for the whole batch
  (Hydragen, Juravsky et al. 2024).

Exact up to float rounding. What it does not cover goes to MLX's own kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from calltune.engine.threads import cores, run_tasks

Array = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

QUERY_BLOCK = 96  # queries of one head at a time: with R heads and 1,000 keys about a megabyte of scores


@dataclass(frozen=True)
class Split:
    """Keys or values of one layer: `prefix` (1, G, P, D) shared by all rows, `own` (B, G, S, D) of each row."""

    prefix: mx.array
    own: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        b, g, s, d = self.own.shape
        return (b, g, s + self.prefix.shape[2], d)

    def joined(self) -> mx.array:
        """The plain form: the prefix copied to every row, (B, G, P + S, D)."""
        b, g, _, d = self.own.shape
        prefix = mx.broadcast_to(self.prefix, (b, g, self.prefix.shape[2], d))
        return mx.concatenate([prefix, self.own], axis=2)


def attention(plain: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """A stand-in for `mx.fast.scaled_dot_product_attention` (`plain`) that also takes `Split` keys, values."""

    def attend(q: mx.array, k: Any, v: Any, *, scale: float, mask: Any = None, **rest: Any) -> mx.array:
        split = isinstance(k, Split)
        covered = rest.get("sinks") is None and (mask is None or isinstance(mask, str) or mask.dtype == mx.bool_)
        if covered and q.dtype == mx.float32:
            keys = (k.own, v.own, k.prefix, v.prefix) if split else (k, v)
            if q.shape[1] // k.shape[1] * q.shape[2] < 32:
                arrays = _numpy(q, *keys)
                return mx.array(_decode(*arrays, scale=scale, visible=_visible(mask, q.shape[2], k.shape[2])))
            return _trainable(scale, _visible(mask, q.shape[2], k.shape[2]))(q, *keys)
        if split:
            k, v = k.joined(), v.joined()
        return plain(q, k, v, scale=scale, mask=mask, **rest)

    return attend


def _trainable(scale: float, visible: Bools | None) -> Callable[..., mx.array]:
    """A differentiable function of (q, k, v[, prefix_k, prefix_v]) that returns (B, H, L, D)."""
    log_sums: list[Array] = []  # lives as long as the graph does

    @mx.custom_function
    def attend(*inputs: mx.array) -> mx.array:
        out, sums = _forward(*_numpy(*inputs), scale=scale, visible=visible)
        log_sums[:] = [sums]
        return mx.array(out)

    @attend.vjp
    def attend_vjp(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        grad, out = _numpy(cotangent, output)
        grads = _backward(*_numpy(*primals), scale=scale, visible=visible, sums=log_sums[0], out=out, grad=grad)
        return tuple(mx.array(g) for g in grads)

    return attend


def _numpy(*arrays: mx.array) -> list[Array]:
    mx.eval(*arrays)
    return [np.array(a, copy=False) for a in arrays]


def _visible(mask: Any, length: int, total: int) -> Bools | None:
    """What each of L queries may see of T keys: bool (L, T) or (B, 1, L, T); None for everything."""
    if mask is None:
        return None
    if isinstance(mask, str):  # "causal": the last query sees the last key
        return np.tri(length, total, total - length, dtype=np.bool_)
    return np.array(mask)


@dataclass(frozen=True)
class _Block:
    """Queries [start, stop) and the keys [0, last) that they visit; of these, `hidden` (queries, last - shown)
    may not be seen from key `shown` on."""

    start: int
    stop: int
    last: int
    shown: int
    hidden: Bools | None


def _blocks(visible: Bools | None, row: int, length: int, total: int) -> list[_Block]:
    """The blocks of one row of the batch."""
    blocks = []
    if visible is None:
        seen = None
    else:
        seen = visible if visible.ndim == 2 else visible[min(row, visible.shape[0] - 1), 0]
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        if seen is None:
            blocks.append(_Block(start, stop, total, total, None))
            continue
        part = seen[start:stop]
        last = total - int(np.argmax(part.any(axis=0)[::-1]))  # keys behind it are hidden from the whole block
        shown = int(np.argmin(part[:, :last].all(axis=0))) if not part[:, :last].all() else last
        blocks.append(_Block(start, stop, last, shown, ~part[:, shown:last] if shown < last else None))
    return blocks


def _tasks(rows: int, heads: int, groups: int) -> list[tuple[int, slice, int]]:
    """(row, heads, group) for each piece of work: a group's heads together, since they share keys, unless the
    rows are so few that some core would have nothing to do."""
    width = heads // groups if rows * groups >= 2 * cores() else 1
    return [(row, slice(h, h + width), h * groups // heads) for row in range(rows) for h in range(0, heads, width)]


def _joined(own: Array, prefix: Array | None, row: int, group: int) -> Array:
    """(T, D) keys or values of one row and group."""
    if prefix is None:
        return np.ascontiguousarray(own[row, group])
    return np.concatenate([prefix[0, group], own[row, group]])


def _scores(q: Array, k: Array, block: _Block) -> Array:
    """Scores (R, L, T) of scaled queries (R, L, D) and keys (T, D) in a block; hidden ones are -inf."""
    r, length, d = q.shape
    scores = (q.reshape(r * length, d) @ k[: block.last].T).reshape(r, length, -1)
    if block.hidden is not None:
        np.copyto(scores[:, :, block.shown :], np.float32(-np.inf), where=block.hidden)
    return scores


def _forward(
    q: Array, k: Array, v: Array, pk: Array | None = None, pv: Array | None = None,
    *, scale: float, visible: Bools | None,
) -> tuple[Array, Array]:  # fmt: skip
    """Output (B, H, L, D) and the log of each softmax's sum, (B, H, L)."""
    b, h, length, _ = q.shape
    out = np.empty((b, h, length, v.shape[-1]), np.float32)
    sums = np.empty((b, h, length), np.float32)

    def task(row: int, heads: slice, group: int) -> None:
        keys, values = _joined(k, pk, row, group), _joined(v, pv, row, group)
        for block in _blocks(visible, row, length, len(keys)):
            at = (row, heads, slice(block.start, block.stop))
            weights = _scores(q[at] * np.float32(scale), keys, block)
            top = weights.max(axis=-1, keepdims=True)
            np.exp(np.subtract(weights, top, out=weights), out=weights)
            total = weights.sum(axis=-1, keepdims=True)
            mixed = weights.reshape(-1, block.last) @ values[: block.last]
            out[at] = mixed.reshape(*weights.shape[:2], -1) / total
            sums[at] = (top + np.log(total))[..., 0]

    run_tasks(task, _tasks(b, h, k.shape[1]))
    return out, sums


def _backward(
    q: Array, k: Array, v: Array, pk: Array | None = None, pv: Array | None = None,
    *, scale: float, visible: Bools | None, sums: Array, out: Array, grad: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Gradients of the inputs by the softmax's rule dS = W * (dW - sum(dO * O)); FlashAttention, appendix B."""
    b, h, length, _ = q.shape
    groups, prefix = k.shape[1], 0 if pk is None else pk.shape[2]
    tasks = _tasks(b, h, groups)
    share = len(tasks) // b  # of a row's work; its keys' gradients are summed over each group afterwards
    grad_q = np.empty(q.shape, np.float32)
    grad_k = np.zeros((b, share, prefix + k.shape[2], k.shape[3]), np.float32)
    grad_v = np.zeros((b, share, prefix + v.shape[2], v.shape[3]), np.float32)

    def task(row: int, heads: slice, group: int) -> None:
        keys, values = _joined(k, pk, row, group), _joined(v, pv, row, group)
        place = heads.start * share // h
        for block in _blocks(visible, row, length, len(keys)):
            at, last = (row, heads, slice(block.start, block.stop)), block.last
            queries, d_out = q[at] * np.float32(scale), np.ascontiguousarray(grad[at])
            weights = _scores(queries, keys, block)
            np.exp(np.subtract(weights, sums[at][..., None], out=weights), out=weights)
            inner = (d_out * out[at]).sum(axis=-1).reshape(-1, 1)
            flat, flat_out = weights.reshape(-1, last), d_out.reshape(-1, values.shape[1])
            grad_v[row, place, :last] += flat.T @ flat_out
            d_scores = flat_out @ values[:last].T
            np.multiply(np.subtract(d_scores, inner, out=d_scores), flat, out=d_scores)
            grad_q[at] = ((d_scores @ keys[:last]) * np.float32(scale)).reshape(queries.shape)
            grad_k[row, place, :last] += d_scores.T @ queries.reshape(-1, keys.shape[1])

    run_tasks(task, tasks)
    grad_k, grad_v = (g.reshape(b, groups, share // groups, *g.shape[2:]).sum(axis=2) for g in (grad_k, grad_v))
    if not prefix:
        return grad_q, grad_k, grad_v
    shared = tuple(g[:, :, :prefix].sum(axis=0, keepdims=True) for g in (grad_k, grad_v))
    return grad_q, grad_k[:, :, prefix:], grad_v[:, :, prefix:], *shared


def _decode(
    q: Array, k: Array, v: Array, pk: Array | None = None, pv: Array | None = None,
    *, scale: float, visible: Bools | None,
) -> Array:  # fmt: skip
    """Output (B, H, L, D) for few queries a row: the prefix's scores of all rows in one product a group."""
    b, h, length, d = q.shape
    groups, repeats = k.shape[1], h // k.shape[1]
    prefix, n = (0 if pk is None else pk.shape[2]), repeats * length
    rows = (np.ascontiguousarray(q) * np.float32(scale)).reshape(b, groups, n, d)
    weights = np.empty((b, groups, n, prefix + k.shape[2]), np.float32)
    # Keys times queries, not the other way round: of a matrix and a few columns NumPy's BLAS is 2.5 times as quick.
    weights[..., prefix:] = (k @ rows.swapaxes(-1, -2)).swapaxes(-1, -2)
    if pk is not None:
        by_group = np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(groups, b * n, d)
        shared = (by_group @ pk[0].swapaxes(-1, -2)).reshape(groups, b, n, prefix)
        weights[..., :prefix] = shared.swapaxes(0, 1)
    if visible is not None and not visible.all():
        seen = visible if visible.ndim == 2 else visible[:, :, None]  # (L, T) or (B, 1, 1, L, T)
        shaped = weights.reshape(b, groups, repeats, length, -1)
        np.copyto(shaped, np.float32(-np.inf), where=~seen)
    np.subtract(weights, weights.max(axis=-1, keepdims=True), out=weights)
    np.exp(weights, out=weights)
    np.divide(weights, weights.sum(axis=-1, keepdims=True), out=weights)
    out = weights[..., prefix:] @ v
    if pv is not None:
        shared = np.ascontiguousarray(weights[..., :prefix].swapaxes(0, 1)).reshape(groups, b * n, prefix)
        out += (shared @ pv[0]).reshape(groups, b, n, -1).swapaxes(0, 1)
    return out.reshape(b, h, length, -1)
