"""Writes a GGUF model of a named shape with random weights, for timing: what it says is noise.

    python benchmarks/make_model.py model.gguf --shape qwen2-1.5b --type q4_k_m

Types are mixed as llama.cpp's quantizer mixes them, and the tokenizer is SmolLM2's, padded to the
vocabulary of the shape, so that the file loads in other engines too. Tensors are made and written
one at a time. The same arguments make the same bytes.
"""

from __future__ import annotations

import argparse
import functools
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tektra.errors import TektraError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import TensorSource, write_gguf
from tektra.formats.quants import random_blocks
from tektra.hub import resolve
from tektra.progress import ProgressEvent

TOKENIZER = "smollm2:135m"
UNUSED_TOKEN = 5
NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    architecture: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    context: int
    rope_base: float
    head_dim: int | None = None
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.hidden // self.heads


SHAPES: Mapping[str, ModelShape] = MappingProxyType(
    {
        "tiny": ModelShape(
            architecture="llama",
            hidden=256,
            ffn=512,
            layers=2,
            heads=4,
            kv_heads=2,
            vocab=49_152,
            tied=True,
            context=2048,
            rope_base=1e4,
        ),
        "smollm2-135m": ModelShape(
            architecture="llama",
            hidden=576,
            ffn=1536,
            layers=30,
            heads=9,
            kv_heads=3,
            vocab=49_152,
            tied=True,
            context=8192,
            rope_base=1e5,
        ),
        "qwen2-0.5b": ModelShape(
            architecture="qwen2",
            hidden=896,
            ffn=4864,
            layers=24,
            heads=14,
            kv_heads=2,
            vocab=151_936,
            tied=True,
            context=32_768,
            rope_base=1e6,
        ),
        "qwen2-1.5b": ModelShape(
            architecture="qwen2",
            hidden=1536,
            ffn=8960,
            layers=28,
            heads=12,
            kv_heads=2,
            vocab=151_936,
            tied=True,
            context=32_768,
            rope_base=1e6,
        ),
        # a sixth of the layers and a quarter of the experts of Qwen3-30B-A3B
        "qwen3-moe": ModelShape(
            architecture="qwen3moe",
            hidden=2048,
            ffn=6144,
            layers=8,
            heads=32,
            kv_heads=4,
            head_dim=128,
            vocab=49_152,
            tied=True,
            context=32_768,
            rope_base=1e6,
            experts=32,
            experts_used=8,
            expert_ffn=768,
        ),
        "llama-1b": ModelShape(
            architecture="llama",
            hidden=2048,
            ffn=8192,
            layers=16,
            heads=32,
            kv_heads=8,
            vocab=128_256,
            tied=True,
            context=8192,
            rope_base=5e5,
        ),
        "llama-8b": ModelShape(
            architecture="llama",
            hidden=4096,
            ffn=14_336,
            layers=32,
            heads=32,
            kv_heads=8,
            vocab=128_256,
            tied=False,
            context=8192,
            rope_base=5e5,
        ),
    }
)


@dataclass(frozen=True)
class Mix:
    """Which type each matrix has, as llama.cpp's quantizer chooses it.

    Attributes:
        base: of every matrix that is not named below.
        head: of the matrix that makes logits (the embedding table where the two are tied).
        better: of value and feed-forward-down matrices, in about half of the layers.
        file_type: the number of the mix in ``general.file_type``.
    """

    base: GGMLType
    head: GGMLType
    better: GGMLType
    file_type: int


def _plain(type: GGMLType, file_type: int, head: GGMLType | None = None) -> Mix:
    return Mix(type, head or type, type, file_type)


MIXES: Mapping[str, Mix] = MappingProxyType(
    {
        "f32": _plain(GGMLType.F32, 0),
        "f16": _plain(GGMLType.F16, 1),
        "bf16": _plain(GGMLType.BF16, 32),
        "q4_0": _plain(GGMLType.Q4_0, 2, GGMLType.Q6_K),
        "q4_1": _plain(GGMLType.Q4_1, 3, GGMLType.Q6_K),
        "q5_0": _plain(GGMLType.Q5_0, 8, GGMLType.Q6_K),
        "q5_1": _plain(GGMLType.Q5_1, 9, GGMLType.Q6_K),
        "q8_0": _plain(GGMLType.Q8_0, 7),
        "q4_k_m": Mix(GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.Q6_K, 15),
        "q5_k_m": Mix(GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.Q6_K, 17),
        "q6_k": _plain(GGMLType.Q6_K, 18),
    }
)

FALLBACK: Mapping[GGMLType, GGMLType] = MappingProxyType(
    {GGMLType.Q4_K: GGMLType.Q5_0, GGMLType.Q5_K: GGMLType.Q5_1, GGMLType.Q6_K: GGMLType.Q8_0}
)
"""What stands in where a row is not a multiple of 256 wide."""


def matrix_type(mix: Mix, name: str, width: int, layer: int, shape: ModelShape) -> GGMLType:
    """The type of a matrix in a mix; ``name`` without its layer."""
    early, late = shape.layers // 8, 7 * shape.layers // 8
    more_bits = layer < early or layer >= late or (layer - early) % 3 == 2
    type = mix.base
    if name == ("token_embd" if shape.tied else "output"):
        type = mix.head
    elif name in ("attn_v", "ffn_down", "ffn_down_exps") and more_bits:
        type = mix.better
    return FALLBACK[type] if width % type.block_size else type


def tensors(shape: ModelShape, mix: Mix, seed: int) -> Iterator[TensorSource]:
    """All tensors in the usual order, each made when it is written."""

    def source(
        name: str, size: tuple[int, ...], type: GGMLType, make: Callable[..., NDArray[np.uint8]]
    ) -> TensorSource:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return name, size, type, functools.partial(make, size, type, rng)

    def matrix(name: str, rows: int, width: int, layer: int = 0) -> TensorSource:
        part = name.rsplit(".", 1)[-1]
        type = matrix_type(mix, part, width, layer, shape)
        return source(f"{name}.weight", (rows, width), type, _random_matrix)

    def experts(name: str, rows: int, width: int, layer: int) -> TensorSource:
        type = matrix_type(mix, name.rsplit(".", 1)[-1], width, layer, shape)
        return source(f"{name}.weight", (shape.experts, rows, width), type, _random_matrix)

    def vector(name: str, width: int, mean: float) -> TensorSource:
        return source(name, (width,), GGMLType.F32, functools.partial(_random_vector, mean))

    hidden, q_rows = shape.hidden, shape.heads * shape.width_of_head
    kv_rows = shape.kv_heads * shape.width_of_head
    yield matrix("token_embd", shape.vocab, hidden)
    for i in range(shape.layers):
        w = f"blk.{i}"
        yield vector(f"{w}.attn_norm.weight", hidden, 1.0)
        for part, rows in (("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)):
            yield matrix(f"{w}.{part}", rows, hidden, i)
            if shape.architecture == "qwen2":
                yield vector(f"{w}.{part}.bias", rows, 0.0)
        if shape.architecture == "qwen3moe":
            yield vector(f"{w}.attn_q_norm.weight", shape.width_of_head, 1.0)
            yield vector(f"{w}.attn_k_norm.weight", shape.width_of_head, 1.0)
        yield matrix(f"{w}.attn_output", hidden, q_rows, i)
        yield vector(f"{w}.ffn_norm.weight", hidden, 1.0)
        if shape.experts:
            router = (shape.experts, hidden)
            yield source(f"{w}.ffn_gate_inp.weight", router, GGMLType.F32, _random_matrix)
            yield experts(f"{w}.ffn_gate_exps", shape.expert_ffn, hidden, i)
            yield experts(f"{w}.ffn_up_exps", shape.expert_ffn, hidden, i)
            yield experts(f"{w}.ffn_down_exps", hidden, shape.expert_ffn, i)
            continue
        yield matrix(f"{w}.ffn_gate", shape.ffn, hidden, i)
        yield matrix(f"{w}.ffn_up", shape.ffn, hidden, i)
        yield matrix(f"{w}.ffn_down", hidden, shape.ffn, i)
    yield vector("output_norm.weight", hidden, 1.0)
    if not shape.tied:
        yield matrix("output", shape.vocab, hidden)


def _random_matrix(
    size: tuple[int, ...], type: GGMLType, rng: np.random.Generator
) -> NDArray[np.uint8]:
    return random_blocks(type, size, rng, size[-1] ** -0.5)


def _random_vector(
    mean: float, size: tuple[int], type: GGMLType, rng: np.random.Generator
) -> NDArray[np.uint8]:
    values = rng.standard_normal(size, np.float32) * np.float32(0.1) + np.float32(mean)
    return values.astype("<f4").view(np.uint8)


def metadata(name: str, shape: ModelShape, mix: Mix, tokenizer: GGUFFile) -> dict[str, Typed]:
    """The model's own keys, then the tokenizer's, padded to the vocabulary of the shape."""
    a = shape.architecture
    values = {
        "general.architecture": Typed(a, "str"),
        "general.type": Typed("model", "str"),
        "general.name": Typed(f"random {name}", "str"),
        "general.file_type": Typed(mix.file_type, "u32"),
        "general.quantization_version": Typed(2, "u32"),
        f"{a}.block_count": Typed(shape.layers, "u32"),
        f"{a}.context_length": Typed(shape.context, "u32"),
        f"{a}.embedding_length": Typed(shape.hidden, "u32"),
        f"{a}.feed_forward_length": Typed(shape.ffn, "u32"),
        f"{a}.attention.head_count": Typed(shape.heads, "u32"),
        f"{a}.attention.head_count_kv": Typed(shape.kv_heads, "u32"),
        f"{a}.attention.layer_norm_rms_epsilon": Typed(NORM_EPS, "f32"),
        f"{a}.rope.freq_base": Typed(shape.rope_base, "f32"),
    }
    if a == "llama":
        values[f"{a}.rope.dimension_count"] = Typed(shape.width_of_head, "u32")
        values[f"{a}.vocab_size"] = Typed(shape.vocab, "u32")
    if shape.head_dim is not None:
        values[f"{a}.attention.key_length"] = Typed(shape.head_dim, "u32")
        values[f"{a}.attention.value_length"] = Typed(shape.head_dim, "u32")
    if shape.experts:
        values[f"{a}.expert_count"] = Typed(shape.experts, "u32")
        values[f"{a}.expert_used_count"] = Typed(shape.experts_used, "u32")
        values[f"{a}.expert_feed_forward_length"] = Typed(shape.expert_ffn, "u32")
    for key, value in tokenizer.typed_metadata.items():
        if key.startswith("tokenizer."):
            values[key] = value
    tokens = list(values["tokenizer.ggml.tokens"].value)
    missing = shape.vocab - len(tokens)
    if missing < 0:
        raise SystemExit(f"the tokenizer has {len(tokens)} tokens, more than {shape.vocab}")
    tokens += [f"[PAD{i}]" for i in range(len(tokens), shape.vocab)]
    kinds = [*values["tokenizer.ggml.token_type"].value, *[UNUSED_TOKEN] * missing]
    values["tokenizer.ggml.tokens"] = Typed(tokens, "str")
    values["tokenizer.ggml.token_type"] = Typed(kinds, "i32")
    return values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the GGUF file to write")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--type", choices=MIXES, default="q4_k_m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tokenizer",
        default=TOKENIZER,
        help="model whose tokenizer is taken (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    shape, mix = SHAPES[options.shape], MIXES[options.type]

    def show(event: ProgressEvent) -> None:
        if sys.stderr.isatty():
            print(f"\r{100 * (event.fraction or 0):5.1f} %", end="", file=sys.stderr)

    try:
        with GGUFFile.open(resolve(options.tokenizer).path) as tokenizer:
            keys = metadata(options.shape, shape, mix, tokenizer)
            write_gguf(options.path, keys, tensors(shape, mix, options.seed), progress=show)
    except TektraError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    print(f"\r{options.path}: {options.path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
