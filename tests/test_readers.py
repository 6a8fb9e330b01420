"""Readers: the forms of rows, the places where rows come from, and problems told at once."""

import datetime
import gzip
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import TOOLS, tiny_tokenizer, weather_rows

from calltune.cli import main
from calltune.data.balance import no_call_share, right_tool_first_share, shuffle_tools
from calltune.data.files import file_rows
from calltune.data.readers import load_conversations, load_splits, read_conversations
from calltune.data.split import split_rows
from calltune.errors import InputError
from calltune.prepare import prepare
from calltune.render import limit_length, render
from calltune.schema import Conversation, Message, Tool, ToolCall
from calltune.settings import TrainSettings
from calltune.template import choose_template
from calltune.tokenizer import load_tokenizer

DATA = Path(__file__).parent / "data"
SHARED = Path(os.environ.get("CALLTUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = {
    "id": "call_0",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
}


def row(**changes):
    messages = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": [CALL]}]
    return {"messages": messages, "tools": [WEATHER.to_openai()]} | changes


def answered(**message):
    return row(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant"} | message])


def one(value, **options) -> Conversation:
    (conversation,) = load_conversations([value], **options)
    return conversation


def problems_of(source):
    with pytest.raises(InputError) as caught:
        load_conversations(source)
    return caught.value.problems


def user_texts(conversation):
    return [message.content for message in conversation.messages if message.role == "user"]


def calls(conversation):
    return [[(c.name, list(c.arguments.items())) for c in m.calls] for m in conversation.messages if m.calls]


@pytest.mark.parametrize(
    "folder_and_suffix",
    [
        (DATA, "_rows"),
        pytest.param(
            (SHARED, ""),
            marks=pytest.mark.skipif(not (SHARED / "seal_hermes.jsonl").is_file(), reason="no data"),
        ),
    ],
    ids=["a few rows", "all rows"],
)
def test_the_same_rows_as_hermes_text_and_as_openai_messages_read_the_same(folder_and_suffix):
    folder, suffix = folder_and_suffix
    hermes = load_conversations(folder / f"seal_hermes{suffix}.jsonl")
    openai = load_conversations(folder / f"seal_train{suffix}.jsonl")
    assert len(hermes) == len(openai) >= 4
    for ours, theirs in zip(hermes, openai, strict=True):
        assert user_texts(ours) == user_texts(theirs)
        assert ours.tools == theirs.tools
        assert calls(ours) == calls(theirs) != []
        assert [m.role for m in ours.messages] == ["user", "assistant"]  # the system text was all boilerplate
        assert ours.messages[-1].thinking
        assert ours.meta["roles"] == ["system", "human", "model"]


# --- OpenAI rows


@pytest.mark.parametrize(
    "arguments",
    [{"city": "Paris"}, '{"city": "Paris"}', "{'city': 'Paris'}", '"{\\"city\\": \\"Paris\\"}"'],
    ids=["object", "JSON text", "Python text", "text of JSON text"],
)
def test_trap_t12_arguments_are_a_dictionary_whatever_form_the_row_has(arguments):
    function = {"name": "get_weather", "arguments": arguments}
    for message in (
        {"tool_calls": [{"function": function}]},
        {"tool_calls": [function]},
        {"function_call": function},
    ):
        (call,) = one(answered(**message)).messages[-1].calls
        assert call.arguments == {"city": "Paris"}
    assert json.loads(one(row()).to_openai()["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "city": "Paris"
    }


@pytest.mark.parametrize("arguments", [None, "", {}, "{}"])
def test_no_arguments(arguments):
    message = answered(tool_calls=[{"function": {"name": "get_weather", "arguments": arguments}}])
    assert one(message).messages[-1].calls == (ToolCall("get_weather"),)


def test_trap_t13_tools_as_text_blank_lines_null_content_and_validation(tmp_path):
    line = json.dumps(row(tools=json.dumps([WEATHER.to_openai()])))
    (tmp_path / "train.jsonl").write_text(f"\n{line}\n\n   \n{line}\n\n")
    (tmp_path / "validation.jsonl").write_text("\ufeff" + line)
    splits = load_splits(tmp_path)
    assert {part: len(rows) for part, rows in splits.items()} == {"train": 2, "valid": 1}
    assert [c.id for c in splits["train"]] == ["train.jsonl:2", "train.jsonl:5"]
    assert splits["valid"][0].tools == (WEATHER,)
    assert splits["valid"][0].messages[1] == Message(
        "assistant", "", None, (ToolCall("get_weather", {"city": "Paris"}, "call_0"),)
    )


def test_thinking_content_parts_results_and_legacy_names():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "", "reasoning_content": "plan", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_0", "content": {"degrees": 21}},
        {"role": "assistant", "content": "<think>\nsay it\n</think>\n21 degrees"},
    ]
    conversation = one({"messages": messages, "functions": [WEATHER.to_openai()["function"]], "id": 7})
    assert conversation.id == "7"
    assert conversation.messages == (
        Message("system", "Be brief."),
        Message("user", "ab"),
        Message("assistant", "", "plan", (ToolCall("get_weather", {"city": "Paris"}, "call_0"),)),
        Message("tool", '{"degrees": 21}', name="get_weather", call_id="call_0"),
        Message("assistant", "21 degrees", "say it"),
    )
    assert conversation.meta == {"roles": ["developer", "user", "assistant", "tool", "assistant"]}


def test_what_is_written_is_read_back():
    given = Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "Weather in Paris?"),
            Message("assistant", "", "plan", (ToolCall("get_weather", {"city": "Paris"}, "call_0"),)),
            Message("tool", "21", name="get_weather", call_id="call_0"),
            Message("assistant", "It's 21."),
        ),
        (WEATHER,),
        "x1",
        {"category": "single"},
    )
    assert one(given.to_openai()) == given
    assert one(json.loads(json.dumps(given.to_openai()))) == given
    assert one(given) is given


def test_columns_can_be_renamed_and_other_columns_are_kept():
    value = {"dialog": row()["messages"], "api": row()["tools"], "category": "x"}
    conversation = one(value, columns={"messages": "dialog", "tools": "api"})
    assert calls(conversation)
    assert conversation.meta == {"category": "x"}


# --- Hermes rows

HERMES_V1 = (
    "You are a function calling AI model. You are provided with function signatures within "
    "<tools> </tools> XML tags. You may call one or more functions to assist with the user query. If "
    "available "
    "tools are not relevant in assisting with user query, just respond in natural conversational language. "
    "Don't make assumptions about what values to plug into functions. After calling & executing the "
    "functions, you will be provided with function results within "
    "<tool_response> </tool_response> XML tags.\n"
    "Here are the available tools:\n<tools>\n%s\n</tools>\n"
    "For each function call return a JSON object, with the following pydantic model json schema:\n"
    "{'title': 'FunctionCall', 'type': 'object', 'properties': {'name': {'title': 'Name', 'type': 'string'}, "
    "'arguments': {'title': 'Arguments', 'type': 'object'}}, 'required': ['name', 'arguments']}\n"
    "Each function call should be enclosed within <tool_call> </tool_call> XML tags.\n<tool_call>\n"
    "{'name': <function-name>, 'arguments': <args-dict>}\n</tool_call>"
)
QWEN = (
    "%s\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "
    "with function signatures within <tools></tools> XML tags:\n<tools>\n%s\n</tools>\n\nFor each function "
    "call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
CALL_TEXT = "{'name': 'get_weather', 'arguments': {'city': \"O'Hare\"}}"
RESULTS = (
    "<tool_response>\n{'name': 'get_weather', 'content': {'ok': True}}\n</tool_response>\n"
    "<tool_response>\n{'degrees': 21, 'rain': None}\n</tool_response>"
)
SHARE_GPT = [
    {"from": "human", "value": "Weather in O'Hare?"},
    {"from": "gpt", "value": f"<think>plan</think>Let me look.<tool_call>\n{CALL_TEXT}\n</tool_call>"},
    {"from": "tool", "value": RESULTS},
    {"from": "gpt", "value": "It's 21."},
]


def test_sharegpt_names_and_results():
    system = {"from": "system", "value": HERMES_V1 % [WEATHER.to_openai()]}
    conversation = one({"conversations": [system, *SHARE_GPT]})
    assert conversation.tools == (WEATHER,)
    assert conversation.messages == (
        Message("user", "Weather in O'Hare?"),
        Message("assistant", "Let me look.", "plan", (ToolCall("get_weather", {"city": "O'Hare"}),)),
        Message("tool", '{"ok": true}', name="get_weather"),
        Message("tool", '{"degrees": 21, "rain": null}'),
        Message("assistant", "It's 21."),
    )
    assert conversation.meta["roles"] == ["system", "human", "gpt", "tool", "gpt"]


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_of_the_system_text_what_the_author_wrote_is_kept(dump):
    tricky = Tool("get_weather", "Within <tools></tools>, it's {odd]", WEATHER.parameters)
    two = [tricky.to_openai(), Tool("other").to_openai()]
    texts = [
        "You are Ann. " + HERMES_V1 % dump(two) + "\nAnswer in French.",
        QWEN % ("You are Ann.", "\n".join(map(dump, two))) + "\nAnswer in French.",
    ]
    for text in texts:
        messages = [{"role": "system", "content": text}, *SHARE_GPT]
        conversation = one({"conversations": messages})
        assert conversation.tools == (tricky, Tool("other"))
        assert conversation.messages[0] == Message("system", "You are Ann.\nAnswer in French.")


def test_a_system_text_without_a_tools_block_stays_whole():
    text = "You are a function calling AI model. Mind the <tools> list."
    messages = [{"from": "system", "value": text}, *SHARE_GPT]
    conversation = one({"conversations": messages, "tools": json.dumps([WEATHER.to_openai()])})
    assert conversation.messages[0] == Message("system", text)
    assert conversation.tools == (WEATHER,)


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([{"from": "system", "value": "<tools> [{'type': 'function', </tools>"}, *SHARE_GPT], "bad_tools"),
        ([{"from": "system", "value": "<tools>[{'title': 'x'}]</tools>"}, *SHARE_GPT], "bad_tool"),
        ([{"from": "gpt", "value": "<tool_call>{'name': </tool_call>"}], "unreadable_call"),
        ([{"from": "gpt", "value": "<think>never ends"}], "bad_markup"),
    ],
)
def test_hermes_text_that_cannot_be_read(messages, kind):
    assert kind in {problem.kind for problem in problems_of([{"conversations": messages}])}


# --- mlx-lm's other rows: prompt + completion, and text

PLAIN_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Tiny ones; "adds bos" puts BOS in front of every text, as Gemma's and Llama's do."""
    from tokenizers import processors

    made = {}
    for name, style in (("plain", "chatml"), ("adds bos", "gemma")):
        folder = tmp_path_factory.mktemp("tokenizer")
        inner = tiny_tokenizer(folder, style, PLAIN_CHATML if style == "chatml" else None)
        if name == "adds bos":
            bos = ("<bos>", inner.token_to_id("<bos>"))
            inner.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A $B", [bos])
            inner.save(str(folder / "tokenizer.json"))
        made[name] = load_tokenizer(folder)
    return made


@pytest.mark.parametrize("columns", [None, {"prompt": "question", "completion": "answer"}], ids=["own", "renamed"])
def test_a_prompt_and_completion_are_two_turns_with_the_ids_of_mlx_lm(tokenizers, columns):
    from mlx_lm.tuner.datasets import CompletionsDataset

    names = columns or {"prompt": "prompt", "completion": "completion"}
    value = {names["prompt"]: "Who are you?", names["completion"]: "A small model.", "id": 3, "source": "x"}
    conversation = one(value, columns=columns)
    assert conversation == Conversation(
        (Message("user", "Who are you?"), Message("assistant", "A small model.")), (), "3", {"source": "x"}
    )
    tokenizer = tokenizers["plain"]
    template = choose_template(tokenizer, custom=PLAIN_CHATML)
    (example,) = render(conversation, template, tokenizer)
    theirs = CompletionsDataset([value], tokenizer.inner, names["prompt"], names["completion"], mask_prompt=True)
    ids, offset = theirs.process(value)
    assert tokenizer.decode(ids[len(example) :]) == "\n"  # after the stop token nothing is generated
    assert list(example.ids) == ids[: len(example)]
    assert (example.first_loss, example.spans[-1].end) == (offset, len(example))


def test_a_completion_may_hold_calls_and_problems_name_its_column():
    text = f"<think>plan</think><tool_call>\n{CALL_TEXT}\n</tool_call>"
    value = {"prompt": "Weather?", "completion": text, "tools": [WEATHER.to_openai()]}
    assert calls(one(value)) == [[("get_weather", [("city", "O'Hare")])]]
    assert one(value).messages[-1].thinking == "plan"
    bad = [value | {"tools": []}, value | {"completion": "<think>never ends"}, value | {"prompt": 7}]
    assert [(p.row, p.kind, p.path) for p in problems_of(bad)] == [
        (1, "unknown_function", "/completion/name"),
        (2, "bad_markup", "/completion"),
        (3, "bad_content", "/prompt"),
    ]


@pytest.mark.parametrize("name", ["plain", "adds bos"])
@pytest.mark.parametrize("ending", ["", "EOS"])
def test_a_text_is_trained_whole_with_the_ids_of_mlx_lm(tokenizers, name, ending):
    from mlx_lm.tuner.datasets import TextDataset

    tokenizer = tokenizers[name]
    value = {"text": "Good morning. It's 21 °C in Paris." + (tokenizer.inner.eos_token if ending else "")}
    (example,) = render(one(value), choose_template(tokenizer), tokenizer)
    ids, offset = TextDataset([value], tokenizer.inner).process(value)
    assert list(example.ids) == ids and offset == 0
    assert ids.count(tokenizer.inner.eos_token_id) == 1
    ((start, end, kind),) = [(s.start, s.end, s.kind) for s in example.spans]
    assert (start, end, kind) == (1, len(ids), "answer")  # the first token is predicted by none


def test_trap_t02_a_text_that_begins_with_bos_gets_no_second_one(tokenizers):
    tokenizer = tokenizers["adds bos"]
    template = choose_template(tokenizer)
    (with_bos,) = render(one({"text": "<bos>Good morning."}), template, tokenizer)
    (without,) = render(one({"text": "Good morning."}), template, tokenizer)
    assert with_bos.ids == without.ids
    assert with_bos.ids.count(tokenizer.inner.bos_token_id) == 1


def test_a_text_of_one_token_leaves_nothing_to_train(tokenizers):
    tokenizer = tokenizers["plain"]
    examples = render(one({"text": tokenizer.inner.eos_token}), choose_template(tokenizer), tokenizer)
    assert limit_length(examples, 99) == ([], examples)


def test_text_rows_keep_their_columns_and_are_read_back():
    given = one({"body": "Good morning.", "source": "web", "meta": {"part": 2}}, columns={"text": "body"})
    expected = {"text": "Good morning.", "source": "web", "part": 2}
    assert given == Conversation((), (), "memory:1", expected)
    assert one(json.loads(json.dumps(given.to_openai()))) == given
    assert one(given) is given


@pytest.mark.parametrize(
    ("value", "kind"),
    [({"text": " \n"}, "no_text"), ({"text": ["a"]}, "bad_content"), (Conversation(()), "no_messages"),
     ({"messages": [], "text": "x"}, "no_messages"), ({"prompt": "x", "completion": None}, "no_messages")],
)  # fmt: skip
def test_rows_without_turns_and_text_are_problems(value, kind):
    assert [p.kind for p in problems_of([value])] == [kind]


def test_the_pair_and_the_text_of_the_data_page_are_read(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(page.partition("```jsonl\n")[2].partition("```")[0])
    pair, text = load_conversations(tmp_path / "rows.jsonl")
    assert [m.content for m in pair.messages] == ["What is the capital of France?", "Paris."]
    assert text.meta == {"text": "Paris is the capital of France."}


def test_turns_count_before_a_pair_and_a_pair_before_a_text():
    pair = {"prompt": "a", "completion": "b", "text": "c"}
    assert user_texts(one(row() | pair)) == ["Weather?"]
    assert user_texts(one(pair)) == ["a"]


def test_training_and_check_take_text_rows_among_others(tokenizers, tmp_path, capsys):
    texts = [{"text": f"Text number {i}."} for i in range(12)]
    settings = TrainSettings(model="m", test=0.1, valid=0.1)
    prepared = prepare(settings, tokenizers["plain"], texts)
    assert (len(prepared.train), len(prepared.valid), prepared.golden_prompt) == (8, 2, ())
    assert {s.kind for e in prepared.train for s in e.spans} == {"answer"}
    mixed = [load_conversations(texts)[0], *weather_rows(30, no_call=0)]
    prepared = prepare(TrainSettings(model="m", test=0, valid=0), tokenizers["plain"], mixed)
    assert len(prepared.train) == 31 and prepared.golden_prompt
    assert prepared.parts.train[1].tools == TOOLS
    assert any("no_row_without_call" in note for note in prepared.notes)  # a text is no answer without a call
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [*texts, {"prompt": "a", "completion": "b"}, {"text": ""}])))
    assert main(["check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["rejected"], found["problems"][0]["kind"]) == (13, 1, "no_text")


# --- Parquet and `datasets`


def test_parquet_is_read_in_batches_and_the_nulls_that_arrow_adds_are_taken_away(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    first = row(text=None, day=datetime.date(2026, 1, 1))
    values = [first, answered(content="Hello!"), {"text": "Good morning."}] * 200
    other = Tool("get_time", "", {"type": "object", "properties": {"zone": {"type": "string"}}})
    call = {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": {"zone": "CET"}}}
    values.append(answered(tool_calls=[call]) | {"tools": [other.to_openai()]})
    parquet.write_table(arrow.Table.from_pylist(values), tmp_path / "train.parquet")
    rows = load_splits(tmp_path)["train"]
    assert len(rows) == 601 and rows[-1].id == "train.parquet:601"
    assert rows[0].messages == one(row()).messages and rows[0].tools == (WEATHER,)
    assert rows[0].meta == {"day": "2026-01-01"}
    assert rows[1].messages[-1] == Message("assistant", "Hello!")
    assert rows[2].meta["text"] == "Good morning." and not rows[2].messages
    assert calls(rows[-1]) == [[("get_time", [("zone", "CET")])]] and rows[-1].tools == (other,)
    assert len(load_conversations(tmp_path / "train.parquet", limit=300)) == 300
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no table PAR1")
    assert problems_of(tmp_path)[0].kind == "unreadable_file"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    for source in (tmp_path, tmp_path / "train.parquet"):
        with pytest.raises(InputError, match=r"pip install 'calltune\[hub\]'"):
            load_conversations(source)
    (tmp_path / "train.parquet.gz").write_bytes(b"")
    assert problems_of(tmp_path / "train.parquet.gz")[0].kind == "unknown_file"


def test_data_sets_of_the_real_library_in_memory_and_from_a_local_file(tmp_path):
    datasets = pytest.importorskip("datasets")
    values = [row(), answered(content="Hello!")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, values)))
    plain = load_conversations(values)
    loaded = datasets.load_dataset(
        "json", data_files={"train": str(tmp_path / "rows.jsonl")}, cache_dir=str(tmp_path / "cache")
    )
    train = loaded["train"]
    for source in (datasets.Dataset.from_list(values), loaded, train, train.to_iterable_dataset()):
        found = load_conversations(source)
        assert [c.messages for c in found] == [c.messages for c in plain]
        assert [c.tools for c in found] == [c.tools for c in plain]
    hard = [answered(tool_calls=[{"function": {"name": "get_weather", "arguments": {"city": given}}}])
            for given in (None, "Paris", 7)]  # fmt: skip
    (tmp_path / "hard.json").write_text(json.dumps(hard))
    mixed = datasets.load_dataset("json", data_files=str(tmp_path / "hard.json"), cache_dir=str(tmp_path / "cache"))
    mixed["train"].to_parquet(tmp_path / "hard.parquet")  # with values of several types, as the type arrow.json
    for source in (mixed, tmp_path / "hard.parquet"):
        assert [calls(c)[0][0][1] for c in load_conversations(source)] == [[("city", v)] for v in (None, "Paris", 7)]
    parts = load_splits(datasets.DatasetDict(train=loaded["train"], validation=loaded["train"]))
    assert [c.id for c in parts["valid"]] == ["memory/valid:1", "memory/valid:2"]


# --- problems


def test_all_problems_of_a_file_come_at_once_with_line_path_and_words(tmp_path):
    unknown = {"function": {"name": "get_wether", "arguments": {}}}
    broken = {"function": {"name": "get_weather", "arguments": "{'city': "}}
    rows = [
        "{not json",
        json.dumps(row(messages=[{"role": "narrator", "content": "x"}])),
        json.dumps(row(messages=[])),
        json.dumps({"title": "x"}),
        json.dumps(answered(tool_calls=[unknown, broken])),
        json.dumps([1]),
        json.dumps(answered(content=7)),
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        json.dumps(row()),
    ]
    path = tmp_path / "data.jsonl"
    path.write_bytes("\n".join(rows).encode() + b"\n\xff\n")
    found = [(p.row, p.kind, p.path) for p in problems_of(path)]
    assert found == [
        (1, "bad_json", ""),
        (2, "unknown_role", "/messages/0/role"),
        (3, "no_messages", "/messages"),
        (4, "no_messages", ""),
        (5, "unreadable_call", "/messages/1/tool_calls/1/function/arguments"),
        (5, found[5][1], "/messages/1/tool_calls/0/function/name"),
        (6, "bad_row", ""),
        (7, "bad_content", "/messages/1/content"),
        (8, "bad_text", ""),
        (10, "bad_encoding", ""),
    ]
    assert found[5][1].startswith("unknown_")
    collected = []
    assert len(load_conversations(path, on_problem=collected.append)) == 1
    assert [(p.row, p.kind, p.path) for p in collected] == found


def test_rows_are_streamed_and_limited():
    def endless():
        while True:
            yield row()

    assert len(load_conversations(endless(), limit=3)) == 3
    assert next(read_conversations(endless())).id == "memory:1"


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_an_empty_file(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_text(content)
    assert [p.kind for p in problems_of(path)] == ["empty_file"]


def test_missing_and_unknown_places(tmp_path):
    (tmp_path / "data.csv").write_text("a,b")
    (tmp_path / "near.jsonl").write_text("{}")
    assert problems_of(tmp_path / "data.jsonl")[0].kind == "missing_file"
    with pytest.raises(InputError, match=r"files there: near\.jsonl"):
        load_conversations(str(tmp_path / "data.jsonl"))
    assert problems_of(tmp_path / "data.csv")[0].kind == "unknown_file"
    assert problems_of(tmp_path)[0].kind == "missing_file"
    assert problems_of(7)[0].kind == "bad_source"
    with pytest.raises(InputError, match="no part test"):
        load_conversations([row()], part="test")


# --- places


def test_json_gz_lines_in_a_json_file_and_mappings(tmp_path):
    lines = f"{json.dumps(row())}\n{json.dumps(row())}\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.json").write_text(json.dumps([row(), row()], indent=2))
    (tmp_path / "c.json").write_text(lines)
    (tmp_path / "d.json").write_text(json.dumps(row(), indent=2))
    (tmp_path / "e.json").write_text(lines, encoding="utf-8-sig")
    counts = [len(load_conversations(path)) for path in sorted(tmp_path.iterdir())]
    assert counts == [2, 2, 2, 1, 2]
    parts = load_splits({"train": [row()], "validation": [row()], "test": [row()]})
    assert sorted(parts) == ["test", "train", "valid"]
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    assert problems_of(tmp_path / "a.jsonl.gz")[0].kind == "unreadable_file"


@pytest.mark.parametrize("rest", ['\n[{"b": 2}]\n', ' {"b": 2}', "]"])
def test_text_after_the_end_of_a_list_is_told(tmp_path, rest):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row()]) + rest)
    (problem,) = problems_of(path)
    assert (problem.kind, problem.row) == ("bad_json", 2) and "text after the end of the list" in problem.found
    path.write_text(json.dumps([row()]) + " \n\n")
    assert len(load_conversations(path)) == 1


def test_a_list_is_read_up_to_the_byte_that_is_not_utf8(tmp_path):
    good = json.dumps([row(), row()])
    (tmp_path / "data.json").write_bytes(good.encode()[:-1] + b', {"a": "\xff"}, {}]')
    rows = list(file_rows(tmp_path / "data.json"))
    assert [r.problem and r.problem.kind for r in rows] == [None, None, "bad_encoding"] and rows[2].line == 3
    (tmp_path / "data.json").write_bytes(good.encode()[:-1] + b"\xe2")
    assert [r.problem and r.problem.kind for r in file_rows(tmp_path / "data.json")] == [None, "bad_encoding"]


def test_a_folder_with_two_files_for_one_part(tmp_path):
    for name in ("train.jsonl", "valid.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text(json.dumps(row()))
    assert [p.kind for p in problems_of(tmp_path)] == ["two_files_for_one_part"]


def test_a_hub_data_set_needs_the_package_and_the_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'calltune\[hub\]'"):
        load_conversations("org/name")

    def refuse(name):
        raise ConnectionError("no route to the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(InputError, match=r"org/name could not be fetched \(ConnectionError: no route"):
        load_conversations("org/name")
    rows = {"train": [row()], "validation": [row(), row()]}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name: rows))
    splits = load_splits("org/name")
    assert [c.id for c in splits["valid"]] == ["org/name:1", "org/name:2"]


# --- balance and split


def numbered(count: int, tools: int = 3) -> list[Conversation]:
    offered = tuple(Tool(f"f{i}") for i in range(tools))
    return [
        Conversation((Message("assistant", calls=(ToolCall(f"f{i % tools}"),)),), offered, str(i))
        for i in range(count)
    ]


def test_trap_t22_the_right_tool_first_is_measured_and_mended():
    first = [
        Conversation(c.messages, (Tool(c.messages[0].calls[0].name), Tool("x"), Tool("y"))) for c in numbered(300)
    ]
    assert right_tool_first_share(first) == 1.0
    mended = shuffle_tools(first, seed=3)
    assert 0.2 < right_tool_first_share(mended) < 0.46
    assert mended == shuffle_tools(first, seed=3) != shuffle_tools(first, seed=4)
    for a, b in zip(first, mended, strict=True):
        assert sorted(t.name for t in a.tools) == sorted(t.name for t in b.tools)
    assert right_tool_first_share([]) is None


def test_trap_t23_rows_without_a_call_are_counted():
    rows = [*numbered(3), Conversation((Message("assistant", "No tool can do that."),))]
    assert no_call_share(rows) == 0.25
    assert no_call_share(numbered(3)) == 0.0


def test_the_walk_throughs_split():
    rows = numbered(3570)
    split = split_rows(rows, test=0.1, valid=0)
    assert (len(split.train), len(split.valid), len(split.test)) == (3213, 0, 357)
    assert split == split_rows(rows, test=0.1, valid=0) != split_rows(rows, test=0.1, valid=0, seed=1)
    three = split_rows(rows)
    parts = [c.id for part in (three.train, three.valid, three.test) for c in part]
    assert sorted(parts) == sorted(c.id for c in rows)
    assert (len(three.valid), len(three.test)) == (179, 357)


def test_a_split_by_tool_never_shows_the_held_out_tools_in_training():
    rows = numbered(300, tools=30)
    split = split_rows(rows, test=0.1, valid=0.05, by="tool")
    held = set(split.held_out)
    assert (len(held), len(split.test), len(split.valid)) == (3, 30, 15)
    assert len(split.train) + len(split.valid) + len(split.test) == 300
    for conversation in (*split.train, *split.valid):
        assert held.isdisjoint(tool.name for tool in conversation.tools)
    assert {c.messages[0].calls[0].name for c in split.test} == held


@pytest.mark.parametrize(("test", "valid", "count"), [(1.0, 0, 9), (-0.1, 0, 9), (0.6, 0.5, 9), (0.5, 0.4, 1)])
def test_splits_that_cannot_be(test, valid, count):
    with pytest.raises(InputError):
        split_rows(numbered(count), test=test, valid=valid)
