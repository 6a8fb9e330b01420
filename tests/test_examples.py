"""The examples run: on tiny random models here, on the real ones in `make test-all`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model

from calltune.data.synthesise import synthesise
from calltune.functions import execute, functions_from
from calltune.schema import ToolCall

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run_file(path: Path, folder: Path, **environment: str) -> str:
    """Standard output of a Python file that runs in `folder`; shows its errors when it fails."""
    done = subprocess.run([sys.executable, str(path)], cwd=folder, env=os.environ | environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def walkthrough(folder: Path, **settings: str) -> str:
    given = {f"CALLTUNE_EXAMPLE_{name}": value for name, value in settings.items()}
    clean = {name: "" for name in os.environ if name == "CALLTUNE_EXAMPLE_DATA"}
    return run_file(EXAMPLES / "walkthrough.py", folder, **clean, **given)


@pytest.fixture(scope="module")
def tiny_walk(tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("walk")
    model = tiny_model(folder / "model", "gemma3_text", "gemma", layers=8)
    text = walkthrough(folder, MODEL=str(model), ROWS="12", ITERS="2", MAX_TOKENS="8", QUESTIONS="2", OUT="out")
    return text, folder / "out"


def test_the_walkthrough_goes_through_all_its_steps(tiny_walk):
    text, _ = tiny_walk
    steps = {int(number) for number in re.findall(r"^(\d+) ", text, re.MULTILINE)}
    assert steps == set(range(1, 16))
    assert "a reply ends with '<end_of_turn>'" in text
    assert re.search(r"^12 step +2  loss \d", text, re.MULTILINE)
    assert "8 layers, rank 16, scale 64, ('q_proj', 'v_proj')" in text


def test_the_walkthroughs_run_is_whole(tiny_walk):
    _, out = tiny_walk
    config = json.loads((out / "run" / "adapter_config.json").read_text())
    keys = sorted(config["lora_parameters"].pop("keys"))
    assert config["lora_parameters"] == {"rank": 16, "scale": 64.0, "dropout": 0.05}
    assert keys == ["self_attn.q_proj", "self_attn.v_proj"]
    assert (out / "report" / "report.html").exists()
    losses = [
        row["valid_loss"] for row in map(json.loads, (out / "run" / "metrics.jsonl").open()) if "valid_loss" in row
    ]
    assert losses[-1] < losses[0]


def test_every_key_of_the_metrics_is_explained(tiny_walk):
    _, out = tiny_walk
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    keys = {key for line in (out / "run" / "metrics.jsonl").open() for key in json.loads(line)}
    assert {key for key in keys if f"`{key}`" not in page} == set()


def library(folder: Path, **changes: str) -> str:
    """The library example, with some of its text replaced."""
    text = (EXAMPLES / "library.py").read_text("utf-8")
    for old, new in changes.items():
        pattern = {"model": '"smollm2-135m"', "data": "book_table])", "train": "overwrite=True", "limit": "limit=40"}[
            old
        ]
        assert pattern in text
        text = text.replace(pattern, new)
    path = folder / "library.py"
    path.write_text(text)
    return run_file(path, folder)


def test_the_library_example(tmp_path):
    model = tiny_model(tmp_path / "model", "llama", "chatml", layers=2)
    text = library(tmp_path, model=repr(str(model)), data="book_table], rows_train=16, rows_valid=4, rows_test=8)",
                   train="overwrite=True, num_layers=1, iters=2", limit="limit=4")  # fmt: skip
    assert re.match(r"exact calls: \d+% before, \d+% after", text)
    assert (tmp_path / "runs" / "library" / "calltune.json").exists()


def test_the_readme_shows_the_library_example():
    code = (EXAMPLES / "library.py").read_text("utf-8").split("\n\n", 1)[1]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text("utf-8")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 17


def test_my_tools_need_nothing_more():
    made = synthesise(EXAMPLES / "my_tools.py", rows_train=60)
    assert made.notes == ()
    assert [tool.name for tool in made.tools] == ["book_table", "order_status", "open_ticket"]
    functions = functions_from(EXAMPLES / "my_tools.py")
    calls = [call for row in made.train for m in row.messages for call in m.calls]
    assert {call.name for call in calls} == {tool.name for tool in made.tools}
    for call in calls:
        assert "error" not in json.loads(execute(call, functions).content)
    assert "error" in json.loads(execute(ToolCall("order_status", {"order_id": "x"}), functions).content)


@pytest.mark.slow
def test_the_walkthrough_on_a_real_model_learns_the_form(tmp_path):
    text = walkthrough(tmp_path)
    losses = [float(found) for found in re.findall(r"validation loss (\d+\.\d+)", text)]
    assert losses[-1] < 0.7 * losses[0]  # 2.18 to 1.26 was measured: a few updates at a gentle rate


@pytest.mark.slow
def test_the_library_example_on_a_real_model(tmp_path):
    text = library(tmp_path, data="book_table], rows_train=48, rows_valid=8, rows_test=8)",
                   train="overwrite=True, iters=6, learning_rate=2e-3", limit="limit=4")  # fmt: skip
    assert re.match(r"exact calls: \d+% before, \d+% after", text)
