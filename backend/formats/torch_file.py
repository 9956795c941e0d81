"""Reads .pth and .ckpt files as torch.save writes them, without running anything in them; see plain_pickle."""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from backend.errors import BadInput, MissingWeights
from backend.formats.plain_pickle import PickleReader, Refused, Storage

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PICKLE = 256 * 2**20  # bytes, without the tensors' numbers


def read_torch_file(path: Path) -> Any:
    """What a file holds: dicts, lists, tuples, numbers, strings, None, and tensors as `StoredTensor`s.

    EasyDicts come as dicts. The tensors' numbers stay in the file until they are loaded. Raises BadInput where the file
    holds anything else, MissingWeights where it is absent or damaged.
    """
    if not path.is_file():
        raise MissingWeights(f"There is no file {path}.", "Check the path.")
    try:
        with path.open("rb") as file:
            # Pages of our own, never written: torch wants memory that it could write to.
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            if zipfile.is_zipfile(file):
                return _read_archive(file, content)
            file.seek(0)
            return _read_legacy(file, content)
    except Refused as error:
        raise BadInput(
            f"{path.name} holds more than weights ({error}) and was not loaded.",
            "Get the file from its publisher, or weights in a .safetensors file.",
        ) from error
    except Exception as error:  # what broken zip files and pickles raise is of all kinds
        raise MissingWeights(f"The weights {path.name} are damaged.", "Get the file again.") from error


def _read_archive(file: BinaryIO, content: memoryview) -> Any:
    """The layout since torch 1.6: `NAME/data.pkl`, and uncompressed the numbers of each storage, `NAME/data/KEY`."""
    with zipfile.ZipFile(file) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _LARGEST_PICKLE:
            raise Refused("a zip archive that torch did not write")
        stem = pickles[0].filename.removesuffix("data.pkl")
        if f"{stem}byteorder" in archive.namelist() and archive.read(f"{stem}byteorder") != sys.byteorder.encode():
            raise Refused("numbers in another machine's byte order")
        machine = PickleReader(io.BytesIO(archive.read(pickles[0])))
        result = machine.read()
        for storage in machine.storages.values():
            entry = archive.getinfo(f"{stem}data/{storage.key}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise Refused("compressed tensors")
            at = entry.header_offset
            name, extra = struct.unpack("<HH", content[at + 26 : at + 30])
            _attach(storage, content, at + 30 + name + extra, entry.file_size)
        return result


def _read_legacy(file: BinaryIO, content: memoryview) -> Any:
    """The layout before torch 1.6: pickles of a mark, a version, the system, the content and the storages' keys, then
    the storages' numbers in that order."""
    if PickleReader(file).read() != _LEGACY_MAGIC:
        raise Refused("a pickle that torch did not write")
    PickleReader(file).read()
    system = PickleReader(file).read()
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise Refused("numbers in another machine's byte order")
    machine = PickleReader(file)
    result = machine.read()
    keys = PickleReader(file).read()
    if not isinstance(keys, list) or set(keys) != set(machine.storages):
        raise ValueError("tensors without numbers")
    at = file.tell()
    for key in keys:
        storage = machine.storages[key]
        (count,) = struct.unpack("<q", content[at : at + 8])
        size = count * storage.dtype.itemsize
        _attach(storage, content, at + 8, size)
        at += 8 + size
    return result


def _attach(storage: Storage, content: memoryview, start: int, size: int) -> None:
    if size != storage.count * storage.dtype.itemsize or not 0 <= start <= start + size <= len(content):
        raise ValueError("a storage has another size than its tensors say")
    storage.data = content[start : start + size]
