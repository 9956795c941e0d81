"""One backend process: start it, talk to it, notice its death, stop it. Knows neither Blender nor torch.

The wire is JSON-RPC 2.0, one UTF-8 JSON object a line, over the child's stdin and stdout. `Backend.poll` never blocks:
a reader thread puts every line into a queue, and whoever owns the backend empties it from a timer or a loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import process_tree

LONGEST_LINE = 32_000  # bytes; a pipe holds 64 KiB, so a write of one line never waits for the child to read
LARGEST_LOG = 2_000_000  # bytes of the backend's log before it is put aside


@dataclass(frozen=True)
class Failure:
    """Why something did not work: a stable code for programs, a sentence for people, and what would mend it."""

    code: str
    message: str
    fix: str = ""


@dataclass
class Reply:
    """The answer to one request, filled in by `Backend.poll`."""

    method: str
    result: dict[str, Any] | None = None
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        return self.result is not None or self.failure is not None


@dataclass(frozen=True)
class Notification:
    """A message from the backend that answers no request: progress, preview or log."""

    method: str
    params: dict[str, Any]


class Problem(Exception):
    """Something stands in the way before any work begins; `failure` says what, and what to do about it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def clean_environment(
    base: Mapping[str, str], blender_folder: Path | None, additions: Mapping[str, str]
) -> dict[str, str]:
    """The child's environment: `base` without what belongs to Blender's Python and libraries, plus `additions`.

    Every PYTHON* variable goes, since Blender's would send the child into Blender's site-packages. Of the search
    paths for libraries and programs only the entries inside `blender_folder` go: a user's CUDA may need the others.
    """
    kept = {
        name: value
        for name, value in base.items()
        if not name.upper().startswith("PYTHON") and name != "__PYVENV_LAUNCHER__"
    }
    if blender_folder is not None and str(blender_folder) not in {"/", "/usr", "/usr/bin", "/usr/local/bin", "/bin"}:
        for name in (
            "PATH",
            "LD_LIBRARY_PATH",
            "DYLD_LIBRARY_PATH",
            "DYLD_FALLBACK_LIBRARY_PATH",
            "DYLD_FRAMEWORK_PATH",
        ):
            if name in kept:
                entries = [entry for entry in kept[name].split(os.pathsep) if not _inside(entry, blender_folder)]
                kept[name] = os.pathsep.join(entries)
                if not entries:
                    del kept[name]
    kept.update({"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"})
    kept.update(additions)
    return kept


def _inside(entry: str, folder: Path) -> bool:
    if not entry:
        return False
    path = Path(entry)
    return path == folder or folder in path.parents


@dataclass(frozen=True)
class Launch:
    """Everything that starting a backend needs.

    python: its interpreter; code_folder: the folder that contains `backend/`; home: the per-user data folder, which is
    the working directory too, because Windows cannot upgrade an extension that is somebody's working directory.
    """

    python: Path
    code_folder: Path
    home: Path
    blender_folder: Path | None = None
    extra_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log_path(self) -> Path:
        return self.home / "logs" / "backend.log"

    def environment(self) -> dict[str, str]:
        additions = {
            "PYTHONPATH": str(self.code_folder),
            "PYTHONSAFEPATH": "1",
            "NUMBA_CACHE_DIR": str(self.home / "numba"),
            "SPLATSMITH_HOME": str(self.home),
            **self.extra_environment,
        }
        return clean_environment(os.environ, self.blender_folder, additions)

    def command(self, *arguments: str) -> list[str]:
        """The command line of the backend; PYTHONSAFEPATH keeps the working directory out of its search path."""
        return [str(self.python), "-m", "backend", *arguments]


class Backend:
    """A running backend. It ends when its standard input does, so it cannot outlive this process."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._incoming: queue.Queue[bytes | None] = queue.Queue()
        self._pending: dict[int, Reply] = {}
        self._next_id = 1
        self._closed_at: float | None = None  # when its output ended; it has a moment to leave an exit code
        self._ended = False
        self._log = _open_log(launch.log_path)
        try:
            self._process = subprocess.Popen(
                launch.command("serve"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=launch.home,
                env=launch.environment(),
                creationflags=process_tree.CREATION_FLAGS,
                start_new_session=process_tree.NEW_SESSION,
            )
        except OSError as error:
            self._log.close()
            raise Problem(
                Failure(
                    "no_python",
                    f"The backend's Python {launch.python} could not be started ({error.strerror or error}).",
                    "Choose another Python in the add-on's preferences, or press Set Up there.",
                )
            ) from error
        self._job_object = process_tree.adopt(self._process)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=_read_lines, args=(self._process.stdout, self._incoming), name="splatsmith-reader", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the process ended and everything it had said was polled."""
        return not self._ended

    def request(self, method: str, params: Mapping[str, Any]) -> Reply:
        """Sends a request; `poll` fills the returned reply in. A dead backend gives a reply that failed already."""
        reply = Reply(method)
        if self._ended:
            reply.failure = Failure(
                "backend_stopped", "The backend is not running.", "Press Generate to start it again."
            )
            return reply
        line = json.dumps({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": dict(params)})
        if len(line) > LONGEST_LINE:
            reply.failure = Failure(
                "bad_input", "The prompt is far too long for a description of one object.", "Use a sentence or two."
            )
            return reply
        self._pending[self._next_id] = reply
        self._next_id += 1
        # A child that is gone is found out by `poll`, which fails every open request, this one too.
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return reply

    def poll(self) -> list[Notification]:
        """Takes in all that has arrived: fills replies in, returns the notifications in order. Never waits."""
        notifications = []
        while not self._ended:
            try:
                line = self._incoming.get_nowait()
            except queue.Empty:
                break
            if line is None:
                self._closed_at = time.monotonic()
                break
            notification = self._take(line)
            if notification is not None:
                notifications.append(notification)
        if self._closed_at is not None and not self._ended:
            lingers = self._process.poll() is None
            if lingers and time.monotonic() - self._closed_at > 1.0:
                process_tree.kill(self._process)
            elif not lingers:
                self._finish()
        return notifications

    def _take(self, line: bytes) -> Notification | None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._note(f"not a message: {line[:200]!r}")
            return None
        if "method" in message:
            params = message.get("params")
            return Notification(str(message["method"]), params if isinstance(params, dict) else {})
        reply = self._pending.pop(message["id"], None) if isinstance(message.get("id"), int) else None
        if reply is None:
            self._note(f"an answer to nothing: {line[:200]!r}")
        elif isinstance(message.get("error"), dict):
            reply.failure = failure_of(message["error"])
        else:
            result = message.get("result")
            reply.result = result if isinstance(result, dict) else {}
        return None

    def _note(self, text: str) -> None:
        """A line in the log that the child writes its errors to."""
        if not self._log.closed:
            self._log.write(f"[add-on] {text}\n".encode())

    def _finish(self) -> None:
        """The child is dead: every open request fails."""
        self._ended = True
        failure = Failure(
            "backend_stopped",
            f"The backend stopped in the middle of its work ({describe_exit(self._process.returncode)}).",
            f"Press Generate to start it again; {self.launch.log_path} says more.",
        )
        for reply in self._pending.values():
            reply.failure = failure
        self._pending.clear()
        self._tidy()

    def kill(self) -> None:
        """Ends the process at once; what it was working on is lost."""
        if not self._ended:
            process_tree.kill(self._process)
            self._process.wait(timeout=5.0)
            self._finish()

    def stop(self, grace: float = 1.0) -> None:
        """Asks the backend to end, waits up to `grace` seconds, then ends it. Safe to call twice."""
        if self._ended:
            return
        self.request("shutdown", {})
        self._close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace)
        self.kill()

    def _close_input(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _tidy(self) -> None:
        self._close_input()
        # A grandchild that still holds the other end of the pipe must not keep Blender waiting.
        self._reader.join(timeout=0.2)
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        process_tree.release(self._job_object)
        self._job_object = None


def failure_of(error: Mapping[str, Any]) -> Failure:
    """A JSON-RPC error object as a Failure."""
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    message = str(error.get("message") or "The backend failed without saying why.")
    return Failure(str(data.get("code") or "internal"), message, str(data.get("fix") or ""))


def describe_exit(code: int | None) -> str:
    """An exit code in words that help: signals by name, the kernel's out-of-memory killer named as the likely cause."""
    if code is None:
        return "still running"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{name}, perhaps because memory ran out" if name == "SIGKILL" else name
    return f"exit code {code}"


def _read_lines(stream: BinaryIO, incoming: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            incoming.put(line)
    incoming.put(None)


def _open_log(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LARGEST_LOG:
            # Another Blender may hold it open on Windows: then it goes on growing until that one ends.
            with contextlib.suppress(OSError):
                os.replace(path, path.with_suffix(".old.log"))
        log = open(path, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise Problem(
            Failure(
                "unwritable",
                f"The data folder {path.parent.parent} cannot be written to ({error.strerror or error}).",
                "Choose another data folder in the add-on's preferences.",
            )
        ) from error
    log.write(f"\n[add-on] {time.strftime('%Y-%m-%d %H:%M:%S')} starting the backend\n".encode())
    return log
