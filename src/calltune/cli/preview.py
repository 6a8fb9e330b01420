"""`calltune preview`: one row as the model is trained on it, with what carries loss, in colour or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from calltune.cli.replying import in_colour
from calltune.errors import InputError
from calltune.report_text import printable

if TYPE_CHECKING:
    from calltune.render import Example
    from calltune.template import Template
    from calltune.tokenizer import Tokenizer

COLOURS = {"think": 36, "name": 32, "arguments": 33, "syntax": 35, "answer": 34}
WINDOW = 8  # tokens before one that can change how it reads (bytes of one character, leading spaces)
EXAMPLE = """examples:
  calltune preview rows.jsonl --model smollm2-135m
  calltune preview rows.jsonl --model runs/mine --index 3 --json

Colours (without a terminal: marks as [name:get_weather]) show what carries loss; the rest does not. --json:
{"tokens": [{"id", "text", "loss", "span", "example"}]}, where `span` is the kind or null. A template that drops
earlier plans makes one example of each assistant turn."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "preview",
        description="Shows a row as text of the model's template, with the tokens that are trained. No weights "
        "are loaded.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="a file, a folder, a hub data set or builtin:assistant")
    parser.add_argument("--model", required=True, metavar="M", help="a model or a run (which brings its template)")
    parser.add_argument("--index", type=int, default=0, metavar="N", help="which row, from 0 (default: 0)")
    parser.add_argument("--template", metavar="FILE", help="a Jinja chat template of your own")
    parser.add_argument("--no-think", action="store_true", help="as with train --no-think")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.index < 0:
        raise InputError(f"--index is {args.index}", next_step="give 0 or more")
    row = _row(args.data, args.index)
    from calltune.prepare import check_calls
    from calltune.render import render

    check_calls([row])
    template, tokenizer = _template(args)
    examples = render(row, template, tokenizer)
    if args.json:
        tokens = [token | {"example": i} for i, e in enumerate(examples) for token in token_rows(e, tokenizer)]
        document = {"row": row.id, "template": template.origin, "format": template.format, "tokens": tokens}
        print(json.dumps(document, ensure_ascii=False))
        return 0
    if not examples:
        raise InputError(f"the row {row.id} has no assistant turn, so nothing of it is trained",
                         next_step="add the right answer as the last message")  # fmt: skip
    for number, example in enumerate(examples, 1):
        print(coloured(example, tokenizer) if in_colour(sys.stdout) else marked(example, tokenizer))
        what = f"example {number} of {len(examples)} of {row.id}" if len(examples) > 1 else str(row.id)
        count = f"{len(example)} tokens, {example.trained} trained"
        print(f"{what}: {count}; template {template.origin}", file=sys.stderr)
    if in_colour(sys.stdout):
        print(" ".join(f"\x1b[{code}m{kind}\x1b[0m" for kind, code in COLOURS.items()), file=sys.stderr)
    return 0


def _row(source: str, index: int) -> Any:
    from calltune.data.readers import read_conversations
    from calltune.data.sources import sources_of

    if source.startswith("builtin:"):
        from calltune.builtin import builtin_data

        rows: Any = builtin_data(source).train
    else:
        parts = sources_of(source)
        rows = read_conversations(source, part=next(iter(parts)), on_problem=_note)
    row = next(islice(rows, index, None), None)
    if row is None:
        raise InputError(f"{source} has no readable row {index} (the first is 0)",
                         next_step="`calltune check` lists the rows that cannot be read")  # fmt: skip
    return row


def _note(problem: Any) -> None:
    print(f"left out: {problem}", file=sys.stderr)


def _template(args: argparse.Namespace) -> tuple[Template, Tokenizer]:
    """The template that training would take, or that the run was trained with, and the tokenizer."""
    from calltune.caller import find_run
    from calltune.engine.load import model_folder
    from calltune.prepare import template_for
    from calltune.settings import TrainSettings
    from calltune.tokenizer import load_tokenizer

    run = find_run(args.model)
    tokenizer = load_tokenizer(model_folder(run.base if run else args.model))
    if run:
        return run.template, tokenizer
    settings = TrainSettings(model=args.model, template=args.template, think=not args.no_think)
    return template_for(settings, tokenizer), tokenizer


def token_rows(example: Example, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """A dictionary a token. Texts put together give the whole text: of a character that needs several tokens,
    the last one carries it."""
    kinds: dict[int, str] = {i: span.kind for span in example.spans for i in range(span.start, span.end)}
    rows, shown = [], 0
    for i, token in enumerate(example.ids):
        start = max(0, min(shown, i) - WINDOW)
        before = tokenizer.decode(example.ids[start:shown])
        now = tokenizer.decode(example.ids[start : i + 1])
        whole = not now.endswith("\ufffd") or i - shown >= 4 or i + 1 == len(example.ids)
        text = now[len(before) :] if whole else ""
        shown = i + 1 if whole else shown
        rows.append({"id": token, "text": text, "loss": i in kinds, "span": kinds.get(i)})
    return rows


def _runs(example: Example, tokenizer: Tokenizer) -> list[tuple[str | None, str]]:
    """Neighbouring tokens of one kind as one text."""
    runs: list[tuple[str | None, str]] = []
    for row in token_rows(example, tokenizer):
        if runs and runs[-1][0] == row["span"]:
            runs[-1] = (row["span"], runs[-1][1] + row["text"])
        else:
            runs.append((row["span"], row["text"]))
    return runs


def coloured(example: Example, tokenizer: Tokenizer) -> str:
    return "".join(
        f"\x1b[{COLOURS[kind]}m{printable(text)}\x1b[0m" if kind else f"\x1b[2m{printable(text)}\x1b[0m"
        for kind, text in _runs(example, tokenizer)
    )


def marked(example: Example, tokenizer: Tokenizer) -> str:
    """The same without colours: `[kind:text]` around what is trained."""
    texts: Sequence[tuple[str | None, str]] = _runs(example, tokenizer)
    return "".join(f"[{kind}:{printable(text)}]" if kind else printable(text) for kind, text in texts)
