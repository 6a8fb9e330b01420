"""The table of layers: imports point down only, siblings make no cycle, MLX stays in the engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "calltune"

# From the bottom up, as in CONTRIBUTING.md. A module imports its own layer and those before it; a name stands for
# a module or a whole folder. A new module must be given its place here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("_version", "errors"),
    ("schema", "patterns", "judging", "boundable", "references", "progress", "jinja_env"),
    (
        "settings",
        "recipes",
        "platform",
        "functions",
        "metrics",
        "records",
    ),  # values and the machine: no MLX, no tokenizer
    ("formats", "score", "score_bfcl", "compare", "acceptable"),  # text <-> calls, verdicts
    ("data", "builtin"),  # rows
    (
        "tokenizer",
        "template",
        "guarding",
        "render",
        "rendered",
        "batching",
        "memory",
        "conversations",
        "grammar",
        "grammar_values",
        "grammar_held",
        "grammar_json",
        "frames",
        "guide",
        "copying",
        "grounded",
    ),  # tokens and rows
    ("engine",),  # everything that touches MLX
    ("lengths", "prepare", "runs", "fit", "checkpoints", "resuming", "practice"),
    (
        "train",
        "caller",
        "generate",
        "tasks",
        "selecting",
        "quarantine",
        "starting",
        "schedule",
        "window",
        "loop",
    ),  # run the model
    ("report", "report_breakdown", "report_charts", "report_data", "report_page", "report_rows", "report_text"),
    (
        "evaluate",
        "watching",
        "answers",
        "cases",
        "gate",
        "report_facts",
        "comparison",
        "preview",
        "serve",
        "consent",
        "offered",
        "trace",
        "agent",
        "export",
        "bench",
    ),
    ("demo", "api"),
    ("cli", "__main__", "__init__"),  # doors
)
PLACE = {name: level for level, names in enumerate(LAYERS) for name in names}
MLX = {"mlx", "mlx_lm"}
HEAVY = {"transformers", "tokenizers", "torch", "datasets", "huggingface_hub", "gguf", "lief", *MLX}
FILES = sorted(ROOT.rglob("*.py"))


def room(file: Path) -> str:
    """The module or folder of the table that a file belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def name_of(file: Path) -> str:
    parts = ("calltune", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, *, top_only: bool = False) -> list[tuple[int, str]]:
    """(line, full name) of everything imported; `top_only`: when the module is imported, not later."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    if top_only:
        inner = {id(n) for f in nodes if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
        nodes = [n for n in nodes if id(n) not in inner]
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno} is a relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def target(name: str) -> str | None:
    """The room of this package that an imported name lies in; None for other packages."""
    parts = name.split(".")
    if parts[0] != "calltune":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in PLACE else "__init__" if len(parts) < 3 else parts[1]


def test_every_module_has_its_place():
    assert {room(f) for f in FILES} <= set(PLACE)


def test_imports_point_down():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in FILES
        for line, name in imports(file)
        if (to := target(name)) is not None and PLACE.get(to, 99) > PLACE[room(file)]
    ]
    assert wrong == []


def test_no_cycles():
    modules = {name_of(f): f for f in FILES}

    def module(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    graph = {name: {m for _, n in imports(f) if (m := module(n)) and m != name} for name, f in modules.items()}
    # A package's __init__ is run before its modules; that alone is no cycle.
    for name in graph:
        graph[name] -= {name.rpartition(".")[0]}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " > ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_mlx_is_imported_in_the_engine_only():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in FILES
        if room(file) != "engine"
        for line, name in imports(file)
        if name.split(".")[0] in MLX
    ]
    assert wrong == []


def test_the_engine_loads_the_blas_before_mlx():
    lines = imports(ROOT / "engine" / "__init__.py")
    assert not any(name.split(".")[0] in MLX for _, name in lines)
    text = (ROOT / "engine" / "__init__.py").read_text()
    assert "load_blas()" in text


def test_heavy_packages_are_imported_where_they_are_used():
    """Outside the engine at the top of no module, so that commands which need none of them start at once; the
    tokenizer's library in tokenizer.py only."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in FILES
        if room(file) != "engine"
        for line, name in imports(file, top_only=True)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []
    users = {room(f) for f in FILES for _, name in imports(f) if name.split(".")[0] == "transformers"}
    assert users <= {"tokenizer", "engine"}
    # PyTorch is one side of `calltune bench train`, asked for by name, in a process of its own.
    torch = {f.name for f in FILES for _, name in imports(f) if name.split(".")[0] in ("torch", "peft")}
    assert torch == {"peer_transformers.py"}


@pytest.mark.parametrize(
    "module",
    [
        "calltune",
        "calltune.schema",
        "calltune.cli",
        "calltune.score",
        "calltune.formats",
        "calltune.data.check",
        "calltune.settings",
    ],
)
def test_light_modules_bring_nothing_heavy(module):
    code = f"import {module}, sys; print(*sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
