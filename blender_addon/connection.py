"""The backend process that jobs and questions share: started when it is wanted, greeted, kept warm, replaced after a
death. Knows no Blender."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .client import Backend, Failure, Notification, Problem, Reply

PROTOCOL = 1
START_SECONDS = 180.0  # importing torch from a cold disk takes a minute on slow machines


class Connection:
    """At most one backend at a time. `ready` starts it; `info` is what it said of itself."""

    def __init__(self, start_backend: Callable[[], Backend], now: Callable[[], float] = time.monotonic) -> None:
        """start_backend may raise Problem."""
        self._start = start_backend
        self._now = now
        self._backend: Backend | None = None
        self._hello: Reply | None = None
        self._started_at = 0.0
        self._retired = False
        self.info: dict[str, Any] = {}  # version, device, recipes, packs; empty while there is no backend

    @property
    def up(self) -> bool:
        return self._backend is not None

    @property
    def pid(self) -> int | None:
        return self._backend.pid if self._backend is not None else None

    def retire(self) -> None:
        """The next `ready` that may replace the backend starts another."""
        self._retired = True

    def ready(self, may_replace: bool = True) -> bool:
        """Starts the backend where there is none; True once it takes requests. Never waits.

        Raises Problem, after which the next call begins again.
        """
        if self._retired and may_replace:
            self.drop()
            self._hello = None
        if self._backend is None:
            if self._hello is not None and self._hello.result is None:  # it died before it was ready
                failure, self._hello = self._hello.failure, None
                raise Problem(_start_failure(failure))
            self._retired = False
            self._backend = self._start()
            self._started_at = self._now()
            self._hello = self._backend.request("initialize", {"client": "splatsmith-addon", "version": "0.1.0"})
            return False
        if self.info:
            return True
        assert self._hello is not None
        if not self._hello.done:
            if self._now() - self._started_at > START_SECONDS:
                self._give_up(
                    Failure(
                        "backend_silent",
                        f"The backend did not answer within {START_SECONDS:.0f} seconds.",
                        "Press Check in the add-on's preferences to see what is wrong with its Python.",
                    )
                )
            return False
        if self._hello.failure is not None:
            self._give_up(_start_failure(self._hello.failure))
        hello = self._hello.result or {}
        if hello.get("protocol") != PROTOCOL:
            self._give_up(
                Failure(
                    "backend_version",
                    f"The backend speaks protocol {hello.get('protocol')!r}, this add-on {PROTOCOL}.",
                    "Install the add-on again from one zip, so that both halves have the same version.",
                )
            )
        self.info = hello
        return True

    def request(self, method: str, params: dict[str, Any]) -> Reply:
        """Only after `ready` said yes."""
        assert self._backend is not None
        return self._backend.request(method, params)

    def poll(self) -> list[Notification]:
        """Takes in what has arrived. Never waits."""
        if self._backend is None:
            return []
        notifications = self._backend.poll()
        if not self._backend.alive:
            self._backend, self.info = None, {}
        return notifications

    def drop(self) -> None:
        """Ends the backend at once."""
        if self._backend is not None:
            self._backend.kill()
            self._backend, self._hello, self.info = None, None, {}

    def close(self) -> None:
        """Ends the backend, giving it a moment."""
        if self._backend is not None:
            self._backend.stop()
            self._backend, self._hello, self.info = None, None, {}

    def _give_up(self, failure: Failure) -> None:
        self.drop()
        raise Problem(failure)


def _start_failure(failure: Failure | None) -> Failure:
    if failure is not None and failure.code != "backend_stopped":
        return failure
    return Failure(
        "backend_stopped",
        "The backend's Python ended before it was ready; most often torch or another package is missing.",
        "Press Check in the add-on's preferences to see what is missing.",
    )
