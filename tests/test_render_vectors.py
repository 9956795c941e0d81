"""The kernels' vectors of eight do what numpy does, also where numbers are odd."""

import math

import numpy as np
import pytest

from backend.render import gaussian_numba_vectors as v
from backend.render.parallel import kernel

NUMBERS = np.array([-3.5, -0.0, 0.0, 0.25, 2.5, 7.0, 1e-3, -1e4], np.float32)
OTHERS = np.array([1.5, 2.0, -1.0, 0.25, -2.5, 0.5, 3.0, 9.0], np.float32)


@kernel
def _arithmetic(x, y, out):
    a, b = v.load(x, 0), v.load(y, 0)
    v.store(out, 0, a + b)
    v.store(out, 8, a - b)
    v.store(out, 16, a * b)
    v.store(out, 24, a / b)
    v.store(out, 32, v.minimum(a, b))
    v.store(out, 40, v.maximum(a, b))
    v.store(out, 48, v.round_down(a))
    v.store(out, 56, v.round_up(a))
    v.store(out, 64, v.square_root(v.maximum(a, v.splat(np.float32(0.0)))))
    v.store(out, 72, v.minus_magnitude(a))
    v.store(out, 80, v.where((a > b) & (b >= v.splat(np.float32(0.0))), a, b))
    v.store(out, 88, v.power_of_two(b))


@kernel
def _totals(x, y, out):
    a, b = v.load(x, 0), v.load(y, 0)
    v.store(out, 0, v.totals(a, b, a + b, a - b, a * b, b * b, b, a))
    return v.total(b)


@kernel
def _bits(x, y, shift):
    return v.bits(v.load(x, 0) > v.load(y, 0)), v.lowest_bit(np.int64(5) << shift)


def test_arithmetic():
    out = np.zeros(96, np.float32)
    _arithmetic(NUMBERS, OTHERS, out)
    a, b = NUMBERS, OTHERS
    expected = [
        a + b, a - b, a * b, a / b, np.minimum(a, b), np.maximum(a, b), np.floor(a), np.ceil(a),
        np.sqrt(np.maximum(a, 0)), -np.abs(a), np.where((a > b) & (b >= 0), a, b), 2.0**b,
    ]  # fmt: skip
    for row, wanted in zip(out.reshape(-1, 8), expected, strict=True):
        assert row == pytest.approx(wanted, rel=3e-7)


def test_the_power_of_two_is_exact_to_float32():
    out = np.zeros(96, np.float32)
    for start in np.linspace(-9, 1, 101, dtype=np.float32):
        x = (start + np.linspace(0, 0.1, 8)).astype(np.float32)
        _arithmetic(NUMBERS, x, out)
        assert out[88:] == pytest.approx(2.0 ** x.astype(np.float64), rel=3e-7)


def test_sums_and_bits():
    out = np.zeros(8, np.float32)
    a, b = NUMBERS.astype(np.float64), OTHERS.astype(np.float64)
    assert _totals(NUMBERS, OTHERS, out) == pytest.approx(b.sum())
    wanted = [x.sum() for x in (a, b, a + b, a - b, a * b, b * b, b, a)]
    assert out == pytest.approx(np.array(wanted), rel=1e-6)
    mask, place = _bits(NUMBERS, OTHERS, 7)
    assert [(mask >> lane) & 1 for lane in range(8)] == (NUMBERS > OTHERS).astype(int).tolist()
    assert place == 7


def test_nan_is_neither_greater_nor_the_smaller():
    odd = NUMBERS.copy()
    odd[3] = math.nan
    assert _bits(odd, OTHERS, 0)[0] & 8 == 0
    assert _bits(OTHERS, odd, 0)[0] & 8 == 0
    out = np.zeros(96, np.float32)
    _arithmetic(odd, OTHERS, out)
    assert out[32 + 3] == out[40 + 3] == OTHERS[3]
