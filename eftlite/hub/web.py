"""What is asked of the hub over HTTP, through huggingface-hub's own session, and its refusals in one line each.

Knows addresses, ranges and errors; never files of this machine. huggingface_hub is imported when something is asked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eftlite.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_BUSY = (408, 429, 500, 502, 503, 504)
_PAUSE_S = 1.0
_MAX_SERVER_TEXT = 200


class UnreachableError(HubError):
    """The hub does not answer, is busy, or the connection broke; asking again may help."""


class OfflineError(UnreachableError):
    """The user forbids asking; asking again will not help."""


class Patience:
    """Around each of several attempts: waits after one that failed, longer each time, and gives up in the end.

    Args:
        attempts: how many may fail in a row.
    """

    def __init__(self, attempts: int = 5) -> None:
        self._attempts = attempts
        self._failed = 0

    def reward(self) -> None:
        """Something new came."""
        self._failed = 0

    def __enter__(self) -> None:
        """Begin an attempt."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """End an attempt; its UnreachableError goes on only when no further attempt is worth while."""
        if not isinstance(error, UnreachableError) or isinstance(error, OfflineError):
            return False
        self._failed += 1
        if self._failed >= self._attempts:
            return False
        time.sleep(_PAUSE_S * 2 ** (self._failed - 1))
        return True


def model_info(repo: str, revision: str | None) -> ModelInfo:
    """What the hub says about a repository: its commit, and its files with sizes and hashes.

    Raises:
        HubError: it is missing, or the hub does not answer as a hub does.
        UnreachableError: it does not answer.
    """
    from huggingface_hub import HfApi, constants

    patience, timeout = Patience(2), constants.HF_HUB_DOWNLOAD_TIMEOUT
    while True:
        with patience, _explained(repo, f"the revision {revision}" if revision else ""):
            return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout)


def pieces(repo: str, commit: str, name: str, start: int, end: int) -> Generator[tuple[int, bytes]]:
    """The bytes of a file from ``start`` to before ``end``, as they come, over as many requests as it takes.

    Yields:
        Position and bytes. The position goes back to 0 when a server that knows no ranges begins anew; the last
        bytes may reach beyond ``end``.

    Raises:
        HubError: a refusal.
        UnreachableError: the connection broke again and again with nothing new.
    """
    patience, position, furthest = Patience(), start, start
    while position < end:
        with patience, _stream(repo, commit, name, position, end) as (begin, found):
            position = begin
            for piece in found:
                yield position, piece
                position += len(piece)
                if position > furthest:
                    furthest = position
                    patience.reward()
                if position >= end:
                    return
            raise UnreachableError(f"{repo}: {name}: expected {end:,} bytes, got {position:,}", "Try again later")


@contextmanager
def _stream(repo: str, commit: str, name: str, start: int, end: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """One request; gives where its bytes begin, which is 0 when the server knows no ranges, and them."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    # A range of compressed bytes would be of no use.
    extra = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
    headers = build_hf_headers(library_name="eftlite", headers=extra)
    url = hf_hub_url(repo, name, revision=commit, endpoint=constants.ENDPOINT)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with (
        _explained(repo, name),
        get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
    ):
        hf_raise_for_status(response)
        yield _begin(response, start, end, f"{repo}: {name}"), response.iter_bytes()


def _begin(response: Any, start: int, end: int, what: str) -> int:
    """The first byte that an answer holds."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        raise HubError(f"{what}: expected bytes from {start:,} on, got others", "A proxy between may be at fault")
    if int(found[2]) < end:
        raise HubError(f"{what}: expected {end:,} bytes, got a file of {int(found[2]):,}", "Another file by this name")
    return start


# ---- refusals


@contextmanager
def _explained(repo: str, part: str) -> Iterator[None]:
    """Turn the library's errors about a repository, or a file or revision of it, into ours."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        yield
    except HTTPError as error:
        raise _explanation(error, repo, part) from None
    except OfflineModeIsEnabled:
        raise OfflineError(f"{repo}: not in the cache, and HF_HUB_OFFLINE is set", "Unset it to download") from None
    except (KeyError, TypeError, ValueError) as error:  # a name the library refuses; an answer that is no hub's
        raise HubError(f"{repo}: {_line(error)}", "Check the name, and HF_ENDPOINT if it is set") from None


def _explanation(error: Exception, repo: str, part: str) -> HubError:
    """What a failed request means, and what to do about it."""
    from huggingface_hub import constants, errors

    response = getattr(error, "response", None)
    status = 0 if response is None else int(response.status_code)
    if isinstance(error, errors.GatedRepoError):
        hint = f"Open {constants.ENDPOINT}/{repo}, accept its terms, and set HF_TOKEN to a token of that account"
        return HubError(f"{repo}: gated: its publisher wants its terms accepted first", hint)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "Check the spelling; a private one needs HF_TOKEN. The path of a file here begins with ./"
        return HubError(f"{repo}: expected a repository of the hub, got none of this name, or a private one", hint)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo}: expected {part}, got none of this name", "Give a branch, a tag or a commit")
    if isinstance(error, errors.EntryNotFoundError):
        return HubError(f"{repo}: {part}: the repository has no such file", "It was renamed or removed, perhaps")
    if status == 401:
        return HubError(f"{repo}: the hub refused the token", "HF_TOKEN is wrong or has expired")
    if status and status not in _BUSY:
        said = getattr(error, "server_message", None)
        return HubError(f"{repo}: the hub answered {status}" + (f", {_line(said)}" if said else ""))
    problem = f"the hub is busy ({status})" if status else f"the hub cannot be reached ({_line(error)})"
    hint = "Try again later" if status else "Check the connection; models in the cache work without it"
    return UnreachableError(f"{repo}: {problem}", hint)


def _line(error: object) -> str:
    """The beginning of an error's text, without addresses: they may be signed."""
    text = " ".join(re.sub(r"https?://\S+", "…", str(error)).split())
    return (text or type(error).__name__)[:_MAX_SERVER_TEXT]
