"""A stand-in for the Hugging Face Hub on 127.0.0.1: what huggingface_hub asks a model for."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "Model", "StandInHub", "stand_in_hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 4096  # bytes from which a file is served from elsewhere, as the Hub's LFS files are
API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Model:
    """A model on the stand-in: its files, and what goes wrong with it.

    Attributes:
        files: the content of each file.
        revisions: the names under which its only commit is known.
        refused: a status and the Hub's X-Error-Code, instead of any answer.
        cut: file -> the bytes after which the connection breaks.
    """

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)
    refused: tuple[int, str] | None = None
    cut: dict[str, int] = field(default_factory=dict)


@dataclass
class StandInHub:
    """The running stand-in; `asked` and `sent` say what was asked for and how many bytes went."""

    url: str = ""
    models: dict[str, Model] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """Serve models until the block ends."""
    hub = StandInHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if match := RESOLVE.fullmatch(path.removeprefix("/elsewhere")):
            name, revision, file = match.groups()
        elif match := API.fullmatch(path):
            (name, revision), file = match.groups(), None
        else:
            return self._refuse(404, "")
        model = self.hub.models.get(name)
        if model is None:
            return self._refuse(404, "RepoNotFound")
        if model.refused is not None:
            return self._refuse(*model.refused)
        if (revision or "main") not in model.revisions:
            return self._refuse(404, "RevisionNotFound")
        if file is None:
            return self._describe(name, model)
        if file not in model.files:
            return self._refuse(404, "EntryNotFound")
        return self._give(path, model, file)

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _describe(self, name: str, model: Model) -> None:
        files = [{"rfilename": file, "size": len(data)} for file, data in model.files.items()]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _give(self, path: str, model: Model, file: str) -> None:
        data = model.files[file]
        etag, size = f'"{hashlib.sha256(data).hexdigest()}"', str(len(data))
        known = {"X-Repo-Commit": COMMIT, "ETag": etag}
        if len(data) >= LARGE and not path.startswith("/elsewhere"):
            linked = {"X-Linked-Size": size, "X-Linked-Etag": etag, "Content-Length": "0"}
            place = f"{self.hub.url}/elsewhere{path}"
            return self._head(302, known | linked | {"Location": place})
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
            end = min(int(match[2] or len(data)), len(data) - 1)
            known["Content-Range"] = f"bytes {start}-{end}/{size}"
            data = data[: end + 1]
        self._head(status, known | {"Content-Length": str(len(data) - start)})
        if self.command == "HEAD":
            return None
        cut = model.cut.get(file)
        self.hub.sent[file] = self.hub.sent.get(file, 0) + len(data[start:cut])
        self.wfile.write(data[start:cut])
        if cut is not None:
            self.close_connection = True
        return None

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
