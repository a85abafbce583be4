"""A video network that begins as an image network applied to every frame, as Stable Video Diffusion began as Stable Diffusion."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from calotype.embedded.networks import alphas_cumprod

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel

FIT_STEPS = 400
LAST_LAYERS = re.compile(
    r"temporal_transformer_blocks\..*\.(ff\.net\.2|ff_in\.net\.2|to_out\.0)$|temporal_res_block\.conv2$|^add_embedding\.linear_2$"
)
"""Through these everything passes that an image network doesn't have."""


def inflate(video: UNetSpatioTemporalConditionModel, image: UNet2DConditionModel) -> int:
    """Give the video network's spatial layers the image network's weights, and let its temporal layers do nothing at first.

    Both predict v of an input at unit variance, so only the time embedding differs: the image network's takes a timestep, the video
    network's 0.25 ln sigma; it is fitted to give the same vectors. The image latents' channels of the first convolution, the last layer of
    each temporal block and the embedding of the time ids start at zero. The video network may have more levels than the image network: its
    inner ones keep the weights that they have.

    Returns:
        How many tensors were taken over.
    """
    theirs, ours = image.state_dict(), video.state_dict()
    more = len(video.config.up_block_types) - len(image.config.up_block_types)
    taken = 0
    for name, value in ours.items():
        origin = theirs.get(_origin(name, more))
        if name == "conv_in.weight":
            value.zero_()[:, : image.config.in_channels] = theirs[name]
            taken += 1
        elif name.startswith("time_embedding.") or origin is None:
            continue
        elif origin.numel() == value.numel():
            value.copy_(origin.view_as(value))
            taken += 1
        elif origin.shape[0] == value.shape[0] and origin.ndim == value.ndim == 4 and more:
            # The first layer above the added levels: its last channels are the skip connection, which is the image network's too.
            skip = image.config.block_out_channels[-1]
            value[:, -skip:] = origin[:, -skip:]
    for name, module in video.named_modules():
        if LAST_LAYERS.search(name):
            _silence(module)
    _fit_time(video, image)
    return taken


def _origin(name: str, more: int) -> str:
    """What a video network's tensor is called in an image network that has `more` levels fewer."""
    name = name.replace("spatial_res_block.", "")
    if name.startswith("mid_block.") and more:
        return ""
    if name.startswith("up_blocks."):
        _, number, rest = name.split(".", 2)
        return f"up_blocks.{int(number) - more}.{rest}"
    return name


def _silence(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _fit_time(video: UNetSpatioTemporalConditionModel, image: UNet2DConditionModel) -> None:
    """Least squares over the image network's noise levels; beyond them the nearest one's vector is the target."""
    if video.time_embedding.linear_2.out_features != image.time_embedding.linear_2.out_features:
        return
    alphas = alphas_cumprod()
    known = ((1 - alphas) / alphas).sqrt()
    sigmas = torch.logspace(-2.7, 1.9, 1000, dtype=torch.float64)
    timesteps = torch.searchsorted(known, sigmas).clamp(max=len(known) - 1)
    with torch.no_grad():
        wanted = image.time_embedding(image.time_proj(timesteps))
    inputs: Tensor = video.time_proj((0.25 * sigmas.log()).float())
    optimizer = torch.optim.Adam(video.time_embedding.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        (video.time_embedding(inputs) - wanted).square().mean().backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
