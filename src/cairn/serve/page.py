"""The page at `/`: one file that asks nobody but this server."""

import base64
import hashlib
import json
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse


def page_routes(*, traces: bool, locked: bool) -> APIRouter:
    """The page, told whether texts can be traced and whether a key is needed."""
    html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    html = html.replace("__FACTS__", json.dumps({"traces": traces, "locked": locked}))
    headers = {
        "content-security-policy": _policy(html),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    router = APIRouter()

    @router.head("/", include_in_schema=False)
    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    return router


def _policy(html: str) -> str:
    """Only the page's own script and style run, known by their digests; requests go home only."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(html, 'script')}",
            f"style-src {_digest(html, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _digest(html: str, tag: str) -> str:
    (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
