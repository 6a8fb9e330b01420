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
from calltune.errors import InputError
from calltune.platform.paths import cache_dir
from calltune.runs import ADAPTER_FILES, recorded, tokenizer_hashes, weights_hash
from calltune.settings import TrainSettings, to_dict

Train = Callable[[TrainSettings, Splits], Any]
# Of the user's settings these say what the practice is; the others stay as they are by default.
TAKEN = (
    "model", "fine_tune", "num_layers", "rank", "scale", "alpha", "dropout", "keys", "optimizer", "learning_rate",
    "schedule", "warmup", "weight_decay", "clip", "batch_size", "epochs", "iters", "dtype", "template", "roles",
    "think", "merge_system", "think_instruction", "grad_accumulation", "batches", "max_tokens_per_batch",
)  # fmt: skip
# These change how it is computed, not what comes of it.
SWITCHES = (
    "trunk_memory_gb", "trunk_disk_gb", "grad_checkpoint", "logits_mb", "compile", "fast_cpu", "cpu_layers",
    "selecting_head", "shared_prefix", "frozen_trunk",
)  # fmt: skip
VERSION = 1  # of the practice: to be raised where what is practised changes


def practice_settings(settings: TrainSettings, model_folder: Path, dtype: str) -> TrainSettings:
    """The run of the practice; its folder in the cache is named by all that decides what comes of it."""
    taken: dict[str, Any] = {name: getattr(settings, name) for name in TAKEN}
    longest = max(settings.max_seq_length, TrainSettings.max_seq_length)
    chosen = TrainSettings(**taken, max_seq_length=longest, steps_per_eval=0, val_batches=1, keep_checkpoints=1)
    text = settings.template and Path(settings.template).expanduser().read_text(encoding="utf-8")
    form = to_dict(replace(chosen, model="", template=None, dtype="auto"))
    hashes = [weights_hash(model_folder), tokenizer_hashes(model_folder)]
    decides = [VERSION, __version__, form, hashes, dtype, text]
    key = hashlib.sha256(json.dumps(decides, default=str, sort_keys=True).encode()).hexdigest()[:16]
    switches = {name: getattr(settings, name) for name in SWITCHES}
    return replace(chosen, out=str(cache_dir() / "practice" / key), **switches)


def is_practised(chosen: TrainSettings) -> bool:
    """Whether this practice was done before, to its end."""
    return _state(chosen) == "finished" and (Path(chosen.out) / ADAPTER_FILES[0]).is_file()


def _state(chosen: TrainSettings) -> str:
    try:
        return str(recorded(Path(chosen.out)).get("state", "none"))
    except InputError:
        return "damaged"


def practise(chosen: TrainSettings, train: Train, say: Callable[[str], None]) -> None:
    """Train on the built-in functions. Interrupted, the same command goes on with it."""
    say("first it practises on the built-in functions, once for all such trainings (--no-practice leaves it out)")
    broken = _state(chosen) in ("damaged", "finished")  # else it is new, or goes on where it was stopped
    try:
        train(replace(chosen, overwrite=broken), builtin_data(seed=chosen.seed, think=chosen.think))
    except InputError as error:
        raise InputError(f"while practising on the built-in functions: {error.message}", problems=error.problems,
                         next_step=f"--no-practice leaves this out; or: {error.next_step}") from error  # fmt: skip
    shutil.rmtree(Path(chosen.out) / CHECKPOINTS, ignore_errors=True)  # nobody goes on with it
    say("the practice is done; now your own functions")
