"""Settings of the commands: strict dataclasses, filled from YAML and flags, saved with the result.

An unknown key or a value of the wrong type is an error, and all of them are told at once. Every field is a
flag of the command (`num_layers` is `--num-layers`) and a key of its YAML file.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from calltune.errors import InputError, Problem

S = TypeVar("S")


def _help(text: str, default: Any, low: float | None = None, high: float | None = None, *, above: float | None = None,
          below: float | None = None) -> Any:  # fmt: skip
    """A field with the text of its flag's help and its range: `low` and `high` belong to it, `above` and
    `below` do not."""
    metadata = {"help": text, "range": (low, high, above, below)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


setting = _help  # for the settings of other modules


@dataclass(frozen=True)
class TrainSettings:
    """What `calltune train` does. Counts of steps are optimizer updates."""

    model: str = _help(
        "folder, hub name, .gguf file or built-in name; or a run, whose adapter is trained further", ""
    )
    data: str | None = _help("file, folder, hub data set or builtin:assistant", None)
    tools: str | None = _help("Python file or OpenAI tools JSON: training requests are made for it", None)
    requests: str | None = _help("YAML file with example requests for --tools, beside those in docstrings", None)
    out: str = _help("folder of the run", "runs/last")
    overwrite: bool = _help("replace a run that is in the folder", False)
    resume: bool = _help("go on with the unfinished run in the folder; the same command does so too", False)
    force: bool = _help("go on although settings or data differ from those of the unfinished run", False)
    seed: int = _help("seed of split, order, adapter and made data", 0, low=0)
    # data
    test: float = _help("share of rows held out for testing", 0.1, low=0, below=1)
    valid: float = _help("share of rows held out for choosing the checkpoint", 0.05, low=0, below=1)
    split_by: Literal["row", "tool", "phrasing"] = _help("hold out rows, whole tools, or wordings", "row")
    rows: int = _help("how many training rows to make from --tools", 720, low=1)
    results: float = _help("share of the rows made from --tools that go on after the call, with result and answer",
                           0.0, low=0, below=1)  # fmt: skip
    practice: bool = _help("learn the built-in functions first: once, kept in the cache", False)
    shuffle_tools: Literal["auto", "always", "never"] = _help("mix the order of each row's tools (T22)", "auto")
    max_seq_length: int = _help("longer rows are dropped and counted, never cut", 2048, low=2)
    # template
    template: str | None = _help("a Jinja chat template of your own", None)
    roles: Mapping[str, str] = _help("role names of your template, as user=human,assistant=model",
                                     {})  # fmt: skip
    think: bool = _help("train the plan in <think>", True)
    merge_system: bool | None = _help("put the system text in front of the first user message", None)
    think_instruction: str | None = _help("the sentence that asks for a plan", None)
    # adapter
    fine_tune: Literal["lora", "dora", "full"] = _help("what is trained", "lora")
    num_layers: int = _help("how many layers from the top are trained; -1 for all", 8, low=-1)
    rank: int = _help("rank of the adapter", 16, low=1)
    scale: float = _help("strength of the adapter", 20.0, low=0)
    alpha: float | None = _help("if given, scale = alpha / rank as in peft", None, above=0)
    dropout: float = _help("dropout in the adapter", 0.0, low=0, below=1)
    keys: tuple[str, ...] = _help("endings of the layers' names to adapt, or all", ("q_proj", "v_proj"))
    # optimisation
    epochs: float = _help("passes over the training rows", 2.0, above=0)
    iters: int | None = _help("updates; if given, instead of epochs", None, low=1)
    batch_size: int = _help("rows a batch", 4, low=1)
    batches: Literal["random", "length"] = _help("rows of a batch: random, or of one length (less padding)", "random")
    max_tokens_per_batch: int = _help("batches of rows of one length that fill so many tokens, instead of "
                                      "--batch-size; 0: off", 0, low=0)  # fmt: skip
    grad_accumulation: int = _help("batches an update", 1, low=1)
    optimizer: Literal["adam", "adamw", "muon"] = _help("Adam with bias correction; muon for short runs", "adamw")
    learning_rate: float = _help("highest learning rate", 2e-4, above=0)
    schedule: Literal["cosine", "linear", "constant"] = _help("after the warm-up", "cosine")
    warmup: float = _help("share of the updates that warm up", 0.05, low=0, high=1)
    weight_decay: float = _help("of adamw and muon", 0.0, low=0)
    clip: float = _help("largest norm of the gradient; 0 for none", 1.0, low=0)
    # reports
    steps_per_report: int = _help("updates between lines of metrics", 10, low=1)
    steps_per_eval: int = _help("updates between validations; 0: at start and end only", 50, low=0)
    val_batches: int = _help("validation batches, always the same ones; -1 for all", -1, low=-1)
    steps_per_accuracy: int | None = _help("updates between measurements of call accuracy, the last one at the end; "
                                           "none: --steps-per-eval, or more for a tenth of the time; 0: off",
                                           None, low=0)  # fmt: skip
    accuracy_rows: int = _help("validation rows that are answered for it, always the same ones", 32, low=1)
    patience: int = _help("stop after so many measurements (of the loss, where accuracy is off) without a better "
                          "one; 0: never", 0, low=0)  # fmt: skip
    save_every: int | None = _help("updates between checkpoints; none: about a minute, and under 1 % of the time; "
                                   "0: at the start and end only", None, low=0)  # fmt: skip
    keep_checkpoints: int = _help("the newest so many stay", 2, low=1)
    report_to: tuple[str, ...] = _help("tensorboard, wandb, swanlab: report there too", ())
    # speed: every one is exact
    dtype: Literal["auto", "float32", "bfloat16", "float16", "quantized"] = _help("precision of the base", "auto")
    selecting_head: bool = _help("logits only where the loss is", True)
    shared_prefix: bool = _help("run tokens that all rows share once a step", True)
    frozen_trunk: bool = _help("run layers below the trained ones once a row", True)
    trunk_memory_gb: float | None = _help(
        "memory for what the frozen layers give; none: a quarter of all", None, low=0
    )
    trunk_disk_gb: float = _help("disk for what has no room in that memory", 0.0, low=0)
    fast_cpu: bool = _help("attention and element-wise work on NumPy", True)
    cpu_layers: bool = _help("with --fast-cpu: norms, positions, SiLU and LoRA too", True)
    compile: bool = _help("on a GPU, the step as one compiled function", True)
    logits_mb: int = _help("memory for logits at a time; 0: 64 on a CPU, 256 on a GPU", 0, low=0)
    grad_checkpoint: bool = _help("keep no activations inside layers: less memory, a third more work", False)

    def __post_init__(self) -> None:
        _check_ranges(self, "train")


@dataclass(frozen=True)
class EvalSettings:
    """What `calltune eval` does."""

    data: str | None = _help("file, folder or hub data set; default: the run's held-out test part", None)
    suite: str | None = _help("a benchmark instead: bfcl:CATEGORY or bfcl:GROUP; 'own': the data; "
                              "'walkthrough': its test split, of the hub's data set or of --data", None)  # fmt: skip
    benchmark: str | None = _help("the benchmark's wheel or folder of files; default: the package index", None)
    out: str | None = _help("folder for predictions.jsonl and the report", None)
    limit: int | None = _help("at most this many cases", None, low=1)
    baseline: str | None = _help("a model or run to compare with on the same cases; 'base': without adapter; "
                                 "'few-shot': base with examples", None)  # fmt: skip
    fail_under: Mapping[str, float] = _help("exit 1 below these, as call_exact_match=0.9,no_call_accuracy=0.8",
                                            {})  # fmt: skip
    max_tokens: int = _help("longest reply in tokens", 256, low=1)
    batch_size: int = _help("replies made side by side", 32, low=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16", "quantized"] = _help("precision of the base", "auto")
    decoding: Literal["free", "constrained", "both"] = _help(
        "constrained: only calls that fit their tools; both: free first, as 'before'", "free")  # fmt: skip
    copying: bool = _help("replies keep to what was said as all training rows do: copied values are words of the "
                          "conversation, and what nobody said is asked for", True)  # fmt: skip

    def __post_init__(self) -> None:
        _check_ranges(self, "eval")


def resolve(kind: type[S], given: Mapping[str, Any], source: str, command: str = "train") -> S:
    """Settings of `kind` from a mapping. Raises InputError with every unknown key and wrong value."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    problems, values = [], {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            problems.append(Problem("unknown_setting", key, f"{near[0]}?" if near else "a known name", f"/{key}"))
            continue
        try:
            values[name] = convert(value, hints[name])
            if wrong := out_of_range(fields[name], values[name]):
                raise ValueError(wrong)
        except ValueError as error:
            problems.append(Problem("wrong_value", f"{key}: {str(value)[:80]}", str(error), f"/{key}"))
    if problems:
        raise InputError(f"the settings in {source} are not right", problems=problems,
                         next_step=f"`calltune {command} --help` lists every setting")  # fmt: skip
    return kind(**values)


def out_of_range(item: dataclasses.Field[Any], value: Any) -> str:
    """What a number should have been, in words; empty where it is in the field's range or no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    low, high, above, below = item.metadata["range"]
    if (
        math.isfinite(value)
        and (low is None or value >= low) and (high is None or value <= high)
        and (above is None or value > above) and (below is None or value < below)
    ):  # fmt: skip
        return ""
    limits = ((low, "at least"), (high, "at most"), (above, "more than"), (below, "less than"))
    return ", ".join(f"{words} {limit:g}" for limit, words in limits if limit is not None) or "a finite number"


def _check_ranges(settings: Any, command: str) -> None:
    """Raises InputError with every number that is out of its range, also for settings made in Python."""
    problems = []
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if wrong := out_of_range(item, value):
            problems.append(Problem("wrong_value", f"{item.name}: {value}", wrong, f"/{item.name}"))
    if problems:
        raise InputError("the settings are not right", problems=problems,
                         next_step=f"`calltune {command} --help` lists every setting")  # fmt: skip


def read_yaml(path: Path, flag: str = "--config") -> dict[str, Any]:
    """A YAML file of settings, or of what else `flag` names. Raises InputError."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"the settings file {path} cannot be read: {error.strerror}",
                         next_step=f"check the path given with {flag}") from error  # fmt: skip
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}", next_step="correct the line named") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, not settings",
                         next_step="write lines of `name: value`")  # fmt: skip
    return value


def convert(value: Any, hint: Any) -> Any:
    """A value from YAML or a flag as the field's type. Raises ValueError with what was expected."""
    options = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None or value == "none":
            return None
        return convert(value, next(o for o in options if o is not type(None)))
    if origin is Literal:
        if value not in options:
            raise ValueError(f"one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) for p in parts):
            raise ValueError("a list of names")
        return tuple(p.strip() for p in parts if p.strip())
    if origin is not None and issubclass(origin, Mapping):
        return _pairs(value, options[1])
    return _plain(value, hint)


def _pairs(value: Any, kind: Any) -> dict[str, Any]:
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not sign for _, sign, _ in parts):
            raise ValueError("name=value, with commas between")
        value = {name.strip(): text.strip() for name, _, text in parts}
    if not isinstance(value, Mapping):
        raise ValueError("names with values")
    return {str(k): _plain(v, kind) for k, v in value.items()}


def _plain(value: Any, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if isinstance(value, bool):
        raise ValueError({int: "a whole number", float: "a number", str: "text"}[kind])
    try:
        if kind is int:
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(number)
        if kind is float:
            return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number" if kind is int else "a number") from None
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def add_flags(parser: argparse.ArgumentParser, kind: type[Any], skip: tuple[str, ...] = ()) -> None:
    """A flag for every field. Flags that are not given stay absent, so that YAML and defaults show through."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if item.name in skip:
            continue
        flag, text = f"--{item.name.replace('_', '-')}", item.metadata["help"]
        options = typing.get_args(hints[item.name])
        if hints[item.name] is bool or bool in options:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
                                help=f"{text} (default: {_shown(_default(item))})")  # fmt: skip
            continue
        shown = f"{text} (default: {_shown(_default(item))})".replace("%", "%%")
        parser.add_argument(flag, default=argparse.SUPPRESS, metavar=item.name.upper(), help=shown)


def _default(item: dataclasses.Field[Any]) -> Any:
    return {} if item.default is dataclasses.MISSING else item.default


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Mapping):
        return "none" if not value else str(dict(value))
    return "none" if value is None or value == "" else str(value)


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        return list(value) if isinstance(value, tuple) else value

    return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
