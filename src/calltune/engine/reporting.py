"""Reports to trackers of experiments: wandb and swanlab by mlx-lm's callbacks, TensorBoard by one of their form."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_lm.tuner.callbacks import SUPPORT_CALLBACK, TrainingCallback

from calltune.errors import InputError, Problem

# The package that each needs, and for TensorBoard the modules that have its SummaryWriter.
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "swanlab": "swanlab"}
WRITERS = ("tensorboardX", "torch.utils.tensorboard")


class TensorBoard(TrainingCallback):  # type: ignore[misc]
    """Every number of a report as a scalar, in `tensorboard/` of the run's folder."""

    def __init__(self, folder: str, wrapped: Any) -> None:
        module = next(name for name in WRITERS if _there(name))
        self.writer = importlib.import_module(module).SummaryWriter(str(Path(folder) / "tensorboard"))
        self.wrapped = wrapped

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._add("train", train_info)
        if self.wrapped:
            self.wrapped.on_train_loss_report(train_info)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        self._add("valid", val_info)
        if self.wrapped:
            self.wrapped.on_val_loss_report(val_info)

    def _add(self, part: str, info: dict[str, Any]) -> None:
        for name, value in info.items():
            if name != "iteration" and isinstance(value, (int, float)):
                self.writer.add_scalar(f"{part}/{name}", value, info["iteration"])
        self.writer.flush()


def check_reporters(names: Sequence[str]) -> None:
    """Raises InputError for a tracker that is not known or whose package is missing."""
    problems = []
    for name in names:
        if name not in PACKAGES:
            problems.append(Problem("unknown_tracker", name, ", ".join(PACKAGES)))
        elif not any(map(_there, WRITERS if name == "tensorboard" else (PACKAGES[name],))):
            problems.append(Problem("missing_package", name, f"`pip install {PACKAGES[name]}`"))
    if problems:
        raise InputError("--report-to cannot be followed", problems=problems,
                         next_step="install what is missing, or leave it out: metrics.jsonl has it all")  # fmt: skip


def reporters(names: Sequence[str], folder: str, config: dict[str, Any], callback: Any) -> Any:
    """A callback that tells each of them, and then `callback`."""
    for name in names:
        if name == "tensorboard":
            callback = TensorBoard(folder, callback)
        else:
            callback = SUPPORT_CALLBACK[name](project_name="calltune", log_dir=folder, config=config,
                                              wrapped_callback=callback)  # fmt: skip
    return callback


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
