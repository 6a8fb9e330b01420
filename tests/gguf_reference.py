"""Independent straight forms of what the GGUF tests compare with: llama.cpp's tokenizers and models.

Nothing of `calltune` is used here. Arithmetic is float64 NumPy on the tensors as a GGUF stores them.
"""

from __future__ import annotations

import heapq

import numpy as np

CONTROL, USER_DEFINED, BYTE, UNKNOWN = 3, 4, 6, 2


def spm_encode(text: str, tokens: list[str], scores: list[float], types: list[int], prefix: bool) -> list[int]:
    """Ids by llama.cpp's llm_tokenizer_spm: special tokens cut out, then the best-scored pair joined first."""
    ids = {token: id for id, token in enumerate(tokens)}
    special = sorted(
        (t for t, k in zip(tokens, types, strict=True) if k in (CONTROL, USER_DEFINED, UNKNOWN)),
        key=len,
        reverse=True,
    )
    pieces: list[str | int] = [text] if text else []
    for token in special:  # the longest first, in every piece that is still text
        cut: list[str | int] = []
        for piece in pieces:
            if isinstance(piece, int) or token not in piece:
                cut.append(piece)
                continue
            for i, part in enumerate(piece.split(token)):
                if i:
                    cut.append(ids[token])
                if part:
                    cut.append(part)
        pieces = cut
    out: list[int] = []
    for piece in pieces:
        if isinstance(piece, int):
            out.append(piece)
        else:
            out += _spm_piece((" " if prefix else "") + piece, ids, scores)
    return out


def _spm_piece(text: str, ids: dict[str, int], scores: list[float]) -> list[int]:
    symbols = list(text.replace(" ", "▁"))
    before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
    queue: list[tuple[float, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0:
            joined = symbols[left] + symbols[right]
            if joined in ids:
                heapq.heappush(queue, (-scores[ids[joined]], left, right, len(joined)))

    for i in range(1, len(symbols)):
        offer(i - 1, i)
    while queue:
        _, left, right, size = heapq.heappop(queue)
        if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != size:
            continue
        symbols[left] += symbols[right]
        symbols[right] = ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    out = []
    for symbol in symbols:
        if symbol in ids:
            out.append(ids[symbol])
        else:
            out += [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return out


def logits(
    arch: str,
    tensors: dict[str, np.ndarray],
    ids: list[int],
    *,
    heads: int,
    kv_heads: int,
    window: int,
    base: float = 50_000.0,
    eps: float = 1e-5,
    factors: np.ndarray | None = None,
    linear: float = 1.0,
) -> np.ndarray:
    """Logits (T, V) of llama.cpp's graph for `arch`, one head and one layer after the other.

    `factors` (D / 2,) divide the rotary angles (rope_freqs), `linear` divides positions. Llama rotates
    neighbouring pairs, the others the two halves of a head; norms multiply by the stored weight.
    """
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("blk."))
    x = t["token_embd.weight"][ids]
    if arch == "gemma3":
        x = x * np.sqrt(x.shape[1])

    def rms(values: np.ndarray, name: str) -> np.ndarray:
        return values / np.sqrt((values**2).mean(-1, keepdims=True) + eps) * t[name]

    def project(values: np.ndarray, name: str) -> np.ndarray:
        return values @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0.0)

    for i in range(layers):
        b = f"blk.{i}."
        slides = arch == "gemma3" and (i + 1) % 6 != 0
        theta, scale = (10_000.0, 1.0) if slides else (base, linear)
        h = rms(x, b + "attn_norm.weight")
        q, k, v = (project(h, b + name) for name in ("attn_q", "attn_k", "attn_v"))
        dim = q.shape[1] // heads
        out = []
        for head in range(heads):
            part, shared = slice(head * dim, (head + 1) * dim), head // (heads // kv_heads)
            mine, kv = q[:, part], slice(shared * dim, (shared + 1) * dim)
            theirs = k[:, kv]
            if arch in ("qwen3", "gemma3"):
                mine, theirs = rms(mine, b + "attn_q_norm.weight"), rms(theirs, b + "attn_k_norm.weight")
            mine, theirs = (_rotate(a, arch == "llama", theta, scale, factors) for a in (mine, theirs))
            far = np.arange(len(ids))[:, None] - np.arange(len(ids))[None]
            hidden = (far < 0) | (slides & (far >= window))
            scores = np.where(hidden, -np.inf, mine @ theirs.T / np.sqrt(dim))
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(scores / scores.sum(-1, keepdims=True) @ v[:, kv])
        h = project(np.concatenate(out, 1), b + "attn_output")
        x = x + (rms(h, b + "post_attention_norm.weight") if arch == "gemma3" else h)
        h = rms(x, b + "ffn_norm.weight")
        gate, up = project(h, b + "ffn_gate"), project(h, b + "ffn_up")
        if arch == "gemma3":
            gate = gate * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        h = project(gate * up, b + "ffn_down")
        x = x + (rms(h, b + "post_ffw_norm.weight") if arch == "gemma3" else h)
    return rms(x, "output_norm.weight") @ t.get("output.weight", t["token_embd.weight"]).T


def _rotate(x: np.ndarray, pairs: bool, base: float, linear: float, factors: np.ndarray | None) -> np.ndarray:
    dim = x.shape[1]
    angles = np.arange(len(x))[:, None] / linear * base ** (-np.arange(0, dim, 2) / dim)
    if factors is not None:
        angles = angles / factors
    a, b = (x[:, 0::2], x[:, 1::2]) if pairs else (x[:, : dim // 2], x[:, dim // 2 :])
    first, second = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
    out = np.empty_like(x)
    if pairs:
        out[:, 0::2], out[:, 1::2] = first, second
    else:
        out[:, : dim // 2], out[:, dim // 2 :] = first, second
    return out
