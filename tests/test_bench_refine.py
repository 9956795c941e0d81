"""The benchmark of fitting Gaussians prints its rows, and what is fitted beats what it began with."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from backend import bench
from backend.bench import refine


def test_bench_refine_prints_a_row_each(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(refine, "_SAMPLES", 5000)
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    before = torch.get_num_threads()
    small = ["refine", "--shapes", "two_spheres", "--views", "6", "--size", "40", "--steps", "40", "--json"]
    assert bench.run_bench(parser.parse_args(small)) == 0
    assert torch.get_num_threads() == before
    rows = {row["settings"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(rows) == ["start", "published", "ours"]
    assert rows["ours"]["held_out_psnr"] > rows["start"]["held_out_psnr"] + 2
    assert 0 < rows["ours"]["center_distance"] < 0.2
