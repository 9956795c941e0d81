"""What a request says of its sender."""

from __future__ import annotations


def build_hf_headers() -> dict[str, str]:
    return {}
