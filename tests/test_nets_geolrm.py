"""GeoLRM's network against what the released code computes, part by part and as a whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.errors import MissingWeights
from backend.nets import geolrm_attention
from backend.nets.dinov2 import Dinov2Config
from backend.nets.geolrm import GeoLrm, finish, project, projection, select_anchors, voxel_index
from backend.nets.geolrm_attention import deformable_sampling, rotary_table, rotate, sampling_by_grid
from backend.nets.geolrm_config import GeoLrmConfig, StageConfig, split_lightning
from backend.nets.geolrm_encoder import ray_embedding
from backend.weights import load_into

FOLDER = Path(__file__).parent / "parity"
TOLERANCE = 1e-4
DINO = Dinov2Config(48, 2, 4, 14, 5)
SMALL = GeoLrmConfig(
    StageConfig(48, 2, 4, 3, 32, DINO), StageConfig(96, 2, 4, 3, 32, DINO), grid=16, block=4, gaussians=4
)
ATTENTION = {"released_fp32": "heads", "token_attn": "tokens"}


class Parity:
    """Values that the released code gave. The reference's large tensors are 256 values at random places; all are
    rounded to 2^-16 and kept as the three planes of bytes of 24-bit integers."""

    def __init__(self) -> None:
        with np.load(FOLDER / "geolrm.npz") as file:
            arrays = {name: file[name] for name in file.files}
        table = json.loads(arrays.pop("table").tobytes())
        planes, index = arrays.pop("planes"), arrays.pop("index")
        wide = np.zeros((planes.shape[1], 4), np.uint8)
        wide[:, 1:] = planes.T
        values = (wide.view("<i4")[:, 0] >> 8).astype(np.float32) / 65536
        self.counts: dict[str, list[int]] = table["counts"]
        self.exact = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.values: dict[str, tuple[Tensor, Tensor | None]] = {}
        at = at_index = 0
        for name, shape, kind in table["tensors"]:
            count = int(np.prod(shape))
            places = None
            if kind != "full":
                places = torch.from_numpy(index[at_index : at_index + count].astype(np.int64))
                at_index += count
            if kind == "int":
                self.values[name] = (places.reshape(shape), None)  # type: ignore[union-attr]
                continue
            self.values[name] = (torch.from_numpy(values[at : at + count]).reshape(shape), places)
            at += count
        self.checked: set[str] = set()

    def whole(self, name: str) -> Tensor:
        """A small tensor."""
        return self.values[name][0]

    def check(self, name: str, actual: Tensor) -> None:
        """Fails where `actual` is farther than TOLERANCE from the values under `name`."""
        expected, places = self.values[name]
        actual = actual.flatten() if places is None else actual.flatten()[places]
        assert (actual - expected.flatten()).abs().max() < TOLERANCE, name
        self.checked.add(name)


@pytest.fixture(scope="module")
def parity() -> Parity:
    return Parity()


def _noise(key: str, *shape: int) -> Tensor:
    """Numbers that depend on a name alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _weight(key: str, shape: torch.Size) -> Tensor:
    """The reference's rule for a weight."""
    value = _noise(key, *shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        return 1 + 0.1 * value.abs()
    if re.search(r"(norm\d?|deconv\.1|low_level_encoder\.1)\.weight$|norm\.weight$|lambda1$", key):
        return 1 + 0.1 * value
    if key.endswith(("cls_token", "mask_token", "position_embeddings")):
        return 0.5 * value
    if key.endswith("query_token"):
        return value
    return 0.02 * value if len(shape) == 1 else value / np.prod(shape[1:]) ** 0.5


def _network(attention: str, extent: float = 1.0) -> GeoLrm:
    config = GeoLrmConfig(**{**vars(SMALL), "attention": attention, "rope_extent": extent})
    network = GeoLrm(config).eval()
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    load_into(network, {key: _weight(key, shape) for key, shape in shapes.items()}, "the reference's rule")
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(parity: Parity) -> tuple[Tensor, Tensor, Tensor]:
    seed = int.from_bytes(hashlib.sha256(b"input:images").digest()[:4], "little")
    images = torch.rand((1, 3, 3, 84, 84), generator=torch.Generator().manual_seed(seed))[0]
    return images, parity.exact["input.c2w"][0], parity.exact["input.K"][0]


def _anchors(parity: Parity) -> Tensor:
    """The reference's anchors, not rounded: voxels of 16^3."""
    ticks = torch.linspace(-1, 1, 16) * 0.5
    return ticks[((parity.whole("lrm.anchors")[0] + 0.5) * 15).round().long()]


class Watch:
    """What the modules of a network gave while it ran, under the reference's names."""

    def __init__(self, stage: Any) -> None:
        self.seen: dict[str, list[Tensor]] = defaultdict(list)
        encoder = stage.encoder
        self._keep("dino.embeddings", encoder.model.embeddings)
        for i, layer in enumerate(encoder.model.encoder["layer"]):
            self._keep(f"dino.layer{i}", layer)
        self._keep("dino.feature_map", encoder.model)
        self._keep("high_level_feature", encoder.deconv)
        self._keep("low_level_feature", encoder.low_level_encoder)
        self._keep("image_feats", encoder)
        for i, block in enumerate(stage.transformer.layers):
            self._keep(f"block{i}.self_attention", block.self_attention)
            self._keep(f"block{i}.deformable_per_view", block.cross_attention.deformable_attention)
            self._keep(f"block{i}.feed_forward", block.feed_forward)
            self._keep(f"block{i}.out", block)
            name = f"block{i}.cross_attention_incl_residual"
            block.ffn_norm.register_forward_pre_hook(lambda _, given, name=name: self.seen[name].append(given[0]))
        self._keep("norm_out", stage.transformer.norm)
        self._keep("latents", stage.transformer.norm)
        if hasattr(stage, "renderer"):
            self._keep("head_raw", stage.renderer.latent_decoder)

    def _keep(self, name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, given, result: self.seen[name].append(result))

    def __getitem__(self, name: str) -> Tensor:
        return torch.stack(self.seen[name])


def test_a_published_checkpoint_has_exactly_these_keys_and_shapes() -> None:
    expected = {}
    for line in (FOLDER / "geolrm_keys.txt").read_text().splitlines():
        key, shape, *dtype = line.split()
        last = re.search(r"0-(\d+)", key)
        for layer in range(int(last[1]) + 1) if last else [None]:
            name = re.sub(r"0-\d+", str(layer), key) if last else key
            expected[name] = (tuple(int(n) for n in shape.split("x")) if shape != "-" else (), *dtype)
    with torch.device("meta"):
        state = GeoLrm(GeoLrmConfig()).state_dict()
    actual = {
        key: (tuple(value.shape), *(["int64"] if value.dtype == torch.int64 else [])) for key, value in state.items()
    }
    assert len(expected) == 920
    assert actual == expected


@pytest.mark.parametrize(
    ("config", "heads", "dino_heads"),
    [
        (GeoLrmConfig(), 16, 0),
        (SMALL, 4, 4),
        (
            GeoLrmConfig(
                StageConfig(192, 3, 8, 4, 64, Dinov2Config(384, 4, 6)),
                StageConfig(384, 5, 8, 2, 128, Dinov2Config(768, 2, 12, 14, 16)),
                grid=64,
                block=2,
                gaussians=1,
            ),
            8,
            0,
        ),
    ],
)
def test_the_configuration_is_read_from_shapes(config: GeoLrmConfig, heads: int, dino_heads: int) -> None:
    with torch.device("meta"):
        state = GeoLrm(config).state_dict()
    assert GeoLrmConfig.from_state(state, heads, dino_heads, config.grid) == config
    assert GeoLrmConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_other_weights_are_refused_by_name() -> None:
    with pytest.raises(MissingWeights, match="serializer"):
        GeoLrmConfig.from_state({"unet.conv_in.weight": torch.zeros(1)})


def test_a_lightning_checkpoint_is_split() -> None:
    with torch.device("meta"):
        network = GeoLrm(SMALL)
    own = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in network.state_dict().items()}
    ours, loss = split_lightning({**own, "lpips.net.slice1.0.weight": torch.zeros(2)})
    assert list(loss) == ["lpips.net.slice1.0.weight"]
    load_into(GeoLrm(SMALL), ours, "geolrm.ckpt")
    surplus, _ = split_lightning({**own, "teacher.weight": torch.zeros(2)})
    with pytest.raises(MissingWeights, match=r"teacher\.weight"):
        load_into(network, surplus, "geolrm.ckpt")


@pytest.mark.parametrize("width", [12, 24, 48])
def test_rope(parity: Parity, width: int) -> None:
    table = rotary_table(parity.whole("rope.pos")[0], width)
    parity.check(f"rope.d{width}.out_base10000", rotate(parity.exact[f"rope.d{width}.in"][0], table))


def test_rope_indices_are_truncated_as_released(parity: Parity) -> None:
    anchors = _anchors(parity)
    for extent in ("0.5", "1.0"):
        index = voxel_index(anchors, float(extent), 16)
        assert torch.equal(index, parity.whole(f"lrm.rope_index.xyz_scale_{extent}")[0])
    coarse = voxel_index(torch.linspace(-1, 1, 16) * 0.5, 0.5, 128)
    assert coarse.tolist() == [0, 8, 16, 25, 33, 42, 50, 59, 67, 76, 84, 93, 101, 110, 118, 127]


@pytest.mark.parametrize("sample", [deformable_sampling, sampling_by_grid])
def test_deformable_sampling(parity: Parity, sample: Any) -> None:
    levels = [(7, 5), (4, 6)]
    size = torch.tensor([[5, 7], [6, 4]])[:, None]
    value, weights = parity.exact["msda.value"], parity.exact["msda.weights"]
    offsets = parity.exact["msda.locations"] * size
    origin = torch.zeros(offsets.shape[1], 2)
    results = [sample(value[i], levels, origin, offsets[i], weights[i]) for i in range(2)]
    parity.check("msda.out", torch.stack(results))


def test_sampling_in_pieces_and_from_far_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [(6, 6), (3, 3)]
    value, offsets = _noise("value", 45, 2, 8), 3 * _noise("offsets", 50, 2, 2, 4, 2)
    places, weights = _noise("places", 50, 2), _noise("weights", 50, 2, 2, 4)
    places[:3] = torch.tensor([[1e9, 0.5], [-1e9, -1e9], [0.5, 1.0]])
    whole = deformable_sampling(value, levels, places, offsets, weights)
    assert torch.allclose(whole, sampling_by_grid(value, levels, places, offsets, weights), atol=1e-5)
    assert float(whole[:2].abs().max()) == 0.0
    monkeypatch.setattr(geolrm_attention, "_ENTRIES_AT_ONCE", 700)
    assert torch.equal(deformable_sampling(value, levels, places, offsets, weights), whole)


def test_sampling_has_gradients() -> None:
    levels, places = [(3, 3)], torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    tensors = [_noise(name, *shape).double().requires_grad_() for name, shape in
               (("v", (9, 1, 2)), ("o", (1, 1, 1, 2, 2)), ("w", (1, 1, 1, 2)))]  # fmt: skip
    assert torch.autograd.gradcheck(
        lambda value, offsets, weights: deformable_sampling(value, levels, places, offsets, weights), tensors
    )


def test_cross_attention_alone(parity: Parity) -> None:
    network = _network("heads")
    attention = network.lrm_generator.transformer.layers[0].cross_attention
    seen: list[Tensor] = []
    attention.deformable_attention.register_forward_hook(lambda _, given, result: seen.append(result))
    seed = int.from_bytes(hashlib.sha256(b"dca:ref").digest()[:4], "little")
    places = torch.rand((1, 3, 10, 2), generator=torch.Generator().manual_seed(seed))[0] * 1.2 - 0.1
    query, features = _noise("dca:query", 1, 10, 96)[0], _noise("dca:value", 1, 3, 585, 32)[0]
    result = attention(query, features, [(21, 21), (12, 12)], places)
    parity.check("dca.per_view_before_fusion", torch.stack(seen))
    parity.check("dca.out", query + result)
    turned = attention(query, features.flip(0), [(21, 21), (12, 12)], places.flip(0))
    assert torch.allclose(turned, result, atol=1e-5)


def test_rays_and_projection(parity: Parity, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    _, camera_to_world, intrinsics = inputs
    parity.check("ray_embedding", ray_embedding(camera_to_world, intrinsics, 84, 84))
    matrix = projection(camera_to_world, intrinsics)
    parity.check("proj_matrix", matrix)
    parity.check("lrm.reference_points_cam", project(_anchors(parity), matrix))


@pytest.mark.parametrize("behaviour", ["released_fp32", "token_attn"])
def test_the_proposal_network(parity: Parity, inputs: tuple[Tensor, Tensor, Tensor], behaviour: str) -> None:
    stage = _network(ATTENTION[behaviour]).serializer
    watch = Watch(stage)
    logits = stage(*inputs)
    parity.check(f"{behaviour}.occupancy_logits", logits)
    for name in list(watch.seen):
        place = f"{behaviour}.serializer.{name}" if name.startswith(("block", "norm_out")) else f"serializer.{name}"
        if place in parity.values:
            parity.check(place, watch[name])
    assert stage.encoder.levels(84, 84) == [(21, 21), (12, 12)]
    assert parity.counts[f"{behaviour}.occupied_count"] == [int((logits > 0).sum())]
    parity.check(f"{behaviour}.anchors_256", select_anchors(logits, 256, 1234))
    padded = select_anchors(logits, 4096, 1234, pad=True)
    parity.check(f"{behaviour}.anchors_4096", padded)
    assert parity.counts[f"{behaviour}.anchor_valid_count_4096"] == [len(select_anchors(logits, 4096, 1234))]


@pytest.mark.parametrize(("behaviour", "extent"), [("released_fp32", 1.0), ("token_attn", 1.0), ("token_attn", 0.5)])
def test_the_reconstruction_network(
    parity: Parity, inputs: tuple[Tensor, Tensor, Tensor], behaviour: str, extent: float
) -> None:
    stage = _network(ATTENTION[behaviour], extent).lrm_generator
    watch = Watch(stage)
    rows = stage(*inputs, _anchors(parity))
    stem = f"{behaviour}.lrm.xyz_scale_{extent}"
    for name in list(watch.seen):
        place = f"{stem}.{name}" if name.startswith(("block", "norm_out", "latents", "head_raw")) else f"lrm.{name}"
        if place in parity.values:
            parity.check(place, watch[name])
    names = ("means", "opacity", "scales", "rotations", "rgb")
    for name, part in zip(names, rows.split([3, 1, 3, 4, 3], -1), strict=True):
        parity.check(f"{stem}.gaussian_{name}", part)
    assert parity.counts[f"{stem}.kept_opacity_ge_0p005"] == [int((rows[:, 3] >= 0.005).sum())]


def test_nothing_of_the_reference_was_left_out(parity: Parity) -> None:
    """What the tests above compared is everything that the reference holds, but for inputs and integers."""
    if len(parity.checked) < 50:
        pytest.skip("needs the other tests of this file")
    left = {name for name in parity.values if name not in parity.checked}
    assert left == {"rope.pos", "lrm.anchors", "lrm.rope_index.xyz_scale_0.5", "lrm.rope_index.xyz_scale_1.0"}


def test_anchor_selection_obeys_its_seed() -> None:
    logits = _noise("logits", 8, 8, 8)
    assert torch.equal(select_anchors(logits, 50, 1), select_anchors(logits, 50, 1))
    assert not torch.equal(select_anchors(logits, 50, 1), select_anchors(logits, 50, 2))
    everything = select_anchors(logits, 512, 1)
    assert len(everything) == int((logits > 0).sum())
    assert float(everything.abs().max()) == 0.5


def test_a_step_is_seen_for_the_encoder_and_every_layer(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    stage = _network("heads").serializer
    steps = stage.steps(*inputs)
    assert next(steps) is None
    assert next(steps) is None
    assert torch.equal(finish(steps), stage(*inputs))


def test_lower_precision_stays_near_and_keeps_its_results_float32(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    anchors = _noise("anchors", 16, 3).clamp(-1, 1) * 0.4
    exact = _network("tokens").lrm_generator(*inputs, anchors)
    rough = _network("tokens").in_precision(torch.bfloat16).lrm_generator(*inputs, anchors)
    assert rough.dtype == torch.float32
    assert float((rough - exact)[:, :3].abs().max()) < 0.02
    assert 0 < float((rough - exact).abs().max()) < 0.3
