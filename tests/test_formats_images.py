"""Picture files of every odd kind to tensors."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

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


# Where the mark in the file's upper left corner belongs, and whether the sides change places, for each of EXIF's eight.
EXIF = {
    1: ("top", "left", False), 2: ("top", "right", False), 3: ("bottom", "right", False), 4: ("bottom", "left", False),
    5: ("top", "left", True), 6: ("top", "right", True), 7: ("bottom", "right", True), 8: ("bottom", "left", True),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", EXIF)
def test_exif_turns_the_picture(tmp_path: Path, orientation: int, suffix: str) -> None:
    vertical, horizontal, turned = EXIF[orientation]
    image = Image.new("RGB", (48, 24), (255, 255, 255))
    image.paste(RED, (0, 0, 16, 8))  # at the upper left of the sensor, lying
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if suffix == "tif" else {"quality": 95}
    loaded = read_image(save(tmp_path / f"a.{suffix}", image, exif=exif, **options))
    height, width = (48, 24) if turned else (24, 48)
    assert tuple(loaded.rgba.shape) == (4, height, width)
    assert loaded.file_size == (width, height)
    rows, columns = torch.nonzero(loaded.rgba[1] < 0.5).unbind(1)
    assert (int(rows.max() - rows.min()) > int(columns.max() - columns.min())) is turned
    assert (float(rows.float().mean()) < height / 2) is (vertical == "top")
    assert (float(columns.float().mean()) < width / 2) is (horizontal == "left")


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


def matrix_profile(gamma: float, swapped: bool = False, grey: bool = False) -> bytes:
    """A small ICC profile: sRGB's primaries (red and green exchanged, if swapped), or grey, and a power curve."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        primaries = (green, red, blue) if swapped else (red, green, blue)
        tags |= {name: b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in
                 zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}  # fmt: skip
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    space = b"GRAY" if grey else b"RGB "
    head = struct.pack(">I4sI4s4s4s", offset + len(data), bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + table + data


def test_other_primaries_and_curves_become_srgb(tmp_path: Path) -> None:
    """A picture in linear light with red and green exchanged; grey and transparency with it."""
    linear = round(255 * 0.2140)  # sRGB's 0.5
    for mode, color in (("RGB", (linear, 0, 255)), ("RGBA", (linear, 0, 255, 128))):
        image = Image.new(mode, (16, 16), color)
        loaded = read_image(save(tmp_path / "a.png", image, icc_profile=matrix_profile(1.0, swapped=True)))
        torch.testing.assert_close(loaded.rgba[:3, 3, 3], torch.tensor([0.0, 0.5, 1.0]), atol=0.02, rtol=0)
        assert loaded.had_alpha is (mode == "RGBA")
    for mode, grey in (("L", linear), ("LA", (linear, 128))):
        image = Image.new(mode, (16, 16), grey)
        loaded = read_image(save(tmp_path / "b.png", image, icc_profile=matrix_profile(1.0, grey=True)))
        torch.testing.assert_close(loaded.rgba[:3, 3, 3], torch.full((3,), 0.5), atol=0.02, rtol=0)
        assert loaded.had_alpha is (mode == "LA")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("profile", [None, "rgb", "rubbish"])
def test_cmyk_becomes_rgb(tmp_path: Path, suffix: str, profile: str | None) -> None:
    """With a profile that is not for its inks the numbers are taken as they are."""
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    contents = {"rgb": matrix_profile(1.0), "rubbish": b"rubbish"}
    options = {"icc_profile": contents[profile]} if profile else {}
    loaded = read_image(save(tmp_path / f"a.{suffix}", image, **options))
    torch.testing.assert_close(loaded.rgba[:, 5, 5], torch.tensor([1.0, 0.0, 0.0, 1.0]), atol=0.05, rtol=0)


def deep_png(path: Path, kind: int, row: list[int], more: bytes = b"") -> Path:
    """A PNG of 16 rows of 16 bit values, of the kind that its header calls so."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">IIBBBBB", len(row) // channels, 16, 16, kind, 0, 0, 0)
    rows = (b"\0" + struct.pack(f">{len(row)}H", *row)) * 16
    trns = chunk(b"tRNS", more) if more else b""
    content = chunk(b"IHDR", header) + trns + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_16_bits_keep_their_alpha(tmp_path: Path) -> None:
    for kind, pixel, expected in (
        (6, [0x8000, 0x4000, 0xFFFF, 0x8000], [0.5, 0.25, 1.0, 0.5]),
        (4, [0x8000, 0x4000], [0.5, 0.5, 0.5, 0.25]),
    ):
        loaded = read_image(deep_png(tmp_path / "a.png", kind, pixel * 16))
        torch.testing.assert_close(loaded.rgba[:, 5, 5], torch.tensor(expected), atol=0.01, rtol=0)
        assert loaded.had_alpha
    keyed = read_image(deep_png(tmp_path / "b.png", 0, [0x8000] * 8 + [0x1000] * 8, struct.pack(">H", 0x8000)))
    assert keyed.had_alpha
    assert keyed.rgba[3, 5].tolist() == [0.0] * 8 + [1.0] * 8


def test_rounded_corners_are_no_cut_out(tmp_path: Path) -> None:
    """A screenshot's transparent corners: white, as it is shown, and the picture still has to be cut out."""
    image = Image.new("RGBA", (200, 200), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 4))
    loaded = read_image(save(tmp_path / "a.png", image))
    assert not loaded.had_alpha
    assert loaded.rgba[:, 1, 1].tolist() == [1.0] * 4


def test_reducing_lets_no_hidden_colour_bleed(tmp_path: Path) -> None:
    pixels = np.zeros((900, 900, 4), np.uint8)
    pixels[..., 1] = 255  # green where nothing is
    pixels[300:600, 300:600] = (255, 0, 0, 255)
    loaded = read_image(save(tmp_path / "a.png", Image.fromarray(pixels)), max_side=128).rgba
    seen = loaded[3] > 0.01
    assert float(loaded[1][seen].max()) < 0.02
    assert float(loaded[0][seen].min()) > 0.98


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    loaded = read_image(save(tmp_path / "a.avif", Image.new("RGB", (32, 16), RED)))
    torch.testing.assert_close(loaded.rgba[:3, 5, 5], torch.tensor(RED) / 255, atol=0.03, rtol=0)


def test_kinds_that_cannot_be_read_are_called_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "logo.svg").write_text('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')
    for name, words, cure in (("phone.heic", "HEIC", "JPEG"), ("logo.svg", "SVG", "PNG")):
        with pytest.raises(BadInput, match=words) as caught:
            read_image(tmp_path / name)
        assert cure in caught.value.fix


@pytest.mark.parametrize("size", [(9000, 8), (8, 9000)])
def test_extremely_long_pictures_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    loaded = read_image(save(tmp_path / "a.png", Image.new("RGB", size, RED)))
    assert max(loaded.rgba.shape) == 2048
    assert min(loaded.rgba.shape) >= 1


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
