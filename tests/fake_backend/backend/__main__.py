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


def write_picture(job: str, folder: Path, request: dict[str, Any]) -> None:
    """The picture of the words, whose shade the seed decides; the views of another go."""
    import numpy as np

    (folder / "views").mkdir(parents=True, exist_ok=True)
    for view in views_of(folder):
        Path(view).unlink()
    shade = np.full((32, 32, 3), (40 + request.get("seed", 0)) % 200, np.uint8)
    for name in ("imagined.png", "imagined_preview.png"):
        write_png(folder / name, shade)
    preview = {"job": job, "kind": "picture", "path": str(folder / "imagined_preview.png")}
    send({"method": "preview", "params": preview})


def write_views(folder: Path, request: dict[str, Any]) -> list[str]:
    import numpy as np

    (folder / "views").mkdir(parents=True, exist_ok=True)
    for number in range(4):
        shade = np.full((32, 32, 3), 40 + (50 * number + request.get("seed", 0)) % 200, np.uint8)
        write_png(folder / "views" / f"{number:03d}.png", shade)
    (folder / "transforms.json").write_bytes(b"stand-in")
    (folder / "report.json").write_bytes(b"{}")
    return views_of(folder)


def views_of(folder: Path) -> list[str]:
    return sorted(str(view) for view in (folder / "views").glob("*.png"))


def edit(identity: int, params: dict[str, Any]) -> None:
    """views.edit, with an undo that only counts."""
    folder = Path(params["folder"])
    for number in params.get("drop") or []:
        (folder / "views" / f"{number:03d}.png").unlink()
    for number, path in (params.get("replace") or {}).items():
        if "refuse" in path:
            return fail(identity, "bad_input", "That picture shows nothing.", "Use another.")
        (folder / "views" / f"{int(number):03d}.png").write_bytes(Path(path).read_bytes())
    for number in params.get("anew") or []:
        shown = Path(views_of(folder)[0]).read_bytes()
        (folder / "views" / f"{number:03d}.png").write_bytes(shown)
    steps = folder / "steps"
    earlier = int(steps.read_text()) if steps.exists() else 0
    earlier = earlier - 1 if params.get("undo") else earlier + 1
    steps.write_text(str(earlier))
    result = {"folder": str(folder), "views": views_of(folder), "least": 3, "earlier": earlier}
    send({"id": identity, "result": {**result, "warnings": ["It was moved."] if params.get("replace") else []}})
    return None


RECIPES = [
    {"name": "starter", "title": "Starter: small", "least_views": 3, "rerolls": True, "from_text": ["dmv3d", "lgm"]},
    {
        "name": "seeing",
        "title": "Seeing: pictures alone",
        "least_views": 4,
        "rerolls": False,
        "picture_first": True,
        "from_text": ["painter", "lgm"],
        "from_picture": ["lgm"],
        "licences": {"painter": "Open RAIL++-M", "lgm": "GPL-3.0-or-later"},
        "memory": {"from_text": {"gpu": 9_600_000_000, "cpu": 12_300_000_000}},
    },
    {"name": "big", "title": "Big: large", "least_views": 4, "rerolls": False, "from_text": ["giant"]},
]
GIANT = {
    "name": "giant",
    "title": "Giant: text to views",
    "bytes": 9_370_000_000,
    "licence": "CC-BY-NC-4.0",
    "forbids": "Commercial use.",
    "page": "https://hub.invalid/giant",
    "gated": True,
    "unconfirmed": ["the size"],
    "sha256": None,
    "file": "giant.safetensors",
    "present": False,
}
PAINTER = {**GIANT, "name": "painter", "title": "Painter: words to a picture", "gated": False}
MATTING = {**PAINTER, "name": "matting", "title": "Matting: cuts objects out", "bytes": 224_000_000}
got: set[str] = set()


def initialize() -> dict[str, Any]:
    hello = {"name": "splatsmith", "version": "0", "device": "cpu", "packs": {"dmv3d": True, "lgm": True}}
    recipes = []
    for recipe in RECIPES:
        missing = [name for name in ("giant", "painter") if name in recipe["from_text"] and name not in got]
        recipes.append({"from_picture": recipe["from_text"], **recipe, "missing": missing})
    protocol = int(os.environ.get("FAKE_BACKEND_PROTOCOL", "1"))
    return {**hello, "protocol": protocol, "recipes": recipes, "pid": os.getpid()}


def get_weights(identity: int, params: dict[str, Any]) -> None:
    """Two seconds, with progress; `source` ending in "wrong" is refused."""
    if not params.get("accept"):
        return fail(identity, "bad_input", "The licence was not accepted.", "Read it.")
    if str(params.get("source", "")).rstrip("/").endswith("wrong"):
        return fail(identity, "bad_input", "No file of giant is there.", "It has giant.safetensors.")
    for step in range(20):
        if params["job"] in cancelled:
            return fail(identity, "cancelled", "The download was cancelled.", "Start it again.")
        progress = {"fraction": step / 20, "overall": step / 20, "step": step, "steps": 20, "eta": None}
        send(
            {
                "method": "progress",
                "params": {"job": params["job"], "stage": "weights", "message": "giant, 9 GB", **progress},
            }
        )
        time.sleep(0.02)
    got.add(params["name"])
    send({"id": identity, "result": {"name": params["name"]}})
    return None


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
    if not views_of(folder):
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
        "views": views_of(folder),
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
    paints = request.get("recipe") == "seeing" and not request.get("image")
    stages = ["picture", *STAGES] if paints else list(STAGES)
    begin, end = params.get("from_stage"), params.get("to_stage")
    stages = stages[stages.index({"gaussians": "reconstruct"}.get(begin, begin)) :] if begin else stages
    stages = stages[: stages.index(end) + 1] if end in stages else stages
    if "picture" in stages:
        write_picture(job, folder, request)
    for index, stage in enumerate(stages):
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
    if end == "picture":
        files = {"views": [], "picture": str(folder / "imagined.png")}
        result = {"job": job, "folder": str(folder), "files": files, "warnings": warnings, "seconds": 0.1}
        send({"id": identity, "result": result})
        return None
    if end == "views":
        files = {"views": write_views(folder, request), "transforms": str(folder / "transforms.json")}
        files |= {"picture": str(folder / "imagined.png")} if paints else {}
        result = {"job": job, "folder": str(folder), "files": files, "warnings": warnings, "seconds": 0.1}
        send({"id": identity, "result": result})
        return None
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
            send({"id": identity, "result": initialize()})
        elif method == "generate":
            threading.Thread(target=generate, args=(identity, params), daemon=True).start()
        elif method in ("views.edit", "views.reroll"):
            edit(identity, params)
        elif method == "picture.prepare":
            if "refuse" in params["image"]:
                fail(identity, "bad_input", "That is no picture.", "Use another.")
                continue
            Path(params["out"]).write_bytes(Path(params["image"]).read_bytes())
            warnings = [] if "matting" in got else ["It is vague."]
            send({"id": identity, "result": {"path": params["out"], "warnings": warnings}})
        elif method == "weights.status":
            send(
                {
                    "id": identity,
                    "result": {
                        "packs": [],
                        "published": [{**pack, "present": pack["name"] in got} for pack in (GIANT, PAINTER, MATTING)],
                    },
                }
            )
        elif method in ("weights.download", "weights.import"):
            threading.Thread(target=get_weights, args=(identity, params), daemon=True).start()
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
