"""Whether a run can go on: what decided it, compared with what is asked now.

A difference in something that only decides where things are written or how often is none. Of the others, some can be
forced (`--force`), and the run then notes it; those that give the weights their meaning cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calltune.errors import InputError, Problem

# Where things lie, how often they are written, and how the machine is used: any may differ.
FREE = frozenset({"out", "overwrite", "resume", "force", "save_every", "keep_checkpoints", "steps_per_report",
                  "report_to"})  # fmt: skip
# What the rows and the base are made of: their hashes tell whether anything came of a difference.
HASHED = frozenset({
    "model", "data", "tools", "requests", "test", "valid", "split_by", "rows", "shuffle_tools", "max_seq_length",
    "template", "roles", "think", "merge_system", "think_instruction",
})  # fmt: skip
# What the saved arrays mean.
FIXED = frozenset({"fine_tune", "num_layers", "rank", "scale", "alpha", "keys", "optimizer"})
FIXED_HASHES = frozenset({"model", "tokenizer"})
ASPECTS = {"data": "the training rows", "valid": "the validation rows", "template": "the template",
           "tokenizer": "the tokenizer", "model": "the base model"}  # fmt: skip


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    """What differs, each with `found` (asked now) and `expected` (of the run); both are records with `settings` and
    `hashes`. Kinds are `fixed` where it cannot be forced, else `changed`."""
    old, new = before["settings"], now["settings"]
    made = []
    known = [name for name in ASPECTS if name in before["hashes"]]  # an older run kept fewer
    hashes = [name for name in known if before["hashes"][name] != now["hashes"].get(name)]
    for name in hashes:
        kind = "fixed" if name in FIXED_HASHES else "changed"
        was, other = before["hashes"].get(name), now["hashes"].get(name)
        made.append(Problem(kind, f"{ASPECTS[name]}: {other}", f"{was}", f"/{name}"))
    for name in (name for name in new if name in old):  # an older run had fewer settings
        was, other = old[name], new[name]
        if was == other or name in FREE or (name in HASHED and not hashes):
            continue
        made.append(Problem("fixed" if name in FIXED else "changed", f"{name}: {other}", f"{was}", f"/{name}"))
    return made


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], force: bool, folder: Any) -> list[Problem]:
    """The differences that are forced. Raises InputError with all that are not, or cannot be."""
    found = differences(before, now)
    fixed = [problem for problem in found if problem.kind == "fixed"]
    if fixed or (found and not force):
        step = ("train anew with --overwrite or in another folder" if fixed else
                "--force goes on all the same; --overwrite begins anew; --out takes another folder")  # fmt: skip
        raise InputError(f"the run in {folder} was begun with other settings or data", problems=fixed or found,
                         next_step=step)  # fmt: skip
    return found


def told(problems: Sequence[Problem]) -> list[str]:
    """Forced differences in words, for the run's record."""
    return [f"{problem.found} (before: {problem.expected})" for problem in problems]
