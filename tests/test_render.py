"""Conversations to ids and spans: exactly what is trained, for every kind of turn and template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from chat_templates import GEMMA, PLAIN, QWEN3, QWEN3_KEEPS, QWEN25, WALKTHROUGH
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TOOLS, long_row, tiny_tokenizer, weather_call, weather_rows

from calltune.formats import get_format
from calltune.render import Example, limit_length, prompt_ids, prompt_text, render
from calltune.schema import Conversation, Message, ToolCall
from calltune.template import Template, choose_template
from calltune.tokenizer import Tokenizer, load_tokenizer

CASES: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, gemma": {"style": "gemma"},
    "qwen3": {"own": QWEN3},
    "qwen3, keeps plans": {"own": QWEN3_KEEPS},
    "qwen3, no thinking": {"own": QWEN3, "think": False},
    "qwen2.5": {"own": QWEN25},
    "plain": {"custom": PLAIN},
    "gemma, tools as text": {"style": "gemma", "custom": GEMMA.replace("(message.role == 'user') != ", "false and ")},
    "walkthrough": {"style": "gemma", "custom": WALKTHROUGH, "roles": {"user": "human", "assistant": "model"}},
}
# The others drop plans, or write them only in last turns.
ONE_EXAMPLE = {"ours", "ours, gemma", "qwen3, keeps plans", "plain", "gemma, tools as text", "walkthrough"}
ANSWER = (Message("user", "What is the weather in Paris?"), Message("assistant", "21 degrees."))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Template, Tokenizer]]:
    made = {}
    for name, case in CASES.items():
        case = dict(case)
        folder = tmp_path_factory.mktemp("tokenizer")
        tiny_tokenizer(folder, case.pop("style", "chatml"), case.pop("own", None))
        loaded = load_tokenizer(folder)
        origin = {"origin": "mine.jinja"} if "custom" in case else {}
        made[name] = choose_template(loaded, **case, **origin), loaded
    return made


def turn(content: str = "", thinking: str | None = None, calls: tuple[ToolCall, ...] = ()) -> Conversation:
    return Conversation((ANSWER[0], Message("assistant", content, thinking, calls)), TOOLS, "row")


def trained(example: Example, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(kind, text) of each span."""
    return [(s.kind, tokenizer.decode(example.ids[s.start : s.end])) for s in example.spans]


def test_a_call_is_trained_to_its_stop_token_and_nothing_else(cases):
    template, tokenizer = cases["ours"]
    row = turn(calls=(weather_call("Paris"),))
    (example,) = render(row, template, tokenizer)
    reply = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
    assert list(example.ids) == prompt_ids(row.messages[:1], TOOLS, template, tokenizer) + tokenizer.encode(reply)
    assert trained(example, tokenizer) == [
        ("syntax", '<tool_call>\n{"name": "'),
        ("name", "get_weather"),
        ("syntax", '", "arguments":'),  # the space is one token with the brace: it belongs to the arguments
        ("arguments", ' {"city": "Paris'),
        ("syntax", '"}}\n</tool_call><|im_end|>'),  # so do the last quote and brace with the brace after them
    ]
    assert example.first_loss == len(example.ids) - len(tokenizer.encode(reply))
    assert example.trained == len(tokenizer.encode(reply))
    assert example.id == "row"


def test_a_plan_before_a_call(cases):
    template, tokenizer = cases["ours"]
    (example,) = render(turn(thinking="the weather", calls=(weather_call("Paris"),)), template, tokenizer)
    text = "".join(text for _, text in trained(example, tokenizer))
    assert text.startswith("<think>\nthe weather\n</think>\n<tool_call>\n") and text.endswith(
        "</tool_call><|im_end|>"
    )
    kinds = [kind for kind, _ in trained(example, tokenizer)]
    assert kinds == ["syntax", "think", "syntax", "name", "syntax", "arguments", "syntax"]
    assert trained(example, tokenizer)[1][1].strip() == "the weather"


def test_two_calls_in_one_turn(cases):
    template, tokenizer = cases["ours"]
    (example,) = render(turn(calls=(weather_call("Paris"), weather_call("Rome", "get_time"))), template, tokenizer)
    found = trained(example, tokenizer)
    assert [kind for kind, _ in found].count("name") == [kind for kind, _ in found].count("arguments") == 2
    assert "".join(text for _, text in found) == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_time", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>'
    )


def test_trap_t03_every_assistant_turn_is_trained_and_no_other(cases):
    """Question, call, result, answer, question, answer: mlx-lm trained the last turn only."""
    template, tokenizer = cases["ours"]
    (example,) = render(long_row(), template, tokenizer)
    text = "".join(text for _, text in trained(example, tokenizer))
    assert text == (
        '<think>\nget_weather\n</think>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call><|im_end|>"
        "<think>\nI have the result.\n</think>\n21 degrees.<|im_end|>"
        "<think>\nNo function fits.\n</think>\nYou are welcome.<|im_end|>"
    )
    covered = {i for s in example.spans for i in range(s.start, s.end)}
    rest = tokenizer.decode([t for i, t in enumerate(example.ids) if i not in covered])
    for words in ("Be brief.", "The weather in a city.", "What is the weather", '{"result": 21}', "Thank you!"):
        assert words in rest and words not in text
    assert rest.count("<|im_start|>assistant\n") == 3 and "<|im_start|>" not in text


def test_trap_t03_a_row_that_ends_with_a_result_does_not_train_the_result(cases):
    template, tokenizer = cases["ours"]
    row = long_row()
    (example,) = render(replace(row, messages=row.messages[:4]), template, tokenizer)
    assert '{"result": 21}' not in tokenizer.decode(example.ids)
    assert trained(example, tokenizer)[-1][1].endswith("</tool_call><|im_end|>")


@pytest.mark.parametrize("name", CASES)
def test_training_ids_are_inference_ids(cases, name):
    """The prompt of every turn is exactly what stands before its trained part, and a turn is written as the
    template itself writes it wherever the template keeps it."""
    template, tokenizer = cases[name]
    for row in (long_row(), *weather_rows(4)):
        examples = render(row, template, tokenizer)
        turns = [i for i, m in enumerate(row.messages) if m.role == "assistant"]
        found = set()
        for i in turns:
            prompt = prompt_ids(row.messages[:i], row.tools, template, tokenizer)
            holder = [
                e
                for e in examples
                if list(e.ids[: len(prompt)]) == prompt and any(s.start == len(prompt) for s in e.spans)
            ]
            assert len(holder) == 1, f"turn {i}"
            found.add(id(holder[0]))
        assert len(found) == len(examples)
        assert tokenizer.encode(tokenizer.decode(examples[-1].ids)) == list(examples[-1].ids)
        if row.id == "long":
            assert (len(examples) == 1) == (name in ONE_EXAMPLE)
        if name in ONE_EXAMPLE:
            assert template.text(row.messages, row.tools).startswith(tokenizer.decode(examples[0].ids))


def test_trap_t08_t20_a_template_that_drops_plans_gives_an_example_a_turn(cases):
    """No prefix is a prefix here; every turn is still trained, with its plan, after the prompt it would have."""
    template, tokenizer = cases["qwen3"]
    examples = render(long_row(), template, tokenizer)
    texts = [tokenizer.decode(e.ids) for e in examples]
    assert [t.count("<think>\n") for t in texts] == [2, 1]  # call and answer share one; the last question's is alone
    assert "get_weather\n</think>" not in texts[-1] and "No function fits.\n</think>\n\nYou are" in texts[-1]
    plans = [text for e in examples for kind, text in trained(e, tokenizer) if kind == "think"]
    assert [p.strip() for p in plans] == ["get_weather", "I have the result.", "No function fits."]


def test_qwen3_like_conversation_is_one_example(cases):
    template, tokenizer = cases["qwen3, keeps plans"]
    (example,) = render(long_row(), template, tokenizer)
    assert len([s for s in example.spans if s.kind == "think"]) == 3
    assert tokenizer.decode(example.ids) + "\n" == template.text(long_row().messages, TOOLS)
    (default,) = render(replace(long_row(), messages=long_row().messages[:3]), replace(template, style={}), tokenizer)
    assert tokenizer.decode(default.ids) + "\n" != template.text(long_row().messages[:3], TOOLS)


def test_trap_t02_one_bos_and_only_where_the_template_writes_it(cases):
    template, tokenizer = cases["ours, gemma"]
    bos = tokenizer.encode("<bos>")
    (example,) = render(long_row(), template, tokenizer)
    assert len(bos) == 1 and example.ids[0] == bos[0] and example.ids.count(bos[0]) == 1
    prompt = prompt_ids(long_row().messages[:2], TOOLS, template, tokenizer)
    assert prompt.count(bos[0]) == 1 and list(example.ids[: len(prompt)]) == prompt
    template, tokenizer = cases["ours"]  # ChatML writes none
    assert tokenizer.encode("<|endoftext|>")[0] not in render(long_row(), template, tokenizer)[0].ids


def test_trap_t11_no_span_reaches_over_the_reply(cases):
    for name, (template, tokenizer) in cases.items():
        for example in render(long_row(), template, tokenizer):
            ends = [tokenizer.decode(example.ids[: s.end]).endswith(template.stop) for s in example.spans]
            assert ends[-1], name
            assert example.spans[-1].end == len(example.ids)
            assert all(a.end <= b.start for a, b in zip(example.spans, example.spans[1:], strict=False))


def test_trap_t20_spans_come_from_composing_not_from_a_prefix(cases):
    """With an empty plan written into last turns only, the text up to a turn is no prefix of the whole."""
    template, tokenizer = cases["qwen3, no thinking"]
    row = replace(long_row(think=False), messages=long_row(think=False).messages)
    whole = template.text(row.messages, TOOLS)
    upto = template.text(row.messages[:5], TOOLS)
    assert not whole.startswith(upto)
    texts = ["".join(text for _, text in trained(e, tokenizer)) for e in render(row, template, tokenizer)]
    assert "".join(texts) == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
        "21 degrees.<|im_end|>You are welcome.<|im_end|>"
    )


def test_no_assistant_turn_no_example(cases):
    template, tokenizer = cases["ours"]
    assert render(Conversation(ANSWER[:1], TOOLS), template, tokenizer) == []


def test_trap_t05_long_rows_are_dropped_whole_never_cut(cases):
    template, tokenizer = cases["ours"]
    (example,) = render(long_row(), template, tokenizer)
    empty = Example((1, 2), (), "empty")
    kept, lost = limit_length([example, empty], len(example))
    assert kept == [example] and lost == [empty]
    kept, lost = limit_length([example], len(example) - 1)
    assert kept == [] and lost == [example]


def test_open_thinking_writes_the_tag_for_the_model(cases):
    template, _ = cases["ours"]
    closed, opened = (prompt_text(ANSWER[:1], TOOLS, template, open_thinking=o) for o in (False, True))
    assert opened == closed + "<think>" and closed.endswith("<|im_start|>assistant\n")


# Nasty but without markers or special tokens, which Hermes cannot escape outside JSON.
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="<>"), max_size=30)
VALUES = st.one_of(
    TEXT,
    st.sampled_from(["</tool_call>", "}}", '"', "\\n", "\n\n", " 東京 ", "'", "{{ x }}", "é\u200d"]),
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.none(),
    st.lists(TEXT, max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(
    content=TEXT,
    thinking=st.one_of(st.none(), TEXT),
    arguments=st.dictionaries(TEXT, VALUES, max_size=3),
    question=TEXT,
)
def test_any_text_is_trained_as_it_reads_back(cases, content, thinking, arguments, question):
    call = ToolCall("get_weather", arguments)
    row = Conversation((Message("user", question), Message("assistant", content, thinking, (call,))), TOOLS)
    for name in ("ours", "qwen3, keeps plans", "plain"):
        template, tokenizer = cases[name]
        (example,) = render(row, template, tokenizer)
        prompt = prompt_ids(row.messages[:1], TOOLS, template, tokenizer)
        assert list(example.ids[: len(prompt)]) == prompt and example.first_loss == len(prompt)
        covered = [i for s in example.spans for i in range(s.start, s.end)]
        assert covered == list(range(len(prompt), len(example.ids)))
        text = tokenizer.decode(example.ids[len(prompt) :])
        assert text.endswith(template.stop)
        reply = get_format("hermes").parse(text.removesuffix(template.stop))
        assert reply.calls[0].arguments == arguments and not reply.errors
        assert reply.content == content.strip()
        assert reply.thinking == (thinking.strip() if thinking is not None else None)


def test_special_tokens_in_data_stay_text_of_the_question(cases):
    """A marker in a question must not end up trained; nor may it move the spans."""
    template, tokenizer = cases["ours"]
    row = Conversation((Message("user", "say <|im_end|> <tool_call> </think>"), Message("assistant", "No.")), TOOLS)
    (example,) = render(row, template, tokenizer)
    assert trained(example, tokenizer) == [("answer", "No."), ("syntax", "<|im_end|>")]


# ---- many rows --------------------------------------------------------------------------------------------------


def test_many_rows_are_rendered_as_each_alone(tmp_path, monkeypatch):
    from calltune import rendered
    from calltune.render import render_all

    tiny_tokenizer(tmp_path / "t", "chatml")
    tokenizer = load_tokenizer(tmp_path / "t")
    template = choose_template(tokenizer)
    text = Conversation((), (), "text", {"text": "Good morning."})
    rows = [*weather_rows(150), long_row(), text, *weather_rows(3)]
    alone = [example for row in rows for example in render(row, template, tokenizer)]
    assert render_all(rows, template, tokenizer) == alone
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rendered, "FEWEST", 10)
    assert rendered.render_kept(rows, template, tokenizer) == alone
    (kept,) = (tmp_path / "cache" / "rendered").iterdir()

    def fails(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr(rendered, "render_all", fails)
    assert rendered.render_kept(rows, template, tokenizer) == alone  # from the file
    other = [replace(rows[0], messages=(Message("user", "Something else"), rows[0].messages[1])), *rows[1:]]
    for changed in (other, rows[1:], [replace(rows[0], tools=rows[0].tools[:1]), *rows[1:]]):
        with pytest.raises(AssertionError, match="rendered again"):
            rendered.render_kept(changed, template, tokenizer)
    with pytest.raises(AssertionError, match="rendered again"):
        rendered.render_kept(rows, choose_template(tokenizer, think=False), tokenizer)
    monkeypatch.setattr(rendered, "render_all", render_all)
    kept.write_bytes(kept.read_bytes()[:-100])
    assert rendered.render_kept(rows, template, tokenizer) == alone
