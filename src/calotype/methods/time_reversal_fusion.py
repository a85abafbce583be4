"""Time Reversal Fusion: the clip between two pictures, from a model that can only continue one.

H. Feng, Z. Ding, Z. Xia, S. Niklaus, V. Fernandez Abrevaya, M. J. Black, X. Zhang: "Explorative Inbetweening of Time and Space", ECCV 2024,
arXiv 2403.14611.

The idea: an image-to-video model makes a clip that starts at a picture. Let it denoise the same noisy clip twice at each noise level,
once forward in time from the start picture and once backward in time from the end picture (turn the clip round, denoise it, turn it
back). Average the two, so that the first frame belongs wholly to the one and the last frame wholly to the other. Where they disagree, add
noise again and repeat. Nothing is trained. With the same picture at both ends the clip is a loop.

    F   = D(x; sigma, c_A)                        forward path            `calotype.core.paths.time_reversal`
    B   = R D(R x; sigma, c_B)                    backward path, R turns the frames round
    x0  = w F + (1 - w) B                         w_i = 1 - i / (N - 1)   `calotype.core.paths.fuse`
    x  <- x + (sigma' - sigma) (x - x0) / sigma   Euler                   `calotype.core.samplers.euler_step`
    x  <- x + sqrt(sigma^2 - sigma'^2) n          re-injection            `calotype.core.timetravel.resampling_schedule`

Fusing the estimates x0 is fusing the next x, as the official code does, because Euler's step is affine in x0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.preprocessing import note_unfamiliar
from calotype.core import fields
from calotype.core.denoiser import Changed, Condition, Denoiser
from calotype.core.events import SILENT, Events
from calotype.core.guidance import ClassifierFreeGuidance, linear_ramp
from calotype.core.method import Evaluations, Method
from calotype.core.noise import batch_noise, renoiser
from calotype.core.paths import WeightKind, flip_frames, frame_weights, fuse, time_reversal
from calotype.core.roles import CountingDenoiser, ImageToVideo
from calotype.core.samplers import Step, StepOutput, euler_step, renoise_variance, sample
from calotype.core.timetravel import Reinject, resampling_schedule
from calotype.data import as_image
from calotype.data.images import ImageLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Video

_NO_HISTORY: Mapping[str, Tensor] = {}
_NEEDS = (
    "a model that continues a first frame and has one latent for each frame, so that a clip can be turned round in time; take toy-i2v or"
    " stabilityai/stable-video-diffusion-img2vid (or -img2vid-xt)"
)


@dataclass(frozen=True, kw_only=True)
class TimeReversalFusion(Method):
    """Bounded generation (Feng et al. 2024): the clip between a start and an end picture, or a loop, without training.

    Neither end is clamped by default: the first and the last frame are what the image-to-video model makes of the two pictures. Motion that
    looks the same backwards comes out well. Motion that doesn't (an animal walking nose-first) comes out as ping-pong: the backward path,
    too, walks forward in its own time. That is the method's limit, not a fault of the model.

    Example:
        >>> method = TimeReversalFusion.paper()
        >>> method.num_inference_steps, method.reinject.ratio, method.max_guidance_scale
        (50, 0.8, 3.0)
    """

    slug: ClassVar[str] = "time-reversal-fusion"
    role: ClassVar[str] = "ImageToVideo"
    presets: ClassVar[tuple[str, ...]] = ("paper", "fast", "toy")

    num_inference_steps: int = 50
    """Denoising steps, at least 1 (official script: 50)."""
    num_frames: int | None = None
    """Frames of the clip, at least 2; the model's own number by default (SVD-XT: 25, SVD: 14, toy-i2v: 8)."""
    height: int | None = None
    """Height in pixels; the model's own by default. Both pictures are resized and centre-cropped alike."""
    width: int | None = None
    """Width in pixels; the model's own by default."""
    fps: int = 7
    """Frames a second, told to the model and written into the clip (official script: 7; 17 for gymnastics)."""
    motion_bucket_id: int = 127
    """How much motion to ask for, 0 to 255 (official script: 127; 10 for gymnastics). SVD is sensitive to it: try several."""
    noise_aug_strength: float = 0.02
    """Standard deviation of the noise added to both pictures before they are encoded, pixels in [-1, 1]; the same noise for both."""
    min_guidance_scale: float = 1.0
    """Classifier-free guidance at each path's first frame in its own time: frame 0 forward, frame N - 1 backward (official script: 1)."""
    max_guidance_scale: float = 3.0
    """Classifier-free guidance at each path's last frame, linear in between (official script: 3)."""
    weights: WeightKind = "linear"
    """How a path's weight falls along its own frames (official script: linear). Together the two paths weigh 1 at each frame."""
    reinject: Reinject = field(default_factory=Reinject)
    """Noise re-injection: which noise levels are done again, and how often; `repeats` 0 is off."""
    fusion: Literal["parallel", "sequential"] = "parallel"
    """`parallel` averages the two paths (the paper). `sequential` takes the forward path's step, adds the noise again and takes the
    backward path's step from there (ViBiDSampler, Yang et al. 2024, arXiv 2410.05651)."""
    clamp_end: bool = False
    """Replace each path's estimate of the first and of the last frame by the encoded pictures, at every step (not in the paper)."""
    drop_last_frame: bool = False
    """For loops: leave out the last frame, which repeats the first, so that the clip can be played round and round."""

    def __post_init__(self) -> None:
        fields.at_least(self, 1, "num_inference_steps", "fps")
        fields.at_least(self, 0, "noise_aug_strength")
        fields.between(self, 0, 255, "motion_bucket_id")
        fields.sides(self)
        fields.one_of(self, fusion=("parallel", "sequential"))
        if self.num_frames is not None and self.num_frames < 2:
            raise InputError(f"num_frames is {self.num_frames}; a clip between two pictures has 2 or more")
        if not 1 <= self.min_guidance_scale <= self.max_guidance_scale:
            given = f"min_guidance_scale is {self.min_guidance_scale} and max_guidance_scale {self.max_guidance_scale}"
            raise InputError(f"{given}; 1 <= min_guidance_scale <= max_guidance_scale must hold")

    @classmethod
    def paper(cls) -> Self:
        """The official script's settings, for SVD and SVD-XT: 50 steps, guidance 1 to 3, one re-injection jump over 5 levels."""
        return cls()

    @classmethod
    def fast(cls) -> Self:
        """Half the official steps, re-injection at about the same noise levels."""
        return cls(num_inference_steps=25, reinject=Reinject(length=3))

    @classmethod
    def toy(cls) -> Self:
        """For toy-i2v, chosen on the tune split: few steps, no guidance, re-injection at the noise levels that decide its small latents."""
        return cls(
            num_inference_steps=14,
            motion_bucket_id=20,
            max_guidance_scale=1.0,
            reinject=Reinject(rule="sigma", sigma_min=1.0, sigma_max=10.0, length=3),
        )

    def evaluations(self) -> Evaluations:
        """Two paths, each with guidance's branches; the steps that re-injection repeats are about a fifth."""
        rows = 2 * (2 if self.max_guidance_scale > 1 else 1)
        return Evaluations(round(self.num_inference_steps * rows * (1.2 if self.reinject.repeats else 1.0)), rows)

    def __call__(
        self,
        model: ImageToVideo,
        start: ImageLike,
        end: ImageLike | None = None,
        *,
        prompt: str = "",
        seed: int = 0,
        events: Events = SILENT,
    ) -> Video:
        """Make the clip between two pictures, or a loop.

        Args:
            model: an image-to-video model of the SVD family, as `calotype.load` returns it.
            start: the first frame: a path, a PIL picture, an array or an `Image`.
            end: the last frame; without it the clip returns to `start` and is a loop.
            prompt: what is to be seen, for a model with a text encoder (toy-i2v); I2VGen-XL needs one, others ignore it.
            seed: of all noise.
            events: hears steps, previews and notes, and keeps the state of a run that may be interrupted.

        Returns:
            `num_frames` frames at `fps`; one fewer for a loop with `drop_last_frame`.

        Raises:
            InputError: `model` has another role or is guided by a prompt that is empty, or a picture can't be used.
        """
        self.refuse_other_roles(model, needs=_NEEDS)
        size = (self.height or model.size[0], self.width or model.size[1])
        first = as_image(start, size=size, name="start", events=events)
        note_unfamiliar(model, first, events, name="start", expect="a poor clip")
        if end is None:
            video = self.between(model, [first], [first], prompts=[prompt], seed=seed, events=events)[0]
            return Video(video.frames[:-1], video.fps) if self.drop_last_frame else video
        last = as_image(end, size=size, name="end", events=events)
        note_unfamiliar(model, last, events, name="end", expect="a poor clip")
        return self.between(model, [first], [last], prompts=[prompt], seed=seed, events=events)[0]

    def between(
        self,
        model: ImageToVideo,
        starts: Sequence[Image],
        ends: Sequence[Image],
        *,
        prompts: Sequence[str] = (),
        seed: int = 0,
        events: Events = SILENT,
    ) -> list[Video]:
        """The algorithm, for several pairs at once; pair i comes out as it would alone with `seed + i`.

        Args:
            model: see `__call__`.
            starts: the first frames, all of one size, which is the clips' size.
            ends: the last frames, as many and of the same size.
            prompts: one per pair, or none.
            seed: of the first pair's noise.
            events: see `__call__`; hears the metric `model_calls`.

        Returns:
            One clip per pair.
        """
        self.refuse_missing_prompt(model, prompts, says="what is to be seen between the two pictures")
        frames, pairs = self.num_frames or model.num_frames, len(starts)
        shape, sigmas = model.latent_shape(frames, starts[0].size), model.sigmas(self.num_inference_steps)
        weights = frame_weights(self.weights, frames)

        # Both pictures of a pair are noised alike: a difference between the two conditions is a difference between the pictures.
        c_start, c_end = self.conditions(model, starts, prompts, seed), self.conditions(model, ends, prompts, seed)
        fresh = renoiser(shape, seed, pairs)
        if self.fusion == "parallel":
            networks = [self.guided(model, Condition.cat([c_start, c_end]), frames)]
            denoise = fuse(self._clamped(networks[0], model, [*starts, *ends], [*ends, *starts]), time_reversal(weights))
            step: Step = euler_step
        else:
            networks = [self.guided(model, c_start, frames), self.guided(model, c_end, frames)]
            denoise = self._clamped(networks[0], model, starts, ends)
            step = SequentialStep(backward=self._clamped(networks[1], model, ends, starts), renoise=fresh)
        x = sample(
            denoise,
            batch_noise(shape, seed, pairs) * model.init_noise_sigma(sigmas),
            sigmas,
            step=step,
            schedule=resampling_schedule(sigmas, self.reinject),
            renoise=fresh,
            noise_scale=self.reinject.noise_scale,
            preview=lambda estimate: model.decode(estimate[:1], self.fps),
            events=events,
            key=self.slug,
        )
        events.metric("model_calls", float(sum(network.calls for network in networks)))
        return [model.decode(row[None], self.fps) for row in x]

    def conditions(self, model: ImageToVideo, images: Sequence[Image], prompts: Sequence[str], seed: int) -> Condition:
        """One row per picture; the augmentation noise of row i comes from `seed + i`."""
        texts = prompts or [""] * len(images)
        rows = [
            model.condition(
                image,
                prompt=text,
                fps=self.fps,
                motion_bucket_id=self.motion_bucket_id,
                noise_aug_strength=self.noise_aug_strength,
                seed=seed + i,
            )
            for i, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        return Condition.cat(rows)

    def guided(self, model: ImageToVideo, condition: Condition, num_frames: int) -> CountingDenoiser:
        """D(.; sigma, c), with guidance growing along the frames in the path's own order."""
        guidance = ClassifierFreeGuidance(linear_ramp(self.min_guidance_scale, self.max_guidance_scale, num_frames))
        return model.denoiser({"cond": condition, "uncond": model.unconditional(condition)}, guidance)

    def _clamped(self, denoise: Denoiser, model: ImageToVideo, firsts: Sequence[Image], lasts: Sequence[Image]) -> Denoiser:
        """`denoise`; with `clamp_end` the first and the last frame of each row's estimate are the encoded pictures."""
        if not self.clamp_end:
            return denoise
        first, last = (model.encode(torch.stack([image.pixels for image in images])).transpose(0, 1) for images in (firsts, lasts))

        return Changed(denoise, lambda x0: torch.cat([first.to(x0), x0[:, 1:-1], last.to(x0)], dim=1))


@dataclass(frozen=True)
class SequentialStep:
    """ViBiDSampler's step: Euler down along the forward path, the noise up to the same level again, Euler down along the backward path."""

    backward: Denoiser
    """The backward path's denoiser, in its own time; `sample` is given the forward path's."""
    renoise: Callable[[int], Float[Tensor, "batch frames ..."]]
    """Standard normal noise for a position of the schedule."""

    def __call__(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, history: Mapping[str, Tensor] = _NO_HISTORY, position: int = 0
    ) -> StepOutput:
        """From `sigma` down to `sigma_next`; both paths have been heard once."""
        x = euler_step(denoise, x, sigma, sigma_next).x
        x = x + renoise_variance(sigma, sigma_next) ** 0.5 * self.renoise(position).to(x)
        turned = euler_step(self.backward, flip_frames(x), sigma, sigma_next)
        return StepOutput(flip_frames(turned.x), flip_frames(turned.x0))


METHOD = TimeReversalFusion
