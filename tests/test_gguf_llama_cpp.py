"""The same tiny GGUF files in llama.cpp itself (package xllamacpp) and, converted, in mlx-lm."""

import json
import random
import unicodedata
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from gguf_tiny import write_tiny

import calltune.engine  # noqa: F401  (its BLAS must be loaded before MLX is)
from calltune.engine.gguf_file import read_gguf
from calltune.engine.gguf_model import convert_gguf
from calltune.engine.gguf_tokenizer import PRE_TOKENIZERS, build_tokenizer, read_vocabulary

pytestmark = pytest.mark.slow
PIECES = [
    "a",
    "e",
    "S",
    "'s",
    "'S",
    "'ll",
    "l",
    "1",
    "12",
    "1234",
    "٣",
    "²",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    ".",
    "..",
    "$",
    "+",
    "<",
    "-",
    "é",
    "É",
    "東",
    "हि",
    "😀",
    "\u00a0",
    "<tool>",
    "<|im_end|>",
    "<b>",
    "bab",
    "c",
]


class LlamaCpp:
    """llama.cpp's server on one file: ids of texts, and log-probabilities of the next token."""

    def __init__(self, path: Path) -> None:
        xllamacpp = pytest.importorskip("xllamacpp")
        options = xllamacpp.CommonParams()
        options.model.path, options.port, options.verbosity = str(path), 0, -1
        options.n_ctx, options.n_parallel, options.n_gpu_layers, options.warmup = 128, 1, 0, False
        options.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(options)

    def post(self, place: str, body: dict) -> dict:
        request = urllib.request.Request(
            f"{self.server.listening_address}/{place}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(self, text: str) -> list[int]:
        return self.post("tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def next_logprobs(self, ids: list[int], vocab: int) -> np.ndarray:
        # Probabilities come with tokens that are text, so one that is gets forced; they are those before that.
        body = {
            "prompt": ids,
            "logit_bias": [[265, 1000.0]],
            "n_predict": 1,
            "n_probs": vocab,
            "temperature": 1.0,
            "samplers": [],
            "cache_prompt": False,
            "post_sampling_probs": False,
        }
        answer = self.post("completion", body)["completion_probabilities"][0]
        out = np.full(vocab, np.nan)
        for entry in answer["top_logprobs"]:
            out[entry["id"]] = entry["logprob"]
        return out


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randint(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
def test_next_token_probabilities(arch, tmp_path):
    import mlx.core as mx
    import mlx_lm

    write_tiny(tmp_path / "m.gguf", arch)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    model, _ = mlx_lm.load(str(tmp_path / "m"))
    ids = [5, 66, 264, 7, 7, 280, 31, 40, 41, 2, 100, 99]
    logits = np.array(model(mx.array([ids]))[0, -1])
    ours = logits - np.log(np.exp(logits).sum())
    theirs = LlamaCpp(tmp_path / "m.gguf").next_logprobs(ids, len(logits))
    known = ~np.isnan(theirs)
    assert known.sum() >= len(logits) - 1
    np.testing.assert_allclose(ours[known], theirs[known], atol=2e-2)  # its cache is half precision


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_ids_under_every_pre_tokenizer(pre, tmp_path):
    write_tiny(tmp_path / "m.gguf", "llama", pre=pre)
    built = build_tokenizer(read_vocabulary(read_gguf(tmp_path / "m.gguf")))
    theirs = LlamaCpp(tmp_path / "m.gguf")
    for text in texts(400, seed=1):
        text = unicodedata.normalize("NFC", text)  # which Qwen does and llama.cpp does not
        if pre == "tekken":  # llama.cpp's form of its regex takes no mark for a letter; the model's own does
            text = "".join(c for c in text if unicodedata.category(c)[0] != "M")
        assert built.encode(text, add_special_tokens=False).ids == theirs.tokenize(text), repr(text)


def test_ids_of_a_scored_vocabulary(tmp_path):
    for metadata in ({}, {"tokenizer.ggml.add_space_prefix": True}):
        write_tiny(tmp_path / "m.gguf", "gemma3", metadata=metadata)
        built = build_tokenizer(read_vocabulary(read_gguf(tmp_path / "m.gguf")))
        theirs = LlamaCpp(tmp_path / "m.gguf")
        for text in texts(1000, seed=2):
            assert built.encode(text, add_special_tokens=False).ids == theirs.tokenize(text), repr(text)
