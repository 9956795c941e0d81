"""A client for the stdio server that checks every line it hears."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TINY = [sys.executable, str(ROOT / "tests" / "stand_in_backend.py"), "serve"]
REAL = [sys.executable, "-m", "backend", "serve"]
LONG = 60.0  # seconds; torch takes its time to load on a busy machine


class Client:
    """Starts a server and keeps everything it says."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.heard: list[dict[str, Any]] = []
        self.errors: list[bytes] = []
        self._arrived: queue.Queue[bytes | None] = queue.Queue()
        self._next = 0
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr or []), daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout or []:
            self._arrived.put(line)
        self._arrived.put(None)

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, method: str, **params: Any) -> int:
        self._next += 1
        message = {"jsonrpc": "2.0", "id": self._next, "method": method, "params": params}
        self.send_bytes(json.dumps(message).encode() + b"\n")
        return self._next

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = LONG) -> dict[str, Any]:
        """The next message that is wanted; everything heard on the way is kept. Every line must be proper JSON-RPC."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._arrived.get(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError(f"not heard in {seconds} s; heard {self.heard[-3:]}, {self.errors[-5:]}") from None
            assert line is not None, f"the server ended: {b''.join(self.errors[-20:]).decode()}"
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            assert line.isascii()
            self.heard.append(message)
            if wanted(message):
                return message

    def answer(self, request_id: int | None, seconds: float = LONG) -> dict[str, Any]:

        def wanted(message: dict[str, Any]) -> bool:
            return "method" not in message and message["id"] == request_id

        return next(filter(wanted, self.heard), None) or self.wait_for(wanted, seconds)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.answer(self.send(method, **params))

    def notified(self, method: str) -> list[dict[str, Any]]:
        return [message["params"] for message in self.heard if message.get("method") == method]

    def ended(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
