"""The loss and its gradients the plain way, as mlx-lm computes them, and ours by a plan, for comparing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import WEATHER, weather_rows

from calltune.batching import common_prefix, make_batch
from calltune.engine.adapter import AdapterSettings, add_adapter, trained_arrays
from calltune.engine.load import LoadedModel, load
from calltune.engine.plan import Plan, Speed, plan_step
from calltune.engine.step import loss_and_grad
from calltune.render import Example, render_all
from calltune.template import choose_template

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx.nn as nn  # isort: skip
import numpy as np  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

ALL_KEYS = AdapterSettings(num_layers=2, rank=4, scale=4.0, keys=("all",))


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
