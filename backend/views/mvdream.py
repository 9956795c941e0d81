"""MVDream (arXiv 2308.16512) and ImageDream (arXiv 2312.02201) as view generators: words or a picture to four posed
views, framed as LGM wants them.

The models' azimuth 90 shows the front: LGM takes their views in the order 1, 2, 3, 0. They paint a plain background,
which is cut away here. Where ours stand is where published LGM's do: 2.46 from an object of the canonical size.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import Step, Views
from backend.device import inference_dtype
from backend.errors import BadInput
from backend.formats.images import resize
from backend.memory import NEEDS
from backend.views.generated import cut_from_background, cut_from_white, latent_preview
from backend.views.mvdream_loading import load_pipeline
from backend.views.mvdream_pipeline import MOST_STEPS, VIEWS, MultiViewPipeline
from backend.views.picture import object_bounds
from backend.views.residence import Residence

RADIUS, FOV_DEGREES = 2.46, 49.1
ELEVATION = 0.0  # of all four views
OBJECT_FRACTION = 0.8  # of a picture that the object's larger side takes, before and after
PICTURE_SIDE = 512  # what CLIP sees is reduced from this
ORDER = [1, 2, 3, 0]
# The released demonstration's, for words alone; with a picture its negative is empty.
NEGATIVE_PROMPT = (
    "ugly, blurry, pixelated obscure, unnatural colors, poor lighting, dull, unclear, cropped, lowres, low quality, "
    "artifacts, duplicate"
)


class MultiViewGenerator:
    """Either model; which one, the pipeline knows. `image_size` and `object_fraction` as recipes.ViewGenerator says."""

    object_fraction = OBJECT_FRACTION
    image_size = PICTURE_SIDE

    def __init__(self, pipeline: MultiViewPipeline, device: str = "cpu") -> None:
        self.pipeline = pipeline
        if device == "cuda":  # where convolutions are quicker so; a CPU gains nothing and sums more coarsely
            for module in (pipeline.unet, pipeline.vae):
                module.to(memory_format=torch.channels_last)
        pipeline.home = torch.device(device)
        modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
        need = NEEDS["imagedream" if pipeline.pictured else "mvdream"]
        self.residence = Residence(modules, device, need.beside(pipeline.unet.dtype.itemsize))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", pictured: bool | None = None) -> MultiViewGenerator:
        """A folder as published. pictured: whether it has to be ImageDream's or MVDream's; None takes either.

        Raises MissingWeights where something is missing, damaged or of another shape.
        """
        return cls(load_pipeline(folder, inference_dtype(device, torch.float16), pictured), device)

    @classmethod
    def untrained(cls, pictured: bool, device: str = "cpu") -> MultiViewGenerator:
        """At full size with random weights: for trying and measuring the way, never for a result."""
        from backend.views.mvdream_untrained import FULL, untrained_pipeline

        return cls(untrained_pipeline(pictured, FULL, inference_dtype(device, torch.float16)), device)

    def notes(self, prompt: str | None, image: Tensor | None) -> list[str]:
        """Warns of words beyond what the text encoder reads."""
        ignored = self.pipeline.ignored_words(prompt or "")
        return [f"The prompt is longer than the model can take in; ignored: '{ignored[:80]}'."] if ignored else []

    def generate(
        self,
        prompt: str | None = None,
        image: Tensor | None = None,
        *,
        seed: int = 0,
        steps: int = 30,
        guidance: float = 7.5,
        elevation: float = ELEVATION,
    ) -> Generator[Step, None, Views]:
        """Four views at azimuth 0, 90, 180 and 270 of one object.

        image: [4, S, S] prepared picture, straight RGBA, for ImageDream. elevation: of the views' cameras, in degrees,
        positive above. Yields a Step with a preview after each denoising step; cancelled by closing. Raises BadInput.
        """
        self._check(prompt, image, steps)
        self.residence.enter()
        size = self.pipeline.size
        rgb = None if image is None else image[:3] * image[3:] + (1 - image[3:])
        walk = self.pipeline.walk(
            prompt or "", rgb, negative_prompt=NEGATIVE_PROMPT if image is None else "", steps=steps,
            guidance=guidance, elevation=elevation, seed=seed,
        )  # fmt: skip
        try:
            while True:
                try:
                    index, _, clean = next(walk)
                except StopIteration as end:
                    pictures = end.value
                    break
                # The last step's pictures are not decoded yet: the stage is not over.
                yield Step(index + 1, steps + 1, "Imagining the object from four sides", latent_preview(clean[ORDER]))
        finally:
            walk.close()
        if image is None:
            rgba = framed(torch.stack([cut_from_background(picture) for picture in pictures[ORDER]]))
        else:  # before white, in the frame of the picture: LGM sees what was painted, as it was
            rgba = torch.stack([cut_from_white(picture) for picture in pictures[ORDER]])
        yield Step(steps + 1, steps + 1, "Cutting the views out", rgba)
        cameras = orbit([360.0 / VIEWS * index for index in range(VIEWS)], elevation, RADIUS, FOV_DEGREES, size)
        return Views(rgba, cameras)

    def _check(self, prompt: str | None, image: Tensor | None, steps: int) -> None:
        if not prompt and image is None:
            raise BadInput("There is neither a prompt nor a picture.", "Type what to make, or choose a picture.")
        if (image is not None) != self.pipeline.pictured:
            wants, other = ("a picture", "MVDream") if self.pipeline.pictured else ("words only", "ImageDream")
            raise BadInput(f"This model takes {wants}.", f"Use {other}.")
        if image is not None and (image.ndim != 3 or image.shape[0] != 4 or image.shape[1] != image.shape[2]):
            raise BadInput(f"The picture must be [4, S, S], not {tuple(image.shape)}.", "Prepare it first.")
        if not 1 <= steps <= MOST_STEPS:
            raise BadInput(f"The model samples in 1 to {MOST_STEPS} steps, not {steps}.", "Ask for about 30.")


def framed(rgba: Tensor) -> Tensor:
    """Views [V, 4, S, S], each object moved to the middle and all scaled alike, so that the largest takes its share.

    The released demonstration scales each view by itself, which makes a long object taller from the front than from
    the side. Where a view kept its background, nothing is moved.
    """
    size = rgba.shape[-1]
    if bool((rgba[:, 3] > 0.99).all((1, 2)).any()):
        return rgba
    bounds = [object_bounds(view[3]) for view in rgba]
    scale = OBJECT_FRACTION * size / max(max(bottom - top, right - left) for top, bottom, left, right in bounds)
    result = torch.zeros_like(rgba)
    for view, (top, bottom, left, right), target in zip(rgba, bounds, result, strict=True):
        height, width = (max(1, min(size, round(scale * length))) for length in (bottom - top, right - left))
        above, before = (size - height) // 2, (size - width) // 2
        moved = resize(view[:, top:bottom, left:right], height, width)
        target[:, above : above + height, before : before + width] = moved
    return result
