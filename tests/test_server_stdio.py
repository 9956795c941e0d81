"""The stdio server as the add-on meets it: a real process, with tiny models in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_client import REAL, ROOT, TINY, Client

from backend.frontend.wire import ERROR_CODES, FILES, LONGEST_LINE, METHODS, NOTIFICATIONS, mismatch

PROMPT = {"prompt": "a red mushroom", "texture_size": 64, "faces": 100}
SLOW = {**PROMPT, "prompt": "a red mushroom slow"}


@pytest.fixture(scope="module")
def tiny() -> Iterator[Client]:
    """One server for all tests that leave it alive: loading torch is what takes long."""
    client = Client(TINY)
    yield client
    client.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def begin(command: list[str]) -> Client:
        clients.append(Client(command))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


def failure(answer: dict[str, Any]) -> tuple[str, str]:
    """The stable code and the sentence; every error must have the agreed shape."""
    error = answer["error"]
    assert isinstance(error["code"], int)
    assert error["data"]["code"] in ERROR_CODES
    assert isinstance(error["data"]["fix"], str)
    assert error["message"].endswith((".", ")", "!"))
    return error["data"]["code"], error["message"]


def test_every_method_answers_as_agreed(start: Callable[..., Client], tmp_path: Path) -> None:
    """The real server, without a job: what it says has the shape that backend.frontend.wire describes."""
    client = start(REAL)
    for method in ("initialize", "doctor", "weights.status"):
        result = client.call(method)["result"]
        assert mismatch(result, METHODS[method].result) == ""
    hello = client.call("initialize", client="test", version="1")["result"]
    assert (hello["name"], hello["protocol"]) == ("splatsmith", 1)
    starter = hello["recipes"][0]
    assert (starter["name"], starter["least_views"], starter["missing"]) == ("starter", 4, [])
    assert starter["title"]
    assert all({"dmv3d", "reader"} <= set(starter[source]) for source in ("from_text", "from_picture"))
    assert {"dmv3d", "lgm"} <= set(hello["packs"])
    assert all(isinstance(there, bool) for there in hello["packs"].values())
    for pack in client.call("weights.status")["result"]["packs"]:
        assert {"name", "present", "bytes", "licence", "sha256"} <= set(pack)
    assert failure(client.call("weights.download", name="dmv3d"))[0] == "offline"
    assert failure(client.call("weights.download", name="gold"))[0] == "bad_input"
    assert client.call("cancel", job="none")["result"] == {"cancelled": False}
    assert client.call("shutdown")["result"] == {}
    assert client.ended(5)
    assert client.process.returncode == 0


def test_a_job_answers_with_its_files(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    folder = tmp_path / "jöb ☃"
    result = client.call("generate", job="one", folder=str(folder), request=PROMPT)["result"]
    assert mismatch(result, METHODS["generate"].result) == ""
    assert (result["job"], result["folder"]) == ("one", str(folder))
    assert set(result["files"]) == set(FILES)
    assert all(Path(path).is_file() for name, path in result["files"].items() if name != "views")
    for name, shape in NOTIFICATIONS.items():
        assert client.notified(name), name
        assert [mismatch(params, shape) for params in client.notified(name)] == [""] * len(client.notified(name))
    progress = client.notified("progress")
    assert list(dict.fromkeys(entry["stage"] for entry in progress)) == [
        "views", "reconstruct", "surface", "texture", "export",
    ]  # fmt: skip
    assert progress[-1]["overall"] == pytest.approx(1.0)
    again = client.call(
        "generate", job="two", folder=str(folder), request={"texture_size": 128}, from_stage="mesh", to_stage=None
    )
    assert set(again["result"]["files"]) == set(FILES)
    assert json.loads((folder / "request.json").read_text())["prompt"] == PROMPT["prompt"]


def test_prints_of_libraries_do_not_break_the_wire(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    client.call("generate", job="one", folder=str(tmp_path / "job"), request={"prompt": "noisy mushroom"})
    said = b"".join(client.errors)
    assert b"a library prints this" in said
    assert b"a native library writes this" in said


GARBAGE = {
    b"hello": -32700,
    b"\xff\xfe\x00": -32700,
    b"{": -32700,
    b"[" * 100_000: -32700,
    b'"' + b"a" * (LONGEST_LINE + 5) + b'"': -32700,
    b"5": -32600,
    b"[]": -32600,
    b'[{"jsonrpc":"2.0","id":1,"method":"doctor"}]': -32600,
    b"{}": -32600,
    b'{"jsonrpc":"1.0","id":1,"method":"doctor"}': -32600,
    b'{"jsonrpc":"2.0","id":[1],"method":"doctor"}': -32600,
    b'{"jsonrpc":"2.0","id":true,"method":"doctor"}': -32600,
    b'{"jsonrpc":"2.0","id":1,"method":5}': -32600,
    b'{"jsonrpc":"2.0","id":1,"method":"dance"}': -32601,
    b'{"jsonrpc":"2.0","id":1,"method":"cancel"}': -32602,
    b'{"jsonrpc":"2.0","id":1,"method":"cancel","params":["one"]}': -32602,
    b'{"jsonrpc":"2.0","id":1,"method":"cancel","params":{"job":5}}': -32602,
    b'{"jsonrpc":"2.0","id":1,"method":"generate","params":{"job":"a","folder":"b"}}': -32602,
    b'{"jsonrpc":"2.0","id":1,"method":"generate","params":{"job":"","folder":"b","request":{}}}': -32602,
    b'{"jsonrpc":"2.0","id":1,"method":"generate","params":{"job":"a","folder":"b","request":"c"}}': -32602,
}


def test_garbage_gets_errors_and_the_server_lives(start: Callable[..., Client]) -> None:
    client = start(REAL)
    for line, number in GARBAGE.items():
        client.send_bytes(line + b"\n")
        answer = client.wait_for(lambda message: "error" in message)
        assert answer["error"]["code"] == number, line[:80]
        failure(answer)
    client.heard.clear()
    client.send_bytes(b"\n  \n\r\n")  # blank lines are nothing, and what has no id is never answered
    client.send_bytes(b'{"jsonrpc":"2.0","method":"dance"}\n{"jsonrpc":"2.0","method":"cancel","params":{"job":"a"}}\n')
    client.send_bytes(b'\xef\xbb\xbf{"jsonrpc":"2.0","id":9,"method":"cancel","params":{"job":"a"}}\r\n')
    assert client.call("cancel", job="a")["result"] == {"cancelled": False}
    assert [message["id"] for message in client.heard] == [9, 1]


def test_bad_requests_get_their_sentence(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    (tmp_path / "file").write_text("in the way")
    bad = [
        ({"prompt": ""}, "job"),
        ({"prompt": "mushroom " * 3000}, "job"),
        ({"prompt": "ein kleiner florp"}, "job"),
        ({"image": "none.png"}, "job"),
        ({"cameras": "none.json"}, "job"),
        ({"gaussians": "none.ply"}, "job"),
        ({"prompt": "a mug", "seed": "x"}, "job"),
        ({"prompt": "a mug", "recipe": "soup"}, "job"),
        ({"prompt": "a mug", "dance": 1}, "job"),
        (PROMPT, "file"),
        (PROMPT, "file/deeper"),
        (PROMPT, "nul\0l"),
        (PROMPT, ""),
    ]
    for index, (request, folder) in enumerate(bad):
        path = str(tmp_path / folder) if folder else " "
        answer = client.call("generate", job=str(index), folder=path, request=request)
        assert failure(answer)[0] == "bad_input", request
    answer = client.call("generate", job="x", folder=str(tmp_path / "none"), request={"faces": 500}, from_stage="mesh")
    assert failure(answer)[0] == "bad_input"
    assert "result" in client.call("generate", job="good", folder=str(tmp_path / "good"), request=PROMPT)


def test_a_bug_becomes_an_internal_error_with_a_log(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    code, message = failure(
        client.call("generate", job="one", folder=str(tmp_path / "job"), request={"prompt": "failing mushroom"})
    )
    assert code == "internal"
    assert "\n" not in message
    assert (
        failure(
            client.call("generate", job="two", folder=str(tmp_path / "job"), request={"prompt": "failing mushroom"})
        )[0]
        == "internal"
    )
    assert b"Traceback" in b"".join(client.errors)


def test_too_little_memory_has_its_code(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    answer = client.call("generate", job="one", folder=str(tmp_path / "job"), request={"prompt": "hungry mushroom"})
    assert failure(answer)[0] == "out_of_memory"


def test_cancel_is_obeyed_at_the_next_step(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    job = client.send("generate", job="one", folder=str(tmp_path / "job"), request={**SLOW, "steps": 1000})
    client.wait_for(lambda message: message.get("params", {}).get("step", 0) >= 2)
    asked = time.monotonic()
    cancel = client.send("cancel", job="one")
    assert failure(client.answer(job, 10))[0] == "cancelled"
    assert time.monotonic() - asked < 2.0
    assert any(message.get("id") == cancel and message["result"]["cancelled"] for message in client.heard)
    assert client.call("cancel", job="one")["result"] == {"cancelled": False}
    assert "result" in client.call("generate", job="one", folder=str(tmp_path / "job"), request=PROMPT)


def test_jobs_run_one_at_a_time_in_order_and_a_waiting_one_is_cancelled_at_once(tiny: Client, tmp_path: Path) -> None:
    client = tiny
    client.heard.clear()
    ids = {
        name: client.send("generate", job=name, folder=str(tmp_path / name), request=SLOW)
        for name in ("one", "two", "three")
    }
    assert failure(client.call("generate", job="two", folder=str(tmp_path / "x"), request=SLOW))[0] == "bad_input"
    assert client.call("cancel", job="two")["result"] == {"cancelled": True}
    assert failure(client.answer(ids["two"], 1.0))[0] == "cancelled"
    # Quick questions are answered while a job runs.
    client.wait_for(lambda message: message.get("method") == "progress")
    assert "packs" in client.call("weights.status")["result"]
    assert not any(message.get("id") == ids["one"] for message in client.heard)
    client.answer(ids["three"])
    names = [entry["job"] for entry in client.notified("progress")]
    assert list(dict.fromkeys(names)) == ["one", "three"]
    assert names == sorted(names, key=("one", "three").index)
    assert not (tmp_path / "two").exists()


def test_the_end_of_stdin_ends_the_server_in_mid_job(start: Callable[..., Client], tmp_path: Path) -> None:
    client = start(TINY)
    client.send("generate", job="one", folder=str(tmp_path / "job"), request={**SLOW, "steps": 1000})
    client.wait_for(lambda message: message.get("params", {}).get("step", 0) >= 1)
    assert client.process.stdin is not None
    client.process.stdin.close()
    assert client.ended(5)
    assert not list((tmp_path / "job").rglob(".unfinished*"))


def test_not_even_a_stuck_job_keeps_the_server_alive(start: Callable[..., Client], tmp_path: Path) -> None:
    client = start(TINY)
    client.send("generate", job="one", folder=str(tmp_path / "job"), request={"prompt": "stuck mushroom"})
    client.wait_for(lambda message: message.get("method") == "progress")
    client.call("shutdown")
    assert client.ended(5)


def test_a_killed_server_leaves_no_half_result_and_the_next_goes_on(
    start: Callable[..., Client], tmp_path: Path
) -> None:
    client = start(TINY)
    folder = tmp_path / "job"
    assert "result" in client.call("generate", job="one", folder=str(folder), request=PROMPT)
    before = (folder / "mesh.glb").read_bytes()
    client.send("generate", job="two", folder=str(folder), request={**SLOW, "seed": 5})
    client.wait_for(lambda message: message.get("params", {}).get("job") == "two")
    client.process.kill()
    client.process.wait()
    assert (folder / "mesh.glb").read_bytes() == before
    client = start(TINY)
    assert "result" in client.call("generate", job="two", folder=str(folder), request={**PROMPT, "seed": 5})


MIDDLE_MAN = """
import os, subprocess, sys, threading, time
read, write = os.pipe()  # somebody else holds the child's stdin open: only the parent's death is left to notice
os.set_inheritable(write, True)
holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
def start():
    global child
    child = subprocess.Popen(sys.argv[1:], stdin=read, stdout=subprocess.PIPE, close_fds=True)
thread = threading.Thread(target=start)
thread.start(); thread.join()  # the thread that starts it ends, the process does not
os.write(write, b'{"jsonrpc":"2.0","id":1,"method":"cancel","params":{"job":"a"}}\\n')
child.stdout.readline()
time.sleep(1.5)
print(child.pid, holder.pid, child.poll(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="on Windows the add-on's Job Object does this")
def test_the_server_dies_with_its_parent_and_not_with_a_thread(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-c", MIDDLE_MAN, *REAL], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child, holder, ended = parent.stdout.readline().split()
    try:
        assert ended == "None"  # the end of the starting thread alone did not end it
        parent.kill()
        parent.wait()
        end = time.monotonic() + 5
        while time.monotonic() < end and _runs(int(child)):
            time.sleep(0.05)
        assert not _runs(int(child))
    finally:
        parent.stdout.close()
        for pid in (child, holder):
            if _runs(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    return state != "Z"
