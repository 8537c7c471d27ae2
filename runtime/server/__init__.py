"""An OpenAI-compatible HTTP server on any bundle: starlette and uvicorn around a scheduler."""
