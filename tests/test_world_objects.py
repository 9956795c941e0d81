"""The world: every kind in frame, described truly, the same everywhere, and rendered as its distances say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.cameras import orbit, rays
from backend.datatypes import CANONICAL_SIZE
from backend.training.world.palette import COLORS
from backend.training.world.primitives import (
    BOX,
    CAPSULE,
    COLUMNS,
    CONE,
    ELLIPSOID,
    POLYGON_CONE,
    POSITION,
    PRISM,
    TORUS,
    local_distance,
)  # fmt: skip
from backend.training.world.scene import KINDS, sample_object
from backend.training.world.tracer import render_batch, render_object, signed_distances, trace_rays
from backend.vocabulary import KIND_WORDS, Vocabulary

FRONT = orbit([0.0, 90.0, 180.0, 270.0], 20.0, 3.0, 50.0, 48)


def _primitive(shape: int, *size: float) -> np.ndarray:
    row = np.zeros(COLUMNS, np.float32)
    row[0], row[2 : 2 + len(size)] = shape, size
    return row


def test_there_are_kinds_enough_and_the_vocabulary_knows_them_all() -> None:
    assert len(KINDS) >= 20
    assert len(COLORS) >= 12
    assert set(KINDS) == set(KIND_WORDS)


def test_an_object_is_decided_by_its_seed_alone() -> None:
    one, same, other = sample_object(3, 5), sample_object(3, 5), sample_object(4, 5)
    assert one.caption == same.caption
    assert np.array_equal(one.rows, same.rows)
    assert one.rows.shape != other.rows.shape or not np.array_equal(one.rows, other.rows)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_fills_the_canonical_frame_and_stays_inside_the_picture(kind: str) -> None:
    for index in range(4):
        example = sample_object(11, index, kind)
        rgba = render_object(example.rows, FRONT).rgba
        alpha = rgba[:, 3]
        assert alpha.amax() == 1
        border = torch.cat([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], 1)
        assert border.max() == 0, f"{example.caption} leaves the frame"
        grid = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 60_000, 3)).astype(np.float32))
        inside = grid[0][signed_distances([example.rows], grid)[0] < 0]
        longest = float((inside.amax(0) - inside.amin(0)).max())
        assert 0.75 * CANONICAL_SIZE < longest <= CANONICAL_SIZE * 1.01


def test_captions_speak_only_known_words_and_name_the_kind_and_its_colour() -> None:
    vocabulary = Vocabulary()
    colored = 0
    for index in range(300):
        example = sample_object(7, index)
        encoding = vocabulary.encode(example.caption)
        assert encoding.unknown == [], example.caption
        assert example.kind in vocabulary.kinds(encoding.tokens)
        assert not encoding.truncated
        words = example.caption.split()
        colored += example.main.name.split()[-1] in words
        if example.main.pattern_name == "plain" and example.main.name in example.caption:
            assert example.main.name.split()[-1] in COLORS
    assert colored > 200


def test_captions_say_every_word_of_the_vocabulary() -> None:
    vocabulary = Vocabulary()
    said = {token for index in range(4000) for token in vocabulary.encode(sample_object(0, index).caption).tokens}
    assert [word for number, word in enumerate(vocabulary.tokens) if number not in said] == ["<no text>"]


def test_the_captions_colour_is_what_the_picture_shows() -> None:
    checked = 0
    for index in range(200):
        example = sample_object(2, index)
        if example.kind not in ("sofa", "bottle", "pumpkin", "hammer") or example.main.pattern_name != "plain":
            continue
        view = render_object(example.rows, orbit([0.0], 20.0, 3.0, 50.0, 48)).rgba[0]
        pixels = view[:3, view[3] > 0.9].T
        near = (pixels - torch.tensor(example.main.rgb)).abs().amax(1) < 0.35
        assert near.float().mean() > 0.05, example.caption
        checked += 1
    assert checked > 5


def test_turning_an_object_is_walking_round_it() -> None:
    example = sample_object(1, 2, "mug")
    walked = render_object(example.rows, orbit([320.0], 15.0, 3.0, 50.0, 64)).rgba
    turned = render_object(example.placed(40.0), orbit([0.0], 15.0, 3.0, 50.0, 64)).rgba
    assert (walked - turned).abs().mean() < 2e-3


def test_scaling_and_moving_an_object() -> None:
    example = sample_object(1, 4, "chair")
    shift = np.array([0.1, -0.2, 0.3], np.float32)
    points = torch.rand(1, 500, 3) * 2 - 1
    moved = signed_distances([example.placed(0.0, 0.5, shift)], points * 0.5 + torch.from_numpy(shift))
    assert torch.allclose(moved, 0.5 * signed_distances([example.rows], points), atol=2e-4)


@pytest.mark.parametrize(
    ("row", "surface"),
    [
        (_primitive(ELLIPSOID, 0.3, 0.5, 0.4), [(0.3, 0, 0), (0, 0.5, 0), (0, 0, -0.4)]),
        (_primitive(BOX, 0.3, 0.2, 0.4, 0.05), [(0.3, 0, 0), (0, -0.2, 0), (0, 0, 0.4)]),
        (_primitive(CONE, 0.5, 0.4, 0.2, 0.02), [(0, 0.5, 0), (0, -0.5, 0.1), (0.3, 0, 0)]),
        (_primitive(TORUS, 0.5, 0.1, 1.0), [(0.6, 0, 0), (0, 0.1, 0.5)]),
        (_primitive(CAPSULE, 0.3, 0.2, 0.1), [(0, 0.4, 0), (0, -0.5, 0)]),
        (_primitive(PRISM, 0.4, 0.3, 0.5), [(0, 0.3, 0), (0.4, -0.3, 0), (0, -0.3, 0.1), (0.2, 0, 0)]),
        (_primitive(POLYGON_CONE, 4.0, 0.4, 0.2, 0.5), [(0.3, 0, 0), (0, 0.5, 0), (0, -0.5, 0.1)]),
    ],
)  # fmt: skip
def test_distances_vanish_on_the_surface_and_have_their_sign(row: np.ndarray, surface: list[tuple]) -> None:
    for point in surface:
        assert abs(local_distance(row, *map(float, point))) < 2e-3
        outward = point if row[0] != TORUS else (point[0] * 2, point[1] * 2, point[2])
        assert local_distance(row, *(1.3 * c for c in outward)) > 0
    centre = (0.5, 0.0, 0.0) if row[0] == TORUS else (0.0, 0.0, 0.0)
    assert local_distance(row, *centre) < 0


def test_a_pixel_shows_what_its_ray_hits() -> None:
    example = sample_object(9, 1, "barrel")
    cameras = orbit([30.0], 10.0, 3.0, 50.0, 40)
    rgba, distance = render_batch([example.rows], [cameras])
    origins, directions = (x.reshape(1, -1, 3).contiguous() for x in rays(cameras))
    traced, reached = trace_rays([example.rows], origins, directions)
    certain = torch.tensor([0.0, 1.0])[:, None] == rgba[0, 0, 3].reshape(1, -1)
    same = (traced[0, :, 3] == rgba[0, 0, 3].reshape(-1)) | ~certain.any(0)
    assert same.all()
    assert torch.allclose(reached[0], distance[0, 0].reshape(-1), atol=1e-3)
    hit = origins[0] + directions[0] * reached[0, :, None]
    on_surface = signed_distances([example.rows], hit[None].contiguous())[0][traced[0, :, 3] > 0]
    assert on_surface.abs().max() < 5e-3


def test_light_darkens_but_never_moves_anything() -> None:
    example = sample_object(9, 2, "sofa")
    cameras = orbit([0.0], 20.0, 3.0, 50.0, 48)
    bare = render_object(example.rows, cameras).rgba
    lit = render_object(example.rows, cameras, np.array([0.0, 1.0, 0.0, 0.4], np.float32)).rgba
    assert torch.equal(bare[:, 3], lit[:, 3])
    assert (lit[:, :3] <= bare[:, :3] + 1e-5).all()
    assert (bare[:, :3] - lit[:, :3]).max() > 0.1
    assert example.rows[:, POSITION].size
