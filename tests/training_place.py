"""Small trainings and what the tests look at in them: reports, the order of rows, weights."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import WEATHER, weather_rows

from calltune.engine import optim
from calltune.runs import Run
from calltune.schema import Conversation

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import numpy as np  # isort: skip
from mlx_lm.tuner.callbacks import TrainingCallback  # isort: skip

SMALL: dict[str, Any] = {"num_layers": 2, "rank": 4, "test": 0.0, "valid": 0.0, "batch_size": 2, "epochs": 1.0}


def rows(n: int = 8) -> list[Conversation]:
    return weather_rows(n, think=False, tools=[WEATHER])


class Recorder(TrainingCallback):
    """A subclass of mlx-lm's own class, as the walk-through writes it."""

    def __init__(self) -> None:
        self.train: list[dict[str, Any]] = []
        self.valid: list[dict[str, Any]] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.train.append(train_info)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        self.valid.append(val_info)


def weights(run: Run) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in mx.load(str(run.folder / "adapters.safetensors")).items()}


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows of every update, as they are trained."""
    seen: list[tuple[int, ...]] = []
    plain = optim.Stepper.__call__

    def told(self: optim.Stepper, batches: Any, rate: float, **more: Any) -> optim.Result:
        result = plain(self, batches, rate, **more)
        seen.append(result.indices)
        return result

    monkeypatch.setattr(optim.Stepper, "__call__", told)
    return seen
