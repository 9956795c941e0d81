"""What the server does in its queue, one at a time: jobs, edits of their views, weights to be got."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BadInput, Cancelled
from backend.frontend.wire import Channel
from backend.job.events import Done, Preview, Progress, Warned
from backend.packs import find_published

if TYPE_CHECKING:
    from backend.job.models import Models

QUEUED = ("generate", "views.edit", "views.reroll", "weights.download", "weights.import")
_PROGRESS_EVERY = 0.1  # seconds


class Tasks:
    """Does what is asked for and tells the client how it goes; keeps the loaded networks from job to job."""

    def __init__(self, channel: Channel, device: str) -> None:
        self._channel, self._device = channel, device
        self._models: Models | None = None

    def rest(self) -> None:
        """No job is waiting: leave a GPU's memory to others."""
        if self._models is not None:
            self._models.rest()

    def release(self) -> None:
        """There was no job for long: let go of all networks."""
        if self._models is not None:
            self._models.release()

    def perform(self, method: str, name: str, params: dict[str, Any], stop: Callable[[], bool]) -> dict[str, Any]:
        """One of QUEUED; the answer. name: the job's, for its notifications. stop: asked now and then.

        Raises the project's errors, Cancelled where `stop` said yes.
        """
        if method == "generate":
            return self._generate(name, params, stop)
        if method == "views.edit":
            return _edit(params)
        if method == "views.reroll":
            return self._reroll(name, params, stop)
        return self._get_weights(name, params, stop)

    def _generate(self, name: str, params: dict[str, Any], stop: Callable[[], bool]) -> dict[str, Any]:
        from backend.job.jobfolder import REQUEST, JobFolder
        from backend.job.models import Models
        from backend.job.pipeline import run_job
        from backend.job.request import Request

        _named(params["folder"])
        from_stage = params.get("from_stage")
        request = Request.resumed(params["request"], JobFolder(params["folder"]).read_json(REQUEST), from_stage)
        self._models = self._models or Models()
        spoke, stage = 0.0, ""
        for event in run_job(
            request,
            params["folder"],
            from_stage=from_stage,
            to_stage=params.get("to_stage"),
            models=self._models,
            device=self._device,
            stop=stop,
        ):
            if isinstance(event, Progress):
                now = time.monotonic()
                if event.stage == stage and event.fraction < 1.0 and now - spoke < _PROGRESS_EVERY:
                    continue
                spoke, stage = now, event.stage
                self._channel.notify("progress", {"job": name, **asdict(event)})
            elif isinstance(event, Preview):
                self._channel.notify("preview", {"job": name, **asdict(event)})
            elif isinstance(event, Warned):
                self._channel.notify("log", {"level": "warning", "message": event.message, "job": name})
            elif isinstance(event, Done):
                return {"job": name, **asdict(event)}
        raise RuntimeError("the job ended without a result")

    def _reroll(self, name: str, params: dict[str, Any], stop: Callable[[], bool]) -> dict[str, Any]:
        from backend.device import pick_device
        from backend.job.models import Models
        from backend.job.rerolling import reroll_views

        _named(params["folder"])
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in params["anew"]):
            raise BadInput("anew must list numbers of views.", "Send whole numbers.")
        self._models = self._models or Models()
        device, began = pick_device(self._device), time.monotonic()
        walk = reroll_views(params["folder"], params["anew"], params["seed"], self._models, device)
        try:
            while True:
                if stop():
                    raise Cancelled("The job was cancelled.", "The views are as they were.")
                try:
                    step = next(walk)
                except StopIteration as end:
                    return asdict(end.value)
                share = step.step / step.steps
                eta = (time.monotonic() - began) / share * (1 - share)
                progress = Progress("views", share, share, step.step, step.steps, step.message, eta)
                self._channel.notify("progress", {"job": name, **asdict(progress)})
        finally:
            walk.close()

    def _get_weights(self, name: str, params: dict[str, Any], stop: Callable[[], bool]) -> dict[str, Any]:
        pack = find_published(params["name"])
        if not params.get("accept"):
            raise BadInput(f"The licence of {pack.name} ({pack.licence}) was not accepted.", f"Read {pack.page}.")
        source = params.get("source")
        if source is not None and not source.strip():
            raise BadInput("No folder was chosen.", "Choose the file or folder with the weights.")
        if source is None and pack.present:
            return {"name": pack.name}
        from backend.downloads.fetching import fetch

        walk, began, first = fetch(pack, Path(source) if source is not None else None), time.monotonic(), -1
        try:
            for step in walk:
                if stop():
                    if source is not None:
                        raise Cancelled("The import was cancelled.", "Start it again.")
                    raise Cancelled("The download was cancelled.", "Start it again: it goes on where it was.")
                first = step.step if first < 0 and step.steps > 1 else first  # what was there from an earlier try
                spent, came = time.monotonic() - began, step.step - first
                eta = spent * (step.steps - step.step) / came if first >= 0 and came > 0 and spent > 3.0 else None
                share = min(step.step / step.steps, 1.0)
                progress = Progress("weights", share, share, step.step, step.steps, step.message, eta)
                self._channel.notify("progress", {"job": name, **asdict(progress)})
        finally:
            walk.close()
        return {"name": pack.name}


def _edit(params: dict[str, Any]) -> dict[str, Any]:
    from backend.job.editing import edit_views, undo

    _named(params["folder"])
    drop, replace = params.get("drop") or [], params.get("replace") or {}
    if any(isinstance(number, bool) or not isinstance(number, int) for number in drop):
        raise BadInput("drop must list numbers of views.", "Send whole numbers.")
    if not all(number.isdecimal() and isinstance(path, str) and path.strip() for number, path in replace.items()):
        raise BadInput("replace must give a picture for a number of a view.", "Send paths by number.")
    if params.get("undo"):
        if drop or replace:
            raise BadInput("undo stands alone.", "Undo first, then drop or replace.")
        return asdict(undo(params["folder"]))
    return asdict(edit_views(params["folder"], drop, {int(number): path for number, path in replace.items()}))


def _named(folder: str) -> None:
    if not folder.strip():
        raise BadInput("The output folder has no name.", "Choose a folder.")
