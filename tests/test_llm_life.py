"""The life of an `LLM`: options, loading, status, closing, being forgotten, being forked."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.tiny_model import (
    CONTEXT,
    VOCAB,
    WIDTH,
    write_tiny_model,
)
from tests.fixtures.waiting import wait_for

import tektra
from tektra import (
    LLM,
    CancelledError,
    CancelToken,
    InvalidParameterError,
    ModelNotFoundError,
    ProgressEvent,
    RequestError,
    SamplingParams,
    TokenizerError,
)
from tektra.backends.cpu import native_core
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import TensorSource, write_gguf

DEVICES = ["reference", *(["cpu"] if native_core() else [])]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
LONG = "hello world, " * 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("llm") / "tiny.gguf")


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llm(model: Path, device: str) -> Iterator[LLM]:
    with LLM(model, device=device, threads=2) as loaded:
        yield loaded


MESSAGES = [{"role": "user", "content": "hello world"}]


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": True},
        {"context": 0},
        {"context": CONTEXT + 1},
        {"context": 1.5},
        {"max_batch": 0},
        {"max_batch": 600},
        {"max_rows": 0},
        {"seed": -1},
        {"device": "gpu"},
    ],
    ids=str,
)
def test_options_out_of_range(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameterError, match=next(iter(options))):
        LLM(model, **{"device": "reference", **options})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        LLM(tmp_path / "none.gguf")


def test_tokenizer_larger_than_the_embeddings(model: Path, tmp_path: Path) -> None:
    with GGUFFile.open(model) as file:
        metadata = file.typed_metadata
        tensors: list[TensorSource] = []
        for name, info in file.tensors.items():
            data = file.tensor_bytes(name)
            if name in ("token_embd.weight", "output.weight"):
                data = data[: VOCAB // 2 * WIDTH * 4]
                tensors.append((name, (VOCAB // 2, WIDTH), info.type, data))
            else:
                tensors.append((name, info.shape, info.type, data))
        write_gguf(tmp_path / "cut.gguf", metadata, tensors)
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.tokens"):
        LLM(tmp_path / "cut.gguf", device="reference")


def test_capabilities(llm: LLM, device: str) -> None:
    capabilities = llm.capabilities
    assert (capabilities.architecture, capabilities.name) == ("llama", "tiny")
    assert (capabilities.context, capabilities.model_context) == (CONTEXT, CONTEXT)
    assert (capabilities.vocab_size, capabilities.embedding_width) == (VOCAB, WIDTH)
    assert (capabilities.device, capabilities.threads) == (device, 2)
    assert capabilities.sampling == SamplingParams.parameter_names()
    assert capabilities.to_dict()["modalities"] == ("text",)
    assert llm.health().ok
    assert llm.stats().memory["weights"] > 0


def test_environment_stands_behind_options(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEKTRA_DEVICE", "reference")
    monkeypatch.setenv("TEKTRA_CONTEXT", "64")
    monkeypatch.setenv("TEKTRA_THREADS", "1")
    with LLM(model) as llm:
        c = llm.capabilities
        assert (c.device, c.context, c.threads) == ("reference", 64, 1)
    with LLM(model, context=96) as llm:
        assert llm.capabilities.context == 96


def test_close(tmp_path: Path, device: str) -> None:
    before = threading.active_count()
    # an answer that is not done before it is closed, however fast the machine
    model = write_tiny_model(tmp_path / "long.gguf", context=32_768)
    llm = LLM(model, device=device, context=32_768)
    stream = llm.generate("hello", stream=True, max_tokens=30_000, ignore_eos=True)
    next(stream)
    llm.close()
    llm.close()
    assert threading.active_count() == before
    rest = list(stream)
    assert rest[-1].finish_reason == "cancelled"
    assert llm.status == "closed"
    assert not llm.health().ok
    for call in (
        lambda: llm.generate("a"),
        lambda: llm.chat(MESSAGES),
        lambda: llm.tokenize("a"),
        lambda: llm.score("a"),
        lambda: llm.capabilities,
    ):
        with pytest.raises(RequestError, match="was closed"):
            call()


def test_memory_is_given_back(model: Path, device: str) -> None:
    llm = LLM(model, device=device)
    executable = weakref.ref(llm._runtime.ready().model.executable)
    llm.close()
    del llm
    gc.collect()
    assert executable() is None


def test_a_dropped_model_ends_its_threads(model: Path, device: str) -> None:
    llm = LLM(model, device=device)
    engine = llm._runtime.ready().engine
    del llm
    gc.collect()
    wait_for(lambda: not engine.alive)


def test_a_stream_keeps_its_model(model: Path, device: str) -> None:
    """Nobody but the iterator holds the model."""
    whole = LLM(model, device=device).generate("hello", **GREEDY)
    chunks = LLM(model, device=device).generate("hello", stream=True, **GREEDY)
    gc.collect()
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert whole.finish_reason == "length"


def test_progress_by_stage(model: Path, device: str) -> None:
    events: list[ProgressEvent] = []
    with LLM(model, device=device, progress=events.append):
        pass
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["map", "pack", "warm up"]
    for stage in stages:
        done = [event.done for event in events if event.stage == stage]
        assert done == sorted(done)
        assert [event for event in events if event.stage == stage][-1].fraction == 1.0


@pytest.mark.parametrize("stage", ["map", "pack", "warm up"])
def test_loading_can_be_cancelled(model: Path, device: str, stage: str) -> None:
    token = CancelToken()

    def progress(event: ProgressEvent) -> None:
        if event.stage == stage:
            token.cancel()

    before = threading.active_count()
    with pytest.raises(CancelledError):
        LLM(model, device=device, progress=progress, cancel=token)
    assert threading.active_count() == before


def test_loading_in_the_background(model: Path) -> None:
    gate = threading.Event()

    def progress(event: ProgressEvent) -> None:
        gate.wait(10)

    llm = LLM(model, device="reference", wait=False, progress=progress)
    assert llm.health().status == "loading"
    assert not llm.health().ok
    assert llm.stats().uptime_s == 0
    with pytest.raises(TimeoutError):
        llm.wait_ready(0.01)
    gate.set()
    llm.wait_ready()
    assert llm.status == "ready"
    llm.close()


def test_loading_in_the_background_fails(tmp_path: Path) -> None:
    llm = LLM(tmp_path / "none.gguf", wait=False)
    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            llm.generate("a")
    assert llm.status == "failed"
    assert "none.gguf" in str(llm.health().last_error)
    llm.close()


def test_close_while_loading(model: Path) -> None:
    inside, gate = threading.Event(), threading.Event()

    def progress(event: ProgressEvent) -> None:
        if event.stage == "pack":
            inside.set()
            gate.wait(10)

    llm = LLM(model, device="reference", wait=False, progress=progress)
    inside.wait(10)
    threading.Timer(0.05, gate.set).start()
    llm.close()
    assert llm.status == "closed"
    with pytest.raises(RequestError):
        llm.generate("a")


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    source = str(Path(tektra.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("wait", ["True", "False"])
def test_a_model_left_open_does_not_keep_the_interpreter(
    model: Path, device: str, wait: str
) -> None:
    result = run_python(
        f"""
        import sys
        from tektra import LLM
        llm = LLM(sys.argv[1], device=sys.argv[2], wait={wait})
        stream = llm.generate("hello", stream=True, max_tokens=250, ignore_eos=True)
        if {wait}:
            next(stream)
        print("end")
        """,
        model,
        device,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_told(model: Path) -> None:
    result = run_python(
        """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from tektra import LLM, RequestError
        llm = LLM(sys.argv[1], device="reference")
        if os.fork() == 0:
            try:
                llm.generate("a")
            except RequestError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        llm.close()
        """,
        model,
    )
    assert "before the process was forked" in result.stdout, result.stderr
    assert result.returncode == 0


def test_import_is_quick_and_names_are_there() -> None:
    result = run_python(
        """
        import sys, time
        start = time.perf_counter()
        import tektra
        print(time.perf_counter() - start)
        assert "numpy" not in sys.modules
        for name in tektra.__all__:
            getattr(tektra, name)
        assert set(tektra.__all__) <= set(dir(tektra))
        """
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.1
    with pytest.raises(AttributeError, match="no attribute 'LLMs'"):
        tektra.LLMs  # noqa: B018


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_loaded_model_lets_its_file_go(tmp_path: Path, device: str) -> None:
    path = write_tiny_model(tmp_path / "let-go.gguf")
    with LLM(path, device=device) as llm:
        if llm.capabilities.device == "cpu":  # the reference reads weights from the file
            assert path.name not in Path("/proc/self/maps").read_text()
        # what the tokenizers library is made from when it is needed is still there
        assert llm.tokenize("\U0001e900 he") == llm.tokenize("\U0001e900 he")
