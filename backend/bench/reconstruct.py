"""`python -m backend bench reconstruct`: the published reconstructors, time and peak memory, with random weights.

Every row is measured beside a plain float32 run of the same network, in turns, each run in a process of its own, so
that memory and time are its own. Seconds are medians of the runs after the first of each process; memory is the
process's largest on a CPU, with Python and torch in it (about 0.3 GB), and torch's largest on a GPU. `position error`
is the largest and the mean difference from the plain run's Gaussians, in the canonical frame. The dtype `stored` is
float32 with the weights in float16, each widened when it is used (LGM: its published weights are float16).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from backend.bench.reconstruct_row import DTYPES, MODELS, STORED, Row, position_error
from backend.device import has_fast_bfloat16, pick_device
from backend.errors import SplatsmithError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench reconstruct`."""
    parser.add_argument("--models", nargs="+", default=["lgm"], choices=list(MODELS), help="which (default: lgm)")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="which (default: all quick ones)")
    parser.add_argument("--views", type=int, nargs="+", default=[4], help="numbers of views (default: 4)")
    parser.add_argument("--tokens", type=int, default=4096, help="GeoLRM's anchors at most (default: 4096)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, in turns (default: 2)")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs of a process after the first; 0: that")
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU (default: torch's own number)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")


def run(args: argparse.Namespace) -> int:
    """Time the published reconstructors and measure their memory, beside plain float32 runs."""
    device = pick_device(args.device)
    if not args.json:
        print(f"{device}; medians of {args.rounds} x {args.repeats} runs; cpu is CPU seconds")
        sides = f"{'s':>8} {'cpu':>8} {'GB':>6} {'plain s':>8} {'cpu':>8} {'GB':>6}"
        print(f"{'model':9} {'views':>5} {'dtype':>6} {sides} {'faster':>7} {'position error':>17}")
    for model in args.models:
        for views in args.views:
            for dtype in args.dtypes or quick_dtypes(device):
                if dtype == STORED and not model.startswith("lgm"):
                    continue
                if dtype not in quick_dtypes(device):
                    print(f"{model:9} {views:>5} {dtype:>6}  left out: only emulated on this device", file=sys.stderr)
                    continue
                row = measured(
                    Row(model, views, dtype, False, args.tokens, args.repeats, args.threads, device), args.rounds
                )
                print(json.dumps(row) if args.json else _line(row), flush=True)
    return 0


def quick_dtypes(device: str) -> list[str]:
    """The dtypes that a device computes in and does not emulate."""
    half = ["fp16"] if device in ("cuda", "mps") else [STORED]
    return ["fp32", *(["bf16"] if has_fast_bfloat16(device) else []), *half]


def measured(row: Row, rounds: int) -> dict[str, Any]:
    """Figures of a row and of the plain float32 run beside it, in turns."""
    results: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="splatsmith-bench-") as folder:
        for _ in range(rounds):
            for plain in (True, False):
                kind = row._replace(plain=True, dtype="fp32") if plain else row
                results[plain].append(_in_a_process(kind, Path(folder) / f"{'plain' if plain else 'ours'}.npy"))
        largest, mean = position_error(Path(folder) / "plain.npy", Path(folder) / "ours.npy")
    figures: dict[str, Any] = {"model": row.model, "views": row.views, "dtype": row.dtype, "device": row.device}
    for plain, prefix in ((False, ""), (True, "plain_")):
        runs = results[plain]
        for name in ("seconds", "cpu_seconds"):
            figures[prefix + name] = statistics.median(value for run in runs for value in run[name])
        figures[f"{prefix}peak_bytes"] = max(run["peak_bytes"] or 0 for run in runs) or None
    figures["gaussians"] = results[False][0]["gaussians"]
    return {**figures, "position_error_largest": largest, "position_error_mean": mean}


def _in_a_process(row: Row, positions: Path) -> dict[str, Any]:
    program = "import sys; from backend.bench.reconstruct_row import from_arguments; from_arguments(*sys.argv[1:])"
    command = [sys.executable, "-c", program, json.dumps(row._asdict()), str(positions)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["without a word"]
        raise SplatsmithError(f"The run of {row.model} in {row.dtype} failed ({last[0][:300]}).", "Try a smaller one.")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _line(row: dict[str, Any]) -> str:
    def gigabytes(value: int | None) -> str:
        return f"{value / 1e9:6.2f}" if value else "     ?"

    return (
        f"{row['model']:9} {row['views']:>5} {row['dtype']:>6} {row['seconds']:8.2f} {row['cpu_seconds']:8.2f} "
        f"{gigabytes(row['peak_bytes'])} {row['plain_seconds']:8.2f} {row['plain_cpu_seconds']:8.2f} "
        f"{gigabytes(row['plain_peak_bytes'])} {row['plain_seconds'] / row['seconds']:6.2f}x "
        f"{row['position_error_largest']:8.1e} {row['position_error_mean']:8.1e}"
    )
