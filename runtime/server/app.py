"""The application: which path is whose, and what every request passes through."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import EdgeGPTError
from .guard import Guard
from .pages import Pages
from .problems import Problem, answer
from .service import Service, on_error, on_failure

__all__ = ["application"]


def application(
    service: Service,
    *,
    hosts: Collection[str] = (),
    origins: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> Starlette:
    """Return the ASGI application of a service; see `Guard` for who may ask."""
    middleware = [Middleware(Guard, hosts=hosts, origins=origins, keys=keys)]
    if origins:
        every = ["*"]
        cors = Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=every, allow_headers=every
        )
        middleware.insert(0, cors)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.courier.start()
        yield

    pages = Pages(service.model, service.name)
    found = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", pages.page),
            Route("/page.json", pages.facts),
            Route("/receipts.json", pages.receipts),
            Route("/health", service.health),
            Route("/metrics", service.tell_metrics),
            Route("/v1/models", service.models),
            Route("/v1/models/{id:path}", service.one_model),
            Route("/v1/completions", service.completions, methods=["POST"]),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/embeddings", service.embeddings, methods=["POST"]),
            Route("/tokenize", service.tokenize, methods=["POST"]),
            Route("/detokenize", service.detokenize, methods=["POST"]),
        ],
        middleware=middleware,
        exception_handlers={
            Problem: on_error,
            EdgeGPTError: on_error,
            HTTPException: _of_http,
            Exception: on_failure,
        },
    )
    found.router.redirect_slashes = False  # a path with one more is another path
    return found


async def _of_http(request: Request, error: Exception) -> Response:
    """Answer a path or a method that is not there."""
    assert isinstance(error, HTTPException), "the handler is registered for it"
    path = request.url.path[:100]
    message = f"{request.method} {path} is not served: {error.detail}"
    headers = dict(error.headers or {})
    return answer(Problem(message, status=error.status_code, headers=headers))
