"""SIGKILL at random moments: at every one the run can go on, and ends bit for bit as one that was never killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import data, same_bits, settings_of, story, weights
from tiny import tiny_model

from calltune.runs import read_run
from calltune.settings import to_dict


def killed_often(folder: Path, kills: int, seed: int = 0, epochs: float = 8.0) -> None:
    """Train under kills in other processes, and compare what came of it."""
    model = tiny_model(folder / "model", layers=3)
    (folder / "data").mkdir()
    for name, rows in data(9).items():
        lines = [json.dumps(row.to_openai()) for row in rows]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    settings = settings_of(
        str(model), folder, save_every=2, steps_per_accuracy=5, dropout=0.1, data=str(folder / "data"), epochs=epochs
    )
    (folder / "settings.json").write_text(json.dumps(to_dict(settings)))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    script = Path(__file__).with_name("killed.py")
    subprocess.run([sys.executable, script, folder, str(kills), str(seed)], check=True, env=environment, timeout=1500)
    outcome = json.loads((folder / "outcome.json").read_text())
    print(outcome)
    assert outcome["killed"] >= kills and outcome["runs"] >= 1
    straight = read_run(folder / "straight")
    for k in range(outcome["runs"]):
        run = read_run(folder / f"run-{k}")
        assert same_bits(weights(run), weights(straight)), f"run {k} of seed {seed}"
        assert story(run) == story(straight)
        left = list(run.folder.rglob(".*"))
        assert not left, left
    assert outcome["with_checkpoints"]


def test_trap_t10_a_few_kills(tmp_path):
    killed_often(tmp_path, 3, epochs=4.0)


@pytest.mark.slow
def test_trap_t10_fifty_kills(tmp_path):
    killed_often(tmp_path, 50, seed=1)


@pytest.mark.nightly
def test_trap_t10_two_hundred_kills_at_other_moments_every_night(tmp_path):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    killed_often(tmp_path, 200, seed)
