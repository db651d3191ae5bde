"""What the guards refuse with, and the one shape in which every error leaves the server: OpenAI's.

Knows an error's status, type and text; never why it was raised. Requests stay out of it: a refusal quotes at most
the header or the name that was wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from eftlite.errors import EFTError, InputError, UnavailableError


class ForbiddenError(EFTError):
    """A Host, an Origin or a site that is not allowed here."""

    http_status = 403
    kind = "permission_error"


class UnauthorizedError(EFTError):
    """No key, or a wrong one."""

    http_status = 401
    kind = "authentication_error"


class TooSlowError(InputError):
    """A body did not come in time."""

    http_status = 408


class BodyTooLargeError(InputError):
    """A body has more bytes than are read."""

    http_status = 413


class MediaTypeError(InputError):
    """A body is not JSON by its headers, or is compressed."""

    http_status = 415


class HeadTooLargeError(InputError):
    """A request has too many headers, or too long ones."""

    http_status = 431


def error_response(error: EFTError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a response: ``{"error": {"message", "type", "param", "code"}}``, and when to ask again if it says."""
    extra = dict(headers or {})
    if isinstance(error, UnauthorizedError):
        extra["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnavailableError) and error.retry_after_s:
        extra["Retry-After"] = str(error.retry_after_s)
    body = {"error": {"message": str(error), "type": error.kind, "param": None, "code": None}}
    # Escaped to ASCII: a message may quote half a surrogate pair, which cannot be encoded otherwise.
    return Response(json.dumps(body), error.http_status, extra, "application/json")


def refusal(error: EFTError) -> Response:
    """An error after which the connection is closed, since the request's body may not have been read."""
    return error_response(error, {"Connection": "close"})
