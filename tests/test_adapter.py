"""Adapters: which numbers are trained, and files that mlx-lm reads."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from tiny import tiny_model

from calltune.engine.adapter import (
    AdapterSettings,
    add_adapter,
    read_adapter,
    resolve_keys,
    save_adapter,
    trainable_count,
    trained_arrays,
)
from calltune.engine.load import load
from calltune.errors import CannotFinish, InputError

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx.nn as nn  # isort: skip
import mlx_lm  # isort: skip
from mlx_lm.models import gemma2  # isort: skip

WALKTHROUGH = AdapterSettings(num_layers=8, rank=16, scale=64.0, dropout=0.05, keys=("q_proj", "v_proj"))
GEMMA_2_2B = gemma2.ModelArgs(
    model_type="gemma2",
    hidden_size=2304,
    num_hidden_layers=26,
    intermediate_size=9216,
    num_attention_heads=8,
    head_dim=256,
    rms_norm_eps=1e-6,
    vocab_size=256000,
    num_key_value_heads=4,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.mark.parametrize(
    ("keys", "trained"),
    [(("q_proj", "v_proj"), 983_040), (("self_attn.q_proj", "self_attn.v_proj"), 983_040), (("all",), 6_389_760)],
)
def test_walkthrough_row_8_trainable_parameters_of_gemma_2_2b(keys, trained):
    """Weights are made lazily and never computed: 2.6 billion numbers in no memory."""
    model = gemma2.Model(GEMMA_2_2B)
    add_adapter(model, AdapterSettings(num_layers=8, rank=16, scale=64.0, dropout=0.05, keys=keys))
    assert trainable_count(model) == trained


def test_the_default_keys_are_the_walkthroughs(llama):
    model = load(str(llama)).model
    assert sorted(add_adapter(model, AdapterSettings(num_layers=2))) == ["self_attn.q_proj", "self_attn.v_proj"]
    assert {name.split(".")[2] for name in trained_arrays(model)} == {"2", "3"}  # the last two of four


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_new_adapter_changes_nothing(llama, kind):
    loaded = load(str(llama))
    ids = mx.array([[1, 7, 42, 99]])
    before = loaded.model(ids)
    add_adapter(loaded.model, AdapterSettings(kind=kind, num_layers=-1))
    assert mx.allclose(loaded.model(ids), before, rtol=1e-4, atol=1e-4).item()
    assert trainable_count(loaded.model) > 0


def test_only_the_asked_layers_train_in_full(llama):
    model = load(str(llama)).model
    add_adapter(model, AdapterSettings(kind="full", num_layers=1))
    assert all(name.startswith("model.layers.3.") for name in trained_arrays(model))
    add_adapter(model, AdapterSettings(kind="full", num_layers=-1))
    assert any("embed_tokens" in name for name in trained_arrays(model))


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_the_files_load_in_plain_mlx_lm(llama, tmp_path, kind):
    loaded = load(str(llama))
    settings = AdapterSettings(kind=kind, num_layers=3, rank=4, scale=7.0, dropout=0.1, keys=("all",))
    keys = add_adapter(loaded.model, settings)
    arrays = {
        n: a + 0.1 * mx.random.normal(a.shape, key=mx.random.key(len(n)))
        for n, a in trained_arrays(loaded.model).items()
    }
    loaded.model.load_weights(list(arrays.items()), strict=False)
    save_adapter(tmp_path / "a", arrays, settings, keys, llama, len(loaded.model.layers))
    ids = mx.array([[1, 7, 42, 99]])
    loaded.model.eval()
    expected = loaded.model(ids)
    theirs, _ = mlx_lm.load(str(llama), adapter_path=str(tmp_path / "a"))
    assert mx.allclose(theirs(ids), expected, rtol=1e-5, atol=1e-5).item()
    ours = read_adapter(load(str(llama)).model, tmp_path / "a")
    assert mx.allclose(ours(ids), expected, rtol=1e-5, atol=1e-5).item()
    assert not mx.allclose(load(str(llama)).model(ids), expected, rtol=1e-2).item()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["lora_parameters"] == {"rank": 4, "scale": 7.0, "dropout": 0.1, "keys": keys}
    assert (config["num_layers"], config["fine_tune_type"], config["model"]) == (3, kind, str(llama))


def test_the_walkthroughs_numbers_are_written_as_mlx_lm_reads_them(tmp_path):
    model = nn.Module()
    model.weight = mx.zeros((2,))
    save_adapter(
        tmp_path, {"a": mx.zeros(2)}, WALKTHROUGH, ["self_attn.q_proj", "self_attn.v_proj"], Path("base"), 26
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["num_layers"] == 8
    assert config["lora_parameters"] == {
        "rank": 16,
        "scale": 64.0,
        "dropout": 0.05,
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
    }


def test_alpha_is_pefts(llama):
    assert AdapterSettings(rank=16, alpha=32.0).strength == 2.0
    assert AdapterSettings(rank=16, scale=5.0).strength == 5.0


def test_the_same_seed_the_same_start(llama):
    arrays = []
    for seed in (3, 3, 4):
        model = load(str(llama)).model
        add_adapter(model, AdapterSettings(num_layers=2), seed)
        arrays.append({n: a for n, a in trained_arrays(model).items() if n.endswith("lora_a")})
    same = [all(mx.array_equal(a[n], b[n]).item() for n in a) for a, b in pairwise(arrays)]
    assert same == [True, False]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (AdapterSettings(num_layers=5), "1 to 4"),
        (AdapterSettings(num_layers=0), "1 to 4"),
        (AdapterSettings(rank=0), "at least 1"),
        (AdapterSettings(dropout=1.0), "dropout"),
        (AdapterSettings(scale=float("nan")), "finite"),
        (AdapterSettings(num_layers=2, keys=("q_proj", "qproj")), "qproj"),
        (AdapterSettings(num_layers=2, keys=()), "(none)"),
    ],
)
def test_settings_that_do_not_fit_are_input_errors(llama, settings, words):
    with pytest.raises(InputError) as caught:
        add_adapter(load(str(llama)).model, settings)
    assert words in str(caught.value)


def test_all_settings_that_do_not_fit_are_told_at_once(llama):
    with pytest.raises(InputError) as caught:
        add_adapter(load(str(llama)).model, AdapterSettings(num_layers=99, rank=0, dropout=2.0))
    assert [p.kind for p in caught.value.problems] == ["num_layers", "rank", "dropout"]


def test_keys_are_endings_of_names(llama):
    layers = load(str(llama)).model.layers
    assert resolve_keys(layers, ["mlp.up_proj"]) == ["mlp.up_proj"]
    assert len(resolve_keys(layers, ["all"])) == 7
    with pytest.raises(InputError):
        resolve_keys(layers, ["proj"])  # an ending of letters is no name


def test_trap_t05_numbers_that_are_not_finite_are_never_saved(tmp_path):
    good = {"a": mx.ones(3)}
    save_adapter(tmp_path, good, AdapterSettings(), [], Path("base"), 4)
    with pytest.raises(CannotFinish, match="no trained weights"):
        save_adapter(tmp_path, {}, AdapterSettings(), [], Path("base"), 4)
    with pytest.raises(CannotFinish, match="not finite"):
        save_adapter(tmp_path, {"a": mx.array([1.0, float("nan")])}, AdapterSettings(), [], Path("base"), 4)
    assert mx.array_equal(mx.load(str(tmp_path / "adapters.safetensors"))["a"], good["a"]).item()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapters.safetensors"]


def test_a_folder_without_an_adapter_or_with_another_models(llama, tmp_path):
    with pytest.raises(InputError, match=r"adapter_config\.json is missing"):
        read_adapter(load(str(llama)).model, tmp_path)
    other = load(str(tiny_model(tmp_path / "other", "llama", hidden=32)))
    keys = add_adapter(other.model, AdapterSettings(num_layers=2))
    save_adapter(tmp_path / "a", trained_arrays(other.model), AdapterSettings(num_layers=2), keys, tmp_path, 4)
    with pytest.raises(InputError, match="does not fit"):
        read_adapter(load(str(llama)).model, tmp_path / "a")
