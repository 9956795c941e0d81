"""Pictures made ready for the generator: cut out, centred, scaled; and what is said when that is impossible."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from backend.errors import BadInput
from backend.views.matting import centred_guess_matte, plain_background_matte
from backend.views.picture import Picture, load_picture, prepare_picture

RED = (200, 40, 30)


def drawing(
    background: Image.Image, box: tuple[int, int, int, int] = (60, 40, 140, 180)
) -> tuple[np.ndarray, np.ndarray]:
    """A red ellipse with a blue band on a background: rgb [H, W, 3] in [0, 1] and its true alpha."""
    size = background.size
    large = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    ImageDraw.Draw(large).ellipse([value * 4 for value in box], fill=255)
    mask = large.resize(size, Image.Resampling.BOX)
    thing = Image.new("RGB", size, RED)
    ImageDraw.Draw(thing).rectangle((0, 100, size[0], 120), fill=(30, 40, 180))
    picture = Image.composite(thing, background.convert("RGB"), mask)
    return np.asarray(picture).astype(np.float32) / 255, np.asarray(mask).astype(np.float32) / 255


def picture_of(rgb: np.ndarray) -> Picture:
    rgba = torch.cat([torch.from_numpy(rgb).permute(2, 0, 1), torch.ones(1, *rgb.shape[:2])])
    return Picture(rgba, had_alpha=False)


def backdrop(kind: str) -> Image.Image:
    height, width = 220, 200
    y, x = np.mgrid[0:height, 0:width] / 220.0
    random = np.random.default_rng(0)
    base = np.full((height, width, 3), 255.0)
    if kind == "black":
        base[:] = 0
    elif kind == "green":
        base[:] = (40, 180, 60)
    elif kind == "red-ish":
        base[:] = (150, 90, 90)
    elif kind == "studio":
        base *= (0.95 - 0.35 * ((x - 0.45) ** 2 + (y - 0.4) ** 2) - 0.15 * y)[..., None]
    elif kind == "noisy":
        base = 200 + random.normal(0, 8, base.shape)
    return Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["white", "black", "green", "red-ish", "studio", "noisy"])
def test_plain_backgrounds_are_cut_away(kind: str) -> None:
    rgb, truth = drawing(backdrop(kind))
    matte = plain_background_matte(rgb)
    assert matte is not None
    assert np.abs(matte.alpha - truth).mean() < 0.01
    inside = matte.alpha > 0.5
    union = (inside | (truth > 0.5)).sum()
    assert (inside & (truth > 0.5)).sum() / union > 0.97
    # Nothing of the background's colour is left in the soft edge.
    edge = (matte.alpha > 0.1) & (matte.alpha < 0.9)
    blue, red = (
        np.linalg.norm(matte.rgb - [30 / 255, 40 / 255, 180 / 255], axis=-1),
        np.linalg.norm(matte.rgb - np.array(RED) / 255, axis=-1),
    )
    assert edge.sum() > 20
    assert np.median(np.minimum(red, blue)[edge]) < 0.15


def test_jpeg_noise_does_not_matter() -> None:
    import io

    rgb, truth = drawing(backdrop("white"))
    stream = io.BytesIO()
    Image.fromarray((rgb * 255).astype(np.uint8)).save(stream, "JPEG", quality=60)
    matte = plain_background_matte(np.asarray(Image.open(stream)).astype(np.float32) / 255)
    assert matte is not None
    assert np.abs(matte.alpha - truth).mean() < 0.015


def test_the_hole_of_a_ring_is_background_but_a_light_patch_is_not() -> None:
    image = Image.new("RGB", (200, 200), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 180, 180), fill=RED)
    draw.ellipse((60, 60, 110, 110), fill=(250, 250, 250))  # shows the background
    draw.ellipse((120, 120, 150, 150), fill=(238, 236, 233))  # a cream patch
    matte = plain_background_matte(np.asarray(image).astype(np.float32) / 255)
    assert matte is not None
    assert matte.alpha[85, 85] < 0.05
    assert matte.alpha[135, 135] > 0.95
    assert matte.alpha[40, 100] > 0.95


def test_an_object_that_crosses_the_border_is_found() -> None:
    rgb, truth = drawing(backdrop("white"), (60, 120, 140, 300))
    matte = plain_background_matte(rgb)
    assert matte is not None
    assert np.abs(matte.alpha - truth).mean() < 0.01
    _, warnings = prepare_picture(picture_of(rgb), 64, 0.8)
    assert any("edge" in warning for warning in warnings)


def test_a_busy_background_is_told_of() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (14, 12, 3), dtype=np.uint8)
    busy = Image.fromarray(noise).resize((200, 220), Image.Resampling.BICUBIC)
    rgb, _ = drawing(busy)
    assert plain_background_matte(rgb) is None
    rgba, warnings = prepare_picture(picture_of(rgb), 64, 0.8)
    assert any("no plain background" in warning for warning in warnings)
    assert tuple(rgba.shape) == (4, 64, 64)
    assert float(rgba[3].max()) > 0.9


def test_a_guess_finds_what_differs_from_the_border() -> None:
    """A table and a wall: two plain halves are not one plain background, but the guess manages."""
    wall = Image.new("RGB", (200, 220), (190, 200, 210))
    ImageDraw.Draw(wall).rectangle((0, 130, 200, 220), fill=(120, 90, 60))
    rgb, truth = drawing(wall.filter(ImageFilter.GaussianBlur(1)))
    assert plain_background_matte(rgb) is None
    matte = centred_guess_matte(rgb)
    assert matte is not None
    inside = matte.alpha > 0.5
    assert (inside & (truth > 0.5)).sum() / (inside | (truth > 0.5)).sum() > 0.85


def test_nothing_to_see_gets_a_sentence() -> None:
    with pytest.raises(BadInput, match="nothing that stands out"):
        prepare_picture(picture_of(np.full((100, 100, 3), 0.7, np.float32)), 64, 0.8)
    with pytest.raises(BadInput, match="transparent everywhere"):
        prepare_picture(Picture(torch.zeros(4, 100, 100), had_alpha=True), 64, 0.8)


@pytest.mark.parametrize("size", [64, 65, 128])
@pytest.mark.parametrize("box", [(10, 20, 90, 40), (30, 5, 40, 95), (0, 0, 100, 100)])
def test_the_object_is_centred_and_scaled(size: int, box: tuple[int, int, int, int]) -> None:
    rgba = torch.zeros(4, 100, 100)
    left, top, right, bottom = box
    rgba[:, top:bottom, left:right] = torch.tensor([1.0, 0.5, 0.0, 1.0])[:, None, None]
    framed, _ = prepare_picture(Picture(rgba, had_alpha=True), size, 0.66)
    assert tuple(framed.shape) == (4, size, size)
    rows = torch.nonzero((framed[3] > 0.5).any(1)).flatten()
    columns = torch.nonzero((framed[3] > 0.5).any(0)).flatten()
    height, width = len(rows), len(columns)
    assert abs(max(height, width) - 0.66 * size) <= 1
    assert abs(height / width - (bottom - top) / (right - left)) < 0.5 * max(1, (bottom - top) / (right - left))
    assert abs((rows[0] + rows[-1]) / 2 - (size - 1) / 2) <= 1
    assert abs((columns[0] + columns[-1]) / 2 - (size - 1) / 2) <= 1
    inside = framed[3] > 0.9
    torch.testing.assert_close(framed[:3, inside].mean(1), torch.tensor([1.0, 0.5, 0.0]), atol=0.01, rtol=0)


def test_a_small_object_is_told_of() -> None:
    rgba = torch.zeros(4, 100, 100)
    rgba[:, 50:58, 50:58] = 1.0
    _, warnings = prepare_picture(Picture(rgba, had_alpha=True), 128, 0.66)
    assert any("8 pixels" in warning for warning in warnings)


def test_from_file_to_frame(tmp_path) -> None:
    image = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((100, 50, 180, 150), fill=(*RED, 255))
    image.save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    assert picture.had_alpha
    framed, warnings = prepare_picture(picture, 64, 0.66)
    assert warnings == []
    torch.testing.assert_close(framed[:3, 32, 32], torch.tensor(RED) / 255, atol=0.01, rtol=0)
    assert float(framed[3, 0, 0]) == 0.0


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (2, 2048), (2048, 2), (9, 9), (40, 1500)])
@pytest.mark.parametrize("content", ["plain", "object", "noise"])
def test_odd_sizes_end_in_a_picture_or_a_sentence(size: tuple[int, int], content: str) -> None:
    height, width = size
    rgb = np.full((height, width, 3), 0.8, np.float32)
    if content == "object":
        rgb[height // 3 : height // 3 * 2 + 1, width // 3 : width // 3 * 2 + 1] = (0.6, 0.1, 0.1)
    elif content == "noise":
        rgb = np.random.default_rng(0).random((height, width, 3), np.float32)
    with contextlib.suppress(BadInput):
        rgba, warnings = prepare_picture(picture_of(rgb), 64, 0.8)
        assert tuple(rgba.shape) == (4, 64, 64)
        assert bool(torch.isfinite(rgba).all())
        assert warnings
