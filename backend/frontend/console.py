"""A job on the command line: a progress bar for people, JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TextIO

from backend.errors import SplatsmithError
from backend.job.events import Done, Event, Preview, Progress, Warned


def show(
    fields: dict[str, Any],
    folder: str,
    from_stage: str | None,
    to_stage: str | None,
    device: str,
    *,
    as_json: bool,
) -> int:
    """Run a job, tell how it goes, and return the exit code. The project's own errors are raised, after being told.

    fields: as in a request; with from_stage, what is left out is taken from the folder's request.json.
    """
    teller: _Json | _Bar = _Json() if as_json else _Bar()
    try:
        for event in _events(fields, folder, from_stage, to_stage, device):
            teller.tell(event)
    except SplatsmithError as error:
        teller.close()
        if as_json:
            teller.fail(error.code, error.message, error.fix)
        raise
    except KeyboardInterrupt:
        teller.close()
        if as_json:
            teller.fail("cancelled", "The job was stopped.", "")
        raise
    except Exception as error:
        teller.close()
        traceback.print_exc()
        message = f"Something unforeseen went wrong ({type(error).__name__}: {str(error)[:200]})."
        teller.fail("internal", message, "The lines above have the details: report them.")
        return 1
    teller.close()
    return 0


def _events(
    fields: dict[str, Any], folder: str, from_stage: str | None, to_stage: str | None, device: str
) -> Iterator[Event]:
    from backend.job.jobfolder import REQUEST, JobFolder
    from backend.job.request import Request

    job = JobFolder(folder)
    request = Request.resumed(fields, job.read_json(REQUEST), from_stage)
    # What is wrong with the request is said before torch is loaded, which takes seconds.
    from backend.job.pipeline import run_job

    # request.json says how the folder's results came to be, so it stays true; but nobody should wonder.
    for name, value in fields.items() if from_stage is not None else ():
        kept = getattr(request, name)
        if value not in (None, kept) and os.path.abspath(os.path.expanduser(str(value))) != kept:
            yield Warned(f"{name} acted before this stage: it stays as it was.")
    if from_stage is None and job.is_job and job.has("mesh"):
        yield Warned(f"The object that was in {job.path} will be replaced.")
    yield from run_job(request, folder, from_stage=from_stage, to_stage=to_stage, device=device)


class _Json:
    """One JSON object a line on what was stdout; library prints go to stderr meanwhile."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._stdout, sys.stdout = sys.stdout, sys.stderr

    def _line(self, kind: str, fields: dict[str, Any]) -> None:
        print(json.dumps({"event": kind, **fields}), file=self._out, flush=True)

    def tell(self, event: Event) -> None:
        names = {Progress: "progress", Preview: "preview", Warned: "warning", Done: "done"}
        self._line(names[type(event)], asdict(event))

    def fail(self, code: str, message: str, fix: str) -> None:
        self._line("error", {"code": code, "message": message, "fix": fix})

    def close(self) -> None:
        self._out.flush()
        if sys.stdout is not self._stdout:
            sys.stdout = self._stdout
            os.dup2(self._out.fileno(), 1)


class _Bar:
    """A bar on a terminal, a line a stage elsewhere; the paths of the results on stdout at the end."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            layout = "{desc:36.36} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            self._bar = tqdm(total=1.0, bar_format=layout, file=sys.stderr, leave=False)

    def tell(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Warned):
            self._write(f"Note: {event.message}")
        elif isinstance(event, Done):
            self.close()
            for name in ("mesh_glb", "gaussians", "transforms", "picture"):
                if name in event.files:
                    print(event.files[name])
            print(f"Done in {event.seconds:.1f} s: {event.folder}", file=sys.stderr)

    def _progress(self, event: Progress) -> None:
        if self._bar is not None:
            self._bar.set_description_str(event.message or event.stage)
            self._bar.set_postfix_str(f"about {event.eta:.0f} s left" if event.eta is not None else "", refresh=False)
            self._bar.update(max(event.overall - self._bar.n, 0.0))
        elif event.stage != self._stage:
            print(f"{event.message or event.stage} ...", file=sys.stderr)
        self._stage = event.stage

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)

    def fail(self, code: str, message: str, fix: str) -> None:
        print(f"{message} {fix}".strip(), file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
