"""Small files of every weight type, and of many at once, in llama.cpp: the same logits as here.

Both round activations to int8, each in its own way: the divergence from what float activations give
may not be larger here. Needs the environment that `make bench-peers` makes; skipped where it is not
there.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from tests.slow.peer import divergence, needs_peer, ours, theirs, without_texts

from tektra.backends.cpu import CpuBackend
from tektra.backends.reference import ReferenceBackend
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import TensorSource, write_gguf
from tektra.formats.quants import DECODABLE_TYPES, random_blocks

HIDDEN, FFN, LAYERS, VOCAB = 512, 864, 2, 320  # 864 is no multiple of 256, as in some models
TOKENS = np.random.default_rng(5).integers(0, VOCAB, 96).tolist()

pytestmark = needs_peer


def write(path: Path, types: list[GGMLType], *, tied: bool) -> None:
    """A llama whose matrices have these types in turn; where a row does not fit, IQ4_NL."""
    sizes = {
        "general.architecture": "llama",
        "llama.block_count": Typed(LAYERS, "u32"),
        "llama.context_length": Typed(256, "u32"),
        "llama.embedding_length": Typed(HIDDEN, "u32"),
        "llama.feed_forward_length": Typed(FFN, "u32"),
        "llama.attention.head_count": Typed(8, "u32"),
        "llama.attention.head_count_kv": Typed(4, "u32"),
        "llama.attention.layer_norm_rms_epsilon": Typed(1e-5, "f32"),
    }
    metadata = without_texts(sizes, VOCAB)
    rng = np.random.default_rng([int(t) for t in types])
    turn = cycle(types)
    tensors: list[TensorSource] = []

    def matrix(name: str, rows: int, width: int) -> None:
        type_ = next(turn)
        if width % type_.block_size:
            type_ = GGMLType.IQ4_NL
        data = random_blocks(type_, (rows, width), rng, width**-0.5)
        tensors.append((f"{name}.weight", (rows, width), type_, data))

    def norm(name: str) -> None:
        values = (1 + 0.1 * rng.standard_normal(HIDDEN)).astype(np.float32)
        tensors.append((f"{name}.weight", (HIDDEN,), GGMLType.F32, values.view(np.uint8)))

    matrix("token_embd", VOCAB, HIDDEN)
    for i in range(LAYERS):
        norm(f"blk.{i}.attn_norm")
        for part, rows in (("attn_q", HIDDEN), ("attn_k", 256), ("attn_v", 256)):
            matrix(f"blk.{i}.{part}", rows, HIDDEN)
        matrix(f"blk.{i}.attn_output", HIDDEN, HIDDEN)
        norm(f"blk.{i}.ffn_norm")
        matrix(f"blk.{i}.ffn_gate", FFN, HIDDEN)
        matrix(f"blk.{i}.ffn_up", FFN, HIDDEN)
        matrix(f"blk.{i}.ffn_down", HIDDEN, FFN)
    norm("output_norm")
    if not tied:
        matrix("output", VOCAB, HIDDEN)
    write_gguf(path, metadata, tensors)


def check(path: Path) -> None:
    exact = ours(path, TOKENS, ReferenceBackend(kv_dtype="float32"))
    mine = divergence(exact, ours(path, TOKENS, CpuBackend()))
    other = divergence(exact, theirs(path, TOKENS))
    print(f"{path.stem}: {mine:.3g} here, {other:.3g} there")
    assert other < 0.002  # the same model at all
    assert mine < max(1.2 * other, 1e-6)


@pytest.mark.parametrize("type_", sorted(DECODABLE_TYPES), ids=lambda t: t.name)
def test_one_type(type_: GGMLType, tmp_path: Path) -> None:
    path = tmp_path / f"{type_.name}.gguf"
    write(path, [type_], tied=False)
    check(path)


@pytest.mark.parametrize("seed", range(6))
def test_many_types(seed: int, tmp_path: Path) -> None:
    types = sorted(DECODABLE_TYPES)
    np.random.default_rng(seed).shuffle(types)
    path = tmp_path / f"mixed-{seed}.gguf"
    write(path, types, tied=seed % 2 == 0)
    check(path)
