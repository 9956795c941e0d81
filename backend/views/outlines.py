"""What stands before a plain background: colours, outlines and shadows weighed against each other.

Colour alone loses a white bottle on light grey, whose lit side has the background's very colour, and takes a shadow for
a part of the object. So each pixel is pulled to object or background by its colour, but holds to its neighbours unless
a sharp edge parts them: the random walker with priors (Grady 2005), one sparse linear system. A gap in an outline lets
little through, a shadow fades into the background without an edge, and the hole of a handle is closed off by one.

All arrays are NumPy, [H, W, ...]; colours are CIELAB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from backend.views.backdrop import PLAIN_DIFFERENCE, border_mask

_LEAST_DIFFERENCE = 1.5  # CIELAB units that an object must differ by in a picture without noise
_LEAST_STEEPNESS = 0.25  # CIELAB units a pixel
_BLOCK = 8  # pixels: of a JPEG, which rings as far about strong edges
_SIDE = 256  # pixels of the longer side at which the pulls below are meant
_OBJECT, _SHADOW, _BACKGROUND = 0.15, 0.00045, 0.005  # pulls, where what two pixels conduct is 1
_CLOSED = 0.002  # what the sharpest edge conducts
_CLEAR = 4.0  # so many times what is noise needs no edge to be seen
_ITERATIONS = 300


@dataclass(frozen=True)
class Found:
    """likelihood [H, W] in [0, 1] that a pixel is the object's; doubtful: the share of its outline, at a half, where
    neither an edge nor a difference in colour can be seen."""

    likelihood: np.ndarray
    doubtful: float


def find_object(lab: np.ndarray, backdrop: np.ndarray, noise: float) -> Found:
    """What stands before the background `backdrop` [H, W, 3], which has `noise` CIELAB units."""
    difference = np.linalg.norm(lab - backdrop, axis=-1)
    steepness = _steepness(lab, 1.0)
    least_difference, least_steepness = _what_is_noise(lab, difference, steepness, noise)
    ratio = difference / least_difference
    conductance = _conductance(lab, steepness / least_steepness)
    shadow = _shadow(lab, backdrop, noise, ratio < 1)
    scale = (_SIDE / max(lab.shape[:2])) ** 2
    to_object = np.where(shadow, _SHADOW, _OBJECT) * scale * np.clip(ratio - 1, 0, 1)
    ringing = least_difference > 1.3 * float(least_difference.min())
    to_object[ringing & (ratio < 3)] *= 0.3  # there its edge says more than its colour
    to_background = _BACKGROUND * scale * np.clip(1 - ratio, 0, 1) * conductance
    to_background[_patches(ratio < 1, conductance)] = 0
    frame = np.ones(ratio.shape, bool)
    frame[1:-1, 1:-1] = False
    to_background[frame & (shadow | (ratio < 1))] = 1.0
    likelihood = _balanced(conductance, to_object, to_background)
    edge = ndimage.minimum_filter(conductance, 5) < 0.5
    # What is out of focus has no edge, but differs clearly a few pixels further in.
    mask = _seen_pieces(likelihood > 0.5, ndimage.maximum_filter(edge | (ratio > 2 * _CLEAR), 2 * _BLOCK - 3))
    outline = _outline(mask)
    seen = edge | (ndimage.maximum_filter(ratio, 3) > _CLEAR)
    return Found(likelihood * mask, float(1 - seen[outline].mean()) if outline.any() else 0.0)


def _what_is_noise(
    lab: np.ndarray, difference: np.ndarray, steepness: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] each: the difference from the background, and the steepness, up to which a pixel shows only noise.

    Beside strong edges a JPEG rings in proportion to them. How much is measured there.
    """
    least_difference = np.full(difference.shape, max(_LEAST_DIFFERENCE, 2.0 * noise), np.float32)
    border = border_mask(*difference.shape)
    quiet = steepness[border & (difference < least_difference)]
    usual = float(np.quantile(quiet, 0.99)) if len(quiet) else 0.0
    least_steepness = np.full(difference.shape, max(_LEAST_STEEPNESS, usual), np.float32)
    strongest = ndimage.maximum_filter(difference, 2 * _BLOCK + 1)
    beside = (strongest > 2 * PLAIN_DIFFERENCE) & (difference < 2 * PLAIN_DIFFERENCE)
    ring = beside & (ndimage.maximum_filter(difference, 7) < 2 * PLAIN_DIFFERENCE)
    if ring.sum() > 50:
        grain = np.linalg.norm(lab - ndimage.median_filter(lab, (5, 5, 1)), axis=-1)
        surplus = np.maximum(grain[ring] - float(np.quantile(grain[border], 0.9)), 0)
        ringing = float(np.quantile(surplus / strongest[ring], 0.9)) * strongest[beside]
        least_difference[beside] = np.maximum(least_difference[beside], np.minimum(4 * ringing, 2 * PLAIN_DIFFERENCE))
        least_steepness[beside] = np.maximum(least_steepness[beside], np.minimum(ringing, 3.0))
    return least_difference, least_steepness


def _conductance(lab: np.ndarray, steepness: np.ndarray) -> np.ndarray:
    """[H, W] in (0, 1]: little where colours change within two pixels or so, as at outlines and not in shadows.

    steepness: at the scale of a pixel, in units of what is noise.
    """
    fine = _steepness(lab, 1.0)
    times = fine / np.maximum(_steepness(lab, 3.0), 1e-6)  # 3 for a step, 1 for a slope
    sharpness = np.clip((times - 1.35) / 0.5, 0, 1)
    return np.maximum(np.exp(-3.0 * np.maximum(steepness - 1, 0) * sharpness), _CLOSED)


def _steepness(lab: np.ndarray, scale: float) -> np.ndarray:
    """[H, W], how much colours change a pixel, at a scale in pixels."""
    smooth = ndimage.gaussian_filter(lab, (scale, scale, 0))
    down, across = np.gradient(smooth, axis=(0, 1))
    return np.sqrt((down**2 + across**2).sum(-1))


def _shadow(lab: np.ndarray, backdrop: np.ndarray, noise: float, near: np.ndarray) -> np.ndarray:
    """[H, W], what may be a shadow on the floor: darker than the background, of its hue, in the object's lower part."""
    dimmed = (lab[..., 0] + 16) / (backdrop[..., 0] + 16)  # a weaker light scales a and b by as much
    hue = np.linalg.norm(lab[..., 1:] - dimmed[..., None] * backdrop[..., 1:], axis=-1)
    grey = (dimmed > 0.5) & (dimmed < 1) & (hue < max(3.0, 3.0 * noise))
    rows = np.flatnonzero((~near).any(1))
    if len(rows):
        grey[: int(rows[0] + 0.4 * (rows[-1] - rows[0]))] = False
    return grey


def _patches(near: np.ndarray, conductance: np.ndarray) -> np.ndarray:
    """[H, W], where the object has the background's colour by its shading: enclosed, and without an edge around.

    What shows through a handle has one.
    """
    regions, count = ndimage.label(near & (conductance > 0.5))
    inner = np.setdiff1d(np.arange(1, count + 1), regions[border_mask(*near.shape)])
    edges = ndimage.minimum_filter(conductance, 3) < 0.5
    found = np.zeros(count + 1, bool)
    places = ndimage.find_objects(regions)
    for number in inner:
        place = tuple(slice(max(0, part.start - 3), part.stop + 3) for part in places[number - 1])
        inside = regions[place] == number
        rim = ndimage.binary_dilation(inside, iterations=2) & ~inside
        found[number] = edges[place][rim].mean() < 0.6
    return found[regions]


def _seen_pieces(mask: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The mask without pieces whose outline nobody could see: where a backdrop is not as smooth as it was taken for."""
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    share = ndimage.mean(seen, np.where(_outline(mask), regions, 0), np.arange(1, count + 1))
    return np.isin(regions, 1 + np.flatnonzero(share >= 0.3))


def _outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def _balanced(conductance: np.ndarray, ones: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1], where neighbours agree as far as they conduct, and each is pulled to one and to zero.

    The minimum of a sum of squares, by conjugate gradients that begin with the solution at half the size.
    """
    down = np.minimum(conductance[1:], conductance[:-1]).astype(np.float64)
    across = np.minimum(conductance[:, 1:], conductance[:, :-1]).astype(np.float64)
    diagonal = (ones + zeros).astype(np.float64) + 1e-6
    diagonal[1:] += down
    diagonal[:-1] += down
    diagonal[:, 1:] += across
    diagonal[:, :-1] += across

    def applied(x: np.ndarray) -> np.ndarray:
        result = diagonal * x
        result[1:] -= down * x[:-1]
        result[:-1] -= down * x[1:]
        result[:, 1:] -= across * x[:, :-1]
        result[:, :-1] -= across * x[:, 1:]
        return result

    x = _coarsely_balanced(conductance, ones, zeros)
    residual = ones - applied(x)
    enough = 1e-3 * float(np.linalg.norm(ones)) + 1e-9
    scaled = residual / diagonal
    direction, product = scaled.copy(), float((residual * scaled).sum())
    for _ in range(_ITERATIONS):
        if float(np.linalg.norm(residual)) < enough:
            break
        image = applied(direction)
        step = product / max(float((direction * image).sum()), 1e-30)
        x += step * direction
        residual -= step * image
        scaled = residual / diagonal
        product, previous = float((residual * scaled).sum()), product
        direction = scaled + product / previous * direction
    return np.clip(x, 0, 1)


def _coarsely_balanced(conductance: np.ndarray, ones: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    height, width = ones.shape
    if min(height, width) < 24:
        return (ones > zeros).astype(np.float64)
    conductance, ones, zeros = (
        values[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2)
        for values in (conductance, ones, zeros)
    )
    coarse = _balanced(conductance.min((1, 3)), ones.sum((1, 3)), zeros.sum((1, 3)))
    rows, columns = (np.minimum(np.arange(side) // 2, side // 2 - 1) for side in (height, width))
    return coarse[rows][:, columns]
