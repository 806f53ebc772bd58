"""How the text of a model reference is read, and which names are refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tektra.errors import ModelReferenceError
from tektra.hub import (
    AliasReference,
    HttpReference,
    HubReference,
    OllamaReference,
    PathReference,
    parse_reference,
)

DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.parametrize(
    "text",
    ["./model.gguf", "model.gguf", "MODEL.GGUF", "a/b", "/a/b", "./smollm2", ".", "..", "a:b/c"],
)
def test_paths(text: str) -> None:
    assert parse_reference(text) == PathReference(Path(text))


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USERPROFILE", "/home/ada")
    assert parse_reference("~/m.gguf") == PathReference(Path("/home/ada/m.gguf"))
    with pytest.raises(ModelReferenceError, match="home directory"):
        parse_reference("~nobody-of-this-name/m.gguf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2", AliasReference("smollm2", None)),
        ("smollm2:135m", AliasReference("smollm2", "135m")),
        ("SmolLM2:135M", AliasReference("smollm2", "135m")),
        ("qwen2.5-coder:0.5b-q4_k_m", AliasReference("qwen2.5-coder", "0.5b-q4_k_m")),
    ],
)
def test_aliases(text: str, expected: AliasReference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:owner/repo", HubReference("owner", "repo", None, None)),
        ("hf:o/r/m.gguf", HubReference("o", "r", None, "m.gguf")),
        ("HF:o/r@main/sub/m.gguf", HubReference("o", "r", "main", "sub/m.gguf")),
        ("hf:o/r@refs%2Fpr%2F1/m.gguf", HubReference("o", "r", "refs/pr/1", "m.gguf")),
        ("hf:HuggingFaceTB/SmolLM2.x_1-GGUF@0a1b", HubReference(
            "HuggingFaceTB", "SmolLM2.x_1-GGUF", "0a1b", None)),
    ],
)  # fmt: skip
def test_hub_references(text: str, expected: HubReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected, "what is shown can be given again"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org/a/m.gguf", HttpReference(
            "https://example.org/a/m.gguf", "m.gguf", None)),
        ("https://example.org/my%20m.gguf?x=1", HttpReference(
            "https://example.org/my%20m.gguf?x=1", "my m.gguf", None)),
        (f"https://example.org/m.gguf#sha256={DIGEST.upper()}", HttpReference(
            "https://example.org/m.gguf", "m.gguf", DIGEST)),
        ("http://127.0.0.1:8000/m.gguf", HttpReference(
            "http://127.0.0.1:8000/m.gguf", "m.gguf", None)),
    ],
)  # fmt: skip
def test_http_references(text: str, expected: HttpReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ollama:llama3", OllamaReference(None, "library", "llama3", "latest")),
        ("ollama:llama3:8b", OllamaReference(None, "library", "llama3", "8b")),
        ("ollama:me/mine:q4", OllamaReference(None, "me", "mine", "q4")),
        ("ollama:h:5000/me/mine", OllamaReference("h:5000", "me", "mine", "latest")),
    ],
)
def test_ollama_references(text: str, expected: OllamaReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


UNSAFE_NAMES = [
    "..", ".", "a\\b", "C:x", "nul", "NUL.gguf", "com1.txt", "a?b", "a*b", "a|b", "a<b", 'a"b',
    "trailing.", "trailing ", " leading", "-rf", "~x", "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_names_that_are_not_safe_as_files_are_refused(name: str) -> None:
    with pytest.raises(ModelReferenceError):
        parse_reference(f"hf:owner/repo/{name}")
    with pytest.raises(ModelReferenceError):
        parse_reference(f"hf:owner/repo/{name}/m.gguf")
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    with pytest.raises(ModelReferenceError):
        parse_reference(f"https://example.org/a/{encoded}")


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "a\x00b", "a\nb.gguf", "a\x1b[31m/x", "x" * 5000, "Ärger", "a b", ":tag",
        "name:", "a:b:c",
        "hf:", "hf:owner", "hf:/repo", "hf:owner/", "hf:owner/repo/", "hf:owner/repo//x",
        "hf:../repo/x", "hf:owner/..", "hf:owner/re--po", "hf:-owner/repo", "hf:owner/repo@",
        "hf:owner/repo@../x/y", "hf:owner/repo@%ff/x", "hf:owner/repo@..%2F..%2Fetc/x",
        "hf:o wner/repo", "hf:owner/" + "r" * 200,
        "https://", "https:///m.gguf", "https://example.org", "https://example.org/",
        "https://example.org/a/", "https://user:secret@example.org/m.gguf",
        "https://example.org/m.gguf#main", "https://example.org/m.gguf#sha256=12",
        "https://example.org:99999/m.gguf", "https://[::1/m.gguf", "https://example.org/%ff",
        "http://example.org/m.gguf", "https://example.org/a b",
        "ollama:", "ollama:/x", "ollama:a/b/c/d", "ollama:../x", "ollama:a:b:c", "ollama:x:",
        "file:///etc/passwd", "s3://bucket/m.gguf", "ftp://example.org/m.gguf",
    ],
)  # fmt: skip
def test_what_is_not_a_reference(text: str) -> None:
    with pytest.raises(ModelReferenceError) as caught:
        parse_reference(text)
    message = str(caught.value)
    assert len(message) < 500
    assert message.isprintable(), "a message must not carry control characters to a terminal"


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ModelReferenceError) as caught:
        parse_reference("https://user:hunter2@example.org/m.gguf")
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ModelReferenceError):
        parse_reference(text)


@given(
    st.sampled_from(["hf:", "hf:o/r/", "hf:o/r@", "https://h/", "ollama:", "ollama:h/n/"]),
    st.text(alphabet=st.sampled_from("ab./\\:@%~- #?2F0\u00e9"), max_size=20),
)
def test_no_name_that_is_accepted_leaves_its_folder(prefix: str, rest: str) -> None:
    try:
        reference = parse_reference(prefix + rest)
    except ModelReferenceError:
        return
    names = {
        HubReference: lambda r: [r.owner, r.repo, *(r.file or "x").split("/")],
        HttpReference: lambda r: [r.file],
        OllamaReference: lambda r: [r.namespace, r.model, r.tag],
    }[type(reference)](reference)
    for name in names:
        assert name not in {"", ".", ".."}
        assert "/" not in name
        assert "\\" not in name
