"""Rows to conversations: each row's form is told by its shape; problems are collected and told at once.

Turns stand in OpenAI's form (`openai_rows.py`) or as ShareGPT/Hermes text with tags (`hermes_rows.py`); a row is
read as Hermes when it has tags in its text and no structured call. As in mlx-lm a row may also be a `prompt` and
a `completion`, one turn each, or a raw `text`, which becomes a conversation without messages (`raw_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from calltune.data.files import Row
from calltune.data.foreign_rows import bfcl, pair, sharegpt, xlam
from calltune.data.forms import MESSAGE_COLUMNS, TOOL_COLUMNS, Turns, guess_form, message_column, own_path
from calltune.data.glaive_rows import glaive
from calltune.data.hermes_rows import has_markup, read_hermes
from calltune.data.messages import Reading, raw_text
from calltune.data.openai_rows import read_openai
from calltune.data.sources import Source, sources_of
from calltune.data.tool_rows import read_tool_list, tool_items
from calltune.data.toolace_rows import toolace
from calltune.errors import InputError, Problem
from calltune.schema import Conversation, ToolCall, find_tool, shorten, validate_call

TURNS: Mapping[str, Callable[[Mapping[str, Any], Reading], Turns | None]] = {
    "xlam": xlam, "bfcl": bfcl, "glaive": glaive, "toolace": toolace, "sharegpt": sharegpt, "pair": pair,
}  # fmt: skip
MAX_PROBLEMS = 1000  # told of one file; the rest is counted


@dataclass(frozen=True)
class RowReading:
    """What became of one row: a conversation, or None with `problems`.

    `calls` are its calls with their JSON pointers; `repairs` say what reading put right without loss;
    `value` is the row as it stood in the source (None where it was no JSON), `form` one of FORMS, `schema` why
    calls cannot be judged by the tools' schemas; `places` and `at` are what `path` needs.
    """

    line: int
    conversation: Conversation | None = None
    problems: tuple[Problem, ...] = ()
    repairs: tuple[Problem, ...] = ()
    calls: tuple[tuple[str, ToolCall], ...] = ()
    value: Any = None
    form: str = ""
    schema: tuple[Problem, ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    at: tuple[int, ...] = ()

    def path(self, i: int) -> str:
        """JSON pointer of the message `i` of the conversation, as it stands in the row."""
        return own_path(f"/messages/{self.at[i] if self.at else i}", self.places)


def read_conversations(
    source: Any,
    *,
    part: str = "train",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    form: str | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> Iterator[Conversation]:
    """The conversations of one part of a source, streamed in its order.

    `source`: see `sources.sources_of`; a single file or list is the part `train`. `columns` renames columns
    (`{"messages": "dialog", "tools": "api_list"}`, also `prompt`, `completion` and `text`); `limit` reads that
    many rows; `form` is one of FORMS, in place of the guess. Rows that cannot be read are not yielded; their
    problems go to `on_problem`, or are raised together as one InputError after the last row. A source without a
    row is an InputError in any case.
    """
    parts = sources_of(source)
    if part not in parts:
        raise InputError(f"the data has no part {part}", next_step=f"it has: {', '.join(parts)}")
    chosen = parts[part]
    how: dict[str, Any] = {"columns": columns or chosen.columns, "form": form or chosen.form}
    how["limit"] = limit if limit is not None else chosen.limit
    return _conversations(replace(chosen, **how), on_problem)


def load_conversations(
    source: Any,
    *,
    part: str = "train",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    form: str | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> list[Conversation]:
    """`read_conversations` as a list. Raises InputError with all problems of the part."""
    how: dict[str, Any] = {"part": part, "columns": columns, "limit": limit, "form": form, "on_problem": on_problem}
    return list(read_conversations(source, **how))


def load_splits(source: Any, *, columns: Mapping[str, str] | None = None) -> dict[str, list[Conversation]]:
    """The parts of a folder, data set or mapping: `train`, `valid` (also named validation, val, dev) and
    `test`, as far as they exist. A single file is `{"train": [...]}`. Raises InputError."""
    found = {part: replace(s, columns=columns or s.columns) for part, s in sources_of(source).items()}
    splits = {part: list(_conversations(part_source, None)) for part, part_source in found.items()}
    return {part: rows for part, rows in splits.items() if rows}


def _conversations(source: Source, on_problem: Callable[[Problem], None] | None) -> Iterator[Conversation]:
    problems: list[Problem] = []
    count = bad = 0
    for reading in readings(source):
        count += 1
        if reading.conversation is not None:
            yield reading.conversation
            continue
        bad += 1
        for problem in reading.problems:
            if on_problem is not None:
                on_problem(problem)
            elif len(problems) < MAX_PROBLEMS:
                problems.append(problem)
    if not count:
        raise empty(source)
    if problems:
        step = f"`calltune check` lists them all; correct or remove the {bad} rows"
        raise InputError(f"{bad} of {count} rows of {source.name} cannot be read", problems=problems, next_step=step)


def empty(source: Source) -> InputError:
    problem = Problem("empty_file", f"{source.name} holds no row", "at least one row")
    return InputError(f"{source.name} is empty", problems=[problem], next_step="name a file with rows")


def readings(source: Source) -> Iterator[RowReading]:
    """What became of every row of a source, good or bad, in its order."""
    return (reading_of(source, number, unread) for number, unread in source.unread())


def reading_of(source: Source, number: int, unread: Any) -> RowReading:
    """What became of one row of `source.unread()`."""
    row = source.read(number, unread)
    return replace(read_row(row, source.name, source.columns, source.form), value=row.value)


def read_row(
    row: Row, file: str = "memory", columns: Mapping[str, str] | None = None, form: str | None = None
) -> RowReading:
    """Reads one row; never raises for what it holds. `form`: one of FORMS, in place of the guess."""
    file = row.file or file
    if row.problem is not None:
        return RowReading(row.line, problems=(row.problem,))
    if isinstance(row.value, Conversation):
        return _given(row.value, row.line, file)
    if not isinstance(row.value, Mapping):
        return _failed(row.line, Problem("bad_row", type(row.value).__name__, "an object"))
    value = dict(row.value)
    for ours, theirs in (columns or {}).items():
        if theirs in value:
            value[ours] = value.pop(theirs)
    form = form or guess_form(value)
    if form == "text":
        return _text_row(value, row.line, file)
    reading = Reading(repairs=[row.repair] if row.repair else [])
    try:
        return _with_turns(value, form, reading, row.line, file)
    except RecursionError:
        return _failed(row.line, Problem("too_deep", "lists and objects inside each other", "a flatter row"))


def _with_turns(value: dict[str, Any], form: str, reading: Reading, line: int, file: str) -> RowReading:
    turns = _turns(value, form, reading)
    if turns is None or reading.problems:
        return replace(_failed(line, *reading.problems), form=form)
    if turns.tools is None:
        turns.used |= _read_tool_column(value, reading)
    else:
        reading.tools = read_tool_list(turns.tools, "/tools", reading.add_tool)
    marked = form in ("hermes", "pair") and has_markup(turns.messages)
    (read_hermes if marked else read_openai)(turns.messages, "/messages", reading)
    _check_offered(reading)
    if turns.places:
        _put_in_place(reading, turns)
    if reading.problems:
        return replace(_failed(line, *reading.problems), form=form)
    conversation = Conversation(
        tuple(reading.messages),
        reading.tools,
        _identity(value.get("id"), file, line),
        _meta(value, turns.messages, turns.used | {"id", "meta"}),
    )
    repairs = tuple(_placed(problem, line) for problem in reading.repairs)
    schema = tuple(_placed(problem, line) for problem in reading.schema)
    calls, places = tuple(reading.calls), tuple(turns.places)
    return RowReading(line, conversation, (), repairs, calls, None, form, schema, places, tuple(reading.at))


def _turns(value: Mapping[str, Any], form: str, reading: Reading) -> Turns | None:
    """The turns of a row in OpenAI's form; what is wrong is noted in `reading`."""
    if form in TURNS:
        turns = TURNS[form](value, reading)
        if turns is None:
            reading.problem("wrong_form", f"columns {', '.join(map(str, value)) or 'none'}", f"a row of {form}", "")
        elif not turns.messages and not reading.problems:
            reading.problem("no_messages", "no message in it", "at least one message", "")
        return turns
    column = message_column(value)
    messages = value.get(column) if column else None
    if column is not None and isinstance(messages, list) and messages:
        places = [] if column == "messages" else [("/messages", f"/{column}")]
        return Turns(messages, None, {column}, places)
    found = f"columns {', '.join(map(str, value)) or 'none'}" if column is None else "no message in it"
    expected = f"a list of messages in `{'` or `'.join(MESSAGE_COLUMNS[:2])}`"
    if column is None:
        expected += ", or the columns of another form that is read here"
    reading.problems.append(Problem("no_messages", found, expected, f"/{column}" if column else ""))
    return None


def _put_in_place(reading: Reading, turns: Turns) -> None:
    """Paths of messages that were made from other columns, as they are in the row."""
    reading.calls = [(own_path(path, turns.places), call) for path, call in reading.calls]
    for name in ("problems", "repairs", "schema"):
        found = [replace(problem, path=own_path(problem.path, turns.places)) for problem in getattr(reading, name)]
        setattr(reading, name, found)


def _text_row(value: Mapping[str, Any], line: int, file: str) -> RowReading:
    """A row that is trained as it stands, without a template."""
    conversation = Conversation(
        (), (), _identity(value.get("id"), file, line), _meta(value, [], {"messages", "id", "meta"})
    )
    text = raw_text(conversation)
    if text is None:
        return _failed(line, Problem("bad_content", shorten(value["text"]), "text", "/text"))
    if not text.strip():
        return _failed(line, Problem("no_text", "an empty text", "some text", "/text"))
    return RowReading(line, conversation, form="text")


def _given(conversation: Conversation, line: int, file: str) -> RowReading:
    """A conversation that is one already, with the same check of its calls."""
    calls = [
        (f"/messages/{i}/tool_calls/{j}/function", call)
        for i, message in enumerate(conversation.messages)
        for j, call in enumerate(message.calls)
    ]
    reading = Reading(tools=conversation.tools, calls=calls)
    _check_offered(reading)
    if not conversation.messages and not raw_text(conversation):
        reading.problem("no_messages", "no message in it", "at least one message", "/messages")
    if reading.problems:
        return _failed(line, *reading.problems)
    if conversation.id is None:
        conversation = replace(conversation, id=_identity(None, file, line))
    return RowReading(line, conversation, calls=tuple(calls))


def _failed(line: int, *problems: Problem) -> RowReading:
    return RowReading(line, problems=tuple(_placed(problem, line) for problem in problems))


def _placed(problem: Problem, line: int) -> Problem:
    return replace(problem, row=line)


def _read_tool_column(value: Mapping[str, Any], reading: Reading) -> set[str]:
    """Reads the tools that stand in a column of their own; returns its name."""
    column = next((name for name in TOOL_COLUMNS if value.get(name) is not None), None)
    if column is None:
        return set()
    try:
        items = tool_items(value[column], f"/{column}")
        reading.tools = read_tool_list(items, f"/{column}", reading.add_tool)
    except InputError as error:
        reading.problems += error.problems
    return {column}


def _check_offered(reading: Reading) -> None:
    """Notes every readable call to a tool that the row does not offer."""
    if any(problem.kind.startswith("bad_tool") for problem in reading.problems):
        return  # the offer itself could not be read
    for path, call in reading.calls:
        if not call.error and find_tool(reading.tools, call.name) is None:
            reading.problems += validate_call(call, reading.tools, path)


def _identity(own: Any, file: str, line: int) -> str:
    usable = isinstance(own, (str, int)) and not isinstance(own, bool) and own != ""
    return str(own) if usable else f"{file}:{line}"


def _meta(value: Mapping[str, Any], messages: list[Any], used: set[str]) -> dict[str, Any]:
    """The row's own `meta`, its other columns, and its role names where they are not the standard ones."""
    own = value.get("meta")
    meta = dict(own) if isinstance(own, Mapping) else {} if own is None else {"meta": own}
    meta |= {key: item for key, item in value.items() if key not in used and item is not None}
    roles = [message.get("role", message.get("from")) for message in messages]
    if any(role not in ("system", "user", "assistant", "tool") for role in roles):
        meta["roles"] = roles
    return meta
