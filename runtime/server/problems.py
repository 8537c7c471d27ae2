"""Errors of requests, in OpenAI's form."""

from typing import Any

from starlette.responses import JSONResponse

from ..errors import EdgeGPTError, InvalidInputError
from ..generation.scheduler import BusyError, GoneError

__all__ = ["Problem", "answer", "body_of", "problem_of"]

RETRY_SECONDS = "1"
STATUSES: dict[type[EdgeGPTError], int] = {BusyError: 429, GoneError: 503, InvalidInputError: 400}

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
FIRST_OF_SERVER = 500


class Problem(Exception):  # noqa: N818 - the name of HTTP's own "problem details"
    """What is wrong with a request, the status of its answer, and the field that is to blame."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        field: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.field, self.code = message, status, field, code
        self.headers = headers


def problem_of(error: EdgeGPTError) -> Problem:
    """Return an error of the library as the problem of a request."""
    found = (status for kind, status in STATUSES.items() if isinstance(error, kind))
    status = next(found, FIRST_OF_SERVER)
    headers = {"Retry-After": RETRY_SECONDS} if isinstance(error, BusyError) else None
    return Problem(str(error), status=status, headers=headers)


def body_of(problem: Problem) -> dict[str, Any]:
    """Return the JSON of a problem."""
    kind = "server_error" if problem.status >= FIRST_OF_SERVER else "invalid_request_error"
    return {
        "error": {
            "message": problem.message,
            "type": KINDS.get(problem.status, kind),
            "param": problem.field,
            "code": problem.code,
        }
    }


def answer(problem: Problem) -> JSONResponse:
    """Return the answer to a request that has a problem."""
    return JSONResponse(body_of(problem), problem.status, problem.headers)
