"""Rows in tokens of the model that a flag names, for the commands that check and prepare data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calltune.lengths import Lengths


def lengths_for(model: str, limit: int) -> Lengths:
    """What measures rows in tokens of a model or run; no weights are loaded. Raises InputError."""
    from calltune.caller import find_run
    from calltune.engine.load import model_folder
    from calltune.lengths import Lengths
    from calltune.prepare import template_for
    from calltune.settings import TrainSettings
    from calltune.tokenizer import load_tokenizer

    run = find_run(model)
    tokenizer = load_tokenizer(model_folder(run.base if run else model))
    template = run.template if run else template_for(TrainSettings(model=model), tokenizer)
    return Lengths(template, tokenizer, limit)
