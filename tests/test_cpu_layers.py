"""The quick forms of layers on a CPU against MLX's own, forward and gradients, and that they are used."""

from __future__ import annotations

import os
from typing import Any

import pytest

from calltune.engine import cpu_layers
from calltune.engine.cpu import fast_cpu

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx.nn as nn  # isort: skip
import numpy as np  # isort: skip
from mlx_lm.tuner.lora import LoRALinear  # isort: skip


def lora() -> LoRALinear:
    layer = LoRALinear(64, 96, r=4, scale=3.0)
    layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(5))
    return layer


LAYER = lora()
WEIGHT = mx.random.normal((64,), key=mx.random.key(3))
FREQS = mx.exp(mx.arange(32) * 0.2)
CASES: dict[str, Any] = {
    "rms_norm": lambda x: mx.fast.rms_norm(x, WEIGHT * 1.5, 1e-5),
    "rope": lambda x: mx.fast.rope(x, 64, traditional=False, base=10000.0, scale=1.0, offset=7),
    "rope_transposed": lambda x: mx.fast.rope(
        x.reshape(2, 512, 2, 64).transpose(0, 2, 1, 3), 64, traditional=False, base=100.0, scale=0.5, offset=0
    ),
    "rope_freqs": lambda x: mx.fast.rope(
        x, 64, traditional=False, base=None, scale=1.0, offset=3, freqs=FREQS
    ),
    "rope_traditional": lambda x: mx.fast.rope(x, 64, traditional=True, base=10000.0, scale=1.0, offset=7),
    "silu": lambda x: nn.silu(x * 30),
    "lora": lambda x: LAYER(x),
}  # fmt: skip


def values(name: str) -> list[np.ndarray]:
    x = mx.random.normal((2, 2, 512, 64), key=mx.random.key(1))
    weigh = mx.random.normal((2, 2, 512, 96), key=mx.random.key(2))

    def total(x: mx.array) -> mx.array:
        out = CASES[name](x)
        return (out * weigh[..., : out.shape[-1]].reshape(*out.shape)).sum()

    return [np.array(CASES[name](x)), np.array(mx.grad(total)(x))]


@pytest.mark.parametrize("name", CASES)
def test_the_quick_form_equals_the_plain_one(monkeypatch, name):
    plain = values(name)
    monkeypatch.setattr(cpu_layers, "SMALLEST", 1)
    with fast_cpu(layers=True):
        quick = values(name)
    for found, expected in zip(quick, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rms_norm", "rope", "silu", "lora"])
def test_mlx_is_not_asked_for_large_arrays(monkeypatch, name):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError(name)

    monkeypatch.setattr(cpu_layers, "SMALLEST", 1 << 10)
    values("rope")  # the table of turns is MLX's own
    with monkeypatch.context() as patch:
        if name != "rope":
            target = {"rms_norm": (mx.fast, "rms_norm"), "silu": (nn, "silu"), "lora": (LoRALinear, "__call__")}[name]
            patch.setattr(*target, never)
        with fast_cpu(layers=True):
            values(name)


def test_a_norm_that_is_trained_has_its_gradient(monkeypatch):
    monkeypatch.setattr(cpu_layers, "SMALLEST", 1)
    x = mx.random.normal((300, 64), key=mx.random.key(1)) * 3

    def total(weight: mx.array) -> mx.array:
        return (mx.fast.rms_norm(x, weight, 1e-5) ** 3).sum()

    expected = mx.grad(total)(WEIGHT)
    with fast_cpu(layers=True):
        found = mx.grad(total)(WEIGHT)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4)


def test_everything_is_as_it_was_afterwards():
    before = mx.fast.rms_norm, mx.fast.rope, nn.silu, LoRALinear.__call__
    with fast_cpu(layers=True):
        assert mx.fast.rms_norm is not before[0] and LoRALinear.__call__ is not before[3]
    assert (mx.fast.rms_norm, mx.fast.rope, nn.silu, LoRALinear.__call__) == before


@pytest.mark.parametrize("turned_off", [True, False])
def test_what_a_user_turned_off_stays_off(monkeypatch, turned_off):
    """MLX compiles nothing meanwhile; afterwards as before."""
    if not turned_off and "MLX_DISABLE_COMPILE" in os.environ:
        pytest.skip("it is turned off for these tests")
    ran: list[int] = []
    compiled = mx.compile(lambda x: (ran.append(1), x * 2 + 1)[1])
    if turned_off:
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
        mx.disable_compile()
    try:
        with fast_cpu():
            pass
        for _ in range(3):
            compiled(mx.ones(3))
        assert len(ran) == (3 if turned_off else 1)
    finally:
        monkeypatch.undo()
        if "MLX_DISABLE_COMPILE" not in os.environ:
            mx.enable_compile()
