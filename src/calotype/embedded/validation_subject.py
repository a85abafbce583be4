"""The gates of `toy-subject`: does it draw the subject in its own pose and on the caption's ground, and the poses of captions alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import Events
from calotype.imaging.types import Image
from calotype.world import paint
from calotype.world.creatures.drawing import CreatureScene, on_plain_ground, sample_creature
from calotype.world.creatures.recogniser import identity_distance, recognise_creatures

STEPS, GUIDANCE, BATCH = 25, 3.0, 16
WORST = 100.0
"""The identity error where no creature is found at all."""


def validate(folder: Path, *, seed: int, count: int, device: str = "auto", events: Events) -> dict[str, float]:
    """Figures on captions and creatures of the `eval` split.

    Returns:
        With the subject's picture in the caption's pose: `found`: share of pictures with a creature; `pose`: of these, in the caption's
        pose; `identity_error`: their mean CIE distance of the part colours; `background`: share of right grounds. Without a subject:
        `caption_found` and `caption_pose`. `recogniser_renders` and `recogniser_reconstructions`: share of creatures whose pose is
        recognised in paintings and after the autoencoder, and `reconstruction_identity_error`: the ceilings.
    """
    import calotype

    model = calotype.load(str(folder), device=device, dtype="float32")
    scenes = [sample_creature(split="eval", seed=seed, index=index) for index in range(count)]
    events.stage("sample captions", 2 * count)
    truth = paint(scenes)
    with torch.no_grad():
        again = torch.cat([model.decode(model.encode(part.to(model.device))).cpu() for part in truth.split(BATCH)])
    whole, captions = (sample(model, scenes, subject, seed, events) for subject in (True, False))
    shown, told = recognised(whole, scenes), recognised(captions, scenes)
    renders, rebuilt = recognised(truth, scenes), recognised(again, scenes)
    return {
        **{name: shown[name] for name in ("found", "pose", "identity_error", "background")},
        "caption_found": told["found"],
        "caption_pose": told["pose"],
        "recogniser_renders": renders["found"] * renders["pose"],
        "recogniser_reconstructions": rebuilt["found"] * rebuilt["pose"],
        "reconstruction_identity_error": rebuilt["identity_error"],
        "count": float(count),
    }


def recognised(pictures: Float[Tensor, "batch 3 64 64"], scenes: Sequence[CreatureScene]) -> dict[str, float]:
    """`found`, and of the found `pose` and `identity_error`; `background` of all."""
    seen = recognise_creatures(pictures)
    pairs = [(one.creature, scene.creature) for one, scene in zip(seen, scenes, strict=True) if one.creature is not None]
    many = max(1, len(pairs))
    return {
        "found": len(pairs) / len(scenes),
        "pose": sum(found.pose == truth.pose for found, truth in pairs) / many,
        "identity_error": sum(identity_distance(found, truth.look) for found, truth in pairs) / many if pairs else WORST,
        "background": sum(one.background == scene.background.name for one, scene in zip(seen, scenes, strict=True)) / len(scenes),
    }


@torch.no_grad()
def sample(model: Any, scenes: Sequence[CreatureScene], subject: bool, seed: int, events: Events) -> Float[Tensor, "batch 3 64 64"]:
    """Pictures of the scenes' captions, with or without their subject pictures; scene i with the noise of seed + i."""
    from calotype.core.denoiser import Condition
    from calotype.core.guidance import ClassifierFreeGuidance
    from calotype.core.noise import batch_noise
    from calotype.core.samplers import sample as run
    from calotype.embedded.tokenizer import caption_tokens

    shape, sigmas, made = model.latent_shape(), model.sigmas(STEPS), []
    tokenizer = model.modules["tokenizer"]
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        ids = caption_tokens(tokenizer, [scene.caption for scene in part]).long()
        rows = None
        if subject:
            rows = torch.cat([model.subject_rows(Image(one), "creature") for one in paint([on_plain_ground(scene) for scene in part])])
        condition = Condition({"text": model.encode_rows(ids, rows)})
        denoise = model.denoiser({"cond": condition, "uncond": model.unconditional(condition)}, ClassifierFreeGuidance(GUIDANCE))
        x = batch_noise(shape, seed + start, len(part)).to(model.device) * (float(sigmas[0]) ** 2 + 1.0) ** 0.5
        made.append(model.decode(run(denoise, x, sigmas)).cpu())
        events.step(len(part))
    return torch.cat(made)
