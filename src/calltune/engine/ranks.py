"""Several processes that train one model together, each on its share of every batch (`mlx.launch -n N -- calltune`).

Every rank reads all rows and makes the same batches, so that nothing but gradients and losses has to be exchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from calltune.batching import Batch, take_rows

# What mlx.launch sets (ring, nccl, jaccl), or MPI does.
LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


@cache
def _group() -> Any:
    return mx.distributed.init() if any(name in os.environ for name in LAUNCHED) else None


def rank() -> int:
    return int(_group().rank()) if _group() else 0


def size() -> int:
    return int(_group().size()) if _group() else 1


def owners(groups: Sequence[int]) -> list[int]:
    """The rank of each row of a batch: every `size`th row, so that all have short and long ones, but the rows of one
    conversation stay together."""
    order = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    return [order[group] % size() for group in groups]


def own_rows(indices: Sequence[int], groups: Sequence[int] | None) -> list[int]:
    """Those of a batch's indices that are this rank's."""
    owned = owners([groups[i] for i in indices] if groups else indices)
    return [index for index, owner in zip(indices, owned, strict=True) if owner == rank()]


def share(batch: Batch) -> Batch | None:
    """This rank's rows of a batch; None without any."""
    if size() == 1:
        return batch
    own = [row for row, owner in enumerate(owners(batch.groups or batch.indices)) if owner == rank()]
    return take_rows(batch, own) if own else None


def tell(value: int) -> int:
    """The first process's number, in all of them."""
    if size() == 1:
        return value
    return int(mx.distributed.all_sum(mx.array(value if rank() == 0 else 0, mx.int32), group=_group()).item())


def add_up(arrays: Any) -> Any:
    """The sum over all ranks of a tree of arrays: one message, in float32."""
    if size() == 1:
        return arrays
    names, values = zip(*tree_flatten(arrays), strict=True)
    flat = mx.concatenate([value.astype(mx.float32).reshape(-1) for value in values])
    total = mx.distributed.all_sum(flat, group=_group())
    parts = mx.split(total, np.cumsum([value.size for value in values])[:-1].tolist())
    whole = [part.reshape(value.shape).astype(value.dtype) for part, value in zip(parts, values, strict=True)]
    return tree_unflatten(list(zip(names, whole, strict=True)))


def spread(batch: Batch, own: mx.array | None) -> mx.array:
    """The losses (N,) of this rank's share at their places among those of the whole batch, zeros elsewhere (None: it
    has none), so that their sum over all ranks is the losses of the batch in its order."""
    if size() == 1:
        assert own is not None
        return own
    whole = mx.zeros(batch.trained, mx.float32)
    if own is None:
        return whole
    places = np.flatnonzero(np.array(owners(batch.groups or batch.indices))[batch.rows] == rank())
    return whole.at[mx.array(places)].add(own)
