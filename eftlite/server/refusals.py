"""What the guards refuse with: statuses that only they give, in the shape that every error of the server has.

Knows errors; never requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eftlite.errors import EFTError, InputError
from eftlite.server.replies import error_response

if TYPE_CHECKING:
    from starlette.responses import Response


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


def refusal(error: EFTError) -> Response:
    """An error as a response, after which the connection is closed: the request's body may not have been read."""
    response = error_response(error)
    response.headers["Connection"] = "close"
    if isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
