"""The graph: what a model computes, without a word about where or for whom."""

from tektra.graph.graph import Graph, LayerWeights
from tektra.graph.specs import Activation, AttentionSpec, EmbedBy, RopeLayout, RopeScaling, RopeSpec
from tektra.graph.values import OutputName, RowSpace, Value

__all__ = [
    "Activation",
    "AttentionSpec",
    "EmbedBy",
    "Graph",
    "LayerWeights",
    "OutputName",
    "RopeLayout",
    "RopeScaling",
    "RopeSpec",
    "RowSpace",
    "Value",
]
