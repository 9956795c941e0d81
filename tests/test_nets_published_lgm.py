"""LGM at its published sizes against values that the released code gave, from pictures and cameras to Gaussians.

`pytest tests/test_nets_published_lgm.py -m slow` adds the full size (65,536 Gaussians; about a minute and 4 GB).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from backend.cameras import orbit
from backend.datatypes import Views
from backend.errors import MissingWeights
from backend.nets.lgm import BIG, SMALL, STARTER, TINY, Lgm, LgmConfig, absolute_gaussians
from backend.reconstruct.published_lgm import FOV_DEGREES, RADIUS, network_input

TOLERANCE = 5e-5
CONFIGS = {"tiny64": TINY, "tiny256": TINY, "big256": BIG}
BATCHES = {"tiny64": 2}
# SHA-256 over "key shape" lines, sorted by key, of the released code's state dicts.
KEYS_AND_SHAPES = {
    "tiny": (TINY, 244, 59_743_360, "4a0853a058d358c3dd7709bc4a8a078a1a67c6eba89d295281b98dfb80827420"),
    "small": (SMALL, 344, 412_958_240, "e35052e44c566bd90f0adb8f940f151be1a7ca7badb14deb925432a4e292a288"),
    "big": (BIG, 376, 415_042_848, "eb4869fedd595729f43f63f1f25571de7c398b84f81f4446aa1719f672f89ea9"),
}


@pytest.fixture(scope="module")
def parity() -> dict[str, Tensor]:
    with safe_open(Path(__file__).parent / "parity" / "lgm.safetensors", framework="pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        modules = json.loads(file.metadata()["modules"])
    for case, counts in modules.items():
        sizes = [count for _, count in counts]
        for part in ("idx", "val"):
            pieces = values.pop(f"{case}.act.{part}").split(sizes)
            values |= {f"{case}.act.{name}.{part}": piece for (name, _), piece in zip(counts, pieces, strict=True)}
    return values


def seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))


def reference_weights(network: nn.Module) -> None:
    """The rule by which the reference's weights were drawn: one tensor's depend on its name alone."""
    state = network.state_dict()
    for name, parameter in state.items():
        drawn = torch.randn(parameter.shape, generator=seeded(name))
        if name.endswith(".bias"):
            drawn *= 0.02
        elif parameter.ndim == 1:
            drawn = 1.0 + 0.1 * drawn
        else:
            drawn /= parameter[0].numel() ** 0.5
        state[name] = drawn
    network.load_state_dict(state, assign=True)


def built(config: LgmConfig) -> Lgm:
    with torch.device("meta"):
        network = Lgm(config)
    reference_weights(network)
    return network.eval()


def pictures_and_rays(case: str) -> Tensor:
    """[B, 4, 9, S, S]: the reference's random pictures before default cameras, prepared by the adapter."""
    size = int(case[-3:]) if case.endswith("256") else 64
    rgb = torch.rand(BATCHES.get(case, 1), 4, 3, size, size, generator=seeded(f"lgm_input:{case}"))
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 0.0, RADIUS, FOV_DEGREES, size)
    scenes = [Views(torch.cat([scene, torch.ones_like(scene[:, :1])], 1), cameras) for scene in rgb]
    return torch.stack([network_input(scene) for scene in scenes])


def check(case: str, network: Lgm, parity: dict[str, Tensor]) -> float:
    """Compares every stored value; the largest difference."""
    seen: dict[str, Tensor] = {}
    differences: dict[str, float] = defaultdict(float)

    def compare(name: str, actual: Tensor) -> None:
        expected = parity[f"{case}.{name}.val"]
        places = parity[f"{case}.{name}.idx"].long()
        flat = actual.flatten(0, 1) if name == "gaussians" else actual.flatten()
        differences[name] = float((flat[places] - expected).abs().max())

    for name in (key.split(".act.")[1][:-4] for key in parity if key.startswith(f"{case}.act.") and key[-4:] == ".val"):
        network.get_submodule(name).register_forward_hook(
            lambda module, given, result, name=name: seen.update(
                {name: (result[-1] if isinstance(result, list) else result).clone()}
            )
        )
    with torch.inference_mode():
        images = pictures_and_rays(case)
        compare("input", images)
        raw = network(images)
        rows = absolute_gaussians(raw)
        for name, value in seen.items():
            compare(f"act.{name}", value)
        compare("gaussians", rows)
    assert (rows.mean((0, 1)) - parity[f"{case}.gaussians.channel_mean"]).abs().max() < TOLERANCE
    assert len(differences) == 2 + sum(key.startswith(f"{case}.act.") for key in parity) // 2
    assert all(difference < TOLERANCE for difference in differences.values()), dict(differences)
    return max(differences.values())


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "as the adapter runs it"])
def test_tiny_computes_what_the_released_code_does(parity: dict[str, Tensor], prepared: bool) -> None:
    network = built(TINY)
    if prepared:
        network.to(memory_format=torch.channels_last).unet.fold()
    check("tiny64", network, parity)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tiny256", "big256"])
def test_full_pictures_give_what_the_released_code_gives(case: str, parity: dict[str, Tensor]) -> None:
    network = built(CONFIGS[case]).to(memory_format=torch.channels_last)
    network.unet.fold()
    print(f"{case}: largest difference {check(case, network, parity):.1e}")


def test_cameras_and_rays_are_the_released_codes(parity: dict[str, Tensor]) -> None:
    """Its elevation points down: what it calls 20 degrees are our -20."""
    elevations, azimuths, radii = parity["orbit.params"].T
    upright = elevations.abs() < 89.5
    for radius in radii.unique():
        rows = (radii == radius) & upright
        ours = orbit(azimuths[rows], -elevations[rows], float(radius), FOV_DEGREES, 8).camera_to_world
        assert (ours - parity["orbit.pose_opengl"][rows]).abs().max() < 1e-5
    for name in ("elev0", "elev30", "elev-30"):
        assert (rays(float(name[4:]), 8) - parity[f"rays8.{name}"]).abs().max() < 1e-5
    for name in ("elev0", "elev20"):
        ours = rays(float(name[4:]), 256)
        assert (ours.flatten()[parity[f"rays256.{name}.idx"].long()] - parity[f"rays256.{name}.val"]).abs().max() < 1e-5
        rows, columns = torch.tensor([0, 0, 255, 255, 127, 128]), torch.tensor([0, 255, 0, 255, 127, 128])
        corners = ours[:, :, rows, columns].transpose(1, 2)
        assert (corners - parity[f"rays256.{name}.corners"]).abs().max() < 1e-5


def rays(elevation: float, size: int) -> Tensor:
    cameras = orbit([0.0, 90.0, 180.0, 270.0], -elevation, RADIUS, FOV_DEGREES, size)
    return network_input(Views(torch.ones(4, 4, size, size), cameras))[:, 3:]


@pytest.mark.parametrize("name", list(KEYS_AND_SHAPES))
def test_keys_and_shapes_are_the_released_codes(name: str) -> None:
    config, tensors, parameters, digest = KEYS_AND_SHAPES[name]
    with torch.device("meta"):
        state = Lgm(config).state_dict()
    lines = "\n".join(f"{key} {list(value.shape)}" for key, value in sorted(state.items()))
    assert (len(state), sum(value.numel() for value in state.values())) == (tensors, parameters)
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        SMALL,
        BIG,
        LgmConfig(
            down=(32, 32, 64), down_attention=(False, True, True), up=(64, 32), up_attention=(False,) * 2, layers=1
        ),
        LgmConfig(inputs=5, down=(32, 32, 32), down_attention=(False,) * 3, up=(32, 32, 32), up_attention=(True,) * 3),
    ],
)
def test_the_config_is_read_from_shapes(config: LgmConfig) -> None:
    with torch.device("meta"):
        state = Lgm(config).state_dict()
    assert LgmConfig.from_shapes({key: tuple(value.shape) for key, value in state.items()}) == config


def test_other_weights_are_no_lgm() -> None:
    with pytest.raises(MissingWeights, match=r"unet\.conv_in\.weight"):
        LgmConfig.from_shapes({"encoder.weight": (3, 3)})
    with pytest.raises(MissingWeights, match="stages"):
        LgmConfig.from_shapes({"unet.conv_in.weight": (64, 9, 3, 3)})


def test_folded_upsampling_is_the_same_and_training_never_sees_it() -> None:
    torch.manual_seed(0)
    network = Lgm(STARTER).eval()
    images = torch.randn(1, 4, 11, 32, 48)
    with torch.inference_mode():
        plain = network(images)
        network.unet.fold()
        folded = network(images)
        network.unet.fold(False)
        assert torch.equal(network(images), plain)
    assert 0 < (folded - plain).abs().max() < 1e-5
    network.unet.fold()
    network(images).sum().backward()
    assert network.unet.up_blocks[0].upsample.weight.grad.abs().max() > 0
    assert torch.equal(network(images).detach(), plain)


def test_half_precision_keeps_its_last_layers_fine() -> None:
    torch.manual_seed(0)
    sizes = {
        "down": (32, 32, 64),
        "down_attention": (False, False, True),
        "up": (64, 32),
        "up_attention": (True, False),
    }
    network = Lgm(LgmConfig(**sizes, layers=1)).eval()
    images = torch.randn(1, 4, 9, 16, 16)
    with torch.inference_mode():
        plain = network(images)
        network.half()
        for fine in (network.unet.norm_out, network.unet.conv_out, network.conv):
            fine.float()
        network.unet.fold()
        halved = network(images)
    assert halved.dtype == torch.float32
    assert 0 < (halved - plain).abs().max() < 5e-3
