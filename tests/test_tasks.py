"""Benchmarks as questions to a model: what it is shown, how it is judged, and answers that are kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer, weather_rows

from calltune.answers import AnswerFile, answer_all, prediction
from calltune.caller import load
from calltune.cli import main
from calltune.data.bfcl import LIVE, NON_LIVE, read_cases
from calltune.evaluate import evaluate
from calltune.formats import get_format
from calltune.platform.benchmarks import BFCL, is_fetched
from calltune.render import prompt_ids
from calltune.schema import Conversation, Message, Reply, ToolCall, validate_call
from calltune.score_bfcl import BfclCase, check_calls
from calltune.settings import TrainSettings
from calltune.tasks.bfcl import expected_calls, judge, tools_of
from calltune.tasks.few_shot import EXAMPLES, with_examples
from calltune.tasks.predictions import read_predictions
from calltune.tasks.questions import bfcl_questions, questions_of
from calltune.tasks.results import official_figures, result_text, write_results
from calltune.template import choose_template
from calltune.tokenizer import load_tokenizer
from calltune.train import train

DATA = Path(__file__).parent / "data" / "bfcl"
CASES = read_cases(NON_LIVE + LIVE, DATA)
WITH_ANSWER = [case for case in CASES if case.answers]


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    return load(tiny_model(tmp_path_factory.mktemp("model")))


def calls_of(case: BfclCase, **changes) -> Reply:
    return Reply(calls=tuple(ToolCall(c.name, dict(c.arguments) | changes) for c in expected_calls(case)))


@pytest.mark.parametrize("case", WITH_ANSWER, ids=lambda c: c.id)
def test_what_is_shown_as_right_is_right(case):
    assert check_calls(case, [call.to_dict() for call in expected_calls(case)]) is None
    verdict = judge(case, calls_of(case), tools_of(case))
    assert verdict.exact and verdict.kind == "exact" and verdict.needs_call
    assert verdict.emitted == len(case.answers)


@pytest.mark.skipif(not is_fetched(BFCL), reason="BFCL is not in the cache")
def test_four_cases_have_no_right_answer():
    """An argument without accepted values, or one that the function does not have or requires in vain."""
    cases = [case for case in read_cases(NON_LIVE + LIVE) if case.answers]
    wrong = [c.id for c in cases if check_calls(c, [call.to_dict() for call in expected_calls(c)])]
    assert wrong == [
        "live_simple_106-63-0",
        "live_simple_112-68-0",
        "live_multiple_862-181-3",
        "live_multiple_964-207-0",
    ]
    assert len(cases) == 2351


@pytest.mark.parametrize("style", ["chatml", "gemma"])
def test_every_question_can_be_asked(tmp_path, style):
    tiny_tokenizer(tmp_path, style)
    tokenizer = load_tokenizer(tmp_path)
    template = choose_template(tokenizer)
    for question in bfcl_questions(CASES):
        ids = prompt_ids(question.messages, question.tools, template, tokenizer)
        text = tokenizer.decode(ids)
        for tool in question.tools:
            assert tool.name in text
            tool.validator.check_schema(dict(tool.parameters))


def test_types_are_shown_as_json_schema_and_names_as_they_are():
    parameters = {"type": "dict", "required": ["a"], "properties": {
        "a": {"type": "float"}, "b": {"type": "tuple", "items": {"type": "float"}}, "c": {"type": "any"},
        "d": {"type": "dict", "properties": {"e": {"type": "integer"}}}}}  # fmt: skip
    case = BfclCase("x", "simple_python", (), ({"name": "a.b", "description": "d", "parameters": parameters},))
    (tool,) = tools_of(case)
    kinds = {name: schema.get("type") for name, schema in tool.properties.items()}
    assert kinds == {"a": "number", "b": "array", "c": None, "d": "object"}
    assert tool.name == "a.b" and tool.parameters["type"] == "object" and tool.required == ("a",)


def test_kinds_of_wrong_answers():
    case = next(
        c for c in WITH_ANSWER if c.category == "simple_python" and len(c.functions[0]["parameters"]["required"])
    )
    tools, right = tools_of(case), calls_of(case).calls[0]
    key = case.functions[0]["parameters"]["required"][0]

    def kind(*calls: ToolCall, **more) -> str:
        verdict = judge(case, Reply(calls=calls, **more), tools)
        assert not verdict.exact and verdict.reason
        return verdict.kind

    left = {k: v for k, v in right.arguments.items() if k != key}
    assert kind() == "no_call"
    assert kind(truncated=True) == "truncated"
    assert kind(right, right) == "extra_call"
    assert kind(ToolCall("other", right.arguments)) == "wrong_tool"
    assert kind(ToolCall(right.name, left)) == "missing_argument"
    assert kind(ToolCall(right.name, dict(right.arguments) | {"zz": 1})) == "extra_argument"
    assert kind(ToolCall(right.name, dict(right.arguments) | {key: None})) == "wrong_type"
    assert kind(right, errors=("a call is no JSON",)) == "format"
    parallel = next(c for c in WITH_ANSWER if c.category == "parallel")
    first, *others = calls_of(parallel).calls
    few = judge(parallel, Reply(calls=(first,)), tools_of(parallel))
    assert few.kind == "missing_call"
    wrong = judge(parallel, Reply(calls=(ToolCall(first.name, {}), *others)), tools_of(parallel))
    assert wrong.kind == "missing_argument"


def test_no_call_and_any_call():
    no = next(c for c in CASES if c.category == "irrelevance")
    yes = next(c for c in CASES if c.category == "live_relevance")
    call = Reply(calls=(ToolCall("f"),))
    broken = Reply(calls=(ToolCall("", raw="{", error="no JSON"),), errors=("no JSON",), raw="<tool_call>\n{")
    assert judge(no, Reply(content="No."), ()).exact and not judge(no, Reply(content="No."), ()).needs_call
    assert judge(no, call, ()).kind == "over_call"
    assert judge(yes, call, ()).exact and judge(yes, Reply(content="No."), ()).kind == "no_call"
    # A broken call is never right for us; the official tool takes it for an answer without a call.
    assert judge(no, broken, ()).kind == "format"
    (question,) = bfcl_questions([no])
    assert official_figures("bfcl:irrelevance", [question], [broken])["accuracy"] == 1.0


def test_the_limit_takes_from_every_category():
    found = bfcl_questions(CASES, 11)
    assert Counter(q.category for q in found) == dict.fromkeys(NON_LIVE + LIVE, 1)
    assert [q.id for q in found] == [q.id for q in bfcl_questions(CASES) if q in found]
    assert len(bfcl_questions(CASES, 10_000)) == len(CASES)


def test_results_as_the_official_tool_reads_them(tmp_path):
    questions = bfcl_questions([c for c in CASES if c.category in ("parallel", "live_irrelevance")])
    replies = [calls_of(q.case) if q.case.answers else Reply(content="No function fits.") for q in questions]
    paths = write_results(tmp_path, questions, replies)
    assert [str(p.relative_to(tmp_path)) for p in paths] == [
        "non_live/BFCL_v4_parallel_result.json", "live/BFCL_v4_live_irrelevance_result.json"]  # fmt: skip
    for line, question in zip(paths[0].read_text().splitlines(), questions, strict=False):
        row = json.loads(line)
        read = get_format("hermes").parse(row["result"])
        assert row["id"] == question.id and judge(question.case, read, question.tools).exact
    assert json.loads(paths[1].read_text().splitlines()[0])["result"] == "No function fits."
    broken = Reply(calls=(ToolCall("", raw="{", error="x"),), errors=("x",), raw="<tool_call>{")
    assert result_text(broken) == "<tool_call>{"


def test_eval_of_a_suite_writes_predictions_that_score_alike(caller, tmp_path):
    report = evaluate(caller, suite="bfcl:non_live_python", benchmark=DATA, baseline=caller.loaded.name, out=tmp_path,
                      limit=6, max_tokens=6)  # fmt: skip
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["after"]["n"] == 6 and document["before"] == document["after"]
    assert {"call_exact_match", "no_call_accuracy"} <= document["after"].keys()
    found = read_predictions(tmp_path / "predictions.jsonl")
    assert list(found.rows) == [case.id for case in report.cases] and not found.problems
    assert document["suite"]["after"]["n"] == 6 and document["suite"]["after"] == document["suite"]["before"]
    assert len(list((tmp_path / "bfcl_result").rglob("*_result.json"))) == 5
    assert not list(tmp_path.glob("*.state.json"))
    page = (tmp_path / "report.html").read_text()
    assert "As the official tool counts" in page and "bfcl:non_live_python" in page


class Stops(Exception):
    pass


def test_an_interrupted_run_goes_on(caller, tmp_path):
    """Stopped in the middle, with half a line at the end: only what is missing is asked, and the file is the same."""
    questions = bfcl_questions(CASES[:7])
    first = AnswerFile(tmp_path / "whole.jsonl")
    whole = answer_all(caller, questions, max_tokens=5, kept=first)
    first.done()
    path = tmp_path / "predictions.jsonl"
    path.write_text("of an earlier evaluation\n")
    file, asked = AnswerFile(path), []

    class Interrupted:
        def __init__(self, after: int) -> None:
            self.after = after

        def __getattr__(self, name):
            return getattr(caller, name)

        def batch(self, requests, *, on_reply, **more):
            asked.append(len(requests))

            def stop(index, reply):
                on_reply(index, reply)
                self.after -= 1
                if not self.after:
                    raise Stops

            return caller.batch(requests, on_reply=stop, **more)

    with pytest.raises(Stops):
        answer_all(Interrupted(3), questions, max_tokens=5, batch_size=2, kept=file)
    assert len(file.part.read_text().splitlines()) == 3 and file.state.exists()
    with file.part.open("a") as end:
        end.write('{"id": "simple_py')
    again = answer_all(Interrupted(99), questions, max_tokens=5, batch_size=2, kept=AnswerFile(path))
    assert asked == [7, 4] and again == whole
    # All are there until the whole evaluation is done, so that a finished baseline is not asked again.
    last = AnswerFile(path)
    assert answer_all(Interrupted(99), questions, max_tokens=5, kept=last) == whole
    assert asked == [7, 4, 0] and path.read_text() == "of an earlier evaluation\n"
    last.done()
    assert path.read_text() == first.path.read_text() and not last.part.exists() and not last.state.exists()
    # Another limit of tokens makes other answers: nothing of the old ones is taken, nor are they lost at once.
    with pytest.raises(Stops):
        answer_all(Interrupted(3), questions, max_tokens=5, batch_size=2, kept=file)
    with pytest.raises(Stops):
        answer_all(Interrupted(3), questions, max_tokens=4, batch_size=2, kept=AnswerFile(path))
    assert asked == [7, 4, 0, 7, 7] and path.read_text() == first.path.read_text()
    # Fewer questions: those that were answered are not asked again; a changed one is.
    there = {json.loads(line)["id"] for line in file.part.read_text().splitlines()}
    other = replace(questions[0], messages=(Message("user", "something else"),))
    answer_all(Interrupted(99), [other, *questions[1:5]], max_tokens=4, batch_size=2, kept=AnswerFile(path))
    left = [q for q in questions[1:5] if q.id not in there]
    assert asked == [7, 4, 0, 7, 7, 1 + len(left)] and len(left) < 4


def test_what_an_earlier_evaluation_left_goes(caller, tmp_path):
    evaluate(caller, suite="bfcl:non_live_python", benchmark=DATA, baseline=caller.loaded.name, out=tmp_path, limit=6,
             max_tokens=2)  # fmt: skip
    (tmp_path / "bfcl_result" / "mine.txt").write_text("a file of the user")
    evaluate(caller, suite="bfcl:live_parallel", benchmark=DATA, out=tmp_path, limit=1, max_tokens=2)
    results = [path.name for path in (tmp_path / "bfcl_result").rglob("*.json")]
    assert results == ["BFCL_v4_live_parallel_result.json"]
    assert not (tmp_path / "predictions.before.jsonl").exists()
    (tmp_path / "bfcl_result" / "mine.txt").unlink()
    rows = [Conversation((Message("user", "Hello"), Message("assistant", "Hi.")), (), "r")]
    evaluate(caller, rows, out=tmp_path, max_tokens=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions.jsonl", "report.json", "report.md", "report.html"}  # fmt: skip


def test_a_prediction_with_half_a_character_is_kept(tmp_path, caller):
    (question,) = bfcl_questions(CASES[:1])
    file = AnswerFile(tmp_path / "p.jsonl")
    file.open(caller, [question], 5)
    file.add(question, Reply(content="\ud800", raw="\ud800"))
    file.close()
    assert json.loads(file.part.read_text())["content"] == "\ud800"
    assert prediction(question, Reply(raw="x", truncated=True))["truncated"] is True


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model(tmp_path / "tiny"))
    flags = ["--benchmark", str(DATA), "--limit", "3", "--max-tokens", "4"]
    assert main(["eval", model, "--suite", "bfcl:simple_python", *flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == 3 and told["suite"]["name"] == "bfcl:simple_python"
    out = tmp_path / "evals" / "tiny-bfcl-simple_python"
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 3
    score = ["score", "--suite", "bfcl:simple_python", str(out / "predictions.jsonl"), "--benchmark", str(DATA)]
    assert main([*score, "--allow-missing", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["accuracy"] == told["suite"]["after"]["accuracy"] and scored["n"] == 3
    low = ["--fail-under", "call_exact_match=0.9"]
    assert main(["eval", model, "--suite", "bfcl:simple_python", *flags, *low]) == 1
    assert "As the official tool counts:\nsimple_python  accuracy" in capsys.readouterr().out
    for wrong, words in ((["--suite", "bfcl:java"], "no category"), (["--suite", "bfcl:multi_turn"], "not covered"),
                         (["--suite", "bfcl:parallel", "--data", "x.jsonl"], "both --suite")):  # fmt: skip
        assert main(["eval", model, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main(["eval", model, "--suite", "own"]) == 2
    assert "--out" in capsys.readouterr().err


def test_rows_are_judged_as_before():
    from tiny import weather_call, weather_rows

    question = questions_of(weather_rows(1))[0]
    assert question.verdict(Reply(calls=(weather_call("Paris"),))).exact
    assert question.verdict(Reply(content="hi")).kind == "no_call"


def test_the_few_shot_baseline_sees_examples_and_is_judged_alike(caller, tmp_path):
    questions = bfcl_questions(CASES[:2])
    shown = with_examples(questions)
    assert [q.id for q in shown] == [q.id for q in questions] and shown[0].case is questions[0].case
    text = caller.loaded.tokenizer.decode(
        prompt_ids(shown[0].messages, shown[0].tools, caller.template, caller.loaded.tokenizer)
    )
    assert text.index("define_word") < text.index("hygge") < text.index(questions[0].messages[-1].content)
    for example in EXAMPLES:
        for call in example.calls:
            assert validate_call(call, shown[0].tools) == []
    report = evaluate(caller, suite="bfcl:simple_python", benchmark=DATA, baseline="few-shot", out=tmp_path, limit=2,
                      max_tokens=3)  # fmt: skip
    assert report.before["n"] == 2 and any("three worked examples" in said for said in report.method)


def test_examples_follow_a_system_message():
    case = next(c for c in CASES if c.messages[0]["role"] == "user")
    system = BfclCase("s", "irrelevance", ({"role": "system", "content": "Be brief."}, *case.messages))
    (shown,) = with_examples(bfcl_questions([system]))
    assert [m.role for m in shown.messages[:2]] == ["system", "user"]
    assert len(shown.messages) == len(EXAMPLES) + len(case.messages) + 1


def test_prompts_beyond_the_context_are_told(caller):
    report = evaluate(caller, suite="bfcl:simple_python", benchmark=DATA, limit=2, max_tokens=1)
    assert not any("longer than" in said for said in report.method)
    long = BfclCase("long", "irrelevance", ({"role": "user", "content": "word " * 4000},))
    (question,) = bfcl_questions([long])
    rows = [Conversation((*question.messages, Message("assistant", "No.")), (), "long")]
    report = evaluate(caller, rows, max_tokens=1)
    assert any("1 of 1 prompts" in said and "4,096 tokens" in said for said in report.method)


def test_a_run_is_evaluated_in_its_own_folder_against_its_base(tmp_path, capsys):
    model, run = tiny_model(tmp_path / "model"), tmp_path / "run"
    settings = TrainSettings(model=str(model), out=str(run), num_layers=2, rank=2, iters=2)
    train(settings, weather_rows(24))
    flags = ["--benchmark", str(DATA), "--limit", "4", "--max-tokens", "3", "--baseline", "base"]
    assert main(["eval", str(run), "--suite", "bfcl:live", *flags]) == 0
    assert main(["eval", str(run), "--limit", "2", "--max-tokens", "3"]) == 0
    capsys.readouterr()
    document = json.loads((run / "eval" / "bfcl-live" / "report.json").read_text())
    assert document["change"]["n"] == 4 and document["before"]["n"] == 4
    assert document["curves"] and document["hashes"] and document["data"]["sha256"] == BFCL.sha256[:16]
    assert json.loads((run / "eval" / "report.json").read_text())["suite"] is None
    assert main(["compare", str(run / "eval" / "bfcl-live"), str(run / "eval" / "bfcl-live")]) == 0
