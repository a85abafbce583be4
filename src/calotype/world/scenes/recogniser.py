"""The recogniser: names the objects, their colours and places, and the ground in any picture of the toy world.

A small network looks for object centres on a grid of 16x16 cells (Zhou et al. 2019, "Objects as points"): a heat per category, and at
each cell the colour, the way to the centre and the radius. It says nothing where there is nothing whole: on an empty ground, on the ghosts
of a cross-fade, on a blur. Its weights are in `checkpoints/recogniser`; `calotype train recogniser` makes them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import MissingError, ShapeError

SIZE = 64
"""Side in pixels that every picture is resized to."""
STRIDE = 4
"""Pixels at `SIZE` between the cells."""
RADIUS = 15.0 / 64.0
"""The radius, in sides, whose logarithm the network calls 0."""
BATCH = 128
CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "recogniser"


@dataclass(frozen=True)
class Found:
    """One object in a picture."""

    category: str
    colour: str
    x: float
    """Centre, in pixels of the given picture from its left edge."""
    y: float
    """Centre, in pixels from its top edge."""
    radius: float
    """Radius of the circle around all its parts, in pixels of the picture's width."""
    score: float
    """How sure the network is of a whole object of that category and colour, 0..1."""

    @property
    def words(self) -> tuple[str, str]:
        """Its category and colour word, like `SceneObject.words`."""
        return self.category, self.colour


@dataclass(frozen=True)
class Recognition:
    """What is in one picture."""

    objects: tuple[Found, ...]
    """The surest first; empty where nothing whole was found."""
    background: str
    """The likeliest ground."""
    background_score: float
    """Its probability among the grounds."""

    @property
    def none(self) -> bool:
        """Nothing was found."""
        return not self.objects

    def has(self, category: str, colour: str) -> bool:
        """Whether an object of that category and that colour was found."""
        return any(found.words == (category, colour) for found in self.objects)

    def above(self, threshold: float) -> Recognition:
        """Only the objects with at least that score."""
        return dataclasses.replace(self, objects=tuple(found for found in self.objects if found.score >= threshold))

    def __str__(self) -> str:
        things = ", ".join(f"{found.colour} {found.category}" for found in self.objects)
        return f"{things or 'none'} on {self.background}"


class _Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x + self.second(self.first(x)))


def _conv(inside: int, outside: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)]
    return nn.Sequential(*layers, nn.SiLU()) if act else nn.Sequential(*layers)


class RecogniserNet(nn.Module):
    """The network: down to a quarter, an eighth and a sixteenth of the picture, and up again to a quarter."""

    def __init__(self, categories: Sequence[str], colours: Sequence[str], backgrounds: Sequence[str], *, width: int = 16) -> None:
        super().__init__()
        self.categories, self.colours, self.backgrounds = tuple(categories), tuple(colours), tuple(backgrounds)
        self.width = width
        stem, fine, middle, coarse = 3 * width // 2, 3 * width, 5 * width, 7 * width
        self.fine = nn.Sequential(_conv(3, stem, 2), _conv(stem, fine, 2), _Block(fine))
        self.middle = nn.Sequential(_conv(fine, middle, 2), _Block(middle), _Block(middle))
        self.coarse = nn.Sequential(_conv(middle, coarse, 2), _Block(coarse))
        self.coarse_to_middle = nn.Conv2d(coarse, middle, 1)
        self.merge_middle = _conv(middle, middle)
        self.middle_to_fine = nn.Conv2d(middle, fine, 1)
        self.merge_fine = _conv(fine, 4 * width)
        self.head = nn.Conv2d(4 * width, len(categories) + len(colours) + 3, 1)
        self.ground = nn.Linear(coarse + middle, len(backgrounds))
        with torch.no_grad():
            # Almost every cell is empty: start by saying so (Lin et al. 2017, section 4.1).
            self.head.bias[: len(categories)] = -4.0  # type: ignore[index]

    def forward(self, pixels: Float[Tensor, "batch 3 64 64"]) -> dict[str, Tensor]:
        """Pixels in [0, 1] to logits: `heat` [B, categories, 16, 16], `colour` [B, colours, 16, 16], `place` [B, 3, 16, 16] (way to the
        centre in cells, right and down, and log radius over `RADIUS`), `ground` [B, backgrounds]."""
        fine = self.fine((pixels - 0.5) * 4.0)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        ground = self.ground(torch.cat([coarse.mean((2, 3)), middle.mean((2, 3))], 1))
        merged = self.merge_middle(middle + functional.interpolate(self.coarse_to_middle(coarse), scale_factor=2.0))
        merged = self.merge_fine(fine + functional.interpolate(self.middle_to_fine(merged), scale_factor=2.0))
        heat, colour, place = self.head(merged).split([len(self.categories), len(self.colours), 3], 1)
        return {"heat": heat, "colour": colour, "place": place, "ground": ground}

    def config(self) -> dict[str, Any]:
        """What `load_recogniser` needs to build it again."""
        return {
            "categories": list(self.categories),
            "colours": list(self.colours),
            "backgrounds": list(self.backgrounds),
            "width": self.width,
        }


@dataclass(frozen=True)
class Recogniser:
    """A trained network and its threshold."""

    net: RecogniserNet
    threshold: float
    """Lowest score of an object that is reported; chosen on the split `tune`."""

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> list[Recognition]:
        """See `recognise`."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ShapeError(f"pictures of shape {tuple(images.shape)} were given; expected [B, 3, H, W] with values in [0, 1]")
        device = next(self.net.parameters()).device
        height, width = images.shape[-2:]
        found: list[Recognition] = []
        for part in torch.split(images, BATCH):
            pixels = part.to(device).float().clamp(0.0, 1.0)
            if (height, width) != (SIZE, SIZE):
                pixels = functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
            found += self._read({name: tensor.float().cpu() for name, tensor in self.net(pixels).items()}, height, width)
        return found

    def _read(self, out: dict[str, Tensor], height: int, width: int) -> list[Recognition]:
        heat, category = out["heat"].sigmoid().max(1)
        sure, colour = out["colour"].softmax(1).max(1)
        score = heat * sure
        peak = (heat == functional.max_pool2d(heat[:, None], 5, 1, 2)[:, 0]) & (score >= self.threshold)
        certain, ground = out["ground"].softmax(1).max(1)
        read = []
        for row in range(len(heat)):
            things: list[Found] = []
            for i, j in peak[row].nonzero().tolist():
                right, down, size = out["place"][row, :, i, j].tolist()
                thing = Found(
                    category=self.net.categories[int(category[row, i, j])],
                    colour=self.net.colours[int(colour[row, i, j])],
                    x=(j + 0.5 + right) * STRIDE / SIZE * width,
                    y=(i + 0.5 + down) * STRIDE / SIZE * height,
                    radius=math.exp(max(-2.0, min(2.0, size))) * RADIUS * width,
                    score=float(score[row, i, j]),
                )
                things.append(thing)
            things.sort(key=lambda thing: -thing.score)
            read.append(
                Recognition(
                    objects=_distinct(things, width / height),
                    background=self.net.backgrounds[int(ground[row])],
                    background_score=float(certain[row]),
                )
            )
        return read


def _distinct(things: list[Found], aspect: float) -> tuple[Found, ...]:
    """The surest of those whose centres nearly coincide."""
    kept: list[Found] = []
    for thing in things:
        if all(math.hypot(thing.x - other.x, (thing.y - other.y) * aspect) > 0.5 * max(thing.radius, other.radius) for other in kept):
            kept.append(thing)
    return tuple(kept)


def load_recogniser(folder: Path | None = None, device: str = "cpu") -> Recogniser:
    """Read a recogniser's folder (`config.json`, `model.safetensors`); None is the package's own.

    Raises:
        MissingError: it isn't there.
    """
    from safetensors.torch import load_file

    home = folder or CHECKPOINT
    config, weights = home / "config.json", home / "model.safetensors"
    if not config.is_file() or not weights.is_file():
        raise MissingError(f"{home} holds no recogniser (config.json and model.safetensors); make one with: calotype train recogniser")
    known = json.loads(config.read_text(encoding="utf-8"))
    net = RecogniserNet(known["categories"], known["colours"], known["backgrounds"], width=known["width"])
    net.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(weights).items()})
    return Recogniser(net.eval().requires_grad_(False).to(device), float(known["threshold"]))


@lru_cache(maxsize=4)
def _shipped(device: str) -> Recogniser:
    return load_recogniser(device=device)


def recognise(images: Float[Tensor, "batch 3 height width"]) -> list[Recognition]:
    """Name what is in pictures of the toy world (preset `small`).

    Args:
        images: pixels in [0, 1], any size (they are resized to 64x64), on any device.

    Returns:
        One `Recognition` per picture: objects (category, colour, centre, radius, score), surest first, and the ground.

    Raises:
        ShapeError: not [B, 3, H, W].
        MissingError: the package's weights are missing.

    >>> from calotype.world import paint, sample_scene
    >>> scene = sample_scene("small", split="eval", seed=1, index=2)
    >>> scene.caption
    'a blue tree and a green mushroom on snow'
    >>> sorted(found.words for found in recognise(paint([scene]))[0].objects)
    [('mushroom', 'green'), ('tree', 'blue')]
    """
    return _shipped(str(images.device))(images)
