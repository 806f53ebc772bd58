"""The graph: what a model computes, without a word about where or for whom."""

from tektra.graph.graph import Graph, LayerWeights
from tektra.graph.specs import (
    Activation,
    AttentionSpec,
    ClampedGate,
    EmbedBy,
    MoeSpec,
    RopeLayout,
    RopeScaling,
    RopeSpec,
    Scoring,
)
from tektra.graph.values import OutputName, RowSpace, Value

__all__ = [
    "Activation",
    "AttentionSpec",
    "ClampedGate",
    "EmbedBy",
    "Graph",
    "LayerWeights",
    "MoeSpec",
    "OutputName",
    "RopeLayout",
    "RopeScaling",
    "RopeSpec",
    "RowSpace",
    "Scoring",
    "Value",
]
