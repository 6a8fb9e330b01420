"""Training: rows to an adapter, in the order in which things happen.

    settings -> rows -> template -> examples -> plan of the step -> batches -> updates -> run folder

One trainer. Its updates stand in loop.py, what the loss computes in engine/step.py, what a batch is in batching.py;
the command hands in what belongs above (callbacks, progress).
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from calltune.batching import common_prefix
from calltune.caller import find_run
from calltune.conversations import conversation_groups
from calltune.engine import ranks
from calltune.engine.adapter import AdapterSettings, add_adapter, begin_with, save_adapter, trainable_count
from calltune.engine.footprint import shape_of
from calltune.engine.load import LoadedModel, load
from calltune.engine.plan import Plan, Speed, plan_step
from calltune.engine.probe import on_gpu
from calltune.engine.reporting import check_reporters, reporters
from calltune.errors import InputError
from calltune.fit import memory_line, predict_run
from calltune.loop import Callback, Loop
from calltune.platform.blas import blas_environment
from calltune.platform.process_memory import process_bytes
from calltune.practice import is_practised, practice_settings, practise
from calltune.prepare import Prepared, prepare
from calltune.progress import Progress, Silent
from calltune.runs import Run, RunWriter, read_run, record_of
from calltune.selecting import is_asked, make_selector
from calltune.settings import TrainSettings, to_dict
from calltune.starting import check_asked, find_start


def train(
    settings: TrainSettings,
    data: Any = None,
    *,
    callback: Callback | None = None,
    progress: Progress | None = None,
    loaded: LoadedModel | None = None,
) -> Run:
    """Train an adapter and write the run folder `settings.out`.

    `data` may be rows, conversations, splits or a data set in memory, instead of `settings.data`; `loaded` a
    base model that is in memory already (it is changed). Raises InputError for bad settings or data before
    anything is trained, CannotFinish when the numbers break. Started by `mlx.launch`, all processes train one model
    together, and the first one tells and writes.

    An unfinished run of the same settings and data in the folder goes on where it was saved, a finished one is
    returned as it is. Ctrl-C and SIGTERM end it after the update that is being made, with a checkpoint.
    """
    if ranks.rank():  # rank 0 tells and writes; what the others write is thrown away
        with tempfile.TemporaryDirectory() as folder:
            return _train(replace(settings, out=folder), data, None, Silent(), loaded, Path(settings.out))
    return _train(settings, data, callback, progress or Silent(), loaded, Path(settings.out))


def _train(
    settings: TrainSettings, data: Any, callback: Callback | None, progress: Progress, loaded: LoadedModel | None,
    folder: Path,
) -> Run:  # fmt: skip
    check_reporters(settings.report_to)
    writer = RunWriter(Path(settings.out), overwrite=settings.overwrite, keep=settings.keep_checkpoints)
    check_asked(settings, writer)
    origin = find_run(settings.model) if loaded is None else None
    practising = settings.practice and loaded is None and not origin
    loaded = loaded or load(origin.base if origin else settings.model, settings.dtype)
    progress.say(f"model {settings.model or loaded.name}: {loaded.dtype} ({loaded.note})")
    for words in slow_variables():
        progress.say(words)
    prepared = prepare(settings, loaded.tokenizer, data)
    for note in (*prepared.notes, *_memory(loaded, prepared, settings)):
        progress.say(note)
    if settings.patience and not prepared.valid:
        raise InputError("--patience needs validation rows, and there are none",
                         next_step="give some with --valid, or leave --patience out")  # fmt: skip
    if practising and _is_alone(progress):
        chosen = practice_settings(settings, loaded.folder, loaded.dtype)
        if not is_practised(chosen) and not writer.before:
            del loaded  # a large model stands in memory once
            practise(chosen, lambda own, rows: _train(own, rows, None, progress, None, Path(own.out)), progress.say)
            loaded = load(settings.model, settings.dtype)
        if is_practised(chosen):
            origin = read_run(Path(chosen.out))
    with writer.locked(progress.say):
        now = record_of(settings, prepared, loaded, origin)
        if settings.practice and not origin and writer.before:  # its practice is gone, or was never done
            now["hashes"]["origin"] = writer.before["hashes"].get("origin", "none")
            if "init_from" in writer.before:
                now["init_from"] = writer.before["init_from"]
        found = find_start(writer, folder, now, prepared, settings.force, progress)
        if isinstance(found, Run):
            return found
        if practising and not origin and writer.before and found is None:
            raise InputError(f"what the run in {writer.folder} began with is not in the cache any more",
                             next_step="begin anew with --overwrite")  # fmt: skip
        adapter = adapter_settings(settings)
        keys = add_adapter(loaded.model, adapter, settings.seed)
        if origin:
            begin_with(loaded.model, adapter, origin.folder)
            progress.say(f"it begins with the adapter of {origin.folder}")
            if origin.template.hash != prepared.template.hash:
                progress.say("warning: that adapter was trained with another template")
        if ranks.size() > 1:
            progress.say(f"{ranks.size()} processes train together, each its share of every batch")
        progress.say(f"trainable parameters: {trainable_count(loaded.model):,} ({settings.fine_tune})")
        plan = make_plan(loaded, prepared, settings)
        for note in plan.notes:
            progress.say(note)
        select = None
        if is_asked(settings):
            valid = prepared.parts.valid
            select = make_selector(loaded, prepared.template, valid, prepared.valid, settings.accuracy_rows)
        if settings.report_to and not ranks.rank():
            callback = reporters(settings.report_to, str(writer.folder), to_dict(settings), callback)
        loop = Loop(plan, prepared, settings, writer, callback, progress, select)
        loop.again = how_to_go_on(settings, data)
        if found is None:
            writer.begin(prepared, now)
        else:
            writer.resume(prepared, now, found.checkpoint, found.changed)
            loop.restore(found)
        loop.run()
        save_adapter(writer.folder, loop.best_arrays, adapter, keys, loaded.folder, len(loaded.model.layers))
        restore(loaded, loop.best_arrays)
        return writer.finish(prepared, loop.summary())


def _is_alone(progress: Progress) -> bool:
    """Whether one process trains; several are told that they do not practise."""
    if ranks.size() > 1:
        progress.say("several processes do not practise first; give a run as --model to begin with what one learnt")
    return ranks.size() == 1


def slow_variables() -> list[str]:
    """On a CPU, the variables that slow the BLAS and with it the training, and what to do about each."""
    found = [] if on_gpu() else [problem for problem in blas_environment() if problem.kind == "slow_variable"]
    return [f"warning: {one.found}; training may take half as long again: {one.expected}" for one in found]


def _memory(loaded: LoadedModel, prepared: Prepared, settings: TrainSettings) -> list[str]:
    """What the run will need, in words; nothing for a model whose memory cannot be predicted."""
    try:
        shape = shape_of(loaded.model, loaded.dtype)
    except InputError:
        return []
    base = max(process_bytes() - shape.weight_bytes, 0)
    return memory_line(predict_run(shape, settings, prepared.train, prepared.valid, base))


def how_to_go_on(settings: TrainSettings, data: Any) -> str:
    """What to do after the run was stopped, in words."""
    if data is None:
        return f"; go on with: calltune train --resume --out {shlex.quote(settings.out)}"
    return "" if settings.overwrite else "; the same call goes on with it"


def adapter_settings(settings: TrainSettings) -> AdapterSettings:
    return AdapterSettings(
        kind=settings.fine_tune, num_layers=settings.num_layers, rank=settings.rank, scale=settings.scale,
        dropout=settings.dropout, keys=settings.keys, alpha=settings.alpha,
    )  # fmt: skip


def make_plan(loaded: LoadedModel, prepared: Prepared, settings: TrainSettings) -> Plan:
    """How the loss is computed for these examples: what all of them share, and the speed switches."""
    prefix = common_prefix([*prepared.train, *prepared.valid])
    trees = conversation_groups(prepared.train, len(prefix)) is not None
    return plan_step(
        loaded.model, prefix, speed_of(settings), loaded.vocabulary, dropout=settings.dropout, trees=trees
    )


def speed_of(settings: TrainSettings) -> Speed:
    """The switches of the step that the settings hold."""
    memory = settings.trunk_memory_gb
    return Speed(
        selecting_head=settings.selecting_head, shared_prefix=settings.shared_prefix,
        frozen_trunk=settings.frozen_trunk, fast_cpu=settings.fast_cpu, checkpoint=settings.grad_checkpoint,
        cpu_layers=settings.cpu_layers, compile=settings.compile and on_gpu(), logit_bytes=settings.logits_mb << 20,
        trunk_bytes=None if memory is None else int(memory * 1e9),
        trunk_disk_bytes=int(settings.trunk_disk_gb * 1e9),
    )  # fmt: skip


def restore(loaded: LoadedModel, arrays: dict[str, Any]) -> None:
    """The model with these trained arrays, ready to generate."""
    loaded.model.load_weights(list(arrays.items()), strict=False)
    loaded.model.eval()
