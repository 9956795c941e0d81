"""The benchmark of the view generators sets every row beside plain diffusers, and both make the same views."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from backend import bench
from backend.bench import views, views_row
from backend.bench.views import Row
from backend.nets import multiview_attention


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[Row]:
    """The rows that are run, in this process."""
    seen: list[Row] = []

    def run(row: Row, pictures: Path) -> dict[str, Any]:
        seen.append(row)
        views_row.main(row, pictures)
        figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return figures

    monkeypatch.setattr(views, "_in_a_process", run)
    monkeypatch.setattr(multiview_attention, "MOST_SCORES", 2000)  # so that ours takes several parts
    return seen


@pytest.mark.parametrize("model", views.USUAL_STEPS)
def test_rows_stand_beside_plain_ones_and_agree(model: str, rows: list[Row]) -> None:
    figures = views.measured(Row(model, "fp32", False, "tiny", 2, 0, "cpu", 0.0), rounds=1)
    assert [row.plain for row in rows] == [True, False]
    for kind in ("plain", "ours"):
        for phase in ("encode", "step", "rest"):
            wall, cpu = figures[kind][phase]
            assert 0 <= cpu <= 20 * wall
        expected = figures[kind]["encode"][0] + figures[kind]["rest"][0]
        expected += views.USUAL_STEPS[model] * figures[kind]["step"][0]
        assert figures[kind]["usual"] == pytest.approx(expected)
        assert figures[kind]["peak_bytes"] > 0
    # Where a view is cut out of its background, the last digit may decide.
    assert figures["off_mean"] < 2e-3


def test_the_command_prints_two_lines_a_row(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    given = ["views", "--models", "mvdream", "--dtypes", "fp32", "fp16", "--steps", "1", "--size", "tiny"]
    assert bench.run_bench(parser.parse_args([*given, "--device", "cpu"])) == 0
    said = capsys.readouterr()
    assert [line.split()[2] for line in said.out.splitlines()[-2:]] == ["plain", "ours"]
    assert "left out" in said.err  # fp16 on a CPU
    rows.clear()
    options = parser.parse_args(
        [*given[:3], "--no-plain", "--size", "tiny", "--steps", "1", "--device", "cpu", "--json"]
    )
    assert bench.run_bench(options) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["plain"], row["ours"]["way"], len(rows)) == (None, "whole", 1)


def test_only_what_a_device_computes_in_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "has_fast_bfloat16", lambda device: device == "cuda")
    assert views.quick_dtypes("cpu") == ["fp32"]
    assert views.quick_dtypes("mps") == ["fp32", "fp16"]
    assert views.quick_dtypes("cuda") == ["fp32", "bf16", "fp16"]
