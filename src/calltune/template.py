"""The chat template of a model: choosing it, probing it, and turning messages into text with it.

A template is trusted only after probes (habit of trl's chat_template_utils): sentinels for a tool's name, a
key, a value, a result, a plan must come out of it. Many templates drop some of them without a word (T12, T14);
then calltune writes tools and calls into the text itself, or brings a template of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from typing import Any

from calltune.errors import InputError
from calltune.formats import Piece, get_format, hermes, join
from calltune.formats.hermes import CLOSE, HERMES, OPEN, HermesStyle
from calltune.formats.pieces import END_THINK, THINK
from calltune.jinja_env import compile_template
from calltune.schema import Message, Tool, ToolCall
from calltune.tokenizer import Tokenizer

TOOLS_TEXT = """You can call these functions:
<tools>
{tools}
</tools>
To call a function, write
<tool_call>
{{"name": NAME, "arguments": {{...}}}}
</tool_call>{think}
If no function fits, answer in words."""
THINK_INSTRUCTION = "First plan between <think> and </think>."


@dataclass(frozen=True)
class Template:
    """A chat template with what the probes learned about it.

    `knows_tools`: it renders tools, calls and results itself in a form that `format` reads; otherwise tools
    stand in the system text and calls in the content. `merge_system`: the system text goes in front of the
    first user message. `roles` maps our role names to those that the template is given. `stop` is the text
    that ends a reply. `style` is the white space that the template writes around plan and calls (fields of
    HermesStyle; empty: the format's own).
    """

    source: str
    origin: str  # "model", "calltune:chatml", "calltune:gemma", or a file
    format: str = "hermes"
    knows_tools: bool = True
    arguments_as_text: bool = False
    merge_system: bool = False
    think_instruction: str | None = THINK_INSTRUCTION
    roles: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    stop: str = ""
    style: Mapping[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        text = json.dumps([self.source, self.format, self.knows_tools, self.merge_system,
                           self.think_instruction, dict(self.roles), self.stop, dict(self.style)])  # fmt: skip
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"roles": dict(self.roles), "variables": dict(self.variables), "style": dict(self.style)}

    def reply(self, message: Message) -> tuple[Piece, ...]:
        """An assistant turn as the model writes it, without `stop`; no plan where none is asked for."""
        message = self._planned(message)
        if self.style and self.format == HERMES.name:
            return hermes.write(message, HermesStyle(**self.style))
        return get_format(self.format).write(message)

    def _planned(self, message: Message) -> Message:
        return message if self.think_instruction is not None else replace(message, thinking=None)

    def text(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prompt: bool = False) -> str:
        """Messages as the model reads them; `prompt` ends with the opening of the assistant's turn."""
        rows = self._rows(messages, tools)
        known = [tool.to_openai() for tool in tools] if tools and self.knows_tools else None
        think = self.think_instruction is not None
        return compile_template(self.source).render(
            messages=rows, tools=known, add_generation_prompt=prompt, think=think, enable_thinking=think,
            **self.variables,
        )  # fmt: skip

    def _rows(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[dict[str, Any]]:
        rows = [self._row(self._planned(message)) for message in messages]
        if not self.knows_tools and tools:
            rows = _with_system(rows, tools_text(tools, self.think_instruction))
        if self.merge_system:
            rows = _merge_system(rows)
        return [row | {"role": self.roles.get(row["role"], row["role"])} for row in rows]

    def _row(self, message: Message) -> dict[str, Any]:
        if self.knows_tools:
            row = message.to_openai() | {"content": message.content}
            if not self.arguments_as_text and message.calls:
                for call, entry in zip(message.calls, row["tool_calls"], strict=True):
                    entry["function"]["arguments"] = dict(call.arguments)
            return row
        content = message.content
        if message.role == "assistant":
            content = join(self.reply(message))
        elif message.role == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
        return {"role": message.role, "content": content}


def tools_text(tools: Sequence[Tool], think_instruction: str | None) -> str:
    """The tools and how to call them, for templates that leave that to the system text."""
    functions = [tool.to_openai()["function"] for tool in tools]
    lines = "\n".join(json.dumps(f, ensure_ascii=False, separators=(",", ":")) for f in functions)
    return TOOLS_TEXT.format(tools=lines, think=f"\n{think_instruction}" if think_instruction else "")


def _with_system(rows: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if rows and rows[0]["role"] == "system":
        return [rows[0] | {"content": f"{rows[0]['content']}\n\n{text}"}, *rows[1:]]
    return [{"role": "system", "content": text}, *rows]


def _merge_system(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The walk-through's preprocessing: system text in front of the first user message, system turn dropped."""
    if len(rows) < 2 or rows[0]["role"] != "system":
        return rows
    first = rows[1] | {"content": f"{rows[0]['content']}\n\n{rows[1]['content']}"}
    return [first, *rows[2:]]


# ---- choosing -------------------------------------------------------------------------------------------------


def choose_template(
    tokenizer: Tokenizer,
    *,
    custom: str | None = None,
    origin: str = "model",
    think: bool = True,
    roles: Mapping[str, str] | None = None,
    merge_system: bool | None = None,
    think_instruction: str | None = None,
) -> Template:
    """The template to train and prompt with: `custom` if given, else the model's own if its probes pass, else
    calltune's for the model's turn markers. Raises InputError, with the probes' findings, when none will do.
    """
    instruction = (think_instruction or THINK_INSTRUCTION) if think else None
    base = Template("", "", think_instruction=instruction, roles=dict(roles or {}),
                    variables=tokenizer.special_variables(), merge_system=bool(merge_system))  # fmt: skip
    candidates = [replace(base, source=custom, origin=origin)] if custom else _candidates(base, tokenizer)
    findings = []
    for candidate in candidates:
        for shape in _shapes(candidate, fixed_merge=merge_system is not None):
            lost = probe(shape)
            if not lost:
                chosen = replace(shape, stop=find_stop(shape, tokenizer))
                return replace(chosen, style=probe_style(chosen))
            findings.append(f"{shape.origin} ({'tools' if shape.knows_tools else 'text'}): {'; '.join(lost)}")
    raise InputError(
        "no chat template of this model carries tools and calls: " + " | ".join(dict.fromkeys(findings)),
        next_step="give one with --template FILE.jinja (docs/templates.md shows two to start from)",
    )


def builtin_source(name: str) -> str:
    """The text of one of calltune's own templates: `chatml` or `gemma`."""
    return (resources.files("calltune") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _candidates(base: Template, tokenizer: Tokenizer) -> list[Template]:
    found = []
    own = replace(base, source=tokenizer.template or "", origin="model")
    if tokenizer.template and any(s.knows_tools and not probe(s) for s in _shapes(own, fixed_merge=False)):
        found.append(own)  # the model's own template knows tools and calls: nothing is better
    for name, marker in (("chatml", "<|im_start|>"), ("gemma", "<start_of_turn>")):
        if tokenizer.has_token(marker):
            found.append(replace(base, source=builtin_source(name), origin=f"calltune:{name}"))
    return [*found, own] if tokenizer.template else found


def _shapes(template: Template, *, fixed_merge: bool) -> list[Template]:
    """The ways to use one template, best first: with its own tools, then with tools in the text."""
    shapes = []
    for knows_tools in (True, False):
        for merge in (template.merge_system,) if fixed_merge else (template.merge_system, True):
            for as_text in (False, True) if knows_tools else (False,):
                for roles in ({}, {"assistant": "model"}, {"tool": "user"}, {"assistant": "model", "tool": "user"}):
                    shapes.append(replace(template, knows_tools=knows_tools, arguments_as_text=as_text,
                                          merge_system=merge, roles={**roles, **template.roles}))  # fmt: skip
    return shapes


# ---- probing --------------------------------------------------------------------------------------------------

_TOOL = Tool("probe_name_qx", "probe_text_qx", {"type": "object", "properties": {"key_qx": {"type": "string"}}})
_CALL = ToolCall("probe_name_qx", {"key_qx": "value_qx"})
_PROBE = (
    Message("system", "system_qx"),
    Message("user", "question_qx"),
    Message("assistant", "", None, (_CALL,)),
    Message("tool", '{"result": "result_qx"}', name="probe_name_qx", call_id="call_0"),
    Message("assistant", "answer_qx"),
)

_OTHER = replace(_TOOL, name="other_name_qx")
_CALLS = (_CALL, ToolCall("other_name_qx", {"key_qx": "value_qx"}))
_TURNS = tuple(
    Message("assistant", content, thinking, calls)
    for content, thinking, calls in (
        ("content_qx", "thought_qx", _CALLS), ("", "thought_qx", _CALLS), ("", "thought_qx", _CALLS[:1]),
        ("content_qx", "thought_qx", ()), ("content_qx", None, _CALLS), ("", None, _CALLS[:1]),
        ("content_qx", None, ()),
    )
)  # fmt: skip
_STYLE = re.compile(
    rf"(?:(?P<think_open>\s*{THINK}\s*)thought_qx(?P<think_close>\s*{END_THINK}\s*))?"
    rf"content_qx(?P<before_calls>\s*)(?P<call_open>{OPEN}\s*)\{{.*?\}}\}}(?P<call_close>\s*{CLOSE})"
    rf"(?P<between_calls>\s*){OPEN}"
)


def probe(template: Template) -> list[str]:
    """What this way of using the template loses, in words; empty when it carries everything."""
    try:
        whole = template.text(_PROBE, [_TOOL])
        prompt = template.text(_PROBE[:2], [_TOOL], prompt=True)
        plain = template.text(_PROBE[:2], [_TOOL])
        after = template.text(_PROBE[:4], [_TOOL], prompt=True)
    except Exception as error:  # templates raise what they like
        return [f"it raises: {str(error)[:120]}"]
    wanted = {
        "the system text": "system_qx", "a tool's description": "probe_text_qx", "the question": "question_qx",
        "a call's arguments": "value_qx", "a tool's result": "result_qx", "the answer": "answer_qx",
    }  # fmt: skip
    lost = [f"{what} is lost" for what, sentinel in wanted.items() if sentinel not in whole]
    if plain == prompt:
        lost.append("it opens no assistant turn")
    elif not prompt.startswith(plain.rstrip()[:40]) or "result_qx" not in after:
        lost.append("its prompt leaves out earlier turns")
    elif not (header := prompt[len(plain) :].strip()) or header not in whole:
        lost.append("its prompt opens a turn that its own assistant turns do not have")
    calls = get_format(template.format).parse(_between(whole, "question_qx", "result_qx")).calls
    if not any(c.name == _CALL.name and c.arguments == _CALL.arguments for c in calls):
        lost.append(f"a call does not read back in the {template.format} format (arguments lost or encoded twice)")
    return lost


def _between(text: str, start: str, end: str) -> str:
    after = text.partition(start)[2]
    return after.partition(end)[0]


def probe_thinking(template: Template) -> bool:
    """Whether the plan of an earlier turn is still there in the prompt of a later one (trap T08)."""
    messages = (_PROBE[1], replace(_PROBE[4], thinking="thought_qx"), _PROBE[1])
    return "thought_qx" in template.text(messages, [_TOOL], prompt=True)


def probe_style(template: Template) -> dict[str, str]:
    """The white space that the template itself writes around plan, content and calls, as fields of HermesStyle.

    With it, earlier turns stand in a prompt exactly as they were trained, and a conversation stays one example
    (Qwen3, say, ends a plan with an empty line). Empty where the format's own white space does as well.
    """
    if not template.knows_tools or template.format != HERMES.name:
        return {}
    tools = [_TOOL, _OTHER]
    opening = template.text(_PROBE[:2], tools, prompt=True)

    def shown(turn: Message) -> str:
        whole = template.text([*_PROBE[:2], turn], tools)
        return whole[len(opening) :] if whole.startswith(opening) else ""

    def kept(style: Mapping[str, str]) -> int:
        styled = replace(template, style=style)
        return sum(shown(turn).startswith(join(styled.reply(turn)) + template.stop) for turn in _TURNS)

    found = _STYLE.match(shown(_TURNS[0]))
    style = {name: text for name, text in found.groupdict().items() if text is not None} if found else {}
    return style if kept(style) > kept({}) else {}


def find_stop(template: Template, tokenizer: Tokenizer) -> str:
    """The text of the token that ends a reply under this template: the first special token after the content."""
    text = template.text([Message("user", "q"), Message("assistant", "answer_qx")])
    ids, offsets = tokenizer.encode_with_offsets(tail := text.partition("answer_qx")[2])
    special = set(tokenizer.inner.all_special_ids) | tokenizer.stop_ids | set(tokenizer.inner.added_tokens_decoder)
    for token, (start, end) in zip(ids, offsets, strict=True):
        if token in special:
            return tail[start:end]
    return str(tokenizer.inner.eos_token or "")
