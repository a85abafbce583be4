"""What one would do without Time Reversal Fusion: plain image-to-video, a cross-fade, a cut, and putting the end picture in by force."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Changed, Denoiser
from calotype.core.events import SILENT, Events
from calotype.core.noise import batch_noise
from calotype.core.roles import ImageToVideo
from calotype.core.samplers import sample
from calotype.imaging.types import Image, Video
from calotype.methods.time_reversal_fusion import TimeReversalFusion


def cross_fade(start: Image, end: Image, num_frames: int) -> Float[Tensor, "frames 3 height width"]:
    """Each frame a mean of the two pictures, with the weight of its time.

    Example:
        >>> import torch
        >>> cross_fade(Image(torch.zeros(3, 1, 1)), Image(torch.ones(3, 1, 1)), 3)[:, 0, 0, 0].tolist()
        [0.0, 0.5, 1.0]
    """
    weight = torch.linspace(0, 1, num_frames)[:, None, None, None]
    return (1 - weight) * start.pixels + weight * end.pixels


def cut(start: Image, end: Image, num_frames: int) -> Float[Tensor, "frames 3 height width"]:
    """The start picture for half of the clip, then the end picture."""
    first = (num_frames + 1) // 2
    return torch.stack([start.pixels] * first + [end.pixels] * (num_frames - first))


def image_to_video(
    model: ImageToVideo,
    settings: TimeReversalFusion,
    starts: Sequence[Image],
    ends: Sequence[Image] | None = None,
    *,
    prompts: Sequence[str] = (),
    seed: int = 0,
    events: Events = SILENT,
) -> list[Video]:
    """Plain image-to-video from the start pictures, with the steps, guidance, conditions and noise that the method has.

    Args:
        model: an image-to-video model.
        settings: the method, for everything but its own idea.
        starts: the first frames.
        ends: if given, the estimate of the last frame is replaced by these pictures at every step (the baseline `replace-last`).
        prompts: one per picture, or none.
        seed: of the first clip's noise; clip i has that of seed + i.
        events: hears the metric `model_calls`.
    """
    frames = settings.num_frames or model.num_frames
    shape, sigmas = model.latent_shape(frames, starts[0].size), model.sigmas(settings.num_inference_steps)
    condition = settings.conditions(model, starts, prompts, seed)
    network = settings.guided(model, condition, frames)
    denoise: Denoiser = network
    if ends is not None:
        known = model.encode(torch.stack([image.pixels for image in ends])).transpose(0, 1)
        denoise = Changed(network, lambda x0: torch.cat([x0[:, :-1], known.to(x0)], dim=1))
    x = batch_noise(shape, seed, len(starts)) * model.init_noise_sigma(sigmas)
    x = sample(denoise, x, sigmas, events=events, key="image-to-video")
    events.metric("model_calls", float(network.calls))
    return [model.decode(row[None], settings.fps) for row in x]
