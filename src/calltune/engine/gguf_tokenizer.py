"""A `tokenizers` tokenizer from the vocabulary inside a GGUF file, giving llama.cpp's ids.

Two kinds of vocabulary are read: byte-level BPE (`tokenizer.ggml.model` = gpt2) with merges and a named
pre-tokenizer, and SentencePiece-style BPE (= llama: Gemma, Llama 2) with a score a token, whose merges
are derived here. Rules are llama.cpp's src/llama-vocab.cpp. No PyTorch, and no MLX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from calltune.engine.gguf_file import GgufFile
from calltune.errors import InputError

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Regexes as in the models' own tokenizer.json. llama.cpp applies the regexes of a list one after the
# other; matches and what lies between them both become pieces, which is Split(..., "isolated").
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2, _DIGITS = (_WORDS % "{1,3}",), (_WORDS % "",), (r"\p{N}", _GPT2)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    "gpt-2": (_GPT2,),
    "olmo": (_GPT2,),
    "mpt": (_GPT2,),
    "phi-2": (_GPT2,),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "minerva-7b": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "dbrx": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
    "megrez": _QWEN2,
    "tekken": (_TEKKEN,),
}
# Qwen's own tokenizer composes letters and accents first (NFC); llama.cpp leaves that out.
_COMPOSED = {"qwen2", "deepseek-r1-qwen"}
# With these a word that is a token as a whole is never built from merges, ...
_WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}
# ... and with these llama.cpp adds BOS unless the file says otherwise.
_BOS_BY_DEFAULT = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}


@dataclass(frozen=True)
class GgufVocabulary:
    """What a GGUF file says about its tokenizer; `tokens`, `types` and `scores` by id."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    add_bos: bool
    add_eos: bool
    space_prefix: bool

    def text(self, token: int | None) -> str | None:
        return None if token is None else self.tokens[token]


def read_vocabulary(file: GgufFile) -> GgufVocabulary:
    """The vocabulary of a GGUF file; InputError when it is missing or of a kind that is not built here."""

    def get(key: str, default: Any = None) -> Any:
        return file.value(f"tokenizer.ggml.{key}", default)

    def token(key: str, default: int | None = None) -> int | None:
        found = get(f"{key}_token_id", default)
        return int(found) if found is not None and 0 <= int(found) < len(tokens) else None

    model, tokens = str(get("model", "")), tuple(get("tokens", ()))
    if not tokens or not model:
        raise InputError(
            f"{file.path}: the file holds no tokenizer (tokenizer.ggml.tokens)",
            next_step="use a GGUF file that holds a whole model, not its weights alone",
        )
    if model not in ("gpt2", "llama"):
        raise InputError(
            f"{file.path}: tokenizer kind {model!r} is not supported (gpt2 and llama are)",
            next_step="use the model's Hugging Face folder instead of its GGUF file",
        )
    spm, pre = model == "llama", str(get("pre", "default") or "default")
    if not spm and pre not in PRE_TOKENIZERS:
        raise InputError(
            f"{file.path}: pre-tokenizer {pre!r} is not known ({', '.join(PRE_TOKENIZERS)} are)",
            next_step="use the model's Hugging Face folder instead of its GGUF file",
        )
    if file.architecture == "qwen2" and pre not in _COMPOSED:
        # transformers 5 loads every model of this type with Qwen's own splitting, whatever the folder says.
        raise InputError(
            f"{file.path}: a qwen2 model with the tokenizer of another family ({pre})",
            next_step="use the model's Hugging Face folder instead of its GGUF file",
        )
    if not spm and not get("merges"):
        raise InputError(
            f"{file.path}: a byte-level BPE tokenizer without merges",
            next_step="use a GGUF file made by a current converter of llama.cpp",
        )
    if len(set(tokens)) != len(tokens):
        raise InputError(
            f"{file.path}: the vocabulary holds the same token twice", next_step="use another GGUF file of this model"
        )
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError:  # the reader keeps broken UTF-8 as surrogates
        raise InputError(
            f"{file.path}: the vocabulary holds tokens that are not UTF-8",
            next_step="use another GGUF file of this model",
        ) from None
    if any(len(get(key) or tokens) != len(tokens) for key in ("token_type", "scores")):
        raise InputError(
            f"{file.path}: the vocabulary's tokens, types and scores differ in number",
            next_step="download the file again, or use another GGUF file of this model",
        )
    return GgufVocabulary(
        model,
        pre,
        tokens,
        tuple(get("token_type", ()) or [NORMAL] * len(tokens)),
        tuple(get("scores", ()) or [0.0] * len(tokens)),
        tuple(get("merges", ()) or ()),
        # The defaults are llama.cpp's for a file that does not say.
        token("bos", 1 if spm else None),
        token("eos", 2 if spm else None),
        token("unknown", 0 if spm else None),
        token("padding"),
        bool(get("add_bos_token", spm or pre in _BOS_BY_DEFAULT)),
        bool(get("add_eos_token", False)),
        bool(get("add_space_prefix", spm)),
    )


def build_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """The tokenizer with llama.cpp's ids.

    Without special tokens asked for, nothing is added to the text; otherwise BOS and EOS as the file says.
    Control, unknown and user-defined tokens are found in the text before anything else is split.
    """
    tokenizer = _sentencepiece(vocabulary) if vocabulary.model == "llama" else _byte_level(vocabulary)
    special, added = [], []
    for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind in (CONTROL, UNKNOWN) and text:
            special.append(AddedToken(text, special=True, normalized=False))
        elif kind == USER_DEFINED and text:
            added.append(AddedToken(text, special=False, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added)
    _add_ends(tokenizer, vocabulary)
    return tokenizer


def _add_ends(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    ends = {
        "bos": vocabulary.bos if vocabulary.add_bos else None,
        "eos": vocabulary.eos if vocabulary.add_eos else None,
    }
    names = {key: vocabulary.tokens[id] for key, id in ends.items() if id is not None}
    if not names:
        return
    before, after = [names["bos"]] if "bos" in names else [], [names["eos"]] if "eos" in names else []
    pair = [*before, "$A", *after, *(f"{t}:1" for t in before), "$B:1", *(f"{t}:1" for t in after)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=pair,
        special_tokens=[(text, tokenizer.token_to_id(text)) for text in {*before, *after}],
    )


def _byte_level(vocabulary: GgufVocabulary) -> Tokenizer:
    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    merges = []
    for merge in vocabulary.merges:
        left, _, right = merge.partition(" ")
        # llama.cpp carries merges whose result is no token; they can't end in an id.
        if left in ids and right in ids and left + right in ids:
            merges.append((left, right))
    tokenizer = Tokenizer(BPE(ids, merges, ignore_merges=vocabulary.pre in _WHOLE_WORDS))
    if vocabulary.pre in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Split(Regex(r), "isolated") for r in PRE_TOKENIZERS[vocabulary.pre]]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: GgufVocabulary) -> Tokenizer:
    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(
        BPE(
            ids,
            score_merges(vocabulary),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=vocabulary.text(vocabulary.unknown),
        )
    )
    steps: list[Any] = [normalizers.Prepend("▁")] if vocabulary.space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    # mlx-lm takes its fast streaming detokenizer for exactly these decoders.
    decode: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.space_prefix:
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(decode)
    return tokenizer


def score_merges(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """The merges of a SentencePiece-style vocabulary, best first.

    llama.cpp joins two neighbours whenever their text is a token, the token of the highest score first and
    the leftmost of equals. So every split of a token into two tokens is a merge, ordered by the score of
    the result (tests hold the ids against the straight algorithm on random vocabularies and on Gemma's).
    Control and user-defined tokens are cut out of the text before, byte tokens come from bytes only.
    """
    whole = {text for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in (NORMAL, UNUSED)}
    order = sorted(
        (id for id, text in enumerate(vocabulary.tokens) if len(text) > 1 and text in whole),
        key=lambda id: (-vocabulary.scores[id], id),
    )
    merges = []
    for id in order:
        text = vocabulary.tokens[id]
        for cut in range(len(text) - 1, 0, -1):
            left = text[:cut]
            if left in whole:
                right = text[cut:]
                if right in whole:
                    merges.append((left, right))
    return merges
