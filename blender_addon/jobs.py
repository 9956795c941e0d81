"""The queue of jobs and what becomes of them: one object, driven by a timer (`poll`) or to the end (`run`).

A runner owns one connection to a backend, which it lets go when it has been idle for a while, so that its memory is
free for rendering. Questions are answered beside the jobs.
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
from .connection import Connection

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
    """One piece of work in the queue: what was asked, how far it is, and what came of it.

    from_stage, to_stage: the first and the last of "picture", "views", "gaussians", "mesh" to make; None makes all.
    method, params: another queued request than `generate`: an edit of the folder's views, weights to be got.
    """

    request: dict[str, Any]
    folder: Path
    placement: dict[str, Any] = field(default_factory=dict)  # where the object goes; the runner does not look at it
    from_stage: str | None = None
    to_stage: str | None = None
    method: str = "generate"
    params: dict[str, Any] = field(default_factory=dict)
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

    @property
    def makes_object(self) -> bool:
        return self.method == "generate" and self.to_stage in (None, "mesh")

    def call(self) -> tuple[str, dict[str, Any]]:
        """The request to the backend: its method and its parameters."""
        if self.method != "generate":
            return self.method, {**self.params, "job": self.id}
        stages = {"from_stage": self.from_stage, "to_stage": self.to_stage}
        asked = {"job": self.id, "folder": str(self.folder), "request": self.request}
        return "generate", {**asked, **{name: stage for name, stage in stages.items() if stage is not None}}

    def warn(self, text: str) -> None:
        if text and text not in self.warnings:
            self.warnings.append(text)


@dataclass
class Question:
    """A quick request that is answered beside the jobs: look at `done` now and then."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    reply: Reply | None = None  # once it is sent
    refusal: Failure | None = None  # why it could not be sent

    @property
    def done(self) -> bool:
        return self.refusal is not None or (self.reply is not None and self.reply.done)

    @property
    def result(self) -> dict[str, Any] | None:
        return self.reply.result if self.reply is not None else None

    @property
    def failure(self) -> Failure | None:
        return self.refusal or (self.reply.failure if self.reply is not None else None)


class Runner:
    """Runs jobs one at a time, in order, and answers questions meanwhile."""

    def __init__(
        self,
        start_backend: Callable[[], Backend],
        now: Callable[[], float] = time.monotonic,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """start_backend may raise Problem; its failure becomes the job's."""
        self.connection = Connection(start_backend, now)
        self._now = now
        self._idle_seconds = idle_seconds
        self._queue: list[Job] = []
        self._questions: list[Question] = []
        self._current: Job | None = None
        self._answer: Reply | None = None
        self._started_at = 0.0
        self._cancelled_at = 0.0
        self._idle_since = now()

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
    def asked(self) -> bool:
        """Whether a question waits for its answer."""
        return bool(self._questions)

    @property
    def backend_pid(self) -> int | None:
        """The process id of the backend that is up, None without one."""
        return self.connection.pid

    def ask(self, method: str, params: dict[str, Any] | None = None) -> Question:
        """Asks something quick, at once where the backend is up."""
        question = Question(method, params or {})
        self._questions.append(question)
        return question

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
        if running.state is State.RUNNING and self.connection.up:
            running.state = State.CANCELLING
            running.message = "Cancelling"
            self._cancelled_at = self._now()
            self.connection.request("cancel", {"job": running.id})
        else:
            self.connection.drop()
            self._end(State.CANCELLED)

    def poll(self) -> list[Job]:
        """Moves everything on as far as it goes without waiting; returns the jobs that ended meanwhile."""
        before = self._current
        if self._current is None and self._queue:
            self._current = before = self._queue.pop(0)
            before.state, before.message = State.STARTING, "Starting the backend"
            self._started_at = self._now()
        for notification in self.connection.poll():
            self._notify(notification)
        if self._current is not None:
            self._advance(self._current)
        self._advance_questions()
        if self.busy or self._questions:
            self._idle_since = self._now()
        elif self.connection.up and self._now() - self._idle_since > self._idle_seconds:
            self.connection.drop()
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
            self.connection.drop()
            if not job.ended and self._current is job:
                self._end(State.CANCELLED)
            raise
        return job

    def retire_backend(self) -> None:
        """Lets the running job end on its backend; the next one starts another."""
        self.connection.retire()

    def close(self) -> None:
        """Ends the backend and cancels everything."""
        self._queue, dropped = [], self._queue
        for job in dropped:
            job.state = State.CANCELLED
        if self._current is not None:
            self._end(State.CANCELLED)
        for question in self._questions:
            question.refusal = Failure("cancelled", "The backend was ended.")
        self._questions = []
        self.connection.close()

    # -- the machinery ------------------------------------------------------------------------------------------

    def _advance_questions(self) -> None:
        waiting = [question for question in self._questions if question.reply is None]
        try:
            if waiting and self.connection.ready(may_replace=self._current is None):
                for question in waiting:
                    question.reply = self.connection.request(question.method, question.params)
        except Problem as problem:
            for question in waiting:
                question.refusal = problem.failure
        self._questions = [question for question in self._questions if not question.done]

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

    def _advance(self, job: Job) -> None:
        if job.state is State.STARTING:
            try:
                if self.connection.ready():
                    job.state, job.message = State.RUNNING, ""
                    self._answer = self.connection.request(*job.call())
            except Problem as problem:
                self._fail(problem.failure)
        if job.state in (State.RUNNING, State.CANCELLING) and self._answer is not None and self._answer.done:
            self._take_answer(job, self._answer)
        elif job.state is State.CANCELLING and self._now() - self._cancelled_at > CANCEL_SECONDS:
            # One native call may outlast any patience; the process goes, and the next job gets a new one.
            self.connection.drop()
            self._end(State.CANCELLED)

    def _take_answer(self, job: Job, answer: Reply) -> None:
        if answer.failure is None:
            job.result = answer.result or {}
            for text in job.result.get("warnings") or []:
                job.warn(str(text))
            job.overall, job.eta = 1.0, 0.0
            # A job that finished before it heard of the cancel is still a cancelled one to whoever pressed the button;
            # but views that were changed are changed, and must be shown so.
            given_up = job.state is State.CANCELLING and not job.method.startswith("views.")
            self._end(State.CANCELLED if given_up else State.DONE)
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
