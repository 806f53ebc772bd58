"""The tracer: shapes, names, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tektra.errors import FormatError
from tektra.graph import Activation, AttentionSpec, Graph, RopeLayout, RopeSpec, RowSpace, ops

SHAPES: dict[str, tuple[int, ...]] = {
    "embd": (50, 64),
    "narrow": (50, 32),
    "blk.3.q.weight": (64, 64),
    "blk.3.k.weight": (32, 64),
    "blk.3.k.bias": (32,),
    "short.weight": (8, 64),
    "short.bias": (9,),
    "norm.weight": (64,),
    "norm.bias": (64,),
    "head": (16,),
    "odd": (24,),
    "cube": (2, 3, 64),
    "factors": (8,),
    "sinks": (4,),
}


@pytest.fixture
def g() -> Graph:
    return Graph(SHAPES)


def test_widths_and_row_spaces(g: Graph) -> None:
    x = g.embed("embd")
    assert (x.rows, x.width) == (RowSpace.TOKENS, 64)
    w = g.layer(3)
    q, k = g.linear(x, w["q"], w["k"])
    assert (q.width, k.width) == (64, 32)
    selected = g.select_outputs(k)
    assert (selected.rows, selected.width) == (RowSpace.OUTPUTS, 32)
    assert [v.id for v in g.values] == list(range(len(g.values)))


def test_biases_are_found_by_name(g: Graph) -> None:
    w = g.layer(3)
    g.linear(g.embed("embd"), w["q.weight"], w["k"])
    op = g.ops[-1]
    assert isinstance(op, ops.Linear)
    assert op.weights == ("blk.3.q.weight", "blk.3.k.weight")
    assert op.biases == (None, "blk.3.k.bias")


def test_weight_names_are_in_order_and_once(g: Graph) -> None:
    x = g.embed("embd")
    x = g.layer_norm(x, "norm", 1e-5)
    x = g.rms_norm(x, "head", 1e-5, group=16)
    x = g.rope(x, RopeSpec(16, 16, 1e4, RopeLayout.HALF, freq_factors="factors"))
    k = g.linear(x, "blk.3.k")
    g.attention(x, k, k, layer=0, spec=AttentionSpec(4, 2, 16, sinks="sinks"))
    g.embed("embd")
    assert g.weight_names == [
        "embd",
        "norm.weight",
        "norm.bias",
        "head",
        "factors",
        "blk.3.k.weight",
        "blk.3.k.bias",
        "sinks",
    ]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g, x: g.embed("absent"), "no tensor 'absent'"),
        (lambda g, x: g.embed("odd"), "'odd' has shape"),
        (lambda g, x: g.linear(x, "absent"), r"no tensor 'absent\.weight'"),
        (lambda g, x: g.linear(g.embed("narrow"), "blk.3.q"), r"'blk\.3\.q\.weight' has shape"),
        (lambda g, x: g.linear(x, "short"), r"'short\.bias' has shape"),
        (lambda g, x: g.rms_norm(x, "head", 1e-5), "'head' has shape"),
        (lambda g, x: g.rms_norm(x, "embd", 1e-5), "'embd' has shape"),
        (lambda g, x: g.rms_norm(x, "odd", 1e-5, group=16), "'odd' has shape"),
        (lambda g, x: g.add(x, g.embed("narrow")), "'embd'.*'narrow'.*64 and 32 wide"),
        (
            lambda g, x: g.gated(g.linear(x, "blk.3.k"), x, Activation.SILU),
            r"'blk\.3\.k\.weight'.*'embd'",
        ),
        (
            lambda g, x: g.attention(x, x, x, layer=0, spec=AttentionSpec(4, 2, 16)),
            "64, 64 and 64 wide",
        ),
    ],
)
def test_files_that_do_not_fit(g: Graph, draw: Callable[..., object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        draw(g, g.embed("embd"))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g, x: g.select_outputs(g.select_outputs(x)), "only token rows"),
        (lambda g, x: g.output("logits", x), "must have output rows"),
        (lambda g, x: g.rms_norm(x, "head", 1e-5, group=24), "do not divide"),
        (
            lambda g, x: g.rope(g.select_outputs(x), RopeSpec(16, 16, 1e4, RopeLayout.HALF)),
            "needs token rows",
        ),
        (lambda g, x: g.rope(x, RopeSpec(24, 24, 1e4, RopeLayout.HALF)), "does not fit"),
        (lambda g, x: g.rope(x, RopeSpec(16, 15, 1e4, RopeLayout.HALF)), "does not fit"),
        (lambda g, x: g.rope(x, RopeSpec(16, 32, 1e4, RopeLayout.HALF)), "does not fit"),
        (
            lambda g, x: g.attention(x, x, x, layer=0, spec=AttentionSpec(4, 3, 16)),
            "cannot share",
        ),
    ],
)
def test_mistakes_in_an_architecture(g: Graph, draw: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(g, g.embed("embd"))
