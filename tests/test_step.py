"""The loss and its gradients: every saving alone and all together equal mlx-lm's plain way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny import ARCHS, WEATHER, WINDOW, long_row, tiny_model, weather_rows

from calltune.batching import common_prefix, make_batch
from calltune.engine import cpu_layers
from calltune.engine.adapter import AdapterSettings, add_adapter, trained_arrays
from calltune.engine.load import LoadedModel, load
from calltune.engine.optim import Stepper, make
from calltune.engine.plan import Plan, Speed, plan_step
from calltune.engine.step import batch_losses, loss_and_grad
from calltune.engine.trunk import TrunkStore
from calltune.engine.trunk_states import forget_trunk, store_trunk
from calltune.render import Example, render_all
from calltune.template import choose_template

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx.nn as nn  # isort: skip
import numpy as np  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

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
ALL_KEYS = AdapterSettings(num_layers=2, rank=4, scale=4.0, keys=("all",))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {arch: tiny_model(base / arch, arch, "gemma" if arch.startswith("gemma") else "chatml") for arch in ARCHS}


def adapted(folder: Path, settings: AdapterSettings = ALL_KEYS) -> LoadedModel:
    """A model with an adapter whose both halves are random: with B at zero, A would have no gradient."""
    loaded = load(str(folder))
    add_adapter(loaded.model, settings, seed=1)
    shaken = {
        name: mx.random.normal(a.shape, key=mx.random.key(i)) * 0.1 + a
        for i, (name, a) in enumerate(sorted(trained_arrays(loaded.model).items()))
    }
    loaded.model.load_weights(list(shaken.items()), strict=False)
    return loaded


def examples_of(loaded: LoadedModel, n: int = 4) -> list[Example]:
    return render_all(weather_rows(n, tools=[WEATHER]), choose_template(loaded.tokenizer), loaded.tokenizer)


def plain(model: nn.Module, examples: Sequence[Example]) -> tuple[np.ndarray, dict[str, mx.array]]:
    """Losses of all trained tokens and the gradient of their mean, as in mlx-lm's `default_loss`
    (mlx_lm/tuner/trainer.py): full logits of unpadded single rows."""
    total = sum(e.trained for e in examples)

    def loss(model: nn.Module, example: Example) -> tuple[mx.array, mx.array]:
        logits = model(mx.array([example.ids[:-1]]))
        losses = nn.losses.cross_entropy(logits, mx.array([example.ids[1:]]))[0].astype(mx.float32)
        places = [p - 1 for s in example.spans for p in range(s.start, s.end)]
        chosen = losses[mx.array(places)]
        return chosen.sum() / total, chosen

    grads: dict[str, mx.array] = {}
    found = []
    for example in examples:
        (_, losses), grad = nn.value_and_grad(model, loss)(model, example)
        found.append(np.array(losses))
        for name, value in tree_flatten(grad):
            grads[name] = grads.get(name, 0) + value
    mx.eval(grads)
    return np.concatenate(found), grads


def ours(
    loaded: LoadedModel, examples: list[Example], speed: Speed, sizes: Sequence[int]
) -> tuple[Plan, np.ndarray, Any]:
    """Plan, losses and summed gradients over batches of the given sizes, in the examples' order."""
    plan = plan_step(loaded.model, common_prefix(examples), speed, loaded.vocabulary, dropout=0.0)
    gradient = loss_and_grad(plan)
    loaded.model.train()  # as the trainer does; activations are only checkpointed then
    total, start, losses, grads = sum(e.trained for e in examples), 0, [], {}
    with plan.context():
        for size in sizes:
            batch = make_batch(examples, range(start, start + size), len(plan.prefix))
            start += size
            (_, found), grad = gradient(batch, total)
            losses.append(np.array(found))
            for name, value in tree_flatten(grad):
                grads[name] = grads.get(name, 0) + value
            mx.eval(grads)
    return plan, np.concatenate(losses), grads


def close(found: dict[str, mx.array], expected: dict[str, mx.array], tolerance: float = 1e-4) -> None:
    """Every gradient within `tolerance` of the expected one, relative to its norm; none may be zero."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = float(mx.linalg.norm(value))
        assert size > 0, name
        assert float(mx.linalg.norm(found[name] - value)) <= tolerance * size, name


@pytest.fixture(scope="module", params=ARCHS)
def reference(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    """A model with its examples, and their losses and gradients the plain way."""
    loaded = adapted(folders[request.param])
    examples = examples_of(loaded)
    return loaded, examples, plain(loaded.model, examples)


@pytest.mark.parametrize("switch", SWITCHES)
def test_loss_and_gradients_equal_the_plain_way(reference, switch, monkeypatch):
    monkeypatch.setattr(cpu_layers, "SMALLEST", 1)  # else only large arrays take the quick forms
    loaded, examples, (expected, gradients) = reference
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


@pytest.mark.parametrize("arch", ["llama", "gemma3_text"])
def test_the_stored_trunk_serves_the_next_epoch(folders, arch):
    loaded = adapted(folders[arch])
    examples = examples_of(loaded)
    plan, first, _ = ours(loaded, examples, Speed(), (2, 2))
    assert len(plan.store.rows) == len(examples)
    with plan.context():  # other company, other widths, other order
        batch = make_batch(examples, (3, 0, 2), len(plan.prefix))
        again = np.array(batch_losses(plan, batch))
    bounds = np.cumsum([0, *(e.trained for e in examples)])
    expected = np.concatenate([first[bounds[i] : bounds[i + 1]] for i in (3, 0, 2)])
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_a_trunk_that_does_not_fit_is_computed_anew(folders):
    loaded = adapted(folders["llama"])
    examples = examples_of(loaded)
    plan, losses, _ = ours(loaded, examples, Speed(trunk_bytes=0), (2, 2))
    assert plan.cut == 2 and not plan.store.rows
    np.testing.assert_allclose(losses, plain(loaded.model, examples)[0], rtol=1e-4, atol=1e-5)


def test_training_and_validation_rows_do_not_share_trunk_states(folders):
    loaded = adapted(folders["llama"])
    examples = examples_of(loaded)
    plan, _, _ = ours(loaded, examples, Speed(), (4,))
    other = render_all([long_row()], choose_template(loaded.tokenizer), loaded.tokenizer)
    if other[0].ids[: len(plan.prefix)] != plan.prefix:
        other = list(reversed(examples))
    with plan.context():
        losses = np.array(batch_losses(plan, make_batch(other, (0,), len(plan.prefix)), part="valid"))
    np.testing.assert_allclose(losses, plain(loaded.model, other[:1])[0], rtol=1e-4, atol=1e-5)


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


def test_rows_run_through_the_trunk_together_give_the_losses_of_rows_alone(folders):
    loaded = adapted(folders[ARCHS[0]], AdapterSettings(num_layers=1, rank=4, keys=("all",)))
    examples = examples_of(loaded, 6)
    prefix = common_prefix(examples)
    alone, together = (plan_step(loaded.model, prefix, Speed(), loaded.vocabulary, dropout=0.0) for _ in range(2))
    batch = make_batch(examples, range(6), len(prefix))
    with together.context():
        store_trunk(together, examples, range(6))
        assert sorted(together.store.rows) == [("train", i) for i in range(6)]
        kept = dict(together.store.rows)
        store_trunk(together, examples, range(6))  # nothing is missing, so nothing runs again
        assert all(together.store.rows[key] is kept[key] for key in kept)
        found = batch_losses(together, batch)
        forget_trunk(together, range(6))
        assert not together.store.rows and together.store.memory_used == 0
    with alone.context():
        expected = batch_losses(alone, batch)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4, atol=1e-5)


def with_trunk(folders, dtype):
    """A Llama whose last layer alone is trained, and 8 examples."""
    loaded = load(str(folders["llama"]), dtype)
    add_adapter(loaded.model, AdapterSettings(num_layers=1, rank=4, keys=("all",)), seed=1)
    examples = examples_of(loaded, 8)
    return loaded, examples


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trunk_store_goes_on_to_disk_and_keeps_to_both_limits(folders, dtype):
    loaded, examples = with_trunk(folders, dtype)
    whole = plan_step(loaded.model, (), Speed(), loaded.vocabulary, dropout=0.0)
    store_trunk(whole, examples, range(8))
    assert whole.store.memory_used > 0 and whole.store.disk_used == 0
    size = whole.store.memory_used // 4
    parted = Speed(trunk_bytes=size, trunk_disk_bytes=2 * size)
    plan = plan_step(loaded.model, (), parted, loaded.vocabulary, dropout=0.0)
    store_trunk(plan, examples, range(8))
    assert 0 < plan.store.memory_used <= size and 0 < plan.store.disk_used <= 2 * size
    assert len(plan.store.rows) < 8
    width = 16 * max(len(e) for e in examples)
    for key in plan.store.rows:
        found, expected = (p.store.get([key], width) for p in (plan, whole))
        assert found.dtype == expected.dtype and mx.array_equal(found, expected)
    used = plan.store.disk_used
    forget_trunk(plan, range(8))
    store_trunk(plan, examples, range(8))  # the room of forgotten rows serves again
    assert plan.store.disk_used <= max(used, 2 * size) and plan.store.rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trunk_store_keeps_what_fits_on_the_device(folders, dtype):
    loaded, examples = with_trunk(folders, dtype)
    on_host = plan_step(loaded.model, (), Speed(), loaded.vocabulary, dropout=0.0)
    on_host.store = TrunkStore(1 << 30)
    store_trunk(on_host, examples, range(8))
    mixed = plan_step(loaded.model, (), Speed(), loaded.vocabulary, dropout=0.0)
    mixed.store = TrunkStore(1 << 30, device=on_host.store.memory_used // 2)
    for i in range(8):  # one by one, so that some find room there and some do not
        store_trunk(mixed, examples, [i])
    kinds = {isinstance(row, mx.array) for row in mixed.store.rows.values()}
    assert kinds == {True, False} and 0 < mixed.store.device_used <= mixed.store.device
    keys, width = [("train", i) for i in range(8)], 16 + max(len(e) for e in examples)
    found, expected = (plan.store.get(keys, width) for plan in (mixed, on_host))
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert mx.allclose(found.astype(mx.float32), expected.astype(mx.float32), rtol=1e-2, atol=1e-5)
    forget_trunk(mixed, range(8))
    assert not mixed.store.rows and mixed.store.device_used == mixed.store.memory_used == 0


def test_the_trunk_store_keeps_to_its_limit(folders):
    loaded = adapted(folders[ARCHS[0]], AdapterSettings(num_layers=1, rank=4, keys=("all",)))
    examples = examples_of(loaded)
    plan = plan_step(loaded.model, (), Speed(trunk_bytes=0), loaded.vocabulary, dropout=0.0)
    store_trunk(plan, examples, range(len(examples)))
    assert not plan.store.rows and plan.store.memory_used == 0


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


@pytest.mark.parametrize("speed", [Speed(), Speed(fast_cpu=False, compile=True)], ids=["cpu", "compiled"])
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
