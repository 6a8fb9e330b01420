"""The two built-in models against the record of llama.cpp: token ids, and how greedy answers begin.

tests/data/tokenizer_golden.json is our own record of llama.cpp (xllamacpp 2026.10) on the same files.
"""

import json
from pathlib import Path

import pytest

import calltune.engine  # noqa: F401  (its BLAS must be loaded before MLX is)
from calltune.engine.gguf_file import read_gguf
from calltune.engine.gguf_model import convert_gguf
from calltune.engine.gguf_tokenizer import build_tokenizer, read_vocabulary
from calltune.platform.builtin import fetch_builtin

pytestmark = pytest.mark.slow
GOLDEN = json.loads((Path(__file__).parent / "data/tokenizer_golden.json").read_text(encoding="utf-8"))
# llama.cpp rounds activations to 8 bits: logits move by about so much, and a smaller lead may turn over.
# (On weights stored as float32 it does not, and says " The answer" and "Nova Haven" for SmolLM2, as we do.)
TIE = 0.3
TOKENS_ALIKE = {"smollm2-135m": (5, 4, 24), "gemma-3-270m": (15, 4, 24)}


@pytest.fixture(scope="module", params=GOLDEN)
def model(request, tmp_path_factory):
    """Name, folder and tokenizer of a built-in model, converted once."""
    source = fetch_builtin(request.param)
    folder = tmp_path_factory.mktemp("builtin") / request.param
    convert_gguf(source, folder)
    return request.param, folder, build_tokenizer(read_vocabulary(read_gguf(source)))


def test_ids_and_text_of_the_golden_record(model):
    name, _, tokenizer = model
    assert len(GOLDEN[name]["tokenize"]) == 23
    for case in GOLDEN[name]["tokenize"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False).ids == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"]


def test_greedy_answers_begin_as_in_llama_cpp(model):
    import mlx.core as mx
    import mlx_lm

    name, folder, tokenizer = model
    network, loaded = mlx_lm.load(str(folder))
    for case, alike in zip(GOLDEN[name]["greedy"], TOKENS_ALIKE[name], strict=True):
        prompt, wanted = loaded.encode(case["prompt"]), tokenizer.encode(case["greedy"], add_special_tokens=False).ids
        logits = network(mx.array([prompt + wanted]))[0, len(prompt) - 1 : -1]
        ours = mx.argmax(logits, axis=-1).tolist()
        same = next((i for i, pair in enumerate(zip(ours, wanted, strict=True)) if len(set(pair)) > 1), len(wanted))
        assert same >= alike, (case["prompt"], loaded.decode(ours))
        if same < len(wanted):
            lead = (logits[same, ours[same]] - logits[same, wanted[same]]).item()
            assert lead < TIE, (case["prompt"], same, lead)
