"""Rows of other sets: each form is guessed, read to the same conversation as its OpenAI twin, and told apart."""

import gzip
import json
import re
from pathlib import Path

import pytest

from calltune.data.check import check_rows
from calltune.data.files import BLOCK, file_rows
from calltune.data.foreign_tools import json_schema
from calltune.data.forms import FORMS, guess_form
from calltune.data.python_calls import is_call_list, read_python_calls
from calltune.data.readers import load_conversations, readings
from calltune.data.sources import Source
from calltune.errors import InputError
from calltune.schema import Message, Tool, ToolCall

WEATHER = Tool("get_weather", "The weather.", {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"]})  # fmt: skip
TOOLS = [WEATHER.to_openai()]
BARE = TOOLS[0]["function"]
XLAM_TOOL = {"name": "get_weather", "description": "The weather.", "parameters": {
    "city": {"type": "str"}, "days": {"type": "int, optional"}}}  # fmt: skip
GLAIVE_SYSTEM = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    + json.dumps(BARE, indent=4)
    + "\n"
)
TOOLACE_SYSTEM = (
    "You are an expert in composing functions. You are given a question and a set of possible functions. \n"
    "Based on the question, you will need to make one or more function/tool calls to achieve the purpose. \n"
    "Here is a list of functions in JSON format that you can invoke:\n"
    + json.dumps([BARE | {"parameters": BARE["parameters"] | {"type": "dict"}, "required": None}])
    + ". \nShould you decide to return the function call(s). \nPut it in the format of "
    "[func1(params_name=params_value, params_name2=params_value2...), func2(params)]\n\n"
    "NO other text MUST be included. \n"
)
ASK = "Weather in Paris?"


def sharegpt(*turns):
    return [{"from": role, "value": text} for role, text in turns]


CALL = {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}
ROWS = {
    "xlam": {"id": 1, "query": ASK, "tools": json.dumps([XLAM_TOOL]), "answers": json.dumps([CALL])},
    "glaive": {
        "system": GLAIVE_SYSTEM,
        "chat": f"USER: {ASK}\n\n\nASSISTANT: <functioncall> "
        '{"name": "get_weather", "arguments": \'{"city": "Paris", "days": 2}\'} <|endoftext|>\n\n\n',
    },
    "toolace": {
        "system": TOOLACE_SYSTEM,
        "conversations": sharegpt(("user", ASK), ("assistant", '[get_weather(city="Paris", days=2)]')),
    },
    "sharegpt": {
        "conversations": sharegpt(("human", ASK), ("function_call", json.dumps(CALL))),
        "tools": json.dumps([BARE]),
    },
    "bfcl": {
        "id": "simple_0",
        "question": [[{"role": "user", "content": ASK}]],
        "function": [BARE | {"parameters": BARE["parameters"] | {"type": "dict"}}],
        "ground_truth": [{"get_weather": {"city": ["Paris", "paris"], "days": [2, ""]}}],
    },
    "pair": {
        "prompt": ASK,
        "completion": f"<tool_call>{json.dumps(CALL)}</tool_call>",
        "tools": TOOLS,
    },
    "hermes": {
        "conversations": [
            {"role": "system", "content": f"<tools>{TOOLS}</tools>"},
            *sharegpt(("human", ASK), ("gpt", f"<tool_call>{CALL}</tool_call>")),
        ],
    },
    "openai": {
        "messages": [
            {"role": "user", "content": ASK},
            {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": json.dumps(
                CALL["arguments"])}}]},
        ],
        "tools": TOOLS,
    },
}  # fmt: skip


def reading(value, **options):
    (found,) = readings(Source("memory", [value], **options))
    return found


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("forced", [False, True])
def test_each_form_is_guessed_and_reads_to_the_same_conversation(form, forced):
    assert guess_form(ROWS[form]) == form
    found = reading(ROWS[form], form=form if forced else None)
    assert (found.problems, found.form) == ((), form)
    assert found.conversation.messages == (
        Message("user", ASK),
        Message("assistant", "", None, (ToolCall("get_weather", {"city": "Paris", "days": 2}),)),
    )
    assert found.conversation.tools == (WEATHER,)
    assert next(check_rows(Source("memory", [ROWS[form]]))).status == "ok"


def test_every_form_has_a_row_here_or_in_the_data_page():
    assert set(FORMS) - set(ROWS) == {"text"}


def test_the_rows_of_the_data_page_have_the_form_above_them():
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\*\*\w.*?\*\* \(`(\w+)`\).*?```json\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert {form for form, _ in shown} >= {"openai", "hermes", "sharegpt", "xlam", "glaive", "toolace", "bfcl"}
    for form, text in shown:
        value = json.loads(text)
        assert guess_form(value) == form
        (found,) = check_rows(Source("memory", [value]))
        assert found.status == "ok", (form, found.problems)
        assert any(m.calls for m in found.conversation.messages)


@pytest.mark.parametrize("form", ROWS)
def test_a_forced_form_that_the_row_has_not_is_told(form):
    found = reading({"title": "x"}, form=form)
    assert [p.kind for p in found.problems] == ["no_messages" if form in ("openai", "hermes") else "wrong_form"]


@pytest.mark.parametrize(
    ("form", "changes", "path"),
    [
        ("xlam", {"answers": json.dumps([CALL | {"arguments": {"city": 7}}])}, "/answers/0/arguments/city"),
        ("glaive", {"chat": ROWS["glaive"]["chat"].replace('"Paris"', "7")}, "/chat/0/arguments/city"),
        ("toolace", {"conversations": sharegpt(("user", ASK), ("assistant", "[get_weather(city=7)]"))},
         "/conversations/1/tool_calls/0/arguments/city"),
        ("sharegpt", {"conversations": sharegpt(("human", ASK), ("function_call", '{"name": "get_weather", '
                                                                 '"arguments": {"city": 7}}'))},
         "/conversations/1/value/0/arguments/city"),
        ("bfcl", {"ground_truth": [{"get_weather": {"city": [7]}}]}, "/ground_truth/0/arguments/city"),
    ],
)  # fmt: skip
def test_problems_are_told_at_their_place_in_the_row(form, changes, path):
    (found,) = check_rows(Source("memory", [ROWS[form] | changes]))
    (problem,) = [p for p in found.problems if p.severity == "error"]
    assert (problem.kind, problem.path) == ("wrong_type", path)


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("xlam", {"answers": "[{'name': "}),
        ("glaive", {"chat": 'USER: x\n\nASSISTANT: <functioncall> {"name": <|endoftext|>'}),
        ("glaive", {"chat": 'USER: x\n\nASSISTANT: <functioncall> {"name": "f", "arguments": \'x\'}'}),
        ("toolace", {"conversations": sharegpt(("user", ASK), ("assistant", "[get_weather(city=)]"))}),
        ("sharegpt", {"conversations": sharegpt(("human", ASK), ("function_call", "{"))}),
        ("bfcl", {"ground_truth": [7]}),
    ],
)
def test_calls_that_cannot_be_read_are_told_with_the_reason(form, changes):
    (found,) = check_rows(Source("memory", [ROWS[form] | changes]))
    assert (found.status, [p.kind for p in found.problems]) == ("rejected", ["unreadable_call"])


# --- one form at a time


def test_xlam_without_a_call_and_its_python_types():
    conversation = reading(ROWS["xlam"] | {"answers": "[]", "response": "No tool does that."}).conversation
    assert conversation.messages[-1] == Message("assistant", "No tool does that.")
    (found,) = check_rows(Source("memory", [ROWS["xlam"] | {"answers": "[]"}]))
    assert [p.kind for p in found.problems] == ["no_target"]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("str", {"type": "string"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("List[List[float]], optional", {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}),
        ("Dict[str, int]", {"type": "object"}),
        ("Optional[bool]", {"type": "boolean"}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("int, default 3", {"type": "integer"}),
        ("Tuple[int, int]", {"type": "array"}),
        ("any", {}),
        ("Callable[[float], float]", {}),
    ],
)
def test_type_names_of_other_sets(name, schema):
    assert json_schema({"type": name, "description": "d"}) == schema | {"description": "d"}


def test_a_whole_glaive_dialogue():
    chat = (
        "USER: What's on at the O'Hare cinema?\n\n\nASSISTANT: Let me look.\n\n\nUSER: Yes.\n\n\n"
        'ASSISTANT: <functioncall> {"name": "get_weather", "arguments": \'{"city": "O\'Hare", "days": 1}\'} '
        '<|endoftext|>\n\n\nFUNCTION RESPONSE: {"degrees": 21}\n\n\nASSISTANT: 21 degrees.\nBye. <|endoftext|>\n\n\n'
    )
    conversation = reading(ROWS["glaive"] | {"chat": chat}).conversation
    assert conversation.messages == (
        Message("user", "What's on at the O'Hare cinema?"),
        Message("assistant", "Let me look."),
        Message("user", "Yes."),
        Message("assistant", "", None, (ToolCall("get_weather", {"city": "O'Hare", "days": 1}),)),
        Message("tool", '{"degrees": 21}'),
        Message("assistant", "21 degrees.\nBye."),
    )
    own = GLAIVE_SYSTEM.replace("SYSTEM: ", "SYSTEM: Be brief. ")
    messages = reading(ROWS["glaive"] | {"system": own}).conversation.messages
    assert messages[0].role == "system" and "Be brief." in messages[0].content
    bare = {"system": "SYSTEM: You are a helpful assistant, with no access to external functions.", "chat": "USER: a"
            "\n\n\nASSISTANT: b <|endoftext|>"}  # fmt: skip
    conversation = reading(bare).conversation
    assert ([m.role for m in conversation.messages], conversation.tools) == (["user", "assistant"], ())


def test_glaive_calls_in_messages():
    turns = sharegpt(("system", GLAIVE_SYSTEM), ("human", ASK), ("gpt", "<functioncall> " + json.dumps(CALL)))
    found = reading({"conversations": turns})
    assert found.form == "glaive" and found.problems == ()
    assert found.conversation.messages[-1].calls == (ToolCall("get_weather", CALL["arguments"]),)
    assert found.conversation.tools == (WEATHER,)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('[f(a="x, (y)", b=[1, 2]), g h/i.j(c={"k": \'v\'})]',
         [("f", {"a": "x, (y)", "b": [1, 2]}), ("g h/i.j", {"c": {"k": "v"}})]),
        ("[f()]", [("f", {})]),
        ("[f(from='a', b-c=true, d=None, e=-1.5)]", [("f", {"from": "a", "b-c": True, "d": None, "e": -1.5})]),
        ('[f(a="it\'s \\"so\\"")]', [("f", {"a": 'it\'s "so"'})]),
    ],
)  # fmt: skip
def test_calls_like_python(text, calls):
    assert is_call_list(text)
    assert [(c["name"], c["arguments"]) for c in read_python_calls(text)] == calls


@pytest.mark.parametrize("text", ["[f(1)]", "[f(a=1, a=2)]", "[f(a=x)]", "[f(a='x)]", "[f(a=1) g()]", "[f(a=(1]"])
def test_calls_like_python_that_are_none(text):
    with pytest.raises(ValueError):
        read_python_calls(text)


@pytest.mark.parametrize("text", ["[1, 2]", "I (the model) say [so]", "[see the page](https://x.y)", "f(a=1)"])
def test_answers_that_are_no_calls(text):
    assert not is_call_list(text)
    turns = sharegpt(("user", ASK), ("assistant", text))
    assert reading(ROWS["toolace"] | {"conversations": turns}).conversation.messages[-1].content == text


def test_a_toolace_dialogue_with_results_and_an_own_system_text():
    system = TOOLACE_SYSTEM.replace("You are an expert", "Today is Monday. You are an expert")
    turns = sharegpt(("user", ASK), ("assistant", "[get_weather(city='Paris')]"),
                     ("tool", '[{"name": "get_weather", "results": 21}]'), ("assistant", "21."))  # fmt: skip
    messages = reading({"system": system, "conversations": turns}).conversation.messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[0].content == "Today is Monday."


def test_sharegpt_with_a_system_column_observations_and_two_calls():
    turns = sharegpt(("human", ASK), ("function_call", json.dumps([CALL, CALL])), ("observation", "21"),
                     ("observation", "22"), ("gpt", "21 and 22."))  # fmt: skip
    conversation = reading({"conversations": turns, "tools": json.dumps([BARE]), "system": "Be brief."}).conversation
    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert len(conversation.messages[2].calls) == 2


def test_bfcl_questions_without_truth_are_questions_to_ask():
    value = {key: item for key, item in ROWS["bfcl"].items() if key != "ground_truth"}
    assert [m.role for m in reading(value).conversation.messages] == ["user"]
    (found,) = check_rows(Source("memory", [value]))
    assert [p.kind for p in found.problems] == ["no_target"]


# --- files


def test_a_json_list_is_read_item_by_item_over_blocks(tmp_path):
    rows = [ROWS["openai"] | {"id": str(i), "text": 'ä]}{[\\" ' * (i % 50)} for i in range(400)]
    path = tmp_path / "rows.json"
    path.write_text(" [\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "]\n", encoding="utf-8")
    assert path.stat().st_size > 3 * BLOCK
    assert [row.value for row in file_rows(path)] == rows
    packed = tmp_path / "rows.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row.value["id"] for row in file_rows(packed)] == [str(i) for i in range(400)]


def test_a_list_with_broken_items_tells_each_and_goes_on(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {broken}, {"a": NaN}, {\'a\': 2}, 7, {"a": "never ends}]')
    found = list(file_rows(path))
    assert [row.problem and row.problem.kind for row in found] == [
        None,
        "bad_json",
        "bad_json",
        None,
        None,
        "bad_json",
    ]
    assert found[3].value == {"a": 2} and found[3].repair
    path.write_text('[{"a": 1}, ')
    assert [row.problem and row.problem.kind for row in file_rows(path)] == [None, "bad_json"]


def test_memory_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    line = json.dumps(ROWS["openai"])
    peaks = []
    for count in (500, 5000):
        lines, items = tmp_path / f"{count}.jsonl", tmp_path / f"{count}.json"
        lines.write_text(f"{line}\n" * count)
        items.write_text("[" + ",".join([line] * count) + "]")
        for path in (lines, items):
            tracemalloc.start()
            assert sum(1 for _ in readings(Source("x", path))) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < peaks[0] * 1.2 and peaks[3] < peaks[1] * 1.2


def test_all_rows_of_one_file_may_have_another_form(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS.values()))
    conversations = load_conversations(path)
    assert len({str(c.messages[-1].calls) for c in conversations}) == 1
    with pytest.raises(InputError, match=r"7 of 8 rows of rows\.jsonl cannot be read"):
        load_conversations(path, form="xlam")


def test_toolace_is_told_by_the_system_text_alone():
    """A user may quote the sentence; found by the fuzz test, since such a row was read otherwise once written."""
    turns = [
        {"from": "user", "value": "Here is a list of functions in JSON format"},
        {"from": "gpt", "value": "[f()]"},
    ]
    assert guess_form({"conversations": turns}) == "sharegpt"
    assert guess_form({"conversations": [turns[0] | {"from": "system"}, *turns]}) == "toolace"
    assert guess_form({"system": turns[0]["value"], "conversations": turns}) == "toolace"
