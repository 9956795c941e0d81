"""What runs while Blender runs: the job queue, Set Up and Check, all driven by one timer. One session per register.

`tick` never waits and never raises. The timer comes when there is something to do and goes when there is not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from . import importer
from .catalogue import Catalogue
from .check import Check
from .client import Backend, Failure, Problem
from .desk import Desk
from .environment import Status
from .importer import Placement
from .installer import SetUp
from .jobs import Job, Question, Runner, State, request_of
from .places import current_status, home, launch, new_job_folder, plan

BUSY_PAUSE, IDLE_PAUSE = 0.1, 2.0  # seconds between two ticks
STATUS_SECONDS = 2.0  # how long a look at the disk is believed


class Session:
    """The state behind the panel. `last` is the job that the panel talks about."""

    def __init__(self) -> None:
        self.runner = Runner(lambda: Backend(launch()))
        self.last: Job | None = None
        self.arriving: list[Job] = []  # finished, and waiting for a moment in which the scene may change
        self.desk: Desk | None = None  # the views of the job that finished last
        self.picture: Question | None = None  # what a generator will see of the chosen picture
        self.catalogue = Catalogue()
        self._asked: list[Question] = []  # what the catalogue is waiting for
        self._greeted: dict[str, Any] = {}
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
            if not self.catalogue.known:  # not at the start: the preferences, which say where, come later
                self.catalogue.read(home().path)
        return self._status[1]

    def settings_changed(self) -> None:
        """Another Python or data folder was chosen: the next job gets a backend of its own."""
        self._status = None
        self.runner.retire_backend()

    def generate(
        self, settings: dict[str, Any], placement: Placement, folder: Path | None = None, to_stage: str | None = None
    ) -> Job:
        """Queues a job; without a folder it gets one in the data folder. to_stage: "picture" or "views" ends there.

        Raises Problem when the settings make no job or the backend is not set up.
        """
        self.problem = None
        request = request_of(settings)
        launch()
        queued = [*self.runner.waiting, *([self.runner.current] if self.runner.current is not None else [])]
        folder = folder or new_job_folder(home(), request, {job.folder for job in queued})
        return self.submit(Job(request, folder, {"placement": placement}, to_stage=to_stage))

    def submit(self, job: Job) -> Job:
        """Queues any job. Raises Problem when the backend is not set up."""
        self.problem = None
        launch()
        self.last = self.runner.submit(job)
        wake()
        return job

    def show_picture(self, path: str) -> None:
        """Has the chosen picture cut out and centred, to be looked at; an empty path takes it away again."""
        if self.picture is not None:
            Path(self.picture.params["out"]).unlink(missing_ok=True)
        self.picture = None
        if path and self.status().ready:
            out = Path(bpy.app.tempdir) / f"splatsmith_{time.time_ns()}.png"
            self.picture = self.runner.ask("picture.prepare", {"image": path, "out": str(out)})
            wake()

    def refresh(self) -> None:
        """Asks the backend which recipes and weights there are. Raises Problem when it is not set up."""
        launch()
        self._asked += [self.runner.ask("initialize"), self.runner.ask("weights.status")]
        wake()

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
        return self.runner.busy or self.runner.asked or bool(self.arriving) or working

    def face(self) -> tuple[object, ...]:
        """What the panel and the preferences show, roughly: they are drawn again only when it changes."""
        job, set_up = self.last, self.set_up
        shown: list[object] = [self.active, self.problem, len(self.arriving), len(self.runner.waiting)]
        if job is not None:
            eta = None if job.eta is None else round(job.eta)
            shown += [job.id, job.state, job.stage, job.message, round(job.overall, 3), eta, len(job.warnings)]
            shown += [job.previews.get("picture"), job.previews.get("views")]
        if self.desk is not None:
            shown += [self.desk.folder, tuple(self.desk.views), self.desk.picture, self.desk.earlier, self.desk.open]
        shown += [self.picture is not None and self.picture.done, id(self.picture), id(self.catalogue.recipes)]
        if set_up is not None:
            shown += [set_up.step, round(set_up.fraction, 3), len(set_up.lines), set_up.lines[-1:]]
        return (*shown, self.check is not None and self.check.running)

    def advance(self) -> None:
        """One step of everything, without waiting."""
        for job in self.runner.poll():
            if job.state is State.DONE:
                self._take(job)
                self.arriving += [job] if job.makes_object else []
            elif job.failure is not None and self.runner.busy:  # the panel goes on to the next job, so say it apart
                self.problem = job.failure
        if self.runner.current is not None:
            self.last = self.runner.current
        self._learn()
        if self.set_up is not None and self.set_up.poll():
            self._status = None
        if self.arriving and may_change_scene():
            self._import(self.arriving.pop(0))

    def run_to_end(self, job: Job, on_change: Callable[[Job], None] | None = None) -> Any | None:
        """Drives a job that `generate` queued to its end: for background mode. Returns its object, if it made one."""
        self.runner.drive(job, on_change)
        self.last = job
        if job.state is not State.DONE:
            return None
        self._learn()
        self._take(job)
        self.wait_for_answers()
        return self._import(job) if job.makes_object else None

    def wait_for_answers(self, pause: float = 0.05) -> None:
        """Until the backend has answered what it was asked: for background mode."""
        while self.runner.asked:
            self.runner.poll()
            time.sleep(pause)
        self._learn()

    def _take(self, job: Job) -> None:
        """What a finished job means for the desk and the catalogue."""
        if job.method.startswith("weights."):
            self.refresh()
            if self.picture is not None:  # what was fetched may cut it out better
                self.show_picture(self.picture.params["image"])
        elif self.desk is not None and self.desk.folder == job.folder:
            self.desk.take(job)
        elif job.method == "generate":
            recipe = self.catalogue.recipe(str(job.request.get("recipe")))
            self.desk = Desk.of(job, recipe.least_views, recipe.rerolls) if recipe is not None else Desk.of(job)

    def _learn(self) -> None:
        """Takes in what the backend said of itself, unasked and asked."""
        changed, hello = False, self.runner.connection.info
        if hello and hello is not self._greeted:
            self._greeted, changed = hello, self.catalogue.take(hello)
            if any(recipe.missing for recipe in self.catalogue.recipes):
                self._asked.append(self.runner.ask("weights.status"))
        for question in [question for question in self._asked if question.done]:
            self._asked.remove(question)
            changed |= self.catalogue.take(question.result or {})
            self.problem = question.failure or self.problem
        if changed:
            self.catalogue.write(home().path)

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
        if self.picture is not None:
            Path(self.picture.params["out"]).unlink(missing_ok=True)


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
