# %% [markdown]
# # Function calling, step by step
#
# A well-known walk-through (April 2025) fine-tunes a Gemma model for function calling with mlx-lm alone, after the
# Hugging Face Agents course. This file goes through the same fifteen steps with calltune, on one engine that runs
# on a Mac, on an NVIDIA GPU and on a plain Linux CPU, and without a model hub: the model is `gemma-3-270m` from
# the package index, the rows are calltune's own in the walk-through's form.
#
# It runs as a script (`python examples/walkthrough.py`), or cell by cell in an editor that knows `# %%`.
# With a hub: MODEL = "mlx-community/gemma-2-2b-it-4bit", DATA = "Jofthomas/hermes-function-calling-thinking-V1".

# %%
import os
import time
from dataclasses import replace
from pathlib import Path

MODEL = os.environ.get("CALLTUNE_EXAMPLE_MODEL", "gemma-3-270m")  # a built-in name, a folder, or a hub name
DATA = os.environ.get("CALLTUNE_EXAMPLE_DATA", "")  # a file, a folder or a hub data set; empty: the built-in rows
ROWS = int(os.environ.get("CALLTUNE_EXAMPLE_ROWS", "80"))  # of the built-in data; the public set has 3,570
ITERS = int(os.environ.get("CALLTUNE_EXAMPLE_ITERS", "4"))  # the walk-through did 1; some hundred teach something
MAX_TOKENS = int(os.environ.get("CALLTUNE_EXAMPLE_MAX_TOKENS", "96"))  # of the answer; 1,000 there
QUESTIONS = int(os.environ.get("CALLTUNE_EXAMPLE_QUESTIONS", "4"))  # test rows that are answered and scored
OUT = Path(os.environ.get("CALLTUNE_EXAMPLE_OUT", "runs/walkthrough"))

# %% [markdown]
# ## 1. Load the model
# The engine comes first, since it brings the fast BLAS that has to be there before MLX is.

# %%
import calltune
from calltune.engine.load import load as load_model

base = load_model(MODEL)
print(f"1 load: {base.name}, computing in {base.dtype} ({base.note})")

# %% [markdown]
# ## 2. A chat template of your own
# The walk-through replaces the model's template by this one. It refuses system messages, and its roles are
# `human`, `model` and `tool`. `bos` is written here and nowhere else.

# %%
TEMPLATE = """\
{{ bos_token }}\
{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn><eos>\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
ROLES = {"user": "human", "assistant": "model", "tool": "tool"}  # our names = the template's
OUT.mkdir(parents=True, exist_ok=True)
template_file = OUT / "walkthrough.jinja"
template_file.write_text(TEMPLATE)
print(f"2 template: {template_file}")

# %% [markdown]
# ## 3. The data set
# One column `conversations` of `{role, content}`; `messages` is read as well, from memory, a file or the hub.

# %%
from calltune.builtin import assistant_hermes_rows

rows = calltune.read(DATA or assistant_hermes_rows(ROWS, seed=0))
print(f"3 data: {len(rows)} rows; the first one's turns: {[m.role for m in rows[0].messages]}")

# %% [markdown]
# ## 4. Preprocessing
# The system text goes in front of the first user message, with an instruction to plan before a call. There it is
# a function over the rows; here it is two settings, which the run remembers for inference.

# %%
from calltune.template import choose_template

THINK = (
    "Also, before making a call to a function take the time to plan the function to take. "
    "Make that thinking process between <think>{your thoughts}</think>"
)
template = choose_template(
    base.tokenizer,
    custom=TEMPLATE,
    origin="walkthrough.jinja",
    roles=ROLES,
    merge_system=True,
    think_instruction=THINK,
)
print(f"4 preprocessing: system text merged: {template.merge_system}; a reply ends with {template.stop!r}")

# %% [markdown]
# ## 5. Split
# Seeded. Of 3,570 rows, 0.1 gives 3,213 and 357.

# %%
from calltune.data.split import split_rows

parts = split_rows(rows, test=0.1, valid=0.0, seed=0)
print(f"5 split: {len(parts.train)} train rows, {len(parts.test)} test rows")

# %% [markdown]
# ## 6. Markup
# `<tools>`, `<tool_call>` and `<tool_response>` held Python literals; they were read as such, and JSON is written.

# %%
row = next(r for r in rows if any(m.calls for m in r.messages))
call_turn = next(m for m in row.messages if m.calls)
print(f"6 markup: tools {[t.name for t in row.tools]}")
print("  raw row ->", call_turn.thinking, [call.to_dict() for call in call_turn.calls])

# %% [markdown]
# ## 7, 8, 9. Adapter and training arguments
# The walk-through's own: LoRA on the last 8 layers, rank 16, scale 64, dropout 0.05, on q_proj and v_proj; Adam
# with 1e-5, batches of 4, a validation every 50 steps. On Gemma-2-2B that is 983,040 parameters. It trained for one
# iteration at that rate, which is not training yet: ITERS and the rate are ours.

# %%
walkthrough = calltune.TrainSettings(
    model=MODEL, out=str(OUT / "run"), overwrite=True,
    template=str(template_file), roles=ROLES, merge_system=True, think_instruction=THINK,
    test=0.0, valid=0.0,  # split above
    num_layers=8, rank=16, scale=64.0, dropout=0.05, keys=("q_proj", "v_proj"),
    optimizer="adam", learning_rate=1e-5, schedule="constant", warmup=0.0,
    iters=1, batch_size=4, steps_per_eval=50,
)  # fmt: skip
settings = replace(walkthrough, iters=ITERS, learning_rate=2e-4, steps_per_report=max(1, ITERS // 10))
print(f"7 LoRA: {settings.num_layers} layers, rank {settings.rank}, scale {settings.scale:g}, {settings.keys}")
print(f"9 arguments: {settings.iters} iterations, {settings.optimizer} {settings.learning_rate:g}")

# %% [markdown]
# ## 10. Metrics
# mlx-lm's callback protocol, unchanged: what you have written for mlx-lm works here. `metrics.jsonl` in the run
# holds the same and more.


# %%
class Metrics:
    def __init__(self) -> None:
        self.train_losses: list[tuple[int, float]] = []
        self.val_losses: list[tuple[int, float]] = []

    def on_train_loss_report(self, info: dict) -> None:
        self.train_losses.append((info["iteration"], info["train_loss"]))
        print(
            f"12 step {info['iteration']:>4}  loss {info['train_loss']:.3f}  lr {info['learning_rate']:.1e}  "
            f"{info['iterations_per_second']:.3f} it/s  {info['tokens_per_second']:.1f} tokens/s  "
            f"trained tokens {info['trained_tokens']}  peak memory {info['peak_memory']:.2f} GB"
        )

    def on_val_loss_report(self, info: dict) -> None:
        self.val_losses.append((info["iteration"], info["val_loss"]))
        print(
            f"12 step {info['iteration']:>4}  validation loss {info['val_loss']:.3f}, took {info['val_time']:.1f} s"
        )


metrics = Metrics()

# %% [markdown]
# ## 11. What is trained
# There: the whole text, schemas and tool results too. Here: every turn of the assistant and nothing else. The
# spans are counted before a second of training is spent.

# %%
from calltune.render import render

examples = render(row, template, base.tokenizer)
total, trained = sum(len(e) for e in examples), sum(e.trained for e in examples)
print(f"11 the row above: {total} tokens, {trained} of them trained")
for span in examples[0].spans[:8]:
    print(f"   {span.kind:<10} {base.tokenizer.decode(examples[0].ids[span.start : span.end])!r}")

# %% [markdown]
# ## 12. Train
# The number of trained parameters is said first (step 8), then the callback above prints as it goes.


# %%
class Say:
    """Prints what training says; the command line shows bars instead."""

    def say(self, text: str) -> None:
        print("8 " + text if "parameters" in text else "  " + text)

    def start(self, name: str, total: int) -> None: ...
    def advance(self, name: str, done: int = 1, **shown: object) -> None: ...
    def finish(self, name: str) -> None: ...


data = {"train": parts.train, "valid": parts.test}  # as there: the test rows validate
run = calltune.train(settings, data, callback=metrics, progress=Say(), loaded=base)

# %% [markdown]
# ## 13. Save and reload
# `adapters.safetensors` and `adapter_config.json` are plain mlx-lm files. The template, its roles and the reply
# format come back with the run.

# %%
caller = calltune.load(OUT / "run")
assert caller.template.source == TEMPLATE
print(f"13 reload: {sorted(p.name for p in (OUT / 'run').iterdir() if p.is_file())}")

# %% [markdown]
# ## 14. Generate
# Two tools, and a prompt that ends in `<start_of_turn>model`, newline, `<think>`.


# %%
def convert_currency(amount: float, from_currency: str, to_currency: str) -> float:
    """Convert from one currency to another.

    Args:
        amount: The amount to convert
        from_currency: The currency to convert from
        to_currency: The currency to convert to
    """
    raise NotImplementedError


def calculate_distance(start_location: str, end_location: str) -> float:
    """Calculate the distance between two locations.

    Args:
        start_location: The starting location
        end_location: The ending location
    """
    raise NotImplementedError


TOOLS = [convert_currency, calculate_distance]
QUESTION = "Hi, I need to convert 500 USD to Euros. Can you help me with that?"

from calltune.render import prompt_text
from calltune.schema import validate_call

tools = calltune.tools_from(TOOLS)
prompt = prompt_text([calltune.Message("user", QUESTION)], tools, caller.template, open_thinking=True)
assert prompt.endswith("<start_of_turn>model\n<think>")
started = time.perf_counter()
reply = caller(QUESTION, tools, max_tokens=MAX_TOKENS, open_thinking=True)
prompt_tokens, made = (len(base.tokenizer.encode(text)) for text in (prompt, reply.raw))
seconds = time.perf_counter() - started
print(f"14 generate: {prompt_tokens} prompt tokens, {made} generated, {seconds:.1f} s in all")
print(reply.raw)

# %% [markdown]
# ## 15. The result, read and checked
# A thought and a call: parsed into values (500 is a number), validated against the schema. A reply that cannot be
# read keeps its text and says why. After a handful of iterations a small base model seldom gets this far: raise
# `CALLTUNE_EXAMPLE_ITERS` and `CALLTUNE_EXAMPLE_ROWS`.

# %%
print(f"15 thought: {reply.thinking!r}")
for call in reply.calls:
    problems = validate_call(call, tools)
    print(f"15 call: {call.name} {dict(call.arguments)}: {'valid' if not problems else [str(p) for p in problems]}")
if not reply.calls:
    print(f"15 no call; content {reply.content!r}, errors {list(reply.errors)}")

# %% [markdown]
# The plot of step 10, and what the walk-through lacks: answers on rows that were not trained on, scored, before and
# after. All of it is one page, `report.html`.

# %%
report = calltune.evaluate(
    run, parts.test, baseline="base", out=OUT / "report", limit=QUESTIONS, max_tokens=MAX_TOKENS, batch_size=4
)
print("10 train losses", [(step, round(loss, 3)) for step, loss in metrics.train_losses])
print("10 validation losses", [(step, round(loss, 3)) for step, loss in metrics.val_losses])
before, after = report.before["exact_match"], report.after["exact_match"]
print(
    f"10 exact answers of {report.after['n']}: {before:.0%} before, {after:.0%} after; see {OUT}/report/report.html"
)
