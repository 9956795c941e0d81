"""The picture that words became, for generators of views that see pictures alone: made ready for them, and shown."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from backend.errors import BadInput
from backend.views.picture import Picture, load_picture, prepare_picture, separated

_SHOWN_SIDE, _SHOWN_FRACTION = 512, 0.9  # generators differ; this is for looking at


def prepared(path: Path, size: int, object_fraction: float) -> tuple[Tensor, list[str]]:
    """As `backend.views.picture.prepare_picture`; raises BadInput that tells what to do where no object is in it."""
    picture = load_picture(path)
    try:
        if not picture.had_alpha:  # that a plain background is cut away is no news: it was asked for
            warnings = list(picture.warnings)
            rgba, _ = separated(picture, warnings)
            picture = Picture(rgba, had_alpha=True, warnings=warnings)
        return prepare_picture(picture, size, object_fraction)
    except BadInput as error:
        message = error.message.replace("The picture", "The picture that the words became", 1)
        raise BadInput(message, "Try another seed or other words, or use a picture of yours.") from error


def shown_as_seen(path: Path) -> tuple[Tensor, list[str]]:
    """[4, H, W]: the picture about as a generator will see it, and what is doubtful about it; as it is where no
    generator could see an object in it. Raises BadInput where it cannot be read."""
    try:
        return prepared(path, _SHOWN_SIDE, _SHOWN_FRACTION)
    except BadInput as error:
        return load_picture(path).rgba, [f"{error.message} {error.fix}"]
