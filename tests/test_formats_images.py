"""Picture files of every odd kind to tensors."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import BadInput
from backend.formats.images import read_image, resize, write_png

RED = (200, 30, 20)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png_of_size(path: Path, width: int, height: int) -> Path:
    """A PNG whose header promises a size and which holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode_becomes_rgba(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.full((20, 30), 51, np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 51 * 257, np.uint16))
    elif mode in ("I", "F"):
        level = 51 * 257 if mode == "I" else 0.2
        image = Image.fromarray(np.full((20, 30), level, np.int32 if mode == "I" else np.float32))
    elif mode == "1":
        image = Image.new("1", (30, 20), 1)
    else:
        image = grey.convert("RGB").convert(mode) if mode != "LA" else grey.convert("LA")
    suffix = "tif" if mode in ("CMYK", "I", "F", "YCbCr") else "png"
    loaded = read_image(save(tmp_path / f"a.{suffix}", image))
    assert tuple(loaded.rgba.shape) == (4, 20, 30)
    expected = 1.0 if mode == "1" else 0.2
    torch.testing.assert_close(loaded.rgba[:3], torch.full((3, 20, 30), expected), atol=0.02, rtol=0)
    assert bool((loaded.rgba[3] == 1).all())
    assert not loaded.had_alpha


def test_16_bit_colour_is_not_clipped(tmp_path: Path) -> None:
    """Pillow cannot write it, so it is written by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.zeros((16, 16, 3), ">u2")
    pixels[:] = (0x8000, 0x4000, 0xFFFF)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    torch.testing.assert_close(read_image(path).rgba[:3, 5, 5], torch.tensor([0.5, 0.25, 1.0]), atol=0.01, rtol=0)


def test_transparency_of_palettes_and_colour_keys(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([200, 30, 20, 0, 0, 255])
    image.paste(1, (0, 0, 8, 16))
    loaded = read_image(save(tmp_path / "a.png", image, transparency=1))
    assert loaded.had_alpha
    assert float(loaded.rgba[3, 5, 2]) == 0.0
    assert float(loaded.rgba[3, 5, 12]) == 1.0
    keyed = Image.new("RGB", (16, 16), RED)
    keyed.paste((0, 255, 0), (0, 0, 8, 16))
    loaded = read_image(save(tmp_path / "b.png", keyed, transparency=(0, 255, 0)))
    assert loaded.had_alpha
    assert float(loaded.rgba[3, 5, 2]) == 0.0


def test_an_alpha_that_hides_nothing_is_none(tmp_path: Path) -> None:
    assert not read_image(save(tmp_path / "a.png", Image.new("RGBA", (16, 16), (*RED, 255)))).had_alpha


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.paste(RED, (0, 0, 10, 20))  # red at the left of the sensor
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned to the right
    loaded = read_image(save(tmp_path / "a.jpg", image, exif=exif, quality=95))
    assert tuple(loaded.rgba.shape) == (4, 40, 20)
    assert loaded.file_size == (20, 40)
    assert float(loaded.rgba[1, 3, 10]) < 0.3  # red at the top
    assert float(loaded.rgba[1, 35, 10]) > 0.9


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_picture_is_used(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, (0, 255, 0), (0, 0, 255))]
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], duration=100)
    loaded = read_image(path)
    assert float(loaded.rgba[0, 5, 5]) > 0.6
    assert "only the first" in loaded.warnings[0]


def test_a_profile_is_obeyed(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # of no use to an RGB picture
    loaded = read_image(save(tmp_path / "a.png", Image.new("RGB", (16, 16), RED), icc_profile=profile))
    torch.testing.assert_close(loaded.rgba[:3, 0, 0], torch.tensor(RED) / 255)
    loaded = read_image(save(tmp_path / "b.png", Image.new("RGB", (16, 16), RED), icc_profile=b"rubbish"))
    torch.testing.assert_close(loaded.rgba[:3, 0, 0], torch.tensor(RED) / 255)


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    loaded = read_image(save(tmp_path / "a.png", Image.new("RGB", (3000, 1000), RED)), max_side=512)
    assert tuple(loaded.rgba.shape) == (4, 171, 512)
    assert loaded.file_size == (3000, 1000)


def test_a_very_large_jpeg_is_read_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.formats import images

    monkeypatch.setattr(images, "_LARGEST_DECODED", 1_000_000)  # a 4000 x 4000 picture then counts as enormous
    image = Image.new("RGB", (4000, 4000), (255, 255, 255))
    image.paste(RED, (0, 0, 2000, 4000))
    loaded = read_image(save(tmp_path / "a.jpg", image), max_side=512)
    assert tuple(loaded.rgba.shape) == (4, 512, 512)
    assert float(loaded.rgba[1, 256, 100]) < 0.3 < 0.9 < float(loaded.rgba[1, 256, 400])
    with pytest.raises(BadInput, match="4000 x 4000"):
        read_image(save(tmp_path / "b.jpg", image, progressive=True))  # cannot be read in strips


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (100_000, 8)])
def test_a_header_that_promises_too_much(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(BadInput):
        read_image(png_of_size(tmp_path / "huge.png", *size))


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_tiny_pictures_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="pixels"):
        read_image(save(tmp_path / "tiny.png", Image.new("RGB", size)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated_files_get_a_sentence(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadInput) as caught:
        read_image(path)
    assert caught.value.fix


def test_what_is_no_picture_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")
    for path in (tmp_path / "text.png", tmp_path / "script.eps", tmp_path / "none.png", tmp_path, "a\0b.png"):
        with pytest.raises(BadInput):
            read_image(path)


def test_png_round_trip(tmp_path: Path) -> None:
    rgba = torch.rand(4, 9, 17, generator=torch.Generator().manual_seed(1)) * 0.9
    write_png(tmp_path / "a.png", rgba)
    torch.testing.assert_close(read_image(tmp_path / "a.png").rgba, rgba, atol=0.5 / 255 + 1e-6, rtol=0)


def test_resizing_lets_no_hidden_colour_bleed() -> None:
    rgba = torch.zeros(4, 16, 16)
    rgba[1] = 1.0  # green where nothing is
    rgba[:, 4:12, 4:12] = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None, None]
    small = resize(rgba, 5, 5)
    seen = small[3] > 0.01
    assert float(small[1][seen].max()) < 1e-3
    assert float(small[0][seen].min()) > 0.999
