"""The models of a server: a run, and the model that it was trained on, with the same weights in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from calltune.caller import Caller, identity, make_caller, remember
from calltune.engine.adapter import has_base, without_adapter
from calltune.engine.kept import Kept
from calltune.engine.load import warm
from calltune.engine.pieces import PIECE, device_kind
from calltune.engine.running import Running
from calltune.grammar import Grammar
from calltune.grammar_json import json_grammar
from calltune.schema import Tool

PREFIX_MEMORY = 512 << 20  # bytes of tools' keys and values that are kept, of all models together


@dataclass
class Served:
    """One model with its replies under way. `base`: it runs without the adapter that is in memory."""

    name: str
    caller: Caller
    running: Running
    context: int | None  # tokens
    base: bool = False
    tools: dict[str, tuple[Tool, ...]] = field(default_factory=dict)  # the last sets, by their text
    schemas: dict[str, Grammar] = field(default_factory=dict)

    def active(self) -> AbstractContextManager[None]:
        """To be entered while the model runs."""
        return without_adapter(self.caller.loaded.model) if self.base else nullcontext()

    def known(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """The same tools as objects that were asked with before: what a caller keeps for tools goes by object."""
        key = json.dumps([tool.to_openai() for tool in tools])
        found = self.tools.get(key)
        return found if found is not None else remember(self.tools, key, tuple(tools))

    def schema_grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """Raises InputError."""
        key = json.dumps(schema)
        found = self.schemas.get(key)
        if found is None:
            found = json_grammar(schema)
            remember(self.schemas, key, found)
        return found


def served_models(caller: Caller, name: str, *, base: bool = True) -> dict[str, Served]:
    """By name: the caller's model, and, if it has an adapter, `NAME:base`: the same without it, prompted alike."""
    model, context = caller.loaded.model, caller.context
    warm(model)
    found = {name: Served(name, caller, _running(caller), context)}
    if base and has_base(model):
        with without_adapter(model):  # the decoder tries out how the model can be run
            plain = make_caller(caller.loaded, caller.template)
            warm(model)
        if caller.decoder.kept.folder is not None:
            plain.decoder.kept = Kept(caller.decoder.kept.folder, json.dumps(identity(plain), sort_keys=True))
        found[f"{name}:base"] = Served(f"{name}:base", plain, _running(plain), context, base=True)
    for served in found.values():
        served.caller.decoder.kept.memory = PREFIX_MEMORY // len(found)
    return found


def _running(caller: Caller) -> Running:
    return Running(caller.decoder, PIECE[device_kind()])
