"""Rendered examples kept by content, so that a second run on the same rows starts in seconds.

The key is a hash of every row, the template, the tokenizer and this version of calltune: whatever changes what is
rendered gives another key. A file that cannot be read is made anew.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from calltune._version import __version__
from calltune.errors import CalltuneError
from calltune.platform.paths import atomic_file, cache_dir
from calltune.render import Example, Span, render_all
from calltune.schema import Conversation
from calltune.template import Template
from calltune.tokenizer import Tokenizer

FEWEST = 1000  # rows; fewer are rendered in a second or two
FORM = 2  # of what is rendered; a change of render.py that gives other ids raises it
MOST_FILES = 8  # of the cache; the oldest go
KINDS = ("think", "name", "arguments", "syntax", "answer")


def render_kept(rows: Sequence[Conversation], template: Template, tokenizer: Tokenizer) -> list[Example]:
    """`render_all`, from the cache where the same rows were rendered before. Never fails for the cache's sake."""
    if len(rows) < FEWEST:
        return render_all(rows, template, tokenizer)
    path = cache_dir() / "rendered" / f"{_key(rows, template, tokenizer)}.npz"
    try:
        return list(load_examples(path))
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        examples = render_all(rows, template, tokenizer)
    try:
        save_examples(path, examples)
        for old in sorted(path.parent.glob("*.npz"), key=lambda p: p.stat().st_mtime)[:-MOST_FILES]:
            old.unlink()
    except (OSError, CalltuneError):
        pass  # a cache that cannot be written saves no time, and is no reason to stop
    return examples


def _key(rows: Sequence[Conversation], template: Template, tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"{__version__}/{FORM}/{template.hash}/".encode())
    digest.update(tokenizer.inner.backend_tokenizer.to_str().encode())
    tools: dict[int, bytes] = {}  # rows share them
    for row in rows:
        for tool in row.tools:
            if id(tool) not in tools:
                tools[id(tool)] = hashlib.sha256(json.dumps(tool.to_openai()).encode()).digest()
            digest.update(tools[id(tool)])
        said = [
            [m.role, m.content, m.thinking, m.name, m.call_id, *([c.name, c.arguments, c.id, c.raw] for c in m.calls)]
            for m in row.messages
        ]
        digest.update(json.dumps([row.id, said, None if said else row.meta.get("text")], default=dict).encode())
    return digest.hexdigest()[:32]


def save_examples(path: Path, examples: Sequence[Example]) -> None:
    """One file of arrays, whole or not at all."""
    spans = [(s.start, s.end, KINDS.index(s.kind)) for e in examples for s in e.spans]
    arrays = {
        "ids": np.array([i for e in examples for i in e.ids], np.int32),
        "lengths": np.array([len(e.ids) for e in examples], np.int64),
        "spans": np.array(spans, np.int32).reshape(-1, 3),
        "counts": np.array([len(e.spans) for e in examples], np.int64),
        "names": np.frombuffer(json.dumps([e.id for e in examples]).encode(), np.uint8),
    }
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_examples(path: Path) -> Iterator[Example]:
    """What `save_examples` wrote. Raises ValueError, KeyError or OSError where it is broken."""
    with np.load(path, allow_pickle=False) as found:
        ids, spans = found["ids"].tolist(), found["spans"].tolist()
        lengths, counts = found["lengths"].tolist(), found["counts"].tolist()
        names = json.loads(found["names"].tobytes())
    if sum(lengths) != len(ids) or sum(counts) != len(spans) or len(names) != len(lengths):
        raise ValueError("a broken file of rendered rows")
    token = span = 0
    for name, length, count in zip(names, lengths, counts, strict=True):
        own = tuple(Span(start, end, KINDS[kind]) for start, end, kind in spans[span : span + count])
        yield Example(tuple(ids[token : token + length]), own, name)
        token, span = token + length, span + count
