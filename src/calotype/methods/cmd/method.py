"""CMD: clips from captions, by an image model that makes one content frame and a small transformer that makes its motion.

S. Yu, W. Nie, D.-A. Huang, B. Li, J. Shin, A. Anandkumar: "Efficient Video Diffusion Models via Content-Frame Motion-Latent
Decomposition", ICLR 2024, arXiv 2403.14148.

The idea: no network has to see a whole clip while it denoises. An autoencoder f, g writes a clip as a picture, its content frame, which is
a mean of the frames with learned weights, and as a small motion latent z. The content frame is so much like a picture that a pretrained
image model learns to make it; motion is made for a given content frame.

    xb    <- sample(D_I; caption)                          guidance w_I        `calotype.backbones.content_motion`
    z     <- sample(D_M; caption, xb)                      guidance w_M; the branch without a caption keeps xb
    clip   = decode(g(xb, z)), frame by frame

Of a clip xb and z are f's: it is rebuilt, set in motion anew (its xb, another z), or gives either half to another clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from jaxtyping import Float
from torch import Tensor

from calotype.backbones.content_motion import ContentMotionVideo
from calotype.backbones.content_motion_network import Motion
from calotype.backbones.preprocessing import note_unfamiliar
from calotype.core import fields
from calotype.core.events import SILENT, Events
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.method import Evaluations, Method
from calotype.core.noise import AUGMENTATION, batch_noise
from calotype.core.samplers import ddim_step, sample
from calotype.data import as_image, as_video
from calotype.data.images import ImageLike
from calotype.data.videos import VideoLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Video

MOTION = 2
"""Stream of the motion's starting noise."""
Source = Literal["clip", "new"]
_NEEDS = "a model of content frames and motion; take toy-cmd, or a folder that `calotype train cmd` made"
_ONE_OF = "give a prompt, a clip, a content frame, or two clips as content_of and motion_of"


@dataclass(frozen=True, kw_only=True)
class CMD(Method):
    """Clips from captions through one content frame and its motion (Yu et al. 2024).

    Example:
        >>> CMD.paper().num_inference_steps, CMD.paper().num_motion_steps, CMD.paper().guidance_scale
        (50, 100, 7.5)
    """

    slug: ClassVar[str] = "cmd"
    role: ClassVar[str] = "ContentMotionVideo"
    presets: ClassVar[tuple[str, ...]] = ("paper", "toy")

    num_inference_steps: int = 50
    """Denoising steps of the content frame (paper: 50)."""
    num_motion_steps: int = 100
    """Denoising steps of the motion (paper: 100)."""
    guidance_scale: float = 7.5
    """Classifier-free guidance of the content frame, in diffusers' convention; 1 is none (paper: 7.5 for text)."""
    motion_guidance_scale: float = 1.0
    """The same of the motion (the paper names no number)."""
    content_noise: float = 0.0
    """Noise that is laid on the content frame before the motion model sees it, as a standard deviation; for one that was trained with such
    noise (not in the paper: a made content frame is never quite like those of the training)."""
    num_motions: int = 1
    """Motions that are made for one content frame."""
    motion: Source = "clip"
    """Of a given clip: `clip` keeps its motion, `new` makes another for its content frame."""
    start: int = 0
    """Frames of a clip's file that are left out at its beginning."""
    stride: int = 1
    """Every so many frames of a clip's file one is read."""

    def __post_init__(self) -> None:
        fields.at_least(self, 1, "num_inference_steps", "num_motion_steps", "num_motions", "stride")
        fields.at_least(self, 0, "start")
        fields.between(self, 0.0, 50.0, "guidance_scale", "motion_guidance_scale")
        fields.between(self, 0.0, 10.0, "content_noise")
        fields.one_of(self, motion=get_args(Source))

    @classmethod
    def paper(cls) -> Self:
        """The paper's numbers."""
        return cls()

    @classmethod
    def toy(cls) -> Self:
        """For toy-cmd: 25 steps of each, and guidance that was chosen on the split `tune`."""
        return cls(num_inference_steps=25, num_motion_steps=25, guidance_scale=3.0, motion_guidance_scale=1.5)

    def __call__(
        self,
        model: ContentMotionVideo,
        prompt: str = "",
        *,
        clip: VideoLike | None = None,
        content_of: VideoLike | None = None,
        motion_of: VideoLike | None = None,
        content_frame: ImageLike | None = None,
        seed: int = 0,
        events: Events = SILENT,
    ) -> dict[str, Video | Image]:
        """Make clips, rebuild one, or join two.

        Args:
            model: toy-cmd, or a folder of `calotype train cmd`.
            prompt: what the clip shows, and how it moves. New motion for a given clip or content frame reads it too.
            clip: a clip to rebuild from its content frame and motion, or (`motion` "new") to set in motion anew.
            content_of: with `motion_of`, a clip whose content frame is taken.
            motion_of: a clip whose motion is taken for it.
            content_frame: a picture to set in motion. A content frame is a mean of frames, and a photograph is none: expect little motion.
            seed: of all noise; motion k of one content frame has that of seed + k.
            events: hears steps, notes and the metric `model_calls`.

        Returns:
            `content_frame` as the image autoencoder shows it, and the clip, `video`; of several `video-1`, `video-2` and so on.

        Raises:
            InputError: a model of another role, inputs that don't fit together, or a clip that is too short.
        """
        self.refuse_other_roles(model, needs=_NEEDS, capabilities=(ContentMotionVideo,))
        self.check({"prompt": prompt, "clip": clip, "content_of": content_of, "motion_of": motion_of, "content_frame": content_frame})
        first = clip if clip is not None else content_of
        wanted = ["autoencoder"] if first is not None else ["autoencoder", "content"] if content_frame is None else ["autoencoder"]
        if first is None or self.motion == "new":
            wanted.append("motion")
        missing = [name for name in wanted if name not in model.facts.trained]
        if missing:
            raise InputError(f"{model.name}: its {' and '.join(missing)} was never trained; run calotype train cmd --stage {missing[0]}")
        fps = model.facts.fps
        if first is not None:
            given = self._clip(model, first, "clip" if clip is not None else "content_of", events)
            fps, encoded = given.fps, model.split(model.encode_clips(given.frames[None]))
            content, motion = encoded.content, encoded.motion
            if motion_of is not None:
                motion = model.split(model.encode_clips(self._clip(model, motion_of, "motion_of", events).frames[None])).motion
            made = first is clip and self.motion == "new"
        elif content_frame is not None:
            picture = as_image(content_frame, size=model.size, name="content_frame", events=events)
            events.note("content_frame: a content frame is a mean of a clip's frames and a picture is none; expect little motion")
            note_unfamiliar(model, picture, events, name="content_frame", expect="a poor clip")
            content, made = model.encode(picture.pixels[None]), True
        else:
            self.refuse_missing_prompt(model, [prompt], says="what the clip shows and how it moves")
            content, made = self.content(model, [prompt], seed=seed, events=events), True
        if made:
            count = self.num_motions
            content = content.expand(count, -1, -1, -1)
            motion = self.motions(model, [prompt] * count, content, seed=seed, events=events)
        clips = model.decode_clips(model.join(content, motion)).cpu()
        names = ["video"] if len(clips) == 1 else [f"video-{number + 1}" for number in range(len(clips))]
        shown = model.decode(content[:1])[0].cpu()
        return {**{name: Video(frames, fps) for name, frames in zip(names, clips, strict=True)}, "content_frame": Image(shown)}

    def content(
        self, model: ContentMotionVideo, prompts: Sequence[str], *, seed: int = 0, events: Events = SILENT
    ) -> Float[Tensor, "batch channels h w"]:
        """Content frames, as latents; frame i's noise is that of seed + i, so it can be made alone."""
        condition = model.condition(prompts)
        conditions = {"cond": condition, "uncond": model.unconditional(condition)}
        denoiser = model.denoiser(conditions, ClassifierFreeGuidance(self.guidance_scale))
        sigmas = model.sigmas(self.num_inference_steps)
        noise = batch_noise(model.latent_shape(), seed, len(prompts)) * model.init_noise_sigma(sigmas)
        made = sample(denoiser, noise.to(model.device), sigmas, step=ddim_step(), events=events, key="content")
        events.metric("model_calls", float(denoiser.calls))
        return made

    def motions(
        self,
        model: ContentMotionVideo,
        prompts: Sequence[str],
        content: Float[Tensor, "batch channels h w"],
        *,
        seed: int = 0,
        events: Events = SILENT,
    ) -> Motion:
        """Motion for content frames; motion i's noise is that of seed + i."""
        rows = len(content)
        network, preconditioner = model.motion, model.motion.model_sampling.preconditioner
        shown, level = content, 0.0
        if self.content_noise:
            noise = batch_noise(content.shape[1:], seed, rows, stream=AUGMENTATION).to(content)
            shown = preconditioner.scale_input(content + self.content_noise * noise, self.content_noise)
            level = preconditioner.timestep(self.content_noise)
        condition = network.condition(prompts, shown, level)
        conditions = {"cond": condition, "uncond": network.unconditional(condition)}
        denoiser = network.denoiser(conditions, ClassifierFreeGuidance(self.motion_guidance_scale))
        sigmas = network.sigmas(self.num_motion_steps)
        start = batch_noise(network.shape, seed, rows, stream=MOTION) * network.init_noise_sigma(sigmas)
        made = sample(denoiser, start.to(model.device), sigmas, step=ddim_step(), events=events, key="motion")
        events.metric("model_calls", float(denoiser.calls))
        return network.unpacked(made)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what doesn't fit together.

        Raises:
            InputError: none or several kinds of input, or half of a pair.
        """
        given = {name for name in ("clip", "content_of", "motion_of", "content_frame") if arguments.get(name) is not None}
        if len(given & {"content_of", "motion_of"}) == 1:
            raise InputError(f"{given & {'content_of', 'motion_of'}} is given alone; content_of and motion_of go together")
        if len(given - {"motion_of"}) > 1:
            raise InputError(f"{' and '.join(sorted(given))} are given; {_ONE_OF}")
        if not given and not str(arguments.get("prompt") or "").strip():
            raise InputError(f"there is nothing to make a clip of; {_ONE_OF}")
        if self.motion == "new" and "clip" not in given:
            raise InputError(
                "motion is new and no clip is given; new motion is for a clip, and is made anyway of a prompt or a content frame"
            )

    def reading(self) -> Mapping[str, Mapping[str, Any]]:
        """Where the excerpt of a clip's file begins."""
        return {name: {"start": self.start, "stride": self.stride} for name in ("clip", "content_of", "motion_of")}

    def evaluations(self) -> Evaluations:
        """Of a clip from a prompt: the content frame's and the motion's."""
        content, motion = (2 if scale > 1 else 1 for scale in (self.guidance_scale, self.motion_guidance_scale))
        return Evaluations(content * self.num_inference_steps + motion * self.num_motion_steps * self.num_motions, content)

    def _clip(self, model: ContentMotionVideo, value: VideoLike, name: str, events: Events) -> Video:
        """As many frames as the model knows, at its size."""
        wanted = model.facts.num_frames
        clip = as_video(value, size=model.size, max_frames=wanted, start=self.start, stride=self.stride, name=name, events=events)
        if len(clip) < wanted:
            raise InputError(f"{name}: it has {len(clip)} frames and {model.name} takes {wanted}; give a longer clip, or a smaller stride")
        if len(clip) > wanted:
            events.note(f"{name}: the first {wanted} of {len(clip)} frames are used")
        return Video(clip.frames[:wanted], clip.fps)
