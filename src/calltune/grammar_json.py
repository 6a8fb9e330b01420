"""Replies whose text is one JSON value of a schema (OpenAI's `response_format`): their grammar, and reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from calltune.errors import InputError, Problem, pointer
from calltune.grammar import Grammar, closed, loose_note, needs_watching
from calltune.grammar_held import hold, told
from calltune.grammar_values import SPACING
from calltune.judging import errors_of, make_validator
from calltune.schema import Reply, shorten

ANY_OBJECT = {"type": "object"}


def json_grammar(schema: Mapping[str, Any]) -> Grammar:
    """The grammar of a reply that is JSON of a schema ({}: any object) and nothing else: a model may not find the end
    of a plan. Raises InputError for what is no schema, or one that decoding cannot be bound to."""
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        problem = Problem("bad_schema", shorten(error.message), "a JSON Schema", pointer(*error.absolute_path))
        raise InputError("the schema of response_format is not a JSON Schema", problems=[problem]) from error
    whole = closed(dict(schema)) or ANY_OBJECT
    held = hold(whole)
    if held.error:
        raise InputError(f"replies cannot be bound to the schema of response_format: {held.error}",
                         next_step="leave that out of the schema, and check replies afterwards")  # fmt: skip
    options = SPACING | ({"lenient": True} if held.lenient else {})
    lines = ["%llguidance {}", f"start: %json {json.dumps(dict(held.schema) | {'x-guidance': options})}"]
    watched = bool(held.left) or needs_watching(whole)
    loose = {"": told(held.left)} if held.left else {}
    return Grammar("\n".join(lines) + "\n", loose, watched, r"\A")


def read_json_reply(text: str, grammar: Grammar, schema: Mapping[str, Any]) -> Reply:
    """What was written under the grammar: the JSON is the content. No format reads it, as JSON may look like a call.
    A note where the grammar did not hold all of the schema."""
    notes = (loose_note(grammar.loose[""], _verdict(text, schema)),) if grammar.loose else ()
    return Reply(content=text, raw=text, notes=notes)


def _verdict(content: str, schema: Mapping[str, Any]) -> list[str]:
    """In what a text does not fit, and what of it was not judged."""
    try:
        value = json.loads(content)
    except ValueError:
        return ["it is not whole"]
    judged = errors_of(make_validator(schema, bounded=True), value)
    found = [shorten(error.message) for error in judged.errors[:5]]
    return [*found, f"not judged whole: {shorten(judged.why, 160)}"] if judged.why else found
