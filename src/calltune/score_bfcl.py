"""Is this the answer that a BFCL v4 case accepts? The rules of the official AST checker, for Python categories.

Written by us after the official rules (github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard,
`eval_checker`), and held against its verdicts by tests. They are lenient in places and strict in others, and both
are kept, since a score means something only where everybody counts alike:

- types are Python's own and exact (True is no integer); a whole number is a float, but only as an argument, not in
  a list; below the items of a list nothing is checked for its type;
- a value of the same type as the accepted ones passes as a "variable", and is then compared letter by letter;
- texts are compared without spaces, case and `,./-_*^`, with one kind of quotes;
- an accepted value `""` means that the argument may be left out;
- parallel calls are matched in the order of the answers, each with the first call that fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from calltune.schema import shorten

Names = Literal["dotted", "underscored"]
PYTHON_TYPES: Mapping[str, type] = {
    "string": str, "any": str, "integer": int, "float": float, "boolean": bool,
    "array": list, "tuple": list, "dict": dict,
}  # fmt: skip
LIST_TYPES = ("array", "tuple")
IGNORED = re.compile(r"[ ,./\-_*^]")
LEFT_OUT = ""  # an accepted value that means: need not be given


@dataclass(frozen=True)
class BfclCase:
    """A case of BFCL: the functions on offer and, where there is one right answer, its calls with the accepted
    values. `messages` are those of its question."""

    id: str
    category: str
    messages: tuple[Mapping[str, Any], ...] = ()
    functions: tuple[Mapping[str, Any], ...] = ()
    answers: tuple[Mapping[str, Any], ...] = ()

    @property
    def needs_call(self) -> bool:
        return "irrelevance" not in self.category


@dataclass(frozen=True)
class Fault:
    """What the checker objects to: the official `error_type`, and one plain sentence. `inner` has the faults of the
    calls that were tried for an answer of several."""

    error: str
    reason: str
    inner: tuple[Fault, ...] = field(default=(), compare=False)


def check_calls(case: BfclCase, calls: Any, names: Names = "dotted") -> Fault | None:
    """What is wrong with the calls (`[{"name", "arguments"}]`) as the answer to a case; None: they are valid.

    Never raises for what a prediction holds: what the official tool cannot decode is a fault like any other.
    """
    try:
        return _check(case, calls, names)
    except RecursionError:
        return Fault("ast_decoder:decoder_failed", "nested too deep")


def _check(case: BfclCase, calls: Any, names: Names) -> Fault | None:
    decoded = decode(calls)
    wrong_form = decoded if isinstance(decoded, Fault) else _form_fault(decoded)
    if "relevance" in case.category:  # irrelevance as well: only whether there was a call counts
        called = wrong_form is None and bool(decoded)
        if called == case.needs_call:
            return None
        if called:
            return Fault("irrelevance_error:decoder_success", "called a function where none is right")
        why = wrong_form.reason if wrong_form else "no function was called"
        return Fault("relevance_error:decoder_failed", why)
    if wrong_form is not None or isinstance(decoded, Fault):
        return wrong_form
    return _check_answers(case, decoded, names)


Decoded = list[tuple[str, Any]]


def decode(calls: Any) -> Decoded | Fault:
    """The calls as (name, arguments). Arguments may be given as JSON text, as OpenAI's messages have them."""
    failed = "ast_decoder:decoder_failed"
    if not isinstance(calls, list):
        return Fault(failed, f"no list of calls could be read ({shorten(calls, 40)})")
    found: Decoded = []
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            return Fault(failed, f"a call is no object with a name ({shorten(call, 40)})")
        arguments = call.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                return Fault(failed, f"the arguments of {call['name']} are not JSON ({error})")
        found.append((call["name"], arguments))
    return found


def _form_fault(decoded: Decoded) -> Fault | None:
    for name, arguments in decoded:
        if not isinstance(arguments, dict):
            text = f"the arguments of {name} are no object ({shorten(arguments, 40)})"
            return Fault("ast_decoder:decoder_wrong_output_format", text)
    return None


def _check_answers(case: BfclCase, calls: Decoded, names: Names) -> Fault | None:
    parallel, multiple = "parallel" in case.category, "multiple" in case.category
    checker = "parallel_function_checker_no_order" if parallel else (
        "multiple_function_checker" if multiple else "simple_function_checker")  # fmt: skip
    wanted = len(case.answers) if parallel or multiple else 1
    if len(calls) != wanted:
        return Fault(f"{checker}:wrong_count", f"{len(calls)} calls where {wanted} are right")
    if parallel:
        return _match_all(case, calls, names)
    function = _described(case, case.answers[0]) if multiple else case.functions[0]
    return _check_call(function, calls[0], case.answers[0], names)


def _match_all(case: BfclCase, calls: Decoded, names: Names) -> Fault | None:
    """Every answer takes the first call that fits and is still free; no other pairing is tried."""
    free = list(calls)
    for answer in case.answers:
        function, tried = _described(case, answer), []
        for i, call in enumerate(free):
            fault = _check_call(function, call, answer, names)
            if fault is None:
                del free[i]
                break
            tried.append(fault)
        else:
            name = next(iter(answer))
            return Fault("parallel_function_checker_no_order:cannot_find_match",
                         f"no call fits the expected one of {name}", tuple(tried))  # fmt: skip
    return None


def _described(case: BfclCase, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function that an answer calls. Where the case does not offer it, one without parameters."""
    name = next(iter(answer))
    return next((f for f in case.functions if f.get("name") == name), {"name": name})


def shown_name(name: str, names: Names) -> str:
    """A function's name as the model was shown it: some interfaces allow no dots in names."""
    return name.replace(".", "_") if names == "underscored" else name


def _check_call(
    function: Mapping[str, Any], call: tuple[str, Any], answer: Mapping[str, Any], names: Names
) -> Fault | None:
    """The first fault of one call, in the official order: name, required, each argument as given, left out."""
    name, arguments = call
    accepted: Mapping[str, Any] = next(iter(answer.values()))
    expected = shown_name(str(function["name"]), names)
    if name != expected:
        return Fault("simple_function_checker:wrong_func_name", f"called {shorten(name, 60)}, expected {expected}")
    parameters = function.get("parameters", {})
    properties: Mapping[str, Any] = parameters.get("properties", {})
    for key in parameters.get("required", ()):
        if key not in arguments:
            return Fault("simple_function_checker:missing_required", f"argument {key} is missing")
    for key, value in arguments.items():
        if key not in properties or key not in accepted:
            return Fault("simple_function_checker:unexpected_param", f"argument {shorten(key, 60)} is not expected")
        if fault := _check_argument(key, value, properties[key], accepted[key]):
            return fault
    for key, values in accepted.items():
        if key not in arguments and LEFT_OUT not in values:
            return Fault("simple_function_checker:missing_optional", f"argument {key} may not be left out here")
    return None


def _check_argument(key: str, value: Any, schema: Mapping[str, Any], accepted: Sequence[Any]) -> Fault | None:
    kind = schema.get("type", "any")
    wanted = PYTHON_TYPES.get(kind, str)
    inner = PYTHON_TYPES.get(schema.get("items", {}).get("type", "any"), str) if kind in LIST_TYPES else None
    if kind == "float" and type(value) is int:
        try:
            value = float(value)
        except OverflowError:  # more digits than a float holds
            return Fault("value_error:others", f"argument {key} is too large a number")
    found = _check_type(value, wanted, inner, accepted)
    if isinstance(found, str):
        return Fault(found, f"argument {key} is {shorten(repr(value), 60)}, expected {_words(wanted, inner)}")
    checker: Checker = _plain if found else _checker(wanted, inner)  # a variable is compared as it is
    error = checker(value, accepted)
    if error is None:
        return None
    return Fault(error, f"argument {key} is {shorten(repr(value), 60)}, accepted: {shorten(repr(accepted), 60)}")


def _words(wanted: type, inner: type | None) -> str:
    return f"{wanted.__name__} of {inner.__name__}" if inner else wanted.__name__


def _first_type(accepted: Iterable[Any]) -> type | None:
    """The type of the accepted values; None where all say "left out"."""
    return next((type(value) for value in accepted if value != LEFT_OUT), None)


def _check_type(value: Any, wanted: type[Any], inner: type | None, accepted: Sequence[Any]) -> bool | str:
    """An error's name, or whether the value is to be taken as a variable. Items are checked one level deep."""
    given = _first_type(accepted)
    error = "type_error:simple"
    kind: type = type(value)  # never by isinstance: True is an int there
    if kind is wanted:
        if inner is None or any(_items_fit(value, inner, choice) for choice in accepted):
            return given is not None and given is not wanted
        if kind is given:
            return "type_error:nested"
    elif given is not None and kind is given:
        return True
    return error


def _items_fit(value: Sequence[Any], inner: type, choice: Any) -> bool:
    """Are the items of the type that the schema names, or of that of the accepted list? An accepted value that is
    no list (a variable, or "left out") asks nothing."""
    if type(choice) is not list:
        return True
    given = _first_type(choice)
    return all(type(item) is inner or (given is not None and type(item) is given) for item in value)


Checker = Callable[[Any, Sequence[Any]], str | None]


def _checker(wanted: type, inner: type | None) -> Checker:
    if wanted is dict:
        return _check_dict
    if wanted is list:
        return _check_dicts if inner is dict else _check_list
    return _check_text if wanted is str else _plain


def _plain(value: Any, accepted: Sequence[Any]) -> str | None:
    return None if value in accepted else "value_error:others"


def normal(value: Any) -> Any:
    """A text as the official checker compares texts; other values as they are."""
    return IGNORED.sub("", value).lower().replace("'", '"') if type(value) is str else value


def _check_text(value: str, accepted: Sequence[Any]) -> str | None:
    texts = [normal(choice) for choice in accepted if type(choice) is str]
    return None if normal(value) in texts else "value_error:string"


def _check_list(value: Sequence[Any], accepted: Sequence[Any]) -> str | None:
    """In order; texts in it normalised, those in lists inside it not. "Left out" accepts an empty list."""
    lists = [[normal(item) for item in choice] for choice in accepted if isinstance(choice, (list, str))]
    return None if [normal(item) for item in value] in lists else "value_error:list/tuple"


def _check_dict(value: Mapping[str, Any], accepted: Sequence[Any]) -> str | None:
    """The fault is that of the last accepted dictionary. Each of its keys has a list of accepted values."""
    error: str | None = "dict_checker:unclear"
    for choice in accepted:
        if choice == LEFT_OUT:
            continue
        error = _dict_fault(value, choice)
        if error is None:
            return None
    return error


def _dict_fault(value: Mapping[str, Any], choice: Any) -> str | None:
    if not isinstance(value, Mapping) or not isinstance(choice, Mapping):
        return "value_error:dict_value"
    if any(key not in value and LEFT_OUT not in values for key, values in choice.items()):
        return "value_error:dict_key"
    for key, item in value.items():
        if key not in choice:
            return "value_error:dict_key"
        if normal(item) not in [normal(one) for one in choice[key]]:
            return "value_error:dict_value"
    return None


def _check_dicts(value: Sequence[Any], accepted: Sequence[Any]) -> str | None:
    """A list of dictionaries, in order."""
    error: str | None = "list_dict_checker:unclear"
    for choice in accepted:
        if len(value) != len(choice):
            error = "value_error:list_dict_count"
            continue
        faults = (_check_dict(item, [wanted]) for item, wanted in zip(value, choice, strict=True))
        error = next((fault for fault in faults if fault), None)
        if error is None:
            return None
    return error
