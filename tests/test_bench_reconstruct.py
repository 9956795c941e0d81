"""The benchmark of the published reconstructors sets every row beside a plain float32 run of the same network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backend import bench
from backend.bench import reconstruct, reconstruct_row
from backend.bench.reconstruct_row import Row
from backend.nets.lgm import LgmConfig

SMALL = LgmConfig(
    down=(32, 32, 64), down_attention=(False, False, True), up=(64, 32), up_attention=(True, False), layers=1
)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[Row]:
    """The rows that are run, in this process and with a small network."""
    seen: list[Row] = []

    def run(row: Row, positions: Path) -> dict[str, Any]:
        seen.append(row)
        reconstruct_row.main(row, positions)
        figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return figures

    monkeypatch.setattr(reconstruct, "_in_a_process", run)
    monkeypatch.setattr(reconstruct_row, "SIZE", 32)
    monkeypatch.setitem(reconstruct_row.MODELS, "lgm", reconstruct_row.lgm(SMALL))
    return seen


def test_rows_alternate_with_plain_ones_and_agree(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    figures = reconstruct.measured(Row("lgm", 4, "fp32", False, 0, 1, 0, "cpu"), rounds=2)
    assert [(row.plain, row.dtype) for row in rows] == [(True, "fp32"), (False, "fp32")] * 2
    assert figures["gaussians"] == 4 * 16 * 16
    assert 0 < figures["position_error_mean"] <= figures["position_error_largest"] < 1e-4
    for name in ("seconds", "plain_seconds", "peak_bytes", "plain_peak_bytes"):
        assert figures[name] > 0
    assert torch.get_num_threads() == threads


def test_the_command_prints_a_row_each(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    given = ["reconstruct", "--dtypes", "fp32", "stored", "fp16", "--rounds", "1", "--device", "cpu"]
    assert bench.run_bench(parser.parse_args(given)) == 0
    said = capsys.readouterr()
    assert "stored" in said.out
    assert "left out" in said.err  # fp16 on a CPU
    assert {row.dtype for row in rows} == {"fp32", "stored"}


def test_bf16_counts_as_quick_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "has_fast_bfloat16", lambda device: False)
    assert reconstruct.quick_dtypes("cpu") == ["fp32", "stored"]
    monkeypatch.setattr(reconstruct, "has_fast_bfloat16", lambda device: True)
    assert reconstruct.quick_dtypes("cpu") == ["fp32", "bf16", "stored"]
    assert reconstruct.quick_dtypes("cuda") == ["fp32", "bf16", "fp16"]
