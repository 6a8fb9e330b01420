"""Time to the first token of the second request with the same tools, against the first.

    python bench/first_token.py smollm2-135m

The tools are the built-in ones, as many as make a prefix of about 500 tokens; the requests have at most 20. Each
round begins with nothing kept. `ratio` is the median of first / second over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

from calltune.builtin.assistant import FUNCTIONS
from calltune.caller import Caller, load
from calltune.engine.kept import Kept
from calltune.functions import tools_from
from calltune.schema import Message, Tool

REQUESTS = ("Set a timer for 25 minutes.", "Switch off the light in the kitchen.")


def first_token(caller: Caller, text: str, tools: tuple[Tool, ...]) -> float:
    started = time.perf_counter()
    next(caller.stream((Message("user", text),), tools, max_tokens=2))
    return time.perf_counter() - started


def prefix_tools(caller: Caller, wanted: int) -> tuple[Tool, ...]:
    tools = tuple(tools_from(list(FUNCTIONS)))
    for count in range(1, len(tools) + 1):
        if caller.lengths([((Message("user", ""),), tools[:count])])[0] >= wanted:
            return tools[:count]
    return tools


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prefix", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    caller = load(args.model)
    tools = prefix_tools(caller, args.prefix)
    first_token(caller, "Hello", tools)  # what is done once, such as loading weights, is in neither
    ratios, firsts, seconds = [], [], []
    for _ in range(args.rounds):
        caller.decoder.kept, caller.decoder.prefix = Kept(), ()
        firsts.append(first_token(caller, REQUESTS[0], tools))
        seconds.append(first_token(caller, REQUESTS[1], tools))
        ratios.append(firsts[-1] / seconds[-1])
    figures = {
        "model": args.model, "prefix": len(caller.decoder.prefix),
        "request": max(len(caller.loaded.tokenizer.encode(text)) for text in REQUESTS),
        "seconds": {"first": statistics.median(firsts), "second": statistics.median(seconds)},
        "ratio": statistics.median(ratios), "lowest": min(ratios),
    }  # fmt: skip
    json.dump(figures, sys.stdout, indent=2)
    print()
    return figures


if __name__ == "__main__":
    main()
