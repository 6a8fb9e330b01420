"""The documentation against the code: its commands, settings, rows, templates, links and tables."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import tiny_tokenizer

from calltune.data.check import check_rows
from calltune.data.pipeline import PrepareSettings
from calltune.data.sources import sources_of
from calltune.settings import EvalSettings, TrainSettings
from calltune.template import choose_template

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = (TrainSettings, EvalSettings, PrepareSettings)
SETTINGS = {f.name.replace("_", "-"): f for kind in KINDS for f in dataclasses.fields(kind)}
# Flags of commands that are no settings of a dataclass.
OTHER_FLAGS = {"quick", "repair", "execute", "from", "config", "help", "resume", "suite", "model", "limit", "yes",
               "json", "format", "index", "dry-run", "quiet", "strict", "benchmark", "workers", "verdicts", "names",
               "html", "once", "every", "allow-missing", "level", "constrained",
               "tool-choice", "one-call", "keep-prefix", "thinking-open",
               # of `agent`
               "mcp", "mcp-header", "trace", "max-steps", "timeout", "max-output", "no-constrained",
               # of `serve`
               "port", "host", "rounds", "way", "api-key-file", "allow-origin", "max-queue",
               # of `bench train`
               "against", "attention", "shape", "tokenizer", "valid-rows", "stock-blas",
               "built-in-tools", "peer-updates", "warm-up", "backend",
               "fit", "memory",
               # of bench/read_check.py
               "no-datasets", "turns",
               # of bench/bound_speed.py
               "each", "piece", "calls", "free"}  # fmt: skip


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


readme_commands = load_script("readme_commands")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_every_block_of_the_readme_tells_ci_what_to_run():
    found = readme_commands.blocks((ROOT / "README.md").read_text("utf-8"))
    assert len(found) == len(blocks(ROOT / "README.md", "sh"))
    text = readme_commands.script(found, "README.md")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    for word in ("make demo ARGS=--quick", "calltune train", "calltune eval", "calltune call"):
        assert word in text
    assert "mlx-community" not in text  # no hub in CI


def test_ci_runs_each_command_that_the_readme_shows():
    found = readme_commands.blocks((ROOT / "README.md").read_text("utf-8"))
    run = "\n".join(block.run or "" for block in found)
    for block in found:
        for command in re.findall(r"^calltune (\w+)", block.shown, re.MULTILINE):
            assert f"calltune {command}" in run or command == "demo", command


def test_a_block_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="line 2"):
        readme_commands.blocks("\n```sh\nls\n```\n")
    with pytest.raises(ValueError, match="no rule"):
        readme_commands.blocks("<!-- ci: perhaps -->\n```sh\nls\n```\n")


def test_a_rule_belongs_to_the_block_after_it():
    text = "<!-- ci -->\n\n```text\nx\n```\n<!-- ci: instead\nb\n-->\n```sh\na\n```\n"
    text += "<!-- ci: skip why -->\n```sh\nc\n```\n"
    assert [(b.shown, b.run) for b in readme_commands.blocks(text)] == [("a\n", "b\n"), ("c\n", None)]


def test_the_script_of_the_commands_stops_at_the_first_failure():
    text = readme_commands.script(readme_commands.blocks("<!-- ci -->\n```sh\nfalse\necho on\n```\n"), "X")
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "==> X, line 2\n"


@pytest.mark.parametrize(("before", "after", "code"), [(0.0, 0.6, 0), (0.3, 0.7, 1), (0.0, 0.5, 0)])
def test_the_gain_of_the_demo_is_checked(tmp_path, before, after, code):
    report = {
        "before": {"call_exact_match": before},
        "after": {"call_exact_match": after},
        "n_call": 9,
        "seconds": {},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert load_script("check_demo").main(str(tmp_path / "report.json")) == code


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_that_a_page_names_exist(page):
    text = re.sub(r"^(pip|apt-get|python) .*$", "", page.read_text("utf-8"), flags=re.MULTILINE)
    for flag in re.findall(r"(?<![\w-])--([a-z](?:-?[a-z])*)(?![\w>/-])", text):
        name = flag.removeprefix("no-")
        assert name in SETTINGS or flag in OTHER_FLAGS or name == "install-recommends", f"{page.name}: --{flag}"


def test_every_switch_of_speed_is_explained():
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    for name in ("selecting_head", "shared_prefix", "frozen_trunk", "fast_cpu"):
        assert name.replace("_", "-") in SETTINGS
        assert f"| `{name}` |" in text


def test_the_rows_of_the_data_page_are_good(tmp_path):
    shown = blocks(ROOT / "docs" / "data.md", "json")[:2]  # OpenAI and Hermes; the others: test_forms.py
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(json.loads(row)) + "\n" for row in shown))
    checked = list(check_rows(sources_of(path)["train"]))
    assert [row.status for row in checked] == ["ok", "ok"]
    for row in checked:
        turn = next(m for m in row.conversation.messages if m.calls)
        assert (turn.thinking, turn.calls[0].arguments) == ("Use get_weather with city.", {"city": "Paris"})
        assert [m.role for m in row.conversation.messages if m.role != "system"] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]


def test_the_templates_to_start_from_pass_the_probes(tmp_path):
    from calltune.tokenizer import load_tokenizer

    plain, own = blocks(ROOT / "docs" / "templates.md", "jinja")
    tiny_tokenizer(tmp_path / "g", "gemma")
    roles = {"user": "human", "assistant": "model"}
    found = choose_template(load_tokenizer(tmp_path / "g"), custom=plain, roles=roles, merge_system=True)
    assert (found.knows_tools, found.stop) == (False, "<end_of_turn>")
    tiny_tokenizer(tmp_path / "c", "chatml")
    found = choose_template(load_tokenizer(tmp_path / "c"), custom=own)
    assert (found.knows_tools, found.stop) == (True, "<|im_end|>")


def test_each_dependency_has_its_reason_in_the_readme():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cpu"], *extras["hub"], *extras["mcp"]]
    names = {re.match(r"[\w-]+", item)[0] for item in wanted}
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("## What it depends on")[2].partition("\n## ")[0]
    assert names <= set(
        re.findall(r"[\w-]+", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    )
    assert not any(item.startswith("torch") for name, items in extras.items() for item in items if name != "test-all")


def test_the_figures_of_the_evaluation_page_are_those_of_the_code():
    from calltune.score import ERROR_KINDS, aggregate

    text = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    for name in [*aggregate([]), *ERROR_KINDS]:
        if name not in ("emitted", "errors", "categories"):
            assert f"`{name}`" in text, name


def test_built_in_models_are_told_with_licence_and_size():
    from calltune.platform.builtin import BUILTIN_MODELS

    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    for model in BUILTIN_MODELS.values():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{model.name}`"))
        assert model.licence in row
        assert f"{model.download / 1e6:.0f} MB" in row


def test_no_picture_without_a_real_report():
    # The picture comes from a demo's page (scripts/screenshot.py), so it is there only with its link.
    shown = "docs/report.png" in re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    assert shown == (ROOT / "docs" / "report.png").exists()
