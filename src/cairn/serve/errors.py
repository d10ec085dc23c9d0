"""Errors in the shape that OpenAI clients read."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cairn.base import UserError
from cairn.engine.request import TooLongError

FIELDS = {"grammar": "response_format", "stop_tokens": "stop_token_ids"}
"""Names of a request's fields, by the engine's where they differ."""
KINDS = {
    "bool_type": "should be true or false",
    "dict_type": "should be an object",
    "float_type": "should be a number",
    "int_type": "should be an integer",
    "list_type": "should be an array",
    "model_attributes_type": "should be an object",
    "model_type": "should be an object",
    "string_type": "should be a string",
    "string_unicode": "is no Unicode text",
    "extra_forbidden": "is not a field of this request",
    "missing": "is missing",
}
"""What is said of a value of another type, by pydantic's name of the error: in JSON's words."""
NO_JSON = "the body is not JSON (in UTF-8, at most a thousand levels deep, numbers of usual size)"


class ApiError(Exception):
    """A request that cannot be answered: status, message, the field at fault, a short code.

    `retry_after` (seconds) tells the client when to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        if self.status == 401:
            kind = "authentication_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def as_api_error(error: BaseException) -> ApiError:
    """Any failure as an ApiError; what is not the client's says nothing of the inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return refusal(error)
    return ApiError(500, "the engine failed at this request; the server's log says why")


def refusal(error: UserError, named: Mapping[str, str] | None = None) -> ApiError:
    """What the engine refuses, by the names that the request has for the engine's fields.

    A prompt that is too long has the code by which clients of the OpenAI API know that.
    """
    names = FIELDS | dict(named or {})
    if isinstance(error, TooLongError):
        return ApiError(400, str(error), names.get("prompt", "prompt"), "context_length_exceeded")
    if not error.name:
        return ApiError(400, str(error))
    field = names.get(error.name, error.name)
    return ApiError(400, field + str(error).removeprefix(error.name), field)


def _from_validation(error: RequestValidationError) -> ApiError:
    """One message out of pydantic's list: of what lies deepest, since alternatives of a union
    that fail early say less than the one that the client meant."""
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        return ApiError(400, NO_JSON)
    if isinstance(error.body, bytes):
        message = "content-type: a body is read where this says application/json"
        return ApiError(415, message, "content-type")
    places = [_place(found, error.body) for found in errors]
    deepest = max(places, key=len)  # the first of those
    said = [_said(found) for found, place in zip(errors, places, strict=True) if place == deepest]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in deepest)
    field = field.removeprefix(".")
    message = " or ".join(dict.fromkeys(said))
    return ApiError(400, f"{field or 'the body'}: {message}", field or None)


def _place(found: dict[str, Any], body: Any) -> tuple[str | int, ...]:
    """Where in the body the error is; pydantic's names of a union's alternatives are left out."""
    path: list[str | int] = []
    here: Any = body
    location = list(found["loc"][1:])
    for part in location:
        missing = part == location[-1] and found["type"] == "missing"
        inside = isinstance(here, dict) and part in here
        inside |= isinstance(here, list) and isinstance(part, int) and part < len(here)
        if inside or missing:
            path.append(part)
            here = here[part] if inside else None
    return tuple(path)


def _said(found: dict[str, Any]) -> str:
    if found["type"] in KINDS:
        return KINDS[found["type"]]
    said = re.sub(r"^(Input|String|List|Dictionary) should", "should", found["msg"])
    return re.sub(r" after validation, not \d+$", "", said)


def _from_http(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 400:  # FastAPI's for a body that raised while it was parsed
        return ApiError(400, NO_JSON)
    message = f"{request.method} {request.url.path}: {error.detail}"
    allowed = (error.headers or {}).get("Allow")
    return ApiError(error.status_code, message + (f"; {allowed} is not" if allowed else ""))


def answer_errors(app: FastAPI) -> None:
    """Have the app give every error in the one shape."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        headers: Mapping[str, str] = {}
        if isinstance(error, RequestValidationError):
            found = _from_validation(error)
        elif isinstance(error, HTTPException):
            found, headers = _from_http(request, error), error.headers or {}
        else:
            found = as_api_error(error)
        return JSONResponse(found.body(), found.status, {**headers, **found.headers})

    for kind in (RequestValidationError, HTTPException, ApiError, UserError, Exception):
        app.add_exception_handler(kind, answer)
