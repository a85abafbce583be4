"""The sheets that the documentation shows are made by one call."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from calotype.world.scenes.sample_grids import flow_picture, grid, write_sample_grids


def test_grid_lays_pictures_out_on_white() -> None:
    sample_grid = grid([torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)]).pixels
    assert sample_grid.shape == (3, 11, 11)
    assert sample_grid[:, :4, :4].max() == 0.0
    assert sample_grid[:, 7:, 7:].min() == 1.0


def test_flow_picture_is_white_at_rest() -> None:
    flow = torch.zeros(2, 2, 2)
    flow[0, 0, 0] = 6.0
    picture = flow_picture(flow)
    assert picture[:, 1, 1].tolist() == [1.0, 1.0, 1.0]
    assert picture[0, 0, 0] > picture[1, 0, 0] + 0.5


def test_all_sheets_are_written(tmp_path: Path) -> None:
    names = {path.name for path in write_sample_grids(tmp_path)}
    assert names == {f"world-{name}.png" for name in ("small", "full", "motion", "truth", "edits")}
    for path in tmp_path.iterdir():
        with Image.open(path) as sample_grid:
            assert sample_grid.width > 600
