"""What a user asks of a job, checked before anything is computed or touched."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import BadInput
from backend.recipes import find_recipe

RESULTS = ("views", "gaussians", "mesh")  # what a job makes, in order; from_stage and to_stage name one of them
LONGEST_PROMPT = 2000
_SOURCES = ("prompt", "image", "cameras", "gaussians")
_ACT_ON_VIEWS = (*_SOURCES, "seed", "steps", "guidance")
_WHAT = {"image": "picture", "cameras": "file of cameras", "gaussians": ".ply file"}
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "faces": (100, 1_000_000),
    "texture_size": (64, 8192),
    "steps": (1, 1000),
    "guidance": (0.0, 100.0),
}


@dataclass(frozen=True)
class Request:
    """One source (prompt, image, cameras or gaussians) and how to go about it. Paths are absolute strings.

    A prompt beside an image says what the image shows, which helps the generator.

    cameras: a transforms.json of posed pictures; gaussians: a 3DGS .ply, whose frame is kept. steps and guidance are
    the view generator's; None takes the recipe's. Raises BadInput where a value makes no sense.
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
        find_recipe(self.recipe)
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise BadInput(f"{name} must lie between {least:,} and {most:,}, not {value:,}.", "Change it.")

    @property
    def source(self) -> str:
        return next(name for name in reversed(_SOURCES) if getattr(self, name) is not None)

    @property
    def first_result(self) -> str:
        """The first thing that is made: Gaussians from outside need no views."""
        return "gaussians" if self.gaussians is not None else "views"

    def check_source(self) -> None:
        """Raises BadInput where the file to begin with is not there; a resumed job may no longer need it."""
        if self.source != "prompt":
            path = Path(getattr(self, self.source))
            if not _is_file(path):
                raise BadInput(f"There is no {_WHAT[self.source]} at {str(path)[:300]}.", "Check the path.")

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
            return cls.from_json(fields)
        fields = {name: value for name, value in fields.items() if value is not None}
        before = cls.from_json(earlier)
        if from_stage in RESULTS[RESULTS.index(before.first_result) + 1 :]:
            kept = _ACT_ON_VIEWS if from_stage == "gaussians" else (*_ACT_ON_VIEWS, "recipe")
            fields = {name: value for name, value in fields.items() if name not in kept}
        elif any(name in fields for name in _SOURCES):
            earlier = {name: value for name, value in earlier.items() if name not in _SOURCES}
        return cls.from_json({**earlier, **fields})


def _check_type(name: str, value: Any) -> None:
    if name not in Request.__dataclass_fields__:
        raise BadInput(f"A request has no field '{name[:40]}'.", f"Use {', '.join(Request.__dataclass_fields__)}.")
    if name in ("seed", "faces", "texture_size", "steps"):
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"{name} must be a whole number.", "Change it.")
    elif name == "guidance":
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise BadInput("guidance must be a number.", "Change it.")
    elif not isinstance(value, str):
        raise BadInput(f"{name} must be text.", "Change it.")


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
    return str(full / "transforms.json" if name == "cameras" and full.suffix != ".json" else full)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # a path too long for the system names no file either
