"""A report with realistic invented answers, for the tests of the report and for looking at the page."""

from __future__ import annotations

import math
import random

from calltune.report import Answer, Case, Report
from calltune.schema import Reply, Tool, ToolCall
from calltune.score import score_reply


def _tool(name: str, **types: str) -> Tool:
    properties = {key: {"type": kind} for key, kind in types.items()}
    return Tool(name, "", {"type": "object", "properties": properties, "required": list(types)[:1]})


TOOLS = (
    _tool("get_weather", city="string", unit="string"),
    _tool("set_timer", minutes="integer", label="string"),
    _tool("send_message", to="string", text="string"),
    _tool("convert_currency", amount="number", source="string", target="string"),
)
# category, request, expected calls
REQUESTS: list[tuple[str, str, list[ToolCall]]] = [
    ("weather", "What is it like outside in Trondheim?", [ToolCall("get_weather", {"city": "Trondheim"})]),
    (
        "timer",
        "Buzz me in 25 minutes for the bread",
        [ToolCall("set_timer", {"minutes": 25, "label": "bread"})],
    ),
    (
        "message",
        "Let Priya know that the train is late",
        [ToolCall("send_message", {"to": "Priya", "text": "the train is late"})],
    ),
    (
        "currency",
        "How much is 120.5 kroner in yen?",
        [ToolCall("convert_currency", {"amount": 120.5, "source": "NOK", "target": "JPY"})],
    ),
    (
        "two calls",
        "Weather in Oslo, and ten minutes for the tea",
        [ToolCall("get_weather", {"city": "Oslo"}), ToolCall("set_timer", {"minutes": 10, "label": "tea"})],
    ),
    ("no tool fits", "Who painted the ceiling of the Sistine Chapel?", []),
    ("a value is missing", "Set a timer, please", []),
]


def _before(request: str, index: int) -> Reply:
    if index % 9 == 4:
        raw = '<tool_call>\n{"name": "get_weather", "arguments": {"city": '
        return Reply(raw=raw, errors=("the call ends inside its JSON",), truncated=True)
    if index % 5 == 2:
        return Reply(calls=(ToolCall("get_weather", {"location": "here"}),), raw="…")
    text = f"I'm sorry for the confusion, but as an AI I can't do that. {request} is a good question, and"
    return Reply(content=text, raw=text, truncated=index % 3 == 0)


def _after(expected: list[ToolCall], index: int) -> Reply:
    if index % 23 == 11:
        return Reply(thinking="The user wants a timer.", calls=(ToolCall("set_timer", {"minutes": 15}),))
    if index % 31 == 17:
        return Reply(raw='<tool_call>{"name": set_timer}</tool_call>', errors=("a call is not JSON",))
    if not expected:
        return Reply(thinking="No tool fits.", content="I can't help with that using my tools.")
    plan = f"I need {' and '.join(call.name for call in expected)}."
    return Reply(thinking=plan, calls=tuple(expected))


def sample_cases(count: int = 140) -> tuple[Case, ...]:
    cases = []
    for i in range(count):
        category, request, expected = REQUESTS[i % len(REQUESTS)]
        answers = []
        for reply in (_before(request, i), _after(expected, i)):
            verdict = score_reply(expected, reply, TOOLS, id=f"test-{i}", category=category)
            answers.append(Answer(reply, verdict))
        cases.append(Case(f"test-{i}", category, request, tuple(expected), answers[1], answers[0]))
    return tuple(cases)


def sample_curves(steps: int = 60) -> tuple[dict[str, float], ...]:
    noise = random.Random(0)
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "train_loss": 2.6 * math.exp(-step / 9) + 0.03 + noise.random() * 0.05}
        if step % 10 == 0 or step == 1:
            row["valid_loss"] = 2.5 * math.exp(-step / 10) + 0.05
            row["call_exact_match"] = 0.97 / (1 + math.exp(-(step - 22) / 5))
        rows.append(row)
    return tuple(rows)


def sample_report(cases: tuple[Case, ...] | None = None, **changes) -> Report:
    values = {
        "title": "SmolLM2-135M-Instruct learns ten functions of an assistant",
        "cases": sample_cases() if cases is None else cases,
        "model": {
            "name": "smollm2-135m",
            "parameters": 134_515_008,
            "dtype": "float32",
            "licence": "Apache-2.0",
        },
        "data": {"name": "builtin:assistant", "train_rows": 1600, "test_rows": 140, "seed": 0},
        "seconds": {"total": 262.4, "train": 151.2, "eval": 84.0},
        "train": {
            "tokens_per_second": 3182.5,
            "steps": 60,
            "trainable_parameters": 460_800,
            "peak_memory_gb": 2.41,
        },
        "curves": sample_curves(),
        "lengths": {"examples": 12, "p50": 640, "p95": 655, "max": 660, "histogram": [[600, 629, 3], [630, 660, 9]]},
        "machine": {
            "system": "Linux x86-64",
            "cores": 2,
            "memory_gb": 15.6,
            "blas": "scipy-openblas32, 332 GFLOP/s",
        },
        "versions": {"calltune": "0.1.0", "mlx": "0.32.4", "mlx-lm": "0.32.2", "python": "3.11.9"},
        "hashes": {"model": "9f2c" * 16, "data": "03ab" * 16, "template": "77e1" * 16},
        "settings": {"rank": 8, "num_layers": 30, "learning_rate": 2e-3, "batch_size": 16, "think": True},
        "method": (
            "Test phrasings and slot values do not occur in training: the split is by phrasing template.",
            "Both models got the same prompt with the same tools; answers before were cut at 64 tokens.",
        ),
        "command": "calltune demo --seed 0",
        "created": "2026-05-04 10:32 UTC",
    }
    return Report(**(values | changes))
