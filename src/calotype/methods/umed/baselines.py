"""What UMed is measured against: other perturbations of a segmentation data set, all with one signature.

Each takes pictures [N, C, H, W] in [0, 1], masks [N, H, W] and a budget in the pictures' unit, and gives d [N, C, H, W] within it. EM, TAP,
LSP and AR were made for classification and change the whole picture; what they do for pixels is written beside each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.segmenter_network import make_network, network_config
from calotype.core.events import SILENT, Events
from calotype.errors import CalotypeError
from calotype.methods.umed.regions import Classes, Picture
from calotype.train.segmentation_batches import SegmentationLoss
from calotype.train.segmenter import fit_segmenter

Shift = Float[Tensor, "batch channels height width"]
WIDTHS = (8, 16, 32)
"""Of the networks that EM and TAP ask."""
EM_ROUNDS, EM_SURROGATE_STEPS, EM_STEPS, EM_STOP = 12, 10, 20, 0.01
"""Rounds at most, steps of the surrogate and of the noise in each, and the share of wrong pixels at which it stops."""
TAP_TRAINING, TAP_STEPS = 300, 60
"""Steps of the network on clean pictures, and of the noise."""
RATE = 0.1
"""Of EM's and TAP's steps, in budgets (0.8/255 of 8/255)."""
PATCH = 8
"""LSP: pixels along a side of what has one sign."""
AR_MARGIN, AR_GROWTH, AR_TRIES = 8, 10.0, 200
"""Rows and columns that are cut off because the process begins there, how far it may grow, and how many filters are tried."""
ROWS = 16


class Perturb(Protocol):
    """A way to perturb a data set; the same arguments give the same d."""

    def __call__(self, images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Tensor: ...


def null(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """Random signs over the whole picture: says nothing of the mask, and must not protect."""
    return epsilon * _signs(images.shape, seed).to(images)


def constant(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """The whole budget added inside each class, the same everywhere."""
    return epsilon * _inside(masks).to(images).expand_as(images)


def random_signs(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """Random signs inside the classes: the strongest of the usual sanity baselines. With a band around them it protects less."""
    return epsilon * _signs(images.shape, seed).to(images) * _inside(masks).to(images)


def checkerboard(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """Signs that alternate from pixel to pixel inside the classes: class 1 along both axes, 2 along rows, 3 along columns, and so on.

    One filter of 3 x 3 sees it at nine times its amplitude, and smooth pictures have nothing at that frequency.
    """
    rows, columns = (torch.arange(side) % 2 for side in images.shape[2:])
    both, across, down = (rows[:, None] + columns) % 2, columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))
    made = torch.zeros_like(images)
    for number in range(1, int(masks.max()) + 1):
        pattern = (both, across, down)[(number - 1) % 3]
        made += epsilon * (2 * pattern - 1).to(images) * (masks == number).to(images)[:, None]
    return made


def error_minimising(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """EM (Huang et al. 2021): noise of each picture that goes down the loss of a surrogate, which is trained on the noisy pictures.

    Per pixel: it stops once the surrogate gets less than `EM_STOP` of the pixels wrong.
    """
    network, loss, delta = _network(images, masks, seed), SegmentationLoss(), torch.zeros_like(images)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EM_ROUNDS):
        network.train()
        for _ in range(EM_SURROGATE_STEPS):
            rows = torch.randint(len(images), (ROWS,), generator=order)
            optimizer.zero_grad()
            loss(network((images[rows] + delta[rows]).clamp(0, 1)), masks[rows]).mean().backward()
            optimizer.step()
        network.eval()
        delta = _descend(network, loss, images, masks, delta, epsilon, EM_STEPS, events)
        with torch.no_grad():
            wrong = torch.cat([
                (network(part).argmax(1) != truth).float().mean((1, 2))
                for part, truth in zip((images + delta).clamp(0, 1).split(ROWS), masks.split(ROWS), strict=True)
            ])  # fmt: skip
        if float(wrong.mean()) < EM_STOP:
            break
    return delta


def targeted(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """TAP (Fowl et al. 2021): adversarial noise against a network that was trained on clean pictures, towards a wrong label.

    Per pixel: the next class in place of each; of two classes, the inverted mask.
    """
    classes = int(masks.max()) + 1
    network = fit_segmenter(_network(images, masks, seed), images, masks, steps=TAP_TRAINING, seed=seed, events=events)
    delta = 0.1 * epsilon * _signs(images.shape, seed).to(images)
    return _descend(network, SegmentationLoss(), images, (masks + 1) % classes, delta, epsilon, TAP_STEPS, events)


def linearly_separable(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """LSP (Yu et al. 2022): a pattern of random signs in patches for each class, the same in all pictures.

    Per pixel: the background is a class as well. Its norm is that of the whole budget in every pixel.
    """
    height, width = images.shape[2:]
    classes = int(masks.max()) + 1
    coarse = _signs((classes, images.shape[1], -(-height // PATCH), -(-width // PATCH)), seed).to(images)
    patterns = functional.interpolate(coarse, scale_factor=PATCH, mode="nearest")[:, :, :height, :width]
    made = torch.zeros_like(images)
    for number in range(classes):
        made += epsilon * patterns[number] * (masks == number)[:, None].to(images)
    return made


def autoregressive(images: Picture, masks: Classes, epsilon: float, *, seed: int = 0, events: Events = SILENT) -> Shift:
    """AR (Sandoval-Segura et al. 2022): noise in which each pixel is a fixed sum of its eight neighbours above and before, by class.

    Per pixel: every class, the background too, has its own filters. The largest value of each field is the budget.
    """
    made = torch.zeros_like(images)
    generator = torch.Generator().manual_seed(seed)
    for number in range(int(masks.max()) + 1):
        field = _stable_field(images.shape, generator).to(images)
        field = field / field.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        made += epsilon * field * (masks == number).to(images)[:, None]
    return made


def shuffled(delta: Shift) -> Shift:
    """Each picture with the perturbation of the next one, which lies off its own classes: it must not protect as well."""
    return delta.roll(1, dims=0)


BASELINES: Mapping[str, Perturb] = MappingProxyType({
    "em": error_minimising, "tap": targeted, "lsp": linearly_separable, "ar": autoregressive, "random-signs": random_signs,
    "constant": constant, "checkerboard": checkerboard, "null": null,
})  # fmt: skip


def ar_field(coefficients: Float[Tensor, "channels 3 3"], start: Float[Tensor, "batch channels height width"]) -> Tensor:
    """Noise that follows an autoregressive process: from the third row and column on, s(i, j) = sum of b(k, l) s(i - 2 + k, j - 2 + l).

    Args:
        coefficients: b of each channel; the last entry is 0.
        start: what the first two rows and columns hold, [B, C, H, W]; the rest is replaced.
    """
    field = start.clone()
    for row in range(2, field.shape[2]):
        for column in range(2, field.shape[3]):
            field[:, :, row, column] = (coefficients * field[:, :, row - 2 : row + 1, column - 2 : column + 1]).sum((2, 3))
    return field


def _stable_field(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A field [B, C, H, W] of a process that neither dies out nor explodes, without the margin at which it begins."""
    batch, channels, height, width = shape
    for _ in range(AR_TRIES):
        coefficients = torch.randn(channels, 3, 3, generator=generator)
        coefficients[:, 2, 2] = 0
        coefficients = coefficients / coefficients.sum((1, 2), keepdim=True)
        probe = ar_field(coefficients, torch.randn(1, channels, 24, 24, generator=generator)).abs()
        growth = probe[:, :, -4:].mean() / probe[:, :, :4].mean()
        if 1 / AR_GROWTH < float(growth) < AR_GROWTH and float(probe.max()) < AR_GROWTH:
            start = torch.randn(batch, channels, height + AR_MARGIN, width + AR_MARGIN, generator=generator)
            return ar_field(coefficients, start)[:, :, AR_MARGIN:, AR_MARGIN:]
    raise CalotypeError(f"no stable autoregressive process was found in {AR_TRIES} tries; take another seed")


def _descend(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Picture,
    masks: Classes,
    delta: Shift,
    epsilon: float,
    steps: int,
    events: Events,
) -> Shift:
    """Projected gradient steps of every picture's noise down the loss."""
    network.requires_grad_(False)
    made = []
    for image, truth, shift in zip(images.split(ROWS), masks.split(ROWS), delta.split(ROWS), strict=True):
        events.check()
        for _ in range(steps):
            shift = shift.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(network((image + shift).clamp(0, 1)), truth).sum(), shift)
            shift = (shift - RATE * epsilon * slope.sign()).clamp(-epsilon, epsilon)
        made.append(shift.detach())
    network.requires_grad_(True)
    return torch.cat(made)


def _network(images: Picture, masks: Classes, seed: int) -> nn.Module:
    config = network_config("unet", channels=images.shape[1], classes=int(masks.max()) + 1, window=images.shape[2:], widths=WIDTHS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_network(config)


def _inside(masks: Classes) -> Float[Tensor, "batch 1 height width"]:
    return (masks > 0).float()[:, None]


def _signs(shape: tuple[int, ...] | torch.Size, seed: int) -> Tensor:
    """Random signs, each picture's from its own place in the stream."""
    return torch.randint(0, 2, tuple(shape), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0
