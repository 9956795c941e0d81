"""DMV3D as a view generator: text or one picture to four clean posed views (arXiv 2311.09217, sections 3.3 to 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from backend.cameras import orbit, plucker, rays, world_to_camera_opencv
from backend.datatypes import Cameras, Step, Views
from backend.errors import BadInput
from backend.formats.images import resize
from backend.nets.diffusion import ddim_step, log_snr
from backend.nets.dmv3d import Dmv3d, Dmv3dConfig
from backend.render.triplane import render_rays_sparse, sample_planes
from backend.views.picture_reader import Reading, StarterPictureReader
from backend.views.prompts import check_prompt, known_things
from backend.views.signed import from_signed, to_signed
from backend.vocabulary import Vocabulary
from backend.weights import STARTER_PACK, load_checkpoint, load_into

FOV_DEGREES = 50.0
RADIUS = 3.0
AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
ELEVATION = 20.0  # of all four views
PICTURE_FRACTION = 0.66  # of the frame that the larger side of a pictured object takes
RENDER_SAMPLES = 48
LONGEST_SIDE = 1.8  # of an object in the canonical frame
_PROBES = 48  # a side, where an object's extent is sought
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
    """The starter pack's generator. `image_size` is the side of the picture that `generate` takes and of the views that
    it gives; `object_fraction` the share of the picture that the object's larger side should fill."""

    object_fraction = PICTURE_FRACTION

    def __init__(
        self,
        network: Dmv3d,
        vocabulary: Vocabulary,
        device: str = "cpu",
        reader: Callable[[], StarterPictureReader] | None = None,
    ) -> None:
        """reader: loads what reads a picture's kind and camera; without it every picture is taken for a front."""
        self.network = network.to(device).eval()
        self.vocabulary = vocabulary
        self.device = device
        self._load_reader = reader

    @cached_property
    def _reader(self) -> StarterPictureReader | None:
        return self._load_reader() if self._load_reader is not None else None

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu") -> Dmv3dGenerator:
        """Reads a checkpoint, by default the starter pack's; pictures are read by that pack's reader, unless another
        `reader.safetensors` lies beside the checkpoint. Raises MissingWeights."""
        path = path or STARTER_PACK / "dmv3d.safetensors"
        state, metadata = load_checkpoint(path)
        network = Dmv3d(Dmv3dConfig(**metadata["config"]))
        load_into(network, state, path.name)
        reader = path.with_name("reader.safetensors")
        reader = reader if reader.is_file() else STARTER_PACK / reader.name
        return cls(network, Vocabulary(metadata["tokens"]), device, lambda: StarterPictureReader.load(reader, device))

    @classmethod
    def untrained(cls, config: Dmv3dConfig, device: str = "cpu") -> Dmv3dGenerator:
        """With random weights: what it makes means nothing."""
        return cls(Dmv3d(config), Vocabulary(), device)

    @property
    def image_size(self) -> int:
        return 2 * self.network.config.image_size

    def notes(self, prompt: str | None, image: Tensor | None) -> list[str]:
        """What of a prompt is ignored (see `check_prompt`), and whether the picture shows anything that is known."""
        notes = check_prompt(prompt, self.vocabulary, image is not None) if prompt is not None else []
        named = prompt is not None and self.vocabulary.kinds(self.vocabulary.encode(prompt).tokens)
        if image is not None and not named and self.read(image).kind is None:
            known = known_things(self.vocabulary)
            notes.append(f"The picture shows nothing that the starter models know: expect a guess. They know: {known}.")
        return notes

    def _clean_planes(
        self, noisy: Tensor, inputs: tuple[Tensor, ...], time: Tensor, tokens: Tensor, clean: bool
    ) -> Tensor:
        batch = tokens.shape[0]
        expanded = [value.unsqueeze(0).expand(batch, *value.shape) for value in (noisy, *inputs)]
        flags = torch.full((batch,), clean, device=self.device)
        return self.network(*expanded, time.expand(batch), tokens, flags)

    def read(self, picture: Tensor) -> Reading:
        """What a prepared picture [4, S, S] shows and from where. Raises BadInput for another size, MissingWeights."""
        if tuple(picture.shape) != (4, self.image_size, self.image_size):
            wanted = f"[4, {self.image_size}, {self.image_size}]"
            raise BadInput(f"The picture must be {wanted}, not {tuple(picture.shape)}.")
        if self._reader is None:
            return Reading(None, 0.0, 0.0, ELEVATION)
        return self._reader.read(picture)

    def planes_of(self, views: Views, words: list[int]) -> Tensor:
        """[1, 3, H, W, C]: the field that explains four clean views, told in words (`tokens` of the vocabulary)."""
        small = self.network.config.image_size
        pictures = torch.stack([to_signed(self._small(rgba)) for rgba in views.rgba]).to(self.device)
        inputs = tuple(value.to(self.device) for value in camera_inputs(views.cameras.resized(small, small)))
        no_noise = log_snr(torch.zeros(1)).to(self.device)
        return self._clean_planes(pictures, inputs, no_noise, torch.tensor([words], device=self.device), True)

    def _small(self, picture: Tensor) -> Tensor:
        return resize(picture, self.network.config.image_size, self.network.config.image_size)

    def _words(self, prompt: str | None, reading: Reading | None) -> list[int]:
        """The tokens of what was asked for, with the kind that a picture shows where the prompt names none."""
        tokens = self.vocabulary.encode(prompt or "").tokens
        if reading is not None and reading.kind is not None and not self.vocabulary.kinds(tokens):
            tokens = self.vocabulary.encode(f"{reading.kind} {prompt or ''}").tokens
        return tokens if any(tokens) else self.vocabulary.no_text()

    def words(self, caption: str, picture: Tensor) -> list[int]:
        """The tokens of a caption, with the kind that the picture [4, H, W] shows where it names none."""
        reading = self._reader.read(picture) if self._reader is not None else None
        return self._words(caption, reading)

    @torch.inference_mode()
    def generate(
        self,
        prompt: str | None = None,
        image: Tensor | None = None,
        *,
        seed: int = 0,
        steps: int = 25,
        guidance: float = 3.0,
        cameras: Cameras | None = None,
    ) -> Generator[Step, None, Views]:
        """Four views of one object, a quarter turn apart, the first from its front or from where a picture shows it.

        image: [4, S, S] prepared picture, straight RGBA; from where it was taken is read from it, and the view from
        there has its colours. cameras: of the returned views, where others are wanted, and then none has. Yields a Step
        with a preview after each denoising step. Raises BadInput.
        """
        if not prompt and image is None:
            raise BadInput("There is neither a prompt nor a picture.", "Type what to make, or choose a picture.")
        reading = self.read(image) if image is not None else None
        front, elevation = (reading.azimuth, reading.elevation) if reading is not None else (0.0, ELEVATION)
        small, azimuths = self.network.config.image_size, [front + turn for turn in AZIMUTHS]
        seen_by = orbit(azimuths, elevation, RADIUS, FOV_DEGREES, small)
        inputs = tuple(value.to(self.device) for value in camera_inputs(seen_by))
        words = self._words(prompt, reading)
        guided = words != self.vocabulary.no_text() and guidance != 1.0
        tokens = torch.tensor([words, self.vocabulary.no_text()] if guided else [words], device=self.device)
        message = "Imagining the object from four sides" if reading is None else f"Imagining the {reading}"

        source = torch.Generator().manual_seed(seed)
        noisy = torch.randn(4, 4, small, small, generator=source).to(self.device)
        picture = to_signed(self._small(image).to(self.device)) if image is not None else None
        times = log_snr(torch.linspace(1.0, 0.0, steps + 1)).to(self.device)
        planes = noisy.new_zeros(1)
        for step in range(steps):
            if picture is not None:
                noisy[0] = picture
            both = self._clean_planes(noisy, inputs, times[step], tokens, picture is not None)
            planes = both[:1]
            clean = render_planes(self.network, planes, seen_by)
            if guided:
                without = render_planes(self.network, both[1:], seen_by)
                clean = (without + guidance * (clean - without)).clamp(-1, 1)
            fresh = torch.randn(noisy.shape, generator=source).to(self.device)
            noisy = ddim_step(noisy, clean, times[step], times[step + 1], ETA, fresh)
            yield Step(step + 1, steps, message, from_signed(clean).cpu())
        # The hidden sides are best seen from a little above, wherever the picture was taken from.
        heights = [elevation, ELEVATION, ELEVATION, ELEVATION]
        final = cameras or orbit(azimuths, heights, RADIUS, FOV_DEGREES, self.image_size)
        seen = final if cameras is not None or image is not None else self._fitting(planes, final)
        rgba = from_signed(render_planes(self.network, planes, seen, 2 * RENDER_SAMPLES)).cpu()
        if image is not None and cameras is None:
            rgba[0] = with_colors_of(image, rgba[0])
        return Views(rgba, final)

    def _fitting(self, planes: Tensor, cameras: Cameras) -> Cameras:
        """The cameras moved so that they see the object as if it were centred and of the canonical size: imagined ones
        are now and then larger than any that was learnt from, and would leave the frames."""
        ticks = (torch.arange(_PROBES, device=planes.device) + 0.5) / _PROBES * 2 - 1
        points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(1, -1, 3)
        inside = points[0][self.network.decode(sample_planes(planes, points))[0, :, 0] > 0]
        if len(inside) < 8:
            return cameras
        low, high = inside.amin(0).cpu(), inside.amax(0).cpu()
        pose = cameras.camera_to_world.clone()
        pose[:, :3, 3] = pose[:, :3, 3] * (float((high - low).max()) / LONGEST_SIDE) + (low + high) / 2
        return Cameras(pose, cameras.intrinsics, cameras.width, cameras.height)


def with_colors_of(picture: Tensor, view: Tensor) -> Tensor:
    """A view [4, H, W] with the colours of a picture [4, H, W] from the same place, where that shows the object too."""
    share = picture[3:]
    return torch.cat([view[:3] + share * (picture[:3] - view[:3]), view[3:]])
