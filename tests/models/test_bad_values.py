"""Each value that metadata or config.json of each architecture holds, made wrong in turn.

Whatever it is, loading ends in a typed error, or the value is one that a model may have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens import encoder_model
from tests.goldens.variants_encoder import ENCODERS
from tests.models.bad_values import BAD, changed, headers
from tests.models.small_models import MODELS

from tektra.engine.model_files import open_model
from tektra.errors import TektraError
from tektra.models.base import draw

UNREAD = {"pad_token_id"}
"""Numbers of config.json that say nothing of what a model computes."""

Sources = dict[str, tuple[dict[str, Any], Mapping[str, NDArray[Any]]]]

METADATA: Sources = {
    name: (model.metadata, model.family.gguf_weights(model.variant))
    for name, model in MODELS.items()
} | {
    name: (encoder_model.gguf_metadata(v), encoder_model.gguf_weights(v))
    for name, v in ENCODERS.items()
}
CONFIGS: Sources = {
    name: (dict(model.family.config(model.variant)), model.family.weights(model.variant))
    for name, model in MODELS.items()
} | {
    name: (encoder_model.config_json(v), encoder_model.checkpoint_weights(v))
    for name, v in ENCODERS.items()
}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name: str) -> None:
    metadata, weights = METADATA[name]
    tensors = headers(weights)
    draw(metadata, tensors)
    for key, value in metadata.items():
        for bad in BAD:
            try:
                draw(changed(metadata, key, bad), tensors)
            except TektraError:
                continue
            # A number that is read is neither a text nor no number.
            assert not (is_number(value) and bad in ("string", "nan")), f"{key}: {bad} is taken"


@pytest.mark.parametrize("name", CONFIGS)
def test_config(name: str, tmp_path: Path) -> None:
    config, weights = CONFIGS[name]
    folder = tmp_path / "model"
    write_checkpoint(folder, config, weights)
    written = (folder / "config.json").read_bytes()
    for key, value in config.items():
        for bad in BAD:
            write_config(folder, changed(config, key, bad))
            try:
                with open_model(folder) as file:
                    draw(file.metadata, file.tensors)
            except TektraError:
                continue
            read = is_number(value) and key not in UNREAD
            assert not (read and bad in ("string", "nan")), f"{key}: {bad} is taken"
    (folder / "config.json").write_bytes(written)
    with open_model(folder) as file:
        draw(file.metadata, file.tensors)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(dict(config)))
