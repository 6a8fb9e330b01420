"""transformers with PEFT on the rows of a bench: a plain training loop in PyTorch, as their examples have it.

The only module that names torch and peft; they are imported when this side of a bench is asked for, and no other
part of calltune needs them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from calltune.engine.measured import Measured, Update
from calltune.errors import InputError
from calltune.platform.shapes import shape_config
from calltune.render import Example

ATTENTION = ("eager", "sdpa", "flash_attention_2")


def can_run() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "peft", "transformers"))


def run_transformers(
    model: str, shape: str | None, vocabulary: int, dtype: str, examples: Sequence[Example], valid: Sequence[Example],
    settings: Any, *, updates: int, warm_up: int, every: int, attention: Sequence[str] = (),
) -> Measured:  # fmt: skip
    """`updates` updates with the fastest of the `attention` implementations, found in a short trial of each.

    Raises InputError where torch or peft is missing, or no implementation runs.
    """
    if not can_run():
        raise InputError("the side transformers needs torch and peft, which cannot be imported",
                         next_step="`pip install torch peft`, or leave it out of --against")  # fmt: skip
    trials: dict[str, float] = {}
    notes = []
    wanted = list(attention) or [a for a in ATTENTION if a != "flash_attention_2" or _has_flash()]
    for name in wanted:
        try:
            side = _Side(model, shape, vocabulary, dtype, settings, name)
            found = side.run(examples, [], warm_up + 2, 0)
            trials[name] = sum(u.seconds for u in found.updates[warm_up:]) / sum(
                u.tokens for u in found.updates[warm_up:]
            )
        except (ImportError, ValueError, RuntimeError) as error:  # not offered by this model or this machine
            notes.append(f"attention {name}: {str(error).splitlines()[0][:120]}")
        finally:
            side = None  # type: ignore[assignment]
            _free()
    if not trials:
        raise InputError(f"transformers runs with none of {', '.join(wanted)}: {'; '.join(notes)}")
    best = min(trials, key=lambda name: trials[name])
    notes += [f"attention {name}: {1 / cost:.0f} tokens/s in a trial" for name, cost in trials.items()]
    side = _Side(model, shape, vocabulary, dtype, settings, best)
    side.run(examples, [], warm_up, 0)
    side.reset()
    measured = side.run(examples, valid, updates, every)
    measured.notes = [*notes, f"attention {best} was taken"]
    return measured


def _has_flash() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class _Side:
    """One model with its adapter and optimizer."""

    def __init__(self, model: str, shape: str | None, vocabulary: int, dtype: str, settings: Any, attention: str):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModelForCausalLM

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.settings = settings
        kind = getattr(torch, dtype)
        torch.manual_seed(settings.seed)
        if shape:
            values = shape_config(shape, vocabulary)
            config = AutoConfig.for_model(**values)
            with torch.device(self.device):
                base = AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation=attention)
        else:
            base = AutoModelForCausalLM.from_pretrained(model, dtype=kind, attn_implementation=attention)
            base = base.to(self.device)
        base.config.use_cache = False
        if settings.grad_checkpoint:
            base.gradient_checkpointing_enable()
            base.enable_input_require_grads()
        layers = base.config.num_hidden_layers
        count = layers if settings.num_layers < 0 else settings.num_layers
        targets: Any = list(settings.keys) if settings.keys != ("all",) else "all-linear"
        alpha = settings.scale * settings.rank if settings.alpha is None else settings.alpha
        config = LoraConfig(
            r=settings.rank, lora_alpha=alpha, lora_dropout=settings.dropout, target_modules=targets,
            layers_to_transform=list(range(layers - count, layers)) if count < layers else None,
            task_type="CAUSAL_LM",
        )  # fmt: skip
        self.model = get_peft_model(base, config)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]
        self.reset()

    def reset(self) -> None:
        """The adapter as it was made, a new optimizer, and no peak yet."""
        import torch

        with torch.no_grad():
            for parameter, value in zip(self.trained, self.start, strict=True):
                parameter.copy_(value)
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        kind = torch.optim.Adam if self.settings.optimizer == "adam" else torch.optim.AdamW
        self.optimizer = kind(self.trained, lr=rate, weight_decay=decay)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def run(self, examples: Sequence[Example], valid: Sequence[Example], updates: int, every: int) -> Measured:
        import torch

        measured = Measured(device=self.device, trainable=sum(p.numel() for p in self.trained))
        size, rng = self.settings.batch_size, np.random.default_rng(self.settings.seed)
        self._note(measured, valid)
        order: list[int] = []
        self.model.train()
        for number in range(1, updates + 1):
            if len(order) < size:
                order = [int(i) for i in rng.permutation(len(examples))] or order
            chosen, order = [examples[i] for i in order[:size]], order[size:]
            started = time.perf_counter()
            ids, labels, seen = self._batch(chosen)
            loss = self.model(input_ids=ids, attention_mask=seen, labels=labels).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.device == "cuda":
                torch.cuda.synchronize()
            tokens = sum(len(e) for e in chosen)
            seconds = time.perf_counter() - started
            measured.updates.append(Update(seconds, len(chosen), tokens, tokens, ids.numel()))
            if number == updates or (every and number % every == 0):
                self._note(measured, valid)
        if self.device == "cuda":
            measured.peak_memory_gb = torch.cuda.max_memory_allocated() / 1e9
        return measured

    def _batch(self, chosen: Sequence[Example]) -> tuple[Any, Any, Any]:
        import torch

        width = -(-max(len(e) for e in chosen) // 8) * 8  # as transformers' collators pad for tensor cores
        ids, labels = np.zeros((len(chosen), width), np.int64), np.full((len(chosen), width), -100, np.int64)
        for row, example in enumerate(chosen):
            ids[row, : len(example)] = example.ids
            for span in example.spans:
                labels[row, span.start : span.end] = example.ids[span.start : span.end]
        seen = np.array([[column < len(e) for column in range(width)] for e in chosen], np.int64)
        found = [torch.from_numpy(array).to(self.device) for array in (ids, labels, seen)]
        return found[0], found[1], found[2]

    def _note(self, measured: Measured, valid: Sequence[Example]) -> None:
        import torch

        if not valid:
            return
        self.model.eval()
        total = count = 0.0
        order, size = sorted(valid, key=len), self.settings.batch_size
        with torch.no_grad():
            for k in range(0, len(order), size):
                ids, labels, seen = self._batch(order[k : k + size])
                found = self.model(input_ids=ids, attention_mask=seen, labels=labels).loss
                trained = int((labels[:, 1:] != -100).sum())
                total, count = total + float(found) * trained, count + trained
        self.model.train()
        done = len(measured.updates)
        measured.curve.append((done, sum(u.seconds for u in measured.updates), total / count))
