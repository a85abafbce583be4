"""The loss at each noise level of any diffusion checkpoint, on held-out samples with fixed noise: where does it have something to learn?

The samples suit the role: captioned pictures and clips of the toy world, windows of synthetic brains, tissue with masks; or a folder of the
user's own pictures with captions, or pictures with masks, of which the held-out part is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.backbones import load
from calotype.core.denoiser import Denoiser
from calotype.core.events import SILENT, Events
from calotype.core.guidance import NoGuidance
from calotype.core.timestep_profile import TimestepProfile, timestep_profile
from calotype.data.picture_folder import PictureFolder
from calotype.data.raw import Intensity
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.data.windows import SegmentationWindows
from calotype.errors import InputError
from calotype.evaluation.diffusion_segmentation import tissue_cases
from calotype.evaluation.report import Report, Row
from calotype.evaluation.segmentation_study import denoised
from calotype.imaging.types import Image
from calotype.train.training import SPLIT_SEED
from calotype.world import paint, sample_scene
from calotype.world.brains.anatomy import sample_brain

LEVELS = 20
"""Noise levels of a profile: those of a run with so many steps."""
COUNTS: Mapping[str, int] = {"TextToImage": 32, "ImageToVideo": 8, "VolumePrior": 8, "Segmenter": 64}
"""Samples by role, of about equal cost."""
BATCH = 8

Batches = Iterator[tuple[Denoiser, Tensor]]


def measure_profile(
    name: str, *, seed: int, count: int | None = None, data: Path | None = None, device: str = "auto", events: Events = SILENT
) -> Report:
    """Measure a checkpoint.

    Args:
        name: of an embedded model, or a folder.
        seed: of the toy world's samples and of the noise.
        count: samples.
        data: a folder of the user's: pictures with captions for a text-to-image model, pictures with masks for a segmenter.
        device: `auto`, `cpu`, `cuda`, ...
        events: hears the progress.

    Returns:
        A row for each noise level: the network's timestep, sigma, the ratio of signal to noise, the error of the noise and of the sample.

    Raises:
        InputError: a checkpoint that isn't a diffusion model, or data of another kind.
    """
    began = time.perf_counter()
    model = load(name, device=device)
    if model.role not in COUNTS:
        raise InputError(f"{name} has the role {model.role}; profiles are measured of {', '.join(COUNTS)}")
    if data is not None and model.role not in ("TextToImage", "Segmenter"):
        raise InputError(f"data is for text-to-image models and segmenters; {name} has the role {model.role}: leave it out")
    wanted = count or COUNTS[model.role]
    sigmas = model.sigmas(LEVELS)[:-1]
    events.stage(f"profile {name}", LEVELS * -(-wanted // BATCH))
    found = timestep_profile(_SAMPLES[model.role](model, wanted, seed, data, events), sigmas, seed=seed, events=events)
    rows = profile_rows(found, [float(model.model_sampling.preconditioner.timestep(float(sigma))) for sigma in sigmas])
    return Report(f"timestep profile of {model.name}", seed, found.errors.shape[1], str(model.device), time.perf_counter() - began, rows)


def profile_rows(profile: TimestepProfile, timesteps: Sequence[float]) -> list[Row]:
    """A row for each level, from the least noise to the most."""
    rows = []
    for place in reversed(range(len(profile.sigmas))):
        sigma = float(profile.sigmas[place])
        numbers = {"sigma": sigma, "snr": sigma**-2}
        errors = {f"{kind}_loss": profile.of(kind)[place] for kind in ("epsilon", "sample")}
        spread = {key: float(value.std()) for key, value in errors.items()} if profile.errors.shape[1] > 1 else {}
        numbers |= {key: float(value.mean()) for key, value in errors.items()}
        rows.append(Row(f"t={timesteps[place]:.4g}", "model", numbers, spread, profile.errors.shape[1]))
    return rows


def _pictures(model: Any, count: int, seed: int, data: Path | None, events: Events) -> Batches:
    if data is None:
        scenes = [sample_scene("small", split="eval", seed=seed, index=index) for index in range(count)]
        pixels, captions = paint(scenes, size=model.size[0]), [scene.caption for scene in scenes]
    else:
        _, held_out = PictureFolder.open(data, size=model.size, events=events).split(0.15, SPLIT_SEED)
        chosen = range(min(count, len(held_out)))
        pixels, captions = held_out.rows(chosen)["image"], held_out.captions(chosen)
    for first in range(0, len(pixels), BATCH):
        latents = model.encode(pixels[first : first + BATCH].to(model.device)).float()
        yield model.denoiser({"cond": model.condition(captions[first : first + BATCH])}, NoGuidance()), latents


def _clips(model: Any, count: int, seed: int, data: Path | None, events: Events) -> Batches:
    for index in range(count):
        scene = sample_scene("small", split="eval", seed=seed, index=index, num_frames=model.num_frames)
        clip = paint([scene], size=model.size[0], num_frames=model.num_frames)[0]
        told = {"prompt": scene.caption if model.has_text else "", "fps": scene.fps, "motion_bucket_id": scene.motion_bucket_id}
        condition = model.condition(Image(clip[0]), **told)
        yield model.denoiser({"cond": condition}, NoGuidance()), model.encode(clip.to(model.device)).float()


def _windows(model: Any, count: int, seed: int, data: Path | None, events: Events) -> Batches:
    for index in range(count):
        whole = sample_brain(split="eval", seed=seed, index=index, spacing=model.spacing).susceptibility
        starts = [(side - window) // 2 for side, window in zip(whole.shape, model.window, strict=True)]
        cut = whole[tuple(slice(start, start + side) for start, side in zip(starts, model.window, strict=True))]
        yield model.denoiser(), (cut.clamp(-model.limit, model.limit) / model.scale)[None, None].to(model.device)


def _masks(model: Any, count: int, seed: int, data: Path | None, events: Events) -> Batches:
    if getattr(model, "diffusion", None) is None or model.diffusion.objective == "feed-forward":
        raise InputError(f"{model.name} was trained without diffusion; it has no noise levels")
    if data is not None:
        rule = Intensity.of_json(model.intensity) if model.intensity else Intensity(8, 0, 255)
        folder = SegmentationFolder.open(
            data, classes=model.class_values, intensity=(rule.low, rule.high), size_at_least=model.window, events=events
        )
        if folder.channels != model.channels:
            raise InputError(f"data: its pictures have {folder.channels} channels, and {model.name} was trained on {model.channels}")
        _, held_out = SegmentationWindows(folder, model.window).split(0.15, SPLIT_SEED)
        rows = held_out.rows(range(count))
        images, masks = rows["image"], rows["mask"]
    elif model.channels == 3 and len(model.window) == 2 and model.num_classes == 2:
        cases = tissue_cases(model.window[0], split="eval", seed=seed, count=-(-count // 2))
        images, masks = torch.cat([case.images for case in cases])[:count], torch.cat([case.masks for case in cases])[:count]
    else:
        raise InputError(f"{model.name} knows no pictures of the tissue world; give --data, a folder with images/ and masks/")
    for first in range(0, len(images), BATCH):
        yield denoised(model, images[first : first + BATCH], masks[first : first + BATCH])


_SAMPLES: Mapping[str, Callable[[Any, int, int, Path | None, Events], Batches]] = {
    "TextToImage": _pictures, "ImageToVideo": _clips, "VolumePrior": _windows, "Segmenter": _masks,
}  # fmt: skip
