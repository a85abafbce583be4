"""Features of a picture inside of a text-to-image network's decoder, at chosen layers and noise levels.

The levels are reached by adding noise (DIFT: Tang et al. 2023, arXiv 2306.03881, section 4) or by DDIM inversion, which needs no noise and
gives a picture the same features every time (Diffusion Hyperfeatures: Luo et al. 2023, arXiv 2305.14334, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.attention import AttentionControl
from calotype.backbones.feature_mixer import Taps
from calotype.backbones.text_to_image import StableDiffusion
from calotype.core import fields
from calotype.core.events import SILENT, Events
from calotype.core.guidance import NoGuidance
from calotype.core.inversion import invert
from calotype.core.noise import noise
from calotype.data.fitting import resize_pixels, working_size
from calotype.errors import InputError
from calotype.features import FeatureTap

SAME_LEVEL = 1e-6
"""Relative distance below which two noise levels are one."""


@dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """Which features of a network are taken, and how the network is run for them.

    Raises:
        InputError: no layer, no timestep, or a number that can't be.

    Example:
        >>> FeaturePlan(layers=("up_blocks.1",), num_noises=8).timesteps
        (261.0,)
    """

    layers: tuple[str, ...]
    """Modules of the network, whose outputs are taken; see `decoder_layers`."""
    timesteps: tuple[float, ...] = (261.0,)
    """Noise levels, as the network counts them (DIFT: 261 of 1000)."""
    num_inversion_steps: int = 0
    """Steps of an inversion over all levels, of which those up to the noisiest one of `timesteps` are done; 0 adds noise instead."""
    num_noises: int = 1
    """Noises whose features are averaged (DIFT: 8); an inversion has none."""
    prompt: str = ""
    """What the network is told about the picture."""

    def __post_init__(self) -> None:
        fields.at_least(self, 0, "num_inversion_steps")
        fields.at_least(self, 1, "num_noises")
        if not self.layers or not self.timesteps or min(self.timesteps) < 0:
            raise InputError(f"features of the layers {self.layers} at the timesteps {self.timesteps} were asked for; name one or more")


def decoder_layers(unet: Any) -> tuple[str, ...]:
    """The second convolution of every residual block of the decoder, the coarsest first: features before the residual is added.

    Example:
        >>> from diffusers import UNet2DModel
        >>> unet = UNet2DModel(block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> decoder_layers(unet)
        ('up_blocks.0.resnets.0.conv2', 'up_blocks.0.resnets.1.conv2', 'up_blocks.0.resnets.2.conv2')
    """
    return tuple(f"up_blocks.{i}.resnets.{j}.conv2" for i, block in enumerate(unet.up_blocks) for j in range(len(block.resnets)))


def side_multiple(model: StableDiffusion) -> int:
    """What the sides of a picture must be multiples of, so that every layer's cells cover it evenly."""
    return int(model.latent_space.factor * 2 ** (len(model.unet.config.block_out_channels) - 1))


@torch.no_grad()
def collect(
    model: StableDiffusion, pictures: Float[Tensor, "batch 3 height width"], plan: FeaturePlan, *, seeds: Sequence[int] | None = None,
    events: Events = SILENT,
) -> Taps:  # fmt: skip
    """Features of pictures, [B, C, h, w] by timestep, then by layer, float32, on the model's device; nothing of the model is changed.

    Args:
        model: Stable Diffusion 1.x or 2.x, or a model of its kind.
        pictures: in [0, 1], brought to `working_size` first; a map covers the whole picture.
        plan: which features.
        seeds: of each picture's noise; by default 0, 1, ... Pictures that are compared should not share one: the same noise at the same
            place makes places look alike that have nothing in common.
        events: hears the steps of an inversion.

    Raises:
        InputError: the network has no such layer, or a timestep is beyond its noise levels.
        ShapeError: no pictures [B, 3, H, W].
    """
    size = working_size((pictures.shape[-2], pictures.shape[-1]), model.size, side_multiple(model))
    clean = model.encode(resize_pixels(pictures, size).to(model.device))
    sigmas = [model.model_sampling.sigma_at(timestep) for timestep in plan.timesteps]
    condition = model.condition([plan.prompt] * len(clean))
    if plan.num_inversion_steps:
        states = [[state] for state in _inverted(model, clean, sigmas, plan, events)]
    else:
        numbers = list(seeds) if seeds is not None else list(range(len(clean)))
        states = [[clean + sigma * _noises(clean, numbers, draw) for draw in range(plan.num_noises)] for sigma in sigmas]
    found: list[list[Tensor]] = []
    with ExitStack() as stack:
        control = AttentionControl(model.unet, roles=("picture",))
        taps = [control.add(FeatureTap(module=layer, dtype=torch.float32, device=model.device)) for layer in plan.layers]
        stack.enter_context(control)
        for sigma, rows in zip(sigmas, states, strict=True):
            totals: list[Tensor] = []
            for draw, row in enumerate(rows):
                control.begin_step(draw, len(rows), sigma)
                model.estimate(row, sigma, condition)
                seen = [tap.tensors.pop(draw) for tap in taps]
                totals = [total + one for total, one in zip(totals, seen, strict=True)] if totals else seen
            found.append([total / len(rows) for total in totals])
    return found


def _noises(clean: Tensor, seeds: Sequence[int], draw: int) -> Tensor:
    """The noise of one draw: each picture's depends on its own seed alone."""
    return torch.stack([noise(clean.shape[1:], seed, stream=draw) for seed in seeds]).to(clean)


def _inverted(model: StableDiffusion, clean: Tensor, sigmas: Sequence[float], plan: FeaturePlan, events: Events) -> list[Tensor]:
    """The pictures' samples at each level, along the deterministic path upwards."""
    wanted = torch.tensor(sigmas, dtype=torch.float64)
    whole = model.sigmas(plan.num_inversion_steps, sampler="ddim").double()
    between = [level for level in whole[whole > 0] if level < wanted.max() and bool(((wanted / level - 1).abs() > SAME_LEVEL).all())]
    table = torch.stack([*wanted.unique(), *between, wanted.new_zeros(())]).sort(descending=True).values
    denoise = model.denoiser({"cond": model.condition([plan.prompt] * len(clean))}, NoGuidance())
    path = invert(denoise, clean, table, keep=wanted, events=events, key="invert for features")
    return [path.at(sigma).to(clean) for sigma in sigmas]
