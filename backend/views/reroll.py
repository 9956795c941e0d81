"""Some views of an object made anew while the others stay: DMV3D's walk with the kept views put back at every step.

One kept view is given clean, as a picture is (arXiv 2311.09217, section 3.3), which fixes its colours; the others are
seen as they would be at each step's noise level (as RePaint does with pixels, arXiv 2201.09865), so that the scene that
is built explains them. The new views are pictures of that scene.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from backend.datatypes import Step, Views
from backend.errors import BadInput
from backend.formats.images import resize
from backend.nets.diffusion import alpha_sigma, ddim_step, log_snr
from backend.views.dmv3d import AZIMUTHS, ETA, RENDER_SAMPLES, Dmv3dGenerator, camera_inputs, render_planes
from backend.views.signed import from_signed, to_signed


@torch.inference_mode()
def reroll(
    generator: Dmv3dGenerator,
    views: Views,
    anew: Sequence[int],
    given: int,
    prompt: str | None,
    *,
    seed: int,
    steps: int,
    guidance: float,
) -> Generator[Step, None, Views]:
    """The same four views, those at the places `anew` made anew to fit the others and the prompt.

    given: the place of the kept view to go by first. Without a prompt the kind of thing is read from that view. Yields
    a Step after each denoising step, with a preview of all views. Raises BadInput for another number of views.
    """
    if len(views) != len(AZIMUTHS) or given in anew:
        raise BadInput(f"Views are made anew where {len(AZIMUTHS)} are there, and one is kept.", "Make other views.")
    network, vocabulary, device = generator.network, generator.vocabulary, generator.device
    small = network.config.image_size
    words = prompt if prompt else generator.read(resize(views.rgba[given], *2 * [generator.image_size])).kind or ""
    asked = vocabulary.encode(words).tokens
    asked = asked if any(asked) else vocabulary.no_text()
    guided = asked != vocabulary.no_text() and guidance != 1.0
    tokens = torch.tensor([asked, vocabulary.no_text()] if guided else [asked], device=device)

    order = [given, *(place for place in range(len(views)) if place != given)]  # the network looks for it in front
    known = torch.stack([to_signed(resize(views.rgba[place], small, small)) for place in order]).to(device)
    kept = [at for at, place in enumerate(order) if place not in anew]
    seen_by = views.cameras[order].resized(small, small)
    inputs = [value.to(device)[None].expand(len(tokens), *value.shape) for value in camera_inputs(seen_by)]
    clear = torch.ones(len(tokens), dtype=torch.bool, device=device)

    source = torch.Generator().manual_seed(seed)
    noisy = torch.randn(known.shape, generator=source).to(device)
    times = log_snr(torch.linspace(1.0, 0.0, steps + 1)).to(device)
    planes = noisy.new_zeros(1)
    for step in range(steps):
        alpha, sigma = alpha_sigma(times[step])
        noisy[kept] = alpha * known[kept] + sigma * torch.randn(known[kept].shape, generator=source).to(device)
        noisy[0] = known[0]
        scenes = noisy[None].expand(len(tokens), *noisy.shape)
        both = network(scenes, *inputs, times[step].expand(len(tokens)), tokens, clear)
        planes = both[:1]
        clean = render_planes(network, planes, seen_by)
        if guided:
            without = render_planes(network, both[1:], seen_by)
            clean = (without + guidance * (clean - without)).clamp(-1, 1)
        clean[kept] = known[kept]
        fresh = torch.randn(noisy.shape, generator=source).to(device)
        noisy = ddim_step(noisy, clean, times[step], times[step + 1], ETA, fresh)
        preview = from_signed(clean)[[order.index(place) for place in range(len(order))]]
        yield Step(step + 1, steps, "Imagining it anew", preview.cpu())
    rgba, places = views.rgba.clone(), list(anew)
    made = render_planes(network, planes, views.cameras[places].to(device), 2 * RENDER_SAMPLES)
    rgba[places] = from_signed(made).cpu()
    return Views(rgba, views.cameras)
