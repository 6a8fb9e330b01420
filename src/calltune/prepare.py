"""From settings to examples: read or make rows, split them, choose the template, render, count what is lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calltune.builtin import NAMES, assistant_hermes_rows, builtin_data
from calltune.data.balance import Balance, shuffle_tools
from calltune.data.manifest import manifest_of, read_manifest
from calltune.data.mixture import is_mixture
from calltune.data.pipeline import pipeline_settings, run_pipeline
from calltune.data.readers import load_splits
from calltune.data.results import with_results
from calltune.data.split import split_rows
from calltune.data.synthesise import Splits, synthesise
from calltune.errors import InputError, Problem
from calltune.functions import functions_from
from calltune.lengths import length_summary
from calltune.render import Example, limit_length, prompt_ids
from calltune.rendered import render_kept
from calltune.schema import Conversation, Message, validate_call
from calltune.settings import TrainSettings
from calltune.template import Template, choose_template, probe_thinking
from calltune.tokenizer import Tokenizer

Rows = tuple[Conversation, ...]
MOST_ROW_HASHES = 20_000  # 9 bytes each


@dataclass(frozen=True)
class Parts:
    """Conversations by what they are for. `origin` says how they were parted, for the record."""

    train: Rows
    valid: Rows
    test: Rows
    origin: str
    notes: tuple[str, ...] = ()
    manifest: Mapping[str, Any] | None = None  # of data that `calltune prepare` made


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs of the data, and what was counted on the way."""

    template: Template
    parts: Parts
    train: list[Example]
    valid: list[Example]
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    golden_prompt: tuple[int, ...] = ()
    lengths: Mapping[str, Any] = field(default_factory=dict)  # of the training examples, with a histogram

    @property
    def hash(self) -> str:
        """Of the rendered training examples: rows, template and tokenizer in one."""
        return examples_hash(self.train)


def examples_hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_bytes(example))
    return digest.hexdigest()[:16]


def row_hashes(examples: Sequence[Example]) -> list[str]:
    """A short hash of each example, by which a changed one is named; none for too many."""
    few = examples if len(examples) <= MOST_ROW_HASHES else []
    return [hashlib.sha256(_bytes(example)).hexdigest()[:8] for example in few]


def _bytes(example: Example) -> bytes:
    return json.dumps([example.ids, [(s.start, s.end) for s in example.spans]]).encode()


def prepare(settings: TrainSettings, tokenizer: Tokenizer, data: Any = None) -> Prepared:
    """Rows, template and examples for a training run. Raises InputError with all problems found."""
    parts = read_parts(settings, data)
    check_calls([*parts.train, *parts.valid])
    template = template_for(settings, tokenizer)
    notes = [*parts.notes, f"chat template: {template.origin}" + ("" if template.knows_tools else ", tools as text")]
    if settings.think and not probe_thinking(template):
        notes.append("the template drops the thinking of earlier turns: such conversations become one example a turn")
    train_rows, said = mixed_tools(parts.train, settings)
    notes += said
    rendered = {"train": render_kept(train_rows, template, tokenizer),
                "valid": render_kept(parts.valid, template, tokenizer)}  # fmt: skip
    kept: dict[str, list[Example]] = {}
    counts: dict[str, int] = {}
    for name, examples in rendered.items():
        kept[name], lost = limit_length(examples, settings.max_seq_length)
        counts |= {f"{name}_examples": len(kept[name]), f"{name}_dropped": len(lost)}
        if lost:
            longest = max(len(e) for e in lost)
            named = ", ".join(str(e.id) for e in lost[:5])
            notes.append(
                f"{name}: {len(lost)} of {len(examples)} examples dropped, longer than {settings.max_seq_length} "
                f"tokens or with nothing to train (longest {longest}; {named})"
            )
    if not kept["train"]:
        longest = max((len(e) for e in rendered["train"]), default=0)
        raise InputError(
            f"no training example is left of {len(parts.train)} rows",
            problems=[Problem("too_long", f"longest example {longest} tokens", f"at most {settings.max_seq_length}")],
            next_step="raise --max-seq-length, offer fewer tools a row, or check that rows have assistant turns",
        )
    counts |= token_counts(kept["train"])
    first = next((row for row in parts.train if row.messages), None)  # raw text has no prompt
    golden = prompt_ids(first_request(first), first.tools, template, tokenizer) if first else []
    lengths = length_summary([len(e) for e in kept["train"]], counts["trained_tokens"])
    return Prepared(template, parts, kept["train"], kept["valid"], counts, tuple(notes), tuple(golden), lengths)


def token_counts(examples: Sequence[Example]) -> dict[str, int]:
    lengths = [len(e) for e in examples]
    return {"tokens": sum(lengths), "trained_tokens": sum(e.trained for e in examples), "longest": max(lengths)}


def template_for(settings: TrainSettings, tokenizer: Tokenizer) -> Template:
    custom, origin = None, "model"
    if settings.template:
        path = Path(settings.template).expanduser()
        try:
            custom, origin = path.read_text(encoding="utf-8"), path.name
        except OSError as error:
            raise InputError(f"the template {path} cannot be read: {error.strerror}",
                             next_step="check the path given with --template") from error  # fmt: skip
    return choose_template(
        tokenizer, custom=custom, origin=origin, think=settings.think, roles=settings.roles,
        merge_system=settings.merge_system, think_instruction=settings.think_instruction,
    )  # fmt: skip


# ---- rows -----------------------------------------------------------------------------------------------------


def read_parts(settings: TrainSettings, data: Any = None) -> Parts:
    """Training, validation and test rows from what the settings, or `data` in memory, name."""
    if isinstance(data, Splits):
        return Parts(data.train, data.valid, data.test, "given", data.notes)
    if data is not None:
        return _parted(data, settings)
    if bool(settings.data) == bool(settings.tools):
        found = "both --data and --tools" if settings.data else "neither --data nor --tools"
        raise InputError(f"training needs one source of rows; found {found}",
                         next_step="give --data FILE, or --tools FILE.py to have rows made")  # fmt: skip
    if settings.requests and not settings.tools:
        raise InputError("--requests are examples for --tools, and none are named",
                         next_step="add --tools FILE, or leave --requests out")  # fmt: skip
    if settings.tools:
        return _made(settings)
    if settings.data == "builtin:assistant":
        made = builtin_data(seed=settings.seed, think=settings.think)
        return Parts(made.train, made.valid, made.test, "built in, split by phrasing", made.notes)
    if settings.data == "builtin:assistant-hermes":
        return _parted(assistant_hermes_rows(seed=settings.seed), settings)
    if str(settings.data).startswith("builtin:"):
        raise InputError(f"there is no built-in data {settings.data!r}", next_step=f"take one of: {', '.join(NAMES)}")
    if is_mixture(settings.data):
        return _mixed(str(settings.data))
    manifest = read_manifest(Path(str(settings.data)).expanduser())
    return _parted(settings.data, settings) if manifest is None else _as_prepared(manifest, settings)


def _made(settings: TrainSettings) -> Parts:
    """Rows made from the tools; some of the training rows go on after the call."""
    functions = functions_from(settings.tools)
    made = synthesise(functions, seed=settings.seed, rows_train=settings.rows, think=settings.think,
                      requests=settings.requests)  # fmt: skip
    longer = with_results(made.train, functions, settings.results, settings.seed)
    notes = made.notes
    if settings.results:
        without = f"; none for {', '.join(sorted(longer.without))}: name its fields, or an example under `Returns:`"
        count = sum(bool(row.meta.get("results")) for row in longer.rows)
        notes += (f"{count} of {len(longer.rows)} rows go on after the call{without if longer.without else ''}",)
    return Parts(tuple(longer.rows), made.valid, made.test, "made from the tools, split by phrasing", notes)


def _as_prepared(manifest: Mapping[str, Any], settings: TrainSettings) -> Parts:
    """The parts as they are: split again, copies of one row that prepare made would stand on both sides."""
    made = _parted(settings.data, replace(settings, test=0.0, valid=0.0))
    without = [name for name, rows in (("valid", made.valid), ("test", made.test)) if not rows]
    said = f"the prepared data has no {' and no '.join(without)} rows, and is not split again"
    return replace(made, origin="as calltune prepare split it", manifest=manifest, notes=(said,) if without else ())


def _mixed(file: str) -> Parts:
    """The parts that `calltune prepare` would write for a YAML file, whose own settings count."""
    chosen, sources = pipeline_settings(file)
    made = run_pipeline(chosen, sources)
    manifest = manifest_of(made, chosen, sources)
    lost = sum(manifest["lost"].values())
    notes = (f"{Path(file).name}: {lost} rows were lost; `calltune prepare` tells why",) if lost else ()
    origin = f"{Path(file).name}, split by {chosen.split_by}"
    return Parts(made.split.train, made.split.valid, made.split.test, origin, notes, manifest)


def _parted(source: Any, settings: TrainSettings) -> Parts:
    """A source with parts keeps them; the shares make the missing ones from the training rows."""
    if isinstance(source, Sequence) and source and all(isinstance(row, Conversation) for row in source):
        splits: Mapping[str, Sequence[Conversation]] = {"train": list(source)}
    else:
        splits = load_splits(source)
    if not splits.get("train"):
        raise InputError(f"{source} has no training rows", next_step="name the training file train.jsonl")
    test = 0.0 if "test" in splits else settings.test
    valid = 0.0 if "valid" in splits else settings.valid
    made = split_rows(splits["train"], test=test, valid=valid, seed=settings.seed, by=settings.split_by)
    origin = f"split by {settings.split_by}: test {test:g}, valid {valid:g}, seed {settings.seed}"
    return Parts(made.train, tuple(splits.get("valid", made.valid)), tuple(splits.get("test", made.test)),
                 origin + (f"; given: {', '.join(sorted(splits))}" if len(splits) > 1 else ""))  # fmt: skip


def mixed_tools(rows: Rows, settings: TrainSettings) -> tuple[Sequence[Conversation], list[str]]:
    """Rows with each one's tools in a mixed order, where their order would teach the answer (trap T22).

    `auto` mixes when rows bring different tools and the right one stands first too often; rows that all offer
    the same tools keep their order, which then says nothing, and their shared prefix.
    """
    balance = Balance()
    turns = [row for row in rows if row.messages]  # raw text offers nothing
    for row in turns:
        balance.add(row)
    warnings = [str(problem) for problem in balance.warnings()]
    first = any("right_tool_first" in text for text in warnings)
    fixed = len({tuple(t.name for t in row.tools) for row in turns}) == 1
    if settings.shuffle_tools == "never" or (settings.shuffle_tools == "auto" and (fixed or not first)):
        return rows, warnings
    return shuffle_tools(rows, settings.seed), [*warnings, "the order of the tools was mixed (--shuffle-tools)"]


def check_calls(rows: Iterable[Conversation]) -> None:
    """Every call in the rows against the tools offered. Raises InputError with all problems."""
    problems = []
    for row in rows:
        for i, message in enumerate(row.messages):
            for j, call in enumerate(message.calls):
                found = validate_call(call, row.tools, f"/messages/{i}/calls/{j}")
                problems += [replace(p, found=f"{row.id}: {p.found}") for p in found]
    if problems:
        raise InputError(
            f"{len(problems)} calls in the training rows do not fit their tools", problems=problems,
            next_step="`calltune check DATA` lists them all; correct or remove those rows",
        )  # fmt: skip


def first_request(conversation: Conversation) -> tuple[Message, ...]:
    """The messages up to the first assistant turn."""
    stop = next((i for i, m in enumerate(conversation.messages) if m.role == "assistant"), len(conversation.messages))
    return conversation.messages[:stop]
