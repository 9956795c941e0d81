"""Picture files to tensors and back: whatever a camera, a scanner or a paint program leaves on a disk."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from backend.errors import BadInput
from backend.formats.whole_file import whole_file

# Pillow knows formats that run other programs (EPS) or read odd things; a picture is one of these.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "TGA", "PPM", "AVIF", "JPEG2000")
_LARGEST_DECODED = 100_000_000  # pixels; 8 bit RGBA of this takes 400 MB
_LARGEST_JPEG = 1_000_000_000  # pixels; a baseline JPEG is decoded at an eighth of its size, strip by strip
_SMALLEST_SIDE = 8
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_LEAST_TRANSPARENT = 0.003  # of a picture: the rounded corners of a screenshot say nothing of an object
_open_lock = threading.Lock()


@dataclass(frozen=True)
class LoadedImage:
    """rgba: [4, H, W] in [0, 1], straight alpha, sRGB. had_alpha: the file says itself what is see-through.

    file_size: (width, height) of the upright picture before it was reduced.
    """

    rgba: Tensor
    had_alpha: bool
    file_size: tuple[int, int]
    warnings: list[str] = field(default_factory=list)


def read_image(path: Path | str, max_side: int = 2048) -> LoadedImage:
    """Read the picture at `path`, upright (EXIF), in sRGB, reduced so that no side is longer than `max_side`.

    Raises BadInput for a file that is missing, no picture, truncated, under 8 pixels a side, or so large that decoding
    it could fill the memory (the size is known before anything is decoded).
    """
    path = Path(path)
    try:
        with _open(path) as image:
            _check_size(image, path)
            warnings = _animation_warning(image, path)
            width, height = image.size
            _draft(image, max_side)
            image.load()
            landscape = image.width >= image.height
            upright = ImageOps.exif_transpose(image)
            if landscape != (upright.width >= upright.height):
                width, height = height, width
            has_alpha = upright.has_transparency_data
            rgba = _to_rgba(upright)
    except BadInput:
        raise
    except MemoryError as error:
        raise BadInput(f"{path.name} is too large to be decoded here.", "Save it at a smaller size.") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise BadInput(f"{path.name} is damaged or cut short and cannot be read.", "Save the picture again.") from error
    if max(rgba.size) > max_side:
        rgba.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    pixels = torch.from_numpy(np.array(rgba, dtype=np.uint8)).permute(2, 0, 1).float() / 255.0
    # An alpha channel that is opaque (nearly) everywhere says nothing about where the object ends.
    had_alpha = has_alpha and float(1 - pixels[3].mean()) > _LEAST_TRANSPARENT
    if not had_alpha and float(pixels[3].min()) < 1:
        pixels = torch.cat([pixels[:3] * pixels[3:] + 1 - pixels[3:], torch.ones_like(pixels[3:])])
    return LoadedImage(pixels, had_alpha, (width, height), warnings)


def _open(path: Path) -> Image.Image:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    # Pillow's own guard would refuse large JPEGs that _check_size knows how to read; the lock keeps its switch ours.
    with _open_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(path, formats=formats)
        except FileNotFoundError as error:
            raise BadInput(f"There is no picture at {path}.", "Check the path.") from error
        except IsADirectoryError as error:
            raise BadInput(f"{path} is a folder, not a picture.", "Pick a file.") from error
        except PermissionError as error:
            raise BadInput(f"{path} may not be read.", "Check the file's permissions.") from error
        except (Image.UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _unreadable(path: Path) -> BadInput:
    """The error for what Pillow cannot open; of kinds that people often have it says what they are."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except (OSError, ValueError):
        start = b""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        kind = "AVIF" if start[8:12] in (b"avif", b"avis") else "HEIC"
        return BadInput(
            f"{path.name} is a {kind} picture, which cannot be read here.", "Save it as JPEG or PNG, or send a JPEG."
        )
    if b"<svg" in start.lower():
        return BadInput(
            f"{path.name} is a drawing (SVG), not a picture of pixels.", "Export it as a PNG of 1024 pixels or more."
        )
    return BadInput(f"{path.name} is not a picture that can be read.", "Use a PNG, JPEG, WebP, TIFF or BMP file.")


def _is_baseline_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO") and not image.info.get("progressive")


def _draft(image: Image.Image, max_side: int) -> None:
    """Let the JPEG decoder reduce by 2, 4 or 8 while it reads, down to no less than `max_side`."""
    if _is_baseline_jpeg(image) and max(image.size) > max_side:
        scale = max_side / max(image.size)
        image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def _check_size(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if min(width, height) < _SMALLEST_SIDE:
        raise BadInput(
            f"{path.name} has only {width} x {height} pixels.",
            f"Use a picture of at least {_SMALLEST_SIDE} pixels a side; 256 or more work best.",
        )
    if width * height > (_LARGEST_JPEG if _is_baseline_jpeg(image) else _LARGEST_DECODED):
        raise BadInput(
            f"{path.name} has {width} x {height} pixels, which is more than can be decoded safely.",
            "Save it at 4096 pixels a side or less; the models see far fewer.",
        )


def _animation_warning(image: Image.Image, path: Path) -> list[str]:
    # An MPO is what phones save for one photograph: its further frames are depth maps and previews.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        image.seek(0)
        return [f"{path.name} holds {getattr(image, 'n_frames', 'several')} pictures; only the first is used."]
    return []


def _to_rgba(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes to 8 bit RGBA."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L", "LA"):
        image = _to_srgb(image, profile)
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16 bit, 32 bit and floating-point grey to RGBA; Pillow's own conversion would clip them to white."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = 1.0 if image.mode == "F" else 65535.0
    top = max(top, float(values.max()))
    rgba = Image.fromarray(np.clip(values / top * 255.0 + 0.5, 0, 255).astype(np.uint8)).convert("RGBA")
    key = image.info.get("transparency")
    if isinstance(key, int):
        rgba.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return rgba


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Phones save Display P3 and printers CMYK; where the profile is unusable the numbers are taken as they are."""
    try:
        alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
        color = image.convert(image.mode[:-1]) if alpha is not None else image
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(color, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    if converted is None:
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def write_png(path: Path | str, pixels: Tensor) -> None:
    """Write [C, H, W] in [0, 1] (C = 1 grey, 3 RGB, 4 RGBA with straight alpha) as an 8 bit PNG, whole.

    Raises BadInput where the file cannot be written.
    """
    picture = to_pillow(pixels)
    with whole_file(Path(path)) as temporary:
        picture.save(temporary, format="PNG", compress_level=4)


def to_pillow(pixels: Tensor) -> Image.Image:
    """[C, H, W] in [0, 1] to an 8 bit Pillow image."""
    values = (pixels.detach().float().cpu().nan_to_num().clamp(0, 1) * 255.0 + 0.5).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).squeeze(-1).contiguous().numpy())


def resize(rgba: Tensor, height: int, width: int) -> Tensor:
    """[4, H, W] straight alpha to [4, height, width]: filtered premultiplied, so no colour bleeds out of the unseen."""
    if tuple(rgba.shape[1:]) == (height, width):
        return rgba
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    resized = torch.nn.functional.interpolate(
        premultiplied[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)
    alpha = resized[3:]
    return torch.cat([(resized[:3] / alpha.clamp_min(1e-4)).clamp(0, 1), alpha])
