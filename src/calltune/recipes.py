"""Settings that suit a kind of work, under those that the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What teaches functions of one's own, from rows made for them, in one pass (docs/log.md says what else was tried).
TOOLS_RECIPE: Mapping[str, Any] = {
    "rows": 1600, "results": 0.15, "epochs": 1.0, "batch_size": 16, "num_layers": 16, "keys": ("all",), "warmup": 0.1,
    "optimizer": "muon", "learning_rate": 2e-3, "scale": 4.0, "practice": True,
}  # fmt: skip
# These belong together: where one of them is given, the others keep their plain defaults.
TOGETHER = frozenset({"optimizer", "learning_rate", "scale", "alpha", "fine_tune"})

# Who asks for a number of rows or updates, mostly a small one, gets no longer training beside it.
SHORTER = frozenset({"rows", "iters"})


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of `train`, over those that suit `tools` where they are what is trained on."""
    if not given.get("tools") or given.get("data"):
        return dict(given)
    held = TOGETHER if TOGETHER & given.keys() else frozenset()
    if SHORTER & given.keys() or given.get("fine_tune") == "full":  # whole layers would fill the cache
        held |= {"practice"}
    return {key: value for key, value in TOOLS_RECIPE.items() if key not in held} | dict(given)
