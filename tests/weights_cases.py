"""Small weights in a published layout, and the command about weights, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import backend.__main__
from backend.nets.lgm import Lgm, LgmConfig

SMALL = LgmConfig(
    down=(32, 32, 64), down_attention=(False, False, True), up=(64, 32), up_attention=(True, False), layers=1
)
LGM = "model_fp16_fixrot.safetensors"


def lgm_file(path: Path) -> bytes:
    torch.manual_seed(0)
    save_file({key: value.half() for key, value in Lgm(SMALL).state_dict().items()}, path)
    return path.read_bytes()


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = backend.__main__.main(["weights", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err
