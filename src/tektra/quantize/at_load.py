"""Float weights that are quantized while a model is loaded, for `--quant`.

It knows what to leave alone; loading sees a model of other types.
"""

from __future__ import annotations

from tektra.errors import InvalidParameterError
from tektra.quantize.encode import Encoder
from tektra.quantize.mixes import FLOATS, choose_types
from tektra.quantize.recipe import Recipe
from tektra.quantize.view import QuantizedView, Source

__all__ = ["quantized"]


def quantized(file: Source, mix: str | None, threads: int) -> Source:
    """A model as it is, or with its float matrices in the types of a mix.

    Matrices that are quantized already stay as they are.

    Args:
        file: the model, open.
        mix: as `Recipe.of` takes it; None for the model as it is.
        threads: that quantize.

    Raises:
        InvalidParameterError: there is no such mix, or the model has no float matrices.
    """
    if mix is None:
        return file
    recipe = Recipe.of(mix, parameter="quant")
    types = choose_types(file.metadata, file.tensors, recipe, importance=False)
    for name, info in file.tensors.items():
        if info.type not in FLOATS:
            types[name] = info.type
    if not any(types[name] is not info.type for name, info in file.tensors.items()):
        kinds = sorted({info.type.name for info in file.tensors.values() if len(info.shape) > 1})
        raise InvalidParameterError(
            "quant",
            f"{file.path.name} has nothing to quantize to {mix}: its matrices are "
            f"{', '.join(kinds)} already",
            remedy="leave it out, and unset TEKTRA_QUANT",
        )
    return QuantizedView(file, types, Encoder(threads), recipe=recipe.describe())
