"""What the server does with loaded networks when there is nothing to do."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from backend.frontend.server import Server
from backend.frontend.wire import Call


class Quiet:
    """A channel on which nobody speaks; what is answered is kept."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def answer(self, request_id: Any, result: Any) -> None:
        self.answers.append(request_id)


def enqueue(server: Server, name: str) -> None:
    server._enqueue(Call("generate", {"job": name}, name, True))


def test_networks_are_set_aside_after_jobs_and_let_go_of_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While jobs wait they stay where they are; and what goes wrong with it ends nothing."""
    channel, done = Quiet(), []
    server = Server(channel, "cpu", idle=0.05)  # type: ignore[arg-type]
    monkeypatch.setattr(server, "_read", lambda: None)
    monkeypatch.setattr(server._tasks, "perform", lambda method, name, *_: done.append(name) or {})
    monkeypatch.setattr(server._tasks, "rest", lambda: done.append("rest"))

    def release() -> None:
        done.append("release")
        if done.count("release") == 1:
            raise RuntimeError("the driver is gone")

    def more_work() -> None:
        for count in (1, 2):
            while done.count("release") < count:
                time.sleep(0.01)
            enqueue(server, "c") if count == 1 else server._jobs.put(None)

    monkeypatch.setattr(server._tasks, "release", release)
    enqueue(server, "a")
    enqueue(server, "b")
    threading.Thread(target=more_work, daemon=True).start()
    server.run()
    assert done == ["a", "b", "rest", "release", "c", "rest", "release"]
    assert channel.answers == ["a", "b", "c"]


def test_without_networks_there_is_nothing_to_let_go_of() -> None:
    tasks = Server(Quiet(), "cpu")._tasks  # type: ignore[arg-type]
    tasks.rest()
    tasks.release()
