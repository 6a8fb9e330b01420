"""Tokenizers rebuilt from a GGUF's vocabulary: llama.cpp's ids, for both kinds of vocabulary."""

import random
from pathlib import Path

import pytest
from gguf_reference import spm_encode
from gguf_tiny import TEXT, byte_letters, spm_vocabulary, write_tiny

import calltune.engine  # noqa: F401  (its BLAS must be loaded before MLX is)
from calltune.engine.gguf_file import read_gguf
from calltune.engine.gguf_model import convert_gguf
from calltune.engine.gguf_tokenizer import PRE_TOKENIZERS, GgufVocabulary, build_tokenizer, read_vocabulary


def tokenizer(path: Path, **options):
    write_tiny(path, **options)
    return build_tokenizer(read_vocabulary(read_gguf(path)))


def pieces(built, text: str) -> list[str]:
    """What the pre-tokenizer cuts `text` into, as text."""
    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    return [bytes(byte_of[c] for c in piece).decode() for piece, _ in built.pre_tokenizer.pre_tokenize_str(text)]


# The same text under each rule, cut by hand.
SPLITS = {
    "gpt-2": ["I", "'", "LL", " see", " it", "'s", " 1234", "\n\n ", " a", "..\n", "b"],
    "smollm": ["I", "'", "LL", " see", " it", "'s", " ", "1", "2", "3", "4", "\n\n ", " a", "..\n", "b"],
    "llama-bpe": ["I", "'LL", " see", " it", "'s", " ", "123", "4", "\n\n", " ", " a", "..\n", "b"],
    "qwen2": ["I", "'LL", " see", " it", "'s", " ", "1", "2", "3", "4", "\n\n", " ", " a", "..\n", "b"],
    "default": ["I", "'", "LL", " see", " it", "'", "s", " ", "123", "4", "\n\n ", " a", "..", "\n", "b"],
}
SPLITS["gpt-2"][-2:] = SPLITS["smollm"][-2:] = ["..", "\n", "b"]


@pytest.mark.parametrize("pre", SPLITS)
def test_pre_tokenizer_splits(pre, tmp_path):
    built = tokenizer(tmp_path / "m.gguf", arch="llama", pre=pre)
    assert pieces(built, "I'LL see it's 1234\n\n  a..\nb") == SPLITS[pre]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_pre_tokenizer_keeps_all_text(pre, tmp_path):
    built = tokenizer(tmp_path / "m.gguf", arch="llama", pre=pre)
    assert built.decode(built.encode(TEXT).ids, skip_special_tokens=False) == TEXT


def test_special_tokens_of_a_byte_level_vocabulary(tmp_path):
    built = tokenizer(tmp_path / "m.gguf", arch="llama")
    ids = built.encode("<|im_start|>es<tool><|im_end|>", add_special_tokens=False).ids
    names = [built.id_to_token(id) for id in ids]
    assert names == ["<|im_start|>", "es", "<tool>", "<|im_end|>"]
    assert built.decode(ids) == "es<tool>"  # control tokens are special, user-defined ones are text


def test_whole_words_win_over_merges_for_llama3(tmp_path):
    """llama.cpp (ignore_merges): a word that is a token as a whole, though no merge makes it."""
    for pre, expected in (("llama-bpe", ["Hello"]), ("qwen2", ["H", "e", "l", "l", "o"])):
        write_tiny(tmp_path / "m.gguf", "llama", pre=pre)
        vocabulary = read_vocabulary(read_gguf(tmp_path / "m.gguf"))
        tokens = ("Hello", *vocabulary.tokens[1:])
        built = build_tokenizer(type(vocabulary)(**{**vars(vocabulary), "tokens": tokens, "merges": ()}))
        assert built.encode("Hello", add_special_tokens=False).tokens == expected


@pytest.mark.parametrize("prefix", [False, True])
def test_spm_ids_are_those_of_the_straight_algorithm(prefix, tmp_path):
    tokens, scores, types = spm_vocabulary()
    built = tokenizer(tmp_path / "m.gguf", arch="gemma3", metadata={"tokenizer.ggml.add_space_prefix": prefix})
    rng = random.Random(3)
    for _ in range(4000):
        text = "".join(
            rng.choice(["a", "b", "c", "ab", "aaa", " ", "  ", "\n", "é", "東", "<b>", "<eos>", "/", "▁"])
            for _ in range(rng.randint(0, 25))
        )
        got = built.encode(text, add_special_tokens=False).ids
        assert got == spm_encode(text, tokens, scores, types, prefix), text
        if "▁" not in text and not prefix:  # that letter stands for a space; a prefix is not told from a space
            assert built.decode(got, skip_special_tokens=False) == text


def test_merges_of_random_scored_vocabularies():
    """Overlapping words of two letters in random order: every way in which the order of merges could matter."""
    for seed in range(200):
        rng = random.Random(seed)
        words = list({"".join(rng.choice("ab") for _ in range(rng.randint(2, 6))): None for _ in range(14)})
        tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, "a", "b"]
        types = [2] + [6] * 256 + [1] * (len(words) + 2)
        scores = [0.0] * 257 + [-float(i) for i in range(len(words))] + [-99.0, -100.0]
        built = build_tokenizer(
            GgufVocabulary(
                "llama",
                "default",
                tuple(tokens),
                tuple(types),
                tuple(scores),
                (),
                bos=None,
                eos=None,
                unknown=0,
                padding=None,
                add_bos=False,
                add_eos=False,
                space_prefix=False,
            )
        )
        for _ in range(20):
            text = "".join(rng.choice("ab") for _ in range(rng.randint(2, 30)))
            expected = spm_encode(text, tokens, scores, types, prefix=False)
            assert built.encode(text, add_special_tokens=False).ids == expected, (words, text)


def test_qwen_composes_accents_as_its_own_tokenizer_does(tmp_path):
    built = tokenizer(tmp_path / "m.gguf", arch="qwen2")
    assert built.encode("e\u0301").ids == built.encode("\u00e9").ids
    assert tokenizer(tmp_path / "l.gguf", arch="llama").decode(built.encode("e\u0301").ids) == "\u00e9"


def test_spm_bytes_stand_for_letters_outside_the_vocabulary(tmp_path):
    built = tokenizer(tmp_path / "m.gguf", arch="gemma3")
    encoded = built.encode("a東", add_special_tokens=False)
    assert encoded.tokens == ["a", "<0xE6>", "<0x9D>", "<0xB1>"]
    assert built.encode("<0xE6>", add_special_tokens=False).ids != encoded.ids[1:2]  # as text it is no byte


@pytest.mark.parametrize(
    ("metadata", "start", "end"),
    [
        ({}, ["<bos>"], []),
        ({"tokenizer.ggml.add_bos_token": False}, [], []),
        ({"tokenizer.ggml.add_eos_token": True}, ["<bos>"], ["<eos>"]),
    ],
)
def test_bos_only_as_the_file_says_and_never_unasked(metadata, start, end, tmp_path):
    built = tokenizer(tmp_path / "m.gguf", arch="gemma3", metadata=metadata)
    assert built.encode("ab", add_special_tokens=False).tokens == ["ab"]
    assert built.encode("ab").tokens == [*start, "ab", *end]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
def test_mlx_lm_loads_the_same_tokenizer(arch, tmp_path):
    """transformers must not swap in a tokenizer class of its own by the model's type."""
    import mlx_lm

    built = tokenizer(tmp_path / "m.gguf", arch=arch)
    convert_gguf(tmp_path / "m.gguf", tmp_path / "m")
    _, loaded = mlx_lm.load(str(tmp_path / "m"))
    text = TEXT + " I'LL 1234 <end_of_turn>ab  aaaa\n\n\n<tool>"
    ids = built.encode(text, add_special_tokens=False).ids
    assert loaded.encode(text, add_special_tokens=False) == ids
    assert loaded.encode(text) == built.encode(text).ids
    assert loaded.decode(ids) == text
    assert len(loaded) == built.get_vocab_size()
    stream = loaded.detokenizer
    for id in ids:
        stream.add_token(id)
    stream.finalize()
    assert stream.text == text
