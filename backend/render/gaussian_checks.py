"""Whether tensors fit together as Gaussians and views, said in one sentence where they do not."""

from __future__ import annotations

from torch import Tensor

from backend.errors import BadInput


def check_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
) -> None:
    """Raise BadInput unless the shapes are those of N Gaussians and C views."""
    n, views = means.shape[:1], viewmats.shape[:1]
    expect_shape("means", means, (*n, 3))
    expect_shape("quats", quats, (*n, 4))
    expect_shape("scales", scales, (*n, 3))
    expect_shape("opacities", opacities, tuple(n))
    expect_shape("viewmats", viewmats, (*views, 4, 4))
    expect_shape("Ks", Ks, (*views, 3, 3))
    if width < 1 or height < 1:
        raise BadInput(f"A picture needs a width and a height of at least one pixel, not {width} x {height}.")


def check_colors(colors: Tensor, gaussians: int, views: int) -> None:
    """Raise BadInput unless colors is [N, D] or [C, N, D]."""
    per_view = (views,) if colors.ndim == 3 else ()
    expect_shape("colors", colors, (*per_view, gaussians, *colors.shape[-1:]))


def expect_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise BadInput unless `tensor` has that shape."""
    if tuple(tensor.shape) != shape:
        raise BadInput(f"The rasteriser needs {name} of the shape {shape}, not {tuple(tensor.shape)}.")
