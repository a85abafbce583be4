"""Segmenters that remove noise from a mask, given the picture; and the same networks without diffusion.

model_index.json    `_class_name` is `DiffusionSegmenterPipeline`; beside the parts, `PictureFacts` and `DiffusionFacts`
network             a `DiffusionSegmentationNetwork`
scheduler           a diffusers scheduler's config: the prediction, and the betas with the input scaling in them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.backbones.components import Components
from calotype.backbones.diffusion_segmenter_network import DiffusionSegmentationNetwork
from calotype.backbones.folder import ROUNDED
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.quantized import save_quantized
from calotype.backbones.segmenter import OVERLAP, SegmenterAdapter, check_pictures, cut_to, in_windows, pad_to_window
from calotype.backbones.segmenter_network import AGAIN, PictureFacts
from calotype.backbones.source import CheckpointSource
from calotype.core.events import SILENT, Events
from calotype.core.noise import batch_noise, renoiser
from calotype.core.paths import fuse, sliding_windows
from calotype.core.samplers import ddim_step, sample
from calotype.core.schedule import VPSchedule
from calotype.errors import InputError

PIPELINE = "DiffusionSegmenterPipeline"
ROWS = 64
"""Windows that the network evaluates at once."""
NUM_SAMPLES, NUM_STEPS = 8, 25

Objective = Literal["diffusion", "feed-forward", "mask-alone", "image-alone"]
"""What a network was trained for: a mask given the picture, step by step (the paper's E2) or at once (E1); a mask without the picture (E3);
a picture (E4). The last two are there for the study."""
MaskRange = Literal["plus-minus-one", "zero-one"]


@dataclass(frozen=True, kw_only=True)
class DiffusionFacts:
    """What the model_index.json of a diffusion segmenter says about the diffusion.

    Raises:
        InputError: values that can't be.
    """

    objective: Objective = "diffusion"
    mask_range: MaskRange = "plus-minus-one"
    """Values of a mask in the diffusion: -1 and 1, or 0 and 1, which is a quarter of the ratio of signal to noise."""
    input_scaling: float = 1.0
    """Of the mask in the noise schedule, whose betas already have it: the ratio of signal to noise is its square times as large."""

    def __post_init__(self) -> None:
        for name, known in (("objective", Objective), ("mask_range", MaskRange)):
            if getattr(self, name) not in get_args(known):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(known))}")
        if not isinstance(self.input_scaling, int | float) or not 0.01 <= self.input_scaling <= 100:
            raise InputError(f"input_scaling is {self.input_scaling!r}; it must be a number from 0.01 to 100")

    @property
    def bounds(self) -> tuple[float, float]:
        """Values of what isn't and of what is a class."""
        return (-1.0, 1.0) if self.mask_range == "plus-minus-one" else (0.0, 1.0)

    def encode(self, masks: Int[Tensor, batch * sides], num_classes: int) -> Float[Tensor, "batch channels *sides"]:
        """Class numbers as the diffusion has them: one channel for two classes, one for each of more."""
        low, high = self.bounds
        hot = masks[:, None] if num_classes == 2 else functional.one_hot(masks, num_classes).movedim(-1, 1)
        return low + (high - low) * hot.float()

    def probabilities(self, states: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        """A sample, clipped to its bounds, as a share for each class; they sum to 1."""
        low, high = self.bounds
        shares = ((states.clamp(low, high) - low) / (high - low)).float()
        if shares.shape[1] == 1:
            return torch.cat([1 - shares, shares], 1)
        total = shares.sum(1, keepdim=True)
        return torch.where(total > 0, shares / total.clamp(min=1e-6), torch.full_like(shares, 1 / shares.shape[1]))


def mask_channels(num_classes: int) -> int:
    """Channels of a mask in the diffusion."""
    return 1 if num_classes == 2 else num_classes


def noise_schedule(num_train_timesteps: int = 1000, input_scaling: float = 1.0) -> VPSchedule:
    """DDPM's linear schedule, stretched to that many timesteps so that the last one is as noisy, with the input scaling."""
    stretch = 1000 / num_train_timesteps
    plain = VPSchedule.of("linear", num_train_timesteps=num_train_timesteps, beta_start=1e-4 * stretch, beta_end=0.02 * stretch)
    return plain if input_scaling == 1 else plain.input_scaled(input_scaling)


class DiffusionSegmenter(SegmenterAdapter):
    """A `DiffusionSegmenterPipeline` folder. See `calotype.backbones.segmenter.Segments`.

    Raises:
        InputError: the folder's facts are no window, classes, channels or objective, or the network has other channels.
    """

    def __init__(
        self,
        source: CheckpointSource,
        modules: Mapping[str, Any],
        *,
        device: torch.device,
        facts: PictureFacts,
        diffusion: DiffusionFacts,
        sampling: ModelSampling,
        max_rows: int | None = None,
    ) -> None:
        super().__init__(source, modules, device=device, facts=facts, max_rows=max_rows)
        self.diffusion, self.model_sampling = diffusion, sampling
        found = tuple(self.network.config[name] for name in ("state_channels", "image_channels", "out_channels"))
        if (
            found != state_channels(diffusion.objective, facts.channels, facts.num_classes)
            or tuple(self.network.config.window) != self.window
        ):
            raise InputError(f"network/config.json has other channels or another window than model_index.json says; {AGAIN}")

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(
            found.source, found.modules, device=found.device, facts=PictureFacts.of_index(found.index),
            diffusion=diffusion_facts(found.index), sampling=ModelSampling(found.scheduler, found.scheduler_class),
            max_rows=found.max_rows,
        )  # fmt: skip

    @property
    def network(self) -> DiffusionSegmentationNetwork:
        """Predicts."""
        network: DiffusionSegmentationNetwork = self.modules["network"]
        return network

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Noise levels of a run by the checkpoint's own schedule: [num_inference_steps + 1], float64, falling, the last one 0."""
        return self.model_sampling.sigmas(num_inference_steps, "ddim")

    def denoiser(self, images: Float[Tensor, "batch channels *sides"] | None = None, *, clipped: bool = True) -> MaskDenoiser:
        """A denoiser of states that have the sides of the window, or of these pictures, seen through windows that overlap by half.

        Args:
            images: in [0, 1], one for each state; a network without the picture takes none, and leaves them aside.
            clipped: keep estimates within the values that a mask can have, as sampling does. The loss of training is without it.

        Raises:
            InputError: the network doesn't denoise.
        """
        if self.diffusion.objective == "feed-forward":
            raise InputError(f"{self.name} was trained without diffusion; it has no denoiser")
        return MaskDenoiser(self, images if self.network.config.image_channels else None, clipped=clipped)

    @torch.no_grad()
    def segment(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        """Pictures in [0, 1] to probabilities on the same device, float32: of a diffusion network, the mean of eight samples."""
        return self.samples(images).mean(1)

    @torch.no_grad()
    def samples(
        self,
        images: Float[Tensor, "batch channels *sides"],
        *,
        num_samples: int = NUM_SAMPLES,
        num_inference_steps: int = NUM_STEPS,
        eta: float = 0.0,
        overlap: float = OVERLAP,
        seed: int = 0,
        events: Events = SILENT,
        key: str = "segment",
    ) -> Float[Tensor, "batch samples classes *sides"]:
        """Masks that the network finds possible, as shares of the classes; a feed-forward network gives its one.

        A picture that is larger than the window is seen through windows; they are fused inside every denoising step, so that they share
        one sample. A smaller one is continued by its border.

        Args:
            images: in [0, 1].
            num_samples: of each picture.
            num_inference_steps: denoising steps.
            eta: fresh noise in each step: 0 is DDIM, 1 is DDPM.
            overlap: share of a window that the next one repeats.
            seed: of the noise; sample j of picture i is the first of seed + i num_samples + j.
            events: hears the steps and the metric `model_calls`, and keeps the state of an interrupted run.
            key: name of the stage.

        Raises:
            ShapeError: another number of channels or of sides.
            InputError: a network that finds no mask in a picture.
        """
        if self.diffusion.objective in ("mask-alone", "image-alone"):
            raise InputError(f"{self.name} was trained on {self.diffusion.objective.replace('-', 's ')}; it finds no mask in a picture")
        check_pictures(images, self.facts)
        given = images.to(self.device, torch.float32)
        if self.diffusion.objective == "feed-forward":
            return in_windows(self._at_once, given, self.window, max_rows=self.max_rows)[:, None].to(images.device)
        padded = pad_to_window(given, self.window)
        denoise = MaskDenoiser(self, padded.repeat_interleave(num_samples, 0), overlap)
        count, shape = len(padded) * num_samples, (mask_channels(self.num_classes), *padded.shape[2:])
        sigmas = self.sigmas(num_inference_steps)
        start = float(sigmas[0]) * batch_noise(shape, seed, count).to(self.device)
        x = sample(denoise, start, sigmas, step=ddim_step(eta, renoiser(shape, seed, count)), events=events, key=key)
        events.metric("model_calls", float(denoise.calls))
        found = cut_to(self.diffusion.probabilities(x), images.shape[2:])
        rows: Tensor = found.to(images.device)
        return rows.reshape(len(padded), num_samples, *rows.shape[1:])

    def _at_once(self, windows: Float[Tensor, "rows channels *window"]) -> Float[Tensor, "rows classes *window"]:
        """Probabilities of windows by a network without diffusion."""
        logits: Tensor = self.network((2 * windows - 1).to(self.dtype), torch.zeros(len(windows), device=windows.device))
        return logits.float().softmax(1)


class MaskDenoiser:
    """`denoise(x, sigma) -> x0` of noisy masks given pictures, one for each row, in [0, 1]; without pictures of whatever there is.

    Estimates are clipped to the values that a mask can have. Windows that the network evaluates are counted in `calls`.
    """

    def __init__(self, model: DiffusionSegmenter, images: Tensor | None, overlap: float = OVERLAP, *, clipped: bool = True) -> None:
        self.model, self.images, self.clipped, self.calls = model, images, clipped, 0
        sides = model.window if images is None else tuple(images.shape[2:])
        paths = [] if sides == model.window else sliding_windows(sides, model.window, overlap)
        self._fused = fuse(self._windows, paths, max_rows=model.max_rows) if paths else self._windows

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch channels *sides"], sigma: float) -> Float[Tensor, "batch channels *sides"]:
        """The network's estimate, same shape and device as `x`, float32."""
        state = x.to(self.model.device, torch.float32)
        rows = state if self.images is None else torch.cat([state, 2 * self.images.to(state) - 1], 1)
        low, high = self.model.diffusion.bounds if self.model.diffusion.objective != "image-alone" else (-1.0, 1.0)
        estimate = self._fused(rows, sigma)
        return (estimate.clamp(low, high) if self.clipped else estimate).to(x.device)

    def _windows(self, x: Tensor, sigma: float) -> Tensor:
        """Estimates for windows that carry their part of the picture as further channels."""
        return torch.cat([self._estimate(part, sigma) for part in x.split(self.model.max_rows)])

    def _estimate(self, rows: Tensor, sigma: float) -> Tensor:
        model, preconditioner = self.model, self.model.model_sampling.preconditioner
        channels = model.network.config.state_channels
        state, image = rows[:, :channels], rows[:, channels:] if self.images is not None else None
        timesteps = torch.full((len(rows),), float(preconditioner.timestep(float(sigma))), device=rows.device)
        seen = preconditioner.scale_input(state, float(sigma)).to(model.dtype)
        output = model.network(seen, timesteps, None if image is None else image.to(model.dtype))
        self.calls += len(rows)
        return preconditioner.estimate(state, output.float(), float(sigma))


def state_channels(objective: Objective, channels: int, num_classes: int) -> tuple[int, int, int]:
    """Channels of a network's state, of the picture that guides it, and of its output."""
    mask = mask_channels(num_classes)
    return {
        "diffusion": (mask, channels, mask),
        "feed-forward": (channels, 0, num_classes),
        "mask-alone": (mask, 0, mask),
        "image-alone": (channels, 0, channels),
    }[objective]


def diffusion_facts(index: Mapping[str, Any]) -> DiffusionFacts:
    """As model_index.json has them."""
    known = {name: index[name] for name in ("objective", "mask_range", "input_scaling") if name in index}
    return DiffusionFacts(**known)


def save_diffusion_segmenter(
    folder: Path, network: DiffusionSegmentationNetwork, facts: PictureFacts, diffusion: DiffusionFacts, *, scheduler: Any,
    rounded: bool = False,
) -> None:  # fmt: skip
    """Write the folder; `rounded` stores 8 bits a weight, otherwise float32."""
    folder.mkdir(parents=True, exist_ok=True)
    scheduler.save_pretrained(folder / "scheduler")
    if rounded:
        network.save_config(folder / "network")
        save_quantized(network.state_dict(), folder / "network" / ROUNDED)
    else:
        network.save_pretrained(folder / "network")
    index = {
        "_class_name": PIPELINE, **facts.entries(), "objective": diffusion.objective, "mask_range": diffusion.mask_range,
        "input_scaling": diffusion.input_scaling, "network": ["calotype", type(network).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
