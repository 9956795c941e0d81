"""The rasteriser given broken Gaussians, none at all, wrong shapes, and machines that lack something."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.errors import BadInput
from backend.render import rasterize
from backend.render.rasterize import rasterization

NAMES = ("means", "quats", "scales", "opacities", "colors")


def one_gaussian(**changes):
    """A round Gaussian of standard deviation 0.1 at the origin, two units before the camera."""
    values = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), 0.1),
        "opacities": torch.tensor([0.8]),
        "colors": torch.tensor([[0.2, 0.5, 0.9]]),
    }
    values.update(changes)
    viewmats = torch.eye(4)[None].clone()
    viewmats[:, 2, 3] = 2.0
    Ks = torch.tensor([[[100.0, 0.0, 16.5], [0.0, 100.0, 16.5], [0.0, 0.0, 1.0]]])
    return [*values.values(), viewmats, Ks, 33, 33]


def broken_cases():
    nan, inf = math.nan, math.inf
    return {
        "nan mean": {"means": torch.tensor([[nan, 0.0, 0.0]])},
        "infinite mean": {"means": torch.tensor([[inf, 0.0, 0.0]])},
        "huge mean": {"means": torch.tensor([[1e38, 0.0, 1e38]])},
        "behind the camera": {"means": torch.tensor([[0.0, 0.0, -5.0]])},
        "in the camera's plane": {"means": torch.tensor([[0.3, 0.0, -2.0]])},
        "nan scale": {"scales": torch.tensor([[0.1, nan, 0.1]])},
        "infinite scale": {"scales": torch.tensor([[0.1, inf, 0.1]])},
        "zero quat": {"quats": torch.zeros(1, 4)},
        "nan quat": {"quats": torch.full((1, 4), nan)},
        "opacity 0": {"opacities": torch.zeros(1)},
        "opacity nan": {"opacities": torch.full((1,), nan)},
        "outside the picture": {"means": torch.tensor([[9.0, 0.0, 0.0]])},
    }


@pytest.mark.parametrize("name", broken_cases())
@pytest.mark.parametrize("fast", [True, False])
def test_broken_gaussians_are_left_out(name, fast, monkeypatch):
    """Beside a sound Gaussian: neither its picture nor anyone's gradient may suffer."""
    monkeypatch.setattr(rasterize, "numba_present", lambda: fast)
    sound, broken = one_gaussian(), one_gaussian(**broken_cases()[name])
    both = [torch.cat([a, b]).requires_grad_() for a, b in zip(sound[:5], broken[:5], strict=True)]
    image, alphas, meta = rasterization(*both, *sound[5:], render_mode="RGB+D")
    expected, _, _ = rasterization(*sound, render_mode="RGB+D")
    torch.testing.assert_close(image, expected)
    assert meta["radii"][0, 1].tolist() == [0, 0]
    (image.sum() + alphas.sum()).backward()
    for name_, tensor in zip(NAMES, both, strict=True):
        assert torch.isfinite(tensor.grad).all(), name_
        assert (tensor.grad[1] == 0).all(), name_


@pytest.mark.parametrize("fast", [True, False])
def test_points_and_giants_are_drawn(fast, monkeypatch):
    monkeypatch.setattr(rasterize, "numba_present", lambda: fast)
    point, _, _ = rasterization(*one_gaussian(scales=torch.zeros(1, 3)))
    assert point[0, 16, 16].sum() > 0.5
    assert (point > 0).any(-1).sum() < 20
    giant, alphas, _ = rasterization(*one_gaussian(scales=torch.full((1, 3), 1e4)))
    assert torch.isfinite(giant).all()
    assert alphas.min() > 0.79


@pytest.mark.parametrize("fast", [True, False])
def test_no_gaussians(fast, monkeypatch):
    monkeypatch.setattr(rasterize, "numba_present", lambda: fast)
    scene = one_gaussian()
    empty = [tensor[:0].requires_grad_() for tensor in scene[:5]]
    image, alphas, _ = rasterization(*empty, *scene[5:], backgrounds=torch.full((1, 3), 0.25))
    assert (image == 0.25).all()
    assert (alphas == 0).all()
    if image.requires_grad:
        image.sum().backward()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sh_degree": 3}, "sh_degree"),
        ({"rasterize_mode": "antialiased"}, "rasterize_mode"),
        ({"camera_model": "fisheye"}, "camera_model"),
        ({"render_mode": "XYZ"}, "render_mode"),
        ({"backgrounds": torch.zeros(1, 4)}, "backgrounds"),
        ({"absgrad": True}, "absgrad"),
    ],
)
def test_what_it_cannot_do_is_said(change, word):
    with pytest.raises(BadInput, match=word):
        rasterization(*one_gaussian(), **change)


def test_wrong_shapes_are_said():
    scene = one_gaussian()
    for position, name in enumerate([*NAMES, "viewmats", "Ks"]):
        broken = list(scene)
        broken[position] = torch.zeros(7, 2)
        with pytest.raises(BadInput):
            rasterization(*broken)
        assert name
    with pytest.raises(BadInput, match="width"):
        rasterization(*scene[:7], 0, 5)
    cameras_with_gradient = [*scene[:5], scene[5].requires_grad_(), *scene[6:]]
    with pytest.raises(BadInput, match="cameras"):
        rasterization(*cameras_with_gradient)


def test_gsplat_is_used_only_when_its_extension_is_there(monkeypatch):
    rasterize.compiled_gsplat.cache_clear()
    monkeypatch.setitem(sys.modules, "gsplat.csrc", None)
    assert rasterize.compiled_gsplat() is None
    rasterize.compiled_gsplat.cache_clear()


def test_without_a_writable_cache_the_kernels_still_compile(tmp_path):
    """As where the add-on's folder and the home folder are read-only."""
    (tmp_path / "blocked").write_text("")
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from backend.render.parallel import kernel\n"
        "print(kernel(lambda x: x + 1)(41))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "42", done.stderr


def test_a_damaged_cache_is_made_anew(tmp_path):
    code = "from backend.render.parallel import kernel\n@kernel\ndef add(x):\n    return x + 1\nprint(add(41))\n"
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(rasterize.__file__).parents[2]),
    }

    def answer():
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240
        )  # fmt: skip
        return done.stdout.strip() or done.stderr

    assert answer() == "42"
    for ending in ("nbi", "nbc"):  # the index, and the compiled code
        (cached,) = (tmp_path / "cache").rglob(f"*.{ending}")
        whole = cached.read_bytes()
        cached.write_bytes(whole[: len(whole) // 2])
        assert answer() == "42"
        assert len(cached.read_bytes()) > len(whole) // 2  # and the next start finds it sound


def test_a_change_in_a_helpers_file_is_noticed(tmp_path):
    """numba's own cache on disk looks at the kernel's file only."""
    (tmp_path / "script.py").write_text(
        "from adding_numba import step\nfrom backend.render.parallel import kernel\n"
        "@kernel\ndef add(x):\n    return step(x)\nprint(add(40))\n"
    )
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(rasterize.__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for added in (1, 2):
        (tmp_path / "adding_numba.py").write_text(
            f"from backend.render.parallel import inlined\n@inlined\ndef step(x):\n    return x + {added}\n"
        )
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.stdout.strip() == str(40 + added), done.stderr


def test_without_numba_there_is_plain_torch():
    """As on an Intel Mac, for which no wheel of numba exists."""
    code = (
        "import sys, torch\n"
        "sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
        "from backend.render import geometry, lift, rasterize, triplane, views, visual_hull\n"
        "assert not rasterize.numba_present()\n"
        "rasterize.warm_up(backward=True)\n"
        "planes, points = torch.rand(1, 3, 4, 4, 2, requires_grad=True), torch.rand(1, 5, 3)\n"
        "triplane.sample_planes(planes, points).sum().backward()\n"
        "features = torch.rand(1, 2, 4, 4, 3, requires_grad=True)\n"
        "lift.lift_features(features, torch.rand(1, 2, 5, 2)).sum().backward()\n"
        "print(planes.grad.shape == planes.shape, features.grad.shape == features.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_modules_import_in_no_circle():
    """By what their texts import, at the top or inside functions."""
    room = Path(rasterize.__file__).parent
    imports = {
        path.stem: set(re.findall(r"from backend\.render\.(\w+) import", path.read_text(encoding="utf-8")))
        for path in room.glob("*.py")
    }
    todo, reached = ["views", "lift", "triplane", "visual_hull"], set()
    while todo:
        name = todo.pop()
        reached.add(name)
        todo.extend(imports[name] - reached)
    assert {"rasterize", "geometry", "gaussian_numba_tiles", "parallel"} <= reached
    imports = {name: needed for name, needed in imports.items() if name in reached}
    while imports:
        free = [name for name, needed in imports.items() if not needed & imports.keys()]
        assert free, f"these import each other: {sorted(imports)}"
        for name in free:
            del imports[name]
