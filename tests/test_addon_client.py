"""The add-on's side of the wire, against a stand-in backend; no Blender needed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from blender_addon.client import Backend, Launch, Problem, Reply, clean_environment, describe_exit

FAKE = Path(__file__).parent / "fake_backend"
ROOT = Path(__file__).parent.parent


def wait(backend: Backend, reply: Reply, seconds: float = 20.0) -> list:
    notifications = []
    end = time.monotonic() + seconds
    while not reply.done and time.monotonic() < end:
        notifications += backend.poll()
        time.sleep(0.01)
    assert reply.done, f"{reply.method} was not answered"
    return notifications


@pytest.fixture
def launch(tmp_path):
    return Launch(Path(sys.executable), FAKE, tmp_path / "home ü")


@pytest.fixture
def backend(launch):
    backend = Backend(launch)
    yield backend
    backend.stop()


def test_a_request_is_answered_and_progress_arrives_in_order(backend, tmp_path):
    reply = backend.request("initialize", {"client": "test", "version": "0"})
    wait(backend, reply)
    assert reply.result["protocol"] == 1
    prompt = "a räd müshroom 蘑菇"
    reply = backend.request("generate", {"job": "j", "folder": str(tmp_path / "job"), "request": {"prompt": prompt}})
    notifications = wait(backend, reply)
    overall = [n.params["overall"] for n in notifications if n.method == "progress"]
    assert len(overall) == 20
    assert overall == sorted(overall)
    report = (tmp_path / "job" / "report.json").read_text()
    assert "\\u8611" in report, "the prompt's characters were lost on the way"


def test_a_typed_error_keeps_its_code_and_its_remedy(backend, tmp_path):
    reply = backend.request("generate", {"job": "j", "folder": str(tmp_path), "request": {"prompt": "refuse"}})
    wait(backend, reply)
    assert reply.failure.code == "bad_input"
    assert reply.failure.fix == "Name an object."


def test_rubbish_on_the_wire_is_logged_and_skipped(backend, launch, tmp_path):
    reply = backend.request("generate", {"job": "j", "folder": str(tmp_path / "j"), "request": {"prompt": "babble"}})
    wait(backend, reply)
    assert reply.failure is None
    backend.stop()
    log = launch.log_path.read_text(encoding="utf-8", errors="replace")
    assert "not a message" in log
    assert "a library prints this" in log


def test_a_death_fails_the_open_request_with_a_sentence(backend, tmp_path):
    reply = backend.request("generate", {"job": "j", "folder": str(tmp_path / "j"), "request": {"prompt": "crash"}})
    wait(backend, reply)
    assert not backend.alive
    assert reply.failure.code == "backend_stopped"
    assert "stopped in the middle" in reply.failure.message
    assert backend.request("doctor", {}).failure.code == "backend_stopped"


def test_an_enormous_prompt_is_refused_before_it_can_block_the_pipe(backend):
    reply = backend.request("generate", {"job": "j", "folder": "x", "request": {"prompt": "red " * 50_000}})
    assert reply.failure.code == "bad_input"
    assert backend.alive


def test_stop_leaves_no_process_and_may_be_called_twice(launch):
    backend = Backend(launch)
    pid = backend.pid
    backend.stop()
    backend.stop()
    assert not backend.alive
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_python_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(Problem) as caught:
        Backend(Launch(tmp_path / "no_python", FAKE, tmp_path / "home"))
    assert caught.value.failure.code == "no_python"
    assert "preferences" in caught.value.failure.fix


def test_an_unwritable_data_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem) as caught:
        Backend(Launch(Path(sys.executable), FAKE, tmp_path / "file" / "home"))
    assert caught.value.failure.code == "unwritable"


def test_the_child_gets_neither_blenders_python_nor_its_libraries(tmp_path):
    blender = tmp_path / "blender"
    base = {
        "PYTHONPATH": "/blender/scripts",
        "PYTHONHOME": "/blender/python",
        "LD_LIBRARY_PATH": os.pathsep.join([str(blender / "lib"), "/usr/local/cuda/lib64"]),
        "DYLD_LIBRARY_PATH": str(blender),
        "PATH": os.pathsep.join([str(blender), "/usr/bin"]),
        "HOME": "/somewhere",
    }
    clean = clean_environment(base, blender, {"NUMBA_CACHE_DIR": "/cache"})
    assert "PYTHONHOME" not in clean
    assert "PYTHONPATH" not in clean
    assert "DYLD_LIBRARY_PATH" not in clean
    assert clean["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert clean["PATH"] == "/usr/bin"
    assert clean["PYTHONDONTWRITEBYTECODE"] == "1"
    assert clean["NUMBA_CACHE_DIR"] == "/cache"
    assert clean["HOME"] == "/somewhere"


def test_a_blender_from_the_distribution_does_not_cost_the_child_its_path():
    assert clean_environment({"PATH": "/usr/bin:/bin"}, Path("/usr/bin"), {})["PATH"] == "/usr/bin:/bin"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_the_child_dies_with_its_parent(tmp_path):
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from blender_addon.client import Backend, Launch
        backend = Backend(Launch(Path(sys.executable), Path({str(FAKE)!r}), Path({str(tmp_path)!r})))
        reply = backend.request("initialize", {{}})
        while not reply.done:
            backend.poll()
            time.sleep(0.01)
        print(backend.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    end = time.monotonic() + 5
    while time.monotonic() < end and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_exit_codes_are_told_in_words():
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-11) == "SIGSEGV"
    assert "memory" in describe_exit(-9)
