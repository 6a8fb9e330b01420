"""`calltune.train` with plain keywords, as notebooks call it; the other public functions need no such door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calltune.engine.load import LoadedModel
from calltune.errors import InputError
from calltune.loop import Callback
from calltune.progress import Progress
from calltune.recipes import with_recipe
from calltune.runs import Run
from calltune.settings import TrainSettings, resolve
from calltune.settings import to_dict as settings_dict
from calltune.train import train as train_settings


def train(
    settings: TrainSettings | None = None,
    data: Any = None,
    *,
    callback: Callback | None = None,
    progress: Progress | None = None,
    loaded: LoadedModel | None = None,
    **changes: Any,
) -> Run:
    """Train an adapter and return its run.

    `data`: a file, folder, hub data set or `builtin:assistant`, as `--data`; or rows, conversations, what
    `calltune.synthesise` made, a `datasets` object. The keywords are those of `TrainSettings` (`model`, `tools`,
    `out`, `epochs`, `learning_rate`, ...), on top of `settings` if that is given. `callback` is mlx-lm's
    `TrainingCallback`; `loaded` a base model in memory, which is changed. Raises InputError for wrong settings or
    data before anything is trained.
    """
    given = {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}
    if isinstance(data, (str, Path)):
        given, data = given | {"data": str(data)}, None
    base = settings_dict(settings) if settings else {}
    changed = base | given if settings else with_recipe(given)
    resolved = resolve(TrainSettings, changed, "calltune.train(...)")
    if not resolved.model and loaded is None:
        raise InputError("no model was named", next_step='add model="smollm2-135m" for the built-in one')
    return train_settings(resolved, data, callback=callback, progress=progress, loaded=loaded)
