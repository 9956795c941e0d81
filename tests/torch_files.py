"""What the tests of torch's files put into them."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest


class EasyDict(dict):
    """As the module of that name has it: every item is an attribute too."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self[name] = value


EasyDict.__module__ = "easydict"


def install_easydict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test's end there is a module `easydict`, so that its dicts can be pickled."""
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", module)


def touches(path: Path) -> Any:
    """An object whose pickle makes a folder when it is loaded."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(path),)

    return Payload()
