"""From sources to the parts that a model is trained on: read, check, repair, split, weigh, augment, look for leaks.

Every row that came in is counted: it is in a part, or among the lost with a reason. What was done stands in the
manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from calltune.builtin import assistant_hermes_rows, builtin_data
from calltune.builtin.assistant import FUNCTIONS
from calltune.data.augment import AugmentSettings, any_change, augment
from calltune.data.check import Checked, Checker, Measure
from calltune.data.leaks import read_benchmarks
from calltune.data.likeness import like_keys, request_words
from calltune.data.mixture import SourceSettings, Weighing, is_mixture, parts_of, read_source_settings
from calltune.data.results import with_results
from calltune.data.sources import PARTS as PART_NAMES
from calltune.data.sources import Source
from calltune.data.split import Split, called, leaks_between, split_rows, tools_to_hold_out, without_tools
from calltune.data.synthesise import synthesise
from calltune.data.teacher import Teacher, teach
from calltune.errors import InputError, Problem
from calltune.functions import Function, functions_from
from calltune.schema import Conversation
from calltune.settings import read_yaml, resolve, setting

NAMES = tuple(dict.fromkeys(PART_NAMES.values()))  # train, valid, test
Rejected = Callable[[str, Checked], None]


@dataclass(frozen=True)
class PrepareSettings(AugmentSettings):
    """What `calltune prepare` does, beside the sources."""

    out: str = setting("folder of the prepared data", "data/prepared")
    model: str | None = setting("model whose tokens are counted; its template is tried on every row", None)
    max_seq_length: int = setting("longer rows are lost, and counted (with a model)", 2048, low=2)
    seed: int = setting("seed of split, weights and changes", 0, low=0)
    test: float = setting("share of rows for testing", 0.1, low=0, below=1)
    valid: float = setting("share of rows for choosing the checkpoint", 0.05, low=0, below=1)
    split_by: Literal["row", "tool", "phrasing"] = setting("hold out rows, whole tools, or wordings", "row")
    strict: bool = setting("warnings reject rows too", False)
    duplicates: bool = setting("keep near-duplicates", False)
    benchmark: tuple[str, ...] = setting("files of questions that must not be in the data", ())
    teacher: str | None = setting("OpenAI-compatible address that writes requests for sources of tools", None)
    teacher_model: str | None = setting("the model to ask there", None)
    teacher_rows: int = setting("rows that the teacher adds to the training rows of such a source", 100, low=1)
    teacher_budget: int = setting("at most this many questions to the teacher", 100, low=1)
    teacher_per_minute: float = setting("questions to the teacher a minute", 60.0, above=0)


@dataclass
class Came:
    """What came of one source: counts of rows by status, of problems by kind, of forms."""

    name: str
    weight: float
    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)  # by reason; their sum and the kept rows are `rows`
    moved: int = 0  # from valid to test, since they call a held-out tool
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        counts = {name: dict(getattr(self, name).most_common()) for name in ("status", "kinds", "forms", "lost")}
        return {"source": self.name, "weight": self.weight, "rows": self.rows, "moved_to_test": self.moved,
                "notes": self.notes} | counts  # fmt: skip


@dataclass(frozen=True)
class Pipeline:
    """What came out. `changes` and `leaks` count what was done after the split."""

    split: Split
    came: tuple[Came, ...]
    set_problems: tuple[Problem, ...]
    changes: Mapping[str, Mapping[str, int]]
    leaks: Mapping[str, int]
    weighed: int  # rows of train after the weights, before the changes

    def parts(self) -> dict[str, tuple[Conversation, ...]]:
        return {name: getattr(self.split, name) for name in NAMES}


def pipeline_settings(
    file: str, flags: Mapping[str, Any] | None = None
) -> tuple[PrepareSettings, tuple[SourceSettings, ...]]:
    """Settings and sources from a YAML file, `flags` over it; any other file or name is the one source. Raises
    InputError."""
    flags = flags or {}
    if not is_mixture(file):
        return resolve(PrepareSettings, flags, "the flags", "prepare"), (SourceSettings(data=file),)
    given = {str(key).replace("-", "_"): value for key, value in read_yaml(Path(file)).items()}
    sources = read_source_settings(given.pop("sources", None), file, Path(file).parent)
    return resolve(PrepareSettings, {**given, **flags}, f"{file} and the flags", "prepare"), sources


def run_pipeline(
    settings: PrepareSettings,
    sources: Sequence[SourceSettings],
    measure: Measure | None = None,
    rejected: Rejected | None = None,
) -> Pipeline:
    """The parts of all sources. `measure`: findings that need a model; `rejected` is told of every row that does not
    pass, with its source. Raises InputError where no row is left to train, and for a teacher without tools."""
    if settings.teacher and not any(one.tools for one in sources):
        raise InputError("a teacher is named, but no source of tools that it could write requests for",
                         next_step="add a source `tools: FILE`, or leave the teacher out")  # fmt: skip
    checker = Checker(settings.strict, measure, read_benchmarks(settings.benchmark))
    read: list[dict[str, list[Conversation]]] = []
    came = []
    for one in sources:
        counts = Came(one.name, one.weight)
        opened = _open(one, settings, counts)
        read.append({name: list(_passed(source, checker, counts, settings, rejected)) for name, source in opened})
        came.append(counts)
    held = _held(read, settings)
    splits = [_part(parts, settings, counts, held) for parts, counts in zip(read, came, strict=True)]
    split = _whole(splits)
    leaks = leaks_between(split, settings.split_by, lambda row: [*like_keys(row, request_words(row))])
    for i in leaks:
        came[_source_of(splits, i)].lost["leak"] += 1
    train = _own_ids(_weighed(splits, sources, set(leaks), settings.seed))
    if not train:
        raise InputError("no row is left to train", problems=[_why(counts) for counts in came],
                         next_step="`calltune check DATA` tells what is wrong with each")  # fmt: skip
    weighed = len(train)
    changes: dict[str, Mapping[str, int]] = {}
    if any_change(settings):
        done = augment(train, settings, settings.seed, measure)
        train, changes = done.rows, {"made": dict(done.made), "given_up": dict(done.given_up)}
    valid, test = (tuple(_own_ids(rows)) for rows in (split.valid, split.test))
    whole = replace(split, train=tuple(train), valid=valid, test=test)
    return Pipeline(whole, tuple(came), tuple(checker.finish()), changes, dict(Counter(leaks.values())), weighed)


def _why(counts: Came) -> Problem:
    lost = ", ".join(f"{kind} {count}" for kind, count in counts.lost.most_common()) or "nothing"
    return Problem("no_row_left", f"{counts.name}: {counts.rows} rows, lost by {lost}", "rows that pass")


def _open(one: SourceSettings, settings: PrepareSettings, counts: Came) -> Iterator[tuple[str, Source]]:
    """The parts of a source; rows that are made come with their own, and with notes on what would better them."""
    if one.tools or one.data == "builtin:assistant":
        functions, seed = functions_from(one.tools or list(FUNCTIONS)), settings.seed
        made = (
            synthesise(one.tools, seed=seed, rows_train=one.rows, requests=one.requests)
            if one.tools
            else builtin_data(seed=seed, results=0)  # `results` of the source counts
        )
        counts.notes += made.notes
        for name in NAMES:
            if rows := getattr(made, name):
                longer = with_results(rows, functions, one.results, seed)
                counts.notes += (f"{name}: {n} calls of {tool} got no result" for tool, n in longer.without.items())
                taught = _taught(functions, settings, counts) if one.tools and name == "train" else []
                yield name, Source(f"{Path(one.name).name}/{name}", [*longer.rows, *taught])
    elif one.data == "builtin:assistant-hermes":
        yield "train", Source(one.name, assistant_hermes_rows())
    else:
        yield from parts_of(one).items()


def _taught(functions: Sequence[Function], settings: PrepareSettings, counts: Came) -> list[Conversation]:
    """Rows that a teacher writes for the tools, where one is named. Its answers are kept beside the output. Raises
    InputError."""
    if not settings.teacher:
        return []
    if not settings.teacher_model:
        raise InputError("the teacher's model is not named", next_step="add --teacher-model")
    teacher = Teacher(settings.teacher, settings.teacher_model, settings.teacher_budget, settings.teacher_per_minute)
    out = Path(settings.out).expanduser()
    tools = [function.tool for function in functions]
    found = teach(teacher, tools, settings.teacher_rows, out.with_name(f"{out.name}.teacher.jsonl"))
    refused = ", ".join(f"{kind} {count}" for kind, count in found.refused.most_common()) or "none"
    questions = f"{found.asked} questions, {found.kept} answered before"
    counts.notes.append(f"{len(found.rows)} rows from the teacher ({questions}); refused: {refused}")
    return found.rows


def _passed(
    source: Source, checker: Checker, counts: Came, settings: PrepareSettings, rejected: Rejected | None
) -> Iterator[Conversation]:
    for checked in checker.check(source):
        counts.rows += 1
        counts.forms[checked.form or "made"] += 1
        counts.kinds.update({problem.kind for problem in checked.problems})
        status = checked.status
        twin = next((p for p in checked.problems if p.kind == "near_duplicate"), None)
        if checked.conversation is None:
            worst = next((p for p in checked.problems if p.severity == "error"), checked.problems[0])
            counts.lost[worst.kind] += 1
        elif twin is not None and not settings.duplicates:
            counts.lost["near_duplicate"] += 1
            checked = replace(checked, status="rejected", conversation=None)
        counts.status[status] += 1
        if checked.conversation is not None:
            yield checked.conversation
        elif rejected is not None:
            rejected(source.name, checked)


def _held(read: Sequence[Mapping[str, Sequence[Conversation]]], settings: PrepareSettings) -> AbstractSet[str]:
    """The tools to hold out, chosen once for all sources: each by itself would choose what others train. Raises
    InputError."""
    if settings.split_by != "tool":
        return frozenset()
    rows = [row for parts in read if "test" not in parts for row in parts.get("train", ())]
    return tools_to_hold_out(rows, settings.test, settings.valid, settings.seed)


def _part(
    parts: Mapping[str, Sequence[Conversation]], settings: PrepareSettings, counts: Came, held: AbstractSet[str]
) -> Split:
    """Parts that a source brings stay; what is missing comes from its training rows. Held-out tools are offered
    nowhere else: a training row that calls one, in a source with a test part of its own, counts as a leak, and such a
    row of its valid part is moved to test."""
    rows = parts.get("train", ())
    test = 0.0 if "test" in parts else settings.test
    valid = 0.0 if "valid" in parts else settings.valid
    split = Split(())
    if rows:
        chosen = frozenset[str]() if "test" in parts else held
        try:
            split = split_rows(rows, test, valid, settings.seed, settings.split_by, stable=True, held=chosen)
        except InputError as error:
            raise InputError(
                f"{counts.name}: {error.message}", problems=error.problems, next_step=error.next_step
            ) from None
    given = {part: tuple(parts[part]) for part in ("valid", "test") if part in parts}
    split = replace(split, **given)  # type: ignore[arg-type]
    moved = tuple(row for row in split.valid if held & called(row))
    counts.moved = len(moved)
    if moved:
        counts.notes.append(f"{len(moved)} rows of its valid part call a held-out tool and were moved to test")
    kept = [row for row in split.valid if not held & called(row)]
    return Split(without_tools(split.train, held), without_tools(kept, held), (*split.test, *moved),
                 tuple(sorted(held)))  # fmt: skip


def _whole(splits: Sequence[Split]) -> Split:
    """All sources together, which hold out the same tools."""
    train, valid, test = ([row for split in splits for row in getattr(split, name)] for name in NAMES)
    return Split(tuple(train), tuple(valid), tuple(test), splits[0].held_out)


def _own_ids(rows: Sequence[Conversation]) -> list[Conversation]:
    """Sources may use the same ids, as row numbers; of such rows a later one gets a free one, as `row 7#2`."""
    given, used = {row.id for row in rows}, set[str | None]()
    found = []
    for row in rows:
        own, number = row.id, 1
        while row.id is not None and (own in used or (number > 1 and own in given)):
            number += 1
            own = f"{row.id}#{number}"
        used.add(own)
        found.append(row if own == row.id else replace(row, id=own))
    return found


def _source_of(splits: Sequence[Split], i: int) -> int:
    """The source that the training row `i` of all comes from."""
    for number, split in enumerate(splits):
        if i < len(split.train):
            return number
        i -= len(split.train)
    raise IndexError(i)


def _weighed(
    splits: Sequence[Split], sources: Sequence[SourceSettings], leaks: set[int], seed: int
) -> list[Conversation]:
    weighing = Weighing(seed)
    train: list[Conversation] = []
    begin = 0
    for split, one in zip(splits, sources, strict=True):
        rows = [row for i, row in enumerate(split.train, start=begin) if i not in leaks]
        begin += len(split.train)
        train += weighing.take(rows, one.weight)
    return train
