"""Published pipelines on disk: a folder with model_index.json, and a sub-folder for every part.

Parts are read by the libraries that wrote them, from the disk alone. What they would fill with random numbers, or say
in their own words, becomes MissingWeights with the file's name.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from backend.errors import BadInput, MissingWeights
from backend.packs import PUBLISHED
from backend.weights import check_fit, missing_weights, read_shapes

INDEX = "model_index.json"
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # what each calls a part's weights
_VARIANTS = (None, "fp16")


def published_folder(name: str) -> Path:
    """Where a pack that is a folder lies. Raises MissingWeights, which says how to get it."""
    pack = PUBLISHED[name]
    if not (pack.folder / INDEX).is_file():
        raise missing_weights(pack)
    return pack.folder


def cure(folder: Path) -> str:
    """What mends a damaged folder."""
    if folder.name in PUBLISHED:
        name = folder.name
        return f"Get it again: python -m backend weights download {name}, or weights import {name} FOLDER."
    return "Copy the folder again, whole and as it was published."


def broken(folder: Path, what: str) -> MissingWeights:
    """The error for a folder in which something is wrong; `what` begins with the file's name."""
    return MissingWeights(f"{what} ({folder}).", cure(folder))


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A .json file of the folder. Raises MissingWeights where it is absent or damaged."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise broken(folder, f"{name} is missing") from error
    except (OSError, ValueError) as error:
        raise broken(folder, f"{name} is damaged") from error
    if not isinstance(content, dict):
        raise broken(folder, f"{name} is damaged")
    return content


def weights_file(folder: Path, part: str, stem: str = DIFFUSERS) -> tuple[Path, str | None]:
    """A part's .safetensors file, whose head makes sense and whose end is there; and the variant that its name tells.

    Raises MissingWeights.
    """
    for variant in _VARIANTS:
        path = folder / part / ".".join([stem, *([variant] if variant else []), "safetensors"])
        if path.is_file():
            try:
                read_shapes(path)
            except MissingWeights as error:
                raise broken(folder, f"{part}/{path.name} is damaged or cut off") from error
            return path, variant
    raise broken(folder, f"{part}/{stem}.safetensors is missing")


def load_part(kind: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A model of diffusers or transformers, ready for use, every weight from the file.

    Raises MissingWeights where a file is absent, damaged, or of another model.
    """
    read_json(folder, f"{part}/config.json")
    by_diffusers = kind.__module__.startswith("diffusers")
    path, variant = weights_file(folder, part, DIFFUSERS if by_diffusers else TRANSFORMERS)
    name = f"{part}/{path.name}"
    options: dict[str, Any] = {"torch_dtype": dtype} if by_diffusers else {"dtype": dtype}
    with _quiet():
        try:
            model, told = kind.from_pretrained(
                folder / part, variant=variant, use_safetensors=True, local_files_only=True, output_loading_info=True,
                **options,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise broken(folder, f"{name} does not fit {part}/config.json: {reason}") from error
    lacking = sorted(told["missing_keys"])
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise broken(folder, f"{name} lacks {', '.join(lacking[:3])}{more}")
    return model.eval().requires_grad_(False)


def load_settings(kind: Any, folder: Path, part: str, files: tuple[tuple[str, ...], ...]) -> Any:
    """A scheduler, a tokenizer or a picture's processor: what has settings and no weights.

    files: sets of files, of which one must be there. Raises MissingWeights.
    """
    sets = [[f"{part}/{name}" for name in names] for names in files]
    there = next((names for names in sets if all((folder / name).is_file() for name in names)), None)
    if there is None:
        lacking = next(name for name in sets[0] if not (folder / name).is_file())
        raise broken(folder, f"{lacking} is missing")
    for name in there:
        if name.endswith(".json"):
            read_json(folder, name)
    with _quiet():
        try:
            return kind.from_pretrained(folder / part, local_files_only=True)
        except Exception as error:  # the tokenizers' library raises bare Exceptions
            raise broken(folder, f"{there[0]} makes no sense: {str(error)[:200]}") from error


def check_libraries() -> None:
    """Raises BadInput where diffusers or transformers is not installed."""
    lacking = [name for name in ("diffusers", "transformers") if importlib.util.find_spec(name) is None]
    if lacking:
        raise BadInput(
            f"Published view generators need {' and '.join(lacking)}, not installed in the backend's environment.",
            "Press Set Up again, or install them with: pip install diffusers transformers accelerate",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' bars and tables: what matters of them is raised."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity(library.CRITICAL)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)


def check_unet(folder: Path) -> dict[str, Any]:
    """The settings of the folder's U-Net of diffusers' own make. Raises MissingWeights where its weights are not of the
    shapes that these say; reads no more than the file's head."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = read_json(folder, "unet/config.json")
    path, _ = weights_file(folder, "unet")
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        check_fit(unet, read_shapes(path), path.name)
    except MissingWeights as error:
        raise broken(folder, f"unet/{path.name}: {error.message.rstrip('.')}") from error
    except Exception as error:  # whatever a strange value leads to
        raise broken(folder, f"unet/config.json makes no sense: {str(error)[:200]}") from error
    return config
