"""`python -m backend serve` of the stand-in. The prompt says how to behave: see `generate`."""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

STAGES = ("views", "reconstruct", "surface", "texture", "export")
cancelled: set[str] = set()
out = sys.stdout.buffer


def send(message: dict[str, Any]) -> None:
    out.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    out.flush()


def write_png(path: Path, pixels: Any) -> None:
    """pixels uint8 [H, W, 3]."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + pixels[row].tobytes() for row in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    )


def box_with_nose(faces: int) -> tuple[Any, Any, Any]:
    """An object whose front (+Z) and top (+Y) can be told: 0.6 wide, 1.8 tall, 0.4 deep, with a nose on the front.

    Every side is cut into a grid, so that it has about as many faces as asked for.
    """
    import numpy as np  # here, so that a bare interpreter can be warmed up

    cells = max(int((faces / 12) ** 0.5), 1)
    grid = np.linspace(-1.0, 1.0, cells + 1)
    u, v = (axis.reshape(-1) for axis in np.meshgrid(grid, grid, indexing="ij"))
    corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)[None, :]).reshape(-1)
    quad = np.stack([corner, corner + cells + 1, corner + cells + 2, corner + 1], axis=-1)
    triangles = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    one = np.ones_like(u)
    sides = [(u, v, one), (v, u, -one), (v, one, u), (u, -one, v), (one, u, v), (-one, v, u)]
    points = np.concatenate([np.stack(side, axis=-1) for side in sides])
    faces_all = np.concatenate([triangles + index * len(u) for index in range(6)])
    vertices = points * [0.3, 0.9, 0.2]
    vertices[:, 2] -= 0.05
    tip = np.argmin(np.abs(points[: len(u), 0]) + np.abs(points[: len(u), 1]))  # the middle of the +Z side
    vertices[tip, 2] = 0.25
    uvs = (points[:, [0, 1]] * 0.45 + 0.5)[faces_all]
    return vertices.astype(np.float32), faces_all.astype(np.int32), uvs.astype(np.float32)


def write_job(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    (folder / "views").mkdir(parents=True, exist_ok=True)
    vertices, faces, uvs = box_with_nose(request.get("faces", 48))
    np.savez(folder / "mesh.npz", vertices=vertices, faces=faces, corner_uvs=uvs)
    size = request.get("texture_size", 64)
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[: size // 2] = (200, 30, 20)  # the upper half, v > 0.5, is red
    pixels[size // 2 :] = (30, 40, 200)
    write_png(folder / "base_color.png", pixels)
    write_png(folder / "views" / "000.png", pixels)
    for name in ("gaussians.ply", "mesh.glb", "transforms.json"):
        (folder / name).write_bytes(b"stand-in")
    report = {
        "prompt": request.get("prompt"),
        "seed": request.get("seed"),
        "weights": [{"name": "dmv3d", "sha256": "0123"}],
    }
    (folder / "report.json").write_text(json.dumps(report))
    return {
        "views": [str(folder / "views" / "000.png")],
        "transforms": str(folder / "transforms.json"),
        "gaussians": str(folder / "gaussians.ply"),
        "mesh_npz": str(folder / "mesh.npz"),
        "mesh_glb": str(folder / "mesh.glb"),
        "base_color": str(folder / "base_color.png"),
        "report": str(folder / "report.json"),
    }


def fail(identity: int, code: str, message: str, fix: str) -> None:
    send({"id": identity, "error": {"code": -32000, "message": message, "data": {"code": code, "fix": fix}}})


def generate(identity: int, params: dict[str, Any]) -> None:
    """crash: dies half way. refuse: a typed error. stuck: deaf to cancel. slow: ten seconds. babble: rubbish lines."""
    job, request, folder = params["job"], params["request"], Path(params["folder"])
    prompt = request.get("prompt", "")
    if "refuse" in prompt:
        return fail(identity, "bad_input", "That prompt names nothing that can be made.", "Name an object.")
    for index, stage in enumerate(STAGES):
        for step in range(4):
            if job in cancelled:
                return fail(identity, "cancelled", "The job was cancelled.", "")
            overall = (index + step / 4) / len(STAGES)
            progress = {"fraction": step / 4, "overall": overall, "step": step, "steps": 4, "eta": 5 * (1 - overall)}
            send(
                {"method": "progress", "params": {"job": job, "stage": stage, "message": f"{stage} {step}", **progress}}
            )
            if "crash" in prompt and stage == "surface":
                os.abort()
            if "stuck" in prompt and stage == "surface":
                time.sleep(60)
            if "babble" in prompt:
                out.write(b"\xff\xfe not json\n[1, 2]\n")
            time.sleep(0.5 if "slow" in prompt else 0.005)
    warnings = [f'"{word}" is not in the vocabulary and was ignored.' for word in prompt.split() if word == "flurb"]
    files = write_job(folder, request)
    if "garbage mesh" in prompt:
        (folder / "mesh.npz").write_bytes(b"not a mesh")
    if "wild index" in prompt:
        import numpy as np

        vertices, faces, uvs = box_with_nose(12)
        np.savez(folder / "mesh.npz", vertices=vertices, faces=faces + 1_000_000, corner_uvs=uvs)
    send({"method": "preview", "params": {"job": job, "kind": "views", "path": files["views"][0]}})
    result = {"job": job, "folder": str(folder), "files": files, "warnings": warnings, "seconds": 0.1}
    send({"id": identity, "result": result})
    return None


def main() -> None:
    if os.environ.get("FAKE_BACKEND_DIES"):
        sys.exit("No module named 'torch'")
    print("a library prints this", file=sys.stderr)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        identity, method, params = message["id"], message["method"], message.get("params", {})
        if method == "initialize":
            protocol = int(os.environ.get("FAKE_BACKEND_PROTOCOL", "1"))
            hello = {
                "name": "splatsmith",
                "version": "0",
                "protocol": protocol,
                "device": "cpu",
                "recipes": ["starter"],
            }
            send({"id": identity, "result": {**hello, "packs": {"dmv3d": True, "lgm": True}, "pid": os.getpid()}})
        elif method == "generate":
            threading.Thread(target=generate, args=(identity, params), daemon=True).start()
        elif method == "cancel":
            if "stuck" not in params["job"]:
                cancelled.add(params["job"])
            send({"id": identity, "result": {"cancelled": True}})
        elif method == "doctor":
            found = {"python": sys.version.split()[0], "torch": "0", "device": "cpu", "devices": [], "cpu_count": 1}
            send({"id": identity, "result": {**found, "problems": []}})
        elif method == "shutdown":
            send({"id": identity, "result": {}})
            return
        else:
            fail(identity, "bad_input", f"There is no request {method}.", "")


if len(sys.argv) > 1 and sys.argv[1] == "generate":
    print("warm")
else:
    main()
