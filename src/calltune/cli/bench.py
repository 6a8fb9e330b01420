"""`calltune bench`: side by side with another tool, in one command; each kind of bench in a module of its own."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

KINDS = ("train",)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        description="Runs calltune and another tool on the same work, in turn, and compares.",
        epilog="example: calltune bench train --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in KINDS:
        importlib.import_module(f"calltune.cli.bench_{kind}").add_parser(kinds)
