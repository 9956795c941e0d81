"""The plain background that a picture was taken before: a smooth surface of colours, found from the border inwards.

All arrays are NumPy, [H, W, ...]; colours are CIELAB.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

PLAIN_DIFFERENCE = 6.0  # CIELAB units: two to three just noticeable steps
_PLAIN_SHARE = 0.7  # of the border that has to agree with the fitted background
_NOISE_FLOOR = 0.35  # CIELAB units: what 8 bit alone leave
_SAMPLES = 4000  # pixels that a surface is fitted to


def border_mask(height: int, width: int) -> np.ndarray:
    """[H, W], a narrow frame."""
    ring = max(1, round(0.02 * min(height, width)))
    border = np.ones((height, width), dtype=bool)
    border[ring : height - ring, ring : width - ring] = False
    return border


def fit_backdrop(lab: np.ndarray) -> tuple[np.ndarray, float] | None:
    """A quadratic surface [H, W, 3] through the border's colours and its noise, or None if the border is not plain."""
    height, width = lab.shape[:2]
    border = border_mask(height, width)
    basis = _powers(height, width, 2)
    samples, colors = basis[border], lab[border]
    chosen = _some(len(samples))
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
    agreeing = residual < max(PLAIN_DIFFERENCE, 4.0 * noise)
    if noise > 6.0 or agreeing.mean() < _PLAIN_SHARE:
        return None
    return _refined(lab, basis @ surface, noise)


def _refined(lab: np.ndarray, background: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    """The surface through all that hangs together with the border and is near it: of the fourth degree, as a lamp's
    light falls off. Shadows and whatever else deviates by more than noise are left out step by step."""
    height, width = lab.shape[:2]
    basis = _powers(height, width, 4)
    weight = np.diag(np.arange(basis.shape[-1]) > 0).astype(np.float32) * 1e-4
    for _ in range(3):
        near = np.linalg.norm(lab - background, axis=-1) < max(PLAIN_DIFFERENCE, 3.0 * noise)
        reached = np.flatnonzero(reached_from_border(near))
        if len(reached) < 100:
            break
        reached = reached[_some(len(reached))]
        samples, colors = (values.reshape(near.size, -1)[reached] for values in (basis, lab))
        difference = colors - background.reshape(near.size, -1)[reached]
        for _ in range(4):
            residual = np.linalg.norm(difference, axis=-1)
            # What is darker may be a shadow's rim, what is brighter is not.
            inside = residual <= np.where(difference[:, 0] > 0, 3, 1) * max(1.0, 2.5 * float(np.median(residual)))
            design, target = samples[inside], colors[inside]
            surface = np.linalg.solve(design.T @ design + weight * inside.sum(), design.T @ target)
            difference = colors - samples @ surface
        background = (basis @ surface).astype(np.float32)
        noise = max(_NOISE_FLOOR, 1.4826 * float(np.median(np.linalg.norm(difference, axis=-1))))
    return background, noise


def reached_from_border(allowed: np.ndarray) -> np.ndarray:
    """[H, W], what of `allowed` hangs together with the picture's border."""
    regions, _ = ndimage.label(allowed)
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    return np.isin(regions, edge[edge > 0])


def _some(count: int) -> np.ndarray:
    """Indices of evenly spread samples, of all where they are few."""
    return np.arange(count) if count <= _SAMPLES else np.linspace(0, count - 1, _SAMPLES).astype(int)


def _powers(height: int, width: int, degree: int) -> np.ndarray:
    """[H, W, N], the products of powers of x and y in [-1, 1] up to a degree, low ones first."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / max(width - 1, 1) * 2 - 1, y / max(height - 1, 1) * 2 - 1
    return np.stack([x ** (total - k) * y**k for total in range(degree + 1) for k in range(total + 1)], axis=-1)
