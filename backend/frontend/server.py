"""The stdio server that the add-on starts: `python -m backend serve`. The protocol: backend.frontend.wire.

Three threads: one reads, and obeys `cancel` and `shutdown` at once; one answers the quick methods; the main one does
what backend.frontend.tasks describes, one thing at a time, in order.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from backend import __version__
from backend.errors import Cancelled, SplatsmithError, UnsupportedDevice
from backend.frontend.offer import describe
from backend.frontend.tasks import QUEUED, Tasks
from backend.frontend.wire import (
    FAILED,
    INVALID_PARAMS,
    PROTOCOL,
    Call,
    Channel,
    WireError,
    parse,
    take_over_standard_streams,
)
from backend.packs import PACKS, PUBLISHED
from backend.parent import die_with_parent
from backend.recipes import RECIPES

_GRACE = 2.0  # seconds that a running job has to come to its next step once the client is gone
_IDLE = 600.0  # seconds without a job after which the networks are let go of


@dataclass
class _Job:
    name: str
    call: Call
    stop: threading.Event = field(default_factory=threading.Event)
    running: bool = False


class Server:
    """Answers the calls of one client until its stdin ends or it says `shutdown`. idle: seconds without a job after
    which loaded networks are let go of."""

    def __init__(self, channel: Channel, device: str = "auto", idle: float = _IDLE) -> None:
        self._channel, self._device, self._idle = channel, device, idle
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._quick: queue.Queue[Call] = queue.Queue()
        self._known: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._tasks = Tasks(channel, device)

    def run(self) -> None:
        """Serve; returns when the client is gone and the running job has stopped."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._answer_quick, name="quick", daemon=True).start()
        while (job := self._next_job()) is not None:
            self._run_job(job)
        # What was asked before the end of stdin is still answered, so that the server can be used in a shell's pipe.
        end = time.monotonic() + _GRACE
        while self._quick.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            for line in self._channel.lines():
                try:
                    call = parse(line)
                except WireError as error:
                    if error.wants_answer:
                        self._channel.fail(error.request_id, error.number, error.message, "bad_input")
                    continue
                if self._take(call):
                    break
        finally:
            self._leave()

    def _take(self, call: Call) -> bool:
        """Obey or queue one call; True ends the reading."""
        if call.method == "shutdown":
            self._answer(call, {})
            return True
        if call.method == "cancel":
            self._answer(call, {"cancelled": self._cancel(call.params["job"])})
        elif call.method in QUEUED:
            self._enqueue(call)
        else:
            self._quick.put(call)
        return False

    def _enqueue(self, call: Call) -> None:
        given = call.params.get("job")
        name = f"{call.method} {call.request_id}" if given is None else given
        with self._lock:
            taken = name in self._known
            if name and not taken:
                self._known[name] = job = _Job(name, call)
                self._jobs.put(job)
                return
        why = f"A job called '{name[:40]}' is already waiting or running." if taken else "A job needs a name."
        self._channel.fail(call.request_id, INVALID_PARAMS, why, "bad_input", "Give every job a name of its own.")

    def _cancel(self, name: str) -> bool:
        with self._lock:
            job = self._known.get(name)
            if job is None:
                return False
            job.stop.set()
            waiting = not job.running
            if waiting:
                del self._known[name]
        if waiting:  # its turn may be minutes away: answer now
            self._fail(job.call, Cancelled("The job was cancelled before it began.", "Start it again."))
        return True

    def _leave(self) -> None:
        """Stop everything; where the running job does not reach its next step in time, end without it."""
        with self._lock:
            for job in self._known.values():
                job.stop.set()
        self._jobs.put(None)
        time.sleep(2 * _GRACE if self._quick.unfinished_tasks else _GRACE)
        leave_now()

    def _next_job(self) -> _Job | None:
        """Waits for it; a GPU's memory is given back at once, the machine's after a while."""
        for wait, give_up in ((0.0, self._tasks.rest), (self._idle, self._tasks.release)):
            try:
                return self._jobs.get(timeout=wait) if wait else self._jobs.get_nowait()
            except queue.Empty:
                try:
                    give_up()
                except Exception:  # nobody waits for an answer that could tell of it
                    traceback.print_exc(file=sys.stderr)
        return self._jobs.get()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _run_job(self, job: _Job) -> None:
        with self._lock:
            waiting = self._known.get(job.name) is job
            job.running = True
        if not waiting:
            return  # cancelled while it waited, and answered then
        try:
            result = self._tasks.perform(job.call.method, job.name, job.call.params, job.stop.is_set)
        except BaseException as error:
            self._forget(job)
            self._fail(job.call, error)
        else:
            self._forget(job)
            self._answer(job.call, result)

    def _forget(self, job: _Job) -> None:
        with self._lock:
            self._known.pop(job.name, None)

    # -- quick methods ------------------------------------------------------------------------------------------------

    def _answer_quick(self) -> None:
        while True:
            call = self._quick.get()
            try:
                result = self._quick_result(call)
            except BaseException as error:
                self._fail(call, error)
            else:
                self._answer(call, result)
            finally:
                self._quick.task_done()

    def _quick_result(self, call: Call) -> dict[str, Any]:
        if call.method == "initialize":
            return self._initialize()
        if call.method == "doctor":
            from backend.frontend.doctor import examine

            return examine()
        if call.method == "weights.status":
            packs, published = ([pack.describe() for pack in table.values()] for table in (PACKS, PUBLISHED))
            return {"packs": packs, "published": published}
        if call.method == "picture.prepare":
            from backend.job.editing import shown_picture

            return {"path": call.params["out"], "warnings": shown_picture(call.params["image"], call.params["out"])}
        raise RuntimeError(f"no answer to {call.method}")

    def _initialize(self) -> dict[str, Any]:
        try:
            from backend.device import pick_device

            device = pick_device(self._device)
        except (ImportError, OSError) as error:  # OSError: a library that torch brings does not load
            raise UnsupportedDevice(
                f"PyTorch cannot be loaded ({error}).", "Set up the backend's environment again."
            ) from error
        return {
            "name": "splatsmith",
            "version": __version__,
            "protocol": PROTOCOL,
            "device": device,
            "recipes": [describe(recipe) for recipe in RECIPES.values() if recipe.from_text or recipe.from_picture],
            "packs": {name: pack.present for name, pack in PACKS.items()},
        }

    # -- answering ----------------------------------------------------------------------------------------------------

    def _answer(self, call: Call, result: dict[str, Any]) -> None:
        if call.wants_answer:
            self._channel.answer(call.request_id, result)

    def _fail(self, call: Call, error: BaseException) -> None:
        if not isinstance(error, SplatsmithError):
            traceback.print_exception(error, file=sys.stderr)
            sys.stderr.flush()
        if not call.wants_answer:
            return
        if isinstance(error, SplatsmithError):
            self._channel.fail(call.request_id, FAILED, error.message, error.code, error.fix)
        elif isinstance(error, MemoryError):
            self._channel.fail(call.request_id, FAILED, "The memory was too small.", "out_of_memory", "Ask for less.")
        else:
            reason = f"Something unforeseen went wrong ({type(error).__name__}: {str(error)[:200]})."
            self._channel.fail(call.request_id, FAILED, reason, "internal", "The log has the details: report them.")


def leave_now() -> None:
    """End the process at once, whatever other threads are doing; what they were writing has temporary names."""
    os._exit(0)


def serve(device: str = "auto") -> int:
    """Run the server on this process's own standard streams."""
    channel = take_over_standard_streams()
    die_with_parent(leave_now)
    if not os.isatty(2):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in Blender's terminal is for Blender to act on
    Server(channel, device).run()
    sys.stderr.flush()
    leave_now()
    return 0
