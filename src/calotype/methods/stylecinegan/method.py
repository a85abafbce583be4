"""StyleCineGAN: a still landscape whose sky or water flows in an endless loop, by a StyleGAN2 generator trained on pictures alone.

J. Choi, K. Seo, A. Ashtari, J. Noh: "StyleCineGAN: Landscape Cinemagraph Generation using a Pre-trained StyleGAN", CVPR 2024,
arXiv 2403.14186.

The idea: invert the picture into styles w+ and a deep feature D. Follow the motion field M from the loop's start forwards and from its end
backwards, splat every level's features by both, and let each level's RGB layer make its part of the frame.

    w+, D   = invert(picture)                                         feature-style encoder       `model.invert`
    F, P    = integrate(M S), integrate(-M S)                         Euler's method              `calotype.core.motion_fields`
    f(l)    = features of level l that grow from D                    once for all frames         `Loop.parts`
    for t in 0 .. N - 1:   a = t / N
        W       = symmetric splat by F(t) and P(N - t), weight a      `calotype.core.splatting`
        x      <- up(x) + toRGB(W f(l))   for the levels l from D's on                            `Loop.generated`
        frame   = S x + (1 - S) picture                                                           `Loop.frame`

toRGB is a 1x1 convolution without demodulation, and W treats all channels alike, so that toRGB(W f) = W(toRGB f): the default mode splats
three channels a level instead of up to 512, with the same result. Frame N would be frame 0 again, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.backbones.landscape_generator import Inversion, LandscapeGenerator
from calotype.backbones.stylegan2 import layer_size, upsample_rgb
from calotype.core import fields
from calotype.core.artifacts import DatasetFolder
from calotype.core.events import SILENT, Events
from calotype.core.method import Evaluations, Method, Place
from calotype.core.motion_fields import integrate, resize_field
from calotype.core.roles import TextToImage
from calotype.core.splatting import Splatted, symmetric_splat
from calotype.data import as_image, resize_pixels
from calotype.data.images import ImageLike
from calotype.imaging.types import Image, Mask, Video
from calotype.methods.stylecinegan import inputs
from calotype.methods.stylecinegan.motion import Motion
from calotype.methods.stylecinegan.results import Animation, frames_folder, sheet
from calotype.methods.stylecinegan.still import blend_weights, fitting

_NEEDS = "a landscape generator; take toy-landscape, or a folder that `calotype models convert` made of StyleGAN2 and its encoder"
MOST_FIELD = 512
"""Longest side of the square that motion is followed on, in pixels (official code: 512)."""
Mode = Literal["exact", "features", "propagate"]


@dataclass(frozen=True, eq=False)
class Cinemagraph:
    """What a run gives."""

    video: Video
    """The loop: its first frame follows its last as any frame follows the one before."""
    mask: Mask
    """What moves."""
    motion: Motion
    """The field that was followed, 0 where nothing moves."""
    sheet: Image
    """The picture, what moves and where, the inversion, and frames of the loop."""
    animation: Animation | None = None
    """The same clip as GIF."""
    frames: DatasetFolder | None = None
    """Its frames as numbered PNG files."""


class Parts(NamedTuple):
    """What each frame is warped from, by the side of its level."""

    low: Float[Tensor, "1 3 side side"] | None
    """The RGB of all levels below D."""
    levels: Mapping[int, Float[Tensor, "1 channels side side"]]
    """Features from D on; in the mode `exact` the RGB that they add."""
    rims: Mapping[int, Float[Tensor, "1 3 side side"]]
    """What the levels' features make up for at the picture's border: there the generator's upsampling darkens the RGB of the level below.
    It has to move with the features (in the mode `exact` it is in `levels`)."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A picture that flows; any moment can be asked for by itself."""

    method: StyleCineGAN
    model: LandscapeGenerator
    inversion: Inversion
    picture: Image
    """Of the size of the frames."""
    weights: Float[Tensor, "height width"]
    """How much of each pixel is generated; 0 outside of what moves."""
    future: Sequence[Float[Tensor, "1 2 height width"]]
    """Displacements from frame 0 to each frame, on a square."""
    past: Sequence[Float[Tensor, "1 2 height width"]]
    """Displacements from the loop's end back, by the number of steps."""
    still: Parts
    """Of the picture's own styles."""
    style: Float[Tensor, "1 rows numbers"] | None = None
    """w+ of another picture, whose appearance comes and goes."""

    def __len__(self) -> int:
        return len(self.future) - 1

    @torch.no_grad()
    def frame(self, t: int) -> Float[Tensor, "3 height width"]:
        """Frame t of the loop, 0 to N, of the picture's size, values in [0, 1]; frame N is frame 0 once more."""
        made = resize_pixels(self.generated(t)[0].mul(0.5).add(0.5).clamp(0, 1).cpu(), self.picture.size)
        if self.method.composite == "none":
            return made
        base = self.picture.pixels
        if self.style is not None:
            now, own = (self._assembled(w_plus, lambda maps: maps)[0] for w_plus in (self.styles(t), self.inversion.w_plus))
            base = (base + resize_pixels((now - own).div(2).add(0.5).cpu(), self.picture.size) - 0.5).clamp(0, 1)
        return torch.lerp(base, made, self.weights)

    @torch.no_grad()
    def generated(self, t: int) -> Float[Tensor, "1 3 side side"]:
        """What the generator gives for frame t, about in [-1, 1], before it is laid over the picture."""
        return self._assembled(self.styles(t), lambda maps: self.warp(maps, t).values)

    def _assembled(self, w_plus: Tensor, warp: Callable[[Tensor], Tensor]) -> Tensor:
        generator, mode = self.model.generator, self.method.mode
        parts = self.still if w_plus is self.inversion.w_plus else self.parts(w_plus)
        rgb = None if parts.low is None else warp(parts.low)
        feature = None
        for side, part in parts.levels.items():
            moved = warp(part)
            made = moved + generator.rgb_bias(side) if mode == "exact" else generator.to_rgb(side, moved, w_plus)
            if side in parts.rims:
                made = made + warp(parts.rims[side])
            rgb = made if rgb is None else made + upsample_even(rgb)
            feature = moved
        assert rgb is not None and feature is not None  # noqa: PT018
        if mode == "propagate":
            for layer in range((self.model.feature_layer + 1) // 2 * 2 + 1, generator.num_layers):
                feature = generator.run_layer(layer, feature, w_plus)
                if layer % 2 == 0:
                    rgb = generator.to_rgb(layer_size(layer), feature, w_plus) + upsample_rgb(rgb)
        return rgb

    def warp(self, maps: Float[Tensor, "1 channels side side"], t: int) -> Splatted:
        """Maps of any resolution at frame t, and the holes that were filled."""
        size = (maps.shape[2], maps.shape[3])
        future, past = (resize_field(each, size) for each in (self.future[t], self.past[len(self) - t]))
        return symmetric_splat(maps, future, past, t / len(self))

    def styles(self, t: int) -> Float[Tensor, "1 rows numbers"]:
        """w+ at frame t: the picture's own, or on its way to another one's and back."""
        own = self.inversion.w_plus
        if self.style is None:
            return own
        return torch.lerp(own, self.style, self.method.style_strength * (1 - math.cos(2 * math.pi * t / len(self))) / 2)

    def parts(self, w_plus: Float[Tensor, "1 rows numbers"]) -> Parts:
        """What is warped. The features below D are the picture's own whatever the styles are: they hold what is where."""
        generator, first = self.model.generator, self.model.feature_layer
        low = rgb = None
        if self.method.keep_low_rgb and layer_size(first) > generator.levels[0]:
            own = generator.collect(self.inversion.w_plus, size=layer_size(first) // 2).layers
            for layer in range(0, len(own), 2):
                made = generator.to_rgb(layer_size(layer), own[layer], w_plus)
                low = rgb = made if rgb is None else made + upsample_rgb(rgb)
        feature, levels, rims = self.inversion.feature, {}, {}
        for layer in range(first, generator.num_layers):
            feature, side = generator.run_layer(layer, feature, w_plus), layer_size(layer)
            if layer % 2:
                continue
            if rgb is not None:
                rims[side] = upsample_rgb(rgb) - upsample_even(rgb)
            flat = generator.to_rgb(side, feature, w_plus, bias=False)
            rgb = flat + generator.rgb_bias(side) + (0 if rgb is None else upsample_rgb(rgb))
            levels[side] = feature
            if self.method.mode == "exact":
                levels[side] = flat + rims.pop(side, 0)
            if self.method.mode == "propagate":
                break
        return Parts(low, levels, rims)


@dataclass(frozen=True, kw_only=True)
class StyleCineGAN(Method):
    """Let a still landscape flow in a loop (Choi et al. 2024).

    Everything outside of the mask stays the picture's own, bit for bit (but with `style`). A picture that isn't square is pressed into the
    generator's square, and what moves is drawn out again to its own shape.

    Example:
        >>> StyleCineGAN.paper().num_frames, StyleCineGAN.paper().mode
        (120, 'exact')
    """

    slug: ClassVar[str] = "stylecinegan"
    role: ClassVar[str] = "LandscapeGenerator"
    presets: ClassVar[tuple[str, ...]] = ("paper", "toy")
    renamed: ClassVar[Mapping[str, str]] = {"frames": "num_frames"}

    num_frames: int = 120
    """Frames of the loop (official code: 120)."""
    fps: float = 30.0
    """Frames a second (official code: 30)."""
    speed: float = 1.0
    """What the motion is multiplied by; below 0 it runs backwards."""
    mode: Mode = "exact"
    """`exact` splats each level's RGB, `features` its features, with the same result; `propagate` splats D's level alone, from which the
    levels above grow in every frame."""
    keep_low_rgb: bool = True
    """Whether the RGB of the levels below D is warped and kept (official code: no)."""
    composite: Literal["soft", "hard", "none"] = "soft"
    """How what moves is laid over the picture: with a ramp within the mask's rim, with a hard edge (official code), or not at all."""
    feather: float = 1.0
    """Width of that ramp, in percent of the picture's longer side."""
    refine_steps: int = 0
    """Optimisation steps on the inversion's feature."""
    drawn_speed: float = 0.1
    """Speed along strokes and arrows, in percent of the picture's longer side a frame."""
    outliers: float = 0.0
    """Vectors whose length is so many standard deviations from the mean are replaced from their neighbours (official advice: 3); 0 keeps
    all."""
    style_strength: float = 1.0
    """How far the appearance goes towards the style picture, halfway through the loop (official code: 2)."""

    def __post_init__(self) -> None:
        fields.at_least(self, 2, "num_frames")
        fields.at_least(self, 0, "refine_steps", "outliers")
        fields.above(self, 0, "fps", "drawn_speed")
        fields.between(self, -100.0, 100.0, "speed")
        fields.between(self, 0.0, 50.0, "feather")
        fields.between(self, 0.0, 4.0, "style_strength")
        fields.one_of(self, mode=("exact", "features", "propagate"), composite=("soft", "hard", "none"))

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers; a soft edge and the low levels' RGB beside them."""
        return cls()

    @classmethod
    def toy(cls) -> Self:
        """For toy-landscape: as many frames as things need to cross a part of 64 pixels, about 0.5 a frame."""
        return cls(num_frames=24, fps=12.0)

    def prepare(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Files that `mask` and `motion` name become inputs of the run."""
        return inputs.recorded(arguments)

    def places(self, arguments: Mapping[str, Any]) -> tuple[Place, ...]:
        """Files that `mask` and `motion` name without being inputs of the run."""
        named = (Place(name, "reads", path) for name, path in inputs.named_files(arguments))
        return (*super().places(arguments), *named)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse masks and motions that don't fit the picture."""
        inputs.check(arguments, drawn_speed=self.drawn_speed)

    def evaluations(self) -> Evaluations:
        """The inversion, and the generator once; in `propagate` for every frame."""
        return Evaluations(2 + self.refine_steps + (self.num_frames if self.mode == "propagate" else 0), 1)

    def __call__(
        self, model: LandscapeGenerator, image: ImageLike, *, mask: str = "", motion: str = "", masks: Sequence[Mask] = (),
        motions: Sequence[Motion] = (), style: Image | None = None, word_model: TextToImage | None = None,
        also: tuple[Literal["gif", "frames"], ...] = (), seed: int = 0, events: Events = SILENT,
    ) -> Cinemagraph:  # fmt: skip
        """Make a loop of a picture.

        Args:
            model: toy-landscape, or a folder of `calotype models convert`.
            image: a landscape of any size.
            mask: what moves: a mask file, `word:sky` or `word:water` (the model's own classes), another `word:` (with `word_model`), or sky
                and water as predicted, which is the default.
            motion: how: `wind:left:0.6` (pixels a frame), `arrows:10,40-30,42;...`, a picture of green strokes with red ends, flow.npy or
                flow.flo, or as predicted, which is the default.
            masks: of which `mask` names one as `masks:0`.
            motions: of which `motion` names one as `motions:0`.
            style: a picture whose appearance the landscape takes on towards the middle of the loop; then what is still changes, too.
            word_model: a text-to-image model that finds words beyond sky and water.
            also: `gif` and `frames` write the clip as an animation and as numbered pictures beside the MP4.
            seed: nothing is random.
            events: hears steps and notes.

        Returns:
            The clip, what moves and how, and a sheet.

        Raises:
            InputError: a model of another role, a mask or a motion that can't be read or doesn't fit the picture, nothing that moves.
        """
        self.refuse_other_roles(model, needs=_NEEDS, capabilities=(LandscapeGenerator,))
        picture = fitting(as_image(image, name="image", events=events), self.num_frames, events)
        square = Image(resize_pixels(picture.pixels, model.size))
        events.stage("invert")
        inversion = model.invert(square, refine_steps=self.refine_steps)
        inputs.note_inversion(model, square, inversion, events)
        moving = inputs.moving(mask, masks, model, inversion, picture, word_model, events)
        side = min(model.size[0], MOST_FIELD)
        field = inputs.field(
            motion, motions, model, square, moving, (side, side), drawn_speed=self.drawn_speed, outliers=self.outliers, events=events
        )  # fmt: skip
        inputs.note_speed(field * self.speed, picture.size, self.num_frames, events)
        shown = None if style is None else Image(resize_pixels(as_image(style, name="style", events=events).pixels, model.size))
        loop = self.loop(model, picture, moving, field, inversion=inversion, style=shown)
        events.stage("render frames", self.num_frames)
        frames = torch.empty(self.num_frames, 3, *picture.size)
        for t in range(self.num_frames):
            frames[t] = loop.frame(t)
            events.step()
            events.check()
        video = Video(frames, self.fps)
        height, width = (max(1, round(length * side / max(picture.size))) for length in picture.size)
        own = resize_field(field * self.speed, (height, width))
        return Cinemagraph(
            video, moving, Motion(own), sheet(picture, moving, own, inversion.reconstruction, video),
            Animation(frames, self.fps) if "gif" in also else None, frames_folder(video) if "frames" in also else None,
        )  # fmt: skip

    def loop(
        self, model: LandscapeGenerator, picture: Image, moving: Mask, field: Float[Tensor, "2 height width"], *,
        inversion: Inversion | None = None, style: Image | None = None,
    ) -> Loop:  # fmt: skip
        """The algorithm, up to the moment that is looked at.

        Args:
            model: see `__call__`.
            picture: what flows; the frames have its size.
            moving: where, of the same size.
            field: the motion on a square that stands for the whole picture, in pixels a frame of its own size; `speed` multiplies it.
            inversion: of the picture at the model's size; None makes it.
            style: see `__call__`; of the model's size.
        """
        square = Image(resize_pixels(picture.pixels, model.size))
        inversion = model.invert(square, refine_steps=self.refine_steps) if inversion is None else inversion
        flow = (field * self.speed)[None].to(inversion.feature)
        future, past = integrate(flow, self.num_frames), integrate(-flow, self.num_frames)
        weights, shown = blend_weights(moving, self.composite, self.feather), None if style is None else model.invert(style).w_plus
        made = Loop(self, model, inversion, picture, weights, future, past, Parts(None, {}, {}), shown)
        with torch.no_grad():
            return replace(made, still=made.parts(inversion.w_plus))


def upsample_even(rgb: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels doubled_height doubled_width"]:
    """The generator's upsampling without its dark border: the picture goes on beyond it.

    Example:
        >>> upsample_even(torch.ones(1, 1, 2, 2)).unique().tolist()
        [1.0]
    """
    return upsample_rgb(functional.pad(rgb, (1, 1, 1, 1), mode="replicate"))[..., 2:-2, 2:-2]
