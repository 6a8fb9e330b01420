"""calltune teaches a small local language model to call your functions, and proves that it learned.

    import calltune

    data = calltune.synthesise("my_tools.py")
    run = calltune.train(model="smollm2-135m", data=data, out="runs/mine")
    print(calltune.evaluate(run, baseline="base").after["call_exact_match"])
    reply = calltune.load(run)("Set a timer for five minutes")

The names below are all that is public; each is imported when it is first used (PEP 562), so that
`import calltune` costs nothing and loads neither MLX nor transformers.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from calltune._version import __version__

# OpenBLAS's idle threads spin for 2^26 cycles after each product, on the cores that NumPy's work needs next.
# The libraries read this when they are loaded, so it stands before any import; a user's own value stays.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "8")

if TYPE_CHECKING:
    from calltune.agent import Agent
    from calltune.api import train
    from calltune.caller import Caller, load
    from calltune.data.readers import load_conversations as read
    from calltune.data.synthesise import synthesise
    from calltune.errors import InputError
    from calltune.evaluate import evaluate
    from calltune.functions import tool, tools_from
    from calltune.functions.mcp_tools import McpServer
    from calltune.runs import Run
    from calltune.schema import Conversation, Message, Reply, Tool, ToolCall
    from calltune.settings import TrainSettings

__all__ = [
    "Agent",
    "Caller",
    "Conversation",
    "InputError",
    "McpServer",
    "Message",
    "Reply",
    "Run",
    "Tool",
    "ToolCall",
    "TrainSettings",
    "__version__",
    "evaluate",
    "load",
    "read",
    "synthesise",
    "tool",
    "tools_from",
    "train",
]

# public name -> module that has it, and its name there
_HOMES = {
    "Agent": ("agent", "Agent"),
    "Caller": ("caller", "Caller"),
    "Conversation": ("schema", "Conversation"),
    "InputError": ("errors", "InputError"),
    "McpServer": ("functions.mcp_tools", "McpServer"),
    "Message": ("schema", "Message"),
    "Reply": ("schema", "Reply"),
    "Run": ("runs", "Run"),
    "Tool": ("schema", "Tool"),
    "ToolCall": ("schema", "ToolCall"),
    "TrainSettings": ("settings", "TrainSettings"),
    "evaluate": ("evaluate", "evaluate"),
    "load": ("caller", "load"),
    "read": ("data.readers", "load_conversations"),
    "synthesise": ("data.synthesise", "synthesise"),
    "tool": ("functions", "tool"),
    "tools_from": ("functions", "tools_from"),
    "train": ("api", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'calltune' has no attribute {name!r}")
    home, there = _HOMES[name]
    value = getattr(importlib.import_module(f"calltune.{home}"), there)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `calltune.train` and `calltune.evaluate` the functions: Python would bind the modules of these names
    over them whenever something first imports one. `from calltune.train import ...` works as ever."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
