"""`calltune cache`: what lies in the cache, and emptying it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from calltune.errors import InputError
from calltune.platform.builtin import clear_cache, list_cached
from calltune.platform.paths import cache_dir


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "cache",
        description="CALLTUNE_CACHE=FOLDER moves the cache.",
        epilog="example: calltune cache clear --yes",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|clear")
    show = actions.add_parser(
        "list", help="what lies there, with size and licence", epilog="example: calltune cache list"
    )
    show.add_argument("--json", action="store_true", help="one JSON document on standard output")
    show.set_defaults(run=run_list)
    clear = actions.add_parser("clear", help="remove everything there", epilog="example: calltune cache clear --yes")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    clear.set_defaults(run=run_clear)


def run_list(args: argparse.Namespace) -> int:
    items = list_cached()
    if args.json:
        print(json.dumps({"path": str(cache_dir()), "items": [vars(item) for item in items]}, indent=1))
        return 0
    for item in items:
        licence = f"  {item.licence} ({item.licence_url})" if item.licence else ""
        print(f"{item.size / 1e6:8.1f} MB  {item.kind}/{item.name}{licence}")
    print(f"{sum(item.size for item in items) / 1e6:8.1f} MB  in {cache_dir()}")
    return 0


def run_clear(args: argparse.Namespace) -> int:
    items = list_cached()
    if items and not args.yes:
        size = sum(item.size for item in items) / 1e6
        question = f"remove {len(items)} items ({size:.0f} MB) in {cache_dir()}? [y/N] "
        if not sys.stdin.isatty():
            raise InputError("this would empty the cache", next_step="run `calltune cache clear --yes`")
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed", file=sys.stderr)
            return 0
    print(f"{clear_cache() / 1e6:.1f} MB freed in {cache_dir()}")
    return 0
