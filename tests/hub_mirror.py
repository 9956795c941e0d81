"""A mirror of the hub on this machine for the hub's own client: one repository, answered as the real one answers."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Mirror:
    """files: what it states; served: what it sends in their place, where that differs. stall_after: bytes of a file
    after which it says no more and holds the line, as a dying network does. refuse: (status, X-Error-Code) for all.
    asked: (method, path, Range); sent: (path, first byte, number of bytes)."""

    repository: str
    files: dict[str, bytes] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    stall_after: int | None = None
    refuse: tuple[int, str] | None = None
    refuse_files: tuple[int, str] | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Mirror:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror._answer(self)

            def do_HEAD(self) -> None:
                mirror._answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def reset(self, files: dict[str, bytes], **behaviour: Any) -> None:
        """Another content and behaviour, and nothing asked yet."""
        fresh = Mirror(self.repository, files, **behaviour)
        self.__dict__.update(fresh.__dict__)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def elsewhere(self) -> str:
        """Another host, as a browser or client sees it."""
        return self.address.replace("127.0.0.1", "localhost")

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path.partition("?")[0], request.headers.get("Range")
        self.asked.append((request.command, path, wanted))
        self.tokens.append((path, request.headers.get("Authorization")))
        resolve = f"/{self.repository}/resolve/{REVISION}/"
        if self.refuse:
            self._refuse(request, *self.refuse)
        elif path == f"/api/models/{self.repository}":
            self._send(request, 200, json.dumps(self._information()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(resolve) and self.refuse_files:
            self._refuse(request, *self.refuse_files)
        elif path.startswith(resolve) and path[len(resolve) :] in self.files:
            # Large files lie elsewhere: the hub names the place.
            self._send(request, 302, b"", {"Location": f"{self.elsewhere}/elsewhere/{path[len(resolve) :]}"})
        elif path.startswith("/elsewhere/"):
            self._send_file(request, path[len("/elsewhere/") :], wanted)
        else:
            self._refuse(request, 404, "RepoNotFound" if path.startswith("/api/") else "EntryNotFound")

    def _information(self) -> dict[str, Any]:
        siblings = [
            {
                "rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest(),
                "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134},
            }
            for name, content in self.files.items()
        ]  # fmt: skip
        return {"_id": "1", "id": self.repository, "modelId": self.repository, "sha": REVISION, "siblings": siblings}

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, wanted: str | None) -> None:
        content = self.served.get(name, self.files[name])
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if wanted else {}
        stalls = self.stall_after is not None
        part = content[first : self.stall_after] if stalls else content[first:]
        self._send(request, 206 if wanted else 200, part, headers, len(content) - first)
        self.sent.append((name, first, len(part)))
        if stalls:
            self.released.wait(60)
            request.close_connection = True

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        length: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
            request.wfile.flush()
