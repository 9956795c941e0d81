"""Cutting an object out of a picture that has no alpha, without any network: plain backgrounds, and an honest guess.

A plain background is fitted to the picture's border (backdrop.py), what stands before it is told by its colours and its
outline (outlines.py), and softened here where object and background mix. All arrays are NumPy, [H, W, ...].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

from backend.views.backdrop import border_mask, fit_backdrop
from backend.views.outlines import find_object

_NOISY = 1.0  # CIELAB units from which the picture is smoothed first
_SIDE = 512  # pixels: of the longer side at which the object is looked for; its edge is then drawn at full size
_LEAST_SIDE = 8  # pixels, of which a background can be told


@dataclass(frozen=True)
class Matte:
    """alpha [H, W] in [0, 1]; rgb [H, W, 3] with the background taken out of mixed pixels; how it was found.

    doubtful: the share of the outline that cannot be seen in the picture.
    """

    alpha: np.ndarray
    rgb: np.ndarray
    plain: bool
    doubtful: float = 0.0


def plain_background_matte(rgb: np.ndarray) -> Matte | None:
    """The matte of an object before a plain background, or None where the background is not plain.

    rgb: [H, W, 3] float in [0, 1], sRGB. The alpha is all zero where nothing stands out.
    """
    if min(rgb.shape[:2]) < _LEAST_SIDE:
        return None
    reduction = min(-(-max(rgb.shape[:2]) // _SIDE), max(1, min(rgb.shape[:2]) // (2 * _LEAST_SIDE)))
    lab = rgb2lab(_averaged(rgb, reduction)).astype(np.float32)
    fitted = fit_backdrop(lab)
    if fitted is None or fitted[1] > _NOISY:
        # Film grain and dark rooms: average over a few pixels, and lose that much sharpness.
        lab = ndimage.gaussian_filter(lab, (1.2, 1.2, 0))
        fitted = fit_backdrop(lab)
    if fitted is None:
        return None
    found = find_object(lab, *fitted)
    likelihood = found.likelihood if reduction == 1 else _enlarged(found.likelihood, reduction, rgb.shape[:2])
    alpha, colors = _soften(rgb, without_specks(likelihood > 0.5), 2 * reduction)
    return Matte(alpha, colors, plain=True, doubtful=found.doubtful)


def _averaged(rgb: np.ndarray, reduction: int) -> np.ndarray:
    """[H / r, W / r, 3], rounded up: the means of squares of r x r pixels."""
    if reduction == 1:
        return rgb
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % reduction), (0, -width % reduction), (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // reduction, padded.shape[1] // reduction
    return padded.reshape(rows, reduction, columns, reduction, 3).mean((1, 3))


def _enlarged(values: np.ndarray, reduction: int, shape: tuple[int, ...]) -> np.ndarray:
    """[H, W] between the squares' middles."""
    places = [(np.arange(side) + 0.5) / reduction - 0.5 for side in shape[:2]]
    return ndimage.map_coordinates(values, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")


def centred_guess_matte(rgb: np.ndarray) -> Matte | None:
    """A guess for a background that is not plain: what the middle shows and the border does not; None if nothing.

    Colours are grouped by the border's own clusters; a pixel is the object's if it lies far from all of them.
    """
    lab = rgb2lab(rgb).astype(np.float32)
    border = border_mask(*rgb.shape[:2])
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
    mask = without_specks(ndimage.binary_fill_holes(mask), least_share=0.3)
    touching = float(mask[border].mean())
    if not 0.03 <= mask.mean() <= 0.8 or touching > 0.3:
        return None
    return Matte(*_soften(rgb, mask, 2), plain=False)


def without_specks(mask: np.ndarray, least_share: float = 0.05) -> np.ndarray:
    """The mask without pieces smaller than `least_share` of its largest."""
    mask = ndimage.binary_opening(mask) if min(mask.shape) >= 64 else mask
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    areas = ndimage.sum_labels(np.ones_like(regions), regions, np.arange(1, count + 1))
    return np.isin(regions, 1 + np.flatnonzero(areas >= least_share * areas.max()))


def _soften(rgb: np.ndarray, mask: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Alpha [H, W] and unmixed colours [H, W, 3]: a band, `width` pixels to each side, is mixed from both."""
    alpha = mask.astype(np.float32)
    band = ndimage.binary_dilation(mask, iterations=width) & ~ndimage.binary_erosion(mask, iterations=width)
    sure_object, sure_background = mask & ~band, ~mask & ~band
    if not sure_object.any() or not sure_background.any():
        return alpha, rgb.copy()
    inside = ndimage.distance_transform_edt(~sure_object, return_distances=False, return_indices=True)
    outside = ndimage.distance_transform_edt(~sure_background, return_distances=False, return_indices=True)
    front, back = rgb[tuple(inside[:, band])], rgb[tuple(outside[:, band])]
    axis, away = front - back, rgb[band] - back
    square = np.maximum((axis**2).sum(-1), 1e-4)
    share = (away * axis).sum(-1) / square
    # What is no mixture of the two is the object's too, in another colour.
    other = ((away - share[:, None] * axis) ** 2).sum(-1) > 0.02
    # Where both sides look alike the share means nothing: the mask decides.
    telling = np.clip(square / 0.02, 0, 1)
    share = telling * np.clip(share, 0, 1) + (1 - telling) * mask[band]
    alpha[band] = np.where(other, np.maximum(share, mask[band]), share)
    colors = rgb.copy()
    colors[band] = np.where((alpha[band] < 0.98)[:, None], front, rgb[band])
    return alpha, colors


def colors_from_within(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[H, W, 3]: pixels that are mixed with the background get the colour of the nearest that is not."""
    sure = alpha > 0.98
    if not sure.any():
        return rgb.copy()
    nearest = ndimage.distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return rgb[tuple(nearest)]


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
