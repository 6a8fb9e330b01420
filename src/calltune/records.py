"""calltune.json as everybody reads it: one reader, and one check that it has the shape that training gave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from calltune.errors import InputError, Problem, pointer
from calltune.schema import shorten

RUN_FILE = "calltune.json"


def _object(required: str = "", others: Any = True, **properties: Any) -> dict[str, Any]:
    """A schema: an object with these properties, those named in `required` always, and `others`."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": others}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _FLAG, _COUNT, _NUMBER = ({"type": kind} for kind in ("string", "boolean", "integer", "number"))
_TEXT_OR_NONE, _COUNT_OR_NONE, _NUMBER_OR_NONE = (
    {"type": [kind, "null"]} for kind in ("string", "integer", "number")
)
_TEXTS = _object(others=_TEXT)
_TEMPLATE = _object(
    "source origin", False, source=_TEXT, origin=_TEXT, format=_TEXT, knows_tools=_FLAG, arguments_as_text=_FLAG,
    merge_system=_FLAG, think_instruction=_TEXT_OR_NONE, roles=_TEXTS, variables=_TEXTS, stop=_TEXT, style=_TEXTS,
)  # fmt: skip
_LENGTHS = _object(p50=_NUMBER, p95=_NUMBER, max=_NUMBER,
                   histogram=_list(_list(_COUNT) | {"minItems": 3, "maxItems": 3}))  # fmt: skip
_TRAINED = _object(
    "updates trained_tokens tokens_per_second best_update valid_loss",
    updates=_COUNT, trained_tokens=_COUNT, tokens_per_second=_NUMBER, best_update=_COUNT_OR_NONE,
    valid_loss=_NUMBER_OR_NONE, accuracy=_NUMBER_OR_NONE,
)  # fmt: skip
SHAPE = _object(
    "state settings hashes",
    state={"enum": ["training", "finished"]},
    model=_object("name folder dtype", name=_TEXT, folder=_TEXT, dtype=_TEXT),
    template=_TEMPLATE,
    hashes=_TEXTS,
    row_hashes=_TEXTS,
    init_from=_TEXT,
    data=_object(
        "origin rows", origin=_TEXT, rows=_object("train valid test", train=_COUNT, valid=_COUNT, test=_COUNT),
        lengths=_LENGTHS, manifest=_object(held_out_tools=_list(_TEXT)),
    ),
    golden_prompt=_list(_COUNT),
    copied=_object(others=_list(_TEXT)),
    distinct=_FLAG,
    said=_object(others=_object(others={"enum": ["number", "date", "time"]})),
    settings=_object(model=_TEXT, data=_TEXT_OR_NONE, tools=_TEXT_OR_NONE, out=_TEXT, epochs=_NUMBER,
                     iters=_COUNT_OR_NONE),
    calltune=_TEXT,
    versions=_object(),
    resumes=_list(_object("update", update=_COUNT)),
    train=_TRAINED,
) | {
    "if": {"properties": {"state": {"const": "finished"}}},
    "then": {"required": ["model", "template", "data", "train"]},
}  # fmt: skip


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run, finished or not. Raises InputError where there is none, or with every place in which it
    is not as training wrote it."""
    try:
        record: dict[str, Any] = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} is not a run: {RUN_FILE} cannot be read ({error})",
                         next_step="name a folder that `calltune train` wrote or is writing; --overwrite there "
                                   "replaces what is damaged") from error  # fmt: skip
    if problems := problems_of(record):
        raise InputError(
            f"{folder / RUN_FILE} is damaged", problems=problems,
            next_step="bring back the file as it was, or train anew with `calltune train --overwrite`",
        )  # fmt: skip
    return record


def problems_of(record: Any) -> list[Problem]:
    """Where a record has not the shape of one."""
    found = sorted(Draft202012Validator(SHAPE).iter_errors(record), key=lambda error: list(map(str, error.path)))
    return [Problem("damaged", shorten(error.message, 160), path=pointer(*error.path)) for error in found]


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of a run, for going on with it. Raises InputError: no run, or its rows were given in Python."""
    settings: dict[str, Any] = read_record(folder)["settings"]
    if not settings.get("data") and not settings.get("tools"):
        raise InputError(f"the rows of the run {folder} were given in Python, and are not known here",
                         next_step="call calltune.train again with the same rows")  # fmt: skip
    return settings
