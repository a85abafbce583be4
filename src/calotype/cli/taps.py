"""`calotype models --taps NAME`: where a checkpoint's network can be looked into."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import redirect_stdout
from typing import Any

from calotype.cli import console
from calotype.cli.options import print_json
from calotype.errors import InputError


def show_taps(name: str, *, as_json: bool) -> int:
    """Print the attention sites and feature taps of a checkpoint that is on this machine.

    Raises:
        InputError: a checkpoint without a denoising network.
    """
    import calotype
    from calotype.attention import attention_sites
    from calotype.core.roles import HasAttention
    from calotype.features import feature_taps

    with redirect_stdout(sys.stderr):
        model: Any = calotype.load(name, device="cpu")
    if not isinstance(model, HasAttention):
        raise InputError(f"{name} is of the role {model.role}; sites and taps are those of models of pictures and clips, such as toy-t2i")
    sites, taps = attention_sites(model.unet), feature_taps(model.unet)
    if as_json:
        print_json(
            {"model": name, "sites": [dataclasses.asdict(site) for site in sites], "taps": [dataclasses.asdict(tap) for tap in taps]}
        )
        return 0
    from rich.table import Table

    attention = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
    for title in ("Attention", "kind", "grid", "stride", "heads", "channels"):
        attention.add_column(title, overflow="fold", no_wrap=title != "Attention")
    for site in sites:
        grid = f"{site.grid[0]}x{site.grid[1]}" if site.grid else "frames" if site.temporal else "?"
        attention.add_row(site.name, site.kind, grid, _number(site.stride), str(site.heads), str(site.dim))
    features = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
    for title in ("Features", "layout", "stride", "channels"):
        features.add_column(title, overflow="fold", no_wrap=title != "Features")
    for tap in taps:
        features.add_row(tap.module, tap.layout, _number(tap.stride), str(tap.channels))
    out = console.results()
    out.print(attention)
    out.print()
    out.print(features)
    return 0


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)
