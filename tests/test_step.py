"""The loss and its gradients: every saving alone and all together equal mlx-lm's plain way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from plain_step import ALL_KEYS, adapted, close, examples_of, ours, plain
from tiny import ARCHS, WINDOW, long_row, tiny_model, weather_rows

from calltune.batching import common_prefix, make_batch
from calltune.engine import cpu_layers
from calltune.engine.adapter import AdapterSettings, add_adapter, trained_arrays
from calltune.engine.load import load
from calltune.engine.optim import Stepper, make
from calltune.engine.plan import Speed, plan_step
from calltune.engine.step import loss_and_grad
from calltune.render import render_all
from calltune.template import choose_template

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import numpy as np  # isort: skip

OFF = Speed(selecting_head=False, shared_prefix=False, frozen_trunk=False, fast_cpu=False)
SWITCHES = {
    "head": Speed(shared_prefix=False, frozen_trunk=False, fast_cpu=False),
    "prefix": Speed(frozen_trunk=False, fast_cpu=False),
    "trunk": Speed(shared_prefix=False, fast_cpu=False),
    "cpu": Speed(shared_prefix=False, frozen_trunk=False),
    "plain_cpu": Speed(selecting_head=False, shared_prefix=False, frozen_trunk=False),
    "no_cpu": Speed(fast_cpu=False),
    "cpu_layers": Speed(cpu_layers=True),
    "compiled": Speed(fast_cpu=False, compile=True),
    "compiled_checkpoint": Speed(fast_cpu=False, compile=True, checkpoint=True, logit_bytes=4 * 512 * 24),
    "checkpoint": Speed(shared_prefix=False, frozen_trunk=False, fast_cpu=False, checkpoint=True),
    "no_cpu_checkpoint": Speed(fast_cpu=False, checkpoint=True),
    "all_checkpoint": Speed(checkpoint=True),
    "all": Speed(),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {arch: tiny_model(base / arch, arch, "gemma" if arch.startswith("gemma") else "chatml") for arch in ARCHS}


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> Callable[[str], Any]:
    """A model of an architecture with its examples, and their losses and gradients the plain way; made once each."""

    @cache
    def made(arch: str) -> Any:
        loaded = adapted(folders[arch])
        examples = examples_of(loaded)
        return loaded, examples, plain(loaded.model, examples)

    return made


# Every saving on one architecture, the usual ones on the others; the rest in `make test-all`.
CASES = [pytest.param(arch, switch, marks=() if arch == "llama" or switch in ("all", "no_cpu") else
                      pytest.mark.slow) for arch in ARCHS for switch in SWITCHES]  # fmt: skip


@pytest.mark.parametrize(("arch", "switch"), CASES)
def test_loss_and_gradients_equal_the_plain_way(reference, arch, switch, monkeypatch):
    monkeypatch.setattr(cpu_layers, "SMALLEST", 1)  # else only large arrays take the quick forms
    loaded, examples, (expected, gradients) = reference(arch)
    plan, losses, found = ours(loaded, examples, SWITCHES[switch], (1, 3))
    speed = SWITCHES[switch]
    assert plan.cut == (2 if speed.selecting_head and speed.frozen_trunk else 0)
    if speed.selecting_head and speed.shared_prefix and loaded.model.model_type != "gemma2":
        assert plan.prefix
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    close(found, gradients)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_saving_is_made_for_every_architecture(folders, arch):
    loaded = adapted(folders[arch])
    plan = plan_step(
        loaded.model, common_prefix(examples_of(loaded)), SWITCHES["no_cpu"], loaded.vocabulary, dropout=0.0
    )
    assert plan.parts and plan.prefix and plan.cut == 2 and not plan.notes


@pytest.mark.parametrize("arch", ARCHS)
def test_every_saving_is_made_on_a_fast_cpu(folders, arch):
    loaded = adapted(folders[arch])
    plan = plan_step(loaded.model, common_prefix(examples_of(loaded)), Speed(), loaded.vocabulary, dropout=0.0)
    assert plan.parts and plan.prefix and plan.cut == 2 and not plan.notes


def test_the_sliding_window_is_smaller_than_the_rows(folders):
    loaded = load(str(folders["gemma3_text"]))
    examples = examples_of(loaded, 2)
    assert common_prefix(examples) and len(examples[0]) > 2 * WINDOW


@pytest.mark.parametrize("speed", [OFF, Speed()], ids=["off", "all"])
def test_padding_changes_nothing(folders, speed):
    """A short row beside one twice as long has the loss that it has alone."""
    loaded = adapted(folders["gemma3_text"])
    template = choose_template(loaded.tokenizer)
    rows = render_all([*weather_rows(1), long_row()], template, loaded.tokenizer)
    assert len(rows) == 2 and len(rows[1]) > len(rows[0]) + 50
    _, together, grads = ours(loaded, rows, speed, (2,))
    _, alone, single = ours(loaded, rows, speed, (1, 1))
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    close(grads, single)


@pytest.mark.parametrize("speed", [OFF, Speed()], ids=["off", "all"])
def test_eight_batches_of_one_equal_one_batch_of_eight(folders, speed):
    loaded = adapted(folders["llama"])
    examples = examples_of(loaded, 8)
    _, losses, one = ours(loaded, examples, speed, (8,))
    _, split, eight = ours(loaded, examples, speed, (1,) * 8)
    np.testing.assert_allclose(losses, split, rtol=1e-4, atol=1e-5)
    close(one, eight)


def test_accumulated_updates_end_at_the_same_weights(folders):
    ends = []
    for sizes in ((8,), (1,) * 8):
        loaded = adapted(folders["llama"])
        examples = examples_of(loaded, 8)
        plan = plan_step(loaded.model, common_prefix(examples), Speed(), loaded.vocabulary, dropout=0.0)
        stepper = Stepper(plan, make("adamw", 0.0), clip=1.0)
        starts = np.cumsum([0, *sizes])
        batches = [make_batch(examples, range(a, b), len(plan.prefix)) for a, b in pairwise(starts)]
        with plan.context():
            for _ in range(2):
                result = stepper(batches, 1e-3)
        ends.append((result.loss, trained_arrays(loaded.model)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    for name, value in ends[0][1].items():
        assert float(mx.linalg.norm(ends[1][1][name] - value)) <= 1e-4 * float(mx.linalg.norm(value)), name


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("layers", [2, -1])
def test_every_kind_of_training_has_the_plain_gradients(folders, kind, layers):
    settings = AdapterSettings(kind=kind, num_layers=layers, rank=4, scale=4.0)
    loaded = adapted(folders["llama"], settings)
    examples = examples_of(loaded)
    expected, gradients = plain(loaded.model, examples)
    plan, losses, found = ours(loaded, examples, Speed(), (4,))
    assert (plan.cut > 0) == (layers == 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    close(found, gradients)


def test_an_untied_head_with_a_quarter_of_the_chunk(tmp_path, monkeypatch):
    """Several chunks of the head, the last one short."""
    from calltune.engine import losses as module

    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 512 * 10)
    loaded = adapted(tiny_model(tmp_path, "qwen3", tied=False))
    examples = examples_of(loaded)
    expected, gradients = plain(loaded.model, examples)
    _, losses, found = ours(loaded, examples, Speed(), (4,))
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    close(found, gradients)


def test_dropout_leaves_the_shared_prefix_out_and_says_so(folders):
    loaded = adapted(folders["llama"])
    plan = plan_step(loaded.model, common_prefix(examples_of(loaded)), Speed(), loaded.vocabulary, dropout=0.05)
    assert not plan.prefix
    assert any("dropout" in note for note in plan.notes)


def test_muon_moves_every_matrix_by_a_fifth_of_the_rate_and_leaves_vectors_to_adam():
    optimizer = make("muon", 0.0)
    optimizer.learning_rate = 1e-2
    wide, tall = mx.random.normal((8, 64), key=mx.random.key(0)), mx.random.normal((64, 8), key=mx.random.key(1))
    before = {"wide": mx.zeros((8, 64)), "tall": mx.zeros((64, 8)), "vector": mx.zeros((64,))}
    after = optimizer.apply_gradients({"wide": wide, "tall": tall * 1e3, "vector": mx.ones((64,))}, before)
    for name in ("wide", "tall"):
        # orthogonal: every direction moves alike, whatever the gradient's size was
        spread = np.linalg.svd(np.array(after[name]), compute_uv=False)
        assert spread.max() < 2.2 * spread.min()
        assert float(mx.sqrt(mx.mean(after[name] ** 2))) == pytest.approx(0.2e-2, rel=0.25)
    np.testing.assert_allclose(np.array(after["vector"]), -1e-2, rtol=1e-3)


@pytest.mark.parametrize(
    "speed",
    [Speed(), pytest.param(Speed(fast_cpu=False, compile=True), marks=pytest.mark.slow)],  # 30 s of a compiler
    ids=["cpu", "compiled"],
)
def test_half_precision_trains_too(folders, speed):
    """NumPy has no bfloat16, so the quick CPU forms are left out."""
    loaded = load(str(folders["gemma2"]), "bfloat16")
    add_adapter(loaded.model, ALL_KEYS, seed=1)
    examples = examples_of(loaded)
    plan = plan_step(loaded.model, common_prefix(examples), speed, loaded.vocabulary, dropout=0.0)
    stepper = Stepper(plan, make("adamw", 0.0), clip=1.0)
    batch = make_batch(examples, range(4), len(plan.prefix))
    with plan.context():
        losses = [stepper([batch], 1e-2).loss for _ in range(6)]
    assert losses[-1] < losses[0]


def test_checkpointing_needs_less_memory_and_leaves_the_class_alone(folders):
    """Trap T19: mlx-lm's own way changes the layers' class for good."""
    loaded = adapted(folders["qwen3"], AdapterSettings(num_layers=-1, rank=4))
    examples = examples_of(loaded, 8)
    before = type(loaded.model.layers[0]).__call__
    peaks = []
    for checkpoint in (False, True):
        speed = Speed(shared_prefix=False, fast_cpu=False, checkpoint=checkpoint)
        plan = plan_step(loaded.model, (), speed, loaded.vocabulary, dropout=0.0)
        loaded.model.train()
        batch = make_batch(examples, range(8))
        mx.clear_cache()
        mx.reset_peak_memory()
        start = mx.get_active_memory()
        (_, found), grads = loss_and_grad(plan)(batch, batch.trained)
        mx.eval(found, grads)
        peaks.append(mx.get_peak_memory() - start)
    assert peaks[1] < 0.6 * peaks[0]
    assert type(loaded.model.layers[0]).__call__ is before
