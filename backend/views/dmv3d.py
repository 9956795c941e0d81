"""DMV3D as a view generator: text or one picture to four clean posed views (arXiv 2311.09217, sections 3.3 to 3.5)."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from backend.cameras import orbit, plucker, rays, world_to_camera_opencv
from backend.datatypes import Cameras, Step, Views
from backend.errors import BadInput
from backend.nets.diffusion import ddim_step, log_snr
from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.render.triplane import render_rays_sparse
from backend.views.prompts import check_prompt
from backend.views.signed import from_signed, to_signed
from backend.vocabulary import Vocabulary
from backend.weights import STARTER_PACK, load_checkpoint, load_into

FOV_DEGREES = 50.0
RADIUS = 3.0
AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
ELEVATION = 20.0  # of all four views, also assumed of a user's picture
PICTURE_FRACTION = 0.66  # of the frame that the larger side of a pictured object takes
RENDER_SAMPLES = 48
# Of DDIM. Deterministic steps keep what the first blurred guesses got wrong; fresh noise lets later ones mend it.
ETA = 1.0


def camera_inputs(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """What the network wants of V cameras: rays [V, 6, H, W], world_to_camera [V, 4, 4] with OpenCV axes, and
    intrinsics [V, 3, 3] for images of the unit square."""
    return plucker(cameras), world_to_camera_opencv(cameras), cameras.resized(1, 1).intrinsics


def render_planes(network: Dmv3d, planes: Tensor, cameras: Cameras, samples: int = RENDER_SAMPLES) -> Tensor:
    """[V, 4, H, W] signed pictures of one object's planes [1, 3, H', W', C]."""
    origins, directions = rays(cameras)
    flat = render_rays_sparse(planes, network.decode, origins.reshape(-1, 3), directions.reshape(-1, 3), samples)
    pictures = flat.reshape(len(cameras), cameras.height, cameras.width, 4).permute(0, 3, 1, 2)
    return torch.cat([pictures[:, :3], 2 * pictures[:, 3:] - 1], 1)


class Dmv3dGenerator:
    """The starter pack's generator. `image_size` is the side of the picture that `generate` takes, `object_fraction`
    the share of it that the object's larger side should fill."""

    object_fraction = PICTURE_FRACTION

    def __init__(self, network: Dmv3d, vocabulary: Vocabulary, device: str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.vocabulary = vocabulary
        self.device = device

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu") -> Dmv3dGenerator:
        """Reads a checkpoint, by default the starter pack's. Raises MissingWeights."""
        path = path or STARTER_PACK / "dmv3d.safetensors"
        state, metadata = load_checkpoint(path)
        network = Dmv3d(Dmv3dConfig(**metadata["config"]))
        load_into(network, state, path.name)
        return cls(network, Vocabulary(metadata["tokens"]), device)

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that mean nothing to this model."""
        return self.vocabulary.encode(prompt).unknown

    def prompt_notes(self, prompt: str, pictured: bool) -> list[str]:
        """See `check_prompt`."""
        return check_prompt(prompt, self.vocabulary, pictured)

    def _clean_planes(
        self, noisy: Tensor, inputs: tuple[Tensor, ...], time: Tensor, tokens: Tensor, clean: bool
    ) -> Tensor:
        batch = tokens.shape[0]
        expanded = [value.unsqueeze(0).expand(batch, *value.shape) for value in (noisy, *inputs)]
        flags = torch.full((batch,), clean, device=self.device)
        return self.network(*expanded, time.expand(batch), tokens, flags)

    @torch.inference_mode()
    def generate(
        self,
        prompt: str | None = None,
        image: Tensor | None = None,
        *,
        seed: int = 0,
        steps: int = 25,
        guidance: float = 3.0,
        size: int | None = None,
        elevation: float = ELEVATION,
    ) -> Generator[Step, None, Views]:
        """Four views at azimuth 0, 90, 180 and 270 of one object.

        image: [4, S, S] prepared picture, straight RGBA; it becomes the front. size: side of the returned views, by
        default twice the network's. Yields a Step with a preview after each denoising step. Raises BadInput.
        """
        if not prompt and image is None:
            raise BadInput("There is neither a prompt nor a picture.", "Type what to make, or choose a picture.")
        cameras = orbit(list(AZIMUTHS), elevation, RADIUS, FOV_DEGREES, self.image_size)
        inputs = tuple(value.to(self.device) for value in camera_inputs(cameras))
        encoding = self.vocabulary.encode(prompt or "")
        spoken = encoding.known > 0
        words = encoding.tokens if spoken else self.vocabulary.no_text()
        guided = spoken and guidance != 1.0
        tokens = torch.tensor([words, self.vocabulary.no_text()] if guided else [words], device=self.device)

        source = torch.Generator().manual_seed(seed)
        noisy = torch.randn(4, 4, self.image_size, self.image_size, generator=source).to(self.device)
        picture = None
        if image is not None:
            if tuple(image.shape) != (4, self.image_size, self.image_size):
                raise BadInput(
                    f"The picture must be [4, {self.image_size}, {self.image_size}], not {tuple(image.shape)}."
                )
            picture = to_signed(image.to(self.device))
        times = log_snr(torch.linspace(1.0, 0.0, steps + 1)).to(self.device)
        planes = noisy.new_zeros(1)
        for step in range(steps):
            if picture is not None:
                noisy[0] = picture
            both = self._clean_planes(noisy, inputs, times[step], tokens, picture is not None)
            planes = both[:1]
            clean = render_planes(self.network, planes, cameras)
            if guided:
                without = render_planes(self.network, both[1:], cameras)
                clean = (without + guidance * (clean - without)).clamp(-1, 1)
            fresh = torch.randn(noisy.shape, generator=source).to(self.device)
            noisy = ddim_step(noisy, clean, times[step], times[step + 1], ETA, fresh)
            yield Step(step + 1, steps, "Imagining the object from four sides", from_signed(clean).cpu())
        final = cameras.resized(size or 2 * self.image_size, size or 2 * self.image_size)
        rgba = from_signed(render_planes(self.network, planes, final, 2 * RENDER_SAMPLES)).cpu()
        return Views(rgba, final)
