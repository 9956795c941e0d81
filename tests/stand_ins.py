"""Tiny models for the tests of everything around the models: no weights, no waiting, and known results.

The views show a ball of one colour; the Gaussians are a ball too. `TINY` is a recipe to put in place of the starter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backend.cameras import orbit, rays
from backend.datatypes import Gaussians, Mesh, Step, TexturedMesh, Views
from backend.recipes import RECIPES, PictureMaking, Recipe
from backend.views.prompts import check_prompt
from backend.vocabulary import Vocabulary

RADIUS = 0.9
VIEW_SIZE = 32


def ball_views(size: int = VIEW_SIZE, color: tuple[float, float, float] = (0.8, 0.2, 0.1), views: int = 4) -> Views:
    """Pictures of a ball round the origin from `views` sides."""
    cameras = orbit([360.0 / views * index for index in range(views)], 20.0, 3.0, 50.0, size)
    origins, directions = rays(cameras)
    along = -(origins * directions).sum(-1)
    miss = (origins + along[..., None] * directions).norm(dim=-1)
    alpha = ((RADIUS - miss) / 0.05).clamp(0, 1)[:, None]
    rgb = torch.tensor(color)[None, :, None, None].expand(views, 3, size, size)
    return Views(torch.cat([rgb * (alpha > 0), alpha], 1), cameras)


def ball_gaussians(count: int = 600, color: tuple[float, float, float] = (0.8, 0.2, 0.1)) -> Gaussians:
    """Small round Gaussians spread evenly over a ball (Fibonacci lattice)."""
    index = torch.arange(count) + 0.5
    polar, turn = torch.acos(1 - 2 * index / count), torch.pi * (1 + 5**0.5) * index
    means = RADIUS * torch.stack([polar.sin() * turn.cos(), polar.cos(), polar.sin() * turn.sin()], dim=-1)
    return Gaussians(
        means,
        torch.full((count, 3), 0.05),
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        torch.full((count,), 0.95),
        torch.tensor(color).repeat(count, 1),
    )


def octahedron() -> TexturedMesh:
    """Eight faces round the origin with a grey texture."""
    vertices = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    uvs = torch.rand(8, 3, 2, generator=torch.Generator().manual_seed(0))
    return TexturedMesh(Mesh(RADIUS * vertices, torch.tensor(faces)), uvs, torch.full((3, 64, 64), 0.5))


class TinyGenerator:
    """A ball whose colour comes from the seed. `fail` is raised in the first step; words of the prompt do more."""

    image_size = VIEW_SIZE
    object_fraction = 0.66
    fail: BaseException | None = None

    def __init__(self) -> None:
        self.vocabulary = Vocabulary()
        self.calls: list[dict] = []

    def notes(self, prompt: str | None, image: Tensor | None) -> list[str]:
        return check_prompt(prompt, self.vocabulary, image is not None) if prompt is not None else []

    def generate(
        self, prompt: str | None = None, image: Tensor | None = None, *, seed: int, steps: int, guidance: float
    ) -> Generator[Step, None, Views]:
        self.calls.append({"prompt": prompt, "image": image, "seed": seed, "steps": steps, "guidance": guidance})
        color = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        views = ball_views(color=(color[0], color[1], color[2]))
        habits = (prompt or "").split()
        if "noisy" in habits:
            print("a library prints this")
            os.write(1, b"a native library writes this\n")
        fail = self.fail
        if "failing" in habits:
            fail = ZeroDivisionError("a bug")
        if "hungry" in habits:
            fail = torch.OutOfMemoryError("CUDA out of memory")
        for step in range(steps):
            if fail is not None:
                raise fail
            time.sleep(30.0 if "stuck" in habits else 0.2 if "slow" in habits else 0.0)
            yield Step(step + 1, steps, "Imagining", views.rgba)
        return views

    def reroll(
        self, views: Views, anew: list[int], given: int, prompt: str | None, *, seed: int, steps: int, guidance: float
    ) -> Generator[Step, None, Views]:
        """The new views take the colour of the given one."""
        self.calls.append({"anew": anew, "given": given, "prompt": prompt, "seed": seed, "steps": steps})
        rgba = views.rgba.clone()
        for step in range(steps):
            time.sleep(0.2 if "slow" in (prompt or "").split() else 0.0)
            yield Step(step + 1, steps, "Imagining it anew")
        rgba[anew, :3] = rgba[given, :3]
        return Views(rgba, views.cameras)


class TinyPainter:
    """Words to a disc on white whose colour comes from the seed; "nothing" is nothing. generator: for tests, what sees
    the pictures."""

    generator: TinyGenerator

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def notes(self, prompt: str) -> list[str]:
        return ["Too long."] if len(prompt) > 100 else []

    def wording(self, prompt: str) -> str:
        return f"{prompt}, alone"

    def generate(self, prompt: str, *, seed: int, steps: int, guidance: float) -> Generator[Step, None, Tensor]:
        self.calls.append({"prompt": prompt, "seed": seed})
        disc = ball_views(64).rgba[0]
        color = torch.rand(3, generator=torch.Generator().manual_seed(seed))[:, None, None]
        picture = color * disc[3:] + (1 - disc[3:])
        for step in range(steps):
            yield Step(step + 1, steps, "Painting", torch.cat([picture, torch.ones(1, 64, 64)])[None])
        return torch.ones(3, 64, 64) if "nothing" in prompt else picture


class TinyReconstructor:
    """A ball of the views' mean colour."""

    def reconstruct(self, views: Views, warnings: list[str] | None = None) -> Generator[Step, None, Gaussians]:
        yield Step(1, 1, "Reconstructing")
        alpha = views.rgba[:, 3:]
        color = (views.rgba[:, :3] * alpha).sum((0, 2, 3)) / alpha.sum().clamp_min(1e-6)
        return ball_gaussians(color=(float(color[0]), float(color[1]), float(color[2])))


def tiny_recipe(load_generator: Callable[[str], Any] = lambda device: TinyGenerator(), steps: int = 3) -> Recipe:
    """The starter recipe with tiny models."""
    starter = RECIPES["starter"]
    assert starter.from_text is not None
    generation = replace(starter.from_text, load=load_generator, steps=steps, also=())
    return replace(
        starter,
        from_text=generation,
        from_picture=generation,
        load_reconstructor=lambda device: TinyReconstructor(),
        pack="lgm",
        view_size=VIEW_SIZE,
    )


def seeing_recipe(load_generator: Callable[[str], Any], load_painter: Callable[[str], Any]) -> Recipe:
    """A recipe whose generator sees pictures alone, with tiny models and weights that are always there."""
    seeing = replace(tiny_recipe(load_generator), name="seeing", title="Seeing: for tests")
    assert seeing.from_picture is not None
    making = PictureMaking(load_painter, "dmv3d", steps=2, guidance=5.0, seconds=1.0)
    return replace(seeing, from_text=replace(seeing.from_picture, picture=making))


TINY = tiny_recipe()


def quick_surface(gaussians: Gaussians, faces: int, single: bool) -> Generator[Step, None, Mesh]:
    """In place of backend.job.pipeline._surface, where the test is not about it."""
    yield Step(1, 2, "Carving")
    yield Step(2, 2, "Carving")
    return octahedron().mesh


def quick_texture(gaussians: Gaussians, mesh: Mesh, size: int) -> Generator[Step, None, TexturedMesh]:
    """In place of backend.job.pipeline._texture."""
    yield Step(1, 1, "Baking")
    return replace(octahedron(), base_color=torch.full((3, size, size), 0.5))
