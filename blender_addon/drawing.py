"""Small pieces of layout shared by the panel and the preferences. Labels do not wrap by themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from .client import Failure


def draw_lines(layout: Any, texts: Iterable[str], width: int, icon: str = "NONE") -> None:
    """Texts as labels of at most `width` characters; the icon stands before the first line of each."""
    column = layout.column(align=True)
    column.scale_y = 0.8
    for text in texts:
        for number, line in enumerate(textwrap.wrap(text, max(width, 12)) or [""]):
            indent = "BLANK1" if icon != "NONE" else "NONE"
            column.label(text=line, icon=icon if number == 0 else indent)


def draw_failure(layout: Any, failure: Failure | None, width: int) -> None:
    """What happened, and below it what to do."""
    if failure is None:
        return
    draw_lines(layout, [failure.message], width, icon="ERROR")
    if failure.fix:
        draw_lines(layout, [failure.fix], width, icon="INFO")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 1 min 20 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def characters(region_width: float, ui_scale: float) -> int:
    """About how many characters of label fit beside an icon in a region of this width in pixels."""
    return int((region_width / max(ui_scale, 0.1) - 50) / 6.4)
