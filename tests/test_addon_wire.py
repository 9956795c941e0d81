"""Both ends of the wire against its one description: the add-on's client, the stand-in, and the real server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend.frontend import wire
from blender_addon import client
from blender_addon.client import Backend, Launch
from blender_addon.connection import PROTOCOL
from blender_addon.jobs import Job, Runner, State

TESTS = Path(__file__).parent
ENDS = {"stand-in": TESTS / "fake_backend", "real": TESTS.parent}


@pytest.fixture(params=ENDS)
def launch(request, tmp_path):
    return Launch(Path(sys.executable), ENDS[request.param], tmp_path / "home")


def recorded(backend: Backend, monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """Every request that goes out, as (method, params)."""
    sent: list[tuple[str, dict[str, Any]]] = []
    original = backend.request

    def request(method: str, params: Any) -> Any:
        sent.append((method, dict(params)))
        return original(method, params)

    monkeypatch.setattr(backend, "request", request)
    return sent


def ask(backend: Backend, method: str, params: dict[str, Any], seconds: float = 90.0) -> tuple[Any, list]:
    reply, notifications = backend.request(method, params), []
    end = time.monotonic() + seconds
    while not reply.done:
        assert time.monotonic() < end, f"{method} was not answered"
        notifications += backend.poll()
        time.sleep(0.01)
    return reply, notifications


def test_client_and_server_speak_the_same_protocol():
    assert PROTOCOL == wire.PROTOCOL
    assert client.LONGEST_LINE <= wire.LONGEST_LINE


def test_answers_have_the_shape_that_was_agreed_on(launch):
    backend = Backend(launch)
    try:
        for method in ("initialize", "doctor"):
            reply, _ = ask(backend, method, {})
            assert reply.failure is None
            assert wire.mismatch(reply.result, wire.METHODS[method].result) == ""
        reply, _ = ask(backend, "cancel", {"job": "nobody"})
        assert wire.mismatch(reply.result, wire.METHODS["cancel"].result) == ""
        reply, _ = ask(backend, "sing", {})
        assert reply.failure.code == "bad_input"
    finally:
        backend.stop()


def test_the_runners_requests_are_what_the_server_takes(launch, tmp_path, monkeypatch):
    sent: list[tuple[str, dict[str, Any]]] = []

    def start() -> Backend:
        backend = Backend(launch)
        nonlocal sent
        sent = recorded(backend, monkeypatch)
        return backend

    runner = Runner(start)
    # Too few faces for the real backend, so that it refuses without needing weights; the stand-in does not mind.
    job = runner.run(Job({"prompt": "a mug", "recipe": "starter", "seed": 1, "faces": 3}, tmp_path / "job"))
    runner.close()
    assert [method for method, _ in sent][:2] == ["initialize", "generate"]
    for method, params in sent:
        assert wire.mismatch(params, wire.METHODS[method].params) == ""
    if launch.code_folder == ENDS["real"]:
        assert job.failure.code == "bad_input"
        assert "faces" in job.failure.message
        assert job.failure.fix
    else:
        assert job.state is State.DONE


def test_the_stand_in_sends_what_the_real_server_may_send(tmp_path):
    backend = Backend(Launch(Path(sys.executable), ENDS["stand-in"], tmp_path / "home"))
    try:
        params = {"job": "j", "folder": str(tmp_path / "job"), "request": {"prompt": "a mug"}}
        reply, notifications = ask(backend, "generate", params)
        assert wire.mismatch(reply.result, wire.METHODS["generate"].result) == ""
        assert set(reply.result["files"]) == set(wire.FILES)
        assert {entry.method for entry in notifications} == {"progress", "preview"}
        for entry in notifications:
            assert wire.mismatch(entry.params, wire.NOTIFICATIONS[entry.method]) == ""
        reply, _ = ask(backend, "generate", {**params, "job": "k", "request": {"prompt": "refuse"}})
        assert reply.failure.code in wire.ERROR_CODES
    finally:
        backend.stop()
