"""SV3D as a view generator: one picture to a video around the object, of which a reconstructor gets all frames or some.

The picture's view is the canonical front and the video's last frame; azimuths count from it. `sv3d_p` makes frames at
any elevations and azimuths that rise; `sv3d_u` makes an even ring at the height of the picture's own camera.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import Step, Views
from backend.device import inference_dtype
from backend.errors import BadInput
from backend.memory import NEEDS
from backend.views.folders import check_libraries
from backend.views.generated import checked_latents, checked_picture, cut_from_white, filling_radius, latent_preview
from backend.views.residence import Residence

if TYPE_CHECKING:
    from backend.nets.sv3d import Sv3d

FRAMES = 21
SIZE = 576
FRACTION = 0.85  # of its picture that the object's larger side fills
FOV_DEGREES = 33.8


@dataclass(frozen=True)
class Way:
    """Where the camera goes. azimuths [21] in degrees from the picture's view, rising, the last one 360; elevation in
    degrees above the object; frames: those that the reconstructor gets."""

    azimuths: tuple[float, ...]
    elevation: float
    frames: tuple[int, ...]


EVEN = Way(tuple(360 * (frame + 1) / FRAMES for frame in range(FRAMES)), 10.0, tuple(range(FRAMES)))
# As GRM's authors ask for them: the four frames are a quarter turn apart, the first 10 degrees from the picture's view.
FOUR = Way(
    (10, 20, 40, 60, 100, 120, 140, 160, 190, 210, 230, 250, 280, 290, 300, 310, 320, 330, 340, 350, 360),
    20.0,
    (0, 4, 8, 12),
)
WAYS = {"even": EVEN, "four": FOUR}


class Sv3dGenerator:
    """An SV3D on a device.

    fov_degrees: of the lens that the reconstructor is told of; radius: how far its cameras stand (by default so that
    what fills as much of a view as of the picture has the canonical size); size: of a frame, of which the weights know
    but one.
    """

    object_fraction = FRACTION

    def __init__(
        self,
        model: Sv3d,
        way: Way = EVEN,
        *,
        fov_degrees: float = FOV_DEGREES,
        radius: float | None = None,
        size: int = SIZE,
        device: str = "cpu",
    ) -> None:
        if model.variant == "u" and way.azimuths != EVEN.azimuths:
            raise BadInput("These are the weights of sv3d_u, which makes even rings only.", "Get those of sv3d_p.")
        self.model = model.eval().requires_grad_(False)
        parts = {name: getattr(model, name) for name in ("vision_encoder", "unet", "vae")}
        beside = NEEDS[f"sv3d-{model.variant}"].beside(model.unet.dtype.itemsize)
        self.residence = Residence(parts, device, beside)
        self.way, self.fov_degrees, self.size, self.device = way, fov_degrees, size, device
        self.radius = radius or filling_radius(fov_degrees, FRACTION)

    @classmethod
    def load(cls, path: Path, way: Way = EVEN, device: str = "cpu", **options: Any) -> Sv3dGenerator:
        """Reads the file as published. options: of the class.

        Raises MissingWeights where it is absent, damaged or of another model, BadInput where a library is not there.
        """
        check_libraries()
        from backend.views.sv3d_file import load_sv3d

        return cls(load_sv3d(path, inference_dtype(device, torch.float16)), way, device=device, **options)

    @classmethod
    def untrained(
        cls,
        way: Way = EVEN,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        config: dict[str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> Sv3dGenerator:
        """Random weights, by default at the published sizes: for trying the way of a job, never for a result."""
        check_libraries()
        from backend.nets.sv3d import Sv3d, build, published_config

        dtype = dtype or inference_dtype(device, torch.float16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = build(config or published_config("p"))
        for name in ("unet", "vision_encoder"):
            networks[name] = networks[name].to(dtype)
        return cls(Sv3d(**networks), way, device=device, **options)

    @property
    def image_size(self) -> int:
        return self.size

    def notes(self, prompt: str | None, image: Tensor | None) -> list[str]:
        """What of a prompt is ignored: all."""
        return ["SV3D goes by the picture alone: the words are ignored."] if prompt else []

    @torch.inference_mode()
    def generate(
        self,
        prompt: str | None = None,
        image: Tensor | None = None,
        *,
        seed: int = 0,
        steps: int = 50,
        guidance: float = 2.5,
    ) -> Generator[Step, None, Views]:
        """Views of the object in a prepared picture [4, S, S], straight RGBA, S a multiple of 64.

        guidance: of the middle frame. Yields a Step with a preview after each denoising step. The same seed gives the
        same noise on every device. Raises BadInput without a prepared picture, and for a single step.
        """
        image = checked_picture(image, "SV3D", multiple=64)
        if steps < 2:
            raise BadInput("SV3D needs two steps or more.", "Ask for more steps; 50 are usual.")
        from backend.nets.sv3d import guidance_scales, noise_levels

        self.residence.enter()
        chance = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=chance)

        rgb = image[:3] * image[3:] + (1 - image[3:])
        # To whole levels, downwards, as the released code does.
        signed = ((rgb * 255 + 1e-3).floor() / 255 * 2 - 1)[None].to(self.device)
        elevations = [self.way.elevation] * FRAMES
        condition = self.model.condition(signed, elevations, self.way.azimuths, draw)
        walk = self.model.sample(condition, noise_levels(steps), guidance_scales(guidance), draw)
        chosen = list(self.way.frames)
        total, done, message = steps + 2 * len(chosen), 0, "Imagining the way around the object"
        while True:
            try:
                clean = next(walk)
            except StopIteration as end:
                latents = checked_latents(end.value)
                break
            done += 1
            yield Step(done, total, message, latent_preview(clean[chosen]))
        views = []
        for frame in chosen:
            # The last frame is the picture itself.
            painted = signed if frame == FRAMES - 1 else self.model.decode(latents[[frame]])
            done += 1
            yield Step(done, total, "Painting the views")
            views.append(cut_from_white((painted[0].cpu() / 2 + 0.5).clamp(0, 1)))
            done += 1
            yield Step(done, total, "Painting the views")
        azimuths = [self.way.azimuths[frame] % 360 for frame in chosen]
        cameras = orbit(azimuths, self.way.elevation, self.radius, self.fov_degrees, image.shape[-1])
        return Views(torch.stack(views), cameras)
