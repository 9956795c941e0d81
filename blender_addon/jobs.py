"""The queue of jobs and what becomes of them: one object, driven by a timer (`poll`) or to the end (`run`).

A runner owns at most one backend process. It starts it for the first job, keeps it warm for the next, starts another
after a death, and lets it go when it has been idle for a while, so that its memory is free for rendering.
"""

from __future__ import annotations

import enum
import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Backend, Failure, Notification, Problem, Reply

PROTOCOL = 1
START_SECONDS = 180.0  # importing torch from a cold disk takes a minute on slow machines
CANCEL_SECONDS = 2.0  # how long the backend may take to obey before it is killed
IDLE_SECONDS = 600.0

_numbers = itertools.count(1)


class State(enum.Enum):
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = {State.DONE, State.FAILED, State.CANCELLED}


@dataclass
class Job:
    """One generation: what was asked, how far it is, and what came of it."""

    request: dict[str, Any]
    folder: Path
    placement: dict[str, Any] = field(default_factory=dict)  # where the object goes; the runner does not look at it
    id: str = field(default_factory=lambda: f"{os.getpid()}-{next(_numbers)}")
    state: State = State.WAITING
    stage: str = ""
    message: str = ""
    overall: float = 0.0
    eta: float | None = None
    previews: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failure: Failure | None = None
    result: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def warn(self, text: str) -> None:
        if text and text not in self.warnings:
            self.warnings.append(text)


class Runner:
    """Runs jobs one at a time, in order."""

    def __init__(
        self,
        start_backend: Callable[[], Backend],
        now: Callable[[], float] = time.monotonic,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """start_backend may raise Problem; its failure becomes the job's."""
        self._start_backend = start_backend
        self._now = now
        self._idle_seconds = idle_seconds
        self._queue: list[Job] = []
        self._current: Job | None = None
        self._backend: Backend | None = None
        self._hello: Reply | None = None
        self._answer: Reply | None = None
        self._started_at = 0.0
        self._cancelled_at = 0.0
        self._idle_since = 0.0
        self._retired = False
        self.info: dict[str, Any] = {}  # what the backend said of itself: version, device, recipes, packs

    @property
    def current(self) -> Job | None:
        return self._current

    @property
    def waiting(self) -> tuple[Job, ...]:
        return tuple(self._queue)

    @property
    def busy(self) -> bool:
        return self._current is not None or bool(self._queue)

    @property
    def backend_pid(self) -> int | None:
        """The process id of the backend that is up, None without one."""
        return self._backend.pid if self._backend is not None else None

    def submit(self, job: Job) -> Job:
        """Puts a job at the end of the queue; the next `poll` starts it if nothing else runs."""
        self._queue.append(job)
        return job

    def cancel(self, job: Job | None = None) -> None:
        """Cancels one job, or the running one and all that wait. Takes two seconds at the longest."""
        for waiting in [entry for entry in self._queue if job is None or entry is job]:
            self._queue.remove(waiting)
            waiting.state = State.CANCELLED
        running = self._current
        if running is None or (job is not None and running is not job) or running.state is State.CANCELLING:
            return
        if running.state is State.RUNNING and self._backend is not None:
            running.state = State.CANCELLING
            running.message = "Cancelling"
            self._cancelled_at = self._now()
            self._backend.request("cancel", {"job": running.id})
        else:
            self._drop_backend()
            self._end(State.CANCELLED)

    def poll(self) -> list[Job]:
        """Moves everything on as far as it goes without waiting; returns the jobs that ended meanwhile."""
        before = self._current
        if self._current is None and self._queue:
            self._current = before = self._queue.pop(0)
            self._start_current()
        if self._backend is not None:
            self._read_backend()
        if self._current is not None:
            self._advance()
        elif self._backend is not None and self._now() - self._idle_since > self._idle_seconds:
            self._drop_backend()
        return [before] if before is not None and before.ended else []

    def run(self, job: Job, on_change: Callable[[Job], None] | None = None, pause: float = 0.05) -> Job:
        """Submits a job and drives it to its end."""
        return self.drive(self.submit(job), on_change, pause)

    def drive(self, job: Job, on_change: Callable[[Job], None] | None = None, pause: float = 0.05) -> Job:
        """Drives a submitted job to its end: for background mode, where Blender's timers do not fire.

        on_change is called whenever stage, message or progress changed, and once more at the end.
        """
        seen: tuple[Any, ...] = ()
        try:
            while not job.ended:
                self.poll()
                current = (job.state, job.stage, job.message, round(job.overall, 3), len(job.previews))
                if current != seen and on_change is not None:
                    seen = current
                    on_change(job)
                if not job.ended:
                    time.sleep(pause)
        except BaseException:  # Ctrl-C, or the callback failed: the backend must not go on with an orphan
            self._drop_backend()
            if not job.ended and self._current is job:
                self._end(State.CANCELLED)
            raise
        return job

    def retire_backend(self) -> None:
        """Lets the running job end on its backend; the next one starts another."""
        self._retired = True

    def close(self) -> None:
        """Ends the backend and cancels everything."""
        self._queue, dropped = [], self._queue
        for job in dropped:
            job.state = State.CANCELLED
        if self._current is not None:
            self._end(State.CANCELLED)
        if self._backend is not None:
            self._backend.stop()
            self._backend = None

    # -- the machinery ------------------------------------------------------------------------------------------

    def _start_current(self) -> None:
        job = self._current
        assert job is not None
        job.state, job.message = State.STARTING, "Starting the backend"
        self._started_at = self._now()
        if self._retired:
            self._drop_backend()
        if self._backend is not None:
            return
        self._retired = False
        try:
            self._backend = self._start_backend()
        except Problem as error:
            self._fail(error.failure)
            return
        self._hello = self._backend.request("initialize", {"client": "splatsmith-addon", "version": "0.1.0"})

    def _read_backend(self) -> None:
        assert self._backend is not None
        for notification in self._backend.poll():
            self._notify(notification)
        if not self._backend.alive:
            self._backend = None
            self.info = {}

    def _notify(self, notification: Notification) -> None:
        job, params = self._current, notification.params
        if job is None:
            return
        if notification.method == "log" and params.get("level") == "warning":
            job.warn(str(params.get("message", "")))
        if params.get("job") != job.id:
            return
        if notification.method == "progress" and job.state is State.RUNNING:
            job.stage = str(params.get("stage", ""))
            job.message = str(params.get("message") or "")
            # Never backwards: a bar that jumps back reads as a fault.
            job.overall = max(job.overall, min(_number(params.get("overall"), 0.0), 1.0))
            job.eta = None if params.get("eta") is None else max(_number(params["eta"], 0.0), 0.0)
        elif notification.method == "preview":
            job.previews[str(params.get("kind", ""))] = str(params.get("path", ""))

    def _advance(self) -> None:
        job = self._current
        assert job is not None
        if job.state is State.STARTING:
            self._advance_start(job)
        if job.state in (State.RUNNING, State.CANCELLING) and self._answer is not None and self._answer.done:
            self._take_answer(job, self._answer)
        elif job.state is State.CANCELLING and self._now() - self._cancelled_at > CANCEL_SECONDS:
            # One native call may outlast any patience; the process goes, and the next job gets a new one.
            self._drop_backend()
            self._end(State.CANCELLED)

    def _advance_start(self, job: Job) -> None:
        hello = self._hello
        assert hello is not None
        if self._backend is None and hello.result is not None:
            # It died since the last job: nobody was waiting for it then, so nobody needs to hear of it now.
            self._start_current()
            return
        if not hello.done:
            if self._now() - self._started_at > START_SECONDS:
                self._drop_backend()
                self._fail(
                    Failure(
                        "backend_silent",
                        f"The backend did not answer within {START_SECONDS:.0f} seconds.",
                        "Press Check in the add-on's preferences to see what is wrong with its Python.",
                    )
                )
            return
        failure = hello.failure
        if hello.result is not None and hello.result.get("protocol") != PROTOCOL:
            failure = Failure(
                "backend_version",
                f"The backend speaks protocol {hello.result.get('protocol')!r}, this add-on {PROTOCOL}.",
                "Install the add-on again from one zip, so that both halves have the same version.",
            )
        if failure is not None:
            if failure.code == "backend_stopped":
                failure = Failure(
                    failure.code,
                    "The backend's Python ended before it was ready; most often torch or another package is missing.",
                    "Press Check in the add-on's preferences to see what is missing.",
                )
            self._drop_backend()
            self._fail(failure)
            return
        assert hello.result is not None
        assert self._backend is not None
        self.info = hello.result
        job.state, job.message = State.RUNNING, ""
        self._answer = self._backend.request(
            "generate", {"job": job.id, "folder": str(job.folder), "request": job.request}
        )

    def _take_answer(self, job: Job, answer: Reply) -> None:
        if answer.failure is None:
            job.result = answer.result or {}
            for text in job.result.get("warnings") or []:
                job.warn(str(text))
            job.overall, job.eta = 1.0, 0.0
            # A job that finished before it heard of the cancel is still a cancelled one to whoever pressed the button.
            self._end(State.CANCELLED if job.state is State.CANCELLING else State.DONE)
        elif job.state is State.CANCELLING or answer.failure.code == "cancelled":
            self._end(State.CANCELLED)
        else:
            self._fail(answer.failure)

    def _fail(self, failure: Failure) -> None:
        assert self._current is not None
        self._current.failure = failure
        self._end(State.FAILED)

    def _end(self, state: State) -> None:
        job = self._current
        assert job is not None
        job.state = state
        job.seconds = self._now() - self._started_at
        self._current, self._answer = None, None
        self._idle_since = self._now()

    def _drop_backend(self) -> None:
        if self._backend is not None:
            self._backend.kill()
            self._backend = None
            self.info = {}


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and value == value else default


def request_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The `generate` request for the panel's or the command line's settings; empty entries stay out.

    Raises Problem with a sentence when there is nothing to make an object from.
    """
    request = {key: value for key, value in settings.items() if value not in ("", None)}
    prompt = str(request.get("prompt", "")).strip()
    request.pop("prompt", None)
    if prompt:
        request["prompt"] = prompt
    if not any(request.get(key) for key in ("prompt", "image", "cameras", "gaussians")):
        raise Problem(
            Failure("bad_input", "There is nothing to make an object from.", "Type a prompt or choose a picture.")
        )
    image = request.get("image")
    if image and not Path(image).is_file():
        raise Problem(
            Failure("bad_input", f"The picture {image} does not exist.", "Choose another picture, or clear the field.")
        )
    request.setdefault("recipe", "starter")
    return request
