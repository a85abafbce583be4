"""The first frame from an instruction: InstructPix2Pix with its two guidances, on the core's sampler.

T. Brooks, A. Holynski, A. A. Efros: "InstructPix2Pix: Learning to Follow Image Editing Instructions", CVPR 2023, arXiv 2211.09800.
"""

from __future__ import annotations

from calotype.backbones.instruct_pix2pix import PictureEditor
from calotype.backbones.preprocessing import working_size
from calotype.core.events import SILENT, Events
from calotype.core.guidance import InstructionGuidance
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample
from calotype.data import resize_pixels
from calotype.errors import InputError
from calotype.imaging.types import Image

STEPS, SCALE, IMAGE_SCALE = 100, 7.5, 1.5
"""The official code's settings."""


def edit_picture(
    model: PictureEditor,
    picture: Image,
    instruction: str,
    *,
    num_inference_steps: int = STEPS,
    guidance_scale: float = SCALE,
    image_guidance_scale: float = IMAGE_SCALE,
    seed: int = 0,
    events: Events = SILENT,
) -> Image:
    """The picture after an instruction, at its own size.

    Args:
        model: an instruction checkpoint.
        picture: any size; it is edited at the model's own area, its sides rounded.
        instruction: what to change.
        num_inference_steps: Euler steps (official code: 100, with fresh noise in each).
        guidance_scale: by the instruction.
        image_guidance_scale: by the picture; more keeps more of it.
        seed: of the noise.
        events: hears the steps and a preview of the result.

    Raises:
        InputError: the checkpoint has another role.
    """
    if getattr(model, "role", "") != "PictureEditor":
        raise InputError(f"editor is a {getattr(model, 'role', type(model).__name__)}; give a loaded InstructPix2Pix checkpoint")
    size = working_size(model, picture.size)
    pixels = resize_pixels(picture.pixels[None], size)
    condition = model.condition(pixels, instruction)
    alone = model.condition(pixels, "")
    conditions = {"cond": condition, "image": alone, "uncond": model.without_picture(alone)}
    denoise = model.denoiser(conditions, InstructionGuidance(guidance_scale, image_guidance_scale))
    sigmas = model.sigmas(num_inference_steps)
    start = batch_noise(model.latent_shape(size), seed, 1) * model.init_noise_sigma(sigmas)
    x = sample(denoise, start.to(condition.tensors["text"].device), sigmas, events=events, key="first-frame")
    edited = Image(resize_pixels(model.decode(x).cpu(), picture.size)[0].clamp(0, 1))
    events.preview(lambda: edited)
    return edited
