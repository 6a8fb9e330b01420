"""The scorer: every rule of the contract's exact match, every kind of error, and the statistics."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calltune.schema import Reply, Tool, ToolCall
from calltune.score import ERROR_KINDS, Verdict, aggregate, changes, mcnemar, score_reply, wilson

TIMER = Tool(
    "set_timer",
    "",
    {
        "type": "object",
        "properties": {
            "minutes": {"type": "number"},
            "label": {"type": "string"},
            "loud": {"type": "boolean", "default": False},
            "tags": {"type": "array", "items": {"type": "string"}},
            "tone": {
                "type": "object",
                "properties": {"pitch": {"type": "integer", "default": 3}, "name": {"type": "string"}},
            },
        },
        "required": ["minutes"],
    },
)
WEATHER = Tool(
    "get_weather",
    "",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TOOLS = (TIMER, WEATHER)


def timer(**arguments) -> ToolCall:
    return ToolCall("set_timer", arguments)


def weather(city: str) -> ToolCall:
    return ToolCall("get_weather", {"city": city})


def judge(expected, *calls, **reply) -> Verdict:
    return score_reply(expected, Reply(calls=calls, **reply), TOOLS, id="1", category="c")


EXACT = [
    ([timer(minutes=5)], [timer(minutes=5.0)]),
    ([timer(minutes=5)], [timer(minutes=5, loud=False)]),
    ([timer(minutes=5, loud=False)], [timer(minutes=5)]),
    ([timer(minutes=5, tags=["a", "b"])], [timer(minutes=5, tags=["a", "b"])]),
    ([timer(minutes=5, tone={"name": "x"})], [timer(minutes=5, tone={"pitch": 3.0, "name": "x"})]),
    ([weather("Rome"), timer(minutes=5)], [timer(minutes=5), weather("Rome")]),
    ([weather("Rome"), weather("Oslo")], [weather("Oslo"), weather("Rome")]),
    ([weather("Rome"), weather("Rome")], [weather("Rome"), weather("Rome")]),
    ([], []),
]


@pytest.mark.parametrize(("expected", "found"), EXACT)
def test_exact(expected, found):
    verdict = judge(expected, *found)
    assert verdict.exact
    assert (verdict.kind, verdict.reason) == ("exact", "")
    assert (verdict.emitted, verdict.valid) == (len(found), len(found))


WRONG = [
    ("no_call", [weather("Rome")], [], "get_weather"),
    ("over_call", [], [weather("Rome")], "get_weather"),
    ("wrong_tool", [weather("Rome")], [timer(minutes=5)], "called set_timer, expected get_weather"),
    ("missing_call", [weather("Rome"), weather("Oslo")], [weather("Rome")], "get_weather"),
    ("missing_call", [weather("Rome"), weather("Rome")], [weather("Rome")], "get_weather"),
    ("extra_call", [weather("Rome")], [timer(minutes=1), weather("Rome")], "set_timer"),
    ("extra_call", [weather("Rome")], [weather("Rome"), weather("Rome")], "get_weather"),
    ("missing_argument", [timer(minutes=5, label="tea")], [timer(minutes=5)], "label"),
    ("missing_argument", [timer(minutes=5, loud=True)], [timer(label="tea", loud=True)], "minutes"),
    ("extra_argument", [timer(minutes=5)], [timer(minutes=5, label="tea")], "label"),
    ("wrong_type", [timer(minutes=5)], [timer(minutes="5")], "string"),
    ("wrong_type", [timer(minutes=1)], [timer(minutes=True)], "boolean"),
    ("wrong_type", [timer(minutes=0, loud=True)], [timer(minutes=0, loud=1)], "number"),
    ("wrong_value", [timer(minutes=5)], [timer(minutes=6)], "minutes"),
    ("wrong_value", [timer(minutes=5, loud=True)], [timer(minutes=5)], "loud"),
    ("wrong_value", [timer(minutes=5)], [timer(minutes=5, loud=True)], "loud"),
    ("wrong_value", [weather("Rome")], [weather("rome")], "city"),
    ("wrong_value", [timer(minutes=5, tags=["a", "b"])], [timer(minutes=5, tags=["b", "a"])], "tags.0"),
    ("wrong_value", [timer(minutes=5, tags=["a"])], [timer(minutes=5, tags=["a", "b"])], "tags"),
    (
        "missing_argument",
        [timer(minutes=5, tone={"name": "x"})],
        [timer(minutes=5, tone={"pitch": 3})],
        "tone.name",
    ),
    ("wrong_value", [timer(minutes=5, tone={"pitch": 1})], [timer(minutes=5, tone={})], "tone.pitch"),
]


@pytest.mark.parametrize(("kind", "expected", "found", "told"), WRONG)
def test_kinds_of_error(kind, expected, found, told):
    verdict = judge(expected, *found)
    assert not verdict.exact
    assert verdict.kind == kind
    assert told in verdict.reason
    assert kind in ERROR_KINDS


def test_parallel_calls_are_paired_with_the_likest():
    expected = [timer(minutes=5, label="tea"), timer(minutes=9, label="egg")]
    verdict = judge(expected, timer(minutes=9, label="eggs"), timer(minutes=5, label="tea"))
    assert verdict.kind == "wrong_value"
    assert verdict.reason == "argument label is 'eggs', expected 'egg'"


def test_a_reply_with_an_error_is_never_exact_and_not_a_no_call():
    assert judge([], errors=("call is not JSON",)).kind == "format"
    broken = ToolCall("", raw="{oops", error="not JSON")
    verdict = judge([weather("Rome")], weather("Rome"), broken, errors=("not JSON",))
    assert (verdict.exact, verdict.kind) == (False, "format")
    assert (verdict.emitted, verdict.valid) == (2, 1)
    assert judge([weather("Rome")], broken).kind == "format"


def test_an_unreadable_call_counts_as_emitted_and_invalid_another_fault_does_not():
    broken = ToolCall("", raw="{", error="not JSON")
    verdict = judge([weather("Rome")], broken, errors=("not JSON",))
    assert (verdict.emitted, verdict.valid) == (1, 0)
    verdict = judge([weather("Rome")], weather("Rome"), errors=("unclosed think",))
    assert (verdict.kind, verdict.emitted, verdict.valid) == ("format", 1, 1)
    assert judge([], errors=("unclosed think",)).emitted == 0


def test_truncated_names_the_reason_only_where_something_is_missing():
    assert judge([weather("Rome")], truncated=True).kind == "truncated"
    assert judge([weather("Rome"), weather("Oslo")], weather("Rome"), truncated=True).kind == "truncated"
    assert judge([weather("Rome")], truncated=True, errors=("cut",)).kind == "truncated"
    assert judge([weather("Rome")], weather("Oslo"), truncated=True).kind == "wrong_value"
    assert judge([weather("Rome")], weather("Rome"), truncated=True).exact
    assert judge([], truncated=True, content="well, ").exact


def test_validity_is_by_schema_not_by_expectation():
    assert judge([weather("Rome")], weather("Oslo")).valid == 1
    assert judge([weather("Rome")], ToolCall("get_news", {})).valid == 0
    assert judge([weather("Rome")], ToolCall("get_weather", {"city": 3})).valid == 0
    assert judge([weather("Rome")], ToolCall("get_weather", {"city": "Rome", "day": "Monday"})).valid == 0


def test_thinking_is_a_plan_with_words():
    assert judge([], thinking="I need no tool.").thinking
    assert not judge([], thinking=" \n").thinking
    assert not judge([]).thinking


def test_numbers_are_compared_without_loss():
    big = 2**53
    assert judge([timer(minutes=big + 1)], timer(minutes=big)).kind == "wrong_value"
    assert judge([timer(minutes=10**400)], timer(minutes=1e300)).kind == "wrong_value"
    assert judge([timer(minutes=5)], timer(minutes=float("nan"))).kind == "wrong_value"


def test_a_deep_or_long_wrong_value_is_told_shortly():
    deep = json.loads("[" * 900 + "]" * 900)
    assert judge([timer(minutes=5, tags=["a"])], timer(minutes=5, tags=deep)).kind == "wrong_type"
    verdict = judge([weather("Rome")], weather("x" * 1_000_000))
    assert verdict.kind == "wrong_value"
    assert len(verdict.reason) < 300


unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from(["set_timer", "get_weather", "x"]),
        st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    ),
    max_size=4,
)


@unhurried
@given(CALLS, st.randoms(use_true_random=False))
def test_any_order_of_the_same_calls_is_exact(calls, random):
    shuffled = random.sample(calls, len(calls))
    assert judge(calls, *shuffled).exact


@unhurried
@given(CALLS, CALLS)
def test_exact_has_the_same_calls_and_is_symmetric(left, right):
    assert judge(left, *right).exact == judge(right, *left).exact
    if judge(left, *right).exact:
        assert sorted(c.name for c in left) == sorted(c.name for c in right)


def verdict(id: str, *, exact: bool = True, category: str = "a", needs_call: bool = True) -> Verdict:
    kind = "exact" if exact else ("wrong_value" if needs_call else "over_call")
    return Verdict(id, category, needs_call, exact, kind, "", int(needs_call), int(exact), True)


def test_aggregate():
    verdicts = [
        verdict("1"),
        verdict("2", exact=False),
        verdict("3", category="b"),
        verdict("4", category="none", needs_call=False),
    ]
    figures = aggregate(verdicts)
    assert figures["exact_match"] == 0.75
    assert figures["call_exact_match"] == pytest.approx(2 / 3)
    assert figures["no_call_accuracy"] == 1.0
    assert figures["schema_valid"] == 1.0
    assert figures["thinking_rate"] == 1.0
    assert (figures["n"], figures["n_call"], figures["emitted"]) == (4, 3, 3)
    assert figures["errors"] == {"wrong_value": 1}
    rows = figures["categories"]
    assert [(row["category"], row["n"], row["exact"]) for row in rows] == [
        ("a", 2, 1),
        ("b", 1, 1),
        ("none", 1, 1),
    ]
    assert rows[0]["interval"] == wilson(1, 2)
    json.dumps(figures, allow_nan=False)


def test_a_share_of_nothing_is_null():
    nothing = aggregate([])
    assert [nothing[k] for k in ("exact_match", "schema_valid", "thinking_rate")] == [None] * 3
    silent = aggregate([judge([])])
    assert silent["schema_valid"] is None
    assert silent["call_exact_match"] is None
    assert silent["no_call_accuracy"] == 1.0
    assert silent["intervals"]["schema_valid"] is None


def test_wilson_against_published_values():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611)}
    for (count, n), (low, high) in published.items():
        assert wilson(count, n) == pytest.approx([low, high], abs=5e-5)
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) is None


def pairs(both: int, gained: int, lost: int) -> tuple[list[Verdict], list[Verdict]]:
    flags = [(True, True)] * both + [(False, True)] * gained + [(True, False)] * lost
    before = [verdict(str(i), exact=first) for i, (first, _) in enumerate(flags)]
    return before, [verdict(str(i), exact=second) for i, (_, second) in enumerate(flags)]


def test_mcnemar_is_exact_and_two_sided():
    assert mcnemar(*pairs(50, 0, 0)) == 1.0
    assert mcnemar(*pairs(3, 5, 5)) == 1.0
    assert mcnemar(*pairs(9, 6, 0)) == pytest.approx(2 / 64)
    assert mcnemar(*pairs(9, 1, 8)) == pytest.approx(2 * 10 / 512)  # R: binom.test(1, 9)
    assert mcnemar(*pairs(9, 8, 1)) == mcnemar(*pairs(9, 1, 8))
    assert 0 <= mcnemar(*pairs(0, 3491, 0)) < 1e-300
    assert changes(*pairs(4, 3, 2)) == (3, 2)


def test_mcnemar_wants_the_same_cases():
    before, after = pairs(4, 1, 1)
    with pytest.raises(ValueError, match="same cases"):
        mcnemar(before, after[:-1])
    with pytest.raises(ValueError, match="same cases"):
        mcnemar(before + before[:1], after + after[:1])


def test_scoring_10000_replies_is_quick():
    reply = Reply(calls=(timer(minutes=5, tags=["a"]), weather("Rome")))
    expected = [weather("Rome"), timer(minutes=5, tags=["b"])]
    start = time.process_time()
    verdicts = [score_reply(expected, reply, TOOLS, id=str(i), category="c") for i in range(10_000)]
    assert aggregate(verdicts)["exact_match"] == 0.0
    assert time.process_time() - start < 10  # measured: about 2 s; the bound leaves room for a busy machine
