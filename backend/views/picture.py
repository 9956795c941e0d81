"""A user's picture made ready for a generator: loaded, its object cut out, centred and scaled to the wanted frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backend.errors import BadInput
from backend.formats.images import read_image, resize

if TYPE_CHECKING:
    from backend.views.matting import Matte

_MATTING_SIDE = 1024  # no longer side is worth the time where the models see 64 to 512 pixels
_SOLID = 0.5  # alpha from which a pixel counts as the object's
_MOST_DOUBT = 0.35  # share of the outline that may be invisible
_BY_NETWORK = "was cut out by the network 'matting'."
_BETTER = "a cut-out with transparency, or the network that cuts objects out of anything ('weights download matting')"


class Way(Enum):
    """What told the object from its background."""

    ALPHA = "the file's transparency"
    NETWORK = "the matting network"
    PLAIN = "a plain background"
    GUESS = "a guess at the middle"
    NONE = "nothing: the whole picture"


@dataclass(frozen=True)
class Picture:
    """rgba: [4, H, W] in [0, 1], straight alpha, sRGB. had_alpha: the file said itself what is see-through."""

    rgba: Tensor
    had_alpha: bool
    warnings: list[str] = field(default_factory=list)


def load_picture(path: Path | str) -> Picture:
    """Read a picture file; see `backend.formats.images.read_image` for what is refused with BadInput."""
    image = read_image(path)
    return Picture(image.rgba, image.had_alpha, list(image.warnings))


def prepare_picture(picture: Picture, size: int, object_fraction: float) -> tuple[Tensor, list[str]]:
    """Cut the object out, and put it in the middle of a square so that its larger side takes `object_fraction` of it.

    Returns rgba [4, size, size] and the warnings a user should see. Raises BadInput where no object can be found.
    """
    warnings = list(picture.warnings)
    rgba, way = (picture.rgba, Way.ALPHA) if picture.had_alpha else separated(picture, warnings)
    if way is Way.PLAIN:
        warnings.append("The picture has no transparency: its plain background was cut away.")
    if float(rgba[3].max()) < 0.02:
        what = "is transparent everywhere" if picture.had_alpha else "shows no object"
        raise BadInput(f"The picture {what}.", "Use a picture in which an object can be seen.")
    top, bottom, left, right = object_bounds(rgba[3])
    _warn_about_frame(rgba, (top, bottom, left, right), size, warnings)
    cropped = rgba[:, top:bottom, left:right]
    scale = object_fraction * size / max(bottom - top, right - left)
    height = max(1, min(size, round((bottom - top) * scale)))
    width = max(1, min(size, round((right - left) * scale)))
    above, before = (size - height) // 2, (size - width) // 2
    framed = torch.zeros(4, size, size)
    framed[:, above : above + height, before : before + width] = resize(cropped, height, width)
    return framed, warnings


def cut_out(picture: Picture, warnings: list[str], name: str = "The picture") -> Tensor:
    """As `separated`, its picture alone."""
    return separated(picture, warnings, name)[0]


def separated(picture: Picture, warnings: list[str], name: str = "The picture") -> tuple[Tensor, Way]:
    """[4, h, w] with the background of an opaque picture made transparent, and by what; doubts go into `warnings`.

    A network does it where its weights and onnxruntime are on this machine; else plain backgrounds are told by the
    project's own means, and of others the middle is guessed. Nothing is fetched.

    Raises BadInput where the background is plain and nothing stands out from it, or too little to tell where it ends,
    and what `backend.views.matting_model.model_matte` raises.
    """
    # Imported here, as they bring SciPy and scikit-image along, which a prompt does not need at once.
    from backend.views.matting import centred_guess_matte, plain_background_matte
    from backend.views.matting_model import matting_model, model_matte, runtime_installed

    rgba = _reduced(picture.rgba)
    rgb = rgba[:3].permute(1, 2, 0).contiguous().numpy()
    network = matting_model()
    if network is not None and not runtime_installed():
        warnings.append("The matting network is there, but not the package onnxruntime: pip install onnxruntime.")
    elif network is not None and (matte := model_matte(rgb, network)) is not None:
        warnings.append(f"{name} {_BY_NETWORK}")
        return _to_rgba(matte), Way.NETWORK
    matte = plain_background_matte(rgb)
    if matte is not None:
        covered = float(matte.alpha.mean())
        if covered < 0.002:
            raise BadInput(
                f"{name} shows nothing that stands out from its background.",
                f"Use a picture of one object before a plain background of another colour, or {_BETTER}.",
            )
        if matte.doubtful > _MOST_DOUBT:
            raise BadInput(
                f"In {_within(name)} the object's colours are too near its background's to tell where it ends.",
                f"Use a background of another colour, or {_BETTER}.",
            )
        if covered < 0.97:
            return _to_rgba(matte), Way.PLAIN
    guess = centred_guess_matte(rgb)
    if guess is not None:
        warnings.append(
            f"{name} has no plain background: what its middle shows was taken as the object. Better is {_BETTER}."
        )
        return _to_rgba(guess), Way.GUESS
    warnings.append(
        f"{name} has no plain background and no object could be told from it: the whole picture was used. "
        f"Better is {_BETTER}."
    )
    return rgba, Way.NONE


def further_packs(notes: Sequence[str]) -> list[str]:
    """The weights that took part in cutting a picture out, from what was noted of it."""
    return ["matting"] if any(note.endswith(_BY_NETWORK) for note in notes) else []


def _within(name: str) -> str:
    return name[0].lower() + name[1:] if name.startswith("The ") else name


def _reduced(rgba: Tensor) -> Tensor:
    height, width = rgba.shape[1:]
    scale = _MATTING_SIDE / max(height, width)
    return rgba if scale >= 1 else resize(rgba, max(1, round(height * scale)), max(1, round(width * scale)))


def _to_rgba(matte: Matte) -> Tensor:
    alpha = torch.from_numpy(matte.alpha).float()
    return torch.cat([torch.from_numpy(matte.rgb).float().permute(2, 0, 1), alpha[None]]).clamp(0, 1)


def object_bounds(alpha: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what alpha [H, W] shows; row `bottom` and column `right` are the first beyond it."""
    # Glass and smoke never reach a half: what shows most then counts.
    solid = alpha > min(_SOLID, 0.5 * float(alpha.max()))
    rows = torch.nonzero(solid.any(dim=1)).flatten()
    columns = torch.nonzero(solid.any(dim=0)).flatten()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _warn_about_frame(rgba: Tensor, bounds: tuple[int, int, int, int], size: int, warnings: list[str]) -> None:
    top, bottom, left, right = bounds
    height, width = rgba.shape[1:]
    larger = max(bottom - top, right - left)
    if larger < min(32, size // 2):
        warnings.append(f"The object in the picture is only {larger} pixels large; the result will be vague.")
    alpha = rgba[3]
    edges = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
    whole = bottom - top == height and right - left == width and bool((alpha > _SOLID).all())
    if not whole and any(float((edge > _SOLID).float().mean()) > 0.1 for edge in edges):
        warnings.append("The object touches the picture's edge; what lies beyond it can only be guessed.")
