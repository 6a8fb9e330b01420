"""Where functions come from: a callable, a Python file, an OpenAI or MCP tool list."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from calltune.errors import InputError, Problem
from calltune.functions.docstrings import read_docstring
from calltune.functions.hints import UnsupportedHint, default_of, schema_of
from calltune.schema import Tool, shorten

MARK = "__calltune_tool__"
CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$")  # in a docstring, as transformers reads it
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Function:
    """A tool with the code behind it. `call` is None where only the schema is known (a JSON tool list).

    `pure`: the author says that calling it changes nothing outside and costs nothing, so that it may be
    executed to make training data, and by an agent without asking. `untyped`: the arguments go in as the JSON values
    that they are; the schema alone says what they may be, not type hints.
    """

    tool: Tool
    call: Callable[..., Any] | None = None
    pure: bool = False
    untyped: bool = False

    @property
    def name(self) -> str:
        return self.tool.name


@typing.overload
def tool(function: F) -> F: ...
@typing.overload
def tool(*, pure: bool = False) -> Callable[[F], F]: ...
def tool(function: F | None = None, *, pure: bool = False) -> F | Callable[[F], F]:
    """Marks a function as a tool: `@tool` or `@tool(pure=True)`. It sets an attribute and nothing else.

    In a file where at least one function is marked, only the marked ones are offered to the model.
    """

    def mark(target: F) -> F:
        setattr(target, MARK, {"pure": pure})
        return target

    return mark if function is None else mark(function)


def tool_from(function: Callable[..., Any]) -> Tool:
    """The tool that a callable is: name, docstring and type hints as a JSON Schema.

    Raises InputError with every problem of the function: a parameter without a type hint, `*args` or
    `**kwargs`, a type that JSON Schema has no words for.
    """
    name = getattr(function, "__name__", None) or type(function).__name__
    try:
        signature = inspect.signature(function)
        hints = type_hints(function)
    except (NameError, TypeError, ValueError) as error:
        problem = Problem("unreadable_function", f"{name}: {error}", "a Python function with type hints")
        raise InputError(f"{name} cannot be a tool", problems=[problem]) from None
    doc = read_docstring(inspect.getdoc(function))
    problems: list[Problem] = []
    properties: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        try:
            properties[parameter.name] = _parameter_schema(parameter, hints, doc.parameters)
        except UnsupportedHint as error:
            place = f"{name}({parameter.name})"
            problems.append(Problem("unsupported_parameter", f"{place}: {error}", _HINTS))
    if problems:
        step = "give every parameter a type hint from the list, or mark other functions with @tool"
        raise InputError(f"{name} cannot be a tool", problems=problems, next_step=step)
    empty = inspect.Parameter.empty
    required = [p.name for p in signature.parameters.values() if p.default is empty]
    return Tool(name, doc.description, {"type": "object", "properties": properties, "required": required})


_HINTS = "str, int, float, bool, list[...], dict[str, ...], Literal, Enum, date, a dataclass, X | None"


def type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Resolved hints of a function, a method or an object with `__call__`. Raises NameError, TypeError."""
    target = inspect.unwrap(function)
    target = getattr(target, "func", target)  # functools.partial
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        target = type(target).__call__
    if inspect.isclass(target):
        target = target.__init__
    return typing.get_type_hints(target, include_extras=True)


def _parameter_schema(
    parameter: inspect.Parameter, hints: Mapping[str, Any], notes: Mapping[str, str]
) -> dict[str, Any]:
    """Schema, description and default of one parameter. Raises UnsupportedHint."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        raise UnsupportedHint(f"*{parameter.name} cannot be described to a model")
    if parameter.kind is parameter.VAR_KEYWORD:
        raise UnsupportedHint(f"**{parameter.name} cannot be described to a model")
    if parameter.name not in hints:
        raise UnsupportedHint("no type hint")
    if type(parameter.default).__module__.startswith("pydantic."):  # it would be given to the function as it is
        raise UnsupportedHint("Field(...) as a default; write Annotated[TYPE, Field(...)] = VALUE")
    schema = schema_of(hints[parameter.name])
    note = notes.get(parameter.name) or schema.pop("description", None)
    if note and (choices := CHOICES.search(note)) and (values := _choices(choices[1])):
        note = note[: choices.start()].rstrip()
        schema["enum"] = values
    schema |= {"description": note} if note else {}
    return schema if parameter.default is parameter.empty else schema | default_of(parameter.default)


def _choices(text: str) -> list[Any]:
    """The values of a list in JSON; none where it is no such list."""
    try:
        values = json.loads(text)
    except ValueError:
        return []
    return values if isinstance(values, list) else []


def functions_from(source: Any) -> list[Function]:
    """The functions of a source, in its order, each with its tool.

    `source` is a callable, a Tool, a Function, an OpenAI or MCP tool dictionary, a list of these, or a
    path: a `.json` file holds an OpenAI tool list; **a `.py` file is imported, which executes it**, so
    name only files that you trust. Of a Python file the functions in `__all__` count; without it those
    marked `@tool`; without any mark the public functions that the file defines. Raises InputError with
    all problems of the source.
    """
    items: Any
    if isinstance(source, (str, Path)):
        path = Path(source)
        items = _read_python(path) if path.suffix == ".py" else _read_json(path)
        origin = str(path)
    else:
        single = callable(source) or isinstance(source, (Tool, Function, Mapping))
        origin, items = "the tools", [source] if single else source
        if isinstance(source, Mapping) and isinstance(source.get("tools"), list):
            items = source["tools"]
    if not isinstance(items, Iterable):
        problem = Problem("bad_tool", shorten(source), "a function, a tool list, a .py or a .json file")
        raise InputError("the tools cannot be read", problems=[problem],
                         next_step="give functions, their file, or a list of OpenAI tools")  # fmt: skip
    functions: list[Function] = []
    problems: list[Problem] = []
    for i, item in enumerate(items):
        try:
            functions.append(_function(item, f"/{i}"))
        except InputError as error:
            problems += error.problems
    names = [function.name for function in functions]
    for name in dict.fromkeys(n for n in names if names.count(n) > 1):
        problems.append(Problem("duplicate_tool", name, "one tool a name"))
    if problems:
        step = "correct these functions, or choose others with __all__ or @tool"
        raise InputError(f"{origin}: some tools cannot be read", problems=problems, next_step=step)
    if not functions:
        problem = Problem("no_tools", origin, "at least one public function or tool")
        raise InputError(f"{origin} has no tools", problems=[problem],
                         next_step="write a function with type hints there, or name another file")  # fmt: skip
    return functions


def tools_from(source: Any) -> list[Tool]:
    """The tools of a source (see `functions_from`). A `.py` file is imported, which executes it."""
    return [function.tool for function in functions_from(source)]


def _function(item: Any, path: str) -> Function:
    if isinstance(item, Function):
        return item
    if isinstance(item, Tool):
        return Function(item)
    if isinstance(item, Mapping):
        if "inputSchema" in item:  # Model Context Protocol
            item = {**item, "parameters": item["inputSchema"]}
        found = Tool.from_openai(item, path)
        check_schema(found, path)
        return Function(found)
    if not callable(item):
        problem = Problem("bad_tool", shorten(item), "a function or an OpenAI tool dictionary", path)
        raise InputError("a tool could not be read", problems=[problem])
    return Function(tool_from(item), item, bool(getattr(item, MARK, {}).get("pure", False)))


def check_schema(found: Tool, path: str = "") -> None:
    """Raises InputError if the tool's parameters are not a JSON Schema."""
    try:
        Draft202012Validator.check_schema(dict(found.parameters))
    except SchemaError as error:
        place = "".join(f"/{part}" for part in error.absolute_path)
        words = f"{found.name}: {shorten(error.message)}"
        problem = Problem("bad_schema", words, "JSON Schema", f"{path}/parameters{place}")
        raise InputError("a tool could not be read", problems=[problem]) from None


def _read_json(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unreadable(path, f"not JSON: {error}") from None
    if isinstance(value, Mapping):
        value = value.get("tools", [value])
    if not isinstance(value, list):
        raise _unreadable(path, f"holds {shorten(value)}, not a list of tools")
    return value


def _unreadable(path: Path, why: str) -> InputError:
    problem = Problem("unreadable_file", f"{path}: {why}", "a Python file or an OpenAI tools JSON file")
    return InputError(f"{path} cannot be read", problems=[problem], next_step="check the path and the file")


def _read_python(path: Path) -> list[Callable[..., Any]]:
    """Imports the file and picks its functions, in the order in which the file defines them."""
    module = _import_file(path)
    functions = {n: v for n, v in vars(module).items() if inspect.isroutine(v) and not inspect.isbuiltin(v)}
    if hasattr(module, "__all__"):
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        if missing:
            raise _unreadable(path, f"__all__ names what the file lacks: {', '.join(missing)}")
        return [functions[name] for name in module.__all__ if name in functions]
    marked = [value for value in functions.values() if hasattr(value, MARK)]
    own = [v for n, v in functions.items() if not n.startswith("_") and v.__module__ == module.__name__]
    return list(dict.fromkeys(marked or own))


def _import_file(path: Path) -> ModuleType:
    """Runs a Python file as a module under a private name; its folder is importable meanwhile."""
    if not path.is_file():
        raise _unreadable(path, "there is no such file")
    name = f"_calltune_tools_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _unreadable(path, "Python cannot import it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and get_type_hints look the module up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else "?")
        raise _unreadable(path, f"line {line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
