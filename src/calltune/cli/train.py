"""`calltune train`: rows or functions to an adapter in a run folder."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calltune.cli.bars import Bars
from calltune.errors import InputError
from calltune.platform.allocator import expect_training
from calltune.recipes import with_recipe
from calltune.records import RUN_FILE, read_record, settings_of
from calltune.settings import TrainSettings, add_flags, read_yaml, resolve

EXAMPLE = """examples:
  calltune train --model smollm2-135m --tools my_tools.py --out runs/mine
  calltune train --model google/gemma-2-2b-it --data rows.jsonl --out runs/big --learning-rate 1e-4
  calltune train --config mine.yaml --epochs 3
  calltune train --model runs/mine --data more.jsonl --out runs/more    begins with the adapter of a run
  calltune train --resume --out runs/mine           goes on with a run that was stopped
  mlx.launch -n 2 -- calltune train --model ...     two processes (GPUs) train one model together

A YAML file has the same names with _ for -, as `learning_rate: 1e-4`; flags win over it. `--tools FILE.py`
imports the file, which runs its code. With --tools these are the defaults: --rows 1600 --epochs 1 --batch-size 16
--num-layers 16 --keys all --warmup 0.1, and, where none of these is given, --optimizer muon --learning-rate 2e-3
--scale 4; and --practice, unless --rows or --iters asks for another number of them, or the model is a run: the model
learns the built-in functions first, once for all later trainings, so that it reads functions of yours."""


# What a run that goes on with another one's adapter takes from it.
CARRIED = frozenset({"fine_tune", "num_layers", "rank", "scale", "alpha", "keys", "template", "roles", "think",
                     "merge_system", "think_instruction"})  # fmt: skip
SHARES = {"exact_match": "exact", "call_exact_match": "exact calls", "no_call_accuracy": "rightly no call"}


class Log:
    """mlx-lm's training callback, as lines: what the reference prints for each report."""

    def __init__(self, progress: Bars) -> None:
        self.progress = progress

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        self.progress.say(
            f"update {info['iteration']}: loss {info['train_loss']:.3f}, learning rate {info['learning_rate']:.2e}, "
            f"{info['iterations_per_second']:.3g} it/s, {info['tokens_per_second']:.0f} tokens/s, "
            f"{info['trained_tokens']:,} trained tokens, peak memory {info['peak_memory']:.2f} GB"
        )

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        figures = "".join(f", {words} {info[key]:.0%}" for key, words in SHARES.items() if key in info)
        self.progress.say(f"update {info['iteration']}: validation loss {info['val_loss']:.3f} "
                          f"({info['val_time']:.1f} s){figures}")  # fmt: skip


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        description="Trains an adapter on rows of yours (--data) or on requests made for your functions (--tools).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings from a file; flags win over it")
    add_flags(parser, TrainSettings)
    parser.add_argument("--json", action="store_true", help="what came of it as one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    expect_training()
    from calltune.engine import ranks
    from calltune.train import train

    if ranks.rank():  # one of several processes, of which the first one tells
        train(settings)
        return 0
    with Bars() as bars:
        run = train(settings, callback=Log(bars), progress=bars)
    if args.json:
        keys = ("model", "data", "hashes", "train")
        document = {"run": str(run.folder)} | {key: run.record[key] for key in keys}
        print(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        print("\n".join(_text(run)))
    return 0


def read_settings(args: argparse.Namespace) -> TrainSettings:
    """YAML, and over it the flags that were given. Raises InputError, before anything heavy is imported."""
    names = TrainSettings.__dataclass_fields__
    flags = {name: value for name, value in vars(args).items() if name in names}
    given = read_yaml(args.config) if args.config else {}
    given = {key.replace("-", "_"): value for key, value in given.items()}
    source = "the flags" if not args.config else f"{args.config} and the flags"
    if flags.get("resume", given.get("resume")) and not given.get("model") and not flags.get("model"):
        place = Path(str((given | flags).get("out", TrainSettings.out))).expanduser()
        resolve(TrainSettings, given | flags, source)  # so that what is wrong here is not said of the run
        before = {key: value for key, value in settings_of(place).items() if key in names}
        return resolve(TrainSettings, before | {"overwrite": False} | given | flags | {"out": str(place)}, str(place))
    given |= flags
    carried = {key: value for key, value in adapter_of(given).items() if key not in given}
    settings = resolve(TrainSettings, with_recipe(given) | carried, source)
    if not settings.model:
        raise InputError("no model was named",
                         next_step="add --model, as `--model smollm2-135m` for the built-in one")  # fmt: skip
    return settings


def adapter_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Where the model is a run: the form of its adapter and of its template, to be trained further. Raises
    InputError for a damaged run."""
    folder = Path(str(given.get("model") or "")).expanduser()
    if not (folder / RUN_FILE).is_file():
        return {}
    return {key: value for key, value in read_record(folder)["settings"].items() if key in CARRIED}


def _text(run: Any) -> list[str]:
    """The last lines: what was reached, where it lies, what to do next."""
    done, rows, place = run.record["train"], run.record["data"]["rows"], shlex.quote(str(run.folder))
    loss = ""
    if done["valid_loss"] is not None:
        exact = "" if done.get("accuracy") is None else f", {done['accuracy']:.0%} exact on its validation requests"
        loss = f", validation loss {done['valid_loss']:.3f}{exact} (update {done['best_update']}, which is kept)"
    lines = [
        f"trained: {done['updates']} updates, {done['trained_tokens']:,} trained tokens, "
        f"{done['tokens_per_second']:.0f} tokens/s{loss}",
        f"run:     {run.folder}",
        "next:",
    ]
    if rows["test"]:
        lines.append(f"  calltune eval {place} --baseline base    {rows['test']} held-out test rows")
    tools = "" if run.tools() else " --tools FILE"
    return [*lines, f'  calltune call {place} "a request in your words"{tools}', f"  calltune chat {place}{tools}"]
