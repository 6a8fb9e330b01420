"""Batches of replies bound to the schemas of BFCL, against free ones: tokens a second, and how many are valid.

    python bench/bound_speed.py smollm2-135m --calls 64
    python bench/bound_speed.py MODEL_OR_RUN_FOLDER --calls 2000 --benchmark tests/data/bfcl     # fetches nothing

Both sides answer the same requests at temperature 1, in turns over pieces of `--piece` requests, with nothing kept
from before. Free replies rarely end, so a side's speed is that of its own tokens; `prompts` is the time of free
answers of one token, and `decoding` is tokens a second of what is left without it. Exit code 1: a call is invalid.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calltune.bench.bound import bfcl_requests, tokens_of, validity
from calltune.caller import Caller, Request, load
from calltune.engine.decode import Sampling
from calltune.engine.kept import Kept
from calltune.grammar import Rules
from calltune.platform.machine import machine
from calltune.schema import Reply

RULES = Rules("required", parallel=False)


def timed(
    caller: Caller, requests: list[Request], size: int, tokens: int, rules: Rules | None, seed: int
) -> tuple[list[Reply], float]:
    caller.decoder.kept, caller.decoder.prefix = Kept(), ()
    started = time.perf_counter()
    sampling = Sampling(temperature=1.0, seed=seed)
    replies = caller.batch(requests, max_tokens=tokens, batch_size=size, sampling=sampling, rules=rules)
    return replies, time.perf_counter() - started


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model or a run, by name or folder")
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--each", type=int, default=16, help="how often each request is answered")
    parser.add_argument("--free", type=int, default=64, help="how many of them are answered freely too")
    parser.add_argument("--piece", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--benchmark", type=Path, help="a folder of BFCL's files")
    args = parser.parse_args(argv)
    caller = load(args.model, think=False)
    requests = bfcl_requests(args.calls, args.seed, args.benchmark, args.each)
    size, limit = args.batch_size, args.max_tokens
    for rules in (RULES, None):  # what is done once counts for neither
        timed(caller, requests[:size], size, 4, rules, 0)
    seconds = {"bound": 0.0, "free": 0.0, "prompts": 0.0}
    made: dict[str, list[Reply]] = {"bound": [], "free": []}
    timed_tokens = {"bound": 0, "free": 0}
    for start in range(0, len(requests), args.piece):
        piece = requests[start : start + args.piece]
        for name, rules in (("bound", RULES), ("free", None)):
            if name == "free" and start >= args.free:
                continue
            replies, took = timed(caller, piece, size, limit, rules, args.seed + start)
            made[name] += replies
            if start < args.free:  # what both sides answered
                seconds[name] += took
                timed_tokens[name] += tokens_of(caller, replies)
        if start < args.free:
            seconds["prompts"] += timed(caller, piece, size, 1, None, args.seed)[1]
        said = validity(made["bound"], [tools for _, tools in requests[: len(made["bound"])]])
        print(f"{len(made['bound'])}: {said}", file=sys.stderr, flush=True)
    whole = {name: timed_tokens[name] / max(seconds[name], 1e-9) for name in made}
    decoding = {name: timed_tokens[name] / max(seconds[name] - seconds["prompts"], 1e-9) for name in made}
    figures = {
        "model": args.model, "device": machine().to_dict(), "dtype": caller.loaded.dtype, "batch_size": size,
        "calls": len(requests), "validity": asdict(said), "tokens": timed_tokens, "seconds": seconds,
        "tokens_per_second": {"whole": whole, "decoding": decoding},
        "bound_over_free": {"whole": whole["bound"] / max(whole["free"], 1e-9),
                            "decoding": decoding["bound"] / max(decoding["free"], 1e-9)},
    }  # fmt: skip
    json.dump(figures, sys.stdout, indent=2)
    print()
    return figures


if __name__ == "__main__":
    sys.exit(1 if main()["validity"]["invalid"] else 0)
