"""Rows to conversations: each row's form is told by its shape; problems are collected and told at once.

Turns stand in OpenAI's form (`openai_rows.py`) or as ShareGPT/Hermes text with tags (`hermes_rows.py`); a row is
read as Hermes when it has tags in its text and no structured call. As in mlx-lm a row may also be a `prompt` and
a `completion`, one turn each, or a raw `text`, which becomes a conversation without messages (`raw_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from calltune.data.hermes_rows import has_markup, read_hermes
from calltune.data.messages import Reading, raw_text
from calltune.data.openai_rows import has_structured_calls, read_openai
from calltune.data.sources import Row, Source, sources_of
from calltune.errors import InputError, Problem
from calltune.schema import Conversation, ToolCall, find_tool, read_tools, shorten, validate_call

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
TOOL_COLUMNS = ("tools", "functions")
PAIR = {"prompt": "user", "completion": "assistant"}
MAX_PROBLEMS = 1000  # told of one file; the rest is counted


@dataclass(frozen=True)
class RowReading:
    """What became of one row: a conversation, or None with `problems`.

    `calls` are its calls with their JSON pointers; `repairs` say what reading put right without loss;
    `value` is the row as it stood in the source (None where it was no JSON).
    """

    line: int
    conversation: Conversation | None = None
    problems: tuple[Problem, ...] = ()
    repairs: tuple[Problem, ...] = ()
    calls: tuple[tuple[str, ToolCall], ...] = ()
    value: Any = None


def read_conversations(
    source: Any,
    *,
    part: str = "train",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> Iterator[Conversation]:
    """The conversations of one part of a source, streamed in its order.

    `source`: see `sources.sources_of`; a single file or list is the part `train`. `columns` renames columns
    (`{"messages": "dialog", "tools": "api_list"}`, also `prompt`, `completion` and `text`); `limit` reads that
    many rows. Rows that cannot be read are not yielded; their problems go to `on_problem`, or are raised together
    as one InputError after the last row. A source without a row is an InputError in any case.
    """
    parts = sources_of(source)
    if part not in parts:
        raise InputError(f"the data has no part {part}", next_step=f"it has: {', '.join(parts)}")
    return _conversations(parts[part], columns, limit, on_problem)


def load_conversations(
    source: Any,
    *,
    part: str = "train",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> list[Conversation]:
    """`read_conversations` as a list. Raises InputError with all problems of the part."""
    rows = read_conversations(source, part=part, columns=columns, limit=limit, on_problem=on_problem)
    return list(rows)


def load_splits(source: Any, *, columns: Mapping[str, str] | None = None) -> dict[str, list[Conversation]]:
    """The parts of a folder, data set or mapping: `train`, `valid` (also named validation, val, dev) and
    `test`, as far as they exist. A single file is `{"train": [...]}`. Raises InputError."""
    splits = {part: list(_conversations(s, columns, None, None)) for part, s in sources_of(source).items()}
    return {part: rows for part, rows in splits.items() if rows}


def _conversations(
    source: Source,
    columns: Mapping[str, str] | None,
    limit: int | None,
    on_problem: Callable[[Problem], None] | None,
) -> Iterator[Conversation]:
    problems: list[Problem] = []
    count = bad = 0
    for reading in readings(source, columns=columns, limit=limit):
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
    return InputError(f"{source.name} is empty", problems=[problem])


def readings(
    source: Source, *, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> Iterator[RowReading]:
    """What became of every row of a source, good or bad, in its order."""
    for row in islice(source.rows(), limit):
        yield replace(read_row(row, source.name, columns), value=row.value)


def read_row(row: Row, file: str = "memory", columns: Mapping[str, str] | None = None) -> RowReading:
    """Reads one row; never raises for what it holds."""
    if row.problem is not None:
        return RowReading(row.line, problems=(row.problem,))
    if isinstance(row.value, Conversation):
        return _given(row.value, row.line, file)
    if not isinstance(row.value, Mapping):
        return _failed(row.line, Problem("bad_row", type(row.value).__name__, "an object", row=row.line))
    value = dict(row.value)
    for ours, theirs in (columns or {}).items():
        if theirs in value:
            value[ours] = value.pop(theirs)
    if _is_text(value):
        return _text_row(value, row.line, file)
    reading = Reading()
    messages, used = _turns(value, reading)
    if reading.problems:
        return _failed(row.line, *reading.problems)
    tool_column = _read_tool_column(value, reading)
    read = read_hermes if has_markup(messages) and not has_structured_calls(messages) else read_openai
    read(messages, f"/{used[0]}", reading)
    if used == tuple(PAIR):
        _point_at_pair(reading)
    _check_offered(reading)
    if reading.problems:
        return _failed(row.line, *reading.problems)
    conversation = Conversation(
        tuple(reading.messages),
        reading.tools,
        _identity(value.get("id"), file, row.line),
        _meta(value, messages, {*used, tool_column, "id", "meta"}),
    )
    repairs = tuple(_placed(p, row.line) for p in reading.repairs)
    return RowReading(row.line, conversation, (), repairs, tuple(reading.calls))


def _turns(value: Mapping[str, Any], reading: Reading) -> tuple[list[Any], tuple[str, ...]]:
    """The turns of a row and the columns they stand in; what is wrong is noted in `reading`."""
    column = next((name for name in MESSAGE_COLUMNS if value.get(name) is not None), None)
    if column is None and all(value.get(name) is not None for name in PAIR):
        for name in PAIR:
            if not isinstance(value[name], str):
                reading.problem("bad_content", value[name], "text", f"/{name}")
        return [{"role": role, "content": value[name]} for name, role in PAIR.items()], tuple(PAIR)
    messages = value.get(column) if column else None
    if column is not None and isinstance(messages, list) and messages:
        return messages, (column,)
    found = f"columns {', '.join(map(str, value)) or 'none'}" if column is None else "no message in it"
    expected = f"a list of messages in `{'` or `'.join(MESSAGE_COLUMNS[:2])}`"
    if column is None:
        expected += ", or `prompt` and `completion`, or `text`"
    reading.problems.append(Problem("no_messages", found, expected, f"/{column}" if column else ""))
    return [], ()


def _point_at_pair(reading: Reading) -> None:
    """Paths of a row of prompt and completion, which was read as two messages, as they are in the row."""

    def own(path: str) -> str:
        for i, name in enumerate(PAIR):
            path = path.replace(f"/prompt/{i}/content", f"/{name}", 1)
        return path

    reading.calls = [(own(path), call) for path, call in reading.calls]
    reading.problems = [replace(problem, path=own(problem.path)) for problem in reading.problems]


def _is_text(value: Mapping[str, Any]) -> bool:
    """Whether a row is raw text: in the column `text`, without turns, or as `Conversation.to_openai` wrote it."""
    if value.get("messages") == []:
        meta = value.get("meta")
        return isinstance(meta, Mapping) and isinstance(meta.get("text"), str)
    turns = any(value.get(name) is not None for name in MESSAGE_COLUMNS)
    pair = all(value.get(name) is not None for name in PAIR)
    return value.get("text") is not None and not turns and not pair


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
    return RowReading(line, conversation)


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


def _read_tool_column(value: Mapping[str, Any], reading: Reading) -> str | None:
    """Reads the tools that stand in a column of their own; returns its name."""
    column = next((name for name in TOOL_COLUMNS if value.get(name) is not None), None)
    if column is not None:
        try:
            reading.tools = read_tools(value[column], f"/{column}")
        except InputError as error:
            reading.problems += error.problems
    return column


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


def _meta(value: Mapping[str, Any], messages: list[Any], used: set[str | None]) -> dict[str, Any]:
    """The row's own `meta`, its other columns, and its role names where they are not the standard ones."""
    own = value.get("meta")
    meta = dict(own) if isinstance(own, Mapping) else {} if own is None else {"meta": own}
    meta |= {key: item for key, item in value.items() if key not in used and item is not None}
    roles = [message.get("role", message.get("from")) for message in messages]
    if any(role not in ("system", "user", "assistant", "tool") for role in roles):
        meta["roles"] = roles
    return meta
