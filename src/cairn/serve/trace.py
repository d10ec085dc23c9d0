"""/v1/trace: where a text was learned from, out of an attribution index."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cairn.tokens.attribution import Attribution

MOST_CHARACTERS = 100_000


class TraceRequest(BaseModel):
    """Body of /v1/trace."""

    model_config = ConfigDict(strict=True, extra="forbid")
    text: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    minimum: int = Field(24, ge=8, le=10_000)
    top: int = Field(10, ge=1, le=100)


def trace_routes(folder: Path) -> APIRouter:
    """The endpoint over the index in `folder`; UserError if it cannot be read."""
    index = Attribution.open(folder)
    router = APIRouter()

    @router.post("/v1/trace")
    def trace(body: TraceRequest) -> dict[str, Any]:
        """The longest passages of `text`, of `minimum` bytes or more, that training data has."""
        found = index.matches(body.text, minimum=body.minimum, top=body.top)
        return {"object": "list", "data": [match.plain() for match in found]}

    return router
