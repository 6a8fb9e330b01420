"""GGUF -> model folder: the same numbers in mlx-lm as straight arithmetic on the GGUF's own tensors."""

import json
from pathlib import Path

import gguf_reference as reference
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, dequantize
from gguf_tiny import CHATML, FEED, HEADS, HIDDEN, KV_HEADS, WINDOW, write_tiny

import calltune.engine  # noqa: F401  (its BLAS must be loaded before MLX is)
from calltune.engine import gguf_model
from calltune.engine.gguf_model import convert_gguf
from calltune.engine.gguf_weights import _encode, unpermute
from calltune.errors import InputError

IDS = [5, 66, 264, 7, 7, 280, 31, 40, 41, 2, 100]
SHAPE = {"heads": HEADS, "kv_heads": KV_HEADS, "window": WINDOW}


def mlx_logits(folder: Path, ids: list[int]) -> np.ndarray:
    import mlx.core as mx
    import mlx_lm

    model, _ = mlx_lm.load(str(folder))
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


def stored(folder: Path) -> dict[str, np.ndarray]:
    import mlx.core as mx

    arrays: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        arrays |= {name: np.array(value.astype(mx.float32)) for name, value in mx.load(str(file)).items()}
    return arrays


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
def test_logits_are_those_of_the_gguf(arch, tied, tmp_path):
    tensors = write_tiny(tmp_path / "m.gguf", arch, tied=tied)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    expected = reference.logits(arch, tensors, IDS, **SHAPE)
    np.testing.assert_allclose(mlx_logits(tmp_path / "m", IDS), expected, atol=2e-4, rtol=1e-4)
    assert json.loads((tmp_path / "m/config.json").read_text())["tie_word_embeddings"] is tied


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_linear_rope_scaling(arch, tmp_path):
    metadata = {f"{arch}.rope.scaling.type": "linear", f"{arch}.rope.scaling.factor": 4.0}
    tensors = write_tiny(tmp_path / "m.gguf", arch, metadata=metadata)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    expected = reference.logits(arch, tensors, IDS, linear=4.0, **SHAPE)
    np.testing.assert_allclose(mlx_logits(tmp_path / "m", IDS), expected, atol=2e-4, rtol=1e-4)


def llama3_factors(dims: int, base: float, factor: float) -> np.ndarray:
    """rope_freqs as convert_hf_to_gguf.py makes them for Llama 3.1 (8192, low 1, high 4)."""
    out = []
    for i in range(0, dims, 2):
        length = 2 * np.pi * base ** (i / dims)
        if length < 8192 / 4:
            out.append(1.0)
        elif length > 8192:
            out.append(factor)
        else:
            smooth = (8192 / length - 1) / 3
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def test_llama3_rope_scaling_is_recognised_in_its_table(tmp_path):
    factors = llama3_factors(16, 50_000.0, 32.0)
    assert len(set(factors.tolist())) > 1
    tensors = write_tiny(tmp_path / "m.gguf", "llama", extra={"rope_freqs.weight": factors})
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    scaling = json.loads((tmp_path / "m/config.json").read_text())["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == ("llama3", 32.0)
    ids = (IDS * 6)[:60]  # far enough for the slowed frequencies to show
    expected = reference.logits("llama", tensors, ids, factors=factors, **SHAPE)
    np.testing.assert_allclose(mlx_logits(tmp_path / "m", ids), expected, atol=2e-4, rtol=1e-4)


def test_another_table_of_frequencies_is_refused(tmp_path):
    write_tiny(tmp_path / "m.gguf", "llama", extra={"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)})
    with pytest.raises(InputError, match="rope_freqs"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "m")


def test_unpermute_undoes_the_converter():
    rows = np.arange(3 * 8 * 5, dtype=np.float32).reshape(24, 5)
    permuted = rows.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)  # convert_hf_to_gguf.py, permute()
    assert not np.array_equal(permuted, rows)
    np.testing.assert_array_equal(unpermute(permuted, 3), rows)


def test_gemma_norms_lose_the_one_that_gguf_adds(tmp_path):
    tensors = write_tiny(tmp_path / "m.gguf", "gemma3")
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    arrays = stored(tmp_path / "m")
    norms = {name for name in arrays if "norm" in name}
    assert len(norms) == 7 * 6 + 1
    np.testing.assert_allclose(arrays["model.norm.weight"] + 1, tensors["output_norm.weight"], atol=1e-7)
    np.testing.assert_allclose(
        arrays["model.layers.3.self_attn.q_norm.weight"] + 1, tensors["blk.3.attn_q_norm.weight"], atol=1e-7
    )


QUANTS = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.BF16, Kind.F16]


def test_quantised_weights_are_stored_as_the_gguf_package_undoes_them(tmp_path, monkeypatch):
    monkeypatch.setattr("calltune.engine.gguf_weights.BLOCK", 7 * HIDDEN)  # written in many blocks
    names = [f"blk.{i}.ffn_{part}.weight" for i in (0, 1) for part in ("gate", "up", "down")]
    types = dict(zip([*names, "token_embd.weight"], QUANTS, strict=True))
    write_tiny(tmp_path / "m.gguf", "llama", types=types)
    read = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(tmp_path / "m.gguf").tensors}
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    arrays = stored(tmp_path / "m")
    np.testing.assert_array_equal(arrays["model.embed_tokens.weight"], read["token_embd.weight"])
    for i in (0, 1):
        for part in ("gate", "up", "down"):
            np.testing.assert_array_equal(
                arrays[f"model.layers.{i}.mlp.{part}_proj.weight"], read[f"blk.{i}.ffn_{part}.weight"]
            )


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_stored_dtype(dtype, error, tmp_path):
    import mlx.core as mx

    tensors = write_tiny(tmp_path / "m.gguf", "qwen2")
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m", dtype=dtype)
    loaded = mx.load(str(tmp_path / "m/model.safetensors"))
    assert {str(value.dtype) for value in loaded.values()} == {f"mlx.core.{dtype}"}
    wanted, got = tensors["token_embd.weight"], stored(tmp_path / "m")["model.embed_tokens.weight"]
    normal = np.abs(wanted) > 1e-4  # float16 has fewer bits below 6e-5
    assert (np.abs(got - wanted) <= error * np.abs(wanted))[normal].all()
    exact = mx.array(wanted).astype(getattr(mx, dtype)).astype(mx.float32)  # rounding as MLX rounds
    np.testing.assert_array_equal(got, np.array(exact))


def test_bfloat16_rounds_ties_to_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8], np.float32)
    bits = np.frombuffer(_encode(values, "bfloat16"), np.uint16).astype(np.uint32) << 16
    assert bits.view(np.float32).tolist() == [1, 1 + 2**-6, 1 + 2**-7, -1]


def test_auto_dtype_saves_memory_only_for_large_models(tmp_path, monkeypatch):
    write_tiny(tmp_path / "m.gguf", "qwen2")
    write_tiny(tmp_path / "g.gguf", "gemma3")
    read = gguf_model.read_gguf
    assert gguf_model._pick_dtype(read(tmp_path / "m.gguf")) == "float32"
    monkeypatch.setattr(gguf_model, "FLOAT32_UP_TO", 1000)
    assert gguf_model._pick_dtype(read(tmp_path / "m.gguf")) == "float16"
    assert gguf_model._pick_dtype(read(tmp_path / "g.gguf")) == "bfloat16"


def test_shards_and_index(tmp_path, monkeypatch):
    tensors = write_tiny(tmp_path / "m.gguf", "llama")
    convert_gguf(tmp_path / "m.gguf", tmp_path / "one")
    monkeypatch.setattr(gguf_model, "SHARD_BYTES", 100_000)
    seen = []
    convert_gguf(tmp_path / "m.gguf", tmp_path / "many", progress=lambda done, total: seen.append((done, total)))
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    files = {f.name for f in (tmp_path / "many").glob("*.safetensors")}
    assert len(files) > 2
    assert set(index["weight_map"].values()) == files
    total = 4 * sum(v.size for v in tensors.values())
    assert index["metadata"]["total_size"] == total
    assert seen[-1] == (total, total)
    one, many = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert one.keys() == many.keys() == index["weight_map"].keys()
    assert all(np.array_equal(one[name], many[name]) for name in one)
    np.testing.assert_array_equal(mlx_logits(tmp_path / "one", IDS), mlx_logits(tmp_path / "many", IDS))


def test_config_and_special_tokens(tmp_path):
    write_tiny(tmp_path / "m.gguf", "qwen3")
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    vocab = config["vocab_size"]
    assert config["eos_token_id"] == [vocab - 2, vocab - 4]  # <|im_end|>, the file's own; <|endoftext|>
    assert (config["head_dim"], config["intermediate_size"], config["rms_norm_eps"]) == (32, FEED, 1e-5)
    settings = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    assert settings["chat_template"] == CHATML


def test_gemma_window_pattern_as_flags(tmp_path):
    flags = {"gemma3.attention.sliding_window_pattern": [True, True, False, True, True, False, True]}
    write_tiny(tmp_path / "m.gguf", "gemma3", metadata=flags)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert (config["sliding_window_pattern"], config["sliding_window"]) == (3, WINDOW)
    flags["gemma3.attention.sliding_window_pattern"][3] = False
    write_tiny(tmp_path / "m.gguf", "gemma3", metadata=flags)
    with pytest.raises(InputError, match="irregular"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "m")


def bad_file(path: Path, case: str) -> str:
    """Write the bad file of `case`; returns what the message has to say."""
    if case == "missing":
        return "no such file"
    if case == "not gguf":
        path.write_bytes(b"PK\x03\x04" + bytes(100))
        return "GGUF"
    if case == "empty":
        path.write_bytes(b"")
        return "shorter than a header"
    cases = {
        "architecture": ({"arch": "falcon"}, "'falcon' is not supported.*(?s:.)*llama, qwen2, qwen3, gemma3"),
        "no tokenizer": ({"tokenizer": "none"}, "no tokenizer"),
        "pre-tokenizer": ({"pre": "martian"}, "martian"),
        "qwen2 tokenizer": ({"arch": "qwen2", "pre": "smollm"}, "tokenizer of another family"),
        "unknown tensor": (
            {"extra": {"blk.0.ffn_gate_inp.weight": np.zeros((4, 64), np.float32)}},
            "blk.0.ffn_gate_inp.weight",
        ),
        "missing tensor": ({"drop": ("blk.1.attn_v.weight",)}, "no blk.1.attn_v.weight"),
        "experts": ({"metadata": {"llama.expert_count": 8}}, "mixture of experts"),
        "yarn": ({"metadata": {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}}, "yarn"),
        "parts": ({"metadata": {"split.count": 3}}, "3 files"),
        "quantisation": (
            {"extra": {"blk.0.attn_norm.weight": np.zeros(64, np.int8)}},
            "blk.0.attn_norm.weight is stored as I8",
        ),
        "cut data": ({}, "cut short"),
        "cut header": ({}, "ends inside its header"),
    }
    options, message = cases[case]
    write_tiny(path, options.pop("arch", "llama"), **options)
    if case.startswith("cut"):
        size = path.stat().st_size - 5 if case == "cut data" else 1000
        path.write_bytes(path.read_bytes()[:size])
    return message


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "not gguf",
        "empty",
        "architecture",
        "no tokenizer",
        "pre-tokenizer",
        "unknown tensor",
        "qwen2 tokenizer",
        "experts",
        "missing tensor",
        "yarn",
        "parts",
        "quantisation",
        "cut data",
        "cut header",
    ],
)
def test_bad_input_is_told_in_plain_words(case, tmp_path):
    message = bad_file(tmp_path / "m.gguf", case)
    with pytest.raises(InputError, match=message) as caught:
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert "m.gguf" in str(caught.value)
    assert caught.value.next_step
    assert {p.name for p in tmp_path.iterdir()} <= {"m.gguf"}  # nothing half-written


def test_a_cut_file_is_never_a_crash(tmp_path):
    write_tiny(tmp_path / "m.gguf", "llama")
    data = (tmp_path / "m.gguf").read_bytes()
    for size in [*range(0, 600, 7), *range(600, len(data), len(data) // 60)]:
        (tmp_path / "c.gguf").write_bytes(data[:size])
        with pytest.raises(InputError):
            convert_gguf(tmp_path / "c.gguf", tmp_path / "out")


def test_the_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    write_tiny(tmp_path / "m.gguf", "llama")
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    before = {f.name: f.read_bytes() for f in (tmp_path / "m").iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "m", progress=full)
    with pytest.raises(InputError, match="No space left"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "new", progress=full)
    assert {f.name: f.read_bytes() for f in (tmp_path / "m").iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf", "m"}
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m", dtype="float16")  # a second conversion replaces the first
    assert (tmp_path / "m/model.safetensors").stat().st_size < len(before["model.safetensors"])
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf", "m"}


def test_unknown_dtype(tmp_path):
    with pytest.raises(InputError, match="int3"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "m", dtype="int3")
