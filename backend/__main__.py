"""The command line: `python -m backend --help`. Everything heavy is imported only by the command that needs it."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backend import __version__
from backend.downloads import weights_command
from backend.errors import BadInput, SplatsmithError
from backend.frontend import recipes_command
from backend.job.request import RESULTS
from backend.recipes import RECIPES

if TYPE_CHECKING:
    from backend.job.editing import EditedViews

# Commands whose module brings its own arguments: add_NAME_arguments(parser) and run_NAME(options).
_DEVELOPING = {
    "train": ("backend.training.commands", "train the starter models on the project's own world"),
    "evaluate": ("backend.training.commands", "measure trained models"),
    "bench": ("backend.bench", "measure how fast the parts are on this machine"),
}
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the terminal's code page lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        if given and given[0] in _DEVELOPING:
            return _develop(given[0], given[1:])
        options = _parser().parse_args(given)
        return int(options.run(options))
    except SplatsmithError as error:
        print(_sentence(error), file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("Stopped. Results that were finished are kept.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has heard enough
        return FAILURE


def _sentence(error: SplatsmithError) -> str:
    return f"{error.message} {error.fix}".strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend",
        description="Splatsmith's backend: a sentence, a picture or posed pictures become a textured mesh.",
    )
    parser.add_argument("--version", action="version", version=f"splatsmith {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    generate = _command(commands, "generate", "text or a picture to Gaussians and a textured mesh", _generate)
    _add_source(generate)
    _add_job(generate, mesh=True, sampling=True)
    _add_random_weights(generate)
    generate.add_argument("--from-stage", choices=RESULTS, help="go on in an existing folder")
    generate.add_argument("--to-stage", choices=RESULTS, help="stop after this result")

    views = _command(commands, "views", "text or a picture to views only", _views)
    _add_source(views)
    _add_job(views, mesh=False, sampling=True)
    _add_random_weights(views)

    edit = _command(commands, "edit-views", "drop or replace views of a job before the mesh is made", _edit_views)
    edit.add_argument("folder", metavar="DIR", help="the folder of the job; go on with generate --from-stage gaussians")
    edit.add_argument(
        "--drop", type=int, nargs="+", action="extend", default=[], metavar="N", help="leave out view N (views/00N.png)"
    )
    edit.add_argument(
        "--replace",
        nargs="+",
        action="extend",
        default=[],
        metavar="N=FILE",
        help="put a picture in the place of view N",
    )
    edit.add_argument(
        "--reroll",
        type=int,
        nargs="+",
        action="extend",
        default=[],
        metavar="N",
        help="make view N anew, to fit the rest",
    )
    edit.add_argument("--seed", type=int, default=0, help="of --reroll; another seed gives another view (0)")
    _add_device(edit)
    edit.add_argument("--undo", action="store_true", help="bring back the views as they were before the last change")
    edit.add_argument("--json", action="store_true", help="print JSON")

    reconstruct = _command(commands, "reconstruct", "posed pictures to Gaussians and a textured mesh", _reconstruct)
    reconstruct.add_argument("--cameras", required=True, metavar="FILE", help="a transforms.json")
    reconstruct.add_argument(
        "--model", dest="recipe", default="starter", help="the reconstructor: starter, lgm, grm or geolrm (starter)"
    )
    _add_random_weights(reconstruct)
    _add_job(reconstruct, mesh=True, sampling=False, recipe=False)

    refine = _command(commands, "refine", "Gaussians fitted to posed pictures, and a textured mesh", _refine)
    refine.add_argument("--cameras", required=True, metavar="FILE", help="a transforms.json; all its pictures are used")
    refine.add_argument(
        "--start",
        metavar="PLY",
        help="what to begin with: a .ply in the same frame, 'network' or 'scratch' (scratch for 8 pictures or more)",
    )
    refine.add_argument("--steps", dest="refine_steps", type=int, default=300, help="steps of the optimisation (300)")
    refine.add_argument("--seed", type=int, help="another seed gives slightly other Gaussians (0)")
    refine.add_argument("--model", dest="recipe", default="starter", help="the network to begin with (starter)")
    _add_job(refine, mesh=True, sampling=False, recipe=False)

    mesh = _command(commands, "mesh", "a .ply of Gaussians to a textured mesh in the same frame", _mesh)
    mesh.add_argument("gaussians", metavar="PLY", help="a 3D Gaussian splatting .ply")
    _add_job(mesh, mesh=True, sampling=False)

    recipes_command.add_arguments(
        _command(commands, "recipes", "which models make what, the weights they need, and memory", recipes_command.run)
    )
    weights_command.add_arguments(
        _command(commands, "weights", "the weights there are, their licences and sizes; get more", weights_command.run)
    )

    doctor = _command(commands, "doctor", "device, memory, versions, and what is missing", _doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON")

    serve = _command(commands, "serve", "the JSON-RPC server on stdin and stdout that the add-on starts", _serve)
    _add_device(serve)
    for name, (_, text) in _DEVELOPING.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _command(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", help='what to make, for example "a red mushroom"; beside a picture, what it shows')
    parser.add_argument("--image", metavar="FILE", help="a picture of one object")


def _add_random_weights(parser: argparse.ArgumentParser) -> None:
    text = "published models without their weights: to try the way of a job; what it makes means nothing"
    parser.add_argument("--random-weights", action="store_true", default=None, help=text)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")


def _add_job(parser: argparse.ArgumentParser, *, mesh: bool, sampling: bool, recipe: bool = True) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the job; made if need be")
    if recipe:
        parser.add_argument("--recipe", default=None, help=f"which models to use: {', '.join(RECIPES)} (starter)")
    if sampling:
        parser.add_argument("--seed", type=int, help="another seed gives another object (0)")
        parser.add_argument("--steps", type=int, help="denoising steps; more is slower and finer")
        parser.add_argument("--guidance", type=float, help="how strictly to follow the prompt or picture")
    if mesh:
        parser.add_argument("--faces", type=int, help="triangles of the mesh (20000)")
        parser.add_argument(
            "--format",
            dest="formats",
            metavar="NAMES",
            help="more files beside mesh.glb: obj, stl (millimetres), ply and glb-colors (vertex colours), with commas",
        )
        parser.add_argument("--texture-size", type=int, metavar="PIXELS", help="side of the texture (1024)")
    _add_device(parser)
    parser.add_argument("--json", action="store_true", help="print what happens as JSON lines")


_REQUEST_OPTIONS = ("prompt", "image", "cameras", "gaussians", "recipe", "seed", "steps", "guidance", "faces")


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    names = (*_REQUEST_OPTIONS, "texture_size", "random_weights", "refine_steps", "start", "formats")
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def _generate(options: argparse.Namespace) -> int:
    return _run(options, _fields(options), options.from_stage, options.to_stage)


def _views(options: argparse.Namespace) -> int:
    return _run(options, _fields(options), None, "views")


def _edit_views(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    replace: dict[int, str] = {}
    for text in options.replace:
        number, equals, path = text.partition("=")
        if not equals or not number.isdecimal() or not path:
            raise BadInput(f"--replace {text[:80]} makes no sense.", "Write it as --replace 1=picture.png.")
        replace[int(number)] = path
    if sum(map(bool, (options.undo, options.reroll, options.drop or replace))) != 1:
        raise BadInput("Say what is to be done.", "Give --drop and --replace, or --reroll, or --undo.")
    from backend.job.editing import edit_views, undo

    if options.reroll:
        edited = _reroll(options)
    else:
        edited = undo(options.folder) if options.undo else edit_views(options.folder, options.drop, replace)
    for warning in edited.warnings:
        print(f"Note: {warning}", file=sys.stderr)
    print(json.dumps(asdict(edited)) if options.json else "\n".join(edited.views))
    if not options.json and not options.undo:
        then = f'python -m backend generate --from-stage gaussians --out "{options.folder}"'
        print(f"The mesh has to be made of them: {then}. Until then --undo takes the change back.", file=sys.stderr)
    return 0


def _reroll(options: argparse.Namespace) -> EditedViews:
    from backend.device import pick_device
    from backend.job.models import Models
    from backend.job.rerolling import reroll_views

    walk = reroll_views(options.folder, options.reroll, options.seed, Models(), pick_device(options.device))
    while True:
        try:
            step = next(walk)
        except StopIteration as end:
            edited: EditedViews = end.value
            return edited
        if sys.stderr.isatty():
            last = "\n" if step.step == step.steps else ""
            print(f"\r{step.message}: {step.step} of {step.steps} steps", end=last, file=sys.stderr, flush=True)
        elif step.step == 1:  # a line a stage elsewhere, as of other jobs
            print(f"{step.message} ...", file=sys.stderr)


def _reconstruct(options: argparse.Namespace) -> int:
    from pathlib import Path

    from backend.job.jobfolder import TRANSFORMS, JobFolder

    folder = JobFolder(options.out)
    cameras = Path(options.cameras).expanduser().absolute()
    if folder.is_job and cameras in (folder.path, folder / TRANSFORMS):
        # The views of an earlier job in its own folder: they are where they belong already.
        fields = {name: value for name, value in _fields(options).items() if name != "cameras"}
        return _run(options, fields, "gaussians", None)
    return _run(options, _fields(options), None, None)


def _refine(options: argparse.Namespace) -> int:
    return _run(options, _fields(options), None, None)


def _mesh(options: argparse.Namespace) -> int:
    from pathlib import Path

    from backend.job.jobfolder import GAUSSIANS, JobFolder

    folder = JobFolder(options.out)
    if folder.is_job and Path(options.gaussians).expanduser().absolute() == folder / GAUSSIANS:
        fields = {name: value for name, value in _fields(options).items() if name != "gaussians"}
        return _run(options, fields, "mesh", None)
    return _run(options, _fields(options), None, None)


def _run(options: argparse.Namespace, fields: dict[str, Any], from_stage: str | None, to_stage: str | None) -> int:
    from backend.frontend.console import show

    if not options.out.strip():  # an unset variable of a script; the files would land wherever it runs
        raise BadInput("The output folder has no name.", "Give --out a folder.")
    return show(fields, options.out, from_stage, to_stage, options.device, as_json=options.json)


def _doctor(options: argparse.Namespace) -> int:
    import json

    from backend.frontend.doctor import examine, to_text

    facts = examine()
    print(json.dumps(facts) if options.json else to_text(facts))
    return FAILURE if facts["problems"] else 0


def _serve(options: argparse.Namespace) -> int:
    from backend.frontend.server import serve

    return serve(options.device)


def _develop(name: str, arguments: list[str]) -> int:
    """Commands for those who work on Splatsmith; an installed add-on comes without some of them."""
    module, text = _DEVELOPING[name]
    parser = argparse.ArgumentParser(prog=f"python -m backend {name}", description=text[0].upper() + text[1:] + ".")
    try:
        commands = importlib.import_module(module)
        add_arguments, run = getattr(commands, f"add_{name}_arguments"), getattr(commands, f"run_{name}")
    except (ImportError, AttributeError) as error:
        raise BadInput(f"This installation cannot run '{name}' ({error}).", "Use a checkout of Splatsmith.") from error
    add_arguments(parser)
    return int(run(parser.parse_args(arguments)) or 0)


if __name__ == "__main__":
    sys.exit(main())
