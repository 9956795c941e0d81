"""From Gaussians to files with the project's own surface, texture and export: nothing is put in anybody's place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import stand_ins
import torch
import trimesh

from backend.formats.gaussian_ply import write_gaussian_ply
from backend.job.events import Done
from backend.job.pipeline import run_job
from backend.job.request import Request


def test_a_foreign_ply_becomes_a_mesh_in_its_own_frame_and_is_remade(tmp_path: Path) -> None:
    cloud = stand_ins.ball_gaussians(4000)
    size, center = 25.0, torch.tensor([40.0, -10.0, 5.0])
    write_gaussian_ply(
        tmp_path / "mine.ply",
        type(cloud)(cloud.means * size + center, cloud.scales * size, cloud.quats, cloud.opacities, cloud.colors),
    )
    request = Request(gaussians=str(tmp_path / "mine.ply"), faces=3000, texture_size=256)
    done = list(run_job(request, tmp_path / "job", device="cpu"))[-1]
    assert isinstance(done, Done)
    scene = trimesh.load(done.files["mesh_glb"])
    mesh = scene.to_geometry() if hasattr(scene, "to_geometry") else scene
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), center.numpy(), atol=0.05 * size)
    np.testing.assert_allclose(np.ptp(mesh.bounds, axis=0), 2 * stand_ins.RADIUS * size, rtol=0.08)
    arrays = np.load(done.files["mesh_npz"])
    assert abs(len(arrays["faces"]) - 3000) <= 150
    assert np.abs(np.linalg.norm(arrays["vertices"] - center.numpy(), axis=1) / size - stand_ins.RADIUS).mean() < 0.05

    request = Request.resumed({"faces": 500}, json.loads((tmp_path / "job" / "request.json").read_text()), "mesh")
    done = list(run_job(request, tmp_path / "job", from_stage="mesh", device="cpu"))[-1]
    assert isinstance(done, Done)
    assert abs(len(np.load(done.files["mesh_npz"])["faces"]) - 500) <= 25
    assert json.loads((tmp_path / "job" / "report.json").read_text())["sizes"]["texture"] == 256
