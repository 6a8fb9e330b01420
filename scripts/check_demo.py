"""Did the demo learn? python scripts/check_demo.py REPORT.json [GAIN]: exit 1 unless its exact calls rose by GAIN."""

from __future__ import annotations

import json
import sys
from pathlib import Path

GAIN = 0.5


def main(report: str, gain: float = GAIN) -> int:
    document = json.loads(Path(report).read_text(encoding="utf-8"))
    before, after = document["before"]["call_exact_match"], document["after"]["call_exact_match"]
    seconds = document["seconds"]
    print(f"call_exact_match {before:.3f} -> {after:.3f} on {document['n_call']} requests, seconds {seconds}")
    if after - before >= gain:
        return 0
    print(f"the demo gained {after - before:.3f}; at least {gain} was wanted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], *map(float, sys.argv[2:3])))
