"""How far the recogniser can be trusted: what it finds in rendered scenes, and what it claims to find where nothing whole is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.world.painting.painter import paint
from calotype.world.scenes.recogniser import Recogniser, Recognition, load_recogniser
from calotype.world.scenes.sampling import Scene, sample_scene


def blur(
    pictures: Float[Tensor, "batch channels height width"], sigma: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Gaussian blur of each picture with its own standard deviation in pixels; at the edge only what is inside is averaged.

    >>> blur(torch.ones(1, 3, 4, 4), torch.tensor([2.0])).mean().item()
    1.0
    """
    rows, columns = (_averages(length, sigma.to(pictures)) for length in pictures.shape[-2:])
    return rows[:, None] @ pictures @ columns[:, None].transpose(-1, -2)


def _averages(length: int, sigma: Tensor) -> Tensor:
    places = torch.arange(length, dtype=sigma.dtype, device=sigma.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / sigma.clamp(min=1e-3)[:, None, None]).square())
    return weights / weights.sum(-1, keepdim=True)


def clean_ground(scene: Scene) -> Scene:
    """The same ground without the objects."""
    return dataclasses.replace(scene, objects=(), mentions=())


def blurred_objects(scenes: Sequence[Scene], share: float, size: int = 64) -> Float[Tensor, "batch 3 size size"]:
    """Scenes whose objects (not the ground) are blurred by `share` of their mean radius."""
    full, clean = paint(scenes, size=size), paint([clean_ground(scene) for scene in scenes], size=size)
    sigma = torch.tensor([share * size * sum(thing.radius for thing in scene.objects) / max(1, len(scene.objects)) for scene in scenes])
    return (clean + blur(full - clean, sigma)).clamp(0.0, 1.0)


def right(scene: Scene, seen: Recognition, within: float = 0.12) -> bool:
    """Exactly the scene's objects with category and colour, each centre within that share of the side, and the ground."""
    left = list(seen.objects)
    for thing in scene.objects:
        same = [found for found in left if found.words == thing.words]
        at = [found for found in same if max(abs(found.x / 64 - thing.x), abs(found.y / 64 - thing.y)) < within]
        if not at:
            return False
        left.remove(at[0])
    return not left and seen.background == scene.background.name


def recogniser_accuracy(
    seed: int,
    count: int = 512,
    *,
    preset: str = "small",
    split: str = "eval",
    recogniser: Recogniser | None = None,
    through: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """The recogniser's figures on `count` new scenes.

    Args:
        seed: of the scenes.
        count: scenes for each figure.
        preset: the world.
        split: `eval`, or `tune` for choices.
        recogniser: the package's own if left out.
        through: what every picture of a scene goes through first, [B, 3, 64, 64] to the same (a model's reconstruction).

    Returns:
        `scene`: share of pictures with exactly the right objects (category, colour, place) and the right ground. `found`: share of
        objects found with category and colour. `background`: share of right grounds. `place_px`: mean distance of the found centres from
        the true ones at 64 px. `none_empty`, `none_crossfade`, `none_blurred`: share of empty grounds, of half-and-half cross-fades of two
        scenes and of pictures whose objects are blurred by half their radius, in which nothing is found.
    """
    see = recogniser or load_recogniser()
    scenes, pictures = trials(seed, count, preset=preset, split=split)
    if through is not None:
        pictures["scenes"] = through(pictures["scenes"])
    return score(scenes, {name: see(made) for name, made in pictures.items()})


def trials(seed: int, count: int, *, preset: str = "small", split: str = "eval") -> tuple[list[Scene], dict[str, Tensor]]:
    """The scenes, and what is shown: `scenes`, and the pictures without a whole object, `none_empty`, `none_crossfade`, `none_blurred`."""
    scenes = [sample_scene(preset, split=split, seed=seed, index=index) for index in range(count)]
    others = [sample_scene(preset, split=split, seed=seed, index=count + index) for index in range(count)]
    pictures = paint(scenes)
    return scenes, {
        "scenes": pictures,
        "none_empty": paint([clean_ground(scene) for scene in scenes]),
        "none_crossfade": 0.5 * (pictures + paint(others)),
        "none_blurred": blurred_objects(scenes, 0.5),
    }


def score(scenes: Sequence[Scene], seen: Mapping[str, Sequence[Recognition]]) -> dict[str, float]:
    """The figures of `recogniser_accuracy` from what was seen in the pictures of `trials`."""
    hits, grounds, distances = [], [], []
    for scene, one in zip(scenes, seen["scenes"], strict=True):
        grounds.append(one.background == scene.background.name)
        for thing in scene.objects:
            same = [found for found in one.objects if found.words == thing.words]
            away = [math.hypot(found.x - 64 * thing.x, found.y - 64 * thing.y) for found in same]
            hits.append(bool(away))
            distances += [min(away)] if away else []
    count = len(scenes)
    figures = {
        "scene": sum(right(scene, one) for scene, one in zip(scenes, seen["scenes"], strict=True)) / count,
        "found": sum(hits) / max(1, len(hits)),
        "background": sum(grounds) / count,
        "place_px": sum(distances) / max(1, len(distances)),
    }
    figures.update({name: sum(one.none for one in those) / count for name, those in seen.items() if name != "scenes"})
    figures["count"] = float(count)
    return figures
