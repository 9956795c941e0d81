"""What runs while Blender runs: the job queue, Set Up and Check, all driven by one timer. One session per register.

`tick` never waits and never raises. The timer comes when there is something to do and goes when there is not.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from . import environment, importer
from .check import Check
from .client import Backend, Failure, Launch, Problem
from .environment import Home, Status
from .importer import Placement
from .installer import Plan, SetUp
from .jobs import Job, Runner, State, request_of
from .settings import chosen_build, settings

ADDON_FOLDER = Path(__file__).parent
BUSY_PAUSE, IDLE_PAUSE = 0.1, 2.0  # seconds between two ticks
STATUS_SECONDS = 2.0  # how long a look at the disk is believed


class Session:
    """The state behind the panel. `last` is the job that the panel talks about."""

    def __init__(self) -> None:
        self.runner = Runner(lambda: Backend(launch()))
        self.last: Job | None = None
        self.arriving: list[Job] = []  # finished, and waiting for a moment in which the scene may change
        self.set_up: SetUp | None = None
        self.check: Check | None = None
        self.problem: Failure | None = None  # a failure outside any job
        self.drawn: tuple[object, ...] = ()  # the face that was last asked to be drawn
        self._status: tuple[float, Status] | None = None

    def status(self) -> Status:
        """Whether the backend can be started; cheap enough for a panel's draw."""
        now = time.monotonic()
        if self._status is None or now - self._status[0] > STATUS_SECONDS:
            self._status = (now, current_status())
        return self._status[1]

    def settings_changed(self) -> None:
        """Another Python or data folder was chosen: the next job gets a backend of its own."""
        self._status = None
        self.runner.retire_backend()

    def generate(self, settings: dict[str, Any], placement: Placement, folder: Path | None = None) -> Job:
        """Queues a job; without a folder it gets one in the data folder.

        Raises Problem when the settings make no job or the backend is not set up.
        """
        self.problem = None
        request = request_of(settings)
        launch()
        queued = [*self.runner.waiting, *([self.runner.current] if self.runner.current is not None else [])]
        folder = folder or new_job_folder(home(), request, {job.folder for job in queued})
        job = Job(request, folder, {"placement": placement})
        self.last = self.runner.submit(job)
        wake()
        return job

    def start_set_up(self) -> None:
        """Raises Problem while a job runs: Windows cannot replace the files of a running Python."""
        if self.runner.busy:
            raise Problem(Failure("busy", "A job is running.", "Wait for it or cancel it, then press Set Up again."))
        self.runner.close()
        self.set_up = SetUp(plan()).start()
        wake()

    def start_check(self) -> None:
        self.check = Check(launch()).start()
        wake()

    @property
    def active(self) -> bool:
        """Whether something goes on that a person waits for."""
        working = (self.set_up is not None and self.set_up.running) or (self.check is not None and self.check.running)
        return self.runner.busy or bool(self.arriving) or working

    def face(self) -> tuple[object, ...]:
        """What the panel and the preferences show, roughly: they are drawn again only when it changes."""
        job, set_up = self.last, self.set_up
        shown: list[object] = [self.active, self.problem, len(self.arriving), len(self.runner.waiting)]
        if job is not None:
            eta = None if job.eta is None else round(job.eta)
            shown += [job.id, job.state, job.stage, job.message, round(job.overall, 3), eta, len(job.warnings)]
            shown.append(job.previews.get("views"))
        if set_up is not None:
            shown += [set_up.step, round(set_up.fraction, 3), len(set_up.lines), set_up.lines[-1:]]
        return (*shown, self.check is not None and self.check.running)

    def advance(self) -> None:
        """One step of everything, without waiting."""
        for job in self.runner.poll():
            if job.state is State.DONE:
                self.arriving.append(job)
            elif job.failure is not None and self.runner.busy:  # the panel goes on to the next job, so say it apart
                self.problem = job.failure
        if self.runner.current is not None:
            self.last = self.runner.current
        if self.set_up is not None and self.set_up.poll():
            self._status = None
        if self.arriving and may_change_scene():
            self._import(self.arriving.pop(0))

    def run_to_end(self, job: Job, on_change: Callable[[Job], None] | None = None) -> Any | None:
        """Drives a job that `generate` queued to its end: for background mode. Returns its object, if it made one."""
        self.runner.drive(job, on_change)
        self.last = job
        return self._import(job) if job.state is State.DONE else None

    def _import(self, job: Job) -> Any | None:
        placement = job.placement["placement"]
        window = _window_for(placement.scene)
        try:
            with bpy.context.temp_override(window=window) if window is not None else bpy.context.temp_override():
                made = importer.import_job(bpy.context, job.folder, job.request, placement)
                with contextlib.suppress(RuntimeError):  # without undo the object is there all the same
                    bpy.ops.ed.undo_push(message=f"Splatsmith: {made.name}")
                return made
        except Problem as problem:
            job.state, job.failure = State.FAILED, problem.failure
        except Exception as error:  # the timer would end for good
            job.state = State.FAILED
            job.failure = Failure("internal", f"The object could not be added ({error}).", f"Its files: {job.folder}")
        return None

    def close(self) -> None:
        """Ends everything that runs."""
        for worker in (self.set_up, self.check):
            if worker is not None and worker.running:
                worker.cancel()
        self.runner.close()


current: Session | None = None  # between register and unregister


def get() -> Session:
    """The session; only between `register` and `unregister`."""
    assert current is not None, "the add-on is not registered"
    return current


def register() -> None:
    global current
    current = Session()


def unregister() -> None:
    global current
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)
    if current is not None:
        current.close()
    current = None


# -- the timer ----------------------------------------------------------------------------------------------------


def wake() -> None:
    """Starts the timer if it does not run. In background mode timers never fire and `run_to_end` does the driving."""
    if not bpy.app.background and not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=BUSY_PAUSE, persistent=True)


def tick() -> float | None:
    """What the timer calls. Returns seconds to its next call, None to end it."""
    if current is None:
        return None
    was_active = current.active
    try:
        current.advance()
    except Exception as error:
        current.problem = Failure(
            "internal", f"The add-on stumbled ({error}).", "Restart Blender and report this, please."
        )
        current.runner.close()
    face = current.face()
    if face != current.drawn:  # a thread may have changed it since the last tick
        current.drawn = face
        redraw()
    if was_active or current.active:
        return BUSY_PAUSE
    return IDLE_PAUSE if current.runner.backend_pid is not None else None


def redraw() -> None:
    """Has the sidebars and the preferences drawn again, nothing else."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
            elif area.type == "PREFERENCES":
                area.tag_redraw()


def may_change_scene() -> bool:
    """False while the user edits, sculpts or renders: the object then waits until they are back in Object Mode."""
    if bpy.app.is_job_running("RENDER"):
        return False
    return all(
        item is None or item.mode == "OBJECT"
        for item in (window.view_layer.objects.active for window in bpy.context.window_manager.windows)
    )


def _window_for(scene_name: str) -> Any:
    windows = list(bpy.context.window_manager.windows)
    for window in windows:
        if window.scene.name == scene_name:
            return window
    return windows[0] if windows else None


# -- where things are -----------------------------------------------------------------------------------------------


def home() -> Home:
    return environment.home_folder(settings().data_folder)


def current_status() -> Status:
    return environment.status(home(), settings().python)


def blender_folder() -> Path | None:
    """Blender's own folder, whose libraries the backend must not see; None in the bpy wheel."""
    return Path(bpy.app.binary_path).parent if bpy.app.binary_path else None


def code_folder() -> Path:
    folder = environment.code_folder(ADDON_FOLDER)
    if folder is None:
        raise Problem(
            Failure("no_backend", "The add-on's backend folder is missing.", "Install the add-on again from its zip.")
        )
    return folder


def launch() -> Launch:
    """How to start the backend. Raises Problem with what to do when it is not set up."""
    status = current_status()
    if not status.ready or status.python is None:
        raise Problem(status.failure or Failure("not_set_up", "The backend is not set up yet.", "Press Set Up."))
    return Launch(status.python, code_folder(), home().path, blender_folder())


def plan() -> Plan:
    return Plan(
        home=home(),
        code_folder=code_folder(),
        requirements=ADDON_FOLDER / "requirements.txt",
        base_preference=settings().base_python,
        own_python=sys.executable,
        build=chosen_build(),
        blender_folder=blender_folder(),
    )


def new_job_folder(home: Home, request: dict[str, Any], taken: set[Path]) -> Path:
    """A folder name that sorts by time and tells what is in it; the backend makes the folder itself, later."""
    words = re.sub(r"[^a-z0-9]+", "-", importer.object_name(request).lower()).strip("-")[:32].strip("-")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{words or 'object'}"
    folder, number = home.jobs / stem, 2
    while folder in taken or folder.exists():
        folder, number = home.jobs / f"{stem}-{number}", number + 1
    return folder
