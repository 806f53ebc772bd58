"""Reading well-formed files: written by the gguf package, by hand, and the real model."""

from __future__ import annotations

import gc
import os
import struct
import weakref
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from tektra.errors import FormatError, ModelNotFoundError, UnsupportedModelError
from tektra.formats import GGUFFile
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import GGUFArray, ValueType


def write_with_package(path: Path, num_layers: int = 2, tokens: int = 300) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(num_layers)
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_bool("bool", False)
    writer.add_string("empty", "")
    writer.add_token_list([f"tok{i}\u00e9" for i in range(tokens)])
    writer.add_token_scores([i / 7 for i in range(tokens)])
    writer.add_token_types([i % 6 for i in range(tokens)])
    writer.add_array("bools", [True, False, True])
    rng = np.random.default_rng(1)
    writer.add_tensor("token_embd.weight", rng.standard_normal((5, 64), np.float32))
    writer.add_tensor("norm", rng.standard_normal(7).astype(np.float16))
    writer.add_tensor("conv", rng.standard_normal((2, 3, 4, 32), np.float32))
    blocks = gguf.quants.quantize(
        rng.standard_normal((3, 64), np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("q8", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def assert_same_as_package(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    with GGUFFile.open(path) as ours:
        fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
        assert list(ours.metadata) == list(fields)
        for key, value in ours.metadata.items():
            expected = fields[key].contents()
            assert value == expected, key
            if isinstance(value, GGUFArray):
                assert [value[0], value[-1]] == [expected[0], expected[-1]]
        assert list(ours.tensors) == [t.name for t in reader.tensors]
        for theirs in reader.tensors:
            info = ours.tensors[theirs.name]
            assert info.shape == tuple(reversed(theirs.shape.tolist()))
            assert info.type.value == theirs.tensor_type.value
            assert (info.offset, info.nbytes) == (theirs.data_offset, theirs.n_bytes)
            assert info.num_elements == theirs.n_elements
            assert ours.tensor_bytes(info.name).tobytes() == theirs.data.tobytes()


def test_file_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_with_package(path)
    assert_same_as_package(path)
    with GGUFFile.open(path) as model:
        assert model.version == 3
        assert model.path == path
        assert model.paths == (path,)
        assert model.file_bytes == path.stat().st_size
        assert model.tensors["conv"].shape == (2, 3, 4, 32)
        assert model.dequantize("conv").shape == (2, 3, 4, 32)
        assert model.dequantize("norm").dtype == np.float32


def test_real_model(smollm2_path: Path) -> None:
    assert_same_as_package(smollm2_path)


def test_opening_a_string_path(smollm2_path: Path) -> None:
    with GGUFFile.open(str(smollm2_path)) as model:
        assert model.metadata["general.architecture"] == "llama"


def test_every_value_type(tmp_path: Path, small_model: bytes) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(small_model)
    scalars = {
        0: 7,
        1: -7,
        2: 65535,
        3: -32768,
        4: 2**32 - 1,
        5: -(2**31),
        6: 0.5,
        7: True,
        8: "text \u00e9",
        10: 2**64 - 1,
        11: -(2**63),
        12: 1e300,
    }
    with GGUFFile.open(path) as model:
        for type_id, value in scalars.items():
            found = model.metadata[f"scalar.{type_id}"]
            assert found == value
            assert type(found) is type(value)
            items = model.metadata[f"array.{type_id}"]
            assert isinstance(items, GGUFArray)
            assert items.element_type == type_id
            assert items == [value] * 3
            assert [*items] == items[0:3] == items.tolist()
            assert len(items) == 3
            if type_id != ValueType.STRING:
                assert items.numpy().tolist() == [value] * 3
                assert not items.numpy().flags.writeable
                assert items.numpy().flags.aligned
        tokens = model.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, GGUFArray)
        raw = [b"<unk>", b"", b"a", "\u4e2d".encode(), b"\x00" * 9, b"x" * 300, b"\xff\xfe"]
        assert tokens.bytes_list() == raw
        assert tokens[3] == "\u4e2d"
        assert tokens[-1].encode("utf-8", "surrogateescape") == b"\xff\xfe"
        assert model.metadata["nested"] == [[1, 2], ["n"]]
        for index in (7, -8):
            with pytest.raises(IndexError, match="7 items"):
                tokens[index]
        with pytest.raises(TypeError, match="no NumPy form"):
            tokens.numpy()
        with pytest.raises(TypeError, match="no strings"):
            model.metadata["array.5"].bytes_list()  # type: ignore[union-attr]
        assert tokens != ["other"]
        assert "7 items" in repr(tokens)


def test_version_2(tmp_path: Path, small_model: bytes) -> None:
    path = tmp_path / "v2.gguf"
    path.write_bytes(small_model[:4] + struct.pack("<I", 2) + small_model[8:])
    with GGUFFile.open(path) as model:
        assert model.version == 2
        assert len(model.tensors) == 3


def test_scalar_tensor_and_no_tensors(tmp_path: Path, gguf_bytes: SimpleNamespace) -> None:
    path = tmp_path / "scalar.gguf"
    data = struct.pack("<f", 2.5)
    path.write_bytes(gguf_bytes.Craft(tensors=[gguf_bytes.tensor("t", [])], data=data).bytes())
    with GGUFFile.open(path) as model:
        assert model.tensors["t"].shape == ()
        assert model.dequantize("t") == np.float32(2.5)
    path.write_bytes(gguf_bytes.Craft().bytes())
    with GGUFFile.open(path) as model:
        assert not model.tensors
        assert not model.metadata


def test_no_copies(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_with_package(path)
    model = GGUFFile.open(path)
    first, second = model.tensor_bytes("q8"), model.tensor_bytes("q8")
    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    assert np.shares_memory(first, model._files[0].raw)
    view = first.view(np.uint8)
    model.close()
    model.close()
    assert view.sum() == second.sum()  # the mapping lives on under a view of it
    with pytest.raises(ValueError, match="was closed"):
        model.tensor_bytes("q8")


def test_mapping_goes_when_the_model_does(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_with_package(path)
    model = GGUFFile.open(path)
    mapping = weakref.ref(model._files[0].raw.base.obj)  # type: ignore[union-attr]
    model.close()
    del model
    gc.collect()
    assert mapping() is None


def test_unknown_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_with_package(path)
    with GGUFFile.open(path) as model:
        for read in (model.tensor_bytes, model.dequantize):
            with pytest.raises(FormatError, match=r"model\.gguf has no tensor 'missing'"):
                read("missing")


def test_undecodable_type_opens_but_does_not_decode(
    tmp_path: Path, gguf_bytes: SimpleNamespace
) -> None:
    path = tmp_path / "iq.gguf"
    tensors = [gguf_bytes.tensor("w", [256], GGMLType.I16)]
    path.write_bytes(gguf_bytes.Craft(tensors=tensors, data=bytes(512)).bytes())
    with GGUFFile.open(path) as model:
        assert model.tensors["w"].nbytes == 512
        with pytest.raises(UnsupportedModelError, match=r"'w' has the type I16.*Q4_K"):
            model.dequantize("w")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(10)
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(FormatError, match="is not a file"):
        GGUFFile.open(tmp_path / "pipe.gguf")


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no file .*nothing\.gguf"):
        GGUFFile.open(tmp_path / "nothing.gguf")
    with pytest.raises(FormatError, match="is not a file"):
        GGUFFile.open(tmp_path)
    with pytest.raises(FormatError, match="cannot be read: embedded null"):
        GGUFFile.open("a\x00b")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(FormatError, match=r"empty\.gguf is empty"):
        GGUFFile.open(tmp_path / "empty.gguf")
