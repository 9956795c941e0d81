"""What all buttons share: failures are told in one way, and where timers do not fire the work is done at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy

from . import session
from .client import Failure, Problem
from .jobs import Job


def refused(operator: Any, failure: Failure) -> set[str]:
    """Tells of a failure in Blender's own way; what the operator returns then."""
    operator.report({"ERROR"}, f"{failure.message} {failure.fix}".strip())
    return {"CANCELLED"}


def guarded(operator: Any, action: Callable[[], Any]) -> set[str]:
    """Runs the action; a Problem is told, and shown in the panel. What the operator returns."""
    try:
        action()
    except Problem as problem:
        session.get().problem = problem.failure
        return refused(operator, problem.failure)
    return {"FINISHED"}


def queued(operator: Any, submit: Callable[[], Job]) -> set[str]:
    """As `guarded`, of an action that puts a job into the queue; in background mode, where timers do not fire, the job
    is driven to its end."""
    jobs: list[Job] = []
    outcome = guarded(operator, lambda: jobs.append(submit()))
    if jobs and bpy.app.background:
        session.get().run_to_end(jobs[0])
        if jobs[0].failure is not None:
            return refused(operator, jobs[0].failure)
    return outcome
