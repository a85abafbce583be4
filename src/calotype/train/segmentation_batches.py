"""What a segmenter's batches and loss are: random flips, turns and colours of pictures and masks, Dice and cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, MissingError, ShapeError
from calotype.train.rng import BatchRng


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a batch, each sample's own.

    Example:
        >>> images, masks = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
        >>> tuple(Augmentation(colour=1.0)(images, masks, BatchRng(0, 0, range(2), 2))[0].shape)
        (2, 3, 8, 8)
    """

    flips: bool = True
    """Mirror along each axis, half of the time."""
    turns: bool = True
    """Turn by right angles in the plane of the first two axes, where these are equally long."""
    colour: float = 0.0
    """Strength of random colours, 0 to 1: at 1, any hue, saturation halved to doubled, tint and brightness by a fifth, contrast by a
    third, gamma by two thirds. Grey pictures have the last three alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.colour <= 1:
            raise InputError(f"colour is {self.colour}; it must lie between 0 and 1")

    def __call__(
        self, images: Float[Tensor, "batch channels *sides"], masks: Int[Tensor, batch * sides], rng: BatchRng
    ) -> tuple[Float[Tensor, "batch channels *sides"], Int[Tensor, batch * sides]]:
        """Pictures in [0, 1] and their masks, changed alike; the colours are the pictures' alone."""
        whole = torch.cat([images, masks[:, None].to(images.dtype)], 1)
        if self.flips:
            for axis in range(2, images.ndim):
                whole = _chosen(rng.uniform() < 0.5, whole.flip(axis), whole)
        # Mirrored along both axes at will, a picture that is transposed half of the time has all eight positions of a square.
        if self.turns and images.shape[2] == images.shape[3]:
            whole = _chosen(rng.uniform() < 0.5, whole.transpose(2, 3), whole)
            if not self.flips:
                whole = _chosen(rng.uniform() < 0.5, whole.flip(2, 3), whole)
        images, masks = whole[:, :-1], whole[:, -1].to(masks.dtype)
        return (jitter_colour(images, self.colour, rng) if self.colour else images), masks


def _chosen(choice: Tensor, changed: Tensor, kept: Tensor) -> Tensor:
    return torch.where(choice.to(kept.device).view(-1, *[1] * (kept.ndim - 1)), changed, kept)


def jitter_colour(images: Float[Tensor, "batch channels *sides"], strength: float, rng: BatchRng) -> Float[Tensor, "batch channels *sides"]:
    """Pictures with other colours, in [0, 1]: hue, saturation, tint (three channels), then contrast, brightness and gamma (any)."""
    count, channels = images.shape[:2]

    def signed() -> Tensor:
        return (2 * rng.uniform() - 1) * strength

    flat = images.flatten(2)
    if channels == 3:
        flat = _hue_and_saturation(math.pi * signed(), 2.0 ** signed()).to(flat) @ flat
        flat = flat + 0.2 * torch.stack([signed() for _ in range(3)], 1)[:, :, None].to(flat)
    middle = flat.mean((1, 2), keepdim=True)
    contrast, brightness, gamma = (1.5 ** signed(), 0.2 * signed(), 1.6 ** signed())
    view = (count, 1, 1)
    flat = (flat - middle) * contrast.view(view).to(flat) + middle + brightness.view(view).to(flat)
    return flat.clamp(0, 1).pow(gamma.view(view).to(flat)).view_as(images)


def _hue_and_saturation(angle: Float[Tensor, " batch"], saturation: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    """Colours turned about the grey axis, and stretched away from it (Rodrigues' formula about (1, 1, 1))."""
    axis = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cosine, sine = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    return axis + saturation[:, None, None] * (cosine * (torch.eye(3) - axis) + sine * cross)


def channels_last(images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch channels *sides"]:
    """Pictures in the layout of memory that convolutions are fastest on; volumes as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


class SegmentationLoss(nn.Module):
    """Dice over the classes but the background (MONAI's, each sample by itself) plus cross-entropy over all pixels."""

    def __init__(self, *, lambda_dice: float = 1.0, lambda_ce: float = 1.0) -> None:
        super().__init__()
        if lambda_dice < 0 or lambda_ce < 0 or not lambda_dice + lambda_ce > 0:
            raise InputError(f"lambda_dice is {lambda_dice} and lambda_ce {lambda_ce}; neither may be below 0, nor both 0")
        self.lambda_dice, self.lambda_ce = lambda_dice, lambda_ce
        try:
            from monai.losses.dice import DiceLoss
        except ImportError:
            raise MissingError('segmentation needs MONAI; install it: pip install "calotype[medical]"') from None
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, reduction="none")

    def forward(self, logits: Float[Tensor, "batch classes *sides"], masks: Int[Tensor, batch * sides]) -> Float[Tensor, " batch"]:
        """The loss of each sample.

        Raises:
            ShapeError: logits and masks don't belong together.
        """
        if logits.shape[2:] != masks.shape[1:] or len(logits) != len(masks):
            raise ShapeError(f"logits {list(logits.shape)} and masks {list(masks.shape)} don't belong together")
        logits = logits.float()
        entropy = functional.cross_entropy(logits, masks, reduction="none").flatten(1).mean(1)
        if not self.lambda_dice:
            return self.lambda_ce * entropy
        dice: Tensor = self.dice(logits, masks[:, None]).flatten(1).mean(1)
        return self.lambda_dice * dice + self.lambda_ce * entropy
