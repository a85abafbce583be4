"""What a click on a critter needs: a reference picture with clicks on its parts, and views with depth of a scene of other critters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.errors import InputError
from calotype.imaging.rgbd import RGBDScene, RGBDView
from calotype.imaging.types import Image
from calotype.world.critters.anatomy import PARTS
from calotype.world.critters.cameras import TableCamera, cameras_around
from calotype.world.critters.raycasting import Rendering, render_pictures, render_views
from calotype.world.critters.sampling import CritterScene, sample_critter_picture

CLICKED = ("arm_left", "arm_right", "leg_left", "leg_right", "head")
"""Parts that are clicked on, in this order."""
TURN = math.pi / 3
"""Most angle between where a critter of a reference faces and the camera."""
VISIBLE = 40
"""Least pixels of each clicked part, in a picture of 128 px."""
VIEWS, DISTANCE, ELEVATION, MIDDLE = 4, 0.9, 0.65, (0.0, 0.0, 0.07)
"""Cameras about a scene: how many, metres and radians from the point that all look at."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture of one critter, of which every part of `CLICKED` is seen."""

    scene: CritterScene
    camera: TableCamera
    seen: Rendering
    """Of that one picture."""
    clicks: dict[str, tuple[float, float]]
    """The pixel of each part that is nearest to the middle of its pixels: (x, y) from the picture's outer corner, in the pixel's centre."""

    @property
    def image(self) -> Image:
        """The picture."""
        return Image(self.seen.image[0])

    @property
    def part(self) -> Tensor:
        """Number of the part in each pixel [H, W], -1 where there is none."""
        return self.seen.part[0]


def sample_reference(*, split: str, seed: int, index: int, size: int = 128) -> Reference:
    """The reference picture of that number: the first of its stream in which every part can be clicked on.

    Args:
        split: `train`, `tune` or `eval`.
        seed: 0 or more.
        index: of the reference.
        size: height and width in pixels.

    Raises:
        InputError: an unknown split, a number out of range.

    Example:
        >>> reference = sample_reference(split="tune", seed=1, index=0)
        >>> x, y = reference.clicks["arm_left"]
        >>> PARTS[reference.part[int(y), int(x)]]
        'arm_left'
    """
    for number in range(TRIES):
        scene, camera = sample_critter_picture(split=split, seed=seed, index=index * TRIES + number, turn=TURN, crowded=0.0)
        seen = render_pictures([scene], [camera], size)
        masks = {name: seen.part[0] == PARTS.index(name) for name in CLICKED}
        if all(int(mask.sum()) >= VISIBLE * (size / 128) ** 2 for mask in masks.values()):
            return Reference(scene, camera, seen, {name: _middle(mask) for name, mask in masks.items()})
    raise InputError(f"no picture shows every part at reference {index} of seed {seed}")


TRIES = 64
"""Pictures that are looked at for a reference."""


def _middle(mask: Bool[Tensor, "height width"]) -> tuple[float, float]:
    places = mask.nonzero().double() + 0.5
    nearest = places[(places - places.mean(0)).square().sum(-1).argmin()]
    return float(nearest[1]), float(nearest[0])


def scene_views(scene: CritterScene, *, size: int = 256, count: int = VIEWS, first: float = 0.3) -> tuple[RGBDScene, Rendering]:
    """Views of a scene by cameras around it, and all that is known of their pixels.

    Args:
        scene: critters on a table.
        size: height and width of the pictures in pixels.
        count: of cameras, evenly spaced.
        first: direction of the first camera in radians.
    """
    cameras = cameras_around(MIDDLE, count=count, distance=DISTANCE, elevation=ELEVATION, first=first)
    seen = render_views(scene, cameras, size)
    views = [
        RGBDView(
            seen.image[number], seen.depth[number].float(), camera.intrinsics(size).double(), _rigid(camera.camera_from_world().double())
        )
        for number, camera in enumerate(cameras)
    ]  # fmt: skip
    return RGBDScene(tuple(views)), seen


def _rigid(pose: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """The same with a rotation that is one to double precision."""
    left, _, right = torch.linalg.svd(pose[:3, :3])
    pose[:3, :3] = left @ right
    return pose
