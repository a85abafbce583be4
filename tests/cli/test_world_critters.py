"""`calotype world DIR --preset critters`: folders that Click to Grasp and nerfstudio's tools read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype.cli.world import world
from calotype.data.images import read_image
from calotype.data.rgbd_scenes import check_agreement, read_scene
from calotype.errors import InputError


def test_scenes_can_be_read_and_their_references_clicked_on(tmp_path: Path) -> None:
    assert world([str(tmp_path / "tables"), "--preset", "critters", "--count", "1", "--seed", "4", "--quiet"]) == 0
    (line,) = (tmp_path / "tables" / "truth.jsonl").read_text().splitlines()
    truth = json.loads(line)
    scene = read_scene(tmp_path / "tables" / truth["scene"])
    check_agreement(scene)
    assert [view.size for view in scene.views] == [(256, 256)] * 4
    height, width = read_image(tmp_path / "tables" / truth["reference"]).size
    for click in truth["clicks"].values():
        x, y = map(int, click.split(","))
        assert 0 <= x < width
        assert 0 <= y < height
    assert {"arm_left", "arm_right", "head"} <= set(truth["critters"][0])


def test_flags_of_other_worlds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="critters has no --size"):
        world([str(tmp_path / "tables"), "--preset", "critters", "--size", "128"])
    assert not list(tmp_path.iterdir())
