"""How well objects are cut out of plain backgrounds, on objects of the project's own world, whose alpha is known.

`python -m backend bench matting` measures more of them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from backend.bench.matting import cases, composited, flooded, overlap
from backend.errors import BadInput
from backend.views.backdrop import fit_backdrop
from backend.views.matting import plain_background_matte
from backend.views.picture import Picture, Way, separated

WHITE = (("donut", 3), ("mug", 31), ("snowman", 0))  # as light as the backgrounds, and shaded through their grey
HOLES = (("mug", 3), ("chair", 2))


def picture_of(rgb: np.ndarray) -> Picture:
    rgba = torch.cat([torch.from_numpy(rgb).permute(2, 0, 1), torch.ones(1, *rgb.shape[:2])])
    return Picture(rgba, had_alpha=False)


@pytest.mark.parametrize(
    ("background", "least"),
    [("light grey", 0.97), ("white", 0.97), ("vignette", 0.96), ("noise", 0.9), ("jpeg", 0.9), ("shadow", 0.9)],
)
def test_white_objects_before_light_backgrounds_are_whole(background: str, least: float) -> None:
    for case in cases(background, 192, WHITE):
        matte = plain_background_matte(case.rgb)
        assert matte is not None
        found = overlap(matte.alpha, case.alpha)
        assert found > least, case.name
        assert matte.doubtful < 0.35
        assert found > overlap(flooded(case.rgb), case.alpha)


@pytest.mark.parametrize("background", ["shadow", "soft shadow"])
def test_shadows_stay_behind(background: str) -> None:
    for case in cases(background, 192, (("candle", 11), *HOLES)):
        matte = plain_background_matte(case.rgb)
        assert matte is not None
        below = (case.alpha < 0.01) & (np.abs(case.rgb - 216 / 255).max(-1) > 0.05)
        below &= ndimage.distance_transform_edt(case.alpha < 0.01) > 3
        assert below.sum() > 200, "the case has no shadow"
        assert float(matte.alpha[below].mean()) < 0.08, case.name


def test_holes_show_the_background() -> None:
    for case in cases("light grey", 192, HOLES):
        matte = plain_background_matte(case.rgb)
        assert matte is not None
        holes, count = ndimage.label(case.alpha < 0.01)
        sizes = ndimage.sum_labels(np.ones_like(holes), holes, np.arange(1, count + 1))
        inner = np.isin(holes, [n for n in range(2, count + 1) if sizes[n - 1] > 30])
        assert inner.any()
        assert float(matte.alpha[inner].mean()) < 0.1, case.name


def test_a_large_picture_gets_a_sharp_edge() -> None:
    """The object is looked for at half the size, its edge is drawn at the full one."""
    size = 760
    y, x = np.mgrid[0:size, 0:size]
    away = np.hypot(x - 390, y - 350) - 200.3
    truth = np.clip(0.5 - away, 0, 1)
    rgb = composited(np.full((size, size, 3), (0.2, 0.3, 0.6)), truth, "light grey")
    matte = plain_background_matte(rgb)
    assert matte is not None
    assert matte.alpha.shape == (size, size)
    assert overlap(matte.alpha, truth) > 0.995
    assert float(np.abs(matte.alpha - truth).mean()) < 0.002
    mixed = (matte.alpha > 0.1) & (matte.alpha < 0.9)
    assert float(np.abs(matte.rgb[mixed] - (0.2, 0.3, 0.6)).max()) < 0.1


def test_a_shadow_at_the_border_does_not_bend_the_backdrop() -> None:
    lab = np.full((96, 96, 3), (86.0, 0.0, 0.0), np.float32)
    y, x = np.mgrid[0:96, 0:96]
    lab[..., 0] -= 30 * np.exp(-((x - 40) ** 2 / 400 + (y - 95) ** 2 / 100))
    backdrop, noise = fit_backdrop(lab)  # type: ignore[misc]
    assert noise < 1
    assert float(np.abs(backdrop[..., 0] - 86).max()) < 4


def white_ball(rim: float) -> np.ndarray:
    """A white ball that gets darker towards its outline, before white."""
    y, x = np.mgrid[0:160, 0:160]
    away = np.hypot(x - 80, y - 80) / 50
    shade = np.where(away < 1, 1 - rim * np.clip(away, 0, 1) ** 4, 1.0)
    return np.repeat(np.round(shade * 255)[..., None] / 255, 3, -1).astype(np.float32)


def test_white_on_white_is_told_by_its_outline() -> None:
    rgba, way = separated(picture_of(white_ball(0.05)), [])
    assert way is Way.PLAIN
    y, x = np.mgrid[0:160, 0:160]
    assert overlap(rgba[3].numpy(), (np.hypot(x - 80, y - 80) < 50).astype(float)) > 0.97


def test_what_cannot_be_told_is_said_instead_of_a_tattered_object() -> None:
    with pytest.raises(BadInput, match="nothing that stands out") as caught:
        separated(picture_of(white_ball(0.008)), [])
    assert "weights download matting" in caught.value.fix
    # A cloud: it differs, but ends nowhere.
    y, x = np.mgrid[0:160, 0:160]
    cloud = 1 - 0.035 * np.exp(-((x - 80) ** 2 + (y - 60) ** 2) / 900)
    with pytest.raises(BadInput, match=r"too near|nothing that stands out"):
        separated(picture_of(np.repeat(cloud[..., None], 3, -1).astype(np.float32)), [])
