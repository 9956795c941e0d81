"""Cutting an object out of any picture with a network that others trained, where its file is on this machine.

BiRefNet, IS-Net and U^2-Net are published as ONNX files, which onnxruntime computes: an optional package that asks no
network. rembg runs the same files, but fetches by itself what it does not find and brings four packages along; so
the files are in the register of weights here, with size, licence and hash, and rembg's own can be imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.errors import MissingWeights, OutOfMemory
from backend.packs import PUBLISHED
from backend.views.matting import Matte, colors_from_within, without_specks

PACK = PUBLISHED["matting"]
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class _Preparation:
    """side: of the square that the picture is squeezed to; colours are taken less `mean` and by `deviation`.

    logits: the network gives logits of alpha; else saliency, whose least and largest values mean 0 and 1.
    """

    side: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    logits: bool


_BIREFNET = _Preparation(1024, *_IMAGENET, logits=True)
_PREPARATIONS = {  # by the names under which the files are published; all else is taken as BiRefNet's
    "isnet-general-use.onnx": _Preparation(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), logits=False),
    "u2net.onnx": _Preparation(320, *_IMAGENET, logits=False),
}


def matting_model() -> Path | None:
    """The file of the network, where it was downloaded or imported."""
    return PACK.path if PACK.present else None


def runtime_installed() -> bool:
    """Whether the package is there that computes such files."""
    return importlib.util.find_spec("onnxruntime") is not None


def model_matte(rgb: np.ndarray, path: Path) -> Matte | None:
    """The matte of what stands out to the network in `path`, or None where nothing does. rgb: [H, W, 3] in [0, 1].

    Raises MissingWeights for a file that is damaged or no such network, OutOfMemory where the memory does not suffice.
    """
    preparation = _PREPARATIONS.get(path.name, _BIREFNET)
    height, width = rgb.shape[:2]
    squeezed = _resized(torch.from_numpy(rgb).permute(2, 0, 1), preparation.side, preparation.side)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.deviation))
    values = torch.from_numpy(_computed(path, ((squeezed - mean) / deviation)[None].numpy())).float()
    if preparation.logits:
        values = values.sigmoid()
    else:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low).clamp_min(1e-6)
    alpha = _resized(values[None], height, width)[0].clamp(0, 1).numpy()
    alpha = alpha * without_specks(alpha > 0.1)
    if (alpha > 0.5).mean() < 0.002:
        return None
    return Matte(alpha, colors_from_within(rgb, alpha), plain=False)


def _computed(path: Path, picture: np.ndarray) -> np.ndarray:
    """[h, w], the first output of the network for a picture [1, 3, h, w]."""
    try:
        session = _session(path, path.stat().st_mtime_ns)
        (first, *_) = session.run(None, {session.get_inputs()[0].name: picture.astype(np.float32)})
        return np.asarray(first, np.float32).reshape(first.shape[-2:])
    except Exception as error:  # the library's, which share no class
        if isinstance(error, MemoryError) or "alloc" in str(error).lower():
            raise OutOfMemory(
                "The memory was too small for cutting the object out of the picture.",
                f"Close other programs, or use a cut-out with transparency; without {path} a simpler way is taken.",
            ) from error
        raise MissingWeights(
            f"The weights {path.name} are damaged, or no network that cuts objects out ({str(error)[:120]}).",
            f"Get them again ('weights download {PACK.name}'), or delete {PACK.folder}: a simpler way is taken then.",
        ) from error


def forget() -> None:
    """Let go of the network, which stays loaded from picture to picture."""
    _session.cache_clear()


@lru_cache(maxsize=1)
def _session(path: Path, modified: int) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # what a picture took is given back: the networks after it need the room
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[C, h, w] to [C, height, width]."""
    return torch.nn.functional.interpolate(
        pixels[None].float(), (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
