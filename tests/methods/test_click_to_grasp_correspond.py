"""A click in one picture and the place that corresponds to it in another, without depth."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import calotype
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp import ClickToGrasp, Correspondence
from calotype.methods.click_to_grasp.correspond import correspond
from calotype.world.critters.anatomy import PARTS
from calotype.world.critters.raycasting import render_views
from calotype.world.critters.sampling import sample_critter_picture
from tests.recorder import Recorder
from tests.tiny_descriptors import cached_descriptors

SIDE, CELL = 128, 4


@cache
def critter(index: int) -> tuple[Image, Tensor]:
    """A picture of a critter that looks about at the camera, and its parts [H, W]."""
    scene, camera = sample_critter_picture(split="tune", seed=1, index=index, turn=0.2 * index, crowded=0.0)
    seen = render_views(scene, [camera], SIDE)
    return Image(seen.image[0].clamp(0, 1)), seen.part[0]


class Oracle:
    """Knows the parts of the pictures that it was told of: the diffusion model tells left from right, the ViT does not."""

    role, name = "DescriptorModel", "oracle"

    def __init__(self, *known: tuple[Image, Tensor]) -> None:
        self.known = known

    def maps(self, image: Image) -> dict[str, Tensor]:
        parts = next(parts for picture, parts in self.known if torch.equal(picture.pixels, image.pixels))
        shown = torch.stack([(parts == number).float() for number in range(-1, len(PARTS))])
        cells = torch.nn.functional.avg_pool2d(shown[None], CELL)[0]
        blind = cells.clone()
        for side in ("arm", "leg", "eye"):
            left, right = (1 + PARTS.index(f"{side}_{hand}") for hand in ("left", "right"))
            blind[left], blind[right] = cells[left] + cells[right], 0.0
        return {"diffusion": cells, "vit": blind}


def middle(parts: Tensor, name: str) -> tuple[float, float]:
    """The pixel of a part that is farthest inside."""
    inside = torch.nn.functional.avg_pool2d((parts == PARTS.index(name)).float()[None], 9, 1, 4)[0]
    row, column = divmod(int(inside.argmax()), SIDE)
    return column + 0.5, row + 0.5


def part_at(found: Correspondence, parts: Tensor) -> str:
    x, y = found.points.coordinates[0].tolist()
    number = int(parts[int(y), int(x)])
    return PARTS[number] if number >= 0 else "ground"


@pytest.mark.parametrize("name", ["head", "body", "arm_left", "arm_right", "leg_left", "leg_right"])
def test_a_perfect_model_finds_every_part(name: str) -> None:
    (picture, parts), (target, others) = critter(0), critter(1)
    found = correspond(Oracle((picture, parts), (target, others)), picture, middle(parts, name), target)
    assert part_at(found, others) == name
    assert bool((found.points.columns["score"].diff() <= 0).all())
    assert found.heat_map.size == target.size


def test_a_model_that_is_blind_to_sides_is_told_so() -> None:
    (picture, parts), (target, others) = critter(0), critter(1)
    model, events = Oracle((picture, parts), (target, others)), Recorder()
    place = middle(parts, "arm_left")
    correspond(model, picture, place, target, mix=0.0, events=events)
    assert any("two places answer almost alike" in note and "--negative" in note for note in events.notes)
    clear = Recorder()
    correspond(model, picture, place, target, events=clear)
    assert not clear.notes


def test_a_negative_click_decides() -> None:
    """A model whose diffusion features tell sides only a little, beside what all limbs have in common."""
    (picture, parts), (target, others) = critter(0), critter(1)

    class Faint(Oracle):
        def maps(self, image: Image) -> dict[str, Tensor]:
            maps = super().maps(image)
            maps["diffusion"] = torch.cat([maps["vit"], 0.2 * maps["diffusion"]])
            return maps

    model = Faint((picture, parts), (target, others))
    place, other = middle(parts, "arm_right"), middle(parts, "arm_left")
    faint, decided = Recorder(), Recorder()
    correspond(model, picture, place, target, events=faint)
    found = correspond(model, picture, place, target, negatives=[other], events=decided)
    assert part_at(found, others) == "arm_right"
    assert decided.metrics["margin"] > faint.metrics["margin"]


def test_a_part_that_is_not_there_is_noted() -> None:
    (picture, parts), (target, others) = critter(0), critter(1)
    without = torch.where(others == PARTS.index("arm_left"), -1, others)
    events = Recorder()
    correspond(Oracle((picture, parts), (target, without)), picture, middle(parts, "arm_left"), target, events=events)
    assert any("nothing there is much like what was clicked" in note for note in events.notes)


def test_the_pictures_sizes_do_not_matter() -> None:
    (picture, parts), (target, others) = critter(0), critter(1)

    class Enlarged(Oracle):
        def maps(self, image: Image) -> dict[str, Tensor]:
            return super().maps(target if image.size != picture.size else image)

    wide = Image(torch.nn.functional.interpolate(target.pixels[None], (200, 300), mode="nearest")[0])
    model = Enlarged((picture, parts), (target, others))
    one, other = (correspond(model, picture, middle(parts, "arm_left"), each) for each in (target, wide))
    scale = torch.tensor([300 / SIDE, 200 / SIDE], dtype=torch.float64)
    assert torch.allclose(one.points.coordinates[0] * scale, other.points.coordinates[0], atol=1e-3)


def test_the_method_answers_with_a_target_and_with_either_of_them() -> None:
    picture, target = critter(0)[0], critter(1)[0]
    model = calotype.load(cached_descriptors(), device="cpu")
    method = replace(ClickToGrasp.toy(), min_margin=0.0)
    first, second = (method(model, picture, "60,80", target=target) for _ in range(2))
    assert isinstance(first, Correspondence)
    assert torch.equal(first.points.coordinates, second.points.coordinates)
    with pytest.raises(InputError, match="give --views FOLDER for a grasp in a scene, or --target PICTURE"):
        method(model, picture, "60,80")
    with pytest.raises(InputError, match="click 128,3 is outside of the picture, which has 128x128 px"):
        method(model, picture, "128,3", target=target)
    with pytest.raises(InputError, match="negative 'here' is no pixel"):
        method(model, picture, "60,80", target=target, negative=["here"])
    toy: Any = calotype.load("toy-vae", device="cpu")
    with pytest.raises(InputError, match="click-to-grasp needs features of a diffusion model and a vision transformer"):
        method(toy, picture, "60,80", target=target)


def test_the_command_writes_the_place(tmp_path: Path) -> None:
    for index in range(2):
        critter(index)[0].save(tmp_path / f"{index}.png")
    command = [sys.executable, "-m", "calotype", "run", "click-to-grasp", "--model", str(cached_descriptors()), "--picture", "0.png"]
    done = subprocess.run(
        [*command, "--click", "60,80", "--target", "1.png", "--out", "run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"heat_map.png", "points.points.csv", "sheet.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
