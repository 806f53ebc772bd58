"""One option for each field of `SamplingParams`, from one table; `/set` in a chat reads it too.

It knows how a value is written; what is allowed is for `SamplingParams` to say.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tektra.errors import InvalidParameterError

if TYPE_CHECKING:
    from tektra.engine.sampling_params import SamplingParams

__all__ = [
    "SAMPLING_OPTIONS",
    "SamplingOption",
    "option_name",
    "parse_setting",
    "sampling_settings",
    "with_sampling_options",
]


@dataclass(frozen=True, slots=True)
class SamplingOption:
    """How one sampling parameter is written.

    Attributes:
        type: what the option is read as; a list may be given several times.
        default: what applies where it is not given, as it is shown.
        help: one or two sentences.
        metavar: what stands for the value in the help.
        short: a one-letter name.
    """

    type: Any
    default: str
    help: str
    metavar: str | None = None
    short: str | None = None


# The engine is not imported here, so that --help is quick; a test holds the defaults to it.
SAMPLING_OPTIONS: Mapping[str, SamplingOption] = {
    "max_tokens": SamplingOption(
        int, "until the context is full", "Most tokens of the answer.", "N", "-n"
    ),
    "min_tokens": SamplingOption(int, "0", "Tokens before which the answer may not end.", "N"),
    "temperature": SamplingOption(
        float, "0.8", "Divides the logits. 0: always the best token.", "T"
    ),
    "top_k": SamplingOption(int, "40", "Keep the K best tokens. 0: all.", "K"),
    "top_p": SamplingOption(
        float, "0.95", "Keep the fewest best tokens with this much probability. 1: all.", "P"
    ),
    "min_p": SamplingOption(
        float, "0.05", "Keep tokens this probable relative to the best one. 0: all.", "P"
    ),
    "typical_p": SamplingOption(
        float, "1", "Keep the most typical tokens with this much probability. 1: all.", "P"
    ),
    "repetition_penalty": SamplingOption(
        float, "1", "Weakens tokens that were there already. 1: off.", "X"
    ),
    "presence_penalty": SamplingOption(
        float, "0", "Subtracted once from tokens that were there already.", "X"
    ),
    "frequency_penalty": SamplingOption(
        float, "0", "Subtracted for each time that a token was there.", "X"
    ),
    "penalty_last_n": SamplingOption(
        int, "-1", "How many of the last tokens these penalties see. -1: all.", "N"
    ),
    "dry_multiplier": SamplingOption(
        float, "0", "DRY: strength against repeated sequences. 0: off.", "X"
    ),
    "dry_base": SamplingOption(float, "1.75", "DRY: base of the growth with the length.", "X"),
    "dry_allowed_length": SamplingOption(int, "2", "DRY: shorter repetitions are free.", "N"),
    "dry_penalty_last_n": SamplingOption(
        int, "-1", "DRY: how many of the last tokens it sees. -1: all.", "N"
    ),
    "dry_sequence_breakers": SamplingOption(
        list[str],
        r'\n : " *',
        "DRY: a string that a repetition does not reach across. Repeat for more.",
        "TEXT",
    ),
    "xtc_probability": SamplingOption(
        float, "0", "XTC: chance of dropping the top choices. 0: off.", "P"
    ),
    "xtc_threshold": SamplingOption(
        float, "0.1", "XTC: probability that makes a token a top choice.", "P"
    ),
    "mirostat": SamplingOption(
        int, "0", "2: mirostat 2 in place of the filters above. 0: off.", "0|2"
    ),
    "mirostat_tau": SamplingOption(float, "5", "Mirostat: target surprise in bits.", "X"),
    "mirostat_eta": SamplingOption(float, "0.1", "Mirostat: learning rate.", "X"),
    "logit_bias": SamplingOption(
        list[str], "none", "Added to the logit of a token; -100 bans it. Repeat for more.", "ID=X"
    ),
    "seed": SamplingOption(int, "random", "The same seed gives the same answer.", "N"),
    "logprobs": SamplingOption(
        int, "none", "Report log-probabilities of the K best tokens (with --json).", "K"
    ),
    "stop": SamplingOption(
        list[str], "none", "Text at which the answer ends. Repeat for more.", "TEXT"
    ),
    "stop_token_ids": SamplingOption(
        list[int], "none", "Token id at which the answer ends. Repeat for more.", "ID"
    ),
    "ignore_eos": SamplingOption(bool, "off", "Do not end where the model would."),
}


def option_name(field: str) -> str:
    """The option that sets a field of `SamplingParams`."""
    return "--" + field.replace("_", "-")


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes ``**sampling`` an option for each row of the table.

    Options that were not given arrive as None (a flag as False, a list as None or empty).
    """

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        command(**values)

    signature = inspect.signature(command, eval_str=True)
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for field, option in SAMPLING_OPTIONS.items():
        names = [option_name(field)] + ([option.short] if option.short else [])
        flag = option.type is bool
        info = typer.Option(
            *names,
            help=option.help if flag else f"{option.help} [default: {option.default}]",
            metavar=option.metavar,
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if flag else None,
                annotation=Annotated[bool if flag else option.type | None, info],
            )
        )
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


def sampling_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SamplingParams` that options were given for, checked.

    Raises:
        typer.BadParameter: a value is not allowed; names the option.
    """
    from tektra.engine.sampling_params import SamplingParams

    given: dict[str, Any] = {}
    for field, value in values.items():
        if value is None or value is False or value == []:
            continue
        given[field] = value
    try:
        if "logit_bias" in given:
            given["logit_bias"] = _biases(given["logit_bias"])
        SamplingParams(**given)
    except InvalidParameterError as error:
        raise typer.BadParameter(
            str(error).removeprefix(f"{error.parameter}: "),
            param_hint=option_name(error.parameter),
        ) from None
    return given


def parse_setting(field: str, text: str, defaults: SamplingParams) -> Any:
    """The value of one parameter from the text that was typed after its name.

    Lists are separated by blanks; ``none`` and ``default`` take the parameter back to what it is in
    ``defaults``.

    Raises:
        InvalidParameterError: there is no such parameter, or the text is no such value.
    """
    option = SAMPLING_OPTIONS.get(field)
    if option is None:
        raise InvalidParameterError(field, "there is no such sampling parameter")
    if text.lower() in {"none", "default"}:
        return getattr(defaults, field)
    if field == "logit_bias":
        return _biases(text.split())
    return _READERS[option.type](field, text)


def _read_bool(field: str, text: str) -> bool:
    if text.lower() not in {"true", "on", "yes", "1", "false", "off", "no", "0"}:
        raise InvalidParameterError(field, f"must be on or off, not {text!r}")
    return text.lower() in {"true", "on", "yes", "1"}


def _read_int(field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParameterError(field, f"must be a whole number, not {text!r}") from None


def _read_float(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidParameterError(field, f"must be a number, not {text!r}") from None


_READERS: Mapping[Any, Callable[[str, str], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    list[int]: lambda field, text: tuple(_read_int(field, part) for part in text.split()),
    list[str]: lambda field, text: tuple(text.split()),
}


def _biases(items: list[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for item in items:
        token, equals, bias = item.partition("=")
        if not equals:
            raise InvalidParameterError(
                "logit_bias", f"{item!r} is not ID=BIAS", remedy="write 123=-100"
            )
        key = _read_int("logit_bias", token)
        if key in biases:
            raise InvalidParameterError("logit_bias", f"token {key} is given twice")
        biases[key] = _read_float("logit_bias", bias)
    return biases
