"""What makes MLX quick on a CPU while `fast_cpu()` is active: attention, sigmoid and tanh on NumPy.

MLX's CPU backend computes `exp` and its kin one element at a time (17-23 ns each); NumPy's vectorised ones need
2. The replaced functions are looked up by mlx-lm's models at every call; `mx.compile` would have kept the old
ones, and gains nothing on a CPU, so it is off meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from calltune.engine.attention import attention
from calltune.engine.cpu_layers import LAYERS
from calltune.engine.swaps import Swaps
from calltune.engine.threads import in_parts

Array = npt.NDArray[np.float32]


@contextmanager
def fast_cpu(enabled: bool = True, *, layers: bool = False) -> Iterator[None]:
    """Within it, this thread's float32 work on the CPU takes the quick forms. Nothing changes on a GPU or if not
    `enabled`. `layers`: those of engine/cpu_layers.py too."""
    if is_fast() or not enabled or mx.default_device() != mx.cpu:
        yield
        return
    with _SWAPS.within(), LAYERS.within() if layers else nullcontext():
        yield


def is_fast() -> bool:
    """Whether `fast_cpu` is active in this thread, and with it `Split` keys and values are understood."""
    return _SWAPS.here


def detached(array: mx.array) -> mx.array:
    """A copy that belongs to no graph. What is computed from a traced array stays in memory until the gradient is
    done, once it is evaluated; what is computed from this is freed when nobody uses it."""
    mx.eval(array)
    return mx.array(np.array(array, copy=False))


def _quick(plain: Any, forward: Any, grad: Any) -> Any:
    """An element-wise function of one array whose gradient follows from its output."""

    @mx.custom_function
    def quick(x: mx.array) -> mx.array:
        mx.eval(x)
        source = np.ascontiguousarray(np.array(x, copy=False))
        out = np.empty(x.shape, np.float32)
        in_parts(forward, source, out)
        return mx.array(out)

    @quick.vjp
    def quick_vjp(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        mx.eval(cotangent, output)
        given = np.ascontiguousarray(np.array(cotangent, copy=False))
        out = np.empty(given.shape, np.float32)
        in_parts(grad, np.array(output, copy=False), given, out)
        return mx.array(out)

    def function(x: Any, **rest: Any) -> mx.array:
        usable = isinstance(x, mx.array) and x.dtype == mx.float32 and x.size >= 4096 and not rest
        result: mx.array = quick(x) if usable else plain(x, **rest)
        return result

    return function


def _sigmoid(x: Array, out: Array) -> None:
    np.negative(x, out=out)
    np.minimum(out, 80.0, out=out)  # beyond, exp overflows in float32
    np.exp(out, out=out)
    out += 1.0
    np.reciprocal(out, out=out)


def _sigmoid_grad(y: Array, given: Array, out: Array) -> None:
    np.subtract(1.0, y, out=out)
    out *= y
    out *= given


def _tanh(x: Array, out: Array) -> None:
    np.tanh(x, out=out)


def _tanh_grad(y: Array, given: Array, out: Array) -> None:
    np.multiply(y, y, out=out)
    np.subtract(1.0, out, out=out)
    out *= given


def _compile_again() -> None:
    if "MLX_DISABLE_COMPILE" not in os.environ:  # by which a user may have turned it off for good
        mx.enable_compile()


_SWAPS = Swaps(
    [
        (mx.fast, "scaled_dot_product_attention", attention),
        (mx, "sigmoid", lambda plain: _quick(plain, _sigmoid, _sigmoid_grad)),
        (mx, "tanh", lambda plain: _quick(plain, _tanh, _tanh_grad)),
    ],
    first=mx.disable_compile,
    last=_compile_again,
)
