"""Gaussians fitted to posed pictures: the optimisation of 3D Gaussian splatting (arXiv 2308.04079) in few steps.

From a network's Gaussians or from nothing. What differs from the paper follows from the few steps: colours instead of
spherical harmonics, larger rates, density control on an even schedule (see optimise_density), a start where the
silhouettes and the colours of the views agree, or else one mild opacity reset, and discs rather than balls. Where
pictures have alpha, the background is drawn anew in each step, as nothing else keeps colour out of what is empty, and
alpha itself is compared too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians, Step, Views
from backend.errors import BadInput
from backend.reconstruct.optimise_density import Density
from backend.reconstruct.optimise_geometry import geometry_channels, normal_disagreement
from backend.reconstruct.optimise_loss import photometric_loss, psnr
from backend.reconstruct.optimise_splats import Splats
from backend.reconstruct.optimise_start import border_color, find_region, has_alpha, start_from_views
from backend.render.rasterize import rasterization


@dataclass(frozen=True)
class Settings:
    """rates: Adam's at the first and the last step, for an object 1.8 wide; in between they fall exponentially.
    Beside the loss of the colours stand alpha_share of the alpha's L1; flat_share of the mean thickness, as discs
    follow a surface better than balls, and show it better; and, once the discs are about where they belong,
    normal_share of how much their normals disagree with the depths around them.
    """

    rates: Mapping[str, tuple[float, float]]
    alpha_share: float = 0.5
    flat_share: float = 1.0
    normal_share: float = 0.05


QUICK = Settings(
    {
        "means": (6e-3, 6e-5),
        "log_scales": (5e-2, 5e-3),
        "quats": (4e-2, 2e-3),
        "logits": (1.5e-1, 2e-2),
        "colors": (2e-2, 2e-3),
    }
)
LEAST_COUNT, MOST_COUNT = 2_000, 200_000
_START_SHARE = 0.4  # of the final number of Gaussians that a start from scratch has
_CONTROL_FROM, _CONTROL_UNTIL, _CONTROLS = 0.1, 0.7, 8  # shares of the run, and how often at most
_RESET_AT, _RESET_TO = 0.4, 0.25
_NORMALS_FROM = 0.3
_HIDDEN = 0.15  # of the mean Gaussian's share in the pictures, below which one is dropped in the end
# The rasteriser widens every Gaussian by this variance, in square pixels. With gsplat's 0.3 the fit would shrink the
# object by about a pixel to make up for it, and show it too thin in any larger picture.
LOW_PASS = 0.1
_WIDEST = 0.25  # standard deviation, for an object 1.8 wide, of what is dropped where the pictures have alpha


def optimise(
    views: Views, start: Gaussians | None = None, steps: int = 300, seed: int = 0, settings: Settings = QUICK
) -> Generator[Step, None, Gaussians]:
    """Gaussians whose renders agree with the views, in the views' own frame, on the CPU or where the views are.

    start: Gaussians to improve, in the views' frame; None begins from scratch: on the visual hull where the views have
    alpha, else anywhere that the cameras see. Views without alpha are taken to show all there is.

    Raises BadInput where there is nothing to see: no views, all transparent, or no Gaussians left.
    """
    if not 1 <= steps <= 100_000:
        raise BadInput(f"The optimisation takes 1 to 100,000 steps, not {steps:,}.")
    with _recording():
        run = _Run(views, start, steps, seed, settings)
    for step in range(steps):
        with _recording():
            run.step(step)
        yield Step(step + 1, steps, "Fitting the Gaussians to the pictures")
    with _recording():
        return run.result()


def starting_point(views: Views, seed: int = 0) -> Gaussians:
    """What `optimise` begins with where it is given no start, in the views' frame. Raises BadInput as it does."""
    with _recording():
        return _Run(views, None, 1, seed, QUICK).result()


def compare(gaussians: Gaussians, views: Views) -> float:
    """Mean PSNR in dB of the Gaussians' renders against the views, both over white where the views have alpha."""
    if len(views) == 0:
        raise BadInput("There are no views to compare with.")
    fits, backgrounds = [], _backgrounds(views)
    with torch.no_grad():
        for view in range(len(views)):
            rgb, alpha = _render(gaussians, views.cameras[[view]])
            behind = backgrounds[view][None, :, None, None]
            target = views.rgba[[view], :3] * views.rgba[[view], 3:] + (1 - views.rgba[[view], 3:]) * behind
            fits.append(psnr(rgb + (1 - alpha) * behind, target))
    return sum(fits) / len(fits)


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Gradients on, whatever the caller has switched off; never across a `yield`, where the setting would leak."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _render(gaussians: Gaussians, cameras: Cameras, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Premultiplied colours, then the channels of `more` [N, D], [V, 3 + D, H, W], and alphas [V, 1, H, W]."""
    g = gaussians
    channels = g.colors if more is None else torch.cat([g.colors, more], dim=-1)
    colors, alphas, _ = rasterization(
        g.means, g.quats, g.scales, g.opacities, channels, world_to_camera_opencv(cameras), cameras.intrinsics,
        cameras.width, cameras.height, eps2d=LOW_PASS,
    )  # fmt: skip
    return colors.permute(0, 3, 1, 2), alphas.permute(0, 3, 1, 2)


def _backgrounds(views: Views) -> Tensor:
    """[V, 3]: white where a view has alpha, else the median colour of all such views' borders."""
    opaque = ~has_alpha(views)
    behind = views.rgba.new_ones(len(views), 3)
    if bool(opaque.any()):
        behind[opaque] = border_color(Views(views.rgba[opaque], views.cameras[opaque.nonzero()[:, 0].tolist()]))
    return behind


class _Run:
    """One optimisation, in a frame where the object is in its canonical place and size."""

    def __init__(self, views: Views, start: Gaussians | None, steps: int, seed: int, settings: Settings) -> None:
        _check(views, start)
        self.steps, self.settings = steps, settings
        self.generator = torch.Generator().manual_seed(seed)
        device = views.rgba.device
        views = Views(views.rgba.detach().clone().float(), views.cameras).to("cpu")
        self.similarity = find_region(views).similarity
        self.views = Views(views.rgba, self.similarity.cameras(views.cameras))
        self.with_alpha = has_alpha(self.views)
        self.backgrounds = _backgrounds(self.views)
        self.most = _final_count(self.views, len(start) if start is not None else 0)
        first = self.similarity.gaussians(start.to("cpu")) if start is not None else self._from_scratch()
        self.views, self.backgrounds = self.views.to(device), self.backgrounds.to(device)
        if len(first) == 0:
            raise BadInput("There are no Gaussians to begin with.", "Begin from scratch.")
        self.splats = Splats(first.to(device))
        self.density = Density(self.splats, self.generator)
        self.first_count = len(self.splats)
        self.resets = start is None and not bool(self.with_alpha.all()) and steps >= 100
        self.controls = self._control_steps()
        self.order: list[int] = []

    def _from_scratch(self) -> Gaussians:
        return start_from_views(self.views, round(_START_SHARE * self.most), self.generator)

    def _control_steps(self) -> list[int]:
        first, last = round(_CONTROL_FROM * self.steps), round(_CONTROL_UNTIL * self.steps)
        every = max(10, (last - first) // _CONTROLS)
        return list(range(first + every, last + 1, every))

    def step(self, step: int) -> None:
        if not self.order:
            self.order = torch.randperm(len(self.views), generator=self.generator).tolist()
        view = self.order.pop()
        cameras = self.views.cameras[[view]]
        leaves = self.splats.leaves()
        gaussians = Gaussians(
            leaves["means"], leaves["log_scales"].exp(), leaves["quats"], leaves["logits"].sigmoid(), leaves["colors"]
        )
        more, middle = None, None
        if self.settings.normal_share > 0 and step >= _NORMALS_FROM * self.steps:
            more, middle = geometry_channels(gaussians, world_to_camera_opencv(cameras)[0])
        image, alpha = _render(gaussians, cameras, more)
        rgb = image[:, :3]
        rgba = self.views.rgba[[view]]
        behind = self.backgrounds[[view]]
        if bool(self.with_alpha[view]):
            behind = torch.rand(1, 3, generator=self.generator).to(rgba)
        behind = behind[:, :, None, None]
        loss = photometric_loss(rgb + (1 - alpha) * behind, rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:]) * behind)
        if bool(self.with_alpha[view]):
            loss = loss + self.settings.alpha_share * (alpha - rgba[:, 3:]).abs().mean()
        loss = loss + self.settings.flat_share * gaussians.scales.amin(dim=-1).mean()
        if middle is not None:
            solid = rgba[0, 3] > 0.5
            loss = loss + self.settings.normal_share * normal_disagreement(
                image[0, 3:], alpha[0, 0], middle, cameras, solid
            )
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for name, leaf in leaves.items()
        }
        if self.controls:
            self.density.gather(leaves["means"].detach(), gradients["means"], cameras)
        progress = step / max(self.steps - 1, 1)
        rates = {name: first * (last / first) ** progress for name, (first, last) in self.settings.rates.items()}
        self.splats.step(gradients, rates)
        self._adapt(step + 1)

    def _adapt(self, done: int) -> None:
        """Density control and the opacity reset, where it is time."""
        if self.controls and done == self.controls[0]:
            self.controls.pop(0)
            share = (done / self.steps - _CONTROL_FROM) / (_CONTROL_UNTIL - _CONTROL_FROM)
            most = round(self.first_count + min(share, 1.0) * max(self.most - self.first_count, 0))
            widest = _WIDEST if bool(self.with_alpha.all()) else math.inf
            self.density.control(self.splats, most, widest)
        if self.resets and done == round(_RESET_AT * self.steps):
            self.splats.limit_opacity(_RESET_TO)

    def result(self) -> Gaussians:
        """What is left, in the views' frame, without what no view shows."""
        gaussians = self.splats.gaussians()
        good = torch.stack([getattr(gaussians, n).flatten(1).isfinite().all(-1) for n in ("means", "scales", "quats")])
        gaussians = gaussians[good.all(0) & gaussians.opacities.isfinite()]
        shares = _shares(gaussians, self.views.cameras)
        # What lies hidden under the surface shows nothing and misleads whoever looks for the surface.
        gaussians = gaussians[shares > _HIDDEN * shares.mean()]
        if len(gaussians) == 0:
            raise BadInput("Nothing can be made out in the pictures.", "Use pictures that show one object.")
        means = self.similarity.points_back(gaussians.means.cpu()).to(gaussians.means)
        scales = gaussians.scales / self.similarity.scale
        return Gaussians(means, scales, gaussians.quats, gaussians.opacities, gaussians.colors)


def _shares(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """[N]: pixels of all views together that each Gaussian makes up."""
    total = torch.zeros_like(gaussians.opacities)
    for view in range(len(cameras)):
        # The gradient of a picture's sum with regard to a colour is what its Gaussian weighs in it.
        ones = torch.ones_like(gaussians.means[:, :1]).requires_grad_()
        image, _, _ = rasterization(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, ones,
            world_to_camera_opencv(cameras[[view]]), cameras.intrinsics[[view]], cameras.width, cameras.height,
        )  # fmt: skip
        total += torch.autograd.grad(image.sum(), ones)[0][:, 0]
    return total


def _final_count(views: Views, given: int) -> int:
    """How many Gaussians to end with: as many as two views' pictures of the object have pixels."""
    pixels = float((views.rgba[:, 3] > 0.5).float().mean()) * views.rgba.shape[-1] * views.rgba.shape[-2]
    return max(given, min(max(round(2 * pixels), LEAST_COUNT), MOST_COUNT))


def _check(views: Views, start: Gaussians | None) -> None:
    if len(views) == 0:
        raise BadInput("There are no views to fit Gaussians to.", "Give pictures with their cameras.")
    if not bool(views.rgba.isfinite().all()):
        raise BadInput("The pictures hold values that are no numbers.", "Use other pictures.")
    if float(views.rgba[:, 3].max()) < 0.02:
        raise BadInput("The pictures are transparent everywhere.", "Use pictures in which an object can be seen.")
    if start is not None and len(start) == 0:
        raise BadInput("There are no Gaussians to begin with.", "Begin from scratch, or use another file.")
