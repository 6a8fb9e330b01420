"""How much faster an evaluation is in batches than one by one, in one run, and whether the answers are the same.

    python bench/eval_speed.py smollm2-135m --suite bfcl:simple_python --limit 200 --max-tokens 64

`whole` compares the time from the loaded model to scored answers; `decoding` what is left of it after the time for
answers of one token, which is that of the prompts.
Answers that differ are shown with the first place where they do: greedy decoding breaks ties of equal logits by the
last bits, which depend on the shape of a batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from calltune.answers import answer_all
from calltune.caller import Caller, load
from calltune.evaluate import load_questions
from calltune.report import Answer
from calltune.tasks.questions import Question


def timed(caller: Caller, questions: list[Question], size: int, max_tokens: int) -> tuple[list[Answer], float]:
    started = time.perf_counter()
    answers = answer_all(caller, questions, max_tokens=max_tokens, batch_size=size)
    return answers, time.perf_counter() - started


def one_by_one(caller: Caller, questions: list[Question], max_tokens: int) -> tuple[list[Answer], float]:
    started, made = time.perf_counter(), []
    for question in questions:
        reply = caller(question.messages, question.tools, max_tokens=max_tokens)
        made.append(Answer(reply, question.verdict(reply)))
    return made, time.perf_counter() - started


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--suite", default="bfcl:simple_python")
    parser.add_argument("--benchmark")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args(argv)
    caller = load(args.model)
    questions = load_questions(args.suite, None, None, args.limit, args.benchmark)
    timed(caller, questions[:2], 2, 2)  # what is done once is in neither figure
    # Answers of one token cost the prompts alone: what is above that is decoding.
    _, prompts_batched = timed(caller, questions, args.batch_size, 1)
    batched, whole_batched = timed(caller, questions, args.batch_size, args.max_tokens)
    _, prompts_single = one_by_one(caller, questions, 1)
    single, whole_single = one_by_one(caller, questions, args.max_tokens)
    different = [q.id for q, a, b in zip(questions, batched, single, strict=True) if a.reply.raw != b.reply.raw]
    figures = {
        "model": args.model, "suite": args.suite, "cases": len(questions), "max_tokens": args.max_tokens,
        "seconds": {"batched": whole_batched, "one_by_one": whole_single,
                    "prompts_batched": prompts_batched, "prompts_one_by_one": prompts_single},
        "whole": whole_single / whole_batched,
        "decoding": max(whole_single - prompts_single, 1e-9) / max(whole_batched - prompts_batched, 1e-9),
        "identical": 1 - len(different) / len(questions), "different": different,
    }  # fmt: skip
    json.dump(figures, sys.stdout, indent=2)
    print()
    return figures


if __name__ == "__main__":
    main()
