"""Clips with one thing changed, and with another motion: what an edit should look like, and what it must not follow."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from calotype.evaluation.pairs import FRAMES, SIZE, SYMMETRIC, Pair, at_end, scenes, turned_by
from calotype.imaging.types import Image, Video
from calotype.metrics import centroid_error, flicker, psnr, psnr_within
from calotype.world import PRESETS, SPLITS, Scene, ground_truth, recognise, recoloured, replaced, with_background
from calotype.world.painting.shapes import CATEGORIES

FPS = 7
"""Told to the model for every clip, whatever its own rate is."""
KINDS = ("shape", "colour", "shape", "ground")
"""The edits by turns; every other one changes the outline, which is where a leak of the source shows most."""
APART = 12.0
"""Pixels at `SIZE` that the ends of the right and of the wrong path are apart at least."""
_TURNS = (math.pi, math.pi / 2, -math.pi / 2, 3 * math.pi / 4, -3 * math.pi / 4)

Kind = Literal["shape", "colour", "ground"]


@dataclass(frozen=True, eq=False)
class ClipEdit:
    """A source clip, the same clip edited, and the source with another motion."""

    source: Pair
    edited: Pair
    wrong: Pair
    """The source scene on another path from the same place: its first frame is the source's."""
    kind: Kind
    index: int

    @property
    def clip(self) -> Video:
        """What is edited."""
        return Video(self.source.clip, FPS)

    @property
    def wrong_clip(self) -> Video:
        """What is inverted in its stead, to see whether the motion comes from there."""
        return Video(self.wrong.clip, FPS)

    @property
    def frame(self) -> Image:
        """The edited first frame, as a perfect editor makes it."""
        return self.edited.start

    @cached_property
    def ground(self) -> Bool[Tensor, "frames size size"]:
        """Pixels that show the ground in the edited clip."""
        return ~ground_truth(self.edited.scene, SIZE, num_frames=FRAMES).masks[:, 0]

    @cached_property
    def wrong_path(self) -> NDArray[np.float64]:
        """Where the object would be on the wrong path."""
        return self.wrong.truth.centroids

    def measure(self, frames: Float[Tensor, "frames 3 size size"]) -> dict[str, float]:
        """The metrics of a clip that was made as the edited one."""
        truth, found = self.edited.clip, self.edited.follow(frames)
        right = self._right(frames)
        return {
            "psnr_db": float(psnr(frames, truth).mean()),
            "trajectory_error_px": float(centroid_error(found, self.edited.truth.centroids).mean()),
            "attribute_accuracy": right,
            "background_psnr_db": psnr_within(frames.movedim(1, 0), truth.movedim(1, 0), self.ground),
            "flicker": flicker(frames, truth, self.ground),
            "shape_accuracy": right if self.kind == "shape" else math.nan,
            "wrong_path_error_px": float(centroid_error(found, self.wrong_path).mean()),
        }

    def _right(self, frames: Float[Tensor, "frames 3 size size"]) -> float:
        """Share of the frames in which the recogniser finds the edited object (category and colour), and the edited ground."""
        thing, ground = self.edited.scene.objects[0], self.edited.scene.background.name
        seen = recognise(frames)
        right = [found.has(*thing.words) and (self.kind != "ground" or found.background == ground) for found in seen]
        return sum(right) / len(right)


def cases(preset: str, split: str, seed: int, count: int) -> list[ClipEdit]:
    """Cases of one moving object under a still camera, straight, arcs and bounces by turns."""
    streams = {family: scenes(preset, split, seed, family) for family in SYMMETRIC}
    made: list[ClipEdit] = []
    while len(made) < count:
        index = len(made)
        scene = next(streams[SYMMETRIC[index % len(SYMMETRIC)]])
        other = _elsewhere(scene)
        if other is None:
            continue
        kind: Kind = KINDS[index % len(KINDS)]  # type: ignore[assignment]
        made.append(ClipEdit(Pair(scene, index), Pair(_edited(scene, kind, index, seed), index), Pair(other, index), kind, index))
    return made


def _edited(scene: Scene, kind: Kind, index: int, seed: int) -> Scene:
    draw = np.random.default_rng(np.random.SeedSequence([SPLITS[scene.split], seed, index, 2]))
    world, thing = PRESETS[scene.preset], scene.objects[0]
    if kind == "colour":
        return recoloured(scene, 0, str(draw.choice([name for name in world.colours if name != thing.colour])))
    if kind == "ground":
        names = [name for name in world.backgrounds if name != scene.background.name]
        return with_background(scene, str(draw.choice(names)), seed=index)
    shapes = [name for name in world.categories if name != thing.category and not CATEGORIES[name].directed]
    category = str(draw.choice(shapes))
    made = replaced(scene, 0, category)
    # A ball lies any way round, a tree doesn't: no more tilt than the world gives that shape.
    tilt = CATEGORIES[category].tilt
    return dataclasses.replace(made, objects=(dataclasses.replace(made.objects[0], angle=max(-tilt, min(tilt, thing.angle))),))


def _elsewhere(scene: Scene) -> Scene | None:
    """The scene with its path turned about the start so that it stays in the picture and ends elsewhere; None if there is no such turn."""
    thing = scene.objects[0]
    for angle in _TURNS:
        turned = dataclasses.replace(thing, motion=turned_by(thing.motion, angle))
        end, right = at_end(turned), at_end(thing)
        u = np.linspace(0.0, 1.0, FRAMES)
        offsets = np.stack(turned.motion.offset(u), axis=-1) + np.array([thing.x, thing.y])
        inside = bool((np.abs(offsets - 0.5) + 0.7 * thing.radius <= 0.5).all())
        if inside and math.hypot(end.x - right.x, end.y - right.y) * SIZE >= APART:
            return dataclasses.replace(scene, objects=(turned,))
    return None
