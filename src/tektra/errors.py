"""The exception tree: every mistake a user can make ends in one of these.

An error says what is wrong and, where something can be done about it, the remedy. It knows
nothing of where it is shown: the command line prints it, the server turns it into a status code.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CancelledError",
    "ContextLengthError",
    "DeviceUnavailableError",
    "FormatError",
    "IntegrityError",
    "InvalidParameterError",
    "MemoryLimitError",
    "ModelNotFoundError",
    "ModelReferenceError",
    "QueueFullError",
    "RequestError",
    "StorageError",
    "TektraError",
    "TemplateError",
    "TemplateLimitError",
    "TokenizerError",
    "UnsupportedModelError",
]


class TektraError(Exception):
    """Base of all errors that Tektra raises on purpose.

    Args:
        message: what is wrong, naming the thing (file, key, parameter, value).
        remedy: what the person can do about it; shown after the message.
    """

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


# Where models come from


class ModelReferenceError(TektraError):
    """A model reference cannot be understood, or names a source that is not available."""


class ModelNotFoundError(TektraError):
    """A well-formed reference names a model that is not there."""


class IntegrityError(TektraError):
    """Bytes on disk do not have the digest that was promised."""


class StorageError(TektraError):
    """A file cannot be written: there is no room for it."""


# What is inside a model file


class FormatError(TektraError):
    """A model file is malformed: truncated, inconsistent, or not of the format it claims."""


class UnsupportedModelError(TektraError):
    """A well-formed model file needs something that this version does not have."""


class TokenizerError(TektraError):
    """The tokenizer in a model is missing, inconsistent or of an unknown kind."""


class TemplateError(TektraError):
    """A chat template is missing or malformed, refuses the messages, or does what it may not."""


class TemplateLimitError(TemplateError):
    """A chat template ran into a limit on time or size."""


# Requests


class RequestError(TektraError):
    """A request cannot be served as asked; nothing is wrong with the engine."""


class InvalidParameterError(RequestError):
    """A parameter is unknown, of the wrong type, or out of range.

    Attributes:
        parameter: the name of the parameter, as the caller wrote it.
    """

    def __init__(self, parameter: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(f"{parameter}: {message}", remedy=remedy)
        self.parameter = parameter


class ContextLengthError(RequestError):
    """A prompt does not fit into the context. It is never cut silently.

    Attributes:
        num_tokens: tokens that the request needs.
        context: tokens that fit.
    """

    def __init__(self, num_tokens: int, context: int, *, remedy: str | None = None) -> None:
        super().__init__(
            f"the prompt has {num_tokens} tokens and the context holds {context}",
            remedy=remedy or "shorten the prompt, or load the model with a larger context",
        )
        self.num_tokens = num_tokens
        self.context = context


class QueueFullError(RequestError):
    """More requests are waiting than the engine accepts."""


class CancelledError(TektraError):
    """A load or a request was cancelled by the caller."""


# Devices


class BackendError(TektraError):
    """A backend failed while it was compiling or running a model."""


class DeviceUnavailableError(BackendError):
    """The device that was asked for is not on this machine, or cannot run this model."""


class MemoryLimitError(BackendError):
    """Something does not fit into the memory there is."""
