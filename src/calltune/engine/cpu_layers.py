"""RMSNorm, rotary positions, SiLU and LoRA for training on a CPU, each in one pass over memory.

MLX's CPU backend runs each of them as 3 to 15 element-wise operations, one thread, each a pass over an array that no
cache holds. Here blocks of rows that the cache holds go through all of an operation's steps, on all cores. Exact up
to float rounding; small arrays (decoding) and what is not covered go to MLX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.tuner.lora import LoRALinear

from calltune.engine.swaps import Swaps
from calltune.engine.threads import cores, run_tasks

Array = npt.NDArray[np.float32]
SMALLEST = 1 << 17  # numbers; below, MLX's own forms cost less than waiting for their input
BLOCK = 1 << 15  # numbers that go through an operation together: 128 KB


def _covers(x: Any) -> bool:
    return isinstance(x, mx.array) and x.dtype == mx.float32 and x.size >= SMALLEST


def _numpy(*arrays: mx.array) -> list[Array]:
    mx.eval(*arrays)
    return [np.ascontiguousarray(np.array(a, copy=False)) for a in arrays]


def _by_rows(work: Callable[[slice], None], rows: int, width: int) -> None:
    """`work` on blocks of rows, in one run of blocks a core."""
    step = max(1, BLOCK // width)
    count = cores()

    def part(start: int, stop: int) -> None:
        for first in range(start, stop, step):
            work(slice(first, min(first + step, stop)))

    run_tasks(part, [(rows * i // count, rows * (i + 1) // count) for i in range(count)], multiplies=False)


def _rms_norm(plain: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def rms_norm(x: mx.array, weight: mx.array | None, eps: float, **rest: Any) -> mx.array:
        if weight is None or rest or not _covers(x) or weight.dtype != mx.float32:
            return plain(x, weight, eps, **rest)
        result: mx.array = _normed(eps)(x, weight)
        return result

    return rms_norm


def _normed(eps: float) -> Callable[[mx.array, mx.array], mx.array]:
    @mx.custom_function
    def normed(x: mx.array, weight: mx.array) -> mx.array:
        source, scale = _numpy(x, weight)
        flat = source.reshape(-1, source.shape[-1])
        out = np.empty_like(flat)

        def work(rows: slice) -> None:
            np.multiply(flat[rows], _inverse(flat[rows], eps)[:, None], out=out[rows])
            out[rows] *= scale

        _by_rows(work, *flat.shape)
        return mx.array(out.reshape(source.shape))

    @normed.vjp
    def normed_vjp(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        source, scale, given = _numpy(*primals, cotangent)
        flat, grad = source.reshape(-1, source.shape[-1]), given.reshape(-1, source.shape[-1])
        out = np.empty_like(flat)
        d_scale = np.zeros_like(scale)
        sums: list[Array] = []

        def work(rows: slice) -> None:
            x, g = flat[rows], grad[rows]
            inverse = _inverse(x, eps)
            sums.append(np.einsum("ij,ij,i->j", g, x, inverse))
            scaled = np.multiply(g, scale, out=out[rows])
            inner = np.einsum("ij,ij->i", scaled, x) * inverse**3 / np.float32(x.shape[1])
            scaled *= inverse[:, None]
            scaled -= x * inner[:, None]

        _by_rows(work, *flat.shape)
        for part in sums:
            d_scale += part
        return mx.array(out.reshape(source.shape)), mx.array(d_scale)

    return normed


def _inverse(x: Array, eps: float) -> Array:
    """One over the root mean square of each row."""
    mean = np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1])
    result: Array = 1 / np.sqrt(mean + np.float32(eps))
    return result


def _silu(plain: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def silu(x: mx.array) -> mx.array:
        result: mx.array = _gated()(x) if _covers(x) else plain(x)
        return result

    return silu


def _gated() -> Callable[[mx.array], mx.array]:
    sigmoids: list[Array] = []  # lives as long as the graph does

    @mx.custom_function
    def gated(x: mx.array) -> mx.array:
        (source,) = _numpy(x)
        flat = source.reshape(-1)
        sigmoid, out = np.empty_like(flat), np.empty_like(flat)

        def work(part: slice) -> None:
            s = np.negative(flat[part], out=sigmoid[part])
            np.minimum(s, 80.0, out=s)  # beyond, exp overflows in float32
            np.exp(s, out=s)
            s += 1.0
            np.reciprocal(s, out=s)
            np.multiply(flat[part], s, out=out[part])

        _by_rows(work, len(flat), 1)
        sigmoids[:] = [sigmoid]
        return mx.array(out.reshape(source.shape))

    @gated.vjp
    def gated_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        given, made = _numpy(cotangent, output)
        grad, result, sigmoid = given.reshape(-1), made.reshape(-1), sigmoids[0]
        out = np.empty_like(grad)

        def work(part: slice) -> None:  # s + y (1 - s), with y = x s
            s, y = sigmoid[part], out[part]
            np.subtract(1.0, s, out=y)
            y *= result[part]
            y += s
            y *= grad[part]

        _by_rows(work, len(grad), 1)
        return mx.array(out.reshape(given.shape))

    return gated


def _rope(plain: Callable[..., mx.array]) -> Callable[..., mx.array]:
    tables: dict[Any, tuple[Array, Array]] = {}

    def table(length: int, dims: int, how: dict[str, Any]) -> tuple[Array, Array]:
        """Cosines and sines (L, D/2) as MLX itself has them: what it makes of ones and zeros."""
        freqs = how.get("freqs")
        key = (length, dims, how["base"], how["scale"], how["offset"], None if freqs is None else id(freqs))
        if key not in tables:
            if len(tables) > 64:
                tables.clear()
            unit = mx.concatenate([mx.ones((1, 1, length, dims // 2)), mx.zeros((1, 1, length, dims // 2))], axis=-1)
            turned = np.array(plain(unit, dims, traditional=False, **how))[0, 0]
            tables[key] = turned[:, : dims // 2].copy(), turned[:, dims // 2 :].copy()
        return tables[key]

    def rope(x: mx.array, dims: int, **how: Any) -> mx.array:
        offset = how.get("offset", 0)
        whole = x.ndim == 4 and dims == x.shape[-1] and not how.get("traditional") and "scale" in how
        if not (whole and _covers(x) and isinstance(offset, int)):
            return plain(x, dims, **how)
        known = {key: how.get(key) for key in ("base", "scale")} | {"offset": offset}
        if "freqs" in how:
            known["freqs"] = how["freqs"]
        result: mx.array = _turned(*table(x.shape[2], dims, known))(x)
        return result

    return rope


def _turned(cosines: Array, sines: Array) -> Callable[[mx.array], mx.array]:
    def turn(x: mx.array, sign: float) -> mx.array:
        mx.eval(x)
        source = np.array(x, copy=False)  # often a transposed view: (B, H, L, D)
        out = np.empty(source.shape, np.float32)
        half = source.shape[-1] // 2
        sin = sines * np.float32(sign)

        def work(row: int, heads: slice) -> None:
            low, high, made = source[row, heads, :, :half], source[row, heads, :, half:], out[row, heads]
            np.multiply(low, cosines, out=made[..., :half])
            made[..., :half] -= high * sin
            np.multiply(high, cosines, out=made[..., half:])
            made[..., half:] += low * sin

        rows, heads = source.shape[:2]
        width = heads if rows >= cores() else 1
        tasks = [(row, slice(head, head + width)) for row in range(rows) for head in range(0, heads, width)]
        run_tasks(work, tasks, multiplies=False)
        return mx.array(out)

    @mx.custom_function
    def turned(x: mx.array) -> mx.array:
        return turn(x, 1.0)

    @turned.vjp
    def turned_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return turn(cotangent, -1.0)

    return turned


def _lora(plain: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def call(layer: Any, x: mx.array) -> mx.array:
        """y + scale (x A) B, with the scale on the small side and the sum inside the product."""
        if not _covers(x):
            return plain(layer, x)
        y = layer.linear(x)
        low = (layer.dropout(x) @ layer.lora_a) * layer.scale
        # Two axes: with more, MLX adds the product of one row at a time.
        whole = mx.addmm(y.reshape(-1, y.shape[-1]), low.reshape(-1, low.shape[-1]), layer.lora_b)
        return whole.reshape(y.shape)

    return call


# Where mlx's layers and mlx-lm's models look them up.
LAYERS = Swaps(
    [
        (mx.fast, "rms_norm", _rms_norm),
        (mx.fast, "rope", _rope),
        (nn, "silu", _silu),
        (LoRALinear, "__call__", _lora),
    ]
)
