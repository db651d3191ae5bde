"""The hierarchy that callers rely on: classes, exit codes, statuses; a message and its hint."""

from __future__ import annotations

import inspect
import pickle

import pytest

from eftlite import errors
from eftlite.errors import (
    BusyError,
    CacheFullError,
    Cancelled,
    ContextError,
    EFTError,
    EngineError,
    InputError,
    VocabularyError,
)

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, EFTError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_each_says_what_happened_and_what_to_do(cls: type[EFTError]) -> None:
    error = cls("n_ctx: expected 1, got 2", "Use 1")
    assert (error.message, error.hint) == ("n_ctx: expected 1, got 2", "Use 1")
    assert str(error) == "n_ctx: expected 1, got 2. Use 1"
    assert str(cls("broken")) == "broken"
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_codes_fit_each_other(cls: type[EFTError]) -> None:
    """Bad input is 2 and 4xx; what the engine does is 1 and 5xx, but for a stop by the owner and a full queue."""
    if issubclass(cls, InputError):
        assert cls.exit_code == 2
        assert cls.http_status // 100 == 4
        assert cls.kind != "server_error"
    elif cls is Cancelled:
        assert (cls.exit_code, cls.http_status) == (130, 499)
    else:
        assert cls.exit_code == 1
        assert cls.http_status // 100 == 5 or (cls, cls.http_status) == (BusyError, 429)


def test_attributes_say_what_a_message_only_words() -> None:
    assert EngineError("x", code=-3).code == -3
    assert EngineError("x").code is None
    assert CacheFullError("x", code=1).code == 1
    context = ContextError("x", n_prompt=5, n_ctx=4)
    assert (context.n_prompt, context.n_ctx) == (5, 4)
    assert isinstance(context, ValueError)  # llama_cpp.Llama raises one here
    vocabulary = VocabularyError("x", token_id=7, texts=("a", "b"))
    assert (vocabulary.token_id, vocabulary.texts) == (7, ("a", "b"))


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_cross_process_borders(cls: type[EFTError]) -> None:
    """The server's engine runs in a child process."""
    error = pickle.loads(pickle.dumps(cls("what", "why")))
    assert type(error) is cls
    assert (error.message, error.hint, str(error)) == ("what", "why", "what. why")
    context = pickle.loads(pickle.dumps(ContextError("x", "y", n_prompt=5, n_ctx=4)))
    assert (context.n_prompt, context.n_ctx, context.hint) == (5, 4, "y")
