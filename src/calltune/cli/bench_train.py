"""`calltune bench train`: training beside mlx-lm, or transformers with PEFT, on the same rows and settings."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from calltune.cli.bars import Bars
from calltune.errors import InputError
from calltune.settings import TrainSettings, add_flags, resolve

EXAMPLE = """examples:
  calltune bench train                                     SmolLM2 and the built-in rows, against mlx-lm
  calltune bench train --data rows.jsonl --rows 64 --batch-size 4 --epochs 3 --peer-updates 4
  calltune bench train --shape gemma-2-2b --data rows.jsonl --rows 0 --against mlx-lm,transformers
  mlx.launch -n 2 -- calltune bench train --shape gemma-2-2b --data rows.jsonl --batch-size 8 --against none
  calltune bench train --stock-blas --peer-updates 1       also mlx-lm with the BLAS of its own wheel

Tokens/s count every token of every row as rendered, whatever carries loss and whatever had to run, over the time of
the updates and what they rely on; a short run before it warms up. Every side has a process of its own."""
# What the bench sets, or what has no meaning in it.
SKIP = (
    "out", "overwrite", "iters", "steps_per_report", "steps_per_eval", "val_batches", "save_every", "clip",
    "schedule", "warmup", "grad_accumulation",
)  # fmt: skip
FIXED = {"schedule": "constant", "warmup": 0.0, "clip": 0.0, "epochs": 3.0, "test": 0.0}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        description="Trains the same rows with the same settings by calltune and by its peers, in turn.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", "--peer", default="mlx-lm", metavar="NAMES",
                        help="mlx-lm, mlx-lm-sorted (true lengths), transformers (with PEFT), with commas "
                             "between, or none (default: mlx-lm)")  # fmt: skip
    parser.add_argument("--stock-blas", action="store_true", help="also mlx-lm with the BLAS of its own wheel")
    parser.add_argument("--shape", help="a shape with random weights instead of a model, as gemma-2-2b")
    parser.add_argument("--tokenizer", default="smollm2-135m", metavar="MODEL",
                        help="of the rows, for a shape: model or folder (default: smollm2-135m)")  # fmt: skip
    counts = {
        "rows": (64, "training rows, evenly taken from the data; 0 for all"),
        "built-in-tools": (0, "offer only the first few of the built-in functions; 0 for all"),
        "updates": (0, "our updates; 0 for as many as --epochs need"),
        "peer-updates": (0, "updates of each peer; 0 for as many as --epochs need"),
        "warm-up": (1, "updates before those that are timed, on each side"),
        "eval-every": (0, "updates between validations, whose time does not count; 0: at start and end"),
    }
    for name, (default, text) in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--valid-rows", type=int, metavar="N",
                        help="validation rows; 0 for all (default: a quarter of --rows, at most 16)")  # fmt: skip
    parser.add_argument("--attention", default="", metavar="NAMES",
                        help="of transformers: eager, sdpa, flash_attention_2 (default: the fastest)")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="for each side")
    add_flags(parser, TrainSettings, skip=(*SKIP, "rows", "tokenizer"))
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    settings, bench = read_settings(args)
    from calltune.bench.training import bench_train, table

    if os.environ.get("MLX_RANK", "0") != "0":  # one of several processes, of which the first one tells
        bench_train(settings, bench)
        return 0
    with Bars() as bars:
        report = bench_train(settings, bench, bars)
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        print("\n".join(table(report)))
    return 0


def read_settings(args: argparse.Namespace) -> Any:
    """The training settings that all sides share, and those of the bench. Raises InputError."""
    from calltune.bench.training import BenchSettings

    names = set(TrainSettings.__dataclass_fields__) - {"rows", *SKIP}
    given = FIXED | {name: value for name, value in vars(args).items() if name in names}
    settings = resolve(TrainSettings, given, "the flags", "bench train")
    low = [f"--{name.replace('_', '-')}" for name in ("rows", "valid_rows", "built_in_tools", "updates",
           "peer_updates", "warm_up", "eval_every") if (getattr(args, name) or 0) < 0]  # fmt: skip
    if low:
        raise InputError(f"{', '.join(low)}: at least 0", next_step="`calltune bench train --help` shows how")
    against = [name.strip() for name in args.against.split(",") if name.strip() and name.strip() != "none"]
    if args.stock_blas:
        against.append("mlx-lm-stock-blas")
    return settings, BenchSettings(
        against=tuple(against), shape=args.shape, tokenizer=args.tokenizer, rows=args.rows,
        valid_rows=args.valid_rows, built_in_tools=args.built_in_tools, updates=args.updates,
        peer_updates=args.peer_updates, warm_up=args.warm_up, eval_every=args.eval_every,
        attention=tuple(name for name in args.attention.split(",") if name), timeout=args.timeout,
    )  # fmt: skip
