"""Python functions as tools: type hints and docstring to a schema, and safe execution of a call."""

from calltune.functions.execute import MAX_OUTPUT, TIMEOUT, Outcome, execute, execute_async, refused
from calltune.functions.read import Function, check_schema, functions_from, tool, tool_from, tools_from

__all__ = [
    "MAX_OUTPUT",
    "TIMEOUT",
    "Function",
    "Outcome",
    "check_schema",
    "execute",
    "execute_async",
    "functions_from",
    "refused",
    "tool",
    "tool_from",
    "tools_from",
]
