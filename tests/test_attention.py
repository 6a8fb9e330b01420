"""Attention on NumPy against `mx.fast.scaled_dot_product_attention`, forward and gradients."""

from __future__ import annotations

from typing import Any

import pytest

from calltune.engine.attention import Split, attention
from calltune.engine.cpu import fast_cpu, is_fast

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx.nn as nn  # isort: skip
import numpy as np  # isort: skip
from mlx_lm.models.base import create_causal_mask  # isort: skip

PLAIN = mx.fast.scaled_dot_product_attention
SCALE = 0.3


def arrays(seed: int, *shapes: tuple[int, ...]) -> list[mx.array]:
    return [mx.random.normal(shape, key=mx.random.key(seed + i)) for i, shape in enumerate(shapes)]


def never(*_: Any, **__: Any) -> mx.array:
    raise AssertionError("MLX's own kernel was called")


def rows_mask(batch: int, length: int, total: int) -> mx.array:
    """Bool (B, 1, L, T): causal, with the first b keys of row b hidden (but each query sees its own)."""
    causal = np.tri(length, total, total - length, dtype=bool)
    seen = np.stack(
        [causal & (np.arange(total) >= b) | np.eye(length, total, total - length, dtype=bool) for b in range(batch)]
    )
    return mx.array(seen[:, None])


MASKS = ("none", "causal", "window", "rows")
# batch, heads, groups, queries, keys of their own, prefix; 230 queries are more than two blocks
SHAPES = {
    "grouped": (2, 4, 2, 33, 33, 0),
    "one group": (2, 3, 1, 40, 40, 0),
    "blocks": (1, 2, 2, 230, 230, 0),
    "prefix": (3, 4, 2, 40, 40, 50),
    "prefix, blocks": (2, 4, 2, 130, 130, 70),
    "more keys": (2, 4, 2, 40, 64, 0),
}


def make_mask(kind: str, batch: int, length: int, total: int) -> Any:
    window = create_causal_mask(length, total - length, window_size=9)
    return {"none": None, "causal": "causal", "window": window, "rows": rows_mask(batch, length, total)}[kind]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_equal_the_kernel(shape, mask):
    b, h, g, length, own, prefix = SHAPES[shape]
    d, total = 16, own + prefix
    q, k, v, out = arrays(0, (b, h, length, d), (b, g, own, d), (b, g, own, d), (b, h, length, d))
    pk, pv = arrays(9, (1, g, prefix, d), (1, g, prefix, d))
    hidden = make_mask(mask, b, length, total)

    def kernel(q: mx.array, k: mx.array, v: mx.array, pk: mx.array, pv: mx.array) -> mx.array:
        keys, values = Split(pk, k).joined(), Split(pv, v).joined()
        return (PLAIN(q, keys, values, scale=SCALE, mask=hidden) * out).sum()

    def ours(q: mx.array, k: mx.array, v: mx.array, pk: mx.array, pv: mx.array) -> mx.array:
        keys, values = (Split(pk, k), Split(pv, v)) if prefix else (k, v)
        return (attention(never)(q, keys, values, scale=SCALE, mask=hidden) * out).sum()

    which = range(5 if prefix else 3)
    expected, wanted = mx.value_and_grad(kernel, argnums=list(which))(q, k, v, pk, pv)
    found, grads = mx.value_and_grad(ours, argnums=list(which))(q, k, v, pk, pv)
    assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
    for a, w in zip(grads, wanted, strict=True):
        assert float(mx.linalg.norm(w)) > 0
        assert float(mx.linalg.norm(a - w)) <= 1e-4 * float(mx.linalg.norm(w))


@pytest.mark.parametrize("mask", ["none", "causal", "rows"])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("prefix", [0, 37])
def test_decoding_equals_the_kernel(queries, prefix, mask):
    b, h, g, own, d = 5, 4, 2, 11, 16
    q, k, v = arrays(3, (b, h, queries, d), (b, g, own, d), (b, g, own, d))
    pk, pv = arrays(5, (1, g, prefix, d), (1, g, prefix, d))
    hidden = make_mask(mask, b, queries, own + prefix)
    pair = (Split(pk, k), Split(pv, v)) if prefix else (k, v)
    found = attention(never)(q, *pair, scale=SCALE, mask=hidden)
    expected = PLAIN(q, Split(pk, k).joined(), Split(pv, v).joined(), scale=SCALE, mask=hidden)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4, atol=1e-5)


def test_large_scores_do_not_overflow():
    q, k, v = arrays(0, (1, 2, 40, 8), (1, 2, 40, 8), (1, 2, 40, 8))
    found = attention(never)(q * 100, k * 100, v, scale=1.0, mask="causal")
    expected = PLAIN(q * 100, k * 100, v, scale=1.0, mask="causal")
    assert mx.isfinite(found).all().item()
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_what_is_not_covered_goes_to_the_kernel(dtype):
    q, k, v, pk, pv = (
        a.astype(dtype) for a in arrays(0, (2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8), (1, 2, 6, 8), (1, 2, 6, 8))
    )
    found = attention(PLAIN)(q, Split(pk, k), Split(pv, v), scale=SCALE, mask="causal")
    expected = PLAIN(q, Split(pk, k).joined(), Split(pv, v).joined(), scale=SCALE, mask="causal")
    assert found.dtype == dtype and mx.array_equal(found, expected).item()
    added = mx.zeros((5, 5)) - 1.0  # a mask that is added, not a choice
    wide = [a.astype(mx.float32) for a in (q, k, v)]
    assert mx.allclose(attention(PLAIN)(*wide, scale=SCALE, mask=added), PLAIN(*wide, scale=SCALE, mask=added)).item()


def test_fast_cpu_leaves_everything_as_it_was():
    before = mx.fast.scaled_dot_product_attention, mx.sigmoid, mx.tanh
    on_cpu = mx.default_device() == mx.cpu

    def fail() -> None:
        with fast_cpu():
            with fast_cpu():  # within itself
                assert is_fast() == on_cpu
            assert is_fast() == on_cpu
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (mx.fast.scaled_dot_product_attention, mx.sigmoid, mx.tanh) == before
    assert not is_fast()


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_quick_functions_equal_the_plain_ones(name):
    x = mx.concatenate(
        [mx.random.normal((64, 127), key=mx.random.key(0)) * 5, mx.array([[-200.0] * 64 + [200.0] * 63])]
    )
    out = mx.random.normal(x.shape, key=mx.random.key(1))

    def value(x: mx.array) -> mx.array:
        return (getattr(mx, name)(x) * out).sum()

    expected, wanted = mx.value_and_grad(value)(x)
    with fast_cpu():
        found, grad = mx.value_and_grad(value)(x)
        mx.eval(found, grad)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_allclose(np.array(grad), np.array(wanted), rtol=1e-3, atol=1e-6)


def test_views_and_other_layouts_are_read_right():
    """Inputs that are transposed or sliced views, as models make them."""
    x = mx.random.normal((70, 128), key=mx.random.key(0))
    with fast_cpu():
        found = nn.silu(x.T[3:, ::1])
        mx.eval(found)
    expected = x.T[3:] * (1 / (1 + mx.exp(-x.T[3:])))
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4, atol=1e-5)
    q, k, v = (a.transpose(0, 2, 1, 3) for a in arrays(0, (2, 40, 4, 8), (2, 40, 2, 8), (2, 40, 2, 8)))
    found = attention(never)(q, k, v, scale=SCALE, mask="causal")
    np.testing.assert_allclose(
        np.array(found), np.array(PLAIN(q, k, v, scale=SCALE, mask="causal")), rtol=1e-4, atol=1e-5
    )
