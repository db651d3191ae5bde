"""Every error a user may see. The base class means "show this to the user"; anything else is a bug.

A message names the thing, what was expected and what came; the hint says what to do. Callers read the class and
its attributes, never the text.
"""

from __future__ import annotations

from typing import ClassVar


class EFTError(Exception):
    """Base of all errors meant for a person.

    Attributes:
        message: the thing, what was expected, what came.
        hint: what to do about it; may be empty.
        exit_code: of the command line (1 error, 2 usage or bad input).
        http_status: of the server.
        kind: the ``type`` of an OpenAI-shaped error body.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InputError(EFTError):
    """A value given by the user cannot be used: an option, a knob, a request field."""

    exit_code = 2
    http_status = 400
    kind = "invalid_request_error"


class ModelFileError(InputError):
    """A file is not a GGUF model that can be loaded: missing, empty, truncated, foreign, damaged."""


class VocabularyError(InputError):
    """Two members do not share a vocabulary.

    Attributes:
        token_id: the first differing id, or None when the difference is not about one id.
        texts: both members' texts of that id.
    """

    def __init__(
        self, message: str, hint: str = "", token_id: int | None = None, texts: tuple[str, str] | None = None
    ) -> None:
        super().__init__(message, hint)
        self.token_id = token_id
        self.texts = texts


class ContextError(InputError, ValueError):
    """A prompt does not fit the context. A ValueError too, because llama_cpp.Llama raises one here.

    Attributes:
        n_prompt: tokens of the prompt.
        n_ctx: tokens the context holds.
    """

    kind = "exceed_context_size_error"

    def __init__(self, message: str, hint: str = "", n_prompt: int = 0, n_ctx: int = 0) -> None:
        super().__init__(message, hint)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class TemplateError(InputError):
    """A chat template is too large, does not compile, attacks, or does not finish in time."""


class EngineError(EFTError):
    """llama.cpp refused or failed: loading, decoding, rewinding.

    Attributes:
        code: llama.cpp's return code, when there is one.
    """

    def __init__(self, message: str, hint: str = "", code: int | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class CacheFullError(EngineError):
    """``llama_decode`` found no room in the cache (code 1); the cache is as it was."""

    http_status = 503


class Cancelled(EngineError):
    """``llama_decode`` was aborted on request (code 2); the slot was rewound to what it held before."""

    exit_code = 130
    http_status = 499


class RewindError(EngineError):
    """A model could not drop a part of its cache; the slot was cleared and will be evaluated again."""


class UnavailableError(EFTError):
    """The engine is being loaded, is coming back after a crash, or could not be loaded.

    Attributes:
        retry_after_s: when to ask again; 0 when that will not help.
    """

    http_status = 503
    kind = "unavailable_error"

    def __init__(self, message: str, hint: str = "", retry_after_s: int = 0) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class BusyError(UnavailableError):
    """Too many requests are waiting already."""

    http_status = 429
    kind = "rate_limit_error"


class WorkerError(UnavailableError):
    """The engine's process died, or stopped answering, in the middle of this request."""

    kind = "server_error"


class NotFoundError(InputError):
    """There is no such model, conversation, message or answer."""

    http_status = 404
    kind = "not_found_error"


class HistoryError(EFTError):
    """The conversations' file cannot be read or written: damaged, of a newer version, disk full, locked."""


class HubError(EFTError):
    """A repository or file cannot be had: missing, gated, cut off, changed on the way, or the network is away."""

    http_status = 502


class MemoryLimitError(EFTError):
    """What is to be loaded needs more memory than there is; nothing was loaded."""

    http_status = 503
