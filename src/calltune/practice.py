"""What a model practises before it learns functions of the user's own: the built-in ones, once, kept in the cache.

A small model that only ever saw the user's handful of functions learns their requests by heart; one that has learnt
other functions before reads the new ones' names and descriptions, too (docs/log.md has the figures).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from calltune._version import __version__
from calltune.builtin import builtin_data
from calltune.checkpoints import FOLDER as CHECKPOINTS
from calltune.data.synthesise import Splits
from calltune.platform.paths import cache_dir
from calltune.records import RUN_FILE, read_record
from calltune.runs import weights_hash
from calltune.settings import TrainSettings, to_dict

Train = Callable[[TrainSettings, Splits], Any]
# Of the user's settings these say what the practice is; the others stay as they are by default.
TAKEN = (
    "model", "fine_tune", "num_layers", "rank", "scale", "alpha", "dropout", "keys", "optimizer", "learning_rate",
    "schedule", "warmup", "weight_decay", "clip", "batch_size", "epochs", "iters", "dtype", "template", "roles",
    "think", "merge_system", "think_instruction", "trunk_memory_gb", "trunk_disk_gb", "grad_checkpoint", "logits_mb",
)  # fmt: skip


def practice_settings(settings: TrainSettings, model_folder: Path, dtype: str) -> TrainSettings:
    """The run of the practice; its folder in the cache is named by all that decides what comes of it."""
    taken: dict[str, Any] = {name: getattr(settings, name) for name in TAKEN}
    longest = max(settings.max_seq_length, TrainSettings.max_seq_length)
    chosen = TrainSettings(**taken, max_seq_length=longest, steps_per_eval=0, val_batches=1, keep_checkpoints=1)
    text = settings.template and Path(settings.template).expanduser().read_text(encoding="utf-8")
    decides = [to_dict(replace(chosen, model="")), weights_hash(model_folder), dtype, text, __version__]
    key = hashlib.sha256(json.dumps(decides, default=str).encode()).hexdigest()[:16]
    return replace(chosen, out=str(cache_dir() / "practice" / key))


def is_practised(chosen: TrainSettings) -> bool:
    """Whether this practice was done before, to its end."""
    folder = Path(chosen.out)
    return (folder / RUN_FILE).is_file() and read_record(folder)["state"] == "finished"


def practise(chosen: TrainSettings, train: Train, say: Callable[[str], None]) -> None:
    """Train on the built-in functions. Interrupted, the same command goes on with it."""
    say("first it practises on the built-in functions, once for all such trainings (--no-practice leaves it out)")
    train(chosen, builtin_data(seed=chosen.seed, think=chosen.think))
    shutil.rmtree(Path(chosen.out) / CHECKPOINTS, ignore_errors=True)  # nobody goes on with it
    say("the practice is done; now your own functions")
