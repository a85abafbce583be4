"""What a clip costs: operations and time of CMD's networks against those of a network that denoises all frames at every step.

The networks are called alone, without guidance; the image autoencoder is left out on both sides, as in the paper's table 4. Longer clips
have networks of the same widths with random weights, since cost doesn't depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calotype.backbones.content_motion_network import Motion, MotionDiT
from calotype.metrics.flops import count_flops

STEPS = 50
"""Of the content frame, of the motion, and of the network that is compared with."""
REPEATS = 5
"""Timed calls of each network, after one that isn't; the fastest counts, since other work on the machine only adds."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Cost:
    """Of one clip."""

    gigaflop: float
    """Floating-point operations, in thousands of millions; see `calotype.metrics.flops`."""
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.gigaflop + other.gigaflop, self.seconds + other.seconds)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.gigaflop * times, self.seconds * times)


def cost(call: Call) -> Cost:
    """Of one call.

    Example:
        >>> layer, numbers = torch.nn.Linear(1000, 1000, bias=False), torch.zeros(1, 1000)
        >>> cost(lambda: layer(numbers)).gigaflop
        0.002
    """
    with torch.inference_mode():
        gigaflop = count_flops(call).total / 1e9
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return Cost(gigaflop, min(times))


def content_motion_cost(model: Any, num_frames: int, steps: int = STEPS) -> Mapping[str, Cost]:
    """CMD's parts for one clip: `content` and `motion`, all steps, and `decoder`, once."""
    config = {**model.motion.network.config, "num_frames": num_frames}
    network = MotionDiT.from_config(config).to(model.device).eval()
    device = model.device
    motion = Motion(*(torch.zeros(1, config["motion_channels"], num_frames, config[name], device=device) for name in ("rows", "columns")))
    content = torch.zeros(1, config["content_channels"], *config["content_size"], device=device)
    time_step, text = torch.full((1,), 500.0, device=device), torch.zeros(1, config["text_width"], device=device)
    tokens = torch.zeros(1, model.unet.config.cross_attention_dim, device=device).expand(1, 24, -1)
    return {
        "content": cost(lambda: model.unet(content, time_step, encoder_hidden_states=tokens)) * steps,
        "motion": cost(lambda: network(motion, time_step, content, text)) * steps,
        "decoder": cost(lambda: model.autoencoder.decode(content, motion)),
    }


def image_to_video_cost(model: Any, num_frames: int, steps: int = STEPS) -> Cost:
    """Of all steps of an SVD-like network."""
    config, device = model.unet.config, model.device
    side = config.sample_size

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    sample, context, ids = zeros(1, num_frames, config.in_channels, side, side), zeros(1, 1, config.cross_attention_dim), zeros(1, 3)
    return cost(lambda: model.unet(sample, torch.ones(1, device=device), encoder_hidden_states=context, added_time_ids=ids)) * steps
