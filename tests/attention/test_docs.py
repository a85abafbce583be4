"""The examples on the docs page run as they stand, and the picture of overlays is what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.attention.overlays import Panel, grid, page

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    attention, places = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    names: dict[str, Any] = {}
    exec(compile(attention.replace("sigmas(10)", "sigmas(3)"), str(PAGE), "exec"), names)
    assert capsys.readouterr().out == "torch.Size([1, 2, 64, 64])\n"
    assert names["maps"].steps == 3
    assert not any("forward" in vars(module) for module in names["model"].unet.modules())
    exec(compile(places, str(PAGE), "exec"), names)
    assert names["scores"].shape == names["coarse"].shape[2:]


def test_overlays_are_brightest_where_the_map_is() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[0, :2, :2] = 1
    maps[1, 2:, 2:] = 0.1
    panel = Panel("step 1", torch.full((3, 16, 16), 0.5), maps)
    picture = grid([panel, panel])
    assert picture.size == (3 * 18, 2 * 18)
    first, second = (picture.pixels[:, 18 * (1 + word) : 18 * (2 + word), :18].sum(0) for word in range(2))
    assert float(first[4, 4]) > float(first[13, 13]) + 0.5
    assert float(second[13, 13]) > float(second[4, 4]) + 0.5
    text = page("<b>", ("a & b", "c"), {"Row 1": [panel]})
    assert "<b>" not in text
    assert "a &amp; b" in text
    assert text.count("<img") == 3
