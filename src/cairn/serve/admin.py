"""/admin/weights: other weights into a model while it is served, as reinforcement learning needs.

Only with a key of the admin's, and only from checkpoint folders inside one root.
"""

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from cairn.base import UserError
from cairn.serve.errors import ApiError
from cairn.serve.keys import Keys
from cairn.serve.models import Models
from cairn.serve.requests import Strict


class WeightsRequest(Strict):
    """Body of /admin/weights."""

    model: str | None = None
    folder: str = Field(min_length=1, max_length=4096)
    """A safetensors checkpoint, relative to the root."""
    abort: bool = False
    """Whether running requests are aborted (503) rather than waited for."""


def admin_routes(models: Models, root: Path) -> APIRouter:
    """The endpoint; checkpoints lie in `root`."""
    router = APIRouter()
    root = root.resolve(strict=True)
    versions: dict[str, int] = {}

    @router.post("/admin/weights")
    async def weights(body: WeightsRequest) -> dict[str, Any]:
        """Changes the weights between two requests; on an error nothing is changed."""
        service = models.named(body.model)
        folder = inside(root, body.folder)
        begun = time.perf_counter()
        try:
            count = await service.worker.alone(
                lambda engine: engine.load_weights(folder), abort=body.abort
            )
        except UserError as error:
            raise ApiError(400, str(error).replace(str(root), "."), "folder") from None
        versions[service.name] = versions.get(service.name, 0) + 1
        return {
            "model": service.name,
            "folder": body.folder,
            "tensors": count,
            "updates": versions[service.name],
            "seconds": round(time.perf_counter() - begun, 3),
        }

    return router


def refuse_unguarded(keys: Keys | None) -> None:
    """UserError where anybody could change the model."""
    if keys is None:
        mend = "give --admin-keys FILE or CAIRN_ADMIN_KEYS"
        raise UserError(f"a root of weights needs admin keys: who may change the model? {mend}")


def inside(root: Path, folder: str) -> Path:
    """A folder below `root`, links followed; ApiError 400 for any other."""
    try:
        found = (root / folder).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        found = None
    if found is None or not found.is_relative_to(root) or not found.is_dir():
        raise ApiError(400, "folder: is no folder inside the server's root of weights", "folder")
    return found
