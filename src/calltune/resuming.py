"""Whether a run can go on: what decided it, compared with what is asked now.

A difference in something that only decides where things are written or how often is none. Of the others, some can be
forced (`--force`), and the run then notes it; those that give the weights their meaning cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calltune.errors import InputError, Problem
from calltune.prepare import row_hashes
from calltune.render import Example

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
FIXED_HASHES = frozenset({"model", "tokenizer", "origin"})
ASPECTS = {"data": "the training rows", "valid": "the validation rows", "template": "the template",
           "tokenizer": "the tokenizer", "model": "the base model",
           "origin": "the adapter to begin with"}  # fmt: skip


def differences(before: Mapping[str, Any], now: Mapping[str, Any], rows: Mapping[str, str]) -> list[Problem]:
    """What differs, each with `found` (asked now) and `expected` (of the run); both are records with `settings` and
    `hashes`. Kinds are `fixed` where it cannot be forced, else `changed`; `rows` says which rows of a part do."""
    old, new = before["settings"], now["settings"]
    made = []
    known = [name for name in ASPECTS if name in before["hashes"]]  # an older run kept fewer
    hashes = [name for name in known if before["hashes"][name] != now["hashes"].get(name)]
    for name in hashes:
        kind = "fixed" if name in FIXED_HASHES else "changed"
        was, other = before["hashes"].get(name), now["hashes"].get(name)
        which = f" ({rows[name]})" if name in rows else ""
        made.append(Problem(kind, f"{ASPECTS[name]}: {other}{which}", f"{was}", f"/{name}"))
    for name in (name for name in new if name in old):  # an older run had fewer settings
        was, other = old[name], new[name]
        if was == other or name in FREE or (name in HASHED and not hashes):
            continue
        made.append(Problem("fixed" if name in FIXED else "changed", f"{name}: {other}", f"{was}", f"/{name}"))
    return made


def row_changes(before: Mapping[str, str], now: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    """For each part of the data, in words, which of its rows are not those of before (the hashes of each, with
    spaces between)."""
    said = {}
    for name, examples in now.items():
        old, new = before.get(name, "").split(), row_hashes(examples)
        if not old or not new or old == new:
            continue
        known = set(old)
        fresh = [examples[i].id or f"number {i + 1}" for i, digest in enumerate(new) if digest not in known]
        gone = len(known - set(new))
        parts = [f"{len(fresh)} of {len(new)} were not there before, the first is {fresh[0]}"] if fresh else []
        parts += [f"{gone} of before are gone"] if gone else []
        said[name] = ", ".join(parts) or "the same rows in another order, or more often"
    return said


FORCE = "--force goes on all the same"
FURTHER = "--force with more --epochs or --iters trains a finished run further"
ELSE = "--overwrite begins anew; --out takes another folder"


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], force: bool, folder: Any, rows: Mapping[str, str],
    finished: bool = False,
) -> list[Problem]:  # fmt: skip
    """The differences that are forced. Raises InputError with all, where some are not forced or cannot be; of a
    `finished` run that is to be left as it is, none can."""
    found = differences(before, now, rows)
    fixed = any(problem.kind == "fixed" for problem in found)
    if fixed or (found and (finished or not force)):
        step = ("what is `fixed` can only be had anew, with --overwrite or in another folder" if fixed else
                f"{FURTHER if finished else FORCE}; {ELSE}")  # fmt: skip
        raise InputError(f"the run in {folder} was begun with other settings or data", problems=found, next_step=step)
    return found


def told(problems: Sequence[Problem]) -> list[str]:
    """Forced differences in words, for the run's record."""
    return [f"{problem.found} (before: {problem.expected})" for problem in problems]
