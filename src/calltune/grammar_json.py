"""Replies whose text is one JSON value of a schema (OpenAI's `response_format`): their grammar, and reading them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from calltune.errors import InputError, Problem
from calltune.frames import Frame, frame_of, spelled
from calltune.grammar import Grammar, closed, needs_watching, up_to
from calltune.grammar_values import SPACING, compile_error, literal, without
from calltune.schema import NO_REGISTRY, Reply, shorten
from calltune.template import Template
from calltune.tokenizer import Tokenizer

ANY_OBJECT = {"type": "object"}


def json_grammar(schema: Mapping[str, Any], template: Template, tokenizer: Tokenizer) -> Grammar:
    """The grammar of a reply that is JSON of a schema ({}: any object), after a plan where the model makes one.
    Raises InputError for what is no schema, or one that decoding cannot be bound to."""
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        problem = Problem("bad_schema", shorten(error.message), "a JSON Schema", _pointer(error))
        raise InputError("the schema of response_format is not a JSON Schema", problems=[problem]) from error
    whole = closed(dict(schema)) or ANY_OBJECT
    left, options = compile_error(whole), SPACING
    if left:
        options = SPACING | {"lenient": True}
        if compile_error(whole, lenient=True):
            raise InputError(f"replies cannot be bound to the schema of response_format: {left}",
                             next_step="leave that out of the schema, and check replies afterwards")  # fmt: skip
    frame = frame_of(template)
    plan, lines = "", ["%llguidance {}"]
    if template.think_instruction is not None:
        opened, ended = (spelled(mark, tokenizer) for mark in frame.think)
        lines += [f"PLAN: {without([re.escape(frame.think[1])])}", up_to("plan_text", "PLAN", ended),
                  f"plan: {opened} plan_text {literal(frame.after_think)}"]  # fmt: skip
        plan = "plan? "
    lines.append(f"start: {plan}%json {json.dumps(whole | {'x-guidance': options})}")
    watched = bool(left) or needs_watching(whole)
    loose = {"": (left,)} if left else {}
    return Grammar("\n".join(lines) + "\n", loose, watched, re.escape(frame.think[1] + frame.after_think))


def read_json_reply(text: str, template: Template, grammar: Grammar, schema: Mapping[str, Any]) -> Reply:
    """What was written under the grammar: the plan, and the JSON as content. No format reads it: JSON may look like
    a call. A note where the grammar did not hold all of the schema."""
    thinking, content = _plan(text, frame_of(template))
    notes: tuple[str, ...] = ()
    if grammar.loose:
        notes = (
            f"not enforced while decoding: {grammar.loose[''][0]}; checked afterwards: {_verdict(content, schema)}",
        )
    return Reply(thinking, content=content, raw=text, notes=notes)


def _plan(text: str, frame: Frame) -> tuple[str | None, str]:
    """The plan, if there is one, and what follows it."""
    opened, ended = frame.think
    if not text.startswith(opened.strip()):
        return None, text
    plan, _, content = text.partition(ended)
    return plan.removeprefix(opened).removeprefix(opened.strip()).strip(), content.strip()


def _verdict(content: str, schema: Mapping[str, Any]) -> str:
    try:
        value = json.loads(content)
    except ValueError:
        return "it is not whole"
    found = [
        shorten(error.message) for error in Draft202012Validator(schema, registry=NO_REGISTRY).iter_errors(value)
    ]
    return "; ".join(found[:5]) or "it fits"


def _pointer(error: SchemaError) -> str:
    return "".join(f"/{part}" for part in error.absolute_path)
