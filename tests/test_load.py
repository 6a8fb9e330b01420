"""Models from folders, in the right precision; and what a user is told when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import ARCHS, tiny_model, tiny_tokenizer

from calltune.engine import load as module
from calltune.engine.load import choose_dtype, context_length, load, model_folder
from calltune.errors import InputError
from calltune.tokenizer import load_tokenizer

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx_lm  # isort: skip
import numpy as np  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm.utils import quantize_model, save_model  # isort: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_a_folder_gives_the_logits_that_mlx_lm_gives(tmp_path, arch):
    folder = tiny_model(tmp_path, arch, "gemma" if arch.startswith("gemma") else "chatml")
    loaded = load(str(folder), "float32")
    theirs, tokenizer = mlx_lm.load(str(folder))
    ids = loaded.tokenizer.encode("What is the weather in Paris?")
    assert ids == tokenizer.encode("What is the weather in Paris?", add_special_tokens=False)
    assert mx.allclose(loaded.model(mx.array([ids])), theirs(mx.array([ids])), rtol=1e-5, atol=1e-5).item()
    assert (loaded.folder, loaded.dtype, loaded.vocabulary) == (folder, "float32", 512)
    assert not tree_flatten(loaded.model.trainable_parameters()) and not loaded.model.training


def quantised(folder: Path, to: Path) -> Path:
    model, _ = mlx_lm.load(str(folder))
    model, config = quantize_model(model, json.loads((folder / "config.json").read_text()), 32, 4)
    save_model(to, model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (to / name).write_text((folder / name).read_text())
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_quantised_model_is_dequantised_unless_asked(tmp_path):
    folder = quantised(tiny_model(tmp_path / "a"), tmp_path / "b")
    ids = mx.array([[1, 7, 42]])
    kept, wide = load(str(folder), "quantized"), load(str(folder), "float32")
    assert (kept.dtype, wide.dtype) == ("quantized", "float32")
    assert any(name.endswith(".scales") for name, _ in tree_flatten(kept.model.parameters()))
    assert {str(p.dtype) for _, p in tree_flatten(wide.model.parameters())} == {"mlx.core.float32"}
    a, b = kept.model(ids).astype(mx.float32), wide.model(ids)
    assert float(mx.abs(a - b).max()) < 2e-2 * float(mx.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_precision_asked_for_is_the_precision_of_all_weights(tmp_path, dtype):
    model = load(str(tiny_model(tmp_path)), dtype).model
    assert {str(p.dtype) for _, p in tree_flatten(model.parameters())} == {f"mlx.core.{dtype}"}


def test_the_policy_of_precision(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.cpu)
    monkeypatch.setattr(module, "device_memory", lambda: 8e9)
    assert choose_dtype("auto", {}, 10**9)[0] == "float32"
    assert choose_dtype("auto", {"quantization": {}}, 10**9)[0] == "float32"  # 4 of 8 GB
    kept, why = choose_dtype("auto", {"quantization": {}}, 2 * 10**9)
    assert kept == "quantized" and "8.0 of 8.0 GB" in why
    assert choose_dtype("bfloat16", {"quantization": {}}, 10**12) == ("bfloat16", "as asked")
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert choose_dtype("auto", {}, 10**9)[0] == "bfloat16"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no model*.safetensors"),
    ],
)
def test_a_folder_that_lacks_a_file(tmp_path, missing, words):
    folder = tiny_model(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(InputError) as caught:
        load(str(folder))
    assert words in str(caught.value) and str(folder) in str(caught.value) and caught.value.next_step


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
        ("model.safetensors", b""),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no_such_architecture"}'),
        ("config.json", b'{"model_type": "llama"}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"not json"),
        ("generation_config.json", b"{"),
    ],
)
def test_files_that_are_broken_are_input_errors(tmp_path, name, content):
    folder = tiny_model(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(InputError):
        load(str(folder))


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "/no/such/folder", "smollm2"])
def test_a_name_that_is_nothing(name):
    with pytest.raises(InputError) as caught:
        model_folder(name)
    assert "smollm2-135m" in str(caught.value)


def test_a_gguf_that_is_not_there():
    with pytest.raises(InputError, match=r"no file .*x\.gguf"):
        model_folder("/no/such/x.gguf")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    import huggingface_hub

    calls = []

    def refuse(name, **options):
        calls.append(options.get("local_files_only", False))
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError) as caught:
        model_folder("org/model")
    assert "no route to the hub" in str(caught.value) and calls == [False, True]  # the cache is tried last


def test_a_hub_name_that_is_cached_works_without_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    def cached_only(name, local_files_only=False, **_):
        if not local_files_only:
            raise ConnectionError("offline")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached_only)
    assert model_folder("org/model") == tmp_path


# ---- the tokenizer ----------------------------------------------------------------------------------------------


def test_stop_ids_come_from_every_file(tmp_path):
    folder = tiny_model(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    assert load_tokenizer(folder).stop_ids == {0, 2}


def test_trap_t02_nothing_is_added_to_a_text(tmp_path):
    """A tokenizer that puts BOS in front by itself must not do so here."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(tmp_path, "gemma")
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.inner.encode("hi")[0] == bos  # it would
    assert bos not in loaded.encode("hi")
    assert loaded.encode("<bos>hi").count(bos) == 1
    assert bos not in loaded.encode_with_offsets("hi")[0]


@pytest.mark.parametrize("style", ["chatml", "gemma"])
@pytest.mark.parametrize(
    "text", ["", " a  b\n\n\tc ", "naïve 東京 👩‍👩‍👧", "<|im_end|> <eos>", "\u0000\u200d\ufeff", "don't  can 't"]
)
def test_every_text_comes_back_with_its_offsets(tmp_path, style, text):
    tiny_tokenizer(tmp_path, style)
    loaded = load_tokenizer(tmp_path)
    ids, offsets = loaded.encode_with_offsets(text)
    assert loaded.decode(ids) == text and ids == loaded.encode(text)
    assert all(0 <= a <= b <= len(text) for a, b in offsets)


def test_plain_text_leaves_special_tokens_out(tmp_path):
    tiny_tokenizer(tmp_path)
    loaded = load_tokenizer(tmp_path)
    ids = loaded.encode("Hi<|im_end|>")
    assert (
        loaded.decode(ids, keep_special=False) == "Hi"
        and loaded.has_token("<|im_end|>")
        and not loaded.has_token("Hi!")
    )


def test_of_several_templates_the_one_for_tools(tmp_path):
    tiny_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert load_tokenizer(tmp_path).template == "with tools"


@pytest.mark.torch
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma2"])
def test_logits_equal_those_of_transformers_on_pytorch(tmp_path, arch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tiny_model(tmp_path, arch, "gemma" if arch.startswith("gemma") else "chatml")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    loaded = load(str(folder), "float32")
    ids = loaded.tokenizer.encode("What is the weather in Paris, and is it cold in London now? " * 2)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(np.array(loaded.model(mx.array([ids]))[0]), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({}, None),
        ({"max_position_embeddings": 32768, "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),  # Qwen's
        ({"max_position_embeddings": 163840, "rope_scaling": {
            "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}, 163840),  # DeepSeek's
        ({"max_position_embeddings": 131072, "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}}, 131072),
    ],
)  # fmt: skip
def test_the_length_that_a_model_was_made_for(tmp_path, config, tokens):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == tokens
