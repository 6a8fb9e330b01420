"""The gradient of a batch as one compiled function, for GPUs: element-wise work is fused, and keeps less.

`mx.compile` traces anew for every new shape, so widths and the number of targets are rounded up here; targets that
only fill up weigh nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calltune.batching import Batch

WIDTH_STEP = 64  # widths of compiled slices are multiples of this
TARGET_STEP = 128  # and their numbers of targets of this

Pieces = list[dict[str, mx.array]]
Losses = Callable[[dict[str, mx.array], Any], mx.array]


def piece_arrays(batch: Batch, entering: mx.array) -> dict[str, mx.array]:
    """One slice as arrays; `entering` is what its layers start from: ids (B, T) or hidden states (B, T, D)."""
    count = -(-batch.trained // TARGET_STEP) * TARGET_STEP

    def filled(values: Any, kind: Any) -> mx.array:
        whole = np.zeros(count, kind)
        whole[: batch.trained] = values
        return mx.array(whole)

    return {
        "entering": entering, "rows": filled(batch.rows, np.int32), "columns": filled(batch.columns, np.int32),
        "targets": filled(batch.targets, np.int32), "weights": filled(np.ones(batch.trained), np.float32),
    }  # fmt: skip


def compiled_gradient(model: nn.Module, prefix_cache: Callable[[], Any], losses_of: Losses) -> Callable[..., Any]:
    """A function of (slices, total) that gives ((loss, losses of each slice), gradients), compiled once a shape.

    `losses_of(slice, cache)` gives the losses of a slice's targets; `prefix_cache()` runs the shared prefix.
    """
    state = [model.state, mx.random.state]

    def loss(_: nn.Module, pieces: Pieces, total: mx.array) -> tuple[mx.array, list[mx.array]]:
        cache = prefix_cache()
        found = [losses_of(piece, cache) for piece in pieces]
        weighed = [(part * piece["weights"]).sum() for part, piece in zip(found, pieces, strict=True)]
        return sum(weighed[1:], weighed[0]) / total, found

    function = nn.value_and_grad(model, loss)

    def gradient(pieces: Pieces, total: mx.array) -> Any:
        trained = model.trainable_parameters()
        found = function(model, pieces, total)
        model.update(trained)  # `value_and_grad` left arrays of its own in the model
        return found

    run: Callable[..., Any] = mx.compile(gradient, inputs=state, outputs=[mx.random.state])
    return run
