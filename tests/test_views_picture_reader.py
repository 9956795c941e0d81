"""Reading a picture's kind and camera: the network's outputs, what is made of them, and examples that say the truth."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from backend.cameras import orbit
from backend.errors import MissingWeights
from backend.nets.picture_reader import PictureReader, PictureReaderConfig
from backend.training.dataset import picture_batch
from backend.training.picture_reader import KINDS, losses, new_network
from backend.training.world.scene import sample_object
from backend.training.world.tracer import render_batch
from backend.views.dmv3d import FOV_DEGREES, RADIUS
from backend.views.picture_reader import Reading, StarterPictureReader, peak_azimuth
from backend.views.signed import to_signed
from backend.weights import save_checkpoint

SMALL = PictureReaderConfig(kinds=3, image_size=32, azimuth_bins=12, widths=(8, 16), hidden=16)


def test_the_peak_of_the_bins_goes_round_the_circle() -> None:
    logits = torch.full((36,), -9.0)
    logits[[35, 0, 1]] = torch.tensor([2.0, 2.5, -9.0])
    assert 350.0 < peak_azimuth(logits) < 360.0
    logits[[35, 0, 1]] = torch.tensor([0.0, 3.0, 0.0])
    assert peak_azimuth(logits) == pytest.approx(0.0, abs=1e-4)
    logits[35], logits[34] = 5.0, 4.0
    assert 340.0 < peak_azimuth(logits) < 350.0


def test_what_looks_alike_from_all_sides_has_the_pictured_one_in_front() -> None:
    logits = torch.zeros(36)
    logits[20] = 0.5
    assert peak_azimuth(logits) == 0.0
    logits[20] = 3.0
    assert peak_azimuth(logits) == pytest.approx(200.0, abs=0.1)


@pytest.mark.parametrize(
    ("azimuth", "words"),
    [(5.0, "the front"), (352.0, "the front"), (178.0, "behind"), (40.0, "40° right of the front"),
     (270.0, "90° left of the front")],
)  # fmt: skip
def test_a_reading_says_where_the_camera_stood(azimuth: float, words: str) -> None:
    assert str(Reading("mug", 0.9, azimuth, 20.0)) == f"mug, seen from {words}"
    assert str(Reading(None, 0.2, azimuth, 20.0)).startswith("object, seen")


def test_a_checkpoint_reads_as_the_network_it_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PictureReader(SMALL).eval()
    save_checkpoint(
        tmp_path / "reader.safetensors",
        network.state_dict(),
        {"config": SMALL.to_dict(), "kinds": ["a", "b", "c"]},
        None,
    )
    reader = StarterPictureReader.load(tmp_path / "reader.safetensors")
    picture = torch.rand(4, 32, 32)
    reading = reader.read(picture)
    assert reading == StarterPictureReader(network, ["a", "b", "c"]).read(picture)
    assert (reading.kind, reading.azimuth) == (None, 0.0)  # an untrained network is certain of nothing
    network.kind.bias.data[1] = 50.0
    assert StarterPictureReader(network, ["a", "b", "c"]).read(picture).kind == "b"
    with pytest.raises(MissingWeights, match="absent"):
        StarterPictureReader.load(tmp_path / "absent.safetensors")


def test_examples_show_what_they_say() -> None:
    batch = picture_batch(5, 0, 6, 48)
    assert torch.equal(batch.pictures, picture_batch(5, 0, 6, 48).pictures)
    for index, (kind, azimuth, elevation) in enumerate(zip(batch.kinds, batch.azimuths, batch.elevations, strict=True)):
        example = sample_object(5, index)
        assert kind == example.kind
        outlines = []
        for turn in (0.0, 180.0):
            camera = orbit([math.degrees(azimuth) + turn], [math.degrees(elevation)], RADIUS, FOV_DEGREES, 48)
            alpha = render_batch([example.rows], [camera])[0][0, 0, 3] > 0.5
            outlines.append(_cut(alpha.float()))
        shown = _cut((batch.pictures[index, 3] > 0.5).float())
        same, behind = ((shown - outline).abs().mean() for outline in outlines)
        assert same < 0.12
        assert same <= behind + 0.02


def _cut(alpha: torch.Tensor) -> torch.Tensor:
    """The object's outline, whatever its place and size."""
    rows, columns = alpha.nonzero().unbind(1)
    part = alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return torch.nn.functional.interpolate(part[None, None], size=(24, 24), mode="area")[0, 0]


def test_a_few_steps_learn_a_few_pictures() -> None:
    torch.manual_seed(0)
    network, batch = new_network(32).eval(), picture_batch(0, 0, 8, 32)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(80):
        terms = losses(network, batch, batch.pictures, "cpu")
        optimizer.zero_grad()
        (terms["kind"] + terms["azimuth"] + 2 * terms["elevation"]).backward()
        optimizer.step()
    assert float(terms["kind"].detach()) < 0.1
    assert float(terms["azimuth"].detach()) < 0.3
    assert [KINDS[int(i)] for i in network(to_signed(batch.pictures))[0].argmax(1)] == batch.kinds
