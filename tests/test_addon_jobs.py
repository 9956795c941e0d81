"""The job queue against a stand-in backend: both drivers, cancel, death and restart."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from blender_addon import jobs
from blender_addon.client import Backend, Failure, Launch, Problem
from blender_addon.jobs import Job, Runner, State

FAKE = Path(__file__).parent / "fake_backend"


@pytest.fixture
def launch(tmp_path):
    return Launch(Path(sys.executable), FAKE, tmp_path / "home")


@pytest.fixture
def runner(launch):
    runner = Runner(lambda: Backend(launch))
    yield runner
    runner.close()


def job(folder: Path, prompt: str, identity: str = "") -> Job:
    made = Job({"prompt": prompt, "recipe": "starter"}, folder / prompt.replace(" ", "_"))
    if identity:
        made.id = identity
    return made


def drive(runner: Runner, until, seconds: float = 20.0) -> list[Job]:
    """Polls like a timer until `until()`; returns the jobs that ended."""
    ended = []
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        started = time.process_time()
        ended += runner.poll()
        assert time.process_time() - started < 0.2
        time.sleep(0.01)
    assert until()
    return ended


def test_the_blocking_drive_ends_with_files_and_steady_progress(runner, tmp_path):
    seen = []
    done = runner.run(job(tmp_path, "a flurb mug"), lambda j: seen.append((j.stage, j.overall)), pause=0.002)
    assert done.state is State.DONE
    assert Path(done.result["files"]["mesh_npz"]).is_file()
    assert done.warnings == ['"flurb" is not in the vocabulary and was ignored.']
    assert done.previews["views"].endswith("000.png")
    fractions = [overall for _, overall in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {"views", "surface"} <= {stage for stage, _ in seen}


def test_polling_runs_a_queue_in_order_on_one_process(runner, tmp_path):
    first, second = runner.submit(job(tmp_path, "one")), runner.submit(job(tmp_path, "two"))
    pids = set()

    def both_done() -> bool:
        pids.add(runner.backend_pid)
        return second.ended

    ended = drive(runner, both_done)
    assert ended == [first, second]
    assert len(pids - {None}) == 1


def test_a_death_in_mid_job_is_a_sentence_and_the_next_job_works(runner, tmp_path):
    crashed = runner.run(job(tmp_path, "crash"))
    assert crashed.state is State.FAILED
    assert crashed.failure.code == "backend_stopped"
    assert "Generate" in crashed.failure.fix
    assert runner.run(job(tmp_path, "a mug")).state is State.DONE


def test_a_death_between_two_jobs_goes_unnoticed(runner, tmp_path):
    assert runner.run(job(tmp_path, "one")).state is State.DONE
    os.kill(runner.backend_pid, signal.SIGKILL)
    time.sleep(0.3)
    assert runner.run(job(tmp_path, "two")).state is State.DONE


def test_cancel_is_obeyed_and_keeps_the_process(runner, tmp_path):
    slow = runner.submit(job(tmp_path, "slow"))
    drive(runner, lambda: slow.overall > 0)
    pid = runner.backend_pid
    runner.cancel()
    ended = drive(runner, lambda: slow.ended, 3.0)
    assert slow.state is State.CANCELLED
    assert ended == [slow]
    assert runner.run(job(tmp_path, "next")).state is State.DONE
    assert runner.backend_pid == pid


def test_a_deaf_backend_is_killed_two_seconds_after_cancel(runner, tmp_path):
    stuck = runner.submit(job(tmp_path, "stuck", identity="stuck"))
    drive(runner, lambda: stuck.stage == "surface")
    pid = runner.backend_pid
    runner.cancel()
    started = time.monotonic()
    drive(runner, lambda: stuck.ended, 5.0)
    assert time.monotonic() - started < jobs.CANCEL_SECONDS + 1.0
    assert stuck.state is State.CANCELLED
    assert runner.run(job(tmp_path, "next")).state is State.DONE
    assert runner.backend_pid != pid


def test_cancel_while_waiting_and_while_starting(runner, tmp_path):
    first, second = runner.submit(job(tmp_path, "one")), runner.submit(job(tmp_path, "two"))
    runner.poll()
    assert first.state is State.STARTING
    runner.cancel()
    assert first.state is State.CANCELLED
    assert second.state is State.CANCELLED
    assert not runner.busy
    assert runner.run(job(tmp_path, "three")).state is State.DONE


def test_a_refusal_of_the_backend_fails_only_that_job(runner, tmp_path):
    refused = runner.run(job(tmp_path, "refuse"))
    assert refused.failure == Failure("bad_input", "That prompt names nothing that can be made.", "Name an object.")
    assert runner.run(job(tmp_path, "a mug")).state is State.DONE


def test_a_backend_that_dies_at_the_start_points_at_check(tmp_path, launch):
    broken = Launch(launch.python, launch.code_folder, launch.home, None, {"FAKE_BACKEND_DIES": "1"})
    runner = Runner(lambda: Backend(broken))
    failed = runner.run(job(tmp_path, "a mug"))
    assert failed.state is State.FAILED
    assert "Check" in failed.failure.fix
    runner.close()


def test_another_protocol_is_refused(tmp_path, launch):
    older = Launch(launch.python, launch.code_folder, launch.home, None, {"FAKE_BACKEND_PROTOCOL": "7"})
    runner = Runner(lambda: Backend(older))
    failed = runner.run(job(tmp_path, "a mug"))
    assert failed.failure.code == "backend_version"
    runner.close()


def test_a_backend_that_cannot_start_fails_the_job(tmp_path):
    def refuse() -> Backend:
        raise Problem(Failure("not_set_up", "The backend is not set up yet.", "Press Set Up."))

    runner = Runner(refuse)
    failed = runner.run(job(tmp_path, "a mug"))
    assert failed.failure.code == "not_set_up"
    assert not runner.busy


def test_an_idle_backend_is_let_go(tmp_path, launch):
    clock = [0.0]
    runner = Runner(lambda: Backend(launch), now=lambda: clock[0], idle_seconds=100.0)
    runner.run(job(tmp_path, "a mug"))
    runner.poll()
    assert runner.backend_pid is not None
    clock[0] = 101.0
    runner.poll()
    assert runner.backend_pid is None
    assert runner.run(job(tmp_path, "another")).state is State.DONE
    runner.close()


def test_a_change_of_settings_takes_another_process_for_the_next_job(runner, tmp_path):
    first = runner.submit(job(tmp_path, "one"))
    drive(runner, lambda: first.overall > 0)
    pid = runner.backend_pid
    runner.retire_backend()
    drive(runner, lambda: first.ended)
    assert first.state is State.DONE
    assert runner.run(job(tmp_path, "two")).state is State.DONE
    assert runner.backend_pid != pid


def test_an_interrupted_blocking_drive_ends_the_backend(runner, tmp_path):
    def interrupt(changed: Job) -> None:
        if changed.overall > 0:
            raise KeyboardInterrupt

    slow = job(tmp_path, "slow")
    with pytest.raises(KeyboardInterrupt):
        runner.run(slow, interrupt)
    assert slow.state is State.CANCELLED
    assert runner.backend_pid is None
    assert not runner.busy


def test_questions_are_answered_while_a_job_runs(runner, tmp_path):
    slow = runner.submit(job(tmp_path, "slow"))
    drive(runner, lambda: slow.overall > 0)
    question = runner.ask("weights.status")
    drive(runner, lambda: question.done, 3.0)
    assert question.result["published"]
    assert not slow.ended
    assert not runner.asked


def test_a_question_starts_the_backend_and_keeps_it_from_idling(tmp_path, launch):
    clock = [0.0]
    runner = Runner(lambda: Backend(launch), now=lambda: clock[0], idle_seconds=100.0)
    question = runner.ask("weights.status")
    drive(runner, lambda: question.done)
    assert question.failure is None
    clock[0] = 90.0
    again = runner.ask("doctor")
    drive(runner, lambda: again.done)
    clock[0] = 150.0
    runner.poll()
    assert runner.backend_pid is not None
    clock[0] = 300.0
    runner.poll()
    assert runner.backend_pid is None
    runner.close()


@pytest.mark.parametrize("dies", [True, False])
def test_a_question_to_nobody_fails_with_a_sentence(launch, dies):
    def refuse() -> Backend:
        if dies:
            return Backend(Launch(launch.python, launch.code_folder, launch.home, None, {"FAKE_BACKEND_DIES": "1"}))
        raise Problem(Failure("not_set_up", "The backend is not set up yet.", "Press Set Up."))

    runner = Runner(refuse)
    question = runner.ask("doctor")
    drive(runner, lambda: question.done)
    assert question.failure.fix
    assert question.result is None
    runner.close()


def test_closing_answers_what_was_asked(runner):
    question = runner.ask("doctor")
    runner.close()
    assert question.done
    assert question.failure is not None


def test_an_empty_request_is_refused_and_a_missing_picture_too(tmp_path):
    with pytest.raises(Problem) as caught:
        jobs.request_of({"prompt": "   ", "image": "", "seed": 3})
    assert "prompt" in caught.value.failure.fix
    with pytest.raises(Problem) as caught:
        jobs.request_of({"prompt": "", "image": str(tmp_path / "none.png")})
    assert "does not exist" in caught.value.failure.message
    request = jobs.request_of({"prompt": " a mug ", "image": "", "seed": 0, "faces": 500})
    assert request == {"prompt": "a mug", "seed": 0, "faces": 500, "recipe": "starter"}


def test_views_that_were_changed_before_the_cancel_came_are_changed(runner, tmp_path):
    views = tmp_path / "views"
    views.mkdir()
    for number in range(3):
        (views / f"{number:03d}.png").write_bytes(b"stand-in")
    edit = runner.submit(Job({}, tmp_path, method="views.edit", params={"folder": str(tmp_path), "drop": [0]}))
    drive(runner, lambda: edit.state is State.RUNNING)
    end = time.monotonic() + 20
    while (views / "000.png").exists() and time.monotonic() < end:
        time.sleep(0.01)  # nobody looks at the answer
    runner.cancel()
    drive(runner, lambda: edit.ended)
    assert edit.state is State.DONE
    assert [Path(view).name for view in edit.result["views"]] == ["001.png", "002.png"]
