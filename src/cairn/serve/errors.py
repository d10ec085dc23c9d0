"""Errors in the shape that OpenAI clients read."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cairn.base import UserError


class ApiError(Exception):
    """A request that cannot be answered: status, message, the field at fault, a short code."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def as_api_error(error: BaseException) -> ApiError:
    """Any failure as an ApiError; what is not the client's says nothing of the inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    return ApiError(500, "the engine failed at this request; the server's log says why")


def _from_validation(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON")
    # Positions inside a union name the alternative (`str`, `list[int]`), which helps nobody.
    names = [str(part) for part in first["loc"] if part != "body"]
    field = names[0] if names else None
    where = f"{field}: " if field else "the body: "
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not a field of this request"
    return ApiError(400, where + message, field)


def answer_errors(app: FastAPI) -> None:
    """Have the app give every error in the one shape."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestValidationError):
            found = _from_validation(error)
        elif isinstance(error, HTTPException):
            message = f"{request.method} {request.url.path}: {error.detail}"
            found = ApiError(error.status_code, message)
        else:
            found = as_api_error(error)
        return JSONResponse(found.body(), found.status)

    for kind in (RequestValidationError, HTTPException, ApiError, UserError, Exception):
        app.add_exception_handler(kind, answer)
