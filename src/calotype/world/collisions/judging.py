"""The judge of pictures of the collisions world: which sprites are in a picture and where, by template matching alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.errors import ShapeError
from calotype.world.collisions.painting import SIZE, WINDOW, paint_bouncing, sprites
from calotype.world.collisions.sampling import IDENTITIES, RADII, BouncingScene, sample_bouncing

SOLID = 0.5
"""Least coverage of the pixels that a candidate is searched by."""
MOST_ERROR = 0.06
"""Of a candidate: mean squared difference of its pixels from the template."""
LEAST_OPACITY = 0.75
"""Of a sprite over the ground around it: 1 in the world, 0.5 in an even blend."""
LEAST_SCORE = 0.6
"""Share of what a sprite changes about its ground that the template explains."""
RIM = 5
"""Side of the square that widens a sprite's silhouette to what is compared with the template."""
APART = 8
"""Two sprites whose centres are nearer than this along both axes, in pixels, are one."""
MOST = 6
"""Sprites that are looked for in a picture."""


@dataclass(frozen=True)
class FoundSprite:
    """A sprite that the judge recognised."""

    identity: int
    """Which of `IDENTITIES`."""
    x: float
    y: float
    """Its centre in pixels at 64 px."""
    score: float
    """Share of the picture's change about its ground that the template explains, up to 1."""


@dataclass(frozen=True, eq=False)
class Templates:
    """Sprites at whole pixels; a row for each identity and radius."""

    identity: Int[Tensor, " templates"]
    colours: Float[Tensor, "templates 3 window window"]
    """Times coverage."""
    coverage: Float[Tensor, "templates 1 window window"]
    solid: Float[Tensor, "templates 1 window window"]
    """1 at the pixels that a candidate is searched by."""
    near: Float[Tensor, "templates 1 window window"]
    """1 at the sprite and its rim."""


@lru_cache(maxsize=1)
def templates() -> Templates:
    """Of every identity at the least, the middle and the largest radius."""
    chosen = sprites().stamps[:, :: len(RADII) // 2, 0, 0]
    stamps = chosen.flatten(0, 1)
    coverage = stamps[:, 3:]
    return Templates(
        identity=torch.arange(len(IDENTITIES)).repeat_interleave(chosen.shape[1]),
        colours=stamps[:, :3], coverage=coverage, solid=(coverage > SOLID).float(),
        near=functional.max_pool2d((coverage > 0.05).float(), RIM, stride=1, padding=RIM // 2),
    )  # fmt: skip


def recognise_sprites(images: Float[Tensor, "batch 3 size size"]) -> list[list[FoundSprite]]:
    """What is in pictures of 64 px.

    A sprite counts as found where a template of its identity matches best, is opaque, and explains the picture about it. Pictures of
    a ground alone, even blends of two pictures and blurred sprites give none.

    Args:
        images: sRGB in [0, 1].

    Returns:
        For each picture its sprites, the best match first.

    Raises:
        ShapeError: not [B, 3, 64, 64].

    Example:
        >>> scene = sample_bouncing(split="eval", seed=1, index=0, num_frames=1, sprites=2)
        >>> found = recognise_sprites(paint_bouncing([scene])[:, 0])[0]
        >>> sorted(sprite.identity for sprite in found) == sorted(sprite.identity for sprite in scene.sprites)
        True
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
        raise ShapeError(f"images of shape {tuple(images.shape)} were given; expected [B, 3, {SIZE}, {SIZE}]")
    found: list[list[FoundSprite]] = []
    for part in images.detach().float().cpu().clamp(0, 1).split(64):
        padded = functional.pad(part, (WINDOW // 2,) * 4, mode="replicate")
        errors = _errors(padded)
        for picture, map_ in zip(padded, errors, strict=True):
            found.append(_found(picture, map_))
    return found


def _errors(padded: Tensor) -> Float[Tensor, "batch templates places places"]:
    """Mean squared difference of each template from the picture, at every whole pixel of its centre."""
    known = templates()
    colours = known.colours / known.coverage.clamp(min=0.05) * known.solid
    squares = functional.conv2d(padded.square().sum(1, keepdim=True), known.solid)
    products = functional.conv2d(padded, colours)
    own = colours.square().sum((1, 2, 3))[None, :, None, None]
    made: Tensor = (squares - 2.0 * products + own) / (3.0 * known.solid.sum((1, 2, 3)))[None, :, None, None]
    return made


def _found(picture: Tensor, errors: Tensor) -> list[FoundSprite]:
    """Sprites of one picture: candidates by error, then those that pass, best first and apart from each other."""
    known = templates()
    least, which = errors.min(0)
    lowest = -functional.max_pool2d(-least[None], 3, stride=1, padding=1)[0]
    rows, columns = ((least <= lowest) & (least < MOST_ERROR)).nonzero(as_tuple=True)
    if not len(rows):
        return []
    kinds = which[rows, columns]
    patches = picture.unfold(1, WINDOW, 1).unfold(2, WINDOW, 1)[:, rows, columns].movedim(1, 0)
    opacity, score = _match(patches, kinds)
    found: list[FoundSprite] = []
    for place in score.argsort(descending=True).tolist():
        if float(opacity[place]) < LEAST_OPACITY or float(score[place]) < LEAST_SCORE or len(found) == MOST:
            continue
        x, y = float(columns[place]), float(rows[place])
        if all(max(abs(sprite.x - x), abs(sprite.y - y)) >= APART for sprite in found):
            found.append(FoundSprite(int(known.identity[kinds[place]]), x, y, float(score[place])))
    return found


def _match(patches: Float[Tensor, "places 3 window window"], kinds: Int[Tensor, " places"]) -> tuple[Tensor, Tensor]:
    """Opacity of each template over its surroundings' colour by least squares, and the share of the change that it explains."""
    known = templates()
    colours, coverage, near = known.colours[kinds], known.coverage[kinds], known.near[kinds]
    outside = (near > 0) & (coverage < 0.05)
    ground = torch.where(outside, patches, torch.nan).flatten(2).nanmedian(2).values[:, :, None, None]
    wanted = (colours - coverage * ground) * near
    shown = (patches - ground) * near
    opacity = (wanted * shown).sum((1, 2, 3)) / wanted.square().sum((1, 2, 3)).clamp(min=1e-6)
    score = 1.0 - (shown - wanted).square().sum((1, 2, 3)) / shown.square().sum((1, 2, 3)).clamp(min=1e-6)
    return opacity, score


def locate_sprites(images: Float[Tensor, "batch 3 size size"], identities: Int[Tensor, " batch"]) -> Float[Tensor, "batch 2"]:
    """Where a sprite of an identity would fit best, whether it is there or not: its centre (x, y) in pixels.

    Args:
        images: sRGB in [0, 1], 64 px.
        identities: the one that is looked for in each picture.
    """
    errors = torch.cat([_errors(functional.pad(part, (WINDOW // 2,) * 4, mode="replicate")) for part in images.float().cpu().split(64)])
    own = templates().identity == identities.cpu()[:, None]
    least = errors.masked_fill(~own[:, :, None, None], torch.inf).amin(1)
    places = least.flatten(1).argmin(1)
    return torch.stack([places % least.shape[-1], places // least.shape[-1]], 1).float()


def judge_accuracy(
    seed: int, count: int = 128, *, split: str = "eval", through: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """The judge's own figures on true pictures.

    Args:
        seed: of the scenes.
        count: scenes.
        split: `eval`, or `tune` for choices.
        through: what the pictures go through first, [B, 3, 64, 64] to the same (an autoencoder's reconstruction).

    Returns:
        `found`: share of sprites that are found with the right identity within 4 px. `invented`: other finds, for each picture.
        `place_px`: mean distance of the found ones. `none_of_grounds`, `none_of_blends`, `none_of_blurs`: share of pictures without a
        find: grounds alone, sprites at half opacity, and sprites blurred by half their radius.

    Example:
        >>> judge_accuracy(1, 16)["found"]
        1.0
    """
    scenes = [sample_bouncing(split=split, seed=seed, index=index, num_frames=1) for index in range(count)]
    through = through or (lambda pictures: pictures)
    clear = paint_bouncing(scenes)[:, 0]
    grounds = sprites().grounds[torch.tensor([scene.ground for scene in scenes])]
    right, away, invented = [], [], []
    for scene, found in zip(scenes, recognise_sprites(through(clear)), strict=True):
        for sprite in scene.sprites:
            fits = [float(np.hypot(one.x - sprite.x, one.y - sprite.y)) for one in found if one.identity == sprite.identity]
            right.append(bool(fits) and min(fits) < 4.0)
            away.extend(fits[:1])
        invented.append(len(found) - sum(right[-len(scene.sprites) :]))
    blurred = torch.stack([_blurred(picture, scene) for picture, scene in zip(clear, scenes, strict=True)])
    nothing = {"grounds": grounds, "blends": 0.5 * (clear + grounds), "blurs": blurred}
    none = {f"none_of_{name}": float(np.mean([not found for found in recognise_sprites(through(some))])) for name, some in nothing.items()}
    place = float(np.mean(away)) if away else float("nan")
    return {"found": float(np.mean(right)), "invented": float(np.mean(invented)), "place_px": place, **none}


def _blurred(picture: Tensor, scene: BouncingScene) -> Tensor:
    """A Gaussian blur by half of the smallest radius."""
    sigma = min(sprite.radius for sprite in scene.sprites) / 2
    reach = torch.arange(-12.0, 13.0)
    line = torch.exp(-0.5 * (reach / sigma) ** 2)
    kernel = (line / line.sum()).expand(3, 1, 1, -1)
    wide = functional.pad(picture[None], (12,) * 4, mode="replicate")
    made: Tensor = functional.conv2d(functional.conv2d(wide, kernel, groups=3), kernel.mT, groups=3)[0]
    return made
