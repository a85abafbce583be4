"""What the study of diffusion segmentation measures on pictures with masks: quality, calibration, loss by timestep, fingerprint, swaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from calotype.backbones.diffusion_segmenter import DiffusionSegmenter, noise_schedule
from calotype.core.events import SILENT, Events
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample
from calotype.core.schedule import VPSchedule
from calotype.core.timestep_profile import TimestepProfile, timestep_profile
from calotype.methods.diffusion_segmentation.theory import half_time, least_epsilon_loss, predicted_half_time, signal_to_noise
from calotype.metrics.segmentation import BINS, boundary_band, dice, iou

Array = NDArray[np.float64]
TIMESTEPS = (0, 5, 10, 20, 35, 50, 75, 100, 150, 200, 250, 300, 350, 400, 450, 500, 550, 600, 650, 700, 750, 800, 850, 900, 950, 999)
SHOWN = (0, 20, 50, 100, 200, 300, 500, 800)
"""Timesteps of the table."""
SWAPPED = tuple(range(100, 1000, 75))
"""Timesteps at which another picture's mask is handed in."""
NUM_SAMPLES, NUM_STEPS, SWAP_STEPS, DRAWS = 8, 25, 10, 2
BAND = 2
"""Pixels on either side of a border that the calibration is measured in, too."""
READERS, EXACT_DRAWS = 64, 16
"""Of the exact denoiser: masks of an object, and noisy ones among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyCase:
    """Pictures of one kind, with the masks of one reader each."""

    name: str
    images: Float[Tensor, "count channels *sides"]
    masks: Int[Tensor, count * sides]
    coverage: Float[Tensor, "count height width"] | None = None
    """The share of all possible readers who count a pixel in, where that is known."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Quality:
    """How good probabilities are, picture by picture."""

    iou: Array
    """Mean over the classes but the background; NaN where neither mask has any."""
    dice: Array
    bins: Array
    """[pictures, bins, 3]: pixels, sum of confidence, right ones, of each bin of confidence."""
    band: Array
    """The same within `BAND` pixels of a border."""


@dataclass(eq=False)
class StudyResult:
    """All that was measured, for the table and for the report."""

    cases: Sequence[StudyCase]
    quality: dict[str, dict[str, Quality]] = field(default_factory=dict)
    """By variant, then by case."""
    profiles: dict[str, dict[str, TimestepProfile]] = field(default_factory=dict)
    """By network, then by case."""
    areas: dict[str, float] = field(default_factory=dict)
    swaps: dict[float, tuple[Array, Array]] = field(default_factory=dict)
    """By input scaling: overlap with the picture's own mask and with the other one, [timesteps, pictures]."""
    cost: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds and network calls for a picture, by variant."""
    exact: dict[str, list[float]] = field(default_factory=dict)
    """Least epsilon-loss at `SHOWN`, by case, where all readers' masks are known."""
    identity: float = float("nan")
    oracle: float = float("nan")
    shown: dict[str, torch.Tensor] = field(default_factory=dict)
    """Probabilities and samples of some pictures, for the report."""

    def half_time(self, case: str) -> float:
        """Of the mask without the picture."""
        return half_time(TIMESTEPS, self.profiles["mask_alone"][case].mean("sample"))

    def predicted(self, case: str) -> float:
        """The same from the objects' size alone."""
        return predicted_half_time(self.areas[case], noise_schedule())

    def errors(self, part: str, weighting: str, case: str = "") -> Array:
        """Loss at each timestep and picture; of all cases together by default."""
        found = self.profiles[part]
        return np.concatenate([found[name].of(weighting).numpy() for name in ([case] if case else found)], 1)

    def bins(self, variant: str, *, band: bool = False) -> Array:
        """Calibration of every picture of all cases."""
        return np.concatenate([found.band if band else found.bins for found in self.quality[variant].values()])


def quality(probability: Float[Tensor, "count classes *sides"], masks: Int[Tensor, count * sides]) -> Quality:
    """Measure probabilities against masks."""
    guess, classes = probability.argmax(1), probability.shape[1]
    overlap, both = (measure(guess, masks, classes).nanmean(1).numpy() for measure in (iou, dice))
    everywhere = torch.ones_like(masks, dtype=torch.bool)
    return Quality(overlap, both, _binned(probability, masks, everywhere), _binned(probability, masks, boundary_band(masks, BAND)))


def _binned(probability: Tensor, masks: Tensor, region: Bool[Tensor, ...]) -> Array:
    confidence, guess = probability.max(1)
    right = (guess == masks).double()
    places = ((confidence.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    rows = torch.arange(len(masks)).view(-1, *[1] * (masks.ndim - 1)).expand_as(masks) * BINS + places
    kept = region.flatten()
    sums = [
        torch.zeros(len(masks) * BINS, dtype=torch.float64).index_add(0, rows.flatten()[kept], values.double().flatten()[kept])
        for values in (torch.ones_like(confidence), confidence, right)
    ]
    return torch.stack(sums, 1).view(len(masks), BINS, 3).numpy()


def calibration_error(bins: Array) -> Array:
    """Expected calibration error of pictures together, [..., pictures, bins, 3] -> [...]; see `calotype.metrics.segmentation`."""
    total = bins.sum(-3)
    gap = np.abs(total[..., 1] - total[..., 2]).sum(-1)
    return np.asarray(gap / np.maximum(total[..., 0].sum(-1), 1))


def swapped_overlaps(
    model: DiffusionSegmenter, case: StudyCase, scaling: float, *, seed: int, events: Events = SILENT
) -> tuple[Array, Array]:
    """Overlap of a sample with the picture's own mask and with another picture's, whose noisy mask it began with: [timesteps, pictures].

    At each of `SWAPPED`, the mask of the next picture gets noise by the schedule with that input scaling, which is removed given this one.
    """
    schedule = noise_schedule(input_scaling=scaling)
    foreign = case.masks.roll(-1, 0)
    clean = model.diffusion.encode(foreign, model.num_classes).to(model.device)
    noise = batch_noise(clean.shape[1:], seed, len(clean), stream=7).to(clean)
    denoise = model.denoiser(case.images.to(model.device))
    own: list[Array] = []
    other: list[Array] = []
    for timestep in SWAPPED:
        visited = np.linspace(timestep, 0, SWAP_STEPS + 1)[:-1]
        sigmas = torch.tensor([*(schedule.sigma(float(t)) for t in visited), 0.0], dtype=torch.float64)
        made = sample(denoise, clean + float(sigmas[0]) * noise, sigmas)
        guess = model.diffusion.probabilities(made).argmax(1).cpu()
        for kept, masks in ((own, case.masks), (other, foreign)):
            kept.append(iou(guess, masks, model.num_classes).nan_to_num(0.0).mean(1).numpy())
        events.step()
    return np.stack(own), np.stack(other)


def crossover(own: Array, other: Array) -> float:
    """The timestep from which on the picture decides more than the mask that was handed in; NaN where that never changes."""
    ahead = own.mean(-1) - other.mean(-1)
    place = int(np.argmax(ahead > 0))
    if place == 0 or ahead[place] <= 0:
        return float("nan")
    share = -ahead[place - 1] / (ahead[place] - ahead[place - 1])
    return float(SWAPPED[place - 1] + share * (SWAPPED[place] - SWAPPED[place - 1]))


def profile(model: DiffusionSegmenter, case: StudyCase, *, seed: int, events: Events = SILENT) -> TimestepProfile:
    """The loss at `TIMESTEPS` of what the network denoises, unclipped as in training."""
    return timestep_profile([denoised(model, case.images, case.masks)], levels(model.diffusion.input_scaling), seed=seed, draws=DRAWS,
                            events=events)  # fmt: skip


def levels(scaling: float = 1.0) -> list[float]:
    """The noise levels of `TIMESTEPS`."""
    schedule = noise_schedule(input_scaling=scaling)
    return [schedule.sigma(float(t)) for t in TIMESTEPS]


def denoised(model: DiffusionSegmenter, images: Tensor, masks: Tensor) -> tuple[Any, Tensor]:
    """What a network denoises, with the denoiser that knows the pictures."""
    state = 2 * images - 1 if model.diffusion.objective == "image-alone" else model.diffusion.encode(masks, model.num_classes)
    return model.denoiser(images.to(model.device), clipped=False), state.to(model.device)


def identity_gap(model: DiffusionSegmenter, case: StudyCase, *, seed: int) -> float:
    """Largest relative difference of |epsilon - epsilon_hat|^2 and SNR |x0 - x0_hat|^2, each by formulas of its own.

    In float64 from the network's output on, at whole timesteps as diffusers has them.
    """
    schedule = noise_schedule(input_scaling=model.diffusion.input_scaling)
    images = 2 * case.images - 1
    clean = (images if model.diffusion.objective == "image-alone" else model.diffusion.encode(case.masks, model.num_classes)).double()
    normal = batch_noise(clean.shape[1:], seed, len(clean), stream=8).double()
    guide = images.to(model.device, model.dtype) if model.network.config.image_channels else None
    gaps: list[float] = []
    for timestep in TIMESTEPS:
        alpha = float(schedule.alphas_cumprod[timestep])
        seen = alpha**0.5 * clean + (1 - alpha) ** 0.5 * normal
        times = torch.full((len(clean),), float(timestep), device=model.device)
        with torch.no_grad():
            output = model.network(seen.to(model.device, model.dtype), times, guide).cpu().double()
        kind = model.model_sampling.preconditioner.prediction
        if kind == "epsilon":
            noise, mask = output, (seen - (1 - alpha) ** 0.5 * output) / alpha**0.5
        elif kind == "sample":
            noise, mask = (seen - alpha**0.5 * output) / (1 - alpha) ** 0.5, output
        else:
            noise, mask = alpha**0.5 * output + (1 - alpha) ** 0.5 * seen, alpha**0.5 * seen - (1 - alpha) ** 0.5 * output
        first, second = (noise - normal).square().mean(), alpha / (1 - alpha) * (mask - clean).square().mean()
        gaps.append(abs(float(first / second) - 1))
    return max(gaps)


def oracle_gap(schedule: VPSchedule, *, seed: int, pixels: int = 400_000) -> float:
    """Largest relative difference of the closed form `least_epsilon_loss` and an exact denoiser's loss on pixels of -1 and 1.

    Measured where the loss is at least a fiftieth of its highest value: elsewhere both are as good as 0.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = (torch.arange(pixels) % 2).double() * 2 - 1
    # One number in each of equal parts of the normal distribution: the rare large noise, which decides, has its right share.
    normal = torch.special.ndtri((torch.arange(pixels) + torch.rand(pixels, generator=generator, dtype=torch.float64)) / pixels)
    timesteps = np.arange(50, 1000, 50)
    snr = signal_to_noise(schedule, timesteps)
    expected = least_epsilon_loss(snr)
    gaps: list[float] = []
    for s, value in zip(snr, expected, strict=True):
        if value < expected.max() / 50:
            continue
        estimate = torch.tanh((clean + s**-0.5 * normal) * s)
        gaps.append(abs(s * float((estimate - clean).square().mean()) / value - 1))
    return max(gaps)


def exact_losses(coverage: Float[Tensor, "count height width"], timesteps: Sequence[int], *, seed: int) -> list[float]:
    """Epsilon-loss of the exact denoiser that knows all readers' masks of a picture, and not which reader's it is.

    A reader counts those pixels of an object in that more than a share u of readers do, u evenly distributed; objects are read one by one.
    """
    from scipy.ndimage import label

    generator, levels = torch.Generator().manual_seed(seed), noise_schedule()
    places = (torch.arange(READERS) + 0.5) / READERS
    losses = torch.zeros(len(timesteps), dtype=torch.float64)
    for shares in coverage.cpu():
        objects, count = label(shares.numpy() > 0.5 / READERS)
        for number in range(1, count + 1):
            masks = 2 * (shares[torch.from_numpy(objects == number)] > places[:, None]).double() - 1
            clean = masks[torch.randint(0, READERS, (EXACT_DRAWS,), generator=generator)]
            normal = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
            for place, timestep in enumerate(timesteps):
                sigma = levels.sigma(float(timestep))
                x = clean + sigma * normal
                weights = torch.softmax(-(x[:, None] - masks).square().sum(2) / (2 * sigma**2), 1)
                losses[place] += (weights @ masks - clean).square().sum(1).mean() / sigma**2 / shares.numel()
    found: list[float] = (losses / len(coverage)).tolist()
    return found


def resampled(count: int, *, times: int = 1000, seed: int = 0) -> NDArray[np.int64]:
    """Numbers of pictures drawn with replacement, [times, count]."""
    return np.random.default_rng(seed).integers(0, count, size=(times, count))
