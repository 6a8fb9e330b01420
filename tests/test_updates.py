"""The optimizer's update compiled into one function gives what it gives plainly, and is left out where it breaks."""

from __future__ import annotations

import numpy as np
import pytest
from plain_step import adapted, examples_of
from tiny import tiny_model

from calltune.batching import make_batch
from calltune.engine.adapter import trained_arrays
from calltune.engine.optim import Stepper, make, optimizer_arrays
from calltune.engine.plan import Speed, plan_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def trained(folder, name, speed, rates):
    """The weights, the optimizer's state and the results after an update at each rate."""
    loaded = adapted(folder)
    examples = examples_of(loaded, 6)
    plan = plan_step(loaded.model, (), speed, loaded.vocabulary, dropout=0.0)
    optimizer = make(name, 0.01)
    stepper = Stepper(plan, optimizer, clip=0.5)
    with plan.context():
        results = [
            stepper([make_batch(examples, rows)], rate)
            for rate, rows in zip(rates, ([0, 1], [2, 3], [4, 5]), strict=False)
        ]
    arrays = trained_arrays(loaded.model) | optimizer_arrays(optimizer)
    return {key: np.array(array) for key, array in arrays.items()}, results


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_a_compiled_update_is_the_plain_one(folder, name):
    rates = [1e-2, 3e-3, 2e-2]
    plain, first = trained(folder, name, Speed(fast_cpu=False), rates)
    compiled, second = trained(folder, name, Speed(fast_cpu=False, compile=True), rates)
    assert plain.keys() == compiled.keys() and any("step" in key for key in plain)
    for key, value in plain.items():
        np.testing.assert_allclose(compiled[key], value, rtol=2e-3, atol=2e-5, err_msg=key)
    for one, two in zip(first, second, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-4) and one.norm == pytest.approx(two.norm, rel=1e-3)
    assert first[0].norm > 0.5  # so that it was clipped


@pytest.mark.parametrize(
    "speed", [Speed(fast_cpu=False), Speed(fast_cpu=False, compile=True)], ids=["plain", "compiled"]
)
def test_an_update_that_breaks_leaves_weights_and_state_as_they_were(folder, speed):
    whole, _ = trained(folder, "adam", speed, [1e-2, 3e-3])
    broken, results = trained(folder, "adam", speed, [1e-2, 3e-3, float("inf")])
    assert results[-1].touched and not results[-1].finite and all(r.finite for r in results[:2])
    for key, value in whole.items():
        np.testing.assert_array_equal(broken[key], value, err_msg=key)
