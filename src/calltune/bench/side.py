"""One side of a training bench, in a process of its own: `python -m calltune.bench.side WORK.json OUT.json`."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calltune.batching import common_prefix
from calltune.bench.work import Work, read_work
from calltune.conversations import conversation_groups
from calltune.errors import CalltuneError
from calltune.platform.allocator import expect_training
from calltune.platform.process_memory import process_bytes, process_peak_bytes, reset_process_peak
from calltune.render import Example


def main(arguments: list[str]) -> int:
    """Runs the side and writes what it measured, or the reason why it could not."""
    expect_training()
    work = read_work(Path(arguments[0]))
    out = Path(arguments[1])
    try:
        found = run_side(work)
    except CalltuneError as error:
        found = {"error": str(error)}
    except Exception as error:  # memory, a foreign library: the other sides go on
        if "memory" not in str(error).lower() and work.side == "calltune":
            raise
        found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    out.write_text(json.dumps(found))
    return 0


def run_side(work: Work) -> dict[str, Any]:
    train, valid = work.examples("train"), work.examples("valid")
    per_epoch = math.ceil(len(train) / work.settings.batch_size)
    total = work.updates or math.ceil(per_epoch * work.settings.epochs)
    if work.side == "transformers":
        measured = _transformers(work, train, valid, total)
        reported = measured.peak_memory_gb
    else:
        measured, reported = _mlx(work, train, valid, total)
    measured.host_memory_gb = process_peak_bytes() / 1e9
    # On a CPU only the system sees all memory: NumPy's and PyTorch's is not in MLX's count.
    measured.peak_memory_gb = reported if measured.device == "gpu" else measured.host_memory_gb
    return measured.summary(per_epoch)


def _transformers(work: Work, train: list[Example], valid: list[Example], total: int) -> Any:
    from calltune.engine.peer_transformers import run_transformers

    reset_process_peak()
    dtype = work.settings.dtype
    measured = run_transformers(
        work.settings.model, work.shape, work.vocabulary, dtype if dtype != "auto" else _torch_dtype(), train, valid,
        work.settings, updates=total, warm_up=work.warm_up, every=work.every, attention=work.attention,
    )  # fmt: skip
    measured.device = "gpu" if measured.device == "cuda" else measured.device
    return measured


def _torch_dtype() -> str:
    from calltune.platform.gpu import nvidia_gpu

    return "bfloat16" if nvidia_gpu() else "float32"


def _mlx(work: Work, train: list[Example], valid: list[Example], total: int) -> tuple[Any, float]:
    from calltune.engine import optim
    from calltune.engine.adapter import add_adapter, trainable_count
    from calltune.engine.load import load
    from calltune.engine.peer_mlx_lm import run_mlx_lm
    from calltune.engine.probe import mlx_device
    from calltune.engine.shapes import random_model
    from calltune.tokenizer import load_tokenizer
    from calltune.train import adapter_settings

    settings = work.settings
    if work.shape:
        tokenizer = load_tokenizer(Path(work.tokenizer))
        loaded = random_model(work.shape, settings.dtype, tokenizer, work.vocabulary, settings.seed)
    else:
        loaded = load(settings.model, settings.dtype)
    predicted = _predicted(loaded, train, valid, settings) if work.side == "calltune" else 0.0
    add_adapter(loaded.model, adapter_settings(settings), settings.seed)
    start = optim.snapshot(loaded.model)

    def once(updates: int, every: int, valid: list[Example], rows: list[Example]) -> Any:
        if work.side == "calltune":
            return _run_ours(loaded, rows, valid, replace(settings, iters=updates, steps_per_eval=every))
        return run_mlx_lm(loaded, rows, valid, settings, updates=updates, every=every,
                          sort=work.side == "mlx-lm-sorted")  # fmt: skip

    if work.warm_up:
        once(work.warm_up, 0, [], train[: max(settings.batch_size * work.warm_up, settings.batch_size)])
        loaded.model.load_weights(list(start.items()), strict=False)
    optim.reset_peak_memory()
    reset_process_peak()
    measured = once(total, work.every, valid, train)
    measured.predicted_memory_gb = predicted
    measured.device, measured.trainable = mlx_device()[0], trainable_count(loaded.model)
    measured.notes.append(f"{loaded.dtype}, BLAS {_blas()}")
    return measured, optim.peak_memory_gb()


def _predicted(loaded: Any, train: list[Example], valid: list[Example], settings: Any) -> float:
    """What the planner says of our own side's peak, in GB; 0 where it cannot tell."""
    from calltune.engine.footprint import shape_of
    from calltune.fit import predict_run

    try:
        shape = shape_of(loaded.model, loaded.dtype)
    except CalltuneError:
        return 0.0
    base = max(process_bytes() - shape.weight_bytes, 0)
    return predict_run(shape, settings, train, valid, base).total / 1e9


def _blas() -> str:
    from calltune.engine import BLAS

    return str(BLAS.library)


@dataclass
class _Kept:
    """The reports of calltune's own loop, instead of a run's folder; and its rows."""

    train: list[Example]
    valid: list[Example]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def metrics(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def save(self, update: int, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Nothing is kept of a bench."""

    def drop_from(self, update: int) -> None:
        """So there is nothing to drop."""


def _run_ours(loaded: Any, train: list[Example], valid: list[Example], settings: Any) -> Any:
    from calltune.engine.measured import Measured, Update
    from calltune.engine.plan import plan_step
    from calltune.loop import Loop
    from calltune.progress import Silent
    from calltune.train import speed_of

    settings = replace(settings, steps_per_report=1)
    kept = _Kept(train, valid)
    started = time.perf_counter()
    prefix = common_prefix([*train, *valid])
    trees = conversation_groups(train, len(prefix)) is not None
    speed = speed_of(settings)
    plan = plan_step(loaded.model, prefix, speed, loaded.vocabulary, dropout=settings.dropout, trees=trees)
    measured = Measured(setup_seconds=time.perf_counter() - started, notes=list(plan.notes))
    Loop(plan, kept, settings, kept, None, Silent()).run()
    seconds = measured.setup_seconds
    for row in kept.rows:
        if "valid_loss" in row:
            measured.curve.append((row["step"], seconds, row["valid_loss"]))
            continue
        seconds += row["seconds"]
        real = row["cells"] - round(row["padding"] * row["cells"])
        measured.updates.append(Update(row["seconds"], row["rows"], row["tokens"], real, row["cells"]))
    measured.notes.append(f"prefix {len(plan.prefix)} tokens, frozen layers {plan.cut}, "
                          f"trunk states: {plan.store.device_peak / 1e9:.2f} GB on the device, "
                          f"{plan.store.memory_peak / 1e9:.2f} in memory, "
                          f"{plan.store.disk_used / 1e9:.2f} on disk")  # fmt: skip
    return measured


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
