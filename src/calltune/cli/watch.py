"""`calltune watch`: the curves of a run while it trains."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from calltune.errors import InputError

EXAMPLE = """examples:
  calltune watch runs/mine
  calltune watch runs/mine --html watch.html     a page that loads itself anew; open it in a browser
  calltune watch runs/mine --once --json

It reads the run's folder only, so it may be started and left at any time. Marks: B best so far, R taken up again,
Q rows left out, S update left out, X the loss explodes. It ends when the run is finished."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "watch",
        description="Shows the curves of a run while it trains, and marks the best weights, resumes and quarantines.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder that `calltune train` writes")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page there instead, as long as it trains")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two looks (default: 5)")
    parser.add_argument("--once", action="store_true", help="one look; so it is without a terminal and with --json")
    parser.add_argument("--json", action="store_true", help="state, last figures and marks as one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from calltune.platform.paths import atomic_write
    from calltune.watching import look, view_lines, watch_page

    if not 0 < args.every < 3600:
        raise InputError(f"--every is {args.every:g} (above 0, below 3600 seconds)", next_step="5 is usual")
    if args.html and args.json:
        raise InputError("--html and --json were both given", next_step="ask for one of them")
    folder = args.run_folder.expanduser()
    live = sys.stdout.isatty()
    view = look(folder)
    if args.json:
        print(json.dumps(document(view), ensure_ascii=False, indent=2))
        return 0
    while True:
        if args.html:
            atomic_write(args.html, watch_page(view, args.every))
        else:
            width = shutil.get_terminal_size().columns
            clear = "\x1b[2J\x1b[H" if live and not args.once else ""
            print(clear + "\n".join(view_lines(view, width)), flush=True)
        if view.finished or args.once or not view.owner or not (live or args.html):
            if args.html:
                print(f"{args.html}: {view.state}")
            return 0
        time.sleep(args.every)
        view = look(folder)


def document(view: Any) -> dict[str, Any]:
    last = {key: value for row in view.rows if "event" not in row for key, value in row.items()}
    return {"run": str(view.folder), "state": view.record.get("state"), "alive": bool(view.owner), "last": last,
            "marks": [{"step": step, "kind": kind} for step, kind in view.marks],
            "events": [row for row in view.rows if "event" in row]}  # fmt: skip
