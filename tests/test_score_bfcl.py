"""The scorer of BFCL: it agrees with the official checker's verdicts, and nothing in a prediction makes it fail."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from calltune.data.bfcl import LIVE, NON_LIVE, read_cases
from calltune.errors import InputError
from calltune.platform.benchmarks import BFCL, is_fetched
from calltune.score_bfcl import BfclCase, check_calls, decode, normal
from calltune.tasks.bfcl import score_predictions
from calltune.tasks.predictions import collect

DATA = Path(__file__).parent / "data" / "bfcl"
SHARED = Path(os.environ.get("CALLTUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SMALL = {case.id: case for case in read_cases(NON_LIVE + LIVE, DATA)}
VECTORS = [json.loads(line) for line in (DATA / "vectors.jsonl").read_text().splitlines()]

FUNCTION = {
    "name": "shop.order",
    "parameters": {
        "properties": {
            "item": {"type": "string"}, "count": {"type": "integer"}, "price": {"type": "float"},
            "sizes": {"type": "array", "items": {"type": "float"}}, "gift": {"type": "boolean"},
            "to": {"type": "dict"}, "lines": {"type": "array", "items": {"type": "dict"}}, "note": {"type": "any"},
        },
        "required": ["item"],
    },
}  # fmt: skip
ANSWER = {
    "item": ["Red Tea", "tea"], "count": [2, ""], "price": [2.0, ""], "sizes": [[1.0, 2.5], ""], "gift": [True, ""],
    "to": [{"name": ["Ann"], "zip": ["1", ""]}, ""], "lines": [[{"a": [1]}, {"b": ["x"]}], ""], "note": ["n", 7, ""],
}  # fmt: skip


def case(category: str = "simple_python", answers: int = 1, **changes) -> BfclCase:
    return BfclCase("x", category, (), (FUNCTION,), ({"shop.order": ANSWER | changes},) * answers)


def error(arguments, name: str = "shop.order", names="dotted", **changes) -> str | None:
    fault = check_calls(case(**changes), [{"name": name, "arguments": arguments}], names)
    return fault and fault.error


def test_the_official_verdicts_of_some_cases():
    wrong = []
    for vector in VECTORS:
        fault = check_calls(SMALL[vector["id"]], vector["calls"], vector["names"])
        if (fault and fault.error) != vector["error_type"] or (fault is None) != vector["valid"]:
            wrong.append((vector["vid"], vector["error_type"], fault))
    assert wrong == []
    assert len({v["error_type"] for v in VECTORS}) == 18 and len(VECTORS) > 200


@pytest.mark.skipif(not (SHARED / "bfcl_vectors.jsonl").is_file() or not is_fetched(BFCL), reason="no data")
def test_the_official_verdicts_of_all_cases():
    cases = {c.id: c for c in read_cases(NON_LIVE + LIVE)}
    wrong, count = [], 0
    for line in (SHARED / "bfcl_vectors.jsonl").open():
        vector = json.loads(line)
        fault = check_calls(cases[vector["id"]], vector["calls"], vector["names"])
        count += 1
        if (fault and fault.error) != vector["error_type"] or (fault is None) != vector["valid"]:
            wrong.append((vector["vid"], vector["error_type"], fault))
    assert wrong == [] and count >= 3980


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"item": "red,TEA"}, None),
        ({"item": "green tea"}, "value_error:string"),
        ({}, "simple_function_checker:missing_required"),
        ({"item": "tea", "colour": "red"}, "simple_function_checker:unexpected_param"),
        ({"item": 7}, "type_error:simple"),
        ({"item": "tea", "count": True}, "type_error:simple"),  # true is no whole number
        ({"item": "tea", "count": 2.0}, "type_error:simple"),  # nor is 2.0
        ({"item": "tea", "price": 2}, None),  # but 2 is a float
        ({"item": "tea", "price": 3}, "value_error:others"),
        ({"item": "tea", "price": float("nan")}, "value_error:others"),
        ({"item": "tea", "price": 10**400}, "value_error:others"),
        ({"item": "tea", "sizes": [1.0, 2.5]}, None),
        ({"item": "tea", "sizes": [2.5, 1.0]}, "value_error:list/tuple"),
        ({"item": "tea", "sizes": ["1.0", 2.5]}, "value_error:list/tuple"),  # "" among the answers: no type is asked
        ({"item": "tea", "to": {"name": "ANN"}}, None),
        ({"item": "tea", "to": {"name": "Bob"}}, "value_error:dict_value"),
        ({"item": "tea", "to": {"zip": "1"}}, "value_error:dict_key"),
        ({"item": "tea", "to": {"name": "Bob", "street": "x"}}, "value_error:dict_value"),
        ({"item": "tea", "to": {"street": "x", "name": "Bob"}}, "value_error:dict_key"),
        ({"item": "tea", "lines": [{"a": 1}, {"b": "X"}]}, None),
        ({"item": "tea", "lines": [{"b": "X"}, {"a": 1}]}, "value_error:list_dict_count"),  # that of "", the last one
        ({"item": "tea", "lines": [{"a": 1}]}, "value_error:list_dict_count"),
        ({"item": "tea", "lines": [7, 8]}, "value_error:list_dict_count"),  # the official tool stops at this one
        ({"item": "tea", "note": 7}, "type_error:simple"),  # the first accepted value tells the type
        ('{"item": "tea"}', None),
        ("{bad", "ast_decoder:decoder_failed"),
        (None, "ast_decoder:decoder_wrong_output_format"),
        ([], "ast_decoder:decoder_wrong_output_format"),
        ("7", "ast_decoder:decoder_wrong_output_format"),
    ],
)
def test_arguments(arguments, expected):
    assert error(arguments) == expected


def test_what_may_not_be_left_out():
    assert error({"item": "tea"}, count=[2]) == "simple_function_checker:missing_optional"
    assert error({"item": "tea", "sizes": [1]}, sizes=[[1.0]]) == "type_error:nested"  # a float in a list is a float
    assert error({"item": "tea", "count": "n"}, count=["n"]) is None  # a variable, as it is
    assert error({"item": "tea", "count": "N"}, count=["n"]) == "value_error:others"


def test_names_with_dots():
    wrong = "simple_function_checker:wrong_func_name"
    assert error({"item": "tea"}, "shop_order") == wrong
    assert error({"item": "tea"}, "shop_order", "underscored") is None
    assert error({"item": "tea"}, "shop.order", "underscored") == wrong


def test_counts_and_parallel_calls():
    tea, red = ({"name": "shop.order", "arguments": {"item": item}} for item in ("tea", "red tea"))
    assert check_calls(case(), []).error == "simple_function_checker:wrong_count"
    assert check_calls(case("multiple"), [tea, tea]).error == "multiple_function_checker:wrong_count"
    assert check_calls(case("live_parallel", 2), [tea]).error == "parallel_function_checker_no_order:wrong_count"
    # Each answer takes the first call that fits, and no other pairing is tried.
    both, only = {"shop.order": ANSWER}, {"shop.order": ANSWER | {"item": ["tea"]}}
    greedy = BfclCase("x", "parallel", (), (FUNCTION,), (both, only))
    assert check_calls(greedy, [red, tea]) is None
    fault = check_calls(greedy, [tea, red])
    assert fault.error == "parallel_function_checker_no_order:cannot_find_match"
    assert [inner.error for inner in fault.inner] == ["value_error:string"]


def test_relevance():
    call = [{"name": "f", "arguments": {}}]
    no, yes = BfclCase("x", "live_irrelevance"), BfclCase("x", "live_relevance")
    assert check_calls(no, call).error == "irrelevance_error:decoder_success"
    for nothing in ([], None, "text", [{"name": "f", "arguments": "{bad"}], [{"name": "f", "arguments": None}]):
        assert check_calls(no, nothing) is None
        assert check_calls(yes, nothing).error == "relevance_error:decoder_failed"
    assert check_calls(yes, call) is None


@pytest.mark.parametrize(
    "calls", [None, 7, "text", {"name": "f"}, ["f"], [[]], [None], [{"arguments": {}}], [{"name": 7}], float("nan")]
)
def test_what_is_no_list_of_calls(calls):
    for category in ("simple_python", "multiple", "parallel"):
        assert check_calls(case(category), calls).error == "ast_decoder:decoder_failed"


def test_nothing_in_a_prediction_stops_the_scorer():
    deep = "[" * 100_000
    value: object = []
    for _ in range(5000):
        value = [value]
    for arguments in (deep, {"item": value}, {"item": "x" * 1_000_000}, {"item": "tea", "to": {"name": value}},
                      {"item": "tea", "sizes": value}, "9" * 5000, {"item": "\ud800"}):  # fmt: skip
        assert error(arguments) is not None
    accepted: object = []
    for _ in range(5000):
        accepted = [accepted]
    assert error({"item": "tea", "sizes": value}, sizes=[accepted]) is not None


def test_texts_are_compared_without_marks():
    assert normal("April 1, 2024") == normal("april 1,2024") == "april12024"
    assert normal("it's") == 'it"s' and normal("a&b") == "a&b"
    assert decode([{"name": "f", "arguments": '{"a": NaN}'}])[0][0] == "f"


def test_predictions_are_counted(tmp_path):
    lines = [b'{"id": "a", "calls": []}\n', b"\n", b'{"id": "a", "calls": [1]}\n', b"{bad\n", b"[]\n",
             b'{"id": null}\n', b'{"id": "z", "calls": NaN}\n', b'\xff{"id": "b"}\n', b'{"id": 7}\n',
             b"[" * 100_000]  # fmt: skip
    found = collect(lines)
    assert list(found.rows) == ["a", "z", "7"] and found.rows["a"]["calls"] == []
    assert found.duplicates == {"a": 1}
    assert [p.row for p in found.problems] == [4, 5, 6, 8, 10]
    cases = [BfclCase("a", "irrelevance"), BfclCase("b", "irrelevance")]
    scored = score_predictions(cases, found)
    assert (scored.missing, scored.unknown) == (1, ("z", "7"))
    assert [(v.id, v.error) for v in scored.verdicts] == [("a", None), ("b", "missing_prediction")]
    assert scored.to_dict()["accuracy"] == 0.5
    assert len(score_predictions(cases, found, allow_missing=True).verdicts) == 1
    assert score_predictions([], found).to_dict()["accuracy"] is None


def test_ten_thousand_predictions_are_quick():
    cases = [BfclCase(str(i), "parallel", (), (FUNCTION,), ({"shop.order": ANSWER},) * 2) for i in range(10_000)]
    call = {"name": "shop.order", "arguments": {"item": "tea", "sizes": [1.0, 2.5], "to": {"name": "Ann"}}}
    lines = [json.dumps({"id": str(i), "calls": [call, call]}).encode() for i in range(10_000)]
    start = time.perf_counter()
    scored = score_predictions(cases, collect(lines))
    assert all(v.valid for v in scored.verdicts) and time.perf_counter() - start < 3


def test_a_folder_that_is_not_bfcl(tmp_path):
    with pytest.raises(InputError, match="holds no BFCL"):
        read_cases(["parallel"], tmp_path)
    (tmp_path / "BFCL_v4_irrelevance.json").write_text('{"id": "a"}\n')
    with pytest.raises(InputError, match="is not a file of BFCL") as caught:
        read_cases(["irrelevance"], tmp_path)
    assert caught.value.problems[0].row == 1
    with pytest.raises(InputError, match="cannot be read"):
        read_cases(["live_relevance"], tmp_path)
    (tmp_path / "BFCL_v4_parallel.json").write_text('{"id": "a", "question": [], "function": []}\n')
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "possible_answer" / "BFCL_v4_parallel.json").write_text('{"id": "b", "ground_truth": []}\n')
    with pytest.raises(InputError, match="does not hold the answers"):
        read_cases(["parallel"], tmp_path)
