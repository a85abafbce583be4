"""The training of a diffusion segmenter, and of the three other networks that the paper compares it with.

    diffusion      (x_t, picture, t) -> epsilon, v or the mask itself      E2, L_CDM
    feed-forward   picture -> mask, Dice and cross-entropy                  E1
    mask-alone     (x_t, t) -> the same, without the picture                E3, L'_DM
    image-alone    (y_t, t) -> epsilon of the picture                       E4, L_DM

All four are one architecture; what isn't there has no channels. Timesteps are drawn evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.diffusion_segmenter import DiffusionFacts, DiffusionSegmenter, noise_schedule
from calotype.backbones.diffusion_segmenter_network import DiffusionSegmentationNetwork
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.segmenter_network import SegmenterFacts
from calotype.backbones.source import CheckpointSource
from calotype.core.denoiser import Preconditioner, Rates
from calotype.train.segmentation_batches import SegmentationLoss

Prediction = Literal["sample", "epsilon", "v_prediction"]
HIGHWAY_WEIGHT = 10.0
"""Of the squared error of medsegdiff's second mask (official code)."""


class TraineeDiffusionSegmenter(nn.Module):
    """The network and its loss."""

    alphas: Tensor

    def __init__(
        self, network: DiffusionSegmentationNetwork, facts: DiffusionFacts, *, num_classes: int, prediction: Prediction = "sample",
        num_train_timesteps: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.facts, self.num_classes = network, facts, num_classes
        schedule = noise_schedule(num_train_timesteps, facts.input_scaling)
        self.preconditioner = Preconditioner(prediction, schedule.t)
        self.criterion = SegmentationLoss() if facts.objective == "feed-forward" else None
        self.register_buffer("alphas", schedule.alphas_cumprod.float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """`image` [B, C, *sides] in [0, 1], `mask` [B, *sides] int64, `noise` [B, state channels, *sides], `time` [B] in [0, 1)."""
        images, masks = 2 * batch["image"] - 1, batch["mask"]
        if self.criterion is not None:
            logits = self.network(images, torch.zeros(len(images), device=images.device))
            return self.criterion(logits, masks)
        guided = self.network.config.image_channels > 0
        clean = images if self.facts.objective == "image-alone" else self.facts.encode(masks, self.num_classes)
        timesteps = (batch["time"] * len(self.alphas)).long()
        alpha = self.alphas[timesteps].view(-1, *[1] * (clean.ndim - 1))
        seen, target = self.preconditioner.example(clean, batch["noise"][:, : clean.shape[1]], Rates.of_alpha(alpha))
        output, highway = self.network.with_highway(seen, timesteps.float(), images if guided else None)
        loss = (output.float() - target).square().flatten(1).mean(1)
        if highway is not None:
            loss = loss + HIGHWAY_WEIGHT * functional.mse_loss(highway.float(), clean, reduction="none").flatten(1).mean(1)
        return loss


def scheduler_of(prediction: Prediction, num_train_timesteps: int, input_scaling: float) -> Any:
    """The diffusers scheduler that a checkpoint is sampled with; an input scaling stands in its betas."""
    from diffusers import DDIMScheduler

    stretch = 1000 / num_train_timesteps
    betas: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 1e-4 * stretch, "beta_end": 0.02 * stretch}
    if input_scaling != 1:
        betas = {"trained_betas": noise_schedule(num_train_timesteps, input_scaling).betas.tolist()}
    return DDIMScheduler(
        **betas, num_train_timesteps=num_train_timesteps, prediction_type=prediction, clip_sample=False, timestep_spacing="trailing"
    )


def model_of(trainee: TraineeDiffusionSegmenter, facts: SegmenterFacts, name: str = "trainee") -> DiffusionSegmenter:
    """A trainee as the model that its checkpoint will be; the network is shared."""
    scheduler = scheduler_of(trainee.preconditioner.prediction, len(trainee.alphas), trainee.facts.input_scaling)  # type: ignore[arg-type]
    source = CheckpointSource(name=name, folder=None, revision=None, licence="")
    sampling = ModelSampling(dict(scheduler.config), type(scheduler).__name__)
    network = trainee.network.eval()
    return DiffusionSegmenter(
        source, {"network": network}, device=trainee.alphas.device, facts=facts, diffusion=trainee.facts, sampling=sampling
    )


def draw_masks(
    model: DiffusionSegmenter, images: Float[Tensor, "rows channels height width"], masks: Tensor, path: Path
) -> list[Path]:
    """A sheet: pictures, true masks, mean probability of what isn't background, its spread, one sample."""
    from calotype.train.sample_grids import save_grid

    samples = 1 - model.samples(images, num_samples=4)[:, :, 0]
    spread = samples.std(1, unbiased=False) * 2
    grey = torch.stack([(masks > 0).float(), samples.mean(1), spread, samples[:, 0]])[:, :, None].expand(-1, -1, 3, -1, -1)
    colour = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    return [save_grid(torch.cat([colour, grey.flatten(0, 1)]), len(images), path, scale=3)]
