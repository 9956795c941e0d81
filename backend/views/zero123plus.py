"""Zero123++ as a view generator: one picture to six views, of which the reconstructors' papers use all or four.

Azimuths count from the picture's view, which is the canonical front; elevations are absolute. The released pipelines
disagree in distance and lens (see `Zero123PlusGenerator`), as each reconstructor was shown the views differently.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.cameras import orbit
from backend.datatypes import Step, Views
from backend.device import inference_dtype
from backend.memory import NEEDS
from backend.views.folders import (
    DIFFUSERS,
    INDEX,
    TRANSFORMERS,
    broken,
    check_libraries,
    check_unet,
    load_part,
    read_json,
    weights_file,
)
from backend.views.generated import (
    checked_latents,
    checked_picture,
    cut_from_background,
    cut_from_white,
    filling_radius,
    latent_preview,
)
from backend.views.residence import Residence
from backend.weights import load_network

if TYPE_CHECKING:
    from backend.nets.zero123plus import Zero123Plus

AZIMUTHS = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)
GREY, WHITE = 127 / 255, 1.0  # what the picture is put on: as the weights were trained
FOUR = (0, 2, 4, 5)  # the views that GRM was trained on
_PAINTED_GAIN = 1.6  # of the decoder's pictures


@dataclass(frozen=True)
class Version:
    """What differs between the releases. fraction: of its picture that the object's larger side fills."""

    name: str
    elevations: tuple[float, ...]
    fov_degrees: float
    fraction: float


V1_1 = Version("v1.1", (30.0, -20.0) * 3, 49.1343, 0.8)
V1_2 = Version("v1.2", (20.0, -10.0) * 3, 30.0, 0.9)
VERSIONS = {version.name: version for version in (V1_1, V1_2)}


@dataclass(frozen=True)
class PictureSettings:
    """How an encoder wants its picture: side in pixels, mean and deviation a channel, Pillow's filter."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PictureSettings:
        """Of a preprocessor_config.json. Raises KeyError, TypeError and ValueError where it makes no sense."""
        size = fields["crop_size"]
        side = int(size["height"] if isinstance(size, dict) else size)
        resample = int(Image.Resampling(fields["resample"]))
        if not 8 <= side <= 4096:
            raise ValueError("no such size")
        mean, std = (tuple(float(value) for value in fields[f"image_{name}"]) for name in ("mean", "std"))
        return cls(side, mean, std, resample)

    def __call__(self, rgb: Tensor) -> Tensor:
        """[1, 3, size, size] of a square picture rgb [3, S, S] in [0, 1].

        By Pillow, which rounds to whole levels between its passes: no tensor library's filter gives the same numbers.
        """
        picture = Image.fromarray((rgb * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        levels = np.asarray(picture.resize((self.size, self.size), Image.Resampling(self.resample)), dtype=np.float32)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((torch.from_numpy(levels).permute(2, 0, 1) / 255 - mean) / std)[None]


FOR_VAE = PictureSettings(512, (0.5,) * 3, (0.8,) * 3, 2)
FOR_CLIP = PictureSettings(224, (0.4814547, 0.4578275, 0.4082107), (0.2686295, 0.2613026, 0.2757771), 3)


class Zero123PlusGenerator:
    """A Zero123++ on a device.

    background: that its weights know. views: which of the six to give, in this order. fov_degrees: of the lens that the
    reconstructor is told of (by default the version's own); radius: how far its cameras stand (by default so that what
    fills as much of a view as of the picture has the canonical size); object_fraction: of the picture. further_packs:
    names of the weights that took part beside the folder's, for the report.
    """

    further_packs: tuple[str, ...] = ()

    def __init__(
        self,
        model: Zero123Plus,
        scheduler: Any,
        version: Version = V1_2,
        *,
        for_vae: PictureSettings = FOR_VAE,
        for_clip: PictureSettings = FOR_CLIP,
        background: float = GREY,
        views: Sequence[int] = tuple(range(6)),
        fov_degrees: float | None = None,
        radius: float | None = None,
        object_fraction: float | None = None,
        device: str = "cpu",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        parts = {name: getattr(model, name) for name in ("vision_encoder", "unet", "vae")}
        beside = NEEDS[f"zero123plus-{version.name}"].beside(model.unet.dtype.itemsize)
        self.residence = Residence(parts, device, beside)
        if device != "mps":  # whose kernels do not know the layout
            for network in (model.unet, model.vae):
                network.to(memory_format=torch.channels_last)
        self.scheduler, self.version, self.device = scheduler, version, device
        self.for_vae, self.for_clip, self.background = for_vae, for_clip, background
        self.views = tuple(views)
        self.fov_degrees = fov_degrees or version.fov_degrees
        self.object_fraction = object_fraction or version.fraction
        self.radius = radius or filling_radius(self.fov_degrees, self.object_fraction)

    @classmethod
    def load(
        cls,
        folder: Path,
        version: Version = V1_2,
        device: str = "cpu",
        white_unet: Path | None = None,
        tile: int = 320,
        **options: Any,
    ) -> Zero123PlusGenerator:
        """Reads a folder as published. white_unet: a .safetensors file of InstantMesh's U-Net, which knows a white
        background, to take the place of the folder's; tile: the views' side, of which the weights know but one;
        options: of the class.

        Raises MissingWeights where a file is absent, damaged or of another model, BadInput where a library is.
        """
        check_libraries()
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPVisionModelWithProjection

        from backend.nets.zero123plus import Zero123Plus, encode_empty_prompt

        dtype = inference_dtype(device, torch.float16)
        ramp = _ramp(folder)
        scheduler = _scheduler(folder)
        settings = [_settings(folder, f"feature_extractor_{name}") for name in ("vae", "clip")]
        with torch.inference_mode():
            empty = encode_empty_prompt(load_part(CLIPTextModel, folder, "text_encoder", torch.float32))
        unet = load_part(UNet2DConditionModel, folder, "unet", dtype)
        if white_unet is not None:
            load_network(unet, white_unet)
        vae = load_part(AutoencoderKL, folder, "vae", _vae_dtype(dtype))
        vision = load_part(CLIPVisionModelWithProjection, folder, "vision_encoder", dtype)
        if len(ramp) != empty.shape[1]:
            raise broken(folder, f"{INDEX} has {len(ramp)} ramping_coefficients instead of {empty.shape[1]}")
        model = Zero123Plus(unet, vae, vision, empty.clone(), torch.tensor(ramp), tile)
        options = {"for_vae": settings[0], "for_clip": settings[1], **options}
        if white_unet is not None:
            options = {"background": WHITE, **options}
        return cls(model, scheduler, version, device=device, **options)

    @classmethod
    def untrained(
        cls,
        version: Version = V1_2,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        tile: int = 320,
        components: dict[str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> Zero123PlusGenerator:
        """Random weights, by default at the published sizes: for trying the way of a job, never for a result."""
        check_libraries()
        from diffusers import EulerAncestralDiscreteScheduler
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        from backend.nets.clip import picture_encoder
        from backend.nets.zero123plus import Zero123Plus
        from backend.nets.zero123plus_config import COMPONENTS, SCHEDULER

        dtype, sizes = dtype or inference_dtype(device, torch.float16), components or COMPONENTS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(**sizes["unet"]).to(dtype)
            vae = AutoencoderKL(**sizes["vae"]).to(_vae_dtype(dtype))
            vision = picture_encoder(sizes["vision_encoder"]).to(dtype)
            empty = torch.randn(1, 77, sizes["unet"]["cross_attention_dim"])
        model = Zero123Plus(unet, vae, vision, empty, torch.linspace(0, 1, 77), tile)
        scheduler = EulerAncestralDiscreteScheduler.from_config(SCHEDULER, timestep_spacing="trailing")
        return cls(model, scheduler, version, device=device, **options)

    @property
    def image_size(self) -> int:
        return self.for_vae.size

    def notes(self, prompt: str | None, image: Tensor | None) -> list[str]:
        """What of a prompt is ignored: all."""
        return ["Zero123++ goes by the picture alone: the words are ignored."] if prompt else []

    def over_background(self, image: Tensor) -> Tensor:
        """[3, S, S]: an RGBA picture [4, S, S] on the background that the weights know, in whole levels."""
        rgb = image[:3] * image[3:] + (1 - image[3:]) * self.background
        return (rgb * 255).round() / 255

    @torch.inference_mode()
    def generate(
        self,
        prompt: str | None = None,
        image: Tensor | None = None,
        *,
        seed: int = 0,
        steps: int = 75,
        guidance: float = 4.0,
    ) -> Generator[Step, None, Views]:
        """Views of the object in a prepared picture [4, S, S], straight RGBA.

        Yields a Step with a preview after each denoising step. The same seed gives the same noise on every device.
        Raises BadInput without a picture, or where it is no prepared one.
        """
        image = checked_picture(image, "Zero123++")
        self.residence.enter()
        chance = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=chance)

        from backend.nets.zero123plus import cut_grid

        rgb = self.over_background(image)
        pixels, small = (settings(rgb).to(self.device) for settings in (self.for_vae, self.for_clip))
        condition = self.model.condition(pixels, small, draw)
        self.scheduler.set_timesteps(steps)
        total = steps + 1 + len(self.views)
        message = "Imagining the object from six sides"
        walk = self.model.sample(condition, self.scheduler.sigmas, self.scheduler.timesteps, guidance, draw)
        done = 0
        while True:
            try:
                clean = next(walk)
            except StopIteration as end:
                latents = checked_latents(end.value)
                break
            done += 1
            yield Step(done, total, message, latent_preview(cut_grid(clean[0]), _PAINTED_GAIN))
        painted = self.model.decode(latents)[list(self.views)].cpu()
        yield Step(done + 1, total, "Painting the views")
        cut, cut_out = [], cut_from_white if self.background == WHITE else cut_from_background
        for index, picture in enumerate(painted):
            cut.append(cut_out(picture))
            yield Step(done + 2 + index, total, "Cutting out the views")
        azimuths, elevations = ([of[view] for view in self.views] for of in (AZIMUTHS, self.version.elevations))
        cameras = orbit(azimuths, torch.tensor(elevations), self.radius, self.fov_degrees, painted.shape[-1])
        return Views(torch.stack(cut), cameras)


def check_folder(folder: Path) -> None:
    """Whether all files are there and whole, and the U-Net is of the shape that its config says: without reading more
    than their heads. Raises MissingWeights."""
    _ramp(folder)
    _scheduler(folder)
    for name in ("vae", "clip"):
        _settings(folder, f"feature_extractor_{name}")
    for part, stem in (("vae", DIFFUSERS), ("text_encoder", TRANSFORMERS), ("vision_encoder", TRANSFORMERS)):
        read_json(folder, f"{part}/config.json")
        weights_file(folder, part, stem)
    check_unet(folder)


def _vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """bf16 has too few digits for colours; the autoencoder is small."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _ramp(folder: Path) -> list[float]:
    """The 77 numbers of model_index.json. Raises MissingWeights."""
    ramp = read_json(folder, INDEX).get("ramping_coefficients")
    if not isinstance(ramp, list) or not all(isinstance(value, int | float) for value in ramp):
        raise broken(folder, f"{INDEX} lacks the ramping_coefficients")
    return [float(value) for value in ramp]


def _scheduler(folder: Path) -> Any:
    """The noise schedule, at the steps that the released examples take: its file names others."""
    from diffusers import EulerAncestralDiscreteScheduler

    name = "scheduler/scheduler_config.json"
    config = read_json(folder, name)
    if config.get("prediction_type") != "v_prediction":
        raise broken(folder, f"{name} does not have the prediction_type v_prediction")
    try:
        return EulerAncestralDiscreteScheduler.from_config(config, timestep_spacing="trailing")
    except Exception as error:  # whatever a strange value leads to
        raise broken(folder, f"{name} makes no sense: {str(error)[:200]}") from error


def _settings(folder: Path, part: str) -> PictureSettings:
    name = f"{part}/preprocessor_config.json"
    fields = read_json(folder, name)
    try:
        return PictureSettings.from_json(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise broken(folder, f"{name} makes no sense ({type(error).__name__}: {str(error)[:100]})") from error
