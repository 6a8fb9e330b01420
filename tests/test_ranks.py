"""Two processes on MLX's ring train the weights of one, and only the first one writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import tiny_model, weather_rows

from calltune.batching import make_batch, take_rows
from calltune.render import Example, Span


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def launch(folder: Path, arguments: list[str], processes: int) -> list[str]:
    """Standard error of each process of `calltune train` on the ring backend, as `mlx.launch` sets it up."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(processes)]))
    ring = {"MLX_HOSTFILE": str(hosts)} if processes > 1 else {}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "calltune", *arguments],
            env=os.environ | ring | ({"MLX_RANK": str(rank)} if ring else {}) | {"OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    done = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), done
    assert all(not out for out, _ in done[1:])
    return [errors for _, errors in done]


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_end_at_the_weights_of_one(tmp_path, accumulation):
    model = tiny_model(tmp_path / "model", "llama", layers=3)
    rows = [json.dumps(row.to_openai()) for row in weather_rows(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    weights, losses = [], []
    for count in (1, 2):
        out = tmp_path / f"run-{count}"
        said = launch(tmp_path, [
            "train", "--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--out", str(out),
            "--epochs", "2", "--batch-size", "4", "--num-layers", "2", "--learning-rate", "1e-2",
            "--test", "0", "--valid", "0.2", "--steps-per-report", "1", "--grad-accumulation", str(accumulation),
        ], count)  # fmt: skip
        assert ("2 processes" in said[0]) == (count == 2) and all(not text for text in said[1:])
        weights.append(load_file(out / "adapters.safetensors"))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([line.get("train_loss", line.get("valid_loss")) for line in lines])
        trained = [line for line in lines if "rows" in line]
        assert sum(line["rows"] for line in trained) == 2 * 7  # every row once an epoch, over all processes
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    moved = 0.0
    for name, value in weights[0].items():
        size = np.linalg.norm(value)
        moved += size
        assert np.linalg.norm(weights[1][name] - value) <= 1e-3 * size, name
    assert moved > 0


@pytest.mark.slow
def test_two_processes_go_on_together(tmp_path):
    """Straight through, or four updates and then two more: the same weights, and both go on from one checkpoint."""
    model = tiny_model(tmp_path / "model", "llama", layers=3)
    rows = [json.dumps(row.to_openai()) for row in weather_rows(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    weights = []
    for name, parts in (("straight", [6]), ("parts", [4, 6])):
        for updates in parts:
            said = launch(tmp_path, [
                "train", "--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / name),
                "--iters", str(updates), "--batch-size", "4", "--num-layers", "2", "--learning-rate", "1e-2",
                "--test", "0", "--valid", "0.2", "--steps-per-eval", "3", "--dropout", "0.1", "--schedule",
                "constant", "--warmup", "0", "--force",
            ], 2)  # fmt: skip
        weights.append(load_file(tmp_path / name / "adapters.safetensors"))
    assert "going on after update 4" in said[0]
    for name, value in weights[0].items():
        assert np.linalg.norm(weights[1][name] - value) <= 1e-4 * np.linalg.norm(value), name


def test_taken_rows_have_their_own_targets():
    rows = [Example(tuple(range(k, k + 8 + k)), (Span(3, 5 + k, "name"),)) for k in range(1, 6)]
    batch = make_batch(rows, range(5))
    parts = [take_rows(batch, [0, 2, 4]), take_rows(batch, [1, 3])]
    assert [part.indices for part in parts] == [(0, 2, 4), (1, 3)]
    for part in parts:
        alone = make_batch(rows, part.indices)
        for name in ("ids", "rows", "columns", "targets", "kinds"):
            np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
