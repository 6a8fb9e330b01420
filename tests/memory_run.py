"""Trains a few updates of a middling shape in a process of its own and prints what the planner said and what the
peak was: `python memory_run.py llama '{"num_layers": 6}'`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from calltune.batching import common_prefix
from calltune.bench.side import _Kept
from calltune.engine import optim
from calltune.engine.adapter import add_adapter
from calltune.engine.footprint import shape_of
from calltune.engine.plan import plan_step
from calltune.engine.probe import on_gpu
from calltune.engine.shapes import random_model
from calltune.fit import predict_run
from calltune.platform.process_memory import process_bytes, process_peak_bytes, reset_process_peak
from calltune.platform.shapes import SHAPES
from calltune.progress import Silent
from calltune.render import Example, Span
from calltune.settings import TrainSettings, resolve
from calltune.train import Loop, adapter_settings, speed_of

LARGE = {
    "hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 1408, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 16384,
}  # fmt: skip
BASE = {"llama": "smollm2-135m", "qwen3": "qwen3-0.6b", "gemma2": "gemma-2-2b", "gemma3": "gemma-3-270m"}


def made_rows(count: int, length: int, prefix: int) -> list[Example]:
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 16384, prefix).tolist()
    rows = [(*shared, *rng.integers(0, 16384, length - i).tolist()) for i in range(count)]
    return [Example(ids, (Span(len(ids) - 60, len(ids), "answer"),)) for ids in rows]


def main(arch: str, given: dict[str, Any]) -> None:
    prefix = given.pop("prefix", 0)
    values = {"num_layers": 3, "batch_size": 2, "epochs": 1, "fine_tune": "lora"} | given
    settings = resolve(TrainSettings, values | {"iters": 2, "steps_per_report": 1}, "the test")
    SHAPES["large"] = SHAPES[BASE[arch]] | LARGE
    train = made_rows(4, 640, prefix)
    loaded = random_model("large", settings.dtype, None)  # type: ignore[arg-type]
    shape = shape_of(loaded.model, loaded.dtype)
    predicted = predict_run(shape, settings, train, [], process_bytes() - shape.weight_bytes)
    add_adapter(loaded.model, adapter_settings(settings), 0)
    optim.reset_peak_memory()
    reset_process_peak()
    found = common_prefix(train)
    plan = plan_step(loaded.model, found, speed_of(settings), loaded.vocabulary, dropout=settings.dropout)
    kept = _Kept(train, [])
    Loop(plan, kept, replace(settings, val_batches=-1), kept, None, Silent()).run()
    measured = optim.peak_memory_gb() * 1e9 if on_gpu() else process_peak_bytes()
    print(json.dumps({"predicted": predicted.total, "measured": measured, "mlx": optim.peak_memory_gb(),
                      "parts": predicted.parts(), "ratio": predicted.total / measured}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
