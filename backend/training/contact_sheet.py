"""Pictures side by side in one PNG, each row with its caption."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor


def save_sheet(path: Path, rows: list[tuple[str, Tensor]], columns: int = 1, label_height: int = 14) -> None:
    """Writes rows of (caption, pictures [V, 3, H, W] in [0, 1]), `columns` rows side by side."""
    views, _, height, width = rows[0][1].shape
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * views * width, lines * (height + label_height)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, pictures) in enumerate(rows):
        left, top = (number % columns) * views * width, (number // columns) * (height + label_height)
        draw.text((left + 2, top + 1), caption, fill="black")
        strip = torch.cat(list(pictures.clamp(0, 1)), -1).permute(1, 2, 0)
        sheet.paste(Image.fromarray((strip * 255 + 0.5).byte().numpy()), (left, top + label_height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
