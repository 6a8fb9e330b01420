"""Seconds to parse 10,000 outputs of 500 characters, by format and with the format found out by its marks.

python bench/parse_speed.py
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from calltune.formats import FORMATS, join, parse_any
from calltune.schema import Reply, ToolCall

COUNT = 10_000


def main() -> dict[str, Any]:
    figures = {}
    for name, form in FORMATS.items():
        calls = (ToolCall("get_weather", {"city": "Paris", "note": "it's " * 6}),) * 2
        text = join(form.write(Reply("plan " * 20, calls)))
        text = join(form.write(Reply("plan " * 20 + "x" * (500 - len(text)), calls)))
        started = time.perf_counter()
        for _ in range(COUNT):
            form.parse(text)
        parsed = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(COUNT):
            parse_any(text)
        figures[name] = {"characters": len(text), "parse": parsed, "auto": time.perf_counter() - started}
    json.dump(figures, sys.stdout, indent=2)
    print()
    return figures


if __name__ == "__main__":
    main()
