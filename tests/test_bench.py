"""The benchmark command prints its rows and leaves torch's thread count alone."""

import argparse
import json
import mmap

import torch

from backend import bench
from backend.bench import measure, render


def test_bench_render_prints_a_row_each(monkeypatch, capsys):
    monkeypatch.setattr(render, "RENDER_ROWS", ((64, 32), (128, 48)))
    monkeypatch.setattr(render, "matmul_seconds", lambda repeats, clock: 0.25)
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    before = torch.get_num_threads()
    assert bench.run_bench(parser.parse_args(["render", "--repeats", "2", "--json"])) == 0
    assert torch.get_num_threads() == before
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if "device" not in row]  # without those of a GPU
    assert [(row["gaussians"], row["size"]) for row in rows] == [(64, 32), (128, 48)]
    for row in rows:
        assert row["forward_ms"] > 0
        assert row["both_ms"] > 0
        assert row["reference_both_ms"] > 0
        assert row["both_scaled_ms"] == row["both_ms"] * 0.125 / 0.25
        assert row["flips"] == 0
        assert row["gradient_error"] < 1e-3
    assert bench.run_bench(parser.parse_args(["render", "--repeats", "1", "--size", "48", "--no-reference"])) == 0
    out = capsys.readouterr().out
    assert "128" in out
    assert "     64" not in out


def test_the_median_leaves_out_the_first_call():
    times = iter([0.0, 1.0, 10.0, 13.0, 20.0, 22.0])
    calls = []
    assert measure.median_seconds(lambda: calls.append(1), 3, lambda: next(times)) == 2.0
    assert len(calls) == 4


def test_peak_memory_is_that_of_the_call():
    def hold():
        with mmap.mmap(-1, 64 << 20) as memory:
            for at in range(0, len(memory), 4096):
                memory[at] = 1

    held = measure.peak_megabytes(hold)
    assert held is None or 60 < held < 100
    assert held is None or measure.peak_megabytes(lambda: None) < 30
