"""A6, A7, A8: a model is data. Nothing in its files is run, and its template has its limits.

The canary is a file that any of the payloads would make. What Python itself is asked to do while
a model loads and answers is watched by an audit hook, in a process of its own.
"""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.robustness.model_files import rewrite
from tests.robustness.processes import run_python

from tektra import LLM
from tektra.errors import TektraError, TemplateError, TemplateLimitError

OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 1, "context": 128}
HELLO = [{"role": "user", "content": "hello"}]
TEMPLATE = "tokenizer.chat_template"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def audited(path: Path) -> dict[str, Any]:
    result = run_python("tests.robustness.audited_load", json.dumps({"path": str(path)}))
    assert result.returncode == 0, result.stderr
    seen: dict[str, Any] = json.loads(result.stdout)
    return seen


def bystanders(folder: Path, canary: Path) -> None:
    """Files that other programs would run or unpickle when they load a model from a folder."""
    code = f"open({str(canary)!r}, 'w').write('ran')\n"
    auto_map = {"AutoConfig": "configuration_evil.Config", "AutoModel": "modeling_evil.Model"}
    config = {"architectures": ["Evil"], "model_type": "evil", "auto_map": auto_map}
    for name in ("modeling_evil", "configuration_evil", "__init__", "sitecustomize", "tektra"):
        (folder / f"{name}.py").write_text(code)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    (folder / "pytorch_model.bin").write_bytes(pickled(canary))


class Payload:
    """Writes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.canary, "ran")


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


def test_the_canary_sings(canary: Path) -> None:
    """The payload works, so that its silence below means something."""
    pickle.loads(pickled(canary))
    assert canary.exists()


def test_nothing_is_run(tiny: Path, tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    bystanders(folder, canary)
    more = {
        "general.auto_map": "modeling_evil.Model",
        "general.source.url": "https://127.0.0.1:9/evil",
        "tokenizer.huggingface.json": json.dumps({"auto_map": {"x": "modeling_evil.Model"}}),
    }
    rewrite(tiny, folder / "model.gguf", more)
    for path in (folder, folder / "model.gguf"):
        seen = audited(path)
        assert seen["outcome"] == "loaded"
        assert not canary.exists()
        assert seen["events"] == {}
        assert seen["imports"] == []
        # The chat template is compiled, from a syntax tree of Jinja's making; nothing else is.
        assert set(seen["compiled"]) <= {"<template>", "<unknown>"}
        assert seen["written"] == []


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model.pt", "model.pth", "model.ckpt"])
@pytest.mark.parametrize("kind", ["pickle", "zip", "pickle after GGUF"])
def test_pickles_are_not_opened(name: str, kind: str, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / name
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled(canary))
    else:
        path.write_bytes((b"GGUF" if "GGUF" in kind else b"") + pickled(canary))
    for reference in (path, str(path)):
        with pytest.raises(TektraError, match=r"model\.\w+"):
            LLM(reference, **OPTIONS)
    assert not canary.exists()


def test_a_folder_of_pickles_is_no_model(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    bystanders(folder, canary)
    seen = audited(folder)
    assert "pickled checkpoint" in seen["outcome"]
    assert seen["events"] == {}
    assert not canary.exists()


REACHING = [
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "{{ messages[0].__class__.__base__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
]


@pytest.mark.parametrize("source", REACHING)
def test_a_template_in_the_file_reaches_nothing(
    source: str, tiny: Path, tmp_path: Path, canary: Path
) -> None:
    """A7: and what needs no template goes on working."""
    path = rewrite(tiny, tmp_path / "m.gguf", {TEMPLATE: source.replace("CANARY", str(canary))})
    with LLM(path, **OPTIONS) as llm:
        with pytest.raises(TemplateError):
            llm.chat(HELLO)
        assert llm.generate("hello", max_tokens=2).completion_tokens
    assert not canary.exists()


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(s='a' * 99) %}{% for i in range(99) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "output": "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_end_is_stopped_and_others_go_on(
    kind: str, tiny: Path, tmp_path: Path
) -> None:
    """A8: a stream of the same model runs before, meanwhile and after."""
    path = rewrite(tiny, tmp_path / "m.gguf", {TEMPLATE: ENDLESS[kind]})
    with LLM(path, **OPTIONS) as llm:
        alone = llm.generate("hello", max_tokens=100, temperature=0.0, ignore_eos=True)
        stop, answers, slowest = threading.Event(), [], 0.0

        def others() -> None:
            nonlocal slowest
            while not stop.is_set():
                started = time.perf_counter()
                answers.append(
                    llm.generate("hello", max_tokens=100, temperature=0.0, ignore_eos=True)
                )
                slowest = max(slowest, time.perf_counter() - started)

        thread = threading.Thread(target=others)
        thread.start()
        try:
            for _ in range(3):
                started = time.perf_counter()
                with pytest.raises(TemplateLimitError):
                    llm.chat(HELLO)
                assert time.perf_counter() - started < 5
        finally:
            stop.set()
            thread.join()
        assert answers
        assert all(answer.token_ids == alone.token_ids for answer in answers)
        assert slowest < 5


def test_a_template_that_is_too_long(tiny: Path, tmp_path: Path) -> None:
    path = rewrite(tiny, tmp_path / "m.gguf", {TEMPLATE: "{{ 'x' }}" * 100_000})
    with LLM(path, **OPTIONS) as llm, pytest.raises(TemplateError, match="900000 characters"):
        llm.chat(HELLO)


def test_templates_beside_the_file_are_not_read(tiny: Path, tmp_path: Path) -> None:
    """Only what the file itself holds is a part of the model."""
    shutil.copyfile(tiny, tmp_path / "model.gguf")
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('read') }}")
    with LLM(tmp_path / "model.gguf", **OPTIONS) as llm:
        assert llm.chat(HELLO, max_tokens=1).completion_tokens == 1
