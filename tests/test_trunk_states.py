"""The states above the frozen trunk: kept in memory, on disk and on the device, and used again in other company."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_step import adapted, examples_of, ours, plain
from tiny import ARCHS, long_row, tiny_model

from calltune.batching import common_prefix, make_batch
from calltune.engine.adapter import AdapterSettings, add_adapter
from calltune.engine.load import load
from calltune.engine.plan import Speed, plan_step
from calltune.engine.step import batch_losses
from calltune.engine.trunk import TrunkStore
from calltune.engine.trunk_states import forget_trunk, store_trunk
from calltune.render import render_all
from calltune.template import choose_template

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import numpy as np  # isort: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {arch: tiny_model(base / arch, arch, "gemma" if arch.startswith("gemma") else "chatml") for arch in ARCHS}


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


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=() if arch == "llama" else pytest.mark.slow) for arch in ARCHS]
)
def test_the_compiled_trunk_gives_the_plain_losses(folders, arch):
    loaded = adapted(folders[arch])
    examples = examples_of(loaded)
    plan, losses, _ = ours(loaded, examples, Speed(shared_prefix=False, fast_cpu=False, compile=True), (2, 2))
    assert plan.compiled_trunk is not None and len(plan.store.rows) == len(examples)
    np.testing.assert_allclose(losses, plain(loaded.model, examples)[0], rtol=1e-4, atol=1e-5)


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
