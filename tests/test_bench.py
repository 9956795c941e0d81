"""The benchmark command prints its rows and leaves torch's thread count alone."""

import argparse
import json

import torch

from backend import bench
from backend.bench import render


def test_bench_render_prints_a_row_each(monkeypatch, capsys):
    monkeypatch.setattr(render, "RENDER_ROWS", ((64, 32), (128, 48)))
    monkeypatch.setattr(render, "matmul_seconds", lambda repeats: 0.1)
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    before = torch.get_num_threads()
    assert bench.run_bench(parser.parse_args(["render", "--repeats", "2", "--json"])) == 0
    assert torch.get_num_threads() == before
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["gaussians"], row["size"]) for row in rows] == [(64, 32), (128, 48)]
    for row in rows:
        assert row["forward_ms"] > 0
        assert row["both_ms"] > 0
        assert row["reference_ratio"] > 0
    assert bench.run_bench(parser.parse_args(["render", "--repeats", "1"])) == 0
    assert "128" in capsys.readouterr().out
