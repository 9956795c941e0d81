"""The wire between a front end (the Blender add-on) and the backend: JSON-RPC 2.0, one ASCII JSON object a line.

This is the protocol's one description; METHODS and NOTIFICATIONS below are checked against the running server by the
tests of both ends. The child is started as `PYTHON -m backend serve`; its stdin takes requests, its stdout gives
answers and notifications, its stderr is a log for people. The end of stdin ends the server.

A failed request is answered with {code, message, data: {code, fix}}: the number is JSON-RPC's, `message` one sentence
for the user, `data.code` one of ERROR_CODES, `data.fix` what would mend it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass
from typing import Any, BinaryIO

PROTOCOL = 1
LONGEST_LINE = 1 << 20  # bytes
ERROR_CODES = (
    "bad_input",
    "missing_weights",
    "offline",
    "out_of_memory",
    "cancelled",
    "unsupported_device",
    "internal",
)
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, FAILED = -32700, -32600, -32601, -32602, -32000


@dataclass(frozen=True)
class Method:
    """params, result: field name to JSON type ("?" at the end: may be left out or null)."""

    params: dict[str, str]
    result: dict[str, str]


METHODS: dict[str, Method] = {
    "initialize": Method(
        {"client": "string?", "version": "string?"},
        {
            "name": "string",
            "version": "string",
            "protocol": "integer",
            "device": "string",
            # Those that make views of words or of a picture: {name, title, from_text, from_picture (the names of the
            # weights that this takes, null where the recipe cannot), picture_first (whether words become a picture
            # first, at which a job can stop), least_views (that its reconstructor needs), rerolls (whether it takes
            # views.reroll), missing (weights that are not there), licences (by name of weights), memory (by from_text
            # and from_picture, where it is known: {gpu, cpu}, bytes that are estimated, or {cpu, measured: true})}.
            "recipes": "array",
            "packs": "object",  # name of the starter's weights: whether they are there
        },
    ),
    # Answers when the job ends. request: the fields of backend.job.request.Request; with from_stage those that are left
    # out are taken from the folder's request.json. from_stage, to_stage: "picture" (of the words, for recipes whose
    # generators see pictures alone), "views", "gaussians" or "mesh".
    "generate": Method(
        {"job": "string", "folder": "string", "request": "object", "from_stage": "string?", "to_stage": "string?"},
        {"job": "string", "folder": "string", "files": "object", "warnings": "array", "seconds": "number"},
    ),
    "cancel": Method({"job": "string"}, {"cancelled": "boolean"}),
    # Changes the views of a job's folder; they are called by the numbers in their files' names. In the queue of jobs.
    # drop: of numbers. replace: number, as a string, to the path of a picture. undo: the last change, and nothing else.
    # earlier: how many changes can be undone, until the mesh is made. Go on with generate, from_stage "gaussians".
    "views.edit": Method(
        {"job": "string?", "folder": "string", "drop": "array?", "replace": "object?", "undo": "boolean?"},
        {"folder": "string", "views": "array", "least": "integer", "earlier": "integer", "warnings": "array"},
    ),
    # Makes some views anew, numbers in `anew`, so that they fit those that stay. In the queue, with progress.
    "views.reroll": Method(
        {"job": "string?", "folder": "string", "anew": "array", "seed": "integer"},
        {"folder": "string", "views": "array", "least": "integer", "earlier": "integer", "warnings": "array"},
    ),
    # Writes what a generator will see of a picture, cut out and centred, to the .png `out`.
    "picture.prepare": Method({"image": "string", "out": "string"}, {"path": "string", "warnings": "array"}),
    # packs: of {name, title, present, bytes, licence, sha256, file}; published, which are to be downloaded: these and
    # {repository, page, forbids, gated, unconfirmed}; their bytes are a guess, or null, until they are present.
    "weights.status": Method({}, {"packs": "array", "published": "array"}),
    # In the queue of jobs; answer when the weights are there. Progress is told as that of a stage "weights", whose
    # steps are megabytes; what was fetched before a `cancel` is used the next time. accept: the user has read licence
    # and forbids, and agrees. source: a file or folder on this machine.
    "weights.download": Method({"job": "string?", "name": "string", "accept": "boolean?"}, {"name": "string"}),
    "weights.import": Method(
        {"job": "string?", "name": "string", "source": "string", "accept": "boolean?"}, {"name": "string"}
    ),
    "doctor": Method(
        {},
        {
            "python": "string",
            "torch": "string?",
            "numba": "string?",
            "numpy": "string?",
            "device": "string?",
            "devices": "array",  # of {name, title, memory, usable}
            "cpu_count": "integer",
            "memory_bytes": "integer?",
            "problems": "array",  # of {message, fix}
        },
    ),
    "shutdown": Method({}, {}),
}
NOTIFICATIONS: dict[str, dict[str, str]] = {
    "progress": {
        "job": "string",
        "stage": "string",  # picture, views, reconstruct, surface, texture, export; weights
        "fraction": "number",  # of the stage
        "overall": "number",
        "step": "integer",
        "steps": "integer",
        "message": "string",
        "eta": "number?",  # seconds
    },
    "preview": {"job": "string", "kind": "string", "path": "string"},  # kind: picture, views (a .png), mesh (mesh.npz)
    "log": {"level": "string", "message": "string", "job": "string?"},
}
# The values of `files` in the answer to generate: absolute paths, those that are there; `views` is an array of them.
# Where words became a picture first: picture as well; where the request's `formats` asked for them: mesh_obj, mesh_stl,
# mesh_ply and mesh_glb_colors.
FILES = ("views", "transforms", "gaussians", "mesh_npz", "mesh_glb", "base_color", "report")

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def mismatch(fields: dict[str, Any], shape: dict[str, str]) -> str:
    """What is wrong with `fields` where `shape` was agreed on, or an empty string. Further fields are left alone."""
    for name, kind in shape.items():
        value = fields.get(name)
        if value is None:
            if not kind.endswith("?"):
                return f"'{name}' is missing"
            continue
        wanted = kind.rstrip("?")
        if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
            return f"'{name}' must be of the type {wanted}"
    return ""


class WireError(Exception):
    """A line that is no proper request: JSON-RPC's number, a sentence, and the request's id where it could be read.

    wants_answer: False for what came without an id and so is never answered.
    """

    def __init__(self, number: int, message: str, request_id: Any = None, wants_answer: bool = True) -> None:
        super().__init__(message)
        self.number, self.message, self.request_id, self.wants_answer = number, message, request_id, wants_answer


@dataclass(frozen=True)
class Call:
    """A request, or a notification where `request_id` is absent."""

    method: str
    params: dict[str, Any]
    request_id: Any
    wants_answer: bool


def parse(line: bytes) -> Call:
    """One line to a call. Raises WireError."""
    if len(line) > LONGEST_LINE:
        raise WireError(PARSE_ERROR, f"A line may be {LONGEST_LINE} bytes long.")
    try:
        message = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WireError(PARSE_ERROR, "This line is not JSON.") from error
    if not isinstance(message, dict):
        raise WireError(INVALID_REQUEST, "A request is one JSON object; batches are not understood.")
    request_id = message.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float | None):
        raise WireError(INVALID_REQUEST, "The id of a request is a string or a number.")
    method, params = message.get("method"), message.get("params", {})
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise WireError(INVALID_REQUEST, "A request needs jsonrpc 2.0 and a method.", request_id)
    asks = "id" in message
    if method not in METHODS:
        raise WireError(METHOD_NOT_FOUND, f"There is no method '{method[:40]}'.", request_id, asks)
    if not isinstance(params, dict):
        raise WireError(INVALID_PARAMS, "Parameters are given by name.", request_id, asks)
    wrong = mismatch(params, METHODS[method].params)
    if wrong:
        raise WireError(INVALID_PARAMS, f"{method}: {wrong}.", request_id, asks)
    return Call(method, params, request_id, asks)


class Channel:
    """The two pipes. Sending is safe from any thread; once the other side is gone, it is silently dropped."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._lock = threading.Lock()

    def lines(self) -> Any:
        """Each line that arrives, without its end; blank ones are left out. A line too long comes cut at the limit."""
        while line := self._source.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := self._source.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
            if line.strip():
                yield line

    def _send(self, message: dict[str, Any]) -> None:
        # ASCII, so that not even half of a surrogate pair in a file name can break the line.
        data = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        with self._lock:
            try:
                self._sink.write(data + b"\n")
                self._sink.flush()
            except (OSError, ValueError):
                pass

    def answer(self, request_id: Any, result: dict[str, Any]) -> None:
        self._send({"id": request_id, "result": result})

    def fail(self, request_id: Any, number: int, message: str, code: str, fix: str = "") -> None:
        error = {"code": number, "message": message, "data": {"code": code, "fix": fix}}
        self._send({"id": request_id, "error": error})

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})


def take_over_standard_streams() -> Channel:
    """Keep stdin and stdout for the protocol and leave libraries with an empty stdin and stderr for their prints.

    To be called before anything heavy is imported.
    """
    if sys.stderr is None:  # started without a console or a log
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(source, os.O_BINARY)
        msvcrt.setmode(sink, os.O_BINARY)
    sys.stdout = sys.stderr
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return Channel(os.fdopen(source, "rb"), os.fdopen(sink, "wb"))
