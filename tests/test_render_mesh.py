"""Pictures of meshes: right where known by hand, the same with and without numba, with true gradients."""

import math

import pytest
import torch
import trimesh

from backend.cameras import orbit, world_to_camera_opencv
from backend.errors import BadInput
from backend.render import mesh as mesh_module
from backend.render.mesh import rasterize_mesh
from backend.render.mesh_edges import MeshEdges


def arrays(shape):
    return torch.tensor(shape.vertices, dtype=torch.float32), torch.tensor(shape.faces)


def knot():
    """A bent torus, some of it before the rest, with faces of all sizes."""
    shape = trimesh.creation.torus(0.55, 0.2, major_sections=24, minor_sections=12)
    shape.apply_transform(trimesh.transformations.rotation_matrix(0.9, [1, 0.3, 0]))
    shape.vertices[:, 2] += 0.3 * shape.vertices[:, 0] ** 2
    return arrays(shape)


def looking(size=48, views=2):
    cameras = orbit([20.0, 140.0][:views], [10.0, -35.0][:views], 2.7, 40.0, size)
    return world_to_camera_opencv(cameras), cameras.intrinsics, size, size


def front(size=32, focal=32.0):
    """A camera at the origin that looks along +z: a plane at z = focal has one unit a pixel."""
    K = torch.tensor([[[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]]])
    return torch.eye(4)[None], K, size, size


def rectangle(left, right, top, bottom, z=32.0):
    """Corners in pixels from the picture's middle; faces the camera."""
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    vertices = torch.tensor([[x * z / 32, y * z / 32, z] for x, y in corners])
    return vertices, torch.tensor([[0, 2, 1], [0, 3, 2]])


def test_numba_agrees_with_plain_torch_in_pictures_and_gradients(monkeypatch):
    vertices, faces = knot()
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(2, 48, 48, size, generator=g) for size in (1, 3, 1)]
    results = []
    for fast in (True, False):
        monkeypatch.setattr(mesh_module, "numba_present", lambda fast=fast: fast)
        leaf = vertices.to(torch.float32 if fast else torch.float64).requires_grad_()
        pictures = rasterize_mesh(leaf, faces, *looking())
        images = (pictures.depth, pictures.normals, pictures.alphas)
        losses = [(image * weight).sum() for image, weight in zip(images, weights, strict=True)]
        gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses]
        results.append(([image.detach() for image in images], gradients, pictures.face_ids))
    (ours, our_gradients, our_ids), (reference, reference_gradients, reference_ids) = results
    assert (our_ids != reference_ids).double().mean() < 1e-3
    for image, expected in zip(ours, reference, strict=True):
        assert ((image - expected).abs() > 1e-3).double().mean() < 1e-3
        assert expected.abs().max() > 0.5
    for gradient, expected in zip(our_gradients, reference_gradients, strict=True):
        assert (gradient - expected).norm() < 5e-3 * expected.norm()
    partial = (reference[2] > 0.01) & (reference[2] < 0.99)
    assert partial.sum() > 100


def test_depth_and_normals_of_a_slanting_plane():
    vertices = torch.tensor([[-40.0, -40.0, 20.0], [40.0, -40.0, 20.0], [0.0, 60.0, 60.0]])
    pictures = rasterize_mesh(vertices, torch.tensor([[0, 2, 1]]), *front())
    normal = torch.nn.functional.normalize(
        torch.linalg.cross(vertices[2] - vertices[0], vertices[1] - vertices[0]), dim=0
    )
    at = (torch.arange(32) + 0.5 - 16) / 32
    y, x = torch.meshgrid(at, at, indexing="ij")
    expected = (normal @ vertices[0]) / (torch.stack([x, y, torch.ones_like(x)], dim=-1) @ normal)
    seen = pictures.face_ids[0] >= 0
    assert seen.double().mean() > 0.5
    assert torch.allclose(pictures.depth[0, ..., 0][seen], expected[seen], rtol=1e-4)
    assert torch.allclose(pictures.normals[0][seen], normal.expand(int(seen.sum()), 3), atol=1e-5)
    assert pictures.depth[0, ..., 0][~seen].abs().max() == 0


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5, 0.7, 0.99])
def test_the_outline_of_a_rectangle_is_as_wide_as_the_rectangle(shift):
    vertices, faces = rectangle(-5.0 + shift, 6.0 + 0.6 * shift, -4.0, 5.0 + shift)
    leaf = vertices.requires_grad_()
    alphas = rasterize_mesh(leaf, faces, *front()).alphas[0, ..., 0]
    assert alphas[16].sum().item() == pytest.approx(11.0 - 0.4 * shift, abs=1e-4)
    assert alphas[:, 16].sum().item() == pytest.approx(9.0 + shift, abs=1e-4)
    assert alphas[16, 16] == 1
    alphas[16].sum().backward()
    assert leaf.grad[[1, 2], 0].sum().item() == pytest.approx(
        1.0, abs=1e-4
    )  # the right side moves out by a pixel a unit
    assert leaf.grad[[0, 3], 0].sum().item() == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 80.0])
def test_area_and_its_gradient_whatever_the_angle(angle):
    """Moving the vertices outwards by the share e makes an area A greater by 2 e A."""
    turn = math.radians(angle)
    vertices, faces = rectangle(-9.0, 9.0, -7.0, 7.0)
    x, y = vertices[:, 0].clone(), vertices[:, 1].clone()
    vertices[:, 0], vertices[:, 1] = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    leaf = (vertices + torch.tensor([0.13, 0.21, 0.0])).requires_grad_()
    area = rasterize_mesh(leaf, faces, *front()).alphas.sum()
    assert area.item() == pytest.approx(252, rel=0.02)
    area.backward()
    outwards = (leaf - leaf.mean(dim=0)).detach()
    assert (leaf.grad * outwards).sum().item() == pytest.approx(504, rel=0.1)
    assert leaf.grad[:, :2].sum(dim=0).abs().max() < 1.5  # moving the whole changes nothing


def test_faces_smaller_than_a_pixel_have_an_outline_too():
    """nvdiffrast looks for the outline on the face that a pixel shows; with small faces it is often another's."""
    vertices, faces = arrays(trimesh.creation.icosphere(5, radius=0.8))
    leaf = vertices.requires_grad_()
    where = looking(40, 1)
    alphas = rasterize_mesh(leaf, faces, *where).alphas
    # The outline of a ball is a cone's: radius tan(asin(r / distance)).
    radius = float(where[1][0, 0, 0]) * math.tan(math.asin(0.8 / 2.7))
    assert alphas.sum().item() == pytest.approx(math.pi * radius**2, rel=0.003)
    alphas.sum().backward()
    growth = (leaf.grad * vertices.detach() / 0.8).sum()
    step = 1e-4
    slope = math.tan(math.asin((0.8 + step) / 2.7)) - math.tan(math.asin((0.8 - step) / 2.7))
    expected = 2 * math.pi * radius * float(where[1][0, 0, 0]) * slope / (2 * step)
    assert growth.item() == pytest.approx(expected, rel=0.03)


def test_gradients_lead_back_to_the_mesh_that_made_the_pictures():
    vertices, faces = arrays(trimesh.creation.icosphere(2, radius=0.7))
    where = looking(40)
    with torch.no_grad():
        wanted = rasterize_mesh(vertices * torch.tensor([1.1, 0.9, 1.0]), faces, *where)
    leaf = vertices.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        made = rasterize_mesh(leaf, faces, *where)
        both = (made.face_ids >= 0) & (wanted.face_ids >= 0)
        loss = (made.alphas - wanted.alphas).abs().mean() + (made.depth - wanted.depth)[both].abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_edges_of_closed_open_and_odd_meshes():
    _, faces = arrays(trimesh.creation.icosphere(1))
    edges = MeshEdges.of(faces)
    assert len(edges.vertices) == len(faces) * 3 // 2
    assert (edges.faces >= 0).all()
    assert (MeshEdges.of(faces[1:]).faces[:, 1] < 0).sum() == 3
    three_leaves = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert (MeshEdges.of(three_leaves).faces[:, 1] < 0).all()
    assert len(MeshEdges.of(torch.zeros(0, 3, dtype=torch.int64)).vertices) == 0


def test_what_is_broken_behind_or_not_there_is_not_drawn():
    vertices, faces = rectangle(-5.0, 5.0, -5.0, 5.0)
    empty = rasterize_mesh(vertices, faces[:0], *front())
    assert empty.alphas.max() == empty.depth.max() == 0
    assert rasterize_mesh(vertices * torch.tensor([1.0, 1.0, -1.0]), faces, *front()).alphas.max() == 0
    for bad in (math.nan, math.inf, 1e30):
        broken = vertices.clone()
        broken[0, 0] = bad
        leaf = broken.requires_grad_()
        pictures = rasterize_mesh(leaf, faces, *front())
        (pictures.alphas.sum() + pictures.depth.sum()).backward()
        assert pictures.depth.isfinite().all()
    with pytest.raises(BadInput):
        rasterize_mesh(vertices, faces + 2, *front())
    with pytest.raises(BadInput):
        rasterize_mesh(vertices[:, :2], faces, *front())
