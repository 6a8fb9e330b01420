"""A model that is ready to call functions: what `calltune.load` returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from calltune.copying import Copying, copies, vocabulary_of
from calltune.data.copied import copied_of
from calltune.data.said import Said, lacking_of, listed_of
from calltune.engine.adapter import read_adapter
from calltune.engine.decode import (
    Decoder,
    Generated,
    Guide,
    Sampling,
    generate_batch,
    generate_stream,
    use_prefix,
)
from calltune.engine.filling import shared_length
from calltune.engine.kept import Kept
from calltune.engine.load import Dtype, LoadedModel, context_length
from calltune.engine.load import load as load_model
from calltune.errors import InputError, room_for
from calltune.formats import get_format
from calltune.formats.marks import begins_plan
from calltune.frames import frame_of
from calltune.functions import tools_from
from calltune.grammar import Grammar, Rules, check_loose, grammar_of
from calltune.grounded import Grounded
from calltune.guide import GrammarGuide
from calltune.platform.paths import cache_dir, sha256_file
from calltune.render import prompt_ids
from calltune.runs import Run, is_run, read_run
from calltune.schema import Message, Reply, Tool, without_repeats
from calltune.template import Template, choose_template

PLAN_TOKENS = 32  # at a prompt's end, where the mark of a plan may stand
BATCH_TOKENS = 32_768  # of prompts side by side: 32 of a thousand tokens
REMEMBERED = 64  # sets of tools of which the grammar and the prompt's beginning are kept
OTHER = "\u2042"  # a request that no other begins like
Request = tuple[Sequence[Message], Sequence[Tool]]


@dataclass(frozen=True)
class Caller:
    """A model with its template and format. Call it with a text, or with messages, and tools."""

    loaded: LoadedModel
    template: Template
    decoder: Decoder
    run: Run | None = None
    trained: bool = False  # on this template: it writes the mark of a plan also where the template wrote it
    copied: Mapping[str, Sequence[str]] = field(default_factory=dict)  # parameters that take words of what was said
    said: Said = field(default_factory=dict)  # parameters whose values were said, by kind
    distinct: bool = False  # a call that a reply makes again is made once
    kept: dict[Any, tuple[Grammar, tuple[Tool, ...]]] = field(default_factory=dict)  # grammars of the last tools
    beginnings: dict[Any, tuple[tuple[int, ...], tuple[Tool, ...]]] = field(default_factory=dict)  # of their prompts

    def __call__(
        self,
        request: str | Sequence[Message],
        tools: Any = None,
        *,
        max_tokens: int = 512,
        sampling: Sampling | None = None,
        open_thinking: bool = False,
        rules: Rules | None = None,
    ) -> Reply:
        """One reply to a text or to messages. `tools` is whatever `calltune.tools_from` reads (None: those that
        the run was trained on); `open_thinking` writes the opening `<think>` for the model. With `rules`, only calls
        that fit the tools' schemas can come. Raises InputError: rules that the tools do not allow, a prompt that
        leaves no room in the model's context (TooLong)."""
        messages = (Message("user", request),) if isinstance(request, str) else tuple(request)
        offered = self.tools if tools is None else as_tools(tools)
        ids = prompt_ids(messages, offered, self.template, self.loaded.tokenizer, open_thinking=open_thinking)
        max_tokens = min(max_tokens, room_for(len(ids), self.context))
        open_thinking = open_thinking or self.opened(ids)
        grammar = self.grammar(offered, rules, open_thinking)
        self._share(messages, offered, ids)
        made: list[Generated] = []
        stream = generate_stream(self.decoder, ids, max_tokens=max_tokens, sampling=sampling,
                                 guide=self.guide(grammar, (messages, offered)), on_done=made.append)  # fmt: skip
        list(stream)
        return self.parse(made[0], open_thinking, offered, grammar)

    def freed(self) -> Caller:
        """The same, whose values may be any, said or not."""
        return replace(self, copied={}, said={}, distinct=False)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that the run was trained on; none for a base model."""
        return self.run.tools() if self.run else ()

    @cached_property
    def context(self) -> int | None:
        """The tokens that the model was made for, prompt and reply together; None where it does not say."""
        return context_length(self.loaded.folder)

    def batch(
        self,
        requests: Sequence[Request],
        *,
        max_tokens: int = 256,
        batch_size: int = 32,
        sampling: Sampling | None = None,
        rules: Rules | None = None,
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """Replies to many requests, in their order; prompts that start alike share that work. Long prompts run in
        smaller batches than `batch_size`, as memory grows with a batch's tokens."""
        prompts = self._prompts(requests)
        opened = [self.opened(ids) for ids in prompts]
        grammars = [self.grammar(t, rules, o) for (_, t), o in zip(requests, opened, strict=True)]
        replies: dict[int, Reply] = {}
        for group, size in groups_of(prompts, batch_size):

            def done(index: int, generated: Generated, group: Sequence[int] = group) -> None:
                i = group[index]
                replies[i] = self.parse(generated, opened[i], requests[i][1], grammars[i])
                if on_reply:
                    on_reply(group[index], replies[group[index]])

            generate_batch(self.decoder, [prompts[i] for i in group], max_tokens=max_tokens, batch_size=size,
                           sampling=sampling, guides=[self._guide_maker(grammars[i], requests[i]) for i in group],
                           on_done=done)  # fmt: skip
        return [replies[i] for i in range(len(requests))]

    def lengths(self, requests: Sequence[Request]) -> list[int]:
        """The lengths of the prompts of requests in tokens."""
        return [len(ids) for ids in self._prompts(requests)]

    def _prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        return [prompt_ids(m, t, self.template, self.loaded.tokenizer) for m, t in requests]

    def stream(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, max_tokens: int = 512,
        sampling: Sampling | None = None, rules: Rules | None = None,
        on_done: Callable[[Reply], None] | None = None, on_prompt: Callable[[bool], None] | None = None,
    ) -> Iterator[str]:  # fmt: skip
        """The raw text of a reply, piece by piece. `on_prompt` is told before whether the prompt begins the plan,
        `on_done` the whole reply. Raises as a call does."""
        ids = prompt_ids(messages, tools, self.template, self.loaded.tokenizer)
        max_tokens = min(max_tokens, room_for(len(ids), self.context))
        opened = self.opened(ids)
        if on_prompt:
            on_prompt(opened)
        grammar = self.grammar(tools, rules, opened)
        guide = self.guide(grammar, (messages, tools))
        self._share(messages, tools, ids)

        def done(generated: Generated) -> None:
            if on_done:
                on_done(self.parse(generated, opened, tools, grammar))

        made: list[int] = []
        shown = text = ""
        for token in generate_stream(
            self.decoder, ids, max_tokens=max_tokens, sampling=sampling, guide=guide, on_done=done
        ):
            made.append(token)
            text = self.loaded.tokenizer.decode(made)
            if not text.endswith("\ufffd"):  # a character that is not whole yet
                yield text[len(shown) :]
                shown = text
        if text != shown:  # it never became whole
            yield text[len(shown) :]

    def grammar(self, tools: Sequence[Tool], rules: Rules | None, open_thinking: bool = False) -> Grammar | None:
        """What replies to a request with these tools are bound to; None without rules. Raises InputError."""
        if rules is None:
            return None
        key = (tuple(map(id, tools)), rules, open_thinking)
        found = self.kept.get(key)
        if found is None:
            made = grammar_of(tools, rules, self.template, self.loaded.tokenizer, open_thinking=open_thinking)
            found = remember(self.kept, key, (made, tuple(tools)))
        return found[0]

    def opened(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends with the mark that begins a plan, so that the reply goes on in it. A model that was
        trained here writes that mark in any case: so its examples are rendered."""
        if self.trained:
            return False
        return begins_plan(self.template.format, self.loaded.tokenizer.decode(ids[-PLAN_TOKENS:]))

    def guide(self, grammar: Grammar | None, request: Request | None = None) -> Guide | None:
        """What a reply is bound to: the grammar, and for copied values the words of the request."""
        maker = self._guide_maker(grammar, request)
        return maker() if maker else None

    def _guide_maker(self, grammar: Grammar | None, request: Request | None) -> Callable[[], Guide] | None:
        tokenizer, stop_ids = self.loaded.tokenizer, self.decoder.stop_ids
        bound = partial(GrammarGuide, grammar, tokenizer, stop_ids) if grammar else None
        if request is None or not (self.copied or self.said):
            return bound
        (messages, tools), frame = request, frame_of(self.template)
        copied, listed = copied_of(self.copied, tools), listed_of(self.said, tools, messages)
        planned = self.said and tools and self.template.think_instruction is not None
        if not (copied or listed or planned):
            return bound
        lacking = lacking_of(self.said, tools, messages) if planned and not (grammar and grammar.must) else {}
        vocabulary = vocabulary_of(tokenizer, stop_ids)

        def make() -> Guide:
            guide: Any = bound() if bound else None
            if copied or listed:
                guide = Copying(copied, messages, frame, vocabulary, guide, listed)
            if planned:
                names = [tool.name for tool in tools]
                guide = Grounded(lacking, names, frame, tokenizer, vocabulary, guide)
            return guide

        return make

    def _share(self, messages: Sequence[Message], tools: Sequence[Tool], ids: Sequence[int]) -> None:
        """Have the beginning of a prompt in the cache."""
        use_prefix(self.decoder, self.beginning(messages, tools, ids))

    def beginning(self, messages: Sequence[Message], tools: Sequence[Tool], ids: Sequence[int]) -> tuple[int, ...]:
        """The part of a prompt that every request with these tools begins with: up to where the prompt of another
        request differs. That other prompt is made once for the same tools and system message."""
        system = tuple(messages[:1]) if messages and messages[0].role == "system" else ()
        key = (tuple(map(id, tools)), system[0].content if system else None)
        found = self.beginnings.get(key)
        if found is None or tuple(ids[: len(found[0])]) != found[0]:
            other = prompt_ids((*system, Message("user", OTHER)), tools, self.template, self.loaded.tokenizer)
            length = shared_length(ids, other)
            found = remember(self.beginnings, key, (tuple(ids[:length]), tuple(tools)))
        return found[0][: len(ids) - 1]

    def parse(
        self,
        generated: Generated,
        open_thinking: bool = False,
        tools: Sequence[Tool] = (),
        grammar: Grammar | None = None,
    ) -> Reply:
        """What was generated as a reply; `raw` is the text as it was written."""
        text = self.loaded.tokenizer.decode(generated.ids)
        reply = self.parse_text(text, generated.truncated, open_thinking, tools)
        return replace(reply, notes=(*reply.notes, *check_loose(reply, grammar, tools))) if grammar else reply

    def parse_text(
        self, text: str, truncated: bool = False, open_thinking: bool = False, tools: Sequence[Tool] = ()
    ) -> Reply:
        """A reply's text, as `stream` gives it, as a reply."""
        reply = get_format(self.template.format).parse(text, thinking_open=open_thinking, tools=tools)
        reply = without_repeats(reply) if self.distinct else reply
        return replace(reply, truncated=truncated)

    def read_again(self, request: Request, text: str, truncated: bool) -> Reply:
        """The text of a reply to a request, kept from before, as a reply."""
        opened = not self.trained and self.opened(self._prompts([request])[0])
        return self.parse_text(text, truncated, opened, request[1])


def remember(kept: dict[Any, Any], key: Any, value: Any) -> Any:
    """Keeps the last few. A key has the ids of tools, so they stand in the value too: their ids stay theirs."""
    kept[key] = value
    while len(kept) > REMEMBERED:
        del kept[next(iter(kept))]
    return value


def groups_of(prompts: Sequence[Sequence[int]], batch_size: int) -> list[tuple[list[int], int]]:
    """(indices, batch size) of prompts that can run in batches of one size: the batches of like length that hold at
    most BATCH_TOKENS beside the prefix that all share. Short ones are one group in their order."""
    if not prompts:
        return []
    shared = shared_length(min(map(tuple, prompts)), max(map(tuple, prompts)))
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        own = max(1, len(prompt) - shared)
        size = batch_size
        while size > 1 and size * own > BATCH_TOKENS:
            size //= 2
        groups.setdefault(size, []).append(i)
    return [(groups[size], size) for size in sorted(groups, reverse=True)]


def load(
    name: str | Path | Run,
    *,
    dtype: Dtype = "auto",
    think: bool = True,
    keep_prefixes: bool = False,
    copying: bool = True,
) -> Caller:
    """A run (template, format and adapter come with it) or a base model, ready to call. `keep_prefixes`: the work on
    the tools' part of prompts is kept on disk for the next process. `copying`: replies keep to what was said
    as all training rows do (docs/formats.md). Raises InputError."""
    run = name if isinstance(name, Run) else None
    if not isinstance(name, Run):
        run = find_run(name)
    if run is None:
        loaded = load_model(str(name), dtype)
        caller = make_caller(loaded, choose_template(loaded.tokenizer, think=think))
    else:
        recorded = run.record["model"]["dtype"]
        loaded = load_model(run.base, dtype if dtype != "auto" or recorded != "quantized" else "quantized")
        read_adapter(loaded.model, run.folder)
        caller = make_caller(loaded, run.template, run)
    caller = caller if copying else caller.freed()
    if keep_prefixes:
        caller.decoder.kept = Kept(cache_dir() / "prefixes", json.dumps(identity(caller), sort_keys=True))
    return caller


def identity(caller: Caller) -> dict[str, Any]:
    """What decides a model's numbers: its weights, adapter and precision, as JSON."""
    loaded = caller.loaded
    weights = sorted(path for path in loaded.folder.glob("*.safetensors"))
    adapter = caller.run.folder / "adapters.safetensors" if caller.run else None
    return {
        "model": loaded.name, "dtype": loaded.dtype,
        "weights": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in weights],
        "adapter": sha256_file(adapter) if adapter else None,
    }  # fmt: skip


def find_run(name: str | Path) -> Run | None:
    """The run in that folder; None where it is a base model's name. Raises InputError for an unfinished run."""
    folder = Path(name).expanduser()
    if is_run(folder):
        return read_run(folder)
    if is_run(folder / "run"):
        raise InputError(f"{folder} is a demo's folder; its run lies in {folder / 'run'}",
                         next_step=f"name {folder / 'run'}")  # fmt: skip
    local = folder.parent != Path() and (folder.parent.is_dir() or folder.parts[0] in ("runs", "demo"))
    if local and not folder.exists():  # a mistyped folder would be looked for on the hub
        near = sorted(path.name for path in folder.parent.glob("*") if is_run(path))[:8]
        raise InputError(f"there is no run or model in {folder}",
                         next_step=f"runs there: {', '.join(near)}" if near else "check the path")  # fmt: skip
    return None


def make_caller(loaded: LoadedModel, template: Template, run: Run | None = None) -> Caller:
    """A caller from a model in memory. Replies end at the template's stop token as well as the model's own."""
    stop = loaded.tokenizer.encode(template.stop) if template.stop else []
    ids = loaded.tokenizer.stop_ids | (set(stop) if len(stop) == 1 else set())
    record = run.record if run and copies(template) else {}
    return Caller(loaded, template, Decoder(loaded.model, frozenset(ids)), run, run is not None,
                  record.get("copied", {}), record.get("said", {}), record.get("distinct", False))  # fmt: skip


def as_tools(value: Any) -> tuple[Tool, ...]:
    """Tools as they are, or read from functions, files or dictionaries."""
    if isinstance(value, (tuple, list)) and all(isinstance(tool, Tool) for tool in value):
        return tuple(value)
    return tuple(tools_from(value))
