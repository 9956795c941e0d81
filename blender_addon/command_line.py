"""The same jobs without a window: `blender --command splatsmith ...`, and what batch.py runs from a checkout.

Prints one JSON object a line on standard output; whatever else Blender prints does not begin with a brace. Returns
0 when every object was made, 1 when one failed, 2 for a mistake in the command itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy
from mathutils import Matrix

from . import importer, session
from .client import Failure, Problem
from .importer import Placement
from .jobs import Job, request_of

REQUEST_KEYS = {"prompt", "image", "seed", "faces", "texture_size", "recipe", "steps", "guidance"}


def emit(event: str, **content: Any) -> None:
    """One line of JSON, in ASCII, because Blender's standard output is not UTF-8 everywhere."""
    print(json.dumps({"event": event, **content}), flush=True)


def emit_failure(failure: Failure, **content: Any) -> None:
    emit("failed", code=failure.code, message=failure.message, fix=failure.fix, **content)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="splatsmith",
        description="Makes textured objects from prompts or pictures, without a window.",
        epilog="SPLATSMITH_BACKEND_PYTHON names a Python with torch to use instead of the one that Set Up made, "
        "SPLATSMITH_HOME another data folder.",
    )
    what = made.add_argument_group("what to make")
    what.add_argument("--prompt", help="one object in a few words")
    what.add_argument("--image", help="a picture of one object")
    what.add_argument(
        "--prompts",
        metavar="FILE",
        help="many objects: one prompt a line, or a JSON object with prompt, image, seed ...; # starts a comment",
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--faces", type=int, default=20_000)
    made.add_argument("--texture-size", type=int, default=1024)
    made.add_argument("--size", type=float, default=1.0, help="the objects' longest side in metres")
    made.add_argument("--recipe", default="starter")
    where = made.add_argument_group("where it goes")
    where.add_argument("--out", metavar="DIR", help="the job's folder; with --prompts one folder a prompt inside it")
    where.add_argument("--save", metavar="FILE.blend", help="save the scene with all objects in a row")
    where.add_argument("--render", metavar="FILE.png", help="render a picture of the objects; adds lights and a camera")
    where.add_argument("--render-size", type=int, default=512)
    where.add_argument("--empty", action="store_true", help="take everything else out of the scene first")
    return made


def run(arguments: Sequence[str]) -> int:
    """Runs the command line. The add-on has to be registered."""
    try:
        options = parser().parse_args(list(arguments))
    except SystemExit as ended:  # argparse has printed its help or its complaint
        return int(ended.code or 0)
    try:
        requests = _requests(options)
    except Problem as problem:
        emit_failure(problem.failure)
        return 2
    if options.empty:
        _empty_scene()
    elif not bpy.data.filepath:
        _remove_startup_cube()
    made: list[Any] = []
    failures = 0
    for number, request in enumerate(requests, 1):
        result = _make_one(request, number, len(requests), options, len(made))
        if result is None:
            failures += 1
        else:
            made.append(result)
    failures += _finish(options, made)
    emit("finished", made=len(made), failed=len(requests) - len(made))
    return 1 if failures else 0


def _requests(options: argparse.Namespace) -> list[dict[str, Any]]:
    common = {
        "seed": options.seed,
        "faces": options.faces,
        "texture_size": options.texture_size,
        "recipe": options.recipe,
    }
    if not options.prompts:
        image = str(Path(options.image).expanduser().absolute()) if options.image else None
        return [request_of({**common, "prompt": options.prompt, "image": image})]
    if options.prompt or options.image:
        raise _mistake("--prompts stands alone, without --prompt and --image.", "Put all of them into the file.")
    path = Path(options.prompts).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise _mistake(f"The file {path} cannot be read ({error.strerror}).", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise _mistake(f"The file {path} cannot be read ({error}).", "It has to be UTF-8 text.") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            found.append({**common, **_parse_line(text, path, number)})
    if not found:
        raise _mistake(f"The file {path} has no prompts in it.", "Write one a line.")
    return found


def _parse_line(text: str, path: Path, number: int) -> dict[str, Any]:
    if not text.startswith("{"):
        return {"prompt": text}
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise _mistake(
            f"Line {number} of {path} is not JSON ({error}).", "Mend it, or write a plain prompt."
        ) from error
    unknown = sorted(set(entry) - REQUEST_KEYS)
    if unknown:
        raise _mistake(f"Line {number} of {path} has the unknown keys {', '.join(unknown)}.", f"Known: {REQUEST_KEYS}")
    if entry.get("image"):  # pictures are named relative to the list they stand in
        entry["image"] = str((path.absolute().parent / Path(entry["image"]).expanduser()).absolute())
    return dict(entry)


def _mistake(message: str, fix: str) -> Problem:
    return Problem(Failure("bad_input", message, fix))


def _make_one(
    request: dict[str, Any], number: int, count: int, options: argparse.Namespace, already: int
) -> Any | None:
    """Makes one object and says how it went; None when it failed."""
    state = session.get()
    place = Placement((already * options.size * 1.25, 0.0, 0.0), options.size, bpy.context.scene.name, "")
    subject = {"number": number, "of": count, "prompt": request.get("prompt"), "image": request.get("image")}
    try:
        request = request_of(request)
        folder = _job_folder(options.out, request, number, count)
        job = state.generate(request, place, folder)
        made = state.run_to_end(job, lambda changed: _emit_progress(changed, number))
    except Problem as problem:
        emit_failure(problem.failure, **subject)
        return None
    if made is None:
        emit_failure(job.failure or Failure("cancelled", "The job was cancelled."), folder=str(job.folder), **subject)
        return None
    emit(
        "made",
        **subject,
        seed=request.get("seed"),
        object=made.name,
        folder=str(job.folder),
        seconds=round(job.seconds, 2),
        warnings=job.warnings,
    )
    return made


def _emit_progress(job: Job, number: int) -> None:
    if not job.ended:
        emit(
            "progress",
            number=number,
            state=job.state.value,
            stage=job.stage,
            overall=round(job.overall, 4),
            message=job.message,
            eta=job.eta,
        )


def _job_folder(out: str | None, request: dict[str, Any], number: int, count: int) -> Path | None:
    """None leaves it to the session, which takes a new folder in the data folder."""
    if not out:
        return None
    folder = Path(out).expanduser().absolute()
    if count == 1:
        return folder
    words = re.sub(r"[^a-z0-9]+", "-", importer.object_name(request).lower()).strip("-")[:40].strip("-")
    return folder / f"{number:03d}-{words or 'object'}"


def _empty_scene() -> None:
    for existing in list(bpy.context.scene.objects):
        bpy.data.objects.remove(existing, do_unlink=True)


def _remove_startup_cube() -> None:
    """Blender starts with a cube of two metres around the place of the first object: it would stand unseen inside."""
    cube = bpy.context.scene.objects.get("Cube")
    if cube is None or cube.type != "MESH" or len(cube.data.vertices) != 8 or cube.matrix_world != Matrix():
        return
    if all(abs(abs(coordinate) - 1.0) < 1e-6 for vertex in cube.data.vertices for coordinate in vertex.co):
        bpy.data.objects.remove(cube, do_unlink=True)


def _finish(options: argparse.Namespace, made: list[Any]) -> int:
    """Saves and renders what was asked for. Returns how many of these failed."""
    failures = 0
    if options.render and made:
        from . import picture

        path = Path(options.render).expanduser().absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.set_up_studio(bpy.context.scene, made, options.render_size)
            picture.render(bpy.context.scene, path)
            emit("rendered", path=str(path))
        except (OSError, RuntimeError) as error:
            emit_failure(
                Failure("render", f"The picture {path} could not be rendered ({error}).", "Choose another path.")
            )
            failures += 1
    if options.save:
        path = Path(options.save).expanduser().absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            bpy.ops.wm.save_as_mainfile(filepath=os.fspath(path), compress=True, check_existing=False)
            emit("saved", path=str(path))
        except (OSError, RuntimeError) as error:
            emit_failure(Failure("save", f"{path} could not be saved ({error}).", "Choose another path."))
            failures += 1
    return failures


_handle: Any = None


def register() -> None:
    global _handle
    _handle = bpy.utils.register_cli_command("splatsmith", run)


def unregister() -> None:
    global _handle
    if _handle is not None:
        bpy.utils.unregister_cli_command(_handle)
    _handle = None


def arguments_after_dashes(argv: Sequence[str] = ()) -> list[str]:
    """What a script run by Blender gets: everything after --."""
    given = list(argv or sys.argv)
    return given[given.index("--") + 1 :] if "--" in given else []
