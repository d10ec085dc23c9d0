"""An engine behind HTTP, in the shape of the OpenAI API.

`serve` runs a server until it is interrupted; `create_app` makes the application for any ASGI
server. Both need the extra `serve` (fastapi, uvicorn), which is imported when they are called.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.serve.app import create_app
    from cairn.serve.limits import Limits
    from cairn.serve.server import serve

_HOMES = {"create_app": "app", "Limits": "limits", "serve": "server"}

__all__ = ["Limits", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
