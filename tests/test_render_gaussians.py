"""The rasteriser: kernels against the torch reference, that against differences, both against formulas."""

import math
from dataclasses import replace

import pytest
import torch

from backend.bench.render import scene
from backend.cameras import orbit
from backend.datatypes import Gaussians
from backend.render import gaussian_numba, rasterize
from backend.render.gaussian_reference import rasterize_reference
from backend.render.rasterize import rasterization
from backend.render.views import render_gaussians

NAMES = ("means", "quats", "scales", "opacities", "colors")


def cloud(count=300, seed=0, channels=3, dtype=torch.float64):
    """Gaussians of all sizes and shapes in front of, beside and behind the cameras of `cameras`."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    def uniform(*shape):
        return torch.rand(*shape, generator=g, dtype=dtype)

    scales = torch.exp(normal(count, 3) - 3.0)
    return [normal(count, 3) * 0.8, normal(count, 4), scales, uniform(count), uniform(count, channels)]


def cameras(count=2, dtype=torch.float64):
    viewmats = torch.eye(4, dtype=dtype).repeat(count, 1, 1)
    angles = torch.linspace(0.0, 0.7, count, dtype=dtype)
    viewmats[:, 0, 0], viewmats[:, 0, 2] = angles.cos(), angles.sin()
    viewmats[:, 2, 0], viewmats[:, 2, 2] = -angles.sin(), angles.cos()
    viewmats[:, 2, 3] = 2.0
    Ks = torch.tensor([[60.0, 0.0, 33.0], [0.0, 55.0, 20.0], [0.0, 0.0, 1.0]], dtype=dtype).repeat(count, 1, 1)
    return viewmats, Ks, 70, 45  # the last tiles are not whole ones


def as_float32(tensors):
    return [tensor.detach().float().requires_grad_(tensor.requires_grad) for tensor in tensors]


def one_gaussian(**changes):
    """A round Gaussian of standard deviation 0.1 at the origin, two units before the camera."""
    values = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), 0.1),
        "opacities": torch.tensor([0.8]),
        "colors": torch.tensor([[0.2, 0.5, 0.9]]),
    }
    values.update(changes)
    viewmats = torch.eye(4)[None].clone()
    viewmats[:, 2, 3] = 2.0
    Ks = torch.tensor([[[100.0, 0.0, 16.5], [0.0, 100.0, 16.5], [0.0, 0.0, 1.0]]])
    return [*values.values(), viewmats, Ks, 33, 33]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("per_view", [False, True])
def test_numba_agrees_with_the_reference(channels, per_view):
    viewmats, Ks, width, height = cameras(2)
    inputs = cloud(300, seed=channels, channels=channels)
    if per_view:
        inputs[4] = torch.stack([inputs[4], 1.0 - inputs[4]])
    exact = [tensor.clone().requires_grad_() for tensor in inputs]
    fast = as_float32(exact)
    image, alphas, _ = rasterize_reference(*exact, viewmats, Ks, width, height, with_depth=True)
    ours, our_alphas, _ = rasterization(*fast, viewmats.float(), Ks.float(), width, height, render_mode="RGB+D")
    assert alphas.mean() > 0.3
    # Where a Gaussian crosses the alpha threshold of 1/255 float32 and float64 may differ by that much.
    difference = torch.cat([ours - image, our_alphas - alphas], dim=-1).abs()
    assert (difference > 1e-3).double().mean() < 1e-3
    assert difference.mean() < 1e-5

    weights, alpha_weights = torch.rand_like(image), torch.rand_like(alphas)
    ((image * weights).sum() + (alphas * alpha_weights).sum()).backward()
    ((ours * weights).sum() + (our_alphas * alpha_weights).sum()).backward()
    for name, slow, quick in zip(NAMES, exact, fast, strict=True):
        assert (slow.grad - quick.grad).norm() < 1e-3 * slow.grad.norm(), name
        assert slow.grad.norm() > 0, name


@pytest.mark.parametrize("thin", [False, True])
def test_a_surface_agrees_with_the_reference(thin):
    """What the benchmark renders, thousands of small Gaussians one behind another; also with long and thin ones."""
    gaussians, where = scene(3000, 72)
    if thin:
        gaussians["scales"] = gaussians["scales"] * torch.tensor([4.0, 0.2, 0.2])
    exact = {name: tensor.double().requires_grad_() for name, tensor in gaussians.items()}
    fast = {name: tensor.clone().requires_grad_() for name, tensor in gaussians.items()}
    image, alphas, _ = rasterize_reference(
        **exact, **{**where, "viewmats": where["viewmats"].double(), "Ks": where["Ks"].double()}
    )
    ours, our_alphas, _ = rasterization(**fast, **where)
    assert (alphas > 0.99).double().mean() > 0.3
    difference = torch.cat([ours - image, our_alphas - alphas], dim=-1).abs()
    flips = difference > 1e-3  # the two disagree about one Gaussian whose alpha is about 1/255
    assert flips.sum() < 10
    assert difference.max() < 2 / 255
    weights = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ((image * weights).sum() + alphas.sum()).backward()
    ((ours * weights).sum() + our_alphas.sum()).backward()
    for name in NAMES:
        assert (exact[name].grad - fast[name].grad).norm() < 1e-3 * exact[name].grad.norm(), name


def test_reference_gradients_agree_with_differences():
    viewmats, Ks, _, _ = cameras(1)
    inputs = cloud(12, seed=4)
    inputs[2] = inputs[2] * 2
    inputs[3] = inputs[3] * 0.5 + 0.4
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(1, 24, 32, 5, generator=generator, dtype=torch.float64)
    # A camera with a wide view, so that some Gaussians lie where the Jacobian is clamped.
    Ks = Ks * torch.tensor([[0.4], [0.4], [1.0]])

    def loss(*tensors):
        image, alphas, _ = rasterize_reference(*tensors, viewmats, Ks, 32, 24, with_depth=True)
        return (torch.cat([image, alphas], dim=-1) * weights).sum()

    tensors = [tensor.requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(loss(*tensors), tensors)
    for name, tensor, gradient in zip(NAMES, tensors, gradients, strict=True):
        for _ in range(3):
            direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            step = 1e-7 * direction
            others = [t.detach() for t in tensors]
            at = next(i for i, t in enumerate(tensors) if t is tensor)
            ahead, behind = list(others), list(others)
            ahead[at], behind[at] = others[at] + step, others[at] - step
            numeric = (loss(*ahead) - loss(*behind)) / 2e-7
            assert numeric == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-4), name


def test_tiles_change_nothing():
    viewmats, Ks, width, height = cameras(1)
    inputs = cloud(80, seed=2)
    tiled, _, _ = rasterize_reference(*inputs, viewmats, Ks, width, height, tile_size=16)
    whole, _, _ = rasterize_reference(*inputs, viewmats, Ks, width, height, tile_size=128)
    torch.testing.assert_close(tiled, whole)
    few_at_once, _, _ = rasterize_reference(*inputs, viewmats, Ks, width, height, at_once=3)
    torch.testing.assert_close(tiled, few_at_once)


@pytest.mark.parametrize("scale", [0.02, 0.3, 3.0])
def test_long_thin_gaussians_lose_no_tile(scale):
    """Exact binning by the ellipse must reach every pixel that the reference, which bins by boxes, reaches."""
    viewmats, Ks, _, _ = cameras(1)
    inputs = cloud(60, seed=5)
    inputs[2] = torch.tensor([[1.0, 0.02, 0.02]], dtype=torch.float64) * scale * (0.5 + torch.rand(60, 1).double())
    image, _, _ = rasterize_reference(*inputs, viewmats, Ks, 150, 130)
    ours, _, _ = rasterization(*as_float32(inputs), viewmats.float(), Ks.float(), 150, 130)
    assert ((ours - image).abs() > 1e-3).double().mean() < 2e-3
    assert (ours - image).abs().max() < 0.01


@pytest.mark.parametrize("fast", [True, False])
def test_one_gaussian_is_what_the_formula_says(fast, monkeypatch):
    monkeypatch.setattr(rasterize, "numba_present", lambda: fast)
    image, alphas, meta = rasterization(*one_gaussian(), render_mode="RGB+ED")
    # Standard deviation in pixels: 100 * 0.1 / 2 = 5, and the dilation of 0.3 on the variance.
    variance = 25.0 + 0.3
    assert alphas[0, 16, 16, 0] == pytest.approx(0.8, abs=1e-5)
    assert alphas[0, 16, 21, 0] == pytest.approx(0.8 * math.exp(-0.5 * 25 / variance), abs=1e-5)
    assert image[0, 16, 16, :3].tolist() == pytest.approx([0.16, 0.4, 0.72], abs=1e-5)
    assert image[0, 16, 16, 3] == pytest.approx(2.0, abs=1e-5)
    edge = math.sqrt(2 * variance * math.log(255 * 0.8))
    reached = (alphas[0, 16, :, 0] > 0).sum()
    assert reached == min(33, 2 * math.floor(edge) + 1)
    assert meta["radii"][0, 0].tolist() == [math.ceil(edge)] * 2
    assert meta["means2d"][0, 0].tolist() == pytest.approx([16.5, 16.5])
    assert meta["depths"][0, 0] == pytest.approx(2.0)


@pytest.mark.parametrize("fast", [True, False])
def test_where_alpha_is_held_at_its_most_only_colours_have_a_gradient(fast, monkeypatch):
    monkeypatch.setattr(rasterize, "numba_present", lambda: fast)
    scene = one_gaussian(scales=torch.full((1, 3), 2.0), opacities=torch.ones(1))
    leaves = [tensor.requires_grad_() for tensor in scene[:5]]
    image, _, _ = rasterization(*scene)
    image[0, 15:18, 15:18, 0].sum().backward()
    assert leaves[4].grad[0].tolist() == pytest.approx([9 * 0.999, 0.0, 0.0], abs=1e-4)
    assert all((leaf.grad == 0).all() for leaf in leaves[:4])


def test_nearer_gaussians_hide_farther_ones_in_any_order():
    means = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    scene = one_gaussian(
        means=means, quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), scales=torch.full((2, 3), 0.5),
        opacities=torch.tensor([1.0, 0.6]), colors=torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    )  # fmt: skip
    image, alphas, _ = rasterization(*scene)
    assert image[0, 16, 16].tolist() == pytest.approx([0.4 * 0.999, 0.6, 0.0], abs=1e-4)
    assert alphas[0, 16, 16, 0] == pytest.approx(1 - 0.4 * 0.001, abs=1e-4)
    flipped = [tensor.flip(0) if index < 5 else tensor for index, tensor in enumerate(scene)]
    torch.testing.assert_close(rasterization(*flipped)[0], image)


def test_opaque_layers_stop_the_light():
    """Transmittance never falls to 1e-4: the Gaussian that would do so is not taken, nor is any after it."""
    count = 40
    means = torch.zeros(count, 3)
    means[:, 2] = torch.linspace(0, 1, count)
    scene = one_gaussian(
        means=means, quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1), scales=torch.full((count, 3), 0.5),
        opacities=torch.full((count,), 0.9), colors=torch.ones(count, 3),
    )  # fmt: skip
    _, alphas, _ = rasterization(*scene)
    # 0.1 ** 3 is taken; 0.1 ** 4 is not above 1e-4 (but for rounding).
    assert alphas[0, 16, 16, 0] == pytest.approx(0.999, abs=1e-3)
    assert alphas.max() < 1 - 0.99e-4


@pytest.mark.parametrize("mode", rasterize.RENDER_MODES)
@pytest.mark.parametrize("fast", [True, False])
def test_render_modes_and_backgrounds(mode, fast, monkeypatch):
    monkeypatch.setattr(rasterize, "numba_present", lambda: fast)
    viewmats, Ks, width, height = cameras(2, torch.float32)
    inputs = as_float32(cloud(60))
    backgrounds = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], requires_grad=True)
    colors, alphas, _ = rasterization(*inputs, viewmats, Ks, width, height, render_mode="RGB+D")
    image, same, meta = rasterization(
        *inputs, viewmats, Ks, width, height, render_mode=mode, backgrounds=backgrounds
    )  # fmt: skip
    expected = []
    if "RGB" in mode:
        expected.append(colors[..., :3] + (1 - alphas) * backgrounds[:, None, None])
    if mode.endswith("ED"):
        expected.append(colors[..., 3:] / alphas.clamp(min=1e-10))
    elif mode.endswith("D"):
        expected.append(colors[..., 3:])
    torch.testing.assert_close(image, torch.cat(expected, dim=-1), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(same, alphas, atol=2e-5, rtol=1e-4)
    assert meta["radii"].shape == (2, 60, 2)
    if "RGB" in mode:
        image[..., :3].sum().backward()
        left = (1 - alphas).sum(dim=(1, 2))
        torch.testing.assert_close(backgrounds.grad, left.expand(2, 3), rtol=1e-3, atol=1e-2)


def test_planes_and_radius_cull():
    scene = one_gaussian()
    assert rasterization(*scene, near_plane=2.5)[1].max() == 0
    assert rasterization(*scene, far_plane=1.5)[1].max() == 0
    assert rasterization(*scene, radius_clip=100.0)[1].max() == 0
    assert rasterization(*scene, radius_clip=3.0)[1].max() > 0


def test_many_tile_lists_are_bounded_without_changing_the_picture(monkeypatch):
    viewmats, Ks, width, height = cameras(1, torch.float32)
    inputs = [t.requires_grad_() for t in as_float32(cloud(200))]
    results = []
    for limit in (1 << 22, 50):
        monkeypatch.setattr(gaussian_numba, "_PAIRS_AT_ONCE", limit)
        image, alphas, _ = rasterization(*inputs, viewmats, Ks, width, height)
        gradients = torch.autograd.grad((image * image).sum() + alphas.sum(), inputs)
        results.append([image, alphas, *gradients])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("views", [1, 5])
def test_threads_change_nothing(views, monkeypatch):
    monkeypatch.setattr(gaussian_numba, "_CHUNK", 64)  # several chunks, and with two threads several slices of depth
    viewmats, Ks, width, height = cameras(views, torch.float32)
    inputs = [t.requires_grad_() for t in as_float32(cloud(400))]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            image, alphas, _ = rasterization(*inputs, viewmats, Ks, width, height, render_mode="RGB+D")
            gradients = torch.autograd.grad((image * image).sum() + alphas.sum(), inputs)
            results.append([image, alphas, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_equal_depths_keep_their_order_in_slices_too(monkeypatch):
    """All Gaussians of a few depths, so that slices end amid equal ones: the first given is in front."""
    monkeypatch.setattr(gaussian_numba, "_CHUNK", 64)
    viewmats, Ks, width, height = cameras(1, torch.float32)
    inputs = as_float32(cloud(500))
    inputs[0][:, 2] = (inputs[0][:, 2] * 2).round() / 2
    before = torch.get_num_threads()
    try:
        pictures = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            pictures.append(rasterization(*inputs, viewmats, Ks, width, height)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*pictures)
    expected, _, _ = rasterize_reference(*(t.double() for t in inputs), viewmats.double(), Ks.double(), width, height)
    assert ((pictures[0] - expected).abs() > 1e-3).double().mean() < 1e-3


def test_views_are_rendered_as_if_alone():
    viewmats, Ks, width, height = cameras(3, torch.float32)
    inputs = as_float32(cloud(100))
    together, _, _ = rasterization(*inputs, viewmats, Ks, width, height)
    for view in range(3):
        alone, _, _ = rasterization(*inputs, viewmats[view : view + 1], Ks[view : view + 1], width, height)
        assert torch.equal(alone[0], together[view])


def ball(count=4000, radius=0.7):
    """Discs on a sphere, each with the sphere's normal as its short axis, coloured by it."""
    k = torch.arange(count) + 0.5
    y = 1 - 2 * k / count
    angle = k * math.pi * (3 - math.sqrt(5))
    ring = (1 - y * y).sqrt()
    normals = torch.stack([ring * angle.cos(), y, ring * angle.sin()], dim=-1)
    # The quaternion that turns z into the normal: halfway between the two.
    quats = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros(count)], dim=-1)
    quats = torch.nn.functional.normalize(quats, dim=-1)
    size = 1.2 * radius * math.sqrt(4 * math.pi / count) / 2
    scales = torch.tensor([size, size, size / 50]).repeat(count, 1)
    return Gaussians(normals * radius, scales, quats, torch.full((count,), 0.95), 0.5 + 0.5 * normals)


def test_render_gaussians_sees_the_right_side():
    views = render_gaussians(ball(), orbit([0.0, 90.0, 180.0], 0.0, 2.7, 50.0, 64))
    assert views.shape == (3, 4, 64, 64)
    middle = views[:, :3, 32, 32]
    # Azimuth 0 looks from +Z, 90 from +X.
    torch.testing.assert_close(
        middle, torch.tensor([[0.5, 0.5, 1.0], [1.0, 0.5, 0.5], [0.5, 0.5, 0.0]]), atol=0.06, rtol=0
    )
    assert views[0, 1, 20, 32] > 0.6  # +Y is up
    assert views[:, 3, 32, 32].min() > 0.99
    assert views[:, :, 0, 0].abs().max() == 0


def test_render_gaussians_background_and_gradient():
    gaussians, where = ball(500), orbit([0.0, 90.0], 20.0, 2.7, 50.0, 48)
    colors = gaussians.colors.clone().requires_grad_()
    views = render_gaussians(replace(gaussians, colors=colors), where, background=1.0)
    straight = render_gaussians(gaussians, where)
    over = straight[:, :3] * straight[:, 3:] + 1 - straight[:, 3:]
    torch.testing.assert_close(views[:, :3], over, atol=2e-3, rtol=0)
    tinted = render_gaussians(gaussians, where, background=torch.tensor([1.0, 0.0, 0.5]))
    assert tinted[0, :3, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.5])
    views[:, :3].sum().backward()
    assert colors.grad.abs().sum() > 0
