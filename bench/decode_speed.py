"""Constrained against free decoding of the same calls, from the mark of the first call on, in one run.

    python bench/decode_speed.py demo/run --limit 20

Each request is answered both ways, one by one, in turns; only those count where both wrote the same text. The time
from the mark on is that of the ids after it: constrained decoding may choose all of them, or have most forced.
`median` is the median of free / constrained over the requests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

from calltune.caller import Caller, load
from calltune.formats.hermes import OPEN
from calltune.grammar import Rules
from calltune.schema import Message, Tool


def timed(
    caller: Caller, messages: tuple[Message, ...], tools: tuple[Tool, ...], rules: Rules | None
) -> tuple[str, float]:
    """The reply's text, and the seconds from its first call's mark to its end."""
    text, marked = "", 0.0
    for piece in caller.stream(messages, tools, max_tokens=160, rules=rules):
        text += piece
        if not marked and OPEN in text:
            marked = time.perf_counter()
    return text, time.perf_counter() - marked if marked else 0.0


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--limit", type=int, default=20)
    args = parser.parse_args(argv)
    caller = load(args.run)
    assert caller.run is not None, "a run with held-out rows"
    rows = [row for row in caller.run.test_rows() if row.messages[-1].calls]
    timed(caller, rows[0].messages[:1], rows[0].tools, Rules())  # what is done once counts for neither
    ratios, free_all, bound_all, different = [], [], [], 0
    for i, row in enumerate(rows[: args.limit]):
        asked = row.messages[:1], row.tools
        order = (None, Rules()) if i % 2 else (Rules(), None)
        found = {rules is None: timed(caller, *asked, rules) for rules in order}
        (free, free_time), (bound, bound_time) = found[True], found[False]
        if free != bound or not free_time:
            different += 1
            continue
        ratios.append(free_time / bound_time)
        free_all.append(free_time)
        bound_all.append(bound_time)
    figures = {
        "run": args.run, "same": len(ratios), "different": different,
        "median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
        "seconds": {"free": statistics.median(free_all), "constrained": statistics.median(bound_all)},
    }  # fmt: skip
    json.dump(figures, sys.stdout, indent=2)
    print()
    return figures


if __name__ == "__main__":
    main()
