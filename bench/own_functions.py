"""How well `train --tools` teaches functions that the generator was not written for, on requests written by hand.

    python bench/own_functions.py                                     the three files in examples/functions
    python bench/own_functions.py travel --model gemma-3-270m         one of them, with another model
    python bench/own_functions.py --out runs/own -- --rows 1500 --optimizer muon --learning-rate 7e-3
    python bench/own_functions.py --eval-only --out runs/own          the runs that are there already
    python bench/own_functions.py --renew                             writes the functions' schemas into the requests
    python bench/own_functions.py travel -- --requests examples/functions/travel.examples.yaml
    python bench/own_functions.py --folder bench/development          other files: those that we tune the generator on

What stands after `--` goes to `calltune train`. A `NAME.requests.jsonl` holds requests as people would say them, made
from no pattern of the generator; training never sees them, and nothing is tuned on those in examples/functions (20
a file). `travel.examples.yaml` has what training asks for: examples of the function whose docstring has none, written
by somebody who had not seen the requests. It runs the commands that a user would, and prints `call_exact_match` of
each file, the requests that went wrong, and the mean as JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "examples" / "functions"


def calltune(*words: str) -> None:
    """Runs a command of calltune; what it prints goes to standard error, where progress belongs."""
    print("calltune", *words, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "calltune", *words], check=False, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(done.returncode)  # the command has said why


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Trains on the functions' own requests, unless there is a run already, and asks those written by hand."""
    run, folder, started = args.out / name, args.folder, time.perf_counter()
    if not args.eval_only:
        tools = str(folder / f"{name}.py")
        calltune("train", "--model", args.model, "--tools", tools, "--out", str(run), "--overwrite", *args.train)
    trained = time.perf_counter()
    requests, made = str(folder / f"{name}.requests.jsonl"), run / "by-hand"
    calltune("eval", str(run), "--data", requests, "--out", str(made), "--max-tokens", str(args.max_tokens))
    report = json.loads((made / "report.json").read_text(encoding="utf-8"))
    return {
        "call_exact_match": report["after"]["call_exact_match"],
        "seconds": {"train": round(trained - started), "eval": round(time.perf_counter() - trained)},
        "wrong": wrong_ones(report, rows_of(folder / f"{name}.requests.jsonl"), rows_of(made / "predictions.jsonl")),
    }


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row for row in rows}


def wrong_ones(
    report: dict[str, Any], asked: dict[str, dict[str, Any]], answered: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The requests whose answer is not exact, with the calls that were made."""
    kinds = {v["id"]: v["after"] for v in report["verdicts"] if v["after"] != "exact"}
    return [
        {"id": id, "kind": kind, "request": asked[id]["messages"][0]["content"],
         "calls": answered[id]["calls"], "content": answered[id]["content"]}
        for id, kind in kinds.items()
    ]  # fmt: skip


def renew(folder: Path, name: str) -> None:
    """The functions' schemas as they are now into every row; requests and calls stay."""
    from calltune.functions import functions_from

    path = folder / f"{name}.requests.jsonl"
    tools = [function.tool.to_openai() for function in functions_from(folder / f"{name}.py")]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    text = "".join(f"{json.dumps(row | {'tools': tools}, ensure_ascii=False)}\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> dict[str, Any] | None:
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a file in the folder; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="with NAME.py and NAME.requests.jsonl")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("runs/own-functions"))
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--renew", action="store_true")
    args = parser.parse_args(given[:split])
    args.train = given[split + 1 :]
    names = sorted(path.stem for path in args.folder.glob("*.py"))
    chosen = args.names or names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no such file: {', '.join(unknown)}; there are {', '.join(names)}")
    if args.renew:
        for name in chosen:
            renew(args.folder, name)
        return None
    found = {name: measure(name, args) for name in chosen}
    shares = [one["call_exact_match"] for one in found.values()]
    result = {"model": args.model, "train": args.train, "files": found, "mean": sum(shares) / len(shares)}
    json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
    print()
    return result


if __name__ == "__main__":
    main()
