"""Check: asks the chosen Python and the backend on it what they have and what they lack. Knows no Blender."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from . import environment
from .client import Backend, Failure, Launch, Problem, Reply

PATIENCE = 180.0  # seconds; torch from a cold disk is slow


class Check:
    """One check, on a thread of its own. `lines` and `failure` are complete once `running` is False."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.lines: list[str] = []
        self.failure: Failure | None = None
        self.report: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="splatsmith-check", daemon=True)

    def start(self) -> Check:
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def cancel(self, wait: float = 5.0) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=wait)

    def wait(self) -> Check:
        self._thread.join()
        return self

    def _work(self) -> None:
        self.failure = interpreter_failure(self.launch.python)
        if self.failure is not None:
            return
        try:
            backend = Backend(self.launch)
        except Problem as problem:
            self.failure = problem.failure
            return
        try:
            self._ask(backend)
        finally:
            backend.stop()

    def _ask(self, backend: Backend) -> None:
        for method in ("initialize", "doctor"):
            reply = backend.request(
                method, {"client": "splatsmith-check", "version": "0"} if method == "initialize" else {}
            )
            self._wait_for(backend, reply)
            if reply.failure is not None:
                self.failure = reply.failure
                return
            self.report |= reply.result or {}
        self.lines = describe(self.report)
        problems = self.report.get("problems") or []
        if problems:
            first = problems[0] if isinstance(problems[0], dict) else {"message": str(problems[0])}
            self.failure = Failure("check", str(first.get("message", "")), str(first.get("fix") or ""))

    def _wait_for(self, backend: Backend, reply: Reply) -> None:
        end = time.monotonic() + PATIENCE
        while not reply.done:
            backend.poll()
            if self._stop.is_set() or time.monotonic() > end:
                reply.failure = Failure("backend_silent", "The backend did not answer.", f"See {self.launch.log_path}.")
            time.sleep(0.05)


def interpreter_failure(python: Path) -> Failure | None:
    """What is wrong with a Python as the backend's, None when it will do."""
    choose = "Choose another Python in the preferences, or clear the field and press Set Up."
    interpreter = environment.probe(python, environment.PACKAGES)
    if interpreter is None:
        return Failure("no_python", f"{python} does not run as a Python.", choose)
    if not interpreter.supported:
        return Failure("no_python", f"{interpreter} is not a 64-bit Python {environment.version_range()}.", choose)
    if interpreter.missing:
        names = ", ".join(interpreter.missing)
        return Failure("missing_packages", f"{interpreter} lacks {names}.", f"Install them there. {choose}")
    return None


def describe(report: dict[str, Any]) -> list[str]:
    """The doctor's report in a few lines for the preferences."""
    lines = [f"{name} {report[name]}" for name in ("python", "torch", "numpy", "numba") if report.get(name)]
    lines = [", ".join(lines)] if lines else []
    if report.get("device"):
        memory = report.get("memory_bytes")
        size = f", {memory / 2**30:.0f} GB of memory" if isinstance(memory, (int, float)) and memory > 0 else ""
        lines.append(f"Runs on {report['device']}{size}")
    packs = report.get("packs")
    if isinstance(packs, dict):
        lines.append("Models: " + ", ".join(f"{name} {'here' if here else 'missing'}" for name, here in packs.items()))
    return lines
