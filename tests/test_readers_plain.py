"""mlx-lm's other rows: prompt and completion, and raw text."""

import json
from pathlib import Path

import pytest
from reader_rows import CALL_TEXT, WEATHER, calls, one, problems_of, row, user_texts
from tiny import TOOLS, tiny_tokenizer, weather_rows

from calltune.cli import main
from calltune.data.readers import load_conversations
from calltune.prepare import prepare
from calltune.render import limit_length, render
from calltune.schema import Conversation, Message
from calltune.settings import TrainSettings
from calltune.template import choose_template
from calltune.tokenizer import load_tokenizer

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
