"""A model that is ready to call functions: what `calltune.load` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calltune.engine.adapter import read_adapter
from calltune.engine.decode import Decoder, Generated, Sampling, generate_batch, generate_stream
from calltune.engine.load import Dtype, LoadedModel
from calltune.engine.load import load as load_model
from calltune.errors import InputError
from calltune.formats import get_format
from calltune.functions import tools_from
from calltune.render import prompt_ids
from calltune.runs import Run, is_run, read_run
from calltune.schema import Message, Reply, Tool
from calltune.template import Template, choose_template

BATCH_TOKENS = 32_768  # of prompts side by side: 32 of a thousand tokens
Request = tuple[Sequence[Message], Sequence[Tool]]


@dataclass(frozen=True)
class Caller:
    """A model with its template and format. Call it with a text, or with messages, and tools."""

    loaded: LoadedModel
    template: Template
    decoder: Decoder
    run: Run | None = None

    def __call__(
        self,
        request: str | Sequence[Message],
        tools: Any = None,
        *,
        max_tokens: int = 512,
        sampling: Sampling | None = None,
        open_thinking: bool = False,
    ) -> Reply:
        """One reply to a text or to messages. `tools` is whatever `calltune.tools_from` reads (None: those that
        the run was trained on); `open_thinking` writes the opening `<think>` for the model."""
        messages = (Message("user", request),) if isinstance(request, str) else tuple(request)
        offered = self.tools if tools is None else as_tools(tools)
        ids = prompt_ids(messages, offered, self.template, self.loaded.tokenizer, open_thinking=open_thinking)
        made = list(generate_stream(self.decoder, ids, max_tokens=max_tokens, sampling=sampling))
        return self.parse(Generated(tuple(made), len(made) >= max_tokens), open_thinking)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that the run was trained on; none for a base model."""
        return self.run.tools() if self.run else ()

    def batch(
        self,
        requests: Sequence[Request],
        *,
        max_tokens: int = 256,
        batch_size: int = 32,
        sampling: Sampling | None = None,
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """Replies to many requests, in their order; prompts that start alike share that work. Long prompts run in
        smaller batches than `batch_size`, as memory grows with a batch's tokens."""
        prompts = self._prompts(requests)
        replies: dict[int, Reply] = {}
        for group, size in groups_of(prompts, batch_size):

            def done(index: int, generated: Generated, group: Sequence[int] = group) -> None:
                replies[group[index]] = self.parse(generated)
                if on_reply:
                    on_reply(group[index], replies[group[index]])

            generate_batch(self.decoder, [prompts[i] for i in group], max_tokens=max_tokens, batch_size=size,
                           sampling=sampling, on_done=done)  # fmt: skip
        return [replies[i] for i in range(len(requests))]

    def lengths(self, requests: Sequence[Request]) -> list[int]:
        """The lengths of the prompts of requests in tokens."""
        return [len(ids) for ids in self._prompts(requests)]

    def _prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        return [prompt_ids(m, t, self.template, self.loaded.tokenizer) for m, t in requests]

    def stream(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, max_tokens: int = 512,
        sampling: Sampling | None = None,
    ) -> Iterator[str]:  # fmt: skip
        """The raw text of a reply, piece by piece."""
        ids = prompt_ids(messages, tools, self.template, self.loaded.tokenizer)
        made: list[int] = []
        shown = text = ""
        for token in generate_stream(self.decoder, ids, max_tokens=max_tokens, sampling=sampling):
            made.append(token)
            text = self.loaded.tokenizer.decode(made)
            if not text.endswith("\ufffd"):  # a character that is not whole yet
                yield text[len(shown) :]
                shown = text
        if text != shown:  # it never became whole
            yield text[len(shown) :]

    def parse(self, generated: Generated, open_thinking: bool = False) -> Reply:
        """What was generated as a reply; `raw` is the text as it was written."""
        return self.parse_text(self.loaded.tokenizer.decode(generated.ids), generated.truncated, open_thinking)

    def parse_text(self, text: str, truncated: bool = False, open_thinking: bool = False) -> Reply:
        """A reply's text, as `stream` gives it, as a reply."""
        reply = get_format(self.template.format).parse(text, thinking_open=open_thinking)
        return replace(reply, truncated=truncated)


def groups_of(prompts: Sequence[Sequence[int]], batch_size: int) -> list[tuple[list[int], int]]:
    """(indices, batch size) of prompts that can run in batches of one size: the batches of like length that hold at
    most BATCH_TOKENS beside the prefix that all share. Short ones are one group in their order."""
    if not prompts:
        return []
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        own = max(1, len(prompt) - shared)
        size = batch_size
        while size > 1 and size * own > BATCH_TOKENS:
            size //= 2
        groups.setdefault(size, []).append(i)
    return [(groups[size], size) for size in sorted(groups, reverse=True)]


def load(name: str | Path | Run, *, dtype: Dtype = "auto", think: bool = True) -> Caller:
    """A run (template, format and adapter come with it) or a base model, ready to call. Raises InputError."""
    run = name if isinstance(name, Run) else None
    if not isinstance(name, Run):
        run = find_run(name)
    if run is None:
        loaded = load_model(str(name), dtype)
        return make_caller(loaded, choose_template(loaded.tokenizer, think=think))
    recorded = run.record["model"]["dtype"]
    loaded = load_model(run.base, dtype if dtype != "auto" or recorded != "quantized" else "quantized")
    read_adapter(loaded.model, run.folder)
    return make_caller(loaded, run.template, run)


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
    return Caller(loaded, template, Decoder(loaded.model, frozenset(ids)), run)


def as_tools(value: Any) -> tuple[Tool, ...]:
    """Tools as they are, or read from functions, files or dictionaries."""
    if isinstance(value, (tuple, list)) and all(isinstance(tool, Tool) for tool in value):
        return tuple(value)
    return tuple(tools_from(value))
