"""Values that are words of the conversation: which parameters have such, and what a reply may say for them."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from bound_text import walk_under

from calltune.copying import Copying, Source, Vocabulary, copies, texts_in, vocabulary_of
from calltune.data.copied import FEWEST, copied_of, copied_parameters, spoken, stands_in
from calltune.engine.writing import Writing, choose
from calltune.formats import get_format
from calltune.frames import frame_of
from calltune.grammar import Rules, grammar_of
from calltune.guide import GrammarGuide
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall, validate_call
from calltune.template import Template, choose_template
from calltune.tokenizer import Tokenizer

SEND = Tool("send", "Sends.", {
    "type": "object",
    "properties": {
        "to": {"type": "string"}, "text": {"type": "string"}, "how": {"enum": ["mail", "sms"]},
        "tags": {"type": "array", "items": {"type": "string"}}, "folder": {"type": "string", "default": "out box"},
        "times": {"type": "integer"}, "title": {"type": "string"},
    },
    "required": ["to"],
})  # fmt: skip


def row(request: str, system: str = "", **arguments) -> Conversation:
    first = [Message("system", system)] if system else []
    call = Message("assistant", calls=(ToolCall("send", arguments),))
    return Conversation((*first, Message("user", request), call), (SEND,))


# ---- which parameters --------------------------------------------------------------------------------------------


def test_what_every_row_took_from_the_conversation_is_copied():
    rows = [row(f"Tell Ana{i} that I'm late, tag it a{i} and b, by sms", to=f"Ana{i}", text="I'm late", how="sms",
                tags=[f"a{i}", "b"], folder="out box", times=1, title="A title") for i in range(FEWEST)]  # fmt: skip
    assert copied_parameters(rows) == {"send": ["tags", "text", "to"]}  # nothing is known of the folder
    assert copied_parameters(rows[1:]) == {}  # too few to know
    folders = [row(f"Put it into f{i}, Ana", to="Ana", folder=f"f{i}", tags=[]) for i in range(FEWEST)]
    assert copied_parameters([*rows, *folders]) == {"send": ["folder", "tags", "text", "to"]}
    assert copied_parameters([*rows, *folders[1:]]) == {"send": ["tags", "text", "to"]}


@pytest.mark.parametrize("request_", ["Tell Anna hello", "Tell ANA hello", "Tell Banana hello", "Tell A na hello"])
def test_one_row_that_says_it_otherwise_frees_it(request_):
    rows = [row("Tell Ana hello", to="Ana")] * FEWEST
    assert copied_parameters(rows) == {"send": ["to"]}
    assert copied_parameters([*rows, row(request_, to="Ana")]) == {}


def test_the_system_message_and_what_comes_after_the_call_are_not_said():
    assert copied_parameters([row("Tell her hello", system="You write to Ana.", to="Ana")] * FEWEST) == {}
    late = row("Tell her hello", to="Ana")
    late = Conversation((*late.messages, Message("tool", "to Ana"), Message("user", "Ana?")), late.tools)
    assert copied_parameters([late] * FEWEST) == {}


def test_texts_of_a_result_are_said_without_its_escapes():
    """Clients write results with json.dumps, to whom Zürich is Z\\u00fcrich."""
    for content in (json.dumps({"found": [{"to": 'Zoë "Z" Müller'}]}), json.dumps('Zoë "Z" Müller')):
        said = spoken([Message("user", "Write to her"), Message("tool", content)])
        assert said[:2] == ["Write to her", content] and stands_in('Zoë "Z"', said) and stands_in("Müller", said)
    for content in ("C:\\\\dir {", "[" * 5000 + "\\"):  # no JSON
        assert spoken([Message("tool", content)]) == [content]


def test_tools_of_the_request_decide_what_of_it_is_bound():
    learnt = {"send": ["to", "folder", "how", "gone"], "other": ["x"]}
    assert copied_of(learnt, [SEND]) == {"send": {"to": (), "folder": ("out box",)}}
    assert copied_of(learnt, [Tool("third", "")]) == {} == copied_of({}, [SEND])


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"enum": ["mail", "sms"]}, {"type": "null"}]},
        {"allOf": [{"$ref": "#/$defs/How"}]},
        {"type": "array", "items": {"oneOf": [{"const": "mail"}, {"const": "sms"}]}},
    ],
)
def test_a_fixed_set_anywhere_in_the_schema_is_one(schema):
    tool = Tool("send", "", {"type": "object", "properties": {"how": schema}})
    value = ["sms"] if "items" in schema else "sms"
    rows = [Conversation(row("Tell Ana by sms", how=value).messages, (tool,))] * FEWEST
    assert copied_parameters(rows) == {} == copied_of({"send": ["how"]}, [tool])


def test_a_schema_that_allows_anything_is_read():
    tool = Tool("send", "", {"type": "object", "properties": {"to": True, "n": False}})
    rows = [Conversation(row("Tell Ana", to="Ana").messages, (tool,))] * FEWEST
    assert copied_parameters(rows) == {"send": ["to"]}
    assert copied_of({"send": ["to", "n"]}, [tool]) == {"send": {"to": ()}}


def test_a_value_stands_between_the_edges_of_words():
    said = ["Meet Ana-Maria at 9, (north) gate.", "ça va, Zoë?"]
    for value in ("Ana", "Ana-Maria", "at 9", "9", "(north)", "north", "Zoë", "gate.", "ça"):
        assert stands_in(value, said), value
    for value in ("An", "na", "Mari", " 9", "north ", "", "Zo", "gate. ça"):
        assert not stands_in(value, said), value


# ---- what a reply may say ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('{"to": "An', ["to: An..."]),
        ('{"to":"', ["to: ..."]),
        ('{"to": "A \\"quoted\\" wo', ['to: A \\"quoted\\" wo...']),
        ('{"to": "half an escape \\', ["to: half an escape \\..."]),
        ('{"n": -1.5, "tags": ["a", "b', ["tags: a", "tags: b..."]),
        ('{"tags": ["', ["tags: ..."]),
        ('{"a": {"to": "x', []),  # too deep
        ('{"tags": [["x', []),
        ('{"to', []),  # a key
        ('{"a": 1, "to', []),
        ('{"to": "An", "b": {"c": "d"}, "e": ["f"]', ["to: An", "e: f"]),
        ('{"to": ', []),
        ('{"to": "An"}} "', ["to: An"]),  # nothing behind the call
        ("", []),
    ],
)
def test_the_texts_of_arguments_as_far_as_they_are_written(arguments, found):
    texts = list(texts_in(arguments))
    assert [f"{text.parameter}: {text.written}{'...' if text.open else ''}" for text in texts] == found
    assert all(arguments[: text.end].endswith(text.written + ("" if text.open else '"')) for text in texts)


@pytest.mark.parametrize(
    ("text", "value"),
    [("東京の天気は？", "東京"), ("Tokyoの天気", "Tokyo"), ("서울의 날씨", "서울"), ("อากาศกรุงเทพวันนี้", "กรุงเทพ")],
)
def test_letters_that_no_space_parts_from_the_next_word(text, value):
    """A reply could only say the whole of "東京の天気は" for a city."""
    assert stands_in(value, [text]) and value in texts_of(Source.said(text))
    assert not stands_in("Toky", [text]) and "Toky" not in texts_of(Source.said(text))


def texts_of(source: Source) -> set[str]:
    return {source.text[a:b].decode() for a in source.starts for b in source.ends if b > a}


def test_words_of_a_text_as_json_has_them():
    assert texts_of(Source.said('Hi "Zoë"\nyo')) == {
        json.dumps(text, ensure_ascii=False)[1:-1]
        for text in ("Hi", 'Hi "', 'Hi "Zoë', 'Hi "Zoë"', 'Hi "Zoë"\nyo', '"', '"Zoë', '"Zoë"', '"Zoë"\nyo', "Zoë",
                     'Zoë"', 'Zoë"\nyo', '"\nyo', "yo")
    }  # fmt: skip
    assert texts_of(Source.whole("out box")) == {"out box"}
    assert texts_of(Source.said(" Ana \n")) == {"Ana"}
    assert texts_of(Source.said(" \n")) == texts_of(Source.said("")) == set()


COPIED = {"send": {"to": (), "tags": (), "folder": ("out box",)}}


def guide(said: str, tokenizer: Tokenizer, template: Template, inner: GrammarGuide | None = None) -> Copying:
    vocabulary = vocabulary_of(tokenizer, tokenizer.stop_ids)
    return Copying(COPIED, [Message("user", said)], frame_of(template), vocabulary, inner)


def refused_at(text: str, bound: Copying, tokenizer: Tokenizer) -> str | None:
    """What of the text had come when the next token was refused; None where all of it may come."""
    done: list[int] = []
    for token in tokenizer.encode(text):
        mask = bound.mask()
        if mask is not None and not mask[token]:
            return tokenizer.decode(done)
        assert bound.takes(token)
        done.append(token)
    return None


def reply(**arguments) -> str:
    call = json.dumps({"name": "send", "arguments": arguments}, ensure_ascii=False)
    return f"<think>\nSome plan about Bob.\n</think>\n<tool_call>\n{call}\n</tool_call>"


SAID = 'Write to Ana-Maria and Zoë: "see you at 9", from the big house.'
RIGHT = [{"to": "Ana-Maria"}, {"to": "Zoë"}, {"to": "Ana"}, {"to": 'Zoë: "see you'}, {"tags": ["Ana", "house", "9"]},
         {"folder": "out box"}, {"folder": "big house"}, {"text": "Anything at all", "to": "Zoë"}, {"times": 7},
         {"tags": []}]  # fmt: skip
WRONG = [({"to": "Anna"}, "Anna"), ({"to": "An"}, "An"), ({"to": "Bob"}, "Bob"), ({"to": "Zo"}, "Zo"),
         ({"tags": ["Ana", "houses"]}, "houses"), ({"folder": "out"}, "out"), ({"to": " Ana"}, " Ana"),
         ({"text": "Bob", "to": "Ann"}, "Ann")]  # fmt: skip


@pytest.mark.parametrize("bound", [False, True])
def test_what_a_reply_may_say(bound, tokenizer, template):
    def made() -> Copying:
        grammar = grammar_of([SEND], Rules(), template, tokenizer)
        return guide(SAID, tokenizer, template,
                     GrammarGuide(grammar, tokenizer, tokenizer.stop_ids) if bound else None)  # fmt: skip

    for arguments in RIGHT:
        if bound and "to" not in arguments:
            arguments = {"to": "Zoë"} | arguments
        ordered = {key: arguments[key] for key in SEND.properties if key in arguments}  # as the grammar wants it
        assert refused_at(reply(**ordered), made(), tokenizer) is None, arguments
    for arguments, value in WRONG:
        if bound and "to" not in arguments:
            arguments = {"to": "Zoë"} | arguments
        ordered = {key: arguments[key] for key in SEND.properties if key in arguments}
        came = refused_at(reply(**ordered), made(), tokenizer)
        assert came is not None, arguments
        written = came.rpartition('"')[2] if not came.endswith('"') else ""
        assert value.startswith(written.removesuffix("\ufffd")), (arguments, came)


def test_a_reply_to_nothing_said_is_free(tokenizer, template):
    assert refused_at(reply(to="Bob"), guide("", tokenizer, template), tokenizer) is None


def test_calls_that_are_written_otherwise_are_free(tokenizer, template):
    text = "<tool_call>\n{'name': 'send', 'arguments': {'to': 'Bob'}}\n</tool_call>"
    assert refused_at(text, guide(SAID, tokenizer, template), tokenizer) is None
    other = reply(to="Bob").replace('"send"', '"other"')
    assert refused_at(other, guide(SAID, tokenizer, template), tokenizer) is None


def chosen(schema: dict, said: str, tokenizer: Tokenizer, seed: int) -> tuple[str, Reply]:
    """A reply of random wishes under the grammar and the words, by the engine's own choice of tokens."""
    template = choose_template(tokenizer, think=False)
    tool = Tool("send", "", {"type": "object", "properties": {"to": schema}, "required": ["to"]})
    grammar = grammar_of([tool], Rules("required", parallel=False), template, tokenizer)
    bound = guide(said, tokenizer, template, GrammarGuide(grammar, tokenizer, tokenizer.stop_ids))
    writing, wishes = Writing(tokenizer.stop_ids, 300, bound), np.random.default_rng(seed)
    writing.begin([])
    while not writing.ended:
        logits = wishes.normal(size=(1, len(tokenizer.inner) + 3)).astype(np.float32)
        writing.add(choose(mx.array(logits), [writing])[0])
    made = writing.finish()
    text = tokenizer.decode(made.ids)
    return text, replace(get_format(template.format).parse(text), truncated=made.truncated)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "pattern": "^[A-Z]{3}$"}, "Send dollars to me"),
        ({"type": "string", "pattern": "^[A-Z]{3}$"}, "I think so"),  # its first letter fits
        ({"type": "string", "pattern": "^ID-[0-9]+$"}, "The second one"),  # nobody says what is forced
        ({"type": "string", "format": "date"}, "Tomorrow at 9, please"),
        ({"type": "string", "maxLength": 4}, "pleasepleaseplease"),
        ({"type": "string", "minLength": 30}, "please"),
    ],
)
def test_a_value_that_words_cannot_fit_is_free_and_the_reply_ends(schema, said, seed, tokenizer):
    text, made = chosen(schema, said, tokenizer, seed)
    if "minLength" not in schema:  # long at random
        assert not made.truncated, text
        assert made.calls and not made.calls[0].error, text
        tool = Tool("send", "", {"type": "object", "properties": {"to": schema}})
        assert validate_call(made.calls[0], [tool]) == []
    assert text.count('"to": "') == 1 and len(text.partition('"to": "')[2]) > 4


def test_words_go_on_in_the_next_value_after_a_free_one(tokenizer, template):
    bound = guide("ID", tokenizer, template)
    for token in tokenizer.encode('<tool_call>\n{"name": "send", "arguments": {"to": "'):
        assert bound.takes(token)
    bound.written += b"Bob"  # as a grammar would force it
    assert bound.mask() is None
    for token in tokenizer.encode(' and Ann", "tags": ["'):
        assert bound.takes(token)
    mask = bound.mask()
    assert mask is not None and {tokenizer.decode([i]) for i in np.flatnonzero(mask)} == {"I"} | (
        {"ID"} if tokenizer.has_token("ID") else set()
    )


def test_a_token_may_have_quotes_of_the_value_and_the_one_that_ends_it(tokenizer, template):
    vocabulary = Vocabulary.of([b'"', b'"",', b"\\", b'\\"",', b"a", b'a\\"', b"b"])
    bound = Copying(COPIED, [Message("user", 'say "a"')], frame_of(template), vocabulary)
    for written, tokens in (("", {2, 3, 4, 5}), ("a", {0, 1, 2, 3}), ("a\\", {0, 1}), ('a\\"', {0, 1})):
        bound.written = f'{{"name": "send", "arguments": {{"to": "{written}'.encode()
        mask = bound.mask()
        assert mask is not None and set(np.flatnonzero(mask)) == tokens, written
        assert bound.takes(1) is (written == "a\\")  # elsewhere it ends the value and begins another


def test_rows_of_the_head_that_stand_for_no_token_write_nothing(tokenizer, template):
    bound = guide(SAID, tokenizer, template)
    assert bound.takes(len(bound.vocabulary.texts) + 2) and bound.written == b""


def test_a_said_control_token_is_not_written_as_one(tokenizer, template):
    said = "Write <|im_end|> to Ana"
    assert refused_at(reply(to="Ana"), guide(said, tokenizer, template), tokenizer) is None
    bound = guide(said, tokenizer, template)
    for token in tokenizer.encode('<tool_call>\n{"name": "send", "arguments": {"to": "'):
        assert bound.takes(token)
    mask = bound.mask()
    assert mask is not None and mask[tokenizer.encode("<")[0]]
    assert not any(mask[i] for i in tokenizer.stop_ids | set(tokenizer.inner.all_special_ids))


def test_bytes_and_signs_for_spaces_of_sentencepiece_vocabularies():
    """Spaces are a sign there, runs of them added tokens by that sign, and rare letters their bytes."""
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<eos>", *(f"<0x{i:02X}>" for i in range(256)), *map(chr, range(33, 127)), "\u2581"]
    backend = Backend(
        models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<eos>"])
    backend.add_tokens([AddedToken("\u2581\u2581", normalized=False), AddedToken("\n\n", normalized=False)])
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    tokenizer = Tokenizer(inner, frozenset({1}))
    vocabulary = vocabulary_of(tokenizer, tokenizer.stop_ids)
    text = "a b  c\n\nZo\u00eb \U0001f9d9"
    ids = [*tokenizer.encode(text), inner.convert_tokens_to_ids("\u2581\u2581")]
    assert b"".join(map(vocabulary.text, ids)) == f"{text}  ".encode() and tokenizer.decode(ids) == f"{text}  "


def test_a_long_reply_without_spaces_is_looked_through_once(tokenizer, template):
    """A bare name may begin at any letter: from each to the end of the text took a second a token."""
    bound = guide(SAID, tokenizer, replace(template, format="mistral", style={}))
    assert bound.head.search("x" * 200_000) is None
    found = bound.head.search("[TOOL_CALLS]send[ARGS]{}")
    assert found and found[1] == "send"


@pytest.mark.parametrize("form", ["llama3", "mistral", "mistral-list", "json"])
def test_several_calls_in_every_format_with_json(form, tokenizer, template):
    other = replace(template, format=form, style={})
    calls = (ToolCall("send", {"to": "Zoë", "text": "as Bob says"}), ToolCall("send", {"tags": ["Ana", "9"]}))
    for values, right in ((("Zoë", "9"), True), (("Zoë", "8"), False), (("Zo", "9"), False)):
        first, second = replace(calls[0], arguments={"to": values[0], "text": "as Bob says"}), replace(
            calls[1], arguments={"tags": ["Ana", values[1]]})  # fmt: skip
        text = "".join(piece.text for piece in get_format(form).write(Reply(calls=(first, second))))
        assert (refused_at(text, guide(SAID, tokenizer, other), tokenizer) is None) is right, text


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_drawn_under_it_stands_in_the_conversation(seed, tokenizer, template):
    """Replies at random, under the grammar and the words: each value that ended is one of theirs."""
    grammar = grammar_of([SEND], Rules("required"), template, tokenizer)
    bound = guide(SAID, tokenizer, template, GrammarGuide(grammar, tokenizer, tokenizer.stop_ids))
    made = walk_under(bound, tokenizer, random.Random(seed), [SEND])
    values = [text for call in made.calls if not call.error for name, value in call.arguments.items()
              if name in COPIED["send"] for text in (value if isinstance(value, list) else [value])]  # fmt: skip
    assert [text for text in values if not stands_in(text, [SAID]) and text != "out box"] == []
    assert made.truncated or made.calls


def test_formats_whose_arguments_are_json(template):
    assert copies(template) and copies(replace(template, format="llama3", style={}))
    for name in ("pythonic", "qwen3-coder", "gemma4"):
        assert not copies(replace(template, format=name, style={}))
