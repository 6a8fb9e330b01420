"""How fast rows are read and checked without a model, what is kept of each, and how fast they are rendered.

    python bench/read_check.py                           100,000 rows made from the built-in tools
    python bench/read_check.py rows.jsonl --rows 20000   the rows of a file, again and again with other ids
    python bench/read_check.py --model smollm2-135m      also rendering, beside the tokenizer alone
    python bench/read_check.py rows.jsonl --prepare      also `calltune prepare`: rows a second and the most memory
    python bench/read_check.py rows.jsonl --own-tools    each row with tools that no other row has
    python bench/read_check.py rows.jsonl --turns 3      one process and several, by turns

Beside it stands `datasets.load_dataset` and `datasets.map` with a function that does nothing but count calls, where
that package is installed. Results go to standard output as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from calltune.builtin import builtin_data
from calltune.data.check import Checker
from calltune.data.pool import Pool
from calltune.data.readers import load_conversations, readings
from calltune.data.sources import Source
from calltune.platform.machine import usable_cores

ASKS = ("user", "human")


def lines_of(path: Path | None, count: int, own_tools: bool = False) -> Iterator[str]:
    """`count` rows as JSON text, each with an id and a word of its own, and with `own_tools` with such tools."""
    if path is None:
        rows: list[dict[str, Any]] = [row.to_openai() for row in builtin_data(sizes=(2000, 10, 10)).train]
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for i, row in enumerate(islice(cycle(rows), count)):
        column = "messages" if "messages" in row else "conversations"
        said = [m | {"content": f"{m['content']} ({i})"} if m["role"] in ASKS else m for m in row[column]]
        if own_tools:
            row = json.loads(json.dumps(row))
            for tool in row["tools"]:
                tool["function"]["description"] += f" (version {i})"
        yield json.dumps(row | {"id": f"row {i}", column: said}, ensure_ascii=False)


def memory(whose: int = resource.RUSAGE_SELF) -> int:
    """The largest resident set so far, in bytes (Linux gives kilobytes)."""
    return resource.getrusage(whose).ru_maxrss * 1024


def check_rates(path: Path, count: int, workers: int, turns: int) -> dict[str, Any]:
    """The check in one process and in several, by turns, since what else the machine does changes."""
    found: dict[int, list[dict[str, Any]]] = {}
    for _ in range(turns):
        for number in sorted({1, workers}):
            found.setdefault(number, []).append(check_rate(path, count, number))
    result = {}
    for number, runs in found.items():
        assert all(run["statuses"] == found[1][0]["statuses"] for run in runs)
        rates = [run["rows_per_second"] for run in runs]
        result[f"workers_{number}"] = runs[0] | {"rows_per_second": round(median(rates)), "turns": rates}
    return result


def check_rate(path: Path, count: int, workers: int) -> dict[str, Any]:
    started, before = time.perf_counter(), memory()
    statuses: dict[str, int] = {}
    with Pool(workers) as pool:
        checker = Checker(pool=pool if workers > 1 else None)
        for checked in checker.check(Source(path.name, path)):
            statuses[checked.status] = statuses.get(checked.status, 0) + 1
    seconds = time.perf_counter() - started
    kept = checker.ids.nbytes + checker.alike.nbytes
    return {
        "rows_per_second": round(count / seconds),
        "statuses": statuses,
        "bytes_kept_a_row": round(kept / count, 1),
        "memory_growth_mb": round((memory() - before) / 1e6, 1),
        "largest_worker_mb": round(memory(resource.RUSAGE_CHILDREN) / 1e6) if workers > 1 else 0,
    }


def prepare_rate(path: Path, count: int) -> dict[str, Any]:
    """`calltune prepare` in a process of its own: its speed, and the most memory that it held."""
    code = (
        "import resource, sys; from calltune.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    with tempfile.TemporaryDirectory() as folder:
        words = ["prepare", str(path), "--out", str(Path(folder) / "out"), "--duplicates", "--json"]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    seconds, peak = time.perf_counter() - started, int(done.stderr.split()[-1]) * 1024
    return {
        "rows_per_second": round(count / seconds),
        "peak_memory_mb": round(peak / 1e6),
        "bytes_a_row": round(peak / count),
        "times_the_file": round(peak / path.stat().st_size, 2),
    }


def read_rate(path: Path, count: int) -> dict[str, Any]:
    started = time.perf_counter()
    assert sum(1 for _ in readings(Source(path.name, path))) == count
    return {"rows_per_second": round(count / (time.perf_counter() - started))}


def datasets_rate(path: Path, count: int) -> dict[str, Any] | None:
    """`datasets` on the same file: loading it, and a map that counts calls."""
    try:
        import datasets
    except ImportError:
        return None
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        try:
            started = time.perf_counter()
            rows = datasets.load_dataset("json", data_files=str(path), cache_dir=cache)["train"]
            loaded = time.perf_counter()
            rows.map(lambda row: {"calls": sum(len(m.get("tool_calls") or ()) for m in row["messages"])})
        except Exception as error:  # its types do not bend to every set
            return {"failed": f"{type(error).__name__}: {str(error)[:160]}"}
        done = time.perf_counter()
    return {
        "load_rows_per_second": round(count / (loaded - started)),
        "map_rows_per_second": round(count / (done - loaded)),
        "both_rows_per_second": round(count / (done - started)),
    }


def render_rate(path: Path, model: str, count: int = 2000) -> dict[str, Any]:
    """Tokens a second of rendering, and of the tokenizer alone on the same texts."""
    from calltune.cli.measuring import lengths_for
    from calltune.render import render_all

    lengths = lengths_for(model, 1 << 20)
    template, tokenizer = lengths.template, lengths.tokenizer
    rows = load_conversations(path, limit=count)
    render_all(rows[:1], template, tokenizer)
    started = time.perf_counter()
    examples = render_all(rows, template, tokenizer)
    seconds = time.perf_counter() - started
    texts = [tokenizer.decode(list(example.ids)) for example in examples]
    started = time.perf_counter()
    plain = sum(len(tokenizer.encode(text)) for text in texts)
    alone = time.perf_counter() - started
    tokens = sum(map(len, examples))
    return {
        "tokens_per_second": round(tokens / seconds),
        "tokenizer_alone": round(plain / alone),
        "ratio": round((tokens / seconds) / (plain / alone), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows_file", nargs="?", type=Path, help="a .jsonl file in place of made rows")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", help="also measure rendering with this model's tokenizer")
    parser.add_argument("--prepare", action="store_true", help="also measure calltune prepare and its memory")
    parser.add_argument("--own-tools", action="store_true", help="no two rows have the same tools")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes of the check beside one")
    parser.add_argument("--turns", type=int, default=1, help="how often each number of processes is measured")
    parser.add_argument("--no-datasets", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for line in lines_of(args.rows_file, args.rows, args.own_tools):
                file.write(f"{line}\n")
        result: dict[str, Any] = {
            "rows": args.rows,
            "megabytes": round(path.stat().st_size / 1e6),
            "cores": os.cpu_count(),
        }
        result["check"] = check_rates(path, args.rows, args.workers, args.turns)
        result["read"] = read_rate(path, args.rows)
        if args.prepare:
            result["prepare"] = prepare_rate(path, args.rows)
        if not args.no_datasets:
            result["datasets"] = datasets_rate(path, args.rows)
        if args.model:
            result["render"] = render_rate(path, args.model)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
