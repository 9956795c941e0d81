"""`python -m backend bench views`: the published view generators, time and peak memory, with random weights.

Every row is measured beside a plain float32 run of the same networks (backend.bench.views_plain), in turns, each run in
a process of its own. Seconds are those of a denoising step (the median after the first) and of what comes before
(encoding words and picture) and after (decoding, cutting out). Few steps are enough: all take the same time, and the
usual number of them is told from these. Memory is the process's largest on a CPU, with Python and torch in it (about
0.6 GB), and torch's largest on a GPU. `views off by` is the largest and the mean difference of a colour from the plain
run's views, in [0, 1].
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backend.device import has_fast_bfloat16, pick_device
from backend.errors import SplatsmithError

USUAL_STEPS = {"mvdream": 30, "imagedream": 30, "zero123plus": 75, "sv3d": 50}
DTYPES = ("fp32", "bf16", "fp16")
# "small": the published networks on small pictures, where there is no time for whole ones; "tiny": for tests.
SIZES = ("full", "small", "tiny")


class Row(NamedTuple):
    """What is measured. plain: as plain diffusers and the released code compute it; card: a GPU's memory in GB that is
    to be enough, 0 for all there is."""

    model: str
    dtype: str
    plain: bool
    size: str
    steps: int
    threads: int
    device: str
    card: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench views`."""
    parser.add_argument("--models", nargs="+", default=["mvdream"], choices=list(USUAL_STEPS), help="which (mvdream)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="which (default: all quick ones)")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps that are measured (2)")
    parser.add_argument("--size", default="full", choices=SIZES, help="of the views; small: the same networks (full)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="processes of each kind, in turns; the quickest counts (1)"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU (default: torch's own number)")
    parser.add_argument("--card", type=float, default=0.0, metavar="GB", help="let a GPU have so much memory only")
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain run, which needs more memory")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row instead of a table")


def run(args: argparse.Namespace) -> int:
    """Time the published view generators and measure their memory, beside plain float32 runs."""
    device = pick_device(args.device)
    if not args.json:
        print(f"{device}, {args.size} size, {args.steps} steps; a time is wall s / CPU s")
        columns = "".join(f"{name:>15}" for name in ("encode", "a step", "rest"))
        print(f"{'model':12}{'dtype':6}{'kind':7}{columns}{'all s':>9}{'GB':>7}  way")
    for model in args.models:
        for dtype in args.dtypes or quick_dtypes(device):
            if dtype not in quick_dtypes(device):
                print(f"{model:12}{dtype:6}left out: only emulated on this device", file=sys.stderr)
                continue
            row = Row(model, dtype, False, args.size, args.steps, args.threads, device, args.card)
            figures = measured(row, args.rounds, plain=not args.no_plain)
            print(json.dumps(figures) if args.json else _lines(figures), flush=True)
    return 0


def quick_dtypes(device: str) -> list[str]:
    """The dtypes that a device computes in and does not emulate."""
    half = ["fp16"] if device in ("cuda", "mps") else []
    return ["fp32", *(["bf16"] if has_fast_bfloat16(device) else []), *half]


def measured(row: Row, rounds: int, plain: bool = True) -> dict[str, Any]:
    """Figures of a row and of the plain float32 run beside it, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    kinds = {"plain": row._replace(plain=True, dtype="fp32", card=0.0), "ours": row}
    result: dict[str, Any] = {**row._asdict(), "plain": None}
    with tempfile.TemporaryDirectory(prefix="splatsmith-bench-") as name:
        paths = {kind: Path(name) / f"{kind}.npy" for kind in kinds}
        for _ in range(rounds):
            for kind in kinds if plain else ["ours"]:
                runs[kind].append(_in_a_process(kinds[kind], paths[kind]))
        if plain:
            difference = np.abs(np.load(paths["plain"]) - np.load(paths["ours"]))
            result |= {"off_largest": float(difference.max()), "off_mean": float(difference.mean())}
    for kind, figures in runs.items():
        if figures:
            best: dict[str, Any] = {phase: min(run[phase] for run in figures) for phase in ("encode", "step", "rest")}
            best["usual"] = sum(best[part][0] for part in ("encode", "rest")) + USUAL_STEPS[row.model] * best["step"][0]
            best |= {"peak_bytes": max(run["peak_bytes"] or 0 for run in figures) or None, "way": figures[0]["way"]}
            result[kind] = best
    return result


def _in_a_process(row: Row, pictures: Path) -> dict[str, Any]:
    program = "import sys; from backend.bench.views_row import from_arguments; from_arguments(*sys.argv[1:])"
    command = [sys.executable, "-c", program, json.dumps(row._asdict()), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}: too little memory?"]
        raise SplatsmithError(f"The run of {row.model} in {row.dtype} failed ({last[0][:300]}).", "Try --size small.")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _lines(figures: dict[str, Any]) -> str:
    lines = []
    for kind in ("plain", "ours"):
        row = figures[kind]
        if row is None:
            continue
        times = "".join(f"{row[phase][0]:8.2f}/{row[phase][1]:6.2f}" for phase in ("encode", "step", "rest"))
        memory = f"{row['peak_bytes'] / 1e9:7.2f}" if row["peak_bytes"] else "      ?"
        dtype = "fp32" if kind == "plain" else figures["dtype"]
        lines.append(f"{figures['model']:12}{dtype:6}{kind:7}{times}{row['usual']:9.1f}{memory}  {row['way']}")
    if "off_mean" in figures:
        lines[-1] += f"   views off by {figures['off_largest']:.1e}, {figures['off_mean']:.1e}"
    return "\n".join(lines)
