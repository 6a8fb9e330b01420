"""Python functions as tools: type hints and docstring to a schema, and safe execution of a call."""

from calltune.functions.execute import execute
from calltune.functions.read import Function, check_schema, functions_from, tool, tool_from, tools_from

__all__ = ["Function", "check_schema", "execute", "functions_from", "tool", "tool_from", "tools_from"]
