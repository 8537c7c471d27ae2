"""A model behind HTTP, in FastAPI: the text streams, and a client who leaves ends it.

    pip install "edgegpt-toolkit[cpu]" fastapi uvicorn
    BUNDLE=build/shakespeare-char uvicorn --app-dir examples/fastapi app:app
    curl -N localhost:8000/generate -H "Content-Type: application/json" -d '{"prompt": "ROMEO:"}'

One model serves all requests, and one text is written at a time: two at once would only slow each
other down. The others wait in the order in which they came, and `/health` answers meanwhile.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

import edgegpt


class Wanted(BaseModel):
    """What a client may ask for, within limits that fit the device."""

    prompt: str = Field(min_length=1, max_length=10_000)
    max_new_tokens: int = Field(200, ge=1, le=10_000)
    temperature: float = Field(0.8, ge=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**64)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the model when the server starts, and close it when the server ends."""
    with edgegpt.load(os.environ["BUNDLE"]) as model:
        app.state.model, app.state.turn = model, asyncio.Lock()
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/generate")
async def generate(wanted: Wanted) -> StreamingResponse:
    """Stream the text that follows the prompt."""
    try:
        stream = app.state.model.stream(**wanted.model_dump())
    except edgegpt.InvalidInputError as error:  # a character that the model does not know, ...
        raise HTTPException(422, str(error)) from None
    return StreamingResponse(pieces(stream), media_type="text/plain; charset=utf-8")


async def pieces(stream: edgegpt.Stream) -> AsyncIterator[str]:
    """Yield the pieces of a text when it is its turn.

    Each step runs in a thread, so that the server goes on. When the client leaves, Starlette
    cancels this task, which closes the stream: what nobody reads is not computed.
    """
    async with app.state.turn:
        with closing(stream):
            async for piece in stream:
                yield piece


@app.get("/health")
async def health() -> dict[str, object]:
    """Tell that the server is alive, which bundle it has, and whether it is writing."""
    return {"bundle": app.state.model.bundle.manifest.id, "busy": app.state.turn.locked()}
