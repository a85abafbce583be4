"""What somebody does with a data set who has no permission: train a segmenter on it, after whatever may undo a protection."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional

from calotype.backbones.segmenter_network import make_network, network_config
from calotype.core.events import Events
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.errors import InputError
from calotype.metrics.segmentation import dice
from calotype.train.segmenter import fit_segmenter, predict
from calotype.world.tissue import paint_tissue, sample_tissue

VICTIMS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"unet": (8, 16, 32), "attention-unet": (8, 16, 32), "segresnet": (8, 16, 32), "unetr": (8, 16, 32), "basic-unet": (8, 8, 16, 32, 32)}
)
"""Architectures by name, with the channels of their levels."""
CONTRAST = 0.05
"""Of lesions: subtle, as the budget is; twice as much is learnt from any picture before any noise is (clean Dice 0.94)."""
TILE = 64
"""Pixels along a side of what is cut out of a folder's pictures."""
PATIENTS_SPLIT = 0.3
"""Share of a folder's patients whose clean pictures measure."""

Pictures = Float[Tensor, "count channels height width"]
Masks = Int[Tensor, "count height width"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures in [0, 1] and their masks."""

    images: Pictures
    masks: Masks

    def with_images(self, images: Pictures) -> Pairs:
        """Other pictures of the same masks."""
        return Pairs(images, self.masks)

    def and_also(self, other: Pairs) -> Pairs:
        """Both one after the other."""
        return Pairs(torch.cat([self.images, other.images]), torch.cat([self.masks, other.masks]))


def tissue_pairs(count: int, *, split: str, seed: int, noise: float, size: int, first: int = 0) -> Pairs:
    """Smooth grey pictures with one lesion that is darker by `CONTRAST`, in 256 levels."""
    scenes = [sample_tissue("big", split=split, seed=seed, index=first + number, smooth=True, noise=noise) for number in range(count)]
    scenes = [dataclasses.replace(scene, style=dataclasses.replace(scene.style, contrast=CONTRAST)) for scene in scenes]
    painted = paint_tissue(scenes, size)
    return Pairs(levels(painted.image.mean(1, keepdim=True)), painted.mask)


def folder_pairs(folder: SegmentationFolder) -> Pairs:
    """Windows of a folder's pictures side by side, those with foreground.

    Raises:
        InputError: none has any, or a picture is smaller than a window.
    """
    images, masks = [], []
    side = min(TILE, min(min(size) for size in folder.sizes) // 8 * 8)
    for number in range(len(folder)):
        pair = folder.rows([number])
        for top in range(0, pair["mask"].shape[1] - side + 1, side):
            for left in range(0, pair["mask"].shape[2] - side + 1, side):
                mask = pair["mask"][0, top : top + side, left : left + side]
                if bool((mask > 0).any()):
                    images.append(pair["image"][0, :, top : top + side, left : left + side])
                    masks.append(mask)
    if not images:
        raise InputError(f"data: no window of {side} pixels in {folder.root} holds foreground")
    return Pairs(torch.stack(images), torch.stack(masks))


def levels(images: Pictures) -> Pictures:
    """Pictures as 8 bits keep them."""
    return (images.clamp(0, 1) * 255).round() / 255


def jpeg(images: Pictures, quality: int = 75) -> Pictures:
    """Through a JPEG file."""
    made = []
    for image in images:
        array = (image * 255).round().byte().numpy()
        stream = io.BytesIO()
        Pillow.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))).save(
            stream, "JPEG", quality=quality
        )
        found = torch.from_numpy(np.array(Pillow.open(stream))).float() / 255
        made.append(found[None] if found.ndim == 2 else found.permute(2, 0, 1))
    return torch.stack(made)


def blur(images: Pictures, sigma: float = 1.0) -> Pictures:
    """A Gaussian of `sigma` pixels."""
    places = torch.arange(-3, 4, dtype=images.dtype)
    line = (-places.square() / (2 * sigma**2)).exp()
    line = line / line.sum()
    channels = images.shape[1]
    wide = functional.pad(images, (3, 3, 3, 3), mode="reflect")
    rows = functional.conv2d(wide, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(rows, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def grey(images: Pictures) -> Pictures:
    """Without colour; grey pictures stay."""
    return images.mean(1, keepdim=True).expand_as(images)


COUNTER_MEASURES: Mapping[str, Callable[[Pictures], Pictures]] = MappingProxyType({"jpeg75": jpeg, "blur": blur, "grey": grey})
"""What is done to all pictures, the test pictures too. `clean10%` (any share) adds clean pictures instead."""


def chosen(names: str, known: Sequence[str], what: str) -> list[str]:
    """Names that are separated by commas.

    Raises:
        InputError: an unknown one.
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in known:
            raise InputError(f"{what}: {name!r} is unknown; choose from {', '.join(known)}")
    return found


def clean_share(name: str) -> float | None:
    """The share of `clean10%`; None of other counter-measures.

    >>> clean_share("clean10%"), clean_share("blur")
    (0.1, None)
    """
    number = name.removeprefix("clean").removesuffix("%")
    return int(number) / 100 if name == f"clean{number}%" and number.isdigit() and 0 < int(number) < 100 else None


@dataclass(frozen=True, eq=False)
class Attack:
    """Victims of one architecture: trained on `train`, measured on clean pictures."""

    architecture: str = "unet"
    steps: int = 400
    seeds: tuple[int, ...] = (0, 1)
    device: str = "cpu"

    def __call__(self, train: Pairs, test: Pairs, events: Events) -> tuple[Tensor, list[float]]:
        """Dice of each test picture, the mean over victims, and each victim's Dice on what it was trained on."""
        scores, learnt = [], []
        classes = int(torch.cat([train.masks, test.masks]).max()) + 1
        for seed in self.seeds:
            config: dict[str, Any] = network_config(
                self.architecture, channels=train.images.shape[1], classes=classes, window=train.images.shape[2:],  # type: ignore[arg-type]
                widths=VICTIMS[self.architecture],
            )  # fmt: skip
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = make_network(config)
            network = fit_segmenter(network, train.images, train.masks, steps=self.steps, seed=seed, device=self.device)
            found = [dice(predict(network, pairs.images).argmax(1), pairs.masks, classes).nanmean(1) for pairs in (test, train)]
            scores.append(found[0])
            learnt.append(float(found[1].nanmean()))
            events.step()
            events.check()
        return torch.stack(scores).nanmean(0), learnt
