"""An engine behind HTTP, in the shape of the OpenAI API.

`serve` runs a server until it is interrupted; `create_app` makes the application for any ASGI
server. Both need the extra `serve` (fastapi, uvicorn), which is imported when they are named.
"""

from typing import TYPE_CHECKING, Any

from cairn.base import UserError
from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.serve.app import create_app
    from cairn.serve.keys import Keys
    from cairn.serve.limits import Limits
    from cairn.serve.server import folders_by_name, serve

_HOMES = {
    "create_app": "app",
    "folders_by_name": "server",
    "Keys": "keys",
    "Limits": "limits",
    "serve": "server",
}
_EXTRA = {"fastapi", "pydantic", "starlette", "uvicorn"}

__all__ = ["Keys", "Limits", "create_app", "folders_by_name", "serve"]


def __getattr__(name: str) -> Any:
    try:
        return lazily(__name__, _HOMES)(name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise UserError(
            f"the server needs {error.name}, which is not installed: pip install 'cairn-lm[serve]'"
        ) from None


def __dir__() -> list[str]:
    return __all__
