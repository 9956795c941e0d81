"""What a user asks of a job, checked before anything is computed or touched."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import BadInput
from backend.job.jobfolder import MESH_FORMATS
from backend.recipes import find_recipe

RESULTS = (
    "picture",
    "views",
    "gaussians",
    "mesh",
)  # what a job makes, in order; from_stage and to_stage name one of them
LONGEST_PROMPT = 2000
STARTS = ("network", "scratch")  # what `start` may be beside a path
_SOURCES = ("prompt", "image", "cameras", "gaussians")
# What acted before a stage that a job goes on from.
_ACTED_BEFORE = {
    "views": _SOURCES,  # on the picture; its seed may be another than the views'
    "gaussians": (*_SOURCES, "seed", "steps", "guidance"),
    "mesh": (*_SOURCES, "seed", "steps", "guidance", "recipe"),
}
_WHAT = {"image": "picture", "cameras": "file of cameras", "gaussians": ".ply file"}
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "faces": (100, 1_000_000),
    "texture_size": (64, 8192),
    "steps": (1, 1000),
    "guidance": (0.0, 100.0),
    "refine_steps": (1, 100_000),
}


@dataclass(frozen=True)
class Request:
    """One source (prompt, image, cameras or gaussians) and how to go about it. Paths are absolute strings.

    A prompt beside an image says what the image shows, which helps the generator.

    cameras: a transforms.json of posed pictures; gaussians: a 3DGS .ply, whose frame is kept. steps and guidance are
    the view generator's; None takes the recipe's. random_weights: to try the way of a published reconstructor without
    its weights. refine_steps: fit the Gaussians to the views (and take all posed pictures, not a recipe's few). start:
    "network", "scratch" or a .ply in the cameras' frame to refine; None chooses. formats: further files of the mesh
    beside mesh.glb, names of MESH_FORMATS with commas between. Raises BadInput where a value makes no sense.
    """

    prompt: str | None = None
    image: str | None = None
    cameras: str | None = None
    gaussians: str | None = None
    recipe: str = "starter"
    seed: int = 0
    faces: int = 20_000
    texture_size: int = 1024
    steps: int | None = None
    guidance: float | None = None
    refine_steps: int | None = None
    start: str | None = None
    formats: str | None = None
    random_weights: bool | None = None

    def __post_init__(self) -> None:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if given == ["prompt", "image"]:
            given = ["image"]
        if not given:
            raise BadInput("Nothing to work from was given.", "Give a prompt, a picture, cameras or Gaussians.")
        if len(given) > 1:
            raise BadInput(f"A job has one source, but {' and '.join(given)} were given.", "Give one of them.")
        if self.prompt is not None:
            _check_prompt(self.prompt)
        for name in _SOURCES[1:]:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _absolute(getattr(self, name), name))
        recipe = find_recipe(self.recipe)
        if self.random_weights and recipe.load_untrained is None:
            raise BadInput(f"The recipe {recipe.name} has its own weights.", "Leave random weights out.")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise BadInput(f"{name} must lie between {least:,} and {most:,}, not {value:,}.", "Change it.")
        self._check_refining()
        object.__setattr__(self, "formats", ",".join(_formats(self.formats)) or None)

    def _check_refining(self) -> None:
        if self.refine_steps is not None and self.gaussians is not None:
            raise BadInput("Gaussians without pictures cannot be refined.", "Give cameras, and the Gaussians as start.")
        if self.start is not None and self.refine_steps is None:
            raise BadInput("A start was given, but nothing is to be refined.", "Give refine_steps as well.")
        if self.start is not None and self.start not in STARTS:
            object.__setattr__(self, "start", _absolute(self.start, "gaussians"))

    @property
    def mesh_formats(self) -> list[str]:
        """The further files of the mesh that are wanted, as names of MESH_FORMATS."""
        return _formats(self.formats)

    @property
    def source(self) -> str:
        return next(name for name in reversed(_SOURCES) if getattr(self, name) is not None)

    @property
    def first_result(self) -> str:
        """The first thing that is made: Gaussians from outside need no views, and views mostly no picture."""
        if self.gaussians is not None:
            return "gaussians"
        return "picture" if self.makes_picture else "views"

    @property
    def makes_picture(self) -> bool:
        """Whether the words become a picture before anything else, as the recipe's generator sees pictures alone."""
        return self.source == "prompt" and find_recipe(self.recipe).picture_making is not None

    def check_source(self) -> None:
        """Raises BadInput where the file to begin with is not there; a resumed job may no longer need it."""
        if self.source != "prompt":
            path = Path(getattr(self, self.source))
            if not _is_file(path):
                raise BadInput(f"There is no {_WHAT[self.source]} at {str(path)[:300]}.", "Check the path.")
        if self.start not in (None, *STARTS) and not _is_file(Path(str(self.start))):
            raise BadInput(f"There is no .ply file at {str(self.start)[:300]}.", "Check the path.")

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, as request.json holds them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, fields: Any) -> Request:
        """The request that a program sent. Raises BadInput for unknown fields, wrong types and senseless values."""
        if not isinstance(fields, dict):
            raise BadInput("A request must be an object.", "Send the fields of a request by name.")
        fields = {name: value for name, value in fields.items() if value is not None}
        for name, value in fields.items():
            _check_type(name, value)
        return cls(**fields)

    @classmethod
    def resumed(cls, fields: Any, earlier: dict[str, Any] | None, from_stage: str | None) -> Request:
        """The request for going on in a folder whose request.json is `earlier`; as from_json without a from_stage.

        What is left out is taken from `earlier`, and so is whatever acted before `from_stage`: the record of where a
        result comes from must stay true. Raises BadInput as from_json does.
        """
        if from_stage is None or earlier is None or not isinstance(fields, dict):
            if from_stage is not None and isinstance(fields, dict) and not any(fields.get(name) for name in _SOURCES):
                raise BadInput("The folder holds no job to go on with.", "Check its path, or begin without a stage.")
            return cls.from_json(fields)
        fields = {name: value for name, value in fields.items() if value is not None}
        before = cls.from_json(earlier)
        # Another picture in the place of the one that was made is another source.
        replaced = from_stage == "views" and any(name in fields for name in _SOURCES[1:])
        if from_stage in RESULTS[RESULTS.index(before.first_result) + 1 :] and not replaced:
            kept = _ACTED_BEFORE[from_stage]
            fields = {name: value for name, value in fields.items() if name not in kept}
        elif any(name in fields for name in _SOURCES):
            earlier = {name: value for name, value in earlier.items() if name not in _SOURCES}
        return cls.from_json({**earlier, **fields})


def _check_type(name: str, value: Any) -> None:
    if name not in Request.__dataclass_fields__:
        raise BadInput(f"A request has no field '{name[:40]}'.", f"Use {', '.join(Request.__dataclass_fields__)}.")
    if name in ("seed", "faces", "texture_size", "steps", "refine_steps"):
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"{name} must be a whole number.", "Change it.")
    elif name == "random_weights":
        if not isinstance(value, bool):
            raise BadInput("random_weights must be true or false.", "Change it.")
    elif name == "guidance":
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise BadInput("guidance must be a number.", "Change it.")
    elif not isinstance(value, str):
        raise BadInput(f"{name} must be text.", "Change it.")


def _formats(names: str | None) -> list[str]:
    """In MESH_FORMATS' order; "glb" is always made and may be named."""
    wanted = [name.strip().lower() for name in (names or "").split(",") if name.strip()]
    unknown = [name for name in wanted if name not in (*MESH_FORMATS, "glb")]
    if unknown:
        raise BadInput(f"There is no format '{unknown[0][:40]}'.", f"Use some of glb, {', '.join(MESH_FORMATS)}.")
    return [name for name in MESH_FORMATS if name in wanted]


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise BadInput("The prompt is empty.", "Write what to make, for example: a red mushroom.")
    if len(prompt) > LONGEST_PROMPT:
        raise BadInput(
            f"The prompt has {len(prompt):,} characters; {LONGEST_PROMPT:,} is the most.", "Say it in a sentence."
        )


def _absolute(path: str, name: str) -> str:
    if not path.strip() or "\0" in path:
        raise BadInput(f"The path of the {_WHAT[name]} is empty.", "Pick a file.")
    full = Path(path).expanduser().absolute()
    folder = name == "cameras" and full.suffix != ".json" and not _is_file(full)
    return str(full / "transforms.json" if folder else full)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # a path too long for the system names no file either
