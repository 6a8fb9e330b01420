"""How each format frames a call, as a grammar needs it: marks, what stands around name and arguments, the words of
its values. What calltune writes in `formats/`, and a little less than what it reads there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calltune.errors import InputError
from calltune.formats import gemma4, hermes, json_text, mistral, pythonic, qwen3_coder
from calltune.formats.functiongemma import MARKS as FUNCTIONGEMMA_MARKS
from calltune.formats.pieces import END_THINK, THINK
from calltune.grammar_values import ANNOTATIONS, LENGTHS, Values, Words, counted, literal, value_error, without
from calltune.schema import Tool
from calltune.template import Template
from calltune.tokenizer import Tokenizer

# What would be read as the beginning of a list of calls.
LIST = r"\[\s*[^\s\[\](){},=\x22\x27]+\s*\("
# A text between JSON's quotes without `<`, in which Qwen3-Coder's tags begin.
TEXT_WITHOUT_TAGS = r'/"([^"\\<\x00-\x1f]|\\["\\\/bfnrt])*"/'
JSON_TEXT = {"type": "string"}


@dataclass(frozen=True)
class Frame:
    """A call is `mark` (of the first, or of each if `again`), `before` the quoted or bare name, `after` it, the
    arguments, `end`; `between` stands before the next, `opens` and `closes` around all. `think` marks a plan,
    `refused` are patterns that words must not hold. `form` writes the arguments; '': JSON. `begins`: a pattern of
    what the part of a call begins with in which keys are looked for that come twice; `strings`: what stands around
    strings, where that is no quote."""

    mark: str
    before: str
    after: str
    end: str
    between: str
    quoted: bool = True
    again: bool = True
    opens: str = ""
    closes: str = ""
    listed: bool = False  # several calls are a list
    think: tuple[str, str] = (THINK, END_THINK)
    after_think: str = "\n"
    refused: tuple[str, ...] = ()
    form: str = ""
    begins: str = re.escape('{"name": ')
    strings: str = ""


GEMMA = {"gemma4": gemma4.GEMMA4_MARKS, "functiongemma": FUNCTIONGEMMA_MARKS}


def frame_of(template: Template) -> Frame:
    """Raises InputError for a format whose calls cannot be bound."""
    name = template.format
    if name in ("hermes", "python-hermes"):
        style = hermes.HermesStyle(**template.style)
        opening = style.call_open.partition(hermes.OPEN)[2]
        after = style.think_close.partition(END_THINK)[2]
        return Frame(hermes.OPEN, opening + '{"name": ', ', "arguments": ', "}" + style.call_close,
                     style.between_calls, after_think=after, refused=(re.escape(hermes.CLOSE),))  # fmt: skip
    if name in GEMMA:
        marks = GEMMA[name]
        opened, closed = marks.think_written
        return Frame(marks.open, "call:", "{", "}" + marks.close, "", quoted=False, think=(opened, marks.think[1]),
                     after_think=closed.partition(marks.think[1])[2], refused=(re.escape(marks.close),), form=name,
                     begins=re.escape(marks.open), strings=marks.string)  # fmt: skip
    found = FRAMES.get(name)
    if found is None:
        raise InputError(f"calls in the {name} format cannot be bound to their schemas yet",
                         next_step="decode freely; calls are checked after decoding")  # fmt: skip
    return found


PYTHON_MARKS = tuple(map(re.escape, (pythonic.OPEN, "<|python_start|>", *pythonic.ENDS)))
MISTRAL = {"think": mistral.THINK, "after_think": ""}
FRAMES = {
    "llama3": Frame('{"name": ', "", ', "parameters": ', "}", "; "),
    "mistral": Frame(mistral.OPEN, "", "[ARGS]", "", "", quoted=False, **MISTRAL, begins=re.escape(mistral.OPEN)),  # type: ignore[arg-type]
    "mistral-list": Frame(mistral.OPEN, '{"name": ', ', "arguments": ', "}", ", ", again=False, opens="[", closes="]",
                          **MISTRAL),  # type: ignore[arg-type]
    "pythonic": Frame("", "", "(", ")", ", ", quoted=False, again=False, closes="]", refused=(LIST, *PYTHON_MARKS),
                      form="pythonic", begins=LIST),
    "lfm2": Frame(pythonic.OPEN, "", "(", ")", ", ", quoted=False, again=False, opens="[",
                  closes="]" + pythonic.CLOSE, refused=(LIST, *PYTHON_MARKS), form="pythonic",
                  begins=re.escape(pythonic.OPEN)),
    "qwen3-coder": Frame(qwen3_coder.OPEN, f"\n{qwen3_coder.FUNCTION}", ">\n",
                         f"{qwen3_coder.END_FUNCTION}\n{qwen3_coder.CLOSE}", "\n", quoted=False,
                         refused=("</?(function|parameter)", re.escape(qwen3_coder.CLOSE)), form="qwen3-coder",
                         begins="<parameter="),
    "json": Frame(f"{json_text.FENCE}json\n", '{"name": ', ', "arguments": ', "}", ", ", again=False, listed=True,
                  closes=f"\n{json_text.FENCE}",
                  refused=(r"[\x22\x27](name|type|function)[\x22\x27]\s*:", json_text.FENCE)),
}  # fmt: skip


def mark_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens of the vocabulary that stand for a mark of their own."""
    added = {str(token.content): i for i, token in tokenizer.inner.added_tokens_decoder.items()}
    return {text: i for text, i in added.items() if len(text.strip()) > 2}


def spelled(text: str, tokenizer: Tokenizer) -> str:
    """A text as a model writes it: marks that are one token of the vocabulary as that, the rest as text."""
    tokens = {mark: i for mark, i in mark_tokens(tokenizer).items() if mark in text}
    longest = sorted(tokens, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest)) + ")", text) if tokens else [text]
    return " ".join(f"<[{tokens[part]}]>" if part in tokens else literal(part) for part in parts if part)


def arguments_of(
    tool: Tool, schema: Mapping[str, Any], frame: Frame, name: str, tokenizer: Tokenizer
) -> tuple[str, Values]:
    """The expression of a tool's arguments in a form that is not JSON, and the rules that it needs."""
    if frame.form == "qwen3-coder":
        values = Values(JSON_WORDS, name, schema)
        return _tagged(schema, values), values
    if frame.form in GEMMA:
        values = Values(_gemma_words(GEMMA[frame.form], tokenizer), name, schema)
        return values.items(schema, ""), values
    values = Values(PYTHON, name, schema)
    keys = [*(schema.get("properties") or {}), *(schema.get("required") or [])]
    if keys and all(pythonic.PLAIN.fullmatch(key) for key in keys):
        return values.items(schema, "", assign=("", "=")), values
    if not keys and schema.get("additionalProperties") is False:
        return "", values
    return f'"**{{" {values.items(schema, "")} "}}"', values


# ---- Python ------------------------------------------------------------------------------------------------------


def _python_text(schema: Mapping[str, Any], values: Values) -> tuple[str, tuple[str, ...]]:
    kept = {key: schema[key] for key in ("type", "pattern", "format", "minLength", "maxLength") if key in schema}
    left: tuple[str, ...] = ()
    for parts in (("pattern", "format"), LENGTHS):
        if kept and value_error(kept):
            left += tuple(key for key in parts if key in kept)
            kept = {key: value for key, value in kept.items() if key not in left}
    return f"%json {json.dumps(kept or JSON_TEXT)}", left


PYTHON = Words(
    _python_text,
    lambda value: literal(pythonic.literal(value)),
    lambda key: json.dumps(key, ensure_ascii=False),
    f"%json {json.dumps(JSON_TEXT)}",
)


# ---- Gemma -------------------------------------------------------------------------------------------------------


def _gemma_words(marks: gemma4.Marks, tokenizer: Tokenizer) -> Words:
    around = spelled(marks.string, tokenizer)
    kept_out = [re.escape(mark) for mark in (marks.string, marks.open, marks.close)]

    def text(schema: Mapping[str, Any], values: Values) -> tuple[str, tuple[str, ...]]:
        body, left = counted(schema)
        inside = values.terminal(without(kept_out, body))
        optional = "" if schema.get("minLength") else "?"
        if around.startswith("<"):
            return f"{around} {inside}{optional} {around}", left
        return values.terminal(f"{around} {inside}{optional} {around}"), left  # one piece for the lexer

    def said(value: Any) -> str:
        return spelled(gemma4.value_text(value, marks), tokenizer)

    def key(name: str) -> str:
        return name if gemma4.PLAIN_KEY.fullmatch(name) else _json_literal(name)

    return Words(text, said, key, TEXT_WITHOUT_TAGS, ",", ":", "true", "false", "null")


# ---- Qwen3-Coder -------------------------------------------------------------------------------------------------

END = f"\n{qwen3_coder.END_VALUE}\n"
NAMES = r"(None|True|False|null|true|false)\s*"


def _json_text(schema: Mapping[str, Any], values: Values) -> tuple[str, tuple[str, ...]]:
    return TEXT_WITHOUT_TAGS, tuple(key for key in ("pattern", "format", *LENGTHS) if key in schema)


def _json_literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


JSON_WORDS = Words(_json_text, lambda value: literal(_json_literal(value)), _json_literal, TEXT_WITHOUT_TAGS,
                   true="true", false="false", null="null")  # fmt: skip


def _tagged(schema: Mapping[str, Any], values: Values) -> str:
    """The parameters of a call, each between its tags."""
    properties = dict(schema.get("properties") or {})
    required = schema.get("required") or []
    properties |= {key: True for key in required if key not in properties}
    said = []
    for key, value in properties.items():
        shown = literal(f"<parameter={key}>\n")
        item = values.rule(f"{shown} {_bare(value, values, f'/{key}')}")
        said.append(item if key in required else f"{item}?")
    return " ".join(said)


def _bare(schema: Any, values: Values, path: str) -> str:
    """A value as bare text, and the tag after it. What is read back has the schema's type (`qwen3_coder.typed`)."""
    end = literal(END)
    choices = (
        schema.get("enum", [schema["const"]] if "const" in schema else None) if isinstance(schema, Mapping) else 0
    )
    if isinstance(choices, list):
        kept = [value for value in choices if _reads_back(value, schema)]
        if len(kept) < len(choices):
            values.missing.append(f"{path}: values that bare text cannot say")
        return f"({' | '.join(literal(qwen3_coder.value_text(value)) for value in kept) or values.anything()}) {end}"
    kinds = _kinds(schema)
    if kinds == ["string"] and schema.get("type") == "string":
        body, left = counted(schema)
        values.missing += [f"{path}: {key}" for key in left]
        inside = values.terminal(without([TAGS], body))
        return values.terminal(f"{inside}{'' if schema.get('minLength') else '?'} {end}")
    options = []
    for kind in kinds:
        if kind == "string":  # what cannot be taken for a value of another type
            text = values.terminal(f"{without([TAGS], '[A-Za-z](?s:.*)')} & ~/{NAMES}/")
            options.append(values.terminal(f"{text} {end}"))
        else:
            only = {"type": kind} if len(kinds) > 1 else schema
            options.append(f"{values.value(only, path)} {end}" if kind != "boolean" else f'("True" | "False") {end}')
    if len(kinds) > 1:
        values.missing += [f"{path}: more than types"] if schema.keys() - {"type"} - ANNOTATIONS else []
    return f"({' | '.join(options)})" if options else f"{values.anything()} {end}"


def _kinds(schema: Any) -> list[str]:
    """The types that a schema names."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if kinds is None and isinstance(schema, Mapping):
        options = schema.get("anyOf") or schema.get("oneOf") or ()
        kinds = [kind for option in options for kind in _kinds(option)]
    return [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds or ()))


def _reads_back(value: Any, schema: Mapping[str, Any]) -> bool:
    text = qwen3_coder.value_text(value)
    found = qwen3_coder.typed(text, schema)
    return found == value and type(found) is type(value)


# As `qwen3_coder.TAGS`: a text that holds one is written in another way.
TAGS = r"</?(parameter|function|tool_call)|\\u003c"
