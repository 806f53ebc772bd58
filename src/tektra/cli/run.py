"""`tektra run`: one answer to a prompt, or a chat where there is none.

It decides what is asked and where the answer goes; `answer.py` and `chat_loop.py` do the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tektra.cli.options import (
    AdapterOption,
    ContextOption,
    ContextPolicyOption,
    DeviceOption,
    JsonOption,
    KvTypeOption,
    ModelArgument,
    QuantOption,
    ThreadsOption,
    adapter_options,
)
from tektra.cli.render import is_terminal, print_json
from tektra.cli.sampling_options import sampling_settings, with_sampling_options
from tektra.cli.session import open_model, settings_from
from tektra.errors import BackendError, TemplateError

if TYPE_CHECKING:
    from tektra.cli.answer import Answer
    from tektra.engine.sampling_params import SamplingParams
    from tektra.llm import LLM

__all__ = ["run"]

_MAX_PIPED_BYTES = 1 << 28


def _run(
    model: ModelArgument,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to answer. Without it: standard input where that is a pipe or a file "
            "(- reads it in any case), else a chat.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="The system prompt.")
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Continue PROMPT as it is, without the chat template."),
    ] = False,
    json: JsonOption = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Counts and rates after the answer, on standard error."),
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Do not keep the lines typed in a chat.")
    ] = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    context: ContextOption = None,
    context_policy: ContextPolicyOption = None,
    kv_type: KvTypeOption = None,
    adapter: AdapterOption = None,
    quant: QuantOption = None,
    no_packed_cache: Annotated[
        bool,
        typer.Option(
            "--no-packed-cache",
            help="Neither use nor write a packed copy of the weights, with which a model starts "
            "faster. [TEKTRA_PACKED_CACHE=off says so for good]",
        ),
    ] = False,
    **sampling: Any,
) -> None:
    """Answer a prompt, or chat.

    With PROMPT the answer is streamed to standard output. Without it, on a terminal, a chat
    begins; /help shows what can be typed there.

    Where a sampling option is not given, what the model recommends applies (tektra show names
    it), else the default below.
    """
    given = sampling_settings(sampling)
    text = _prompt_text(prompt)
    system = None if system is None else _utf8(system, "--system")
    _check_usage(text, given, system=system, raw=raw, json=json)
    settings = settings_from(
        device,
        threads,
        context,
        kv_type,
        packed_cache=0 if no_packed_cache else None,
        quant=quant,
        context_policy=context_policy,
    )
    paths, scales = adapter_options(adapter)
    with open_model(model, settings, adapters=paths) as llm:
        if not raw and llm.capabilities.generation and not llm.capabilities.chat_template:
            raise TemplateError(
                "the model has no chat template",
                remedy="--raw with a PROMPT continues the prompt as it is",
            )
        params = llm.default_sampling.replace(**given)
        if text is None:
            from tektra.cli.chat_loop import chat_loop

            chat_loop(
                llm,
                params,
                name=model,
                system=system,
                verbose=verbose,
                history=not no_history,
                adapters=scales,
            )
        else:
            _answer_once(
                llm,
                model,
                text,
                params,
                system=system,
                raw=raw,
                json=json,
                verbose=verbose,
                adapters=scales,
            )


def _answer_once(
    llm: LLM,
    model: str,
    text: str,
    params: SamplingParams,
    *,
    system: str | None,
    raw: bool,
    json: bool,
    verbose: bool,
    adapters: Mapping[str, float],
) -> None:
    from tektra.cli.answer import dropped_line, stream_answer, timings_line

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    answer = stream_answer(llm, text if raw else messages, params, show=not json, adapters=adapters)
    if answer.interrupted:
        raise typer.Exit(130)
    if answer.completion is not None and answer.completion.dropped_tokens:
        print(dropped_line(answer.completion), file=sys.stderr)
    if json:
        print_json(_as_json(model, answer, params))
    if verbose and answer.completion is not None:
        print(timings_line(answer.completion), file=sys.stderr)


def _as_json(model: str, answer: Answer, params: SamplingParams) -> dict[str, Any]:
    if answer.completion is None:
        raise BackendError("the answer ended without a result")
    result: dict[str, Any] = {"model": model, **answer.completion.to_dict()}
    result.pop("error", None)
    if params.logprobs is None:
        result.pop("logprobs", None)
    return result


def _prompt_text(prompt: str | None) -> str | None:
    """The prompt; None where a person is to be asked."""
    if prompt is None and is_terminal(sys.stdin):
        return None
    if prompt is None or prompt == "-":
        text = _read_standard_input()
        where = "standard input"
    else:
        text, where = prompt, "PROMPT"
    text = _utf8(text, where)
    if not text.strip():
        raise typer.BadParameter("is empty", param_hint=where)
    return text


def _utf8(text: str, where: str) -> str:
    """The text, whose bytes may have come through a locale that is not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise typer.BadParameter("is not valid UTF-8", param_hint=where) from None


def _read_standard_input() -> str:
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:  # closed, as under some service managers
        return ""
    data: bytes = buffer.read(_MAX_PIPED_BYTES + 1)
    if len(data) > _MAX_PIPED_BYTES:
        raise typer.BadParameter("is longer than 256 MiB", param_hint="standard input")
    # The line end that echo and editors put after the last line is not meant.
    return data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


def _check_usage(
    text: str | None, given: Mapping[str, Any], *, system: str | None, raw: bool, json: bool
) -> None:
    """Refuses options that would change nothing."""
    if raw and system is not None:
        raise typer.BadParameter("a raw completion has no system prompt", param_hint="--system")
    if text is None and raw:
        raise typer.BadParameter("needs a PROMPT", param_hint="--raw")
    if text is None and json:
        raise typer.BadParameter("needs a PROMPT", param_hint="--json")
    if "logprobs" in given and not json:
        raise typer.BadParameter("is only reported with --json", param_hint="--logprobs")


run = with_sampling_options(_run)
run.__name__ = "run"
