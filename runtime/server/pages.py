"""The page at `/`, in one piece, and the facts that it shows."""

import base64
import hashlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ..bundle.bundle import TEMPLATE_NAME
from ..language_model import LanguageModel
from ..proof.receipt_store import known, missing_proof

__all__ = ["Pages"]

FOLDER = Path(__file__).parent / "page"


class Pages:
    """What a browser asks for. The page loads nothing from elsewhere, and may not."""

    def __init__(self, model: LanguageModel, name: str) -> None:
        self.model, self.name = model, name

    async def page(self, request: Request) -> Response:
        """`GET /`."""
        text, policy = _page()
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    async def facts(self, request: Request) -> Response:
        """`GET /page.json`: what the page shows of the bundle."""
        model, bundle, info = self.model, self.model.bundle, self.model.engine.info
        proofs = [
            one.date
            for one in known(bundle)
            if (one.engine, one.engine_version, one.device)
            == (info.name, info.version, info.device)
        ]
        proved = missing_proof(bundle, model.engine.graph.name, info) is None
        facts: dict[str, Any] = {
            "name": self.name,
            "chat": bundle.has(TEMPLATE_NAME),
            "context": model.context,
            "precision": bundle.manifest.precision,
            "engine": f"{info.name} {info.version} ({info.device})",
            "proved": max(proofs) if proved and proofs else None,
            "temperature": model.usage.sampling.temperature,
        }
        return JSONResponse(facts)

    async def receipts(self, request: Request) -> Response:
        """`GET /receipts.json`: what is known of this bundle's proofs."""
        return JSONResponse([asdict(one) for one in known(self.model.bundle)])


@cache
def _page() -> tuple[str, str]:
    """Return the page, and what it may load: its own script and style, and this server."""
    style, script = (FOLDER / "page.css").read_text(), (FOLDER / "page.js").read_text()
    page = (FOLDER / "page.html").read_text()
    allowed = {name: _digest(text) for name, text in (("style", style), ("script", script))}
    policy = (
        f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; "
        f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script), policy


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
