"""AnyV2V: edit a clip by editing its first frame.

M. Ku, C. Wei, W. Ren, H. Yang, W. Chen: "AnyV2V: A Tuning-Free Framework For Any Video-to-Video Editing Tasks", TMLR 2024, arXiv
2403.14468.

The idea: an image-to-video model knows how to go on from a picture. Follow the source clip up the noise levels (DDIM inversion), which
keeps its motion in the noise. Come down again from that noise with the *edited* first frame as the condition, and while the level is high
take three things from the source's own way down: the output of one convolution (layout), queries and keys of the spatial self-attention
(shapes), queries and keys of the self-attention over frames (motion). Values stay the edit's own. Nothing is trained.

    z_s    = invert(encode(clip); first frame I, no guidance)    `calotype.core.inversion.invert`
    z     <- z_S
    rows   = [z_s | I], [z | I*, negative], [z | I*, prompt]     one batch, role-major           `injection.BesideSource`
    f, Q, K of the last two rows <- the first row's              where sigma is high enough      `injection.Injection`
    x0     = D_negative + g (D_prompt - D_negative)
    z     <- step(z, x0)                                         `calotype.core.samplers.euler_step` (DDIM, eta 0)

The paper counts the injected steps as shares tau of I2VGen-XL's; on other schedules the same *noise levels* are meant (`sigma_of_tau`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Self, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.attention import AttentionControl
from calotype.backbones.instruct_pix2pix import PictureEditor
from calotype.backbones.preprocessing import note_unfamiliar
from calotype.core import fields
from calotype.core.denoiser import Condition
from calotype.core.events import SILENT, Events
from calotype.core.inversion import Trajectory
from calotype.core.method import Evaluations, Method
from calotype.core.noise import batch_noise
from calotype.core.roles import HasAttention, ImageToVideo
from calotype.core.samplers import sample
from calotype.core.stepping import check_bound
from calotype.data import as_image
from calotype.data.cache import TensorCache
from calotype.data.images import ImageLike
from calotype.data.videos import VideoLike
from calotype.imaging.types import Image, Video
from calotype.methods.anyv2v.editor import edit_picture
from calotype.methods.anyv2v.injection import EDIT, NEGATIVE, SOURCE, BesideSource, Injection, sigma_of_tau
from calotype.methods.anyv2v.inputs import check_choice, check_inputs, check_pair, read_clip
from calotype.methods.anyv2v.inversion import SOLVERS, Inversion, Inverter, Solver, Windows, identity, joined, nested_tables

NEGATIVE_PROMPT = "Distorted, discontinuous, ugly, blurry, low resolution, motionless, static"
"""Words for what the result shouldn't be, as the official code has them."""
CACHE = "inversions"
_NEEDS = (
    "a model that continues a first frame through a UNet; take toy-i2v, stabilityai/stable-video-diffusion-img2vid (or -img2vid-xt) or"
    " ali-vilab/i2vgen-xl"
)


@dataclass(frozen=True, kw_only=True)
class AnyV2V(Method):
    """A clip edited through its first frame (Ku et al. 2024), without training.

    The edit is whatever the edited frame shows; the motion is the source clip's. What comes into view later is the model's own invention,
    and motion that is too fast for the model is lost. An edit that changes outlines needs low `tau_conv` and `tau_spatial`, one that keeps
    them bears high ones.

    Example:
        >>> method = AnyV2V.paper()
        >>> method.tau_conv, method.tau_spatial, method.tau_temporal, method.num_inversion_steps
        (0.2, 0.2, 0.5, 500)
    """

    slug: ClassVar[str] = "anyv2v"
    role: ClassVar[str] = "ImageToVideo"
    presets: ClassVar[tuple[str, ...]] = ("paper", "svd", "fast", "toy")

    num_inversion_steps: int = 500
    """Steps up (official code: 500; 100 is faster). The nearest number whose levels hold those of the way down is taken."""
    num_inference_steps: int = 50
    """Steps down, at least 1 (official code: 50)."""
    tau_conv: float = 0.2
    """Share of I2VGen-XL's steps in which the convolution's output is injected, 0 to 1; other schedules take the same noise levels."""
    tau_spatial: float = 0.2
    """The same for queries and keys of the spatial self-attention (paper: 0.2; more keeps more of the source's shapes)."""
    tau_temporal: float = 0.5
    """The same for queries and keys of the self-attention over frames (paper: 0.5; most official examples: 1)."""
    level_scale: float = 1.0
    """Factor on the noise levels that the three shares stand for; smaller latents decide the same things at lower noise."""
    inject_value: bool = False
    """Inject values as well (not in the paper: it makes the source show through)."""
    solver: Solver = "ddim"
    """How a step is made, up and down: `ddim` (the paper; first order), `dpmpp_2m` (second order at the same cost, so that the source comes
    back better from few steps) or `heun` (second order at twice the cost)."""
    start_index: int = 0
    """Noisiest steps that are left out; the way up ends, and the way down begins, at that level (official code: 1, demos 0)."""
    random_ratio: float = 0.0
    """Share of fresh noise in the variance at the start, 0 to 1; more frees the motion."""
    guidance_scale: float = 9.0
    """Classifier-free guidance on the way down; 1 is none. The way up has none."""
    negative_prompt: str = NEGATIVE_PROMPT
    """What guidance leads away from, for a model that reads prompts."""
    height: int | None = None
    """Height in pixels; the model's own by default. Clip and frame are resized and centre-cropped alike."""
    width: int | None = None
    """Width in pixels; the model's own by default."""
    fps: int | None = None
    """Frames a second that the model is told; the clip's own by default."""
    motion_bucket_id: int = 127
    """How much motion models of SVD's kind are told of, 0 to 255."""
    noise_aug_strength: float = 0.02
    """Noise on the first frame before it is encoded, for models of SVD's kind; the same for source and edit."""
    max_frames: int | None = None
    """Read only so many frames of the clip."""
    start: int = 0
    """Frames of the clip's file that are left out at its beginning."""
    stride: int = 1
    """Every so many frames of the clip's file one is read; the result plays as fast."""
    window: int | None = None
    """Frames that the model looks at together; the number it was trained for by default. A longer clip is cut into windows."""
    overlap: int = 4
    """Frames that two windows share."""
    rebuild: bool = True
    """Sample the source back down before editing and tell how well that works: what this loses, the edit loses too."""
    cache_megabytes: int = 4096
    """Bound on the inversions that are kept on disk for the next edit of a clip; 0 keeps none."""

    def __post_init__(self) -> None:
        fields.at_least(self, 0, "noise_aug_strength", "start", "cache_megabytes")
        fields.at_least(self, 1, "num_inversion_steps", "num_inference_steps", "guidance_scale", "fps", "stride", "overlap")
        fields.at_least(self, 2, "max_frames", "window")
        fields.above(self, 0, "level_scale")
        fields.between(self, 0, 1, "tau_conv", "tau_spatial", "tau_temporal", "random_ratio")
        fields.between(self, 0, self.num_inference_steps - 1, "start_index")
        fields.between(self, 0, 255, "motion_bucket_id")
        fields.sides(self)
        fields.one_of(self, solver=get_args(Solver))

    @classmethod
    def paper(cls) -> Self:
        """The paper's settings, for I2VGen-XL."""
        return cls()

    @classmethod
    def svd(cls) -> Self:
        """For SVD and SVD-XT, which read no prompt: the paper's noise levels, guidance 3, 100 steps up (not in the paper, untested)."""
        return cls(num_inversion_steps=100, guidance_scale=3.0, negative_prompt="")

    @classmethod
    def fast(cls) -> Self:
        """As many steps up as down, 25."""
        return cls(num_inversion_steps=25, num_inference_steps=25)

    @classmethod
    def toy(cls) -> Self:
        """For toy-i2v, chosen on the tune split: few second-order steps from sigma 24, low levels for small latents."""
        return cls(
            num_inversion_steps=31,
            num_inference_steps=16,
            solver="dpmpp_2m",
            start_index=3,
            tau_conv=0.1,
            tau_spatial=0.1,
            level_scale=0.25,
            guidance_scale=1.0,
            negative_prompt="",
            motion_bucket_id=35,
        )

    def evaluations(self) -> Evaluations:
        """Of a clip of the model's length: the inversion, the look at how well it comes back, and the way down."""
        up, down = self.num_inversion_steps, self.num_inference_steps
        return Evaluations(up + (down if self.rebuild else 0) + down * self.rows, self.rows)

    def __call__(
        self,
        model: ImageToVideo,
        video: VideoLike,
        edited_first_frame: ImageLike | None = None,
        *,
        prompt: str = "",
        instruction: str = "",
        editor: PictureEditor | None = None,
        seed: int = 0,
        events: Events = SILENT,
    ) -> Video:
        """Edit a clip.

        Args:
            model: an image-to-video model, as `calotype.load` returns it: SVD's kind or I2VGen-XL.
            video: the clip to edit, of any size, rate and length from 2 frames.
            edited_first_frame: its first frame after the edit, uncropped: a picture of the clip's shape, such as DesignEdit's result.
            instruction: what to change in the first frame ("make it snowy"), in place of an edited one; needs `editor`.
            editor: the InstructPix2Pix checkpoint that follows the instruction.
            prompt: what the *result* shows, not an instruction; for models that read prompts.
            seed: of the noise on the conditions, and of fresh noise where there is any.
            events: hears steps and notes, and keeps the state of a run that may be interrupted.

        Returns:
            As many frames as the clip has, at its rate and the model's size.

        Raises:
            InputError: the model has another role, the clip or the frame can't be used, or they don't fit together.
        """
        self.refuse_other_roles(model, needs=_NEEDS, capabilities=(HasAttention,))
        check_choice(edited_first_frame is not None, instruction, editor is not None)
        self.refuse_missing_prompt(model, [prompt], says="what the edited clip shows (not what to change)")
        check_bound(getattr(model, "max_rows", None), self.rows)
        size = (self.height or model.size[0], self.width or model.size[1])
        whole = read_clip(video, self.reading()["video"], events)
        if edited_first_frame is None:
            edited_first_frame = edit_picture(cast(PictureEditor, editor), whole[0], instruction, seed=seed, events=events)
        check_pair(whole, as_image(edited_first_frame, name="edited_first_frame"))
        clip = read_clip(whole, {}, events, size)
        frame = as_image(edited_first_frame, size=size, name="edited_first_frame", events=events)
        note_unfamiliar(model, frame, events, name="edited_first_frame", expect="a poor clip")
        self.windows(model, len(clip)).note(events)
        inversion = self.invert(model, [clip], seed=seed, events=events)
        for value in inversion.rebuilt_psnr_db:
            events.metric("rebuilt_psnr_db", value)
            events.note(f"the source clip comes back from its inversion with {value:.1f} dB; more inversion steps bring it closer")
        return self.edit(model, [clip], [frame], inversion, prompts=[prompt], seed=seed, events=events)[0]

    def windows(self, model: ImageToVideo, frames: int) -> Windows:
        """How a clip of so many frames is cut; `InputError` where windows would not share fewer frames than they have."""
        return Windows(frames, self.window or model.num_frames, self.overlap)

    def invert(
        self, model: ImageToVideo, clips: Sequence[Video], *, seed: int = 0, events: Events = SILENT, key: str = "anyv2v"
    ) -> Inversion:
        """The way up of clips of one shape and rate, or what the cache has of it: no guidance, no prompt, the clips' own first frames."""
        inverter = Inverter(
            model=model,
            condition=lambda image, prompt, fps, number: self.condition(model, image, prompt, fps, number),
            tables=nested_tables(model.sigmas, self.num_inversion_steps, self.num_inference_steps, self.start_index),
            solver=self.solver,
            prompt="",
            seed=seed,
            windows=self.windows(model, len(clips[0])),
            rebuild=self.rebuild,
            told=identity(model, told_fps=self.fps, **self._motion) if self.cache_megabytes else {},
            cache=TensorCache(CACHE, self.cache_megabytes),
        )
        inversion = inverter(clips, events, key)
        events.metric("inversion_calls", float(inversion.calls))
        return inversion

    def edit(
        self,
        model: ImageToVideo,
        clips: Sequence[Video],
        frames: Sequence[Image],
        inversion: Inversion,
        *,
        prompts: Sequence[str] = (),
        seed: int = 0,
        events: Events = SILENT,
        key: str = "anyv2v",
    ) -> list[Video]:
        """The way down, for several clips of one shape at once; clip i comes out as it would alone with `seed + i`.

        Args:
            model: see `__call__`.
            clips: the sources, at the size that is sampled at.
            frames: the edited first frames.
            inversion: what `invert` gave for the clips (or for others, for comparison).
            prompts: one per clip, or none.
            seed, events: see `__call__`; hears the metric `model_calls`.
            key: name of the stages and of the saved state.
        """

        def told(images: Sequence[Image], texts: Sequence[str]) -> Condition:
            rows = enumerate(zip(clips, images, texts, strict=True))
            return Condition.cat([self.condition(model, image, text, clip.fps, seed + index) for index, (clip, image, text) in rows])

        plan, sigmas = self.windows(model, len(clips[0])), inversion.trajectory.table
        whole = self._start(model, inversion.trajectory, sigmas, seed)
        nothing = [""] * len(clips)
        firsts, done, calls = list(frames), whole[:, :0], 0
        for number, first in enumerate(plan.starts):
            if number:
                firsts = [Image(model.decode(row[None, first : first + 1], 1.0).frames[0].clamp(0, 1)) for row in done]
            conditions = {SOURCE: told([clip[first] for clip in clips], nothing), EDIT: told(firsts, prompts or nothing)}
            if self.guidance_scale > 1:
                conditions[NEGATIVE] = model.unconditional(told(firsts, [self.negative_prompt] * len(clips)))
            guidance = BesideSource.of(self.guidance_scale, inversion.cut(first, plan.length), self.injection)
            with AttentionControl(model) as control:
                denoise = model.denoiser(conditions, guidance, control=control)
                self.injection.add(control, guidance.guidance.labels)
                x = sample(
                    joined(denoise, done[:, first:]),
                    whole[:, first : first + plan.length].to(getattr(model, "device", whole.device)),
                    sigmas,
                    step=SOLVERS[self.solver],
                    preview=lambda estimate: model.decode(estimate[:1], clips[0].fps),
                    events=events,
                    key=f"{key}-{number}" if number else key,
                )
            done, calls = torch.cat([done[:, :first].to(x), x], dim=1), calls + denoise.calls
        events.metric("model_calls", float(calls + inversion.calls))
        return [model.decode(row[None], clip.fps) for row, clip in zip(done, clips, strict=True)]

    @property
    def injection(self) -> Injection:
        """The three injections by noise level."""
        conv, spatial, temporal = (sigma_of_tau(tau, self.level_scale) for tau in (self.tau_conv, self.tau_spatial, self.tau_temporal))
        return Injection(conv=conv, spatial=spatial, temporal=temporal, value=self.inject_value)

    @property
    def rows(self) -> int:
        """Rows of one clip that must be evaluated together; 1 where nothing is injected."""
        return (3 if self.guidance_scale > 1 else 2) if max(self.tau_conv, self.tau_spatial, self.tau_temporal) > 0 else 1

    def condition(self, model: ImageToVideo, image: Image, prompt: str, fps: float, seed: int) -> Condition:
        """One row: what a clip starts from."""
        return model.condition(image, prompt=prompt, fps=self.fps or max(1, round(fps)), **self._motion, seed=seed)

    @property
    def _motion(self) -> dict[str, Any]:
        """What models of SVD's kind are told."""
        return {"motion_bucket_id": self.motion_bucket_id, "noise_aug_strength": self.noise_aug_strength}

    def reading(self) -> Mapping[str, Mapping[str, Any]]:
        """Only the frames that are asked for; where both sides of the result are known, no larger than it needs them."""
        cover = (self.height, self.width) if self.height and self.width else None
        return {"video": {"max_frames": self.max_frames, "start": self.start, "stride": self.stride, "cover": cover}}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse an edit that is given twice or by half, and a frame that isn't of the clip's shape.

        Raises:
            InputError: the clip or the frame can't be used, or they don't fit together.
        """
        check_inputs(arguments, self.reading()["video"])

    def _start(self, model: ImageToVideo, trajectory: Trajectory, sigmas: Float[Tensor, " levels"], seed: int) -> Tensor:
        """The saved latents of the level that the way down begins at, with a share of fresh noise of the same variance."""
        x = trajectory.start
        if self.random_ratio == 0:
            return x
        fresh = batch_noise(tuple(x.shape[1:]), seed, len(x)) * model.init_noise_sigma(sigmas)
        return sqrt(1 - self.random_ratio) * x + sqrt(self.random_ratio) * fresh
