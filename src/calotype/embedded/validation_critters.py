"""The gates of `toy-critters`: whether a click on an arm of one critter finds the same arm of another, and not the other arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.core.events import Events
from calotype.features.correspondence import cosine, descriptor_at
from calotype.imaging.types import Image
from calotype.world.critters.anatomy import PARTS, corresponding_points
from calotype.world.critters.raycasting import Rendering, render_pictures
from calotype.world.critters.sampling import sample_critter_picture

SIZE = 128
TURN = math.pi / 3
"""Most angle between where the critters face and the camera, in the pictures that the gate is measured on."""
VISIBLE = 40
"""Pixels of an arm without which it is not clicked on or looked for."""
LIMBS = ("arm", "leg")
NEAR_SHARE = 0.1
"""Of the longer side of the target's box: within it a point is found (PCK at 0.1)."""
Key = tuple[str, str, str]


def validate(folder: Path, *, seed: int, count: int, device: str = "auto", events: Events) -> dict[str, float]:
    """Figures on pairs of pictures of the `eval` split; see `left_right`."""
    import calotype

    model = calotype.load(str(folder), device=device, dtype="float32")
    return left_right(model, split="eval", seed=seed, count=count, events=events)


def left_right(model: Any, *, split: str, seed: int, count: int, events: Events) -> dict[str, float]:
    """How often a click on a limb of one critter finds the same limb of another one.

    Args:
        model: a `DescriptorModel`.
        split: of the pictures.
        seed: of the pictures.
        count: pairs of pictures, of each kind of view.
        events: hears the pairs.

    Returns:
        With the diffusion network's descriptors and both critters within 60 degrees of facing the camera: `arm_hit`: share of the clicks
        on arms whose most similar place is on an arm; `left_right`: share of these with the right side; `pck`: share of the clicks whose
        most similar place is within a tenth of the critter's size of the true one. The same for `leg`: `leg_hit`, `left_right_legs`.
        `..._any_view`: critters that face anywhere, some of them not alone. `..._transformer`: with the transformer's features.
    """
    events.stage("click on critters", 2 * count)
    counts: dict[Key, list[float]] = {}
    for view, turn in (("", TURN), ("_any_view", None)):
        for index in range(count):
            pairs = [
                sample_critter_picture(split=split, seed=seed, index=2 * index + k, turn=turn, **({"crowded": 0.0} if turn else {}))
                for k in range(2)
            ]
            seen = render_pictures([scene for scene, _ in pairs], [camera for _, camera in pairs], SIZE)
            maps = [model.maps(Image(seen.image[k])) for k in range(2)]
            for limb in LIMBS:
                for click, part in _clicks(seen, limb):
                    true = _true_place(pairs, seen, click, part)
                    for kind, suffix in (("diffusion", ""), ("vit", "_transformer")):
                        found = _most_similar(maps[0][kind], maps[1][kind], click)
                        hit = int(seen.part[1, int(found[1]), int(found[0])])
                        on_limb = hit >= 0 and PARTS[hit].startswith(limb)
                        _count(counts, (f"{limb}_hit", suffix, view), on_limb)
                        if on_limb:
                            _count(counts, ("left_right" + ("_legs" if limb == "leg" else ""), suffix, view), hit == part)
                        if true is not None:
                            reach = NEAR_SHARE * _box_side(seen)
                            _count(counts, ("pck", suffix, view), math.dist(found, true) <= reach)
            events.step()
    figures = {"".join(key): total / number for key, (total, number) in counts.items()}
    return {**figures, "clicks_on_arms": counts["arm_hit", "", ""][1], "count": float(count)}


def _count(counts: dict[Key, list[float]], key: Key, right: bool) -> None:
    total = counts.setdefault(key, [0.0, 0.0])
    total[0] += right
    total[1] += 1.0


def _clicks(seen: Rendering, limb: str) -> list[tuple[tuple[float, float], int]]:
    """A click in the middle of each limb of the first picture's critter, if both can be seen in the second; (x, y) and the part."""
    sides = [kind for kind, name in enumerate(PARTS) if name.startswith(f"{limb}_")]
    first, second = (torch.where(seen.thing[k] == 0, seen.part[k], -1) for k in range(2))
    if min(int((second == kind).sum()) for kind in sides) < VISIBLE:
        return []
    made = []
    for kind in sides:
        cells = (first == kind).nonzero()
        if len(cells) >= VISIBLE:
            middle = cells.float().mean(0)
            row, column = cells[(cells - middle).square().sum(1).argmin()].tolist()
            made.append(((column + 0.5, row + 0.5), kind))
    return made


def _most_similar(source: Tensor, target: Tensor, click: tuple[float, float]) -> tuple[float, float]:
    """The middle (x, y) of the cell of the target whose features are most like those at the click."""
    scores = cosine(target, descriptor_at(source, click, (SIZE, SIZE)))
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    return (column + 0.5) * SIZE / scores.shape[1], (row + 0.5) * SIZE / scores.shape[0]


def _true_place(pairs: Sequence[Any], seen: Rendering, click: tuple[float, float], part: int) -> tuple[float, float] | None:
    """Where the clicked place is on the second critter, in pixels; None where it is hidden."""
    (source, _), (target, camera) = pairs
    point = seen.point[0, :, int(click[1]), int(click[0])][None]
    there = corresponding_points(source.critters[0], PARTS[part], point, target.critters[0])
    x, y, depth = camera.project(there, SIZE)[0].tolist()
    if not (0 <= x < SIZE and 0 <= y < SIZE) or abs(float(seen.depth[1, int(y), int(x)]) - depth) > 0.01:
        return None
    return x, y


def _box_side(seen: Rendering) -> float:
    """The longer side in pixels of the box around the second picture's critter."""
    rows, columns = (seen.thing[1] == 0).nonzero().T
    return float(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1)
