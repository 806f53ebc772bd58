"""`tektra bench`: how many tokens per second a model runs on this machine.

It loads the model and shows the figures; `bench_runner.py` measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tektra.cli.options import (
    DeviceOption,
    JsonOption,
    KvTypeOption,
    ModelArgument,
    QuantOption,
    whole_number,
)
from tektra.cli.progress_bar import progress_bar
from tektra.cli.render import print_json
from tektra.cli.session import settings_from
from tektra.config import MAX_CONTEXT, MAX_THREADS
from tektra.errors import InvalidParameterError
from tektra.progress import ProgressEvent

if TYPE_CHECKING:
    from tektra.cli.bench_runner import BenchTest, Measurement
    from tektra.config import Settings
    from tektra.engine.loader import LoadedModel

__all__ = ["bench"]


def bench(
    model: ModelArgument,
    prefill: Annotated[
        str,
        typer.Option("--prefill", metavar="N,...", help="Tokens of a prompt. 0: not measured."),
    ] = "512",
    decode: Annotated[
        str,
        typer.Option("--decode", metavar="N,...", help="Tokens generated. 0: not measured."),
    ] = "128",
    depth: Annotated[
        str,
        typer.Option("--depth", metavar="N,...", help="Tokens in the cache before the test."),
    ] = "0",
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            metavar="N,...",
            help="Threads that compute. [default: TEKTRA_THREADS, else the physical cores]",
        ),
    ] = None,
    repetitions: Annotated[
        int,
        typer.Option(
            "--repetitions", "-r", callback=whole_number(1000), metavar="N", help="Timed runs."
        ),
    ] = 5,
    chunk: Annotated[
        int,
        typer.Option(
            "--chunk",
            callback=whole_number(65536),
            metavar="N",
            help="Tokens of a prompt in one step.",
        ),
    ] = 512,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Also the time of each op, and its share of what the machine can do."
        ),
    ] = False,
    device: DeviceOption = None,
    kv_type: KvTypeOption = None,
    quant: QuantOption = None,
    json: JsonOption = False,
) -> None:
    """Measure tokens per second.

    Prefill reads a prompt in chunks; decode runs one token at a time. Both run the model alone:
    tokenizer, sampler and scheduler are not in the figures. Each test runs once to warm up and
    then N times; the median and the spread are shown. Options with N,... take a list, and every
    combination is measured.
    """
    prefills = _numbers("--prefill", prefill, 0, MAX_CONTEXT)
    decodes = _numbers("--decode", decode, 0, MAX_CONTEXT)
    depths = _numbers("--depth", depth, 0, MAX_CONTEXT)
    thread_counts = _numbers("--threads", threads, 1, MAX_THREADS) if threads else []
    if not any(prefills) and not any(decodes):
        raise typer.BadParameter("both are 0: nothing to measure", param_hint="--prefill, --decode")
    report = _run(
        model,
        settings_from(device, kv_type=kv_type, quant=quant),
        lengths=(prefills, decodes, depths),
        thread_counts=thread_counts,
        repetitions=repetitions,
        chunk=chunk,
        profile=profile,
        quiet=json,
    )
    if json:
        print_json(report)


def _numbers(option: str, text: str, low: int, high: int) -> list[int]:
    """A list of whole numbers with commas between them, each once."""
    numbers = []
    for part in text.split(","):
        part = part.strip()
        if not re.fullmatch(r"[0-9]{1,10}", part) or not low <= int(part) <= high:
            raise typer.BadParameter(
                f"{part!r} is not a whole number from {low} to {high}", param_hint=option
            )
        numbers.append(int(part))
    return list(dict.fromkeys(numbers))


def _run(
    reference: str,
    settings: Settings,
    *,
    lengths: tuple[Sequence[int], Sequence[int], Sequence[int]],
    thread_counts: Sequence[int],
    repetitions: int,
    chunk: int,
    profile: bool,
    quiet: bool,
) -> dict[str, Any]:
    from tektra._version import __version__
    from tektra.cli.bench_runner import plan_tests
    from tektra.cli.machine import describe_machine

    tests = plan_tests(*lengths)
    results: list[Measurement] = []
    profiles: list[dict[str, Any]] = []
    backend, isa = "", None
    for threads in thread_counts or (settings.threads,):
        with _loaded(reference, settings, tests, threads, chunk) as model:
            backend, isa = model.backend, _isa(model)
            if profile and isa is None:
                raise InvalidParameterError(
                    "--profile",
                    f"the {backend} backend does not time its ops",
                    remedy="use --device cpu, where the native core is installed",
                )
            if not quiet and not results:
                _print_head(reference, backend, isa)
            for test in tests:
                results.append(_measure(model, test, repetitions))
                if not quiet:
                    _print_result(results[-1])
            if profile:
                profiles.extend(_profile(model, tests, repetitions, quiet))
    report = {
        "model": reference,
        "backend": backend,
        "isa": isa,
        "chunk": chunk,
        "kv_type": settings.kv_type,
        "sampler_included": False,
        "version": __version__,
        "machine": describe_machine().to_dict(),
        "results": [result.to_dict() for result in results],
    }
    return {**report, "profiles": profiles} if profile else report


@contextmanager
def _loaded(
    reference: str,
    settings: Settings,
    tests: Sequence[BenchTest],
    threads: int | None,
    chunk: int,
) -> Iterator[LoadedModel]:
    """The model, with a cache for the longest test; closed at the end."""
    from tektra.engine.loader import LoadOptions, load
    from tektra.progress import CancelToken

    options = LoadOptions(
        device=settings.device,
        threads=threads,
        context=max(test.context for test in tests),
        max_batch=1,
        max_rows=chunk,
        packed_cache=settings.packed_cache,  # one that is there is used; none is written
        kv_type=settings.kv_type,
        quant=settings.quant,
    )
    with progress_bar() as progress:
        model = load(reference, options, progress=progress, cancel=CancelToken())
    try:
        yield model
    finally:
        model.executable.close()


def _measure(model: LoadedModel, test: BenchTest, repetitions: int) -> Measurement:
    from tektra.cli.bench_runner import measure

    with progress_bar() as progress:

        def after_each(done: int) -> None:
            progress(ProgressEvent("bench", test.name, done, repetitions + 1, "items"))

        return measure(
            model.executable,
            test,
            vocab_size=model.drawn.config.vocab_size,
            repetitions=repetitions,
            after_each=after_each,
        )


def _profile(
    model: LoadedModel, tests: Sequence[BenchTest], repetitions: int, quiet: bool
) -> list[dict[str, Any]]:
    """Profiles of all tests on one number of threads."""
    from tektra.backends.cpu import CpuExecutable
    from tektra.cli.bench_profile import profile_tests, table

    assert isinstance(model.executable, CpuExecutable)
    with progress_bar() as progress:

        def after_each(test: BenchTest, done: int) -> None:
            progress(ProgressEvent("profile", test.name, done, repetitions + 1, "items"))

        profiles = profile_tests(
            model.executable,
            tests,
            vocab_size=model.drawn.config.vocab_size,
            repetitions=repetitions,
            after_each=after_each,
        )
    if not quiet:
        for profile, peaks in profiles:
            print("\n" + "\n".join(table(profile, peaks)), flush=True)
    return [profile.to_dict(peaks) for profile, peaks in profiles]


def _isa(model: LoadedModel) -> str | None:
    """The instruction set that the native core uses; None on other backends."""
    return getattr(model.executable, "isa", None)


def _print_head(reference: str, backend: str, isa: str | None) -> None:
    print(f"{reference} on {backend}" + (f" ({isa})" if isa else "") + ", tokens per second:")
    print(
        f"  {'test':<18} {'threads':>7} {'median':>10} {'min':>10} {'max':>10} {'stdev':>9}",
        flush=True,
    )


def _print_result(result: Measurement) -> None:
    rates = (result.tokens_per_second, result.min, result.max)
    shown = " ".join(f"{rate:>10.2f}" for rate in rates)
    print(f"  {result.test:<18} {result.threads:>7} {shown} {result.stdev:>9.2f}", flush=True)
