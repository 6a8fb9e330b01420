"""Cross-entropy at the positions that carry loss, without ever holding all the logits.

The head and the softmax run a chunk of positions at a time, and the gradient of the hidden states is computed
in the same pass (as in Liger Kernel's fused linear cross-entropy, Hsu et al. 2024): logits of a large
vocabulary are the largest tensor of a training step by far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calltune.engine.cpu import detached, is_fast
from calltune.engine.threads import run_tasks

CHUNK_BYTES = 64 << 20  # of float32 logits at a time on a CPU, where they should stay near the processor
GPU_CHUNK_BYTES = 256 << 20  # on a GPU, where small products leave it idle

Head = Callable[[mx.array], mx.array]


def token_losses(
    hidden: mx.array, targets: mx.array, head: Head, *, chunked: bool = True, limit: int = 0
) -> mx.array:
    """Losses (N,) float32 of predicting `targets` (N,) from `hidden` (N, D); differentiable in `hidden`.

    `chunked` needs a head whose own weights are not trained; otherwise the plain way is right. `limit`: bytes of
    float32 logits at a time, 0 for what suits the device.
    """
    if not chunked:
        logits = head(hidden[None])[0].astype(mx.float32)
        return nn.losses.cross_entropy(logits, targets)
    return _chunked(head, targets, limit)(hidden)


def _chunked(head: Head, targets: mx.array, limit: int) -> Callable[[mx.array], mx.array]:
    # The gradients are a second output, so that the backward pass finds them in whatever graph it is built in.
    @mx.custom_function
    def losses(hidden: mx.array) -> tuple[mx.array, mx.array]:
        found, gradients = [], []
        if is_fast():
            hidden = detached(hidden)  # else the graph outside keeps every chunk's logits
        size = chunk_size(head, hidden, limit)
        for start in range(0, hidden.shape[0], size):
            loss, grad = _chunk(head, hidden[start : start + size], targets[start : start + size])
            if is_fast():  # elsewhere MLX runs the chunks one after the other as well, and may compile them
                mx.eval(loss, grad)
            found.append(loss)
            gradients.append(grad)
        return mx.concatenate(found), mx.concatenate(gradients)

    @losses.vjp
    def losses_vjp(primal: mx.array, cotangents: Sequence[mx.array], outputs: Sequence[mx.array]) -> mx.array:
        return outputs[1] * cotangents[0][:, None].astype(primal.dtype)

    def first(hidden: mx.array) -> mx.array:
        result: mx.array = losses(hidden)[0]
        return result

    return first


def chunk_size(head: Head, hidden: mx.array, limit: int = 0) -> int:
    """Positions whose logits fill the limit; the vocabulary's size is read off the head's (lazy) output."""
    vocabulary = head(hidden[None, :1]).shape[-1]
    limit = limit or (CHUNK_BYTES if mx.default_device() == mx.cpu else GPU_CHUNK_BYTES)
    return max(1, limit // (4 * vocabulary))


def _chunk(head: Head, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Losses (n,) and d loss_i / d hidden_i (n, D) of one chunk."""
    logits = head(hidden[None])[0]
    if is_fast() and logits.dtype == mx.float32:
        losses, grad = _softmax_numpy(logits, targets)
    else:
        wide = logits.astype(mx.float32)
        sums = mx.logsumexp(wide, axis=-1, keepdims=True)
        losses = (sums - mx.take_along_axis(wide, targets[:, None], axis=-1))[:, 0]
        picked = mx.arange(wide.shape[-1])[None] == targets[:, None]
        grad = (mx.exp(wide - sums) - picked).astype(logits.dtype)
    _, (d_hidden,) = mx.vjp(lambda h: head(h[None])[0], [hidden], [grad])
    return losses, d_hidden


def _softmax_numpy(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    mx.eval(logits, targets)
    source, target = np.array(logits, copy=False), np.array(targets)
    grad = np.empty(source.shape, np.float32)
    losses = np.empty(len(target), np.float32)

    def task(start: int, stop: int) -> None:
        rows, part = np.arange(stop - start), grad[start:stop]
        top = source[start:stop].max(axis=-1, keepdims=True)
        np.exp(np.subtract(source[start:stop], top, out=part), out=part)
        total = part.sum(axis=-1, keepdims=True)
        chosen = source[start:stop][rows, target[start:stop]]
        losses[start:stop] = (top + np.log(total))[:, 0] - chosen
        part /= total
        part[rows, target[start:stop]] -= 1.0

    run_tasks(task, [(i, min(i + 8, len(target))) for i in range(0, len(target), 8)])  # 8 rows stay in cache
    return mx.array(losses), mx.array(grad)
