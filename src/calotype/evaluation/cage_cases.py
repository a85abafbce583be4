"""What CAGE is asked for in its evaluation: sprites that are moved, scenes that are composed, and sprites that are hit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.methods.cage.commands import Cell, Command, Grid
from calotype.world.collisions import SIDE, BouncingScene, Sprite, paint_bouncing, sample_bouncing, sprite_masks
from calotype.world.scenes.sampling import SPLITS

FRAMES = 3
"""That a command is about, and that are made."""
COVERED = 0.3
"""Least share of a cell that a sprite covers where the cell is one of its own."""
STEPS: tuple[Cell, ...] = tuple((down, right) for down in range(-2, 3) for right in range(-2, 3) if 1.9 < math.hypot(down, right) < 2.5)
"""(rows, columns) that a sprite is moved by: 16 to 18 px in three frames, as fast as sprites of the world fly."""
APART = 22.0
"""Least distance in pixels of sprites' centres, so that no cell shows two of them."""
GAPS = (5.0, 7.0)
"""Pixels between a sprite that is commanded to hit another one, and that one."""
STILL = 3
"""Frames of rest that are given before a collision."""
Case = TypeVar("Case")


@dataclass(frozen=True, eq=False)
class Source:
    """A sprite of a picture, and the cells that show it."""

    scene: BouncingScene
    number: int
    cells: tuple[Cell, ...]
    picture: Float[Tensor, "3 size size"]

    @property
    def sprite(self) -> Sprite:
        """The sprite."""
        return self.scene.sprites[self.number]

    @property
    def middle(self) -> Cell:
        """The cell that paths are of."""
        return Command(self.cells, {}).middle


@dataclass(frozen=True, eq=False)
class Placed:
    """A source, where it has to be in each frame, and where its centre is then in the last one, in pixels."""

    source: Source
    path: dict[int, Cell]

    @property
    def command(self) -> Command:
        """For `CAGE.controls`."""
        return Command(self.source.cells, self.path)

    def goal(self, grid: Grid) -> tuple[float, float]:
        """(x, y) in the last frame."""
        rows, columns = (there - here for there, here in zip(self.path[max(self.path)], self.source.middle, strict=True))
        return self.source.sprite.x + columns * SIDE / grid[1], self.source.sprite.y + rows * SIDE / grid[0]


@dataclass(frozen=True, eq=False)
class Asked:
    """One case: what is known, and what has to be where."""

    known: Float[Tensor, "past 3 size size"] | None
    """None for an empty canvas."""
    placed: tuple[Placed, ...]
    scene: BouncingScene | None = None
    """That the known frames are of."""


def source_of(scene: BouncingScene, number: int, grid: Grid, picture: Tensor | None = None) -> Source:
    """A sprite of a scene's first frame with the cells that it covers; the fullest one if it covers none enough."""
    first = BouncingScene(sprites=scene.sprites, ground=scene.ground, num_frames=1)
    shares = torch.nn.functional.adaptive_avg_pool2d(sprite_masks(first)[:, number].float(), grid)[0]
    chosen = (shares >= min(COVERED, float(shares.max()))).nonzero().tolist()
    painted = paint_bouncing([first])[0, 0] if picture is None else picture
    return Source(scene, number, tuple((int(row), int(column)) for row, column in chosen), painted)


def path_by(source: Source, step: Cell) -> dict[int, Cell]:
    """Evenly from where the source is, by a number of rows and columns in all."""
    row, column = source.middle
    return {frame: (row + round(step[0] * frame / FRAMES), column + round(step[1] * frame / FRAMES)) for frame in range(1, FRAMES + 1)}


def animations(split: str, seed: int, count: int, grid: Grid) -> list[Asked]:
    """Scenes in which a sprite is moved by two cells, or two and one, to where nothing is."""
    return _some(count, lambda index: _animation(sample_bouncing(split=split, seed=seed, index=index, num_frames=FRAMES + 1), index, grid))


def _animation(scene: BouncingScene, index: int, grid: Grid) -> Asked | None:
    source = source_of(scene, 0, grid)
    paths = scene.paths()[:, 1:].reshape(-1, 2)
    for step in _shuffled(STEPS, index):
        placed = Placed(source, path_by(source, step))
        goal = placed.goal(grid)
        if _inside(goal, source.sprite.radius) and all(np.hypot(*(other - goal)) > APART for other in paths):
            return Asked(source.picture[None], (placed,), scene)
    return None


def compositions(
    split: str, seed: int, count: int, grid: Grid, *, most: int = 3, far: bool = False, one_ground: bool = False
) -> list[Asked]:
    """One to `most` sprites in turn, each of another picture, somewhere on an empty canvas.

    Args:
        split: of the scenes.
        seed: of the scenes and places.
        count: cases.
        grid: rows and columns of cells.
        most: sprites.
        far: put them half of the picture's side or more away from where they were.
        one_ground: all of a case's pictures have the same ground.
    """
    rng = np.random.default_rng(np.random.SeedSequence([SPLITS[split], seed, 23]))
    drawn = (_alone(sample_bouncing(split=split, seed=seed, index=100_000 + index), grid) for index in itertools.count())
    alone = (source for source in drawn if source is not None)
    made: list[Asked] = []
    while len(made) < count:
        chosen: list[Placed] = []
        while len(chosen) < len(made) % most + 1:
            source = next(alone)
            if any(source.sprite.identity == other.source.sprite.identity for other in chosen):
                continue
            if one_ground and any(source.scene.ground != other.source.scene.ground for other in chosen):
                continue
            for _ in range(50):
                cell = (int(rng.integers(1, grid[0] - 1)), int(rng.integers(1, grid[1] - 1)))
                placed = Placed(source, dict.fromkeys(range(1, FRAMES + 1), cell))
                goal = placed.goal(grid)
                away = math.hypot(goal[0] - source.sprite.x, goal[1] - source.sprite.y)
                free = all(math.dist(goal, other.goal(grid)) > APART for other in chosen)
                if _inside(goal, source.sprite.radius) and free and (away >= SIDE / 2 or not far):
                    chosen.append(placed)
                    break
        made.append(Asked(None, tuple(chosen)))
    return made


def _alone(scene: BouncingScene, grid: Grid) -> Source | None:
    """The first sprite, if none is so near that its cells show both."""
    first = scene.sprites[0]
    if any(math.hypot(first.x - other.x, first.y - other.y) < APART for other in scene.sprites[1:]):
        return None
    return source_of(scene, 0, grid)


def collisions(split: str, seed: int, count: int, grid: Grid, *, hit: bool) -> list[Asked]:
    """Two sprites at rest, of which the first is moved by a cell in the first frame: into the second one, or at a right angle to that.

    There it stays, as a sprite that hits another one of the same mass comes to rest. The same seed gives the same scenes for both.
    """
    return _some(count, lambda index: _collision(split, seed, index, grid, hit))


def _collision(split: str, seed: int, index: int, grid: Grid, hit: bool) -> Asked | None:
    drawn = sample_bouncing(split=split, seed=seed, index=200_000 + index, sprites=2).stilled()
    rng = np.random.default_rng(np.random.SeedSequence([SPLITS[split], seed, 29, index]))
    first, second = drawn.sprites
    length = SIDE / grid[0]
    for step in _shuffled(((1, 0), (-1, 0), (0, 1), (0, -1)), index):
        (down, right), aside = step, (step[1], -step[0]) if index % 2 else (-step[1], step[0])
        away = first.radius + second.radius + rng.uniform(*GAPS)
        x, y = first.x + right * away, first.y + down * away
        ends = ((x + right * 2 * length, y + down * 2 * length), (first.x + aside[1] * length, first.y + aside[0] * length))
        if not all(_inside(end, second.radius) for end in ends):
            continue
        moved = Sprite(identity=second.identity, radius=second.radius, x=x, y=y)
        scene = BouncingScene(sprites=(first, moved), ground=drawn.ground, num_frames=1)
        source = source_of(scene, 0, grid)
        there = step if hit else aside
        path = dict.fromkeys(range(1, FRAMES + 1), (source.middle[0] + there[0], source.middle[1] + there[1]))
        return Asked(source.picture.expand(STILL, -1, -1, -1), (Placed(source, path),), scene)
    return None


def _some(count: int, make: Callable[[int], Case | None]) -> list[Case]:
    """The first `count` that can be made."""
    found: Iterator[Case] = (case for case in map(make, itertools.count()) if case is not None)
    return list(itertools.islice(found, count))


def _shuffled(steps: tuple[Cell, ...], index: int) -> list[Cell]:
    order = np.random.default_rng(np.random.SeedSequence([31, index])).permutation(len(steps))
    return [steps[place] for place in order]


def _inside(place: tuple[float, float], radius: float) -> bool:
    return all(radius <= value <= SIDE - radius for value in place)
