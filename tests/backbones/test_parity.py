"""Plain sampling through the core gives the pixels of diffusers' own pipelines on the same folder and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from calotype.backbones import load
from calotype.core.guidance import ClassifierFreeGuidance, linear_ramp
from calotype.core.noise import AUGMENTATION, batch_noise, generator
from calotype.core.samplers import sample
from calotype.imaging.types import Image
from tests.tiny import cached

TOLERANCE = 1e-4
STEPS = 10


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.std() > 0.02, "a flat picture would equal anything"
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize(
    ("kind", "size"), [("sd", (64, 96)), ("sd21", (96, 64)), ("sdxl", (64, 96)), ("toy-t2i", (64, 64))], ids=lambda value: str(value)
)
def test_text_to_image_equals_the_pipeline(kind: str, size: tuple[int, int]) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    folder = cached(kind)
    pipeline: Any = (StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline).from_pretrained(folder)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    model = load(folder, device="cpu")
    prompts = ["a red ball on sand", "a blue house and a star"]
    noise = batch_noise(model.latent_shape(size), seed=5, count=2)
    theirs = pipeline(
        prompts, height=size[0], width=size[1], num_inference_steps=STEPS, guidance_scale=4.0, latents=noise, output_type="pt"
    ).images

    positive = model.condition(prompts, size=size)
    denoise = model.denoiser({"cond": positive, "uncond": model.unconditional(positive)}, ClassifierFreeGuidance(4.0))
    sigmas = model.sigmas(STEPS)
    ours = model.decode(sample(denoise, noise * model.init_noise_sigma(sigmas), sigmas))
    assert _difference(ours, theirs) <= TOLERANCE
    assert denoise.calls == STEPS * 2 * 2


@pytest.mark.parametrize("kind", ["sd", "sd21"])
def test_text_to_image_equals_the_pipeline_with_ddim_and_a_negative_prompt(kind: str) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    folder = cached(kind)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=True)
    pipeline.set_progress_bar_config(disable=True)
    model = load(folder, device="cpu")
    noise = batch_noise(model.latent_shape((64, 64)), seed=6, count=1)
    arguments = {"height": 64, "width": 64, "num_inference_steps": STEPS, "latents": noise, "output_type": "pt"}
    theirs = pipeline("a red ball", negative_prompt="sea", guidance_scale=3.0, **arguments).images

    conditions = {"cond": model.condition("a red ball"), "uncond": model.condition("sea")}
    sigmas = model.sigmas(STEPS, sampler="ddim")
    start = noise * model.init_noise_sigma(sigmas, sampler="ddim")
    ours = model.decode(sample(model.denoiser(conditions, ClassifierFreeGuidance(3.0)), start, sigmas))
    assert _difference(ours, theirs) <= TOLERANCE


def _picture(size: tuple[int, int], seed: int) -> PILImage.Image:
    """A picture with structure, not only noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return PILImage.fromarray(coarse).resize((size[1], size[0]), PILImage.Resampling.BICUBIC)


@pytest.mark.parametrize(("kind", "size"), [("svd", (64, 96)), ("svd", (232, 64)), ("toy-i2v", (64, 64))], ids=lambda value: str(value))
def test_image_to_video_equals_the_pipeline(kind: str, size: tuple[int, int]) -> None:
    from diffusers import StableVideoDiffusionPipeline

    folder = cached(kind)
    model = load(folder, device="cpu", decode_chunk_size=2)
    # The stock pipeline knows no caption: the toy folder is compared with the picture's token alone.
    model.modules.pop("text_encoder", None)
    pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    picture, frames = _picture(size, seed=1), 3
    noise = batch_noise(model.latent_shape(frames, size), seed=7, count=1)
    theirs = pipeline(
        picture,
        height=size[0],
        width=size[1],
        num_frames=frames,
        num_inference_steps=STEPS,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
        fps=9,
        motion_bucket_id=60,
        noise_aug_strength=0.05,
        decode_chunk_size=2,
        generator=generator(3, stream=AUGMENTATION),
        latents=noise,
        output_type="pt",
    ).frames[0]

    condition = model.condition(Image.from_pil(picture), fps=9, motion_bucket_id=60, noise_aug_strength=0.05, seed=3)
    guidance = ClassifierFreeGuidance(linear_ramp(1.0, 3.0, frames))
    denoise = model.denoiser({"cond": condition, "uncond": model.unconditional(condition)}, guidance)
    sigmas = model.sigmas(STEPS)
    clip = model.decode(sample(denoise, noise * model.init_noise_sigma(sigmas), sigmas), fps=9.0)
    assert _difference(clip.frames, theirs) <= TOLERANCE
    assert clip.fps == 9


def test_the_clip_resize_equals_the_pipelines() -> None:
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    from calotype.backbones.clip_image import resize_antialiased

    for size in [(64, 64), (576, 1024), (300, 448), (225, 1000)]:
        image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert torch.allclose(resize_antialiased(image, (224, 224)), _resize_with_antialiasing(image, (224, 224)), atol=1e-5)
