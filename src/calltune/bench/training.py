"""`calltune bench train`: the same rows and settings through calltune and its peers, in turn, each in a process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calltune.bench.work import DEFAULT_DATA, DEFAULT_MODEL, Work, facts, prepare_rows, write_rows
from calltune.errors import CannotFinish, InputError
from calltune.platform.allocator import VARIABLE as ALLOCATOR
from calltune.platform.allocator import user_environment
from calltune.platform.blas import VARIABLE
from calltune.platform.shapes import shape_config
from calltune.progress import Progress, Silent
from calltune.settings import TrainSettings, to_dict

OURS = "calltune"
PEERS = ("mlx-lm", "mlx-lm-sorted", "mlx-lm-stock-blas", "transformers")


MOST_VALID = 16  # validation rows, where their number is not given


@dataclass(frozen=True)
class BenchSettings:
    """What is compared. Counts of updates: 0 for as many as the epochs need."""

    against: tuple[str, ...] = ("mlx-lm",)
    shape: str | None = None
    tokenizer: str = DEFAULT_MODEL  # of a shape
    rows: int = 64
    valid_rows: int | None = None  # none: a quarter of the rows, at most MOST_VALID
    built_in_tools: int = 0
    updates: int = 0
    peer_updates: int = 0
    warm_up: int = 1
    eval_every: int = 0
    attention: tuple[str, ...] = ()  # of transformers; empty: the fastest
    timeout: float = 3600.0  # seconds for one side


def valid_count(bench: BenchSettings) -> int:
    """How many validation rows each side has; 0 for all."""
    if bench.valid_rows is not None:
        return bench.valid_rows
    return min(MOST_VALID, max(1, bench.rows // 4)) if bench.rows else MOST_VALID


def bench_train(settings: TrainSettings, bench: BenchSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Runs every side and compares. Raises InputError before anything runs, CannotFinish if our own side fails."""
    from calltune.engine.load import model_folder
    from calltune.tokenizer import load_tokenizer

    progress = progress or Silent()
    if wrong := [name for name in bench.against if name not in PEERS]:
        raise InputError(
            f"there is no side {', '.join(wrong)} to compare with", next_step=f"take: {', '.join(PEERS)}"
        )
    if bench.shape:
        shape_config(bench.shape)  # an unknown one is told now
    settings = replace(settings, model=settings.model or DEFAULT_MODEL)
    if not settings.data and not settings.tools:
        settings = replace(settings, data=DEFAULT_DATA)
    folder = model_folder(bench.tokenizer) if bench.shape and not _has_tokenizer(bench.tokenizer) else None
    folder = folder or (Path(bench.tokenizer) if bench.shape else model_folder(settings.model))
    tokenizer = load_tokenizer(folder)
    valid = valid_count(bench)
    prepared = prepare_rows(settings, tokenizer, rows=bench.rows, valid=valid, tools=bench.built_in_tools)
    for note in prepared.notes:
        progress.say(note)
    with tempfile.TemporaryDirectory(prefix="calltune-bench-") as place:
        write_rows(Path(place), prepared.train, prepared.valid)
        order = Work(
            OURS, place, replace(settings, model=settings.model if bench.shape else str(folder)), bench.shape,
            str(folder), len(tokenizer.inner), bench.updates, bench.warm_up, bench.eval_every, bench.attention,
        )  # fmt: skip
        sides = {}
        for name in (*bench.against, OURS):
            progress.say(f"{name}: running")
            work = replace(order, side=name, updates=bench.updates if name == OURS else bench.peer_updates)
            sides[name] = _in_process(work, Path(place), bench.timeout)
            progress.say(_line(name, sides[name]))
    if "error" in sides[OURS]:
        raise CannotFinish(f"calltune's own side failed: {sides[OURS]['error']}",
                           next_step="fewer or shorter rows, a smaller --batch-size")  # fmt: skip
    return _report(settings, bench, facts(prepared.train), sides)


def _has_tokenizer(name: str) -> bool:
    return (Path(name) / "tokenizer.json").is_file()


def _in_process(work: Work, place: Path, timeout: float) -> dict[str, Any]:
    """One side, alone in memory, with the BLAS and the allocator that are its own."""
    order, out = place / f"{work.side}.json", place / f"{work.side}.out.json"
    work.write(order)
    environment = user_environment()
    if work.side == "mlx-lm-stock-blas":
        environment[VARIABLE] = "none"
    if work.side != OURS:
        environment[ALLOCATOR] = "none"
    command = [sys.executable, "-m", "calltune.bench.side", str(order), str(out)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {timeout:.0f} s"}
    if done.returncode or not out.exists():
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": f"stopped with exit code {done.returncode}: {lines[-1][:300]}"}
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _report(
    settings: TrainSettings, bench: BenchSettings, rows: Mapping[str, Any], sides: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The document of `--json`: `peer` is the first that was asked for, `sides` and `ratios` hold all."""
    ours = sides[OURS]
    peers = [name for name in sides if name != OURS]
    ratios = {name: compare(ours, sides[name]) for name in peers if "error" not in sides[name]}
    keys = ("batch_size", "epochs", "fine_tune", "num_layers", "rank", "keys", "dropout", "optimizer",
            "learning_rate", "dtype", "grad_checkpoint", "max_tokens_per_batch")  # fmt: skip
    values = to_dict(settings)
    first = peers[0] if peers else None
    return {
        "model": bench.shape or settings.model, "random_weights": bool(bench.shape),
        "data": dict(rows) | {"source": settings.data or settings.tools},
        "settings": {key: values[key] for key in keys if key in values} | {"warm_up": bench.warm_up},
        "ours": ours, "peer": ({"name": first} | sides[first]) if first else None,
        "ratio": ratios.get(first) if first else None, "sides": dict(sides), "ratios": ratios,
        "later_epochs": later_epochs(ours),
    }  # fmt: skip


def compare(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, Any]:
    """Ours over the peer's. `time_to_loss`: seconds until the higher of the two last validation losses was first
    reached, at one of the validations."""

    def ratio(key: str, digits: int = 3) -> float | None:
        return round(ours[key] / peer[key], digits) if peer.get(key) else None

    found: dict[str, Any] = {
        "tokens_per_second": ratio("tokens_per_second"), "rows_per_second": ratio("rows_per_second"),
        "updates_per_second": ratio("updates_per_second"), "peak_memory": ratio("peak_memory_gb"),
        "first_epoch": None, "time_to_loss": None,
    }  # fmt: skip
    if ours["epochs"] and peer["epochs"]:
        first = ours["epochs"][0]["tokens_per_second"] / max(peer["epochs"][0]["tokens_per_second"], 1e-9)
        found["first_epoch"] = round(first, 3)
    if len(ours["curve"]) > 1 and len(peer["curve"]) > 1:
        target = max(ours["curve"][-1][2], peer["curve"][-1][2])
        reached = [next(seconds for _, seconds, loss in side["curve"] if loss <= target) for side in (ours, peer)]
        found["time_to_loss"] = {
            "loss": round(target, 4), "ours_seconds": round(reached[0], 2), "peer_seconds": round(reached[1], 2),
        }  # fmt: skip
    return found


def later_epochs(side: Mapping[str, Any]) -> float | None:
    """Tokens/s of epochs 2 and later over the first one's."""
    first, *rest = side["epochs"] or [None]
    if not first or not rest:
        return None
    tokens, seconds = sum(e["tokens"] for e in rest), sum(e["seconds"] for e in rest)
    rate = tokens / max(seconds, 1e-9) / max(first["tokens_per_second"], 1e-9)
    return round(rate, 3)


def _line(name: str, side: Mapping[str, Any]) -> str:
    if "error" in side:
        return f"{name}: {side['error']}"
    return f"{name}: {side['tokens_per_second']:.0f} tokens/s over {side['updates']} updates"


def table(report: Mapping[str, Any]) -> list[str]:
    """The figures as lines of text."""
    columns = ("tokens/s", "rows/s", "updates/s", "padding", "peak GB", "updates", "seconds")
    lines = [f"{'':18}" + "".join(f"{name:>11}" for name in columns)]
    for name, side in report["sides"].items():
        if "error" in side:
            lines.append(f"{name:18}  {side['error']}")
            continue
        lines.append(
            f"{name:18}{side['tokens_per_second']:>11.1f}{side['rows_per_second']:>11.3f}"
            f"{side['updates_per_second']:>11.3f}{side['padding']:>11.1%}{side['peak_memory_gb']:>11.2f}"
            f"{side['updates']:>11}{side['seconds']:>11.1f}"
        )
    lines.append("")
    for name, ratio in report["ratios"].items():
        memory = f", {ratio['peak_memory']:.2f} of its peak memory" if ratio["peak_memory"] else ""
        lines.append(f"against {name}: {ratio['tokens_per_second']:.2f}x tokens/s "
                     f"({ratio['first_epoch']:.2f}x in the first epoch){memory}")  # fmt: skip
        if found := ratio["time_to_loss"]:
            lines.append(f"  validation loss {found['loss']:.3f} after {found['ours_seconds']:.1f} s, "
                         f"{name} after {found['peer_seconds']:.1f} s")  # fmt: skip
    if report["later_epochs"]:
        lines.append(f"epochs 2 and later: {report['later_epochs']:.2f}x our own first epoch")
    return [*lines, *_facts(report)]


def _facts(report: Mapping[str, Any]) -> Sequence[str]:
    data, settings = report["data"], report["settings"]
    weights = " with random weights" if report["random_weights"] else ""
    lines = [
        f"{report['model']}{weights}; {data['rows']} rows of {data['mean_length']:.0f} tokens (longest "
        f"{data['longest']}, {data['loss_share']:.1%} with loss); batches of {settings['batch_size']}, "
        f"{settings['epochs']:g} epochs, LoRA rank {settings['rank']} on {settings['num_layers']} layers"
    ]
    for name, side in report["sides"].items():
        lines += [f"  {name}: {note}" for note in side.get("notes", ())]
    return lines
