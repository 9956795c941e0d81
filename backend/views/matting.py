"""Cutting an object out of a picture that has no alpha, without any network: plain backgrounds, and an honest guess.

A plain background is fitted to the picture's border as a smooth surface in CIELAB (a studio backdrop darkens towards
its corners), flooded from the border, and softened where object and background mix. All arrays are NumPy, [H, W, ...].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

_PLAIN_SHARE = 0.7  # of the border that has to agree with the fitted background
_NOISE_FLOOR = 1.0  # CIELAB units; below this, differences are compression and dither
_NOISY = 3.0  # CIELAB units from which the picture is smoothed first
_LEAST_DIFFERENCE = 6.0  # CIELAB units that an object must differ by: two to three just noticeable steps


@dataclass(frozen=True)
class Matte:
    """alpha [H, W] in [0, 1]; rgb [H, W, 3] with the background taken out of mixed pixels; how it was found."""

    alpha: np.ndarray
    rgb: np.ndarray
    plain: bool


def plain_background_matte(rgb: np.ndarray) -> Matte | None:
    """The matte of an object before a plain background, or None where the background is not plain.

    rgb: [H, W, 3] float in [0, 1], sRGB. The alpha is all zero where nothing stands out.
    """
    lab = rgb2lab(rgb).astype(np.float32)
    fitted = _fit_background(lab)
    if fitted is None or fitted[1] > _NOISY:
        # Film grain and dark rooms: average over a few pixels, and lose that much sharpness.
        lab = ndimage.gaussian_filter(lab, (1.2, 1.2, 0))
        fitted = _fit_background(lab)
    if fitted is None:
        return None
    background, noise = fitted
    distance = np.linalg.norm(lab - background, axis=-1)
    threshold = max(_LEAST_DIFFERENCE, 4.0 * noise)
    mask = _without_specks(~_flood(distance < threshold, distance, noise))
    return Matte(*_soften(rgb, mask), plain=True)


def centred_guess_matte(rgb: np.ndarray) -> Matte | None:
    """A guess for a background that is not plain: what the middle shows and the border does not; None if nothing.

    Colours are grouped by the border's own clusters; a pixel is the object's if it lies far from all of them.
    """
    lab = rgb2lab(rgb).astype(np.float32)
    border = _border_mask(*rgb.shape[:2])
    centers = _clusters(lab[border], 8)
    distance = np.min(np.linalg.norm(lab[:, :, None] - centers[None, None], axis=-1), axis=-1)
    distance = ndimage.gaussian_filter(distance, 0.006 * max(rgb.shape[:2]))
    height, width = distance.shape
    y, x = np.mgrid[0:height, 0:width]
    # Photographers put things in the middle.
    middle = np.exp(-0.5 * (((x / width - 0.5) / 0.3) ** 2 + ((y / height - 0.5) / 0.3) ** 2))
    score = distance * middle
    threshold = max(_otsu(score), 5.0)
    radius = max(1, round(0.01 * max(height, width)))
    mask = ndimage.binary_closing(score > threshold, iterations=radius)
    mask = _without_specks(ndimage.binary_fill_holes(mask), least_share=0.3)
    touching = float(mask[border].mean())
    if not 0.03 <= mask.mean() <= 0.8 or touching > 0.3:
        return None
    return Matte(*_soften(rgb, mask), plain=False)


def _border_mask(height: int, width: int) -> np.ndarray:
    ring = max(1, round(0.02 * min(height, width)))
    border = np.ones((height, width), dtype=bool)
    border[ring : height - ring, ring : width - ring] = False
    return border


def _fit_background(lab: np.ndarray) -> tuple[np.ndarray, float] | None:
    """A quadratic surface [H, W, 3] through the border's colours and its noise, or None if the border is not plain."""
    height, width = lab.shape[:2]
    border = _border_mask(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / max(width - 1, 1) * 2 - 1, y / max(height - 1, 1) * 2 - 1
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    samples, colors = basis[border], lab[border]
    if len(samples) > 4000:
        chosen = np.linspace(0, len(samples) - 1, 4000).astype(int)
        samples, colors = samples[chosen], colors[chosen]
    # The object may cross the border: begin with what lies near the border's median colour, then let the surface move.
    middle = np.median(colors, axis=0)
    residual = np.linalg.norm(colors - middle, axis=-1)
    surface = np.zeros((6, 3), dtype=np.float32)
    surface[0] = middle
    for _ in range(6):
        limit = max(8.0, 3.0 * float(np.median(residual)))
        inside = residual < min(limit, 25.0)
        if inside.mean() < 0.5:
            return None
        # A weak pull towards a flat surface keeps the quadratic from bending where the object hides the border.
        weight = np.diag([1e-3, 1e-2, 1e-2, 0.1, 0.1, 0.1]).astype(np.float32) * inside.sum() * 0.1
        design, target = samples[inside], colors[inside] - middle
        surface = np.linalg.solve(design.T @ design + weight, design.T @ target).astype(np.float32)
        surface[0] += middle
        residual = np.linalg.norm(colors - samples @ surface, axis=-1)
    noise = max(_NOISE_FLOOR, 1.4826 * float(np.median(residual)))
    agreeing = residual < max(_LEAST_DIFFERENCE, 4.0 * noise)
    if noise > 6.0 or agreeing.mean() < _PLAIN_SHARE:
        return None
    return basis @ surface, noise


def _flood(near: np.ndarray, distance: np.ndarray, noise: float) -> np.ndarray:
    """Background: what looks like it and hangs together with the border, and holes that show nothing but it."""
    regions, count = ndimage.label(near)
    if count == 0:
        return near
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    background = np.isin(regions, edge[edge > 0])
    # The hole of a mug's handle shows the very background; a light patch on the object only resembles it.
    index = np.arange(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(regions), regions, index)
    typical = ndimage.median(distance, regions, index)
    holes = index[(areas > 0.002 * near.size) & (typical < max(0.6, 1.0 * noise) * 1.5)]
    return background | np.isin(regions, holes)


def _without_specks(mask: np.ndarray, least_share: float = 0.05) -> np.ndarray:
    """The mask without pieces smaller than `least_share` of its largest."""
    mask = ndimage.binary_opening(mask) if min(mask.shape) >= 64 else mask
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    areas = ndimage.sum_labels(np.ones_like(regions), regions, np.arange(1, count + 1))
    return np.isin(regions, 1 + np.flatnonzero(areas >= least_share * areas.max()))


def _soften(rgb: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha [H, W] and unmixed colours [H, W, 3]: a thin band is mixed from both sides."""
    alpha = mask.astype(np.float32)
    band = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask, iterations=2)
    sure_object, sure_background = mask & ~band, ~mask & ~band
    if not sure_object.any() or not sure_background.any():
        return alpha, rgb.copy()
    inside = ndimage.distance_transform_edt(~sure_object, return_distances=False, return_indices=True)
    outside = ndimage.distance_transform_edt(~sure_background, return_distances=False, return_indices=True)
    front = rgb[tuple(inside[:, band])]
    back = rgb[tuple(outside[:, band])]
    axis = front - back
    share = ((rgb[band] - back) * axis).sum(-1) / np.maximum((axis**2).sum(-1), 1e-4)
    # Where both sides look alike the share means nothing: the mask decides.
    telling = np.clip((axis**2).sum(-1) / 0.02, 0, 1)
    share = telling * np.clip(share, 0, 1) + (1 - telling) * mask[band]
    alpha[band] = share
    colors = rgb.copy()
    colors[band] = front
    return alpha, colors


def _clusters(points: np.ndarray, count: int) -> np.ndarray:
    """[count, 3] means of groups of colours: k-means, begun at quantiles of lightness, so without chance."""
    order = points[np.argsort(points[:, 0], kind="stable")]
    points = order[np.linspace(0, len(order) - 1, min(len(order), 3000)).astype(int)]
    centers = points[np.linspace(0, len(points) - 1, count).astype(int)]
    for _ in range(12):
        nearest = np.argmin(np.linalg.norm(points[:, None] - centers[None], axis=-1), axis=1)
        centers = np.stack([points[nearest == k].mean(0) if (nearest == k).any() else centers[k] for k in range(count)])
    return centers


def _otsu(values: np.ndarray) -> float:
    """The threshold that best parts the values in two (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    middles = 0.5 * (edges[1:] + edges[:-1])
    weight = np.cumsum(counts).astype(np.float64)
    total = np.cumsum(counts * middles)
    rest = weight[-1] - weight
    with np.errstate(divide="ignore", invalid="ignore"):
        between = weight * rest * (total / weight - (total[-1] - total) / rest) ** 2
    return float(middles[np.nanargmax(np.where(np.isfinite(between), between, -1))])
