"""`calltune prepare`: several sources to parts that train, with a record in which every row is counted."""

import json
import os
from pathlib import Path

import pytest
from chat_templates import QWEN3
from test_check import CALLED, SHARED, needs_shared, row, say
from test_forms import ROWS
from tiny import long_row, tiny_model, tiny_tokenizer, weather_rows

from calltune.cli import main
from calltune.data.manifest import read_manifest
from calltune.data.mixture import Weighing, is_mixture, read_source_settings
from calltune.data.readers import load_splits
from calltune.errors import InputError
from calltune.report_charts import histogram_bars
from calltune.report_rows import rows_page

DATA = Path(__file__).parent / "data"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def mix(tmp_path):
    """Two sources: 60 good rows with one repairable, one bad and one double row; and 12 of xLAM."""
    good = [r.to_openai() for r in weather_rows(120, no_call=0)[:60]]
    bad = row(id="bad", messages=[say("user", "x"), say("assistant", "")])
    repairable = row(id="rep", messages=[say("user", "f 7"), {"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": {"n": "7"}}}]}])  # fmt: skip
    write(tmp_path / "a.jsonl", [*good, bad, repairable, good[0] | {"id": "again"}])
    xlam = [ROWS["xlam"] | {"id": i, "query": f"Weather in Paris for {i} days?"} for i in range(12)]
    (tmp_path / "b.json").write_text(json.dumps(xlam))
    path = tmp_path / "mix.yaml"
    path.write_text(
        "sources:\n  - data: a.jsonl\n  - {data: b.json, format: xlam, weight: 2.5, limit: 10}\n"
        "test: 0.2\nvalid: 0.1\nshuffle-tools: 1\ncombine: 0.1\n"
    )
    return path


def prepared(capsys, *words):
    code = main(["prepare", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_row_that_came_in_is_in_a_part_or_among_the_lost(mix, tmp_path, capsys):
    out = tmp_path / "out"
    code, manifest = prepared(capsys, mix, "--out", out, "--seed", 4)
    assert code == 0
    first, second = manifest["sources"]
    assert (first["rows"], first["status"]) == (63, {"ok": 61, "repaired": 1, "rejected": 1})
    assert first["forms"] == {"openai": 63} and second["forms"] == {"xlam": 10}
    assert first["lost"]["no_target"] == 1 and first["lost"]["near_duplicate"] >= 1
    parts = {name: lines(out / f"{name}.jsonl") for name in manifest["parts"]}
    assert {name: len(rows) for name, rows in parts.items()} == {n: p["rows"] for n, p in manifest["parts"].items()}
    lost = sum(manifest["lost"].values())
    own = [r for rows in parts.values() for r in rows if "#" not in r["id"] and "+" not in r["id"]]
    assert len(own) == 73 - lost
    assert len({r["id"] for rows in parts.values() for r in rows}) == sum(map(len, parts.values()))
    rejected = lines(out / "rejected.jsonl")
    assert len(rejected) == lost - manifest["lost"].get("leak", 0)
    assert all(r["problems"] and r["source"] and r["data"] for r in rejected)
    assert manifest["changes"]["made"]["combine"] > 0 and manifest["changes"]["made"]["shuffle_tools"] > 10
    assert manifest["train_before_changes"] + manifest["changes"]["made"]["combine"] == len(parts["train"])
    assert main(["check", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == report["ok"] == sum(map(len, parts.values()))


def test_the_same_settings_give_the_same_files_and_another_seed_others(mix, tmp_path, capsys):
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _, manifest = prepared(capsys, mix, "--out", tmp_path / name, "--seed", seed)
        hashes.append({part: value["sha256"] for part, value in manifest["parts"].items()})
    assert hashes[0] == hashes[1] != hashes[2]


def test_weights_count_after_the_split_and_only_for_training(mix, tmp_path, capsys):
    prepared(capsys, mix, "--out", tmp_path / "out", "--shuffle-tools", "0", "--combine", "0")
    parts = load_splits(tmp_path / "out")
    ids = [c.id.partition("#")[0] for c in parts["train"] if c.id.startswith(tuple("0123456789"))]
    times = {ids.count(i) for i in ids}
    assert times == {2, 3}
    assert not set(ids) & {c.id for part in ("valid", "test") for c in parts.get(part, ())}
    rows = parts["train"][:10]
    assert Weighing(0).take(rows, 0) == [] and len(Weighing(0).take(rows, 0.5)) == 5


def test_with_a_model_lengths_are_told_and_shown(mix, tmp_path, capsys):
    model = tmp_path / "m"
    model.mkdir()
    tiny_tokenizer(model, "chatml")
    (model / "config.json").write_text("{}")
    _, manifest = prepared(capsys, mix, "--out", tmp_path / "out", "--model", model, "--max-seq-length", 5000)
    lengths = manifest["lengths"]
    assert lengths["p50"] <= lengths["p95"] <= lengths["max"] and 0 < lengths["loss_share"] < 0.9
    assert lengths["examples"] == manifest["parts"]["train"]["rows"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="bar"') == len(lengths["histogram"]) > 1
    assert f"longest {lengths['max']}" in page and "<script" not in page
    _, manifest = prepared(capsys, mix, "--out", tmp_path / "short", "--model", model, "--max-seq-length",
                           lengths["p50"])  # fmt: skip
    assert manifest["lost"]["too_long"] > 0 and manifest["lengths"]["max"] <= lengths["p50"]


def test_plans_that_the_template_drops_are_told(tmp_path, capsys):
    model = tmp_path / "m"
    model.mkdir()
    tiny_tokenizer(model, "chatml", QWEN3)
    (model / "config.json").write_text("{}")
    data = write(tmp_path / "long.jsonl", [r.to_openai() for r in (long_row(), *weather_rows(12))])
    _, manifest = prepared(capsys, data, "--out", tmp_path / "out", "--model", model, "--max-seq-length", 5000,
                           "--test", 0, "--valid", 0)  # fmt: skip
    found = [problem["found"] for problem in manifest["findings"] if problem["kind"] == "thinking_dropped"]
    assert found == ["1 rows with a plan before the last answer"]
    assert "thinking_dropped" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_manifest_of_another_program_is_none_of_ours(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my app", "icons": []}')
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text("[1]")
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"version": 1, "calltune": "0", "parts": 7}')
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_run_keeps_the_manifest_and_refuses_changed_files(mix, tmp_path, capsys):
    from calltune.settings import TrainSettings
    from calltune.train import train

    out = tmp_path / "out"
    _, manifest = prepared(capsys, mix, "--out", out)
    model = tiny_model(tmp_path / "m", "llama", layers=1, hidden=16)
    common = {"model": str(model), "iters": 1, "batch_size": 2, "max_seq_length": 3000, "num_layers": 1}
    run = train(TrainSettings(data=str(out), out=str(tmp_path / "r"), **common))
    assert run.record["data"]["manifest"] == manifest
    mixed = train(TrainSettings(data=str(mix), out=str(tmp_path / "r2"), **common))
    assert mixed.record["data"]["rows"] == run.record["data"]["rows"]
    assert mixed.record["data"]["manifest"]["lost"] == manifest["lost"]
    with (out / "train.jsonl").open("a") as file:
        file.write(json.dumps(row()) + "\n")
    with pytest.raises(InputError, match=r"changed since it was prepared[\s\S]*train\.jsonl"):
        train(TrainSettings(data=str(out), out=str(tmp_path / "r3"), **common))


def test_prepared_data_is_not_split_again(mix, tmp_path, capsys):
    from calltune.prepare import read_parts
    from calltune.settings import TrainSettings

    out = tmp_path / "out"
    prepared(capsys, mix, "--out", out, "--test", "0", "--valid", "0")
    parts = read_parts(TrainSettings(model="m", data=str(out)))
    assert len(parts.train) == len(lines(out / "train.jsonl")) and not parts.valid and not parts.test
    assert parts.manifest and "no valid and no test rows" in parts.notes[0]
    (out / "manifest.json").unlink()
    assert read_parts(TrainSettings(model="m", data=str(out))).test


def test_sources_that_share_ids_give_rows_with_ids_of_their_own(tmp_path, capsys):
    calls = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"n": i}}}]}
             for i in range(80)]  # fmt: skip
    for k, name in enumerate("ab"):
        write(tmp_path / f"{name}.jsonl", [
            row(id=str(i), messages=[say("user", f"set lamp {40 * k + i} to {40 * k + i}"), calls[40 * k + i]])
            for i in range(40)])  # fmt: skip
    path = tmp_path / "two.yaml"
    path.write_text("sources: [{data: a.jsonl, weight: 2}, b.jsonl]\nduplicates: true\ntest: 0.2\n")
    _, manifest = prepared(capsys, path, "--out", tmp_path / "out")
    for part, found in manifest["parts"].items():
        ids = [r["id"] for r in lines(tmp_path / "out" / f"{part}.jsonl")]
        assert len(set(ids)) == len(ids) == found["rows"]
    main(["check", str(tmp_path / "out"), "--json"])
    assert "duplicate_id" not in {p["kind"] for p in json.loads(capsys.readouterr().out)["problems"]}


def test_a_yaml_of_sources_can_be_checked(mix, capsys):
    assert main(["check", str(mix), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["rejected"], report["forms"]) == (73, 1, {"openai": 63, "xlam": 10})


def test_parts_that_a_source_brings_stay(tmp_path, capsys):
    rows = [r.to_openai() for r in weather_rows(40, no_call=0)]
    folder = tmp_path / "given"
    folder.mkdir()
    write(folder / "train.jsonl", rows[:30])
    write(folder / "test.jsonl", rows[30:])
    _, manifest = prepared(capsys, folder, "--out", tmp_path / "out", "--valid", "0.2", "--duplicates")
    test = [r["id"] for r in lines(tmp_path / "out" / "test.jsonl")]
    assert test == [r["id"] for r in rows[30:]]
    leaked = manifest["lost"].get("leak", 0)
    assert manifest["parts"]["train"]["rows"] + manifest["parts"]["valid"]["rows"] == 30 - leaked


def test_a_leak_between_given_parts_is_taken_out_of_training(tmp_path, capsys):
    calls = [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"n": i}}}]} for i in range(12)
    ]
    asks = [say("user", f"set the lamp number {i} to {i}") for i in range(12)]
    rows = [row(id=f"r{i}", messages=[asks[i], calls[i]]) for i in range(12)]
    folder = tmp_path / "given"
    folder.mkdir()
    write(folder / "train.jsonl", rows[:8])
    write(folder / "test.jsonl", [rows[2] | {"id": "t"}, *rows[8:]])
    _, manifest = prepared(capsys, folder, "--out", tmp_path / "out", "--valid", "0", "--duplicates")
    assert manifest["lost"] == {"leak": 1} and manifest["parts"]["train"]["rows"] == 7
    assert manifest["leaks"] == {"says nearly the same as a held-out row": 1}


def test_a_split_by_tool_holds_tools_out_of_all_sources(tmp_path, capsys):
    tools = [
        {"name": f"tool_{i}", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
        for i in range(12)
    ]
    rows = [{"id": str(i), "tools": tools, "messages": [say("user", f"run number {i} of kind {i % 12}"), {
        "role": "assistant", "tool_calls": [{"function": {"name": f"tool_{i % 12}", "arguments": {"n": i}}}]}]}
        for i in range(120)]  # fmt: skip
    write(tmp_path / "a.jsonl", rows)
    _, manifest = prepared(capsys, tmp_path / "a.jsonl", "--out", tmp_path / "out", "--split-by", "tool")
    held = set(manifest["held_out_tools"])
    assert held
    for name in ("train", "valid"):
        for value in lines(tmp_path / "out" / f"{name}.jsonl"):
            assert not held & {t["function"]["name"] for t in value["tools"]}


def test_sources_that_offer_the_same_tools_hold_out_the_same_ones(tmp_path, capsys):
    tools = [{"name": f"tool_{i}", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
             for i in range(8)]  # fmt: skip
    for k, name in enumerate("ab"):
        write(tmp_path / f"{name}.jsonl", [{"id": f"{name}{i}", "tools": tools, "messages": [
            say("user", f"run number {100 * k + i} of kind {i % 4}"),
            {"role": "assistant", "tool_calls": [{"function": {"name": f"tool_{i % 4 + 4 * k}", "arguments": {
                "n": 100 * k + i}}}]}]} for i in range(40)])  # fmt: skip
    path = tmp_path / "two.yaml"
    path.write_text("sources: [a.jsonl, b.jsonl]\nduplicates: true\nsplit-by: tool\ntest: 0.3\n")
    code, manifest = prepared(capsys, path, "--out", tmp_path / "out")
    assert code == 0 and manifest["lost"] == {}
    assert sum(part["rows"] for part in manifest["parts"].values()) == 80
    held = set(manifest["held_out_tools"])
    assert held and manifest["parts"]["test"]["rows"] == 10 * len(held)
    for name in set(manifest["parts"]) - {"test"}:
        for value in lines(tmp_path / "out" / f"{name}.jsonl"):
            assert not held & {t["function"]["name"] for t in value["tools"]}
    # a test part that a source brings stays; only its training rows that call a held-out tool are lost
    (tmp_path / "b").mkdir()
    rows = lines(tmp_path / "b.jsonl")
    rows += lines(tmp_path / "a.jsonl")[:8]
    rows = [r | {"id": f"x{i}"} for i, r in enumerate(rows[::-1])]
    write(tmp_path / "b" / "train.jsonl", rows[:32])
    write(tmp_path / "b" / "test.jsonl", rows[32:])
    path.write_text("sources: [a.jsonl, b]\nduplicates: true\nsplit-by: tool\ntest: 0.3\nvalid: 0\n")
    code, manifest = prepared(capsys, path, "--out", tmp_path / "out2")
    called = [r["messages"][1]["tool_calls"][0]["function"]["name"] for r in rows[:32]]
    leaks = sum(name in manifest["held_out_tools"] for name in called)
    assert leaks and code == 0 and manifest["lost"] == {"leak": leaks}


def test_valid_rows_of_a_source_that_call_a_held_out_tool_are_moved_to_test(tmp_path, capsys):
    tools = [{"name": f"tool_{i}", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
             for i in range(8)]  # fmt: skip
    rows = [{"id": f"r{i}", "tools": tools, "messages": [say("user", f"run number {i} of kind {i % 8}"), {
        "role": "assistant", "tool_calls": [{"function": {"name": f"tool_{i % 8}", "arguments": {"n": i}}}]}]}
        for i in range(96)]  # fmt: skip
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "train.jsonl", rows[:80])
    write(tmp_path / "in" / "valid.jsonl", rows[80:])
    given = (tmp_path / "in", "--out", tmp_path / "out", "--split-by", "tool", "--test", "0.3", "--duplicates")
    code, manifest = prepared(capsys, *given)
    held, (source,) = set(manifest["held_out_tools"]), manifest["sources"]
    moved = source["moved_to_test"]
    assert code == 0 and held and moved == 2 * len(held) and manifest["lost"] == {}
    assert f"{moved} rows of its valid part call a held-out tool and were moved to test" in source["notes"]
    assert sum(part["rows"] for part in manifest["parts"].values()) == 96
    for name in ("train", "valid"):
        for value in lines(tmp_path / "out" / f"{name}.jsonl"):
            assert not held & {t["function"]["name"] for t in value["tools"]}
    tested = {row["id"] for row in lines(tmp_path / "out" / "test.jsonl")}
    assert {row["id"] for row in rows[80:] if f"tool_{int(row['id'][1:]) % 8}" in held} <= tested


def test_made_rows_bring_their_parts_results_and_notes(tmp_path, capsys):
    (tmp_path / "tools.py").write_text(
        "import calltune\n\n@calltune.tool(pure=True)\ndef double(number: int) -> int:\n"
        '    """Double a number."""\n    return 2 * number\n'
    )
    (tmp_path / "mix.yaml").write_text("sources:\n  - {tools: tools.py, rows: 60, results: 1}\n")
    _, manifest = prepared(capsys, tmp_path / "mix.yaml", "--out", tmp_path / "out")
    (source,) = manifest["sources"]
    assert source["forms"] == {"made": source["rows"]}
    assert any("double: add `Examples:`" in note for note in source["notes"])
    rows = [r for r in lines(tmp_path / "out" / "train.jsonl") if r["meta"].get("results")]
    assert rows and all(r["messages"][2]["role"] == "tool" for r in rows)
    first = rows[0]["messages"]
    given = json.loads(first[1]["tool_calls"][0]["function"]["arguments"])["number"]
    assert json.loads(first[2]["content"]) == 2 * given


@needs_shared
def test_the_three_files_of_seal_tools(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mix.yaml"
    path.write_text("sources:\n" + "".join(f"  - {SHARED}/seal_{n}.jsonl\n" for n in ("train", "hermes", "invalid")))
    _, manifest = prepared(capsys, path, "--out", tmp_path / "out")
    train, hermes, invalid = manifest["sources"]
    assert (train["rows"], train["status"], train["lost"]) == (1232, {"ok": 1232}, {})
    assert hermes["status"] == {"ok": 1232} and hermes["lost"] == {"near_duplicate": 1232}
    assert invalid["status"] == {"repaired": 95, "rejected": 15}
    assert sum(part["rows"] for part in manifest["parts"].values()) == 1232 + 95


# --- wrong use


def test_wrong_settings_and_sources_are_told_at_once(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "sources:\n  - data: a.jsonl\n    wieght: 2\n  - {data: b, tools: c}\n  - {data: a, format: csv}\n  - 7\n"
    )
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.yaml")
    assert [(p.kind, p.path) for p in caught.value.problems] == [
        ("unknown_setting", "/sources/0/wieght"), ("bad_source", "/sources/1"), ("wrong_value", "/sources/2/format"),
        ("bad_source", "/sources/3")]  # fmt: skip


def read(path):
    import yaml

    return read_source_settings(yaml.safe_load(path.read_text())["sources"], path.name, path.parent)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test: 0.2\n", "names no sources"),
        ("sources: []\n", "names no sources"),
        ("sources: [a.jsonl]\ntset: 1\n", "unknown_setting"),
        ("sources: [missing.jsonl]\n", "there is no"),
        ("sources: [{tools: missing.py}]\n", "missing.py"),
    ],
)
def test_what_is_wrong_with_a_file_of_sources(tmp_path, capsys, text, words):
    (tmp_path / "x.yaml").write_text(text)
    assert main(["prepare", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_no_row_is_left_or_something_else_lies(tmp_path, capsys):
    path = write(tmp_path / "bad.jsonl", [row(messages=[say("user", "x")])])
    assert main(["prepare", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "no row is left to train" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["bad.jsonl"]
    good = write(tmp_path / "good.jsonl", [row(id="a", messages=[say("user", "f 1"), CALLED])])
    assert main(["prepare", str(good), "--out", str(tmp_path), "--test", "0", "--valid", "0"]) == 2
    assert "holds other files" in capsys.readouterr().err
    words = ["prepare", str(good), "--out", str(tmp_path / "out"), "--test", "0", "--valid", "0"]
    assert main(words) == 0
    assert "What came in" in capsys.readouterr().out
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0


def test_names_from_data_cannot_write_the_page():
    source = {"source": "<script>x", "weight": 1, "rows": 1, "kinds": {"<b>": 1}, "notes": []}
    manifest = {
        "sources": [source | {key: {} for key in ("status", "forms", "lost")}],
        "findings": [],
        "calltune": "0",
    }
    empty = {key: {} for key in ("lost", "changes", "categories", "lengths")}
    page = rows_page(manifest | empty | {"parts": {"train": {"rows": 1}}})
    assert "<script>" not in page and "<b>" not in page and "&lt;script&gt;x" in page
    assert histogram_bars([]) == []
    assert [b["height"] for b in histogram_bars([[0, 9, 2], [10, 19, 1]])] == [182, 91]
    assert is_mixture("a.yaml") and not is_mixture("a.json") and not is_mixture(["a.yaml"])
