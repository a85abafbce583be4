"""CAGE: scenes composed of parts of pictures, and parts that are moved, by a video model that was trained on clips alone.

A. Davtyan, S. Sameni, B. Ommer, P. Favaro: "CAGE: Unsupervised Visual Composition and Animation for Controllable Video Generation",
AAAI 2025, arXiv 2403.14368.

The idea: features of a self-supervised encoder say what a small part of a picture is, wherever it lies and however large it is. A video
model is trained to make the next frames of a clip when it is told the features of some cells of those frames. Afterwards the features may
come from anywhere: put at other cells, an object moves there; put on an empty canvas, it appears, and the rest of the frame is invented.

    phi_i, m_i   features at the cells of frame i that a command names      `calotype.methods.cage.commands`
    for i, i+1, i+2 at once, until all frames are made:
        r = frame i - 1,  c = an earlier frame, drawn anew in each step
        v  = net(c, r, x_i..i+2; times 0, 0, t, t, t; phi, m)              `calotype.backbones.control_video_network`
        v <- (1 + gamma) v - gamma net(...; m = 0)                         guidance by the controls
        x <- x + (t' - t) v                                                Euler, `calotype.methods.cage.sampling`

With `chunk="rollout"` the three frames have times of their own: one is ready after a third of the steps, and a fresh one follows.
What isn't controlled moves as the model thinks that it may: it is drawn at random, and not kept still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.composable_video import ComposableVideo
from calotype.core import fields
from calotype.core.events import SILENT, Events
from calotype.core.method import Evaluations, Method
from calotype.core.noise import RENOISE, batch_noise, generator
from calotype.core.roles import TextToImage
from calotype.data import as_image, as_video
from calotype.data.images import ImageLike
from calotype.data.videos import VideoLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Video
from calotype.index import SOURCES
from calotype.methods.cage.commands import ANY_GRID, Cell, Command, cells_of_clicks, read_command, split_move, split_patch
from calotype.methods.cage.sampling import Controls, Known, integrate, joint_times, staggered_times
from calotype.methods.cage.sheet import sheet

_NEEDS = "a model of clips that is controlled by features; take toy-cage, or a folder that `calotype train cage` made"
_CONTEXT = 1 << 19
"""Stream of the draws of earlier frames."""
FRAMES = 15
"""That are made of a picture by default."""


@dataclass(frozen=True, eq=False)
class Composition:
    """What a run gives."""

    video: Video
    """The given frames but for the earlier ones (the picture, or the clip's last frame), and the made ones."""
    sheet: Image
    """What was asked, with cells and arrows, beside what came."""


@dataclass(frozen=True, kw_only=True)
class CAGE(Method):
    """Compose a scene of parts of pictures, and move parts of it (Davtyan et al. 2024).

    Example:
        >>> CAGE.paper().num_inference_steps, CAGE.paper().control_guidance
        (20, 0.0)
    """

    slug: ClassVar[str] = "cage"
    role: ClassVar[str] = "ComposableVideo"
    presets: ClassVar[tuple[str, ...]] = ("paper", "toy")
    renamed: ClassVar[Mapping[str, str]] = {"frames": "num_frames"}

    num_inference_steps: int = 20
    """Euler steps of each frame (official code: 20)."""
    control_guidance: float = 0.0
    """gamma: v + gamma (v - v without controls). 0 asks the network half as often (official code: 0)."""
    chunk: Literal["joint", "rollout"] = "joint"
    """`joint` makes three frames together (official default); `rollout` one after the other, with times of their own."""
    past_horizon: int = -1
    """How many frames before the one that is continued may be looked at; -1 is all of them, 0 none."""
    fps: float = 8.0
    """Frames a second of the clip, where no clip is given."""

    def __post_init__(self) -> None:
        fields.at_least(self, 1, "num_inference_steps")
        fields.at_least(self, -1, "past_horizon")
        fields.between(self, 0.0, 50.0, "control_guidance")
        fields.above(self, 0, "fps")
        fields.one_of(self, chunk=("joint", "rollout"))

    @classmethod
    def paper(cls) -> Self:
        """The official code's numbers."""
        return cls()

    @classmethod
    def toy(cls) -> Self:
        """For toy-cage: some guidance by the controls, chosen on the tune split."""
        return cls(control_guidance=1.0)

    def prepare(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The pictures that patches name become pictures of the run, and the patches name them by number."""
        pictures = list(arguments.get("pictures") or ())
        patches = []
        for text in arguments.get("patch") or ():
            picture, asked = split_patch(text)
            if not picture.isdigit() or int(picture) >= len(arguments.get("pictures") or ()):
                if picture not in pictures:
                    pictures.append(picture)
                text = f"{pictures.index(picture)}:{asked.source}@{asked.path}"
            patches.append(text)
        if not patches and not pictures:
            return arguments
        return {**arguments, "pictures": tuple(pictures), "patch": tuple(patches)}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse commands that can't be read on any grid, before a model is loaded."""
        asked = [split_move(text) for name in ("move", "move_px") for text in arguments.get(name) or ()]
        asked += [split_patch(text)[1] for text in arguments.get("patch") or ()]
        for each in asked:
            read_command(each, ANY_GRID, targets=1, find=lambda word: ((0, 0),))

    def __call__(
        self, model: ComposableVideo, image: ImageLike | None = None, *, past: VideoLike | None = None, move: Sequence[str] = (),
        move_px: Sequence[str] = (), patch: Sequence[str] = (), pictures: Sequence[Image] = (), num_frames: int | None = None,
        word_model: TextToImage | None = None, seed: int = 0, events: Events = SILENT,
    ) -> Composition:  # fmt: skip
        """Make a clip.

        Args:
            model: toy-cage, or a folder of `calotype train cage`.
            image: the first frame; without it and without `past` the canvas is empty, and the scene is invented around the patches.
            past: a clip in place of it: its last frame is continued, and the earlier ones are looked at.
            move: `SOURCE:PATH`, a part of the first frame and where it goes, such as `3,4:3,7@1;3,10@2`, `3,4-5,6:3,10@1-6` or
                `word:star:2,2@1-3`; see `calotype.methods.cage.commands`. The first frame's own cells are numbered from 0 at the top left.
            move_px: the same in pixels of the model's size, X,Y as drawing programs have them.
            patch: `PICTURE:SOURCE@PATH`, a part of another picture and where it appears, such as `a.png:3,4-5,6@8,8`.
            pictures: of the patches, where these name them by number.
            num_frames: to be made; by default 15, and 3 of patches on an empty canvas.
            word_model: finds the cells of `word:`.
            seed: of the noise and of the choice of earlier frames.
            events: hears notes and frames.

        Returns:
            The clip, and a sheet of what was asked beside what came.

        Raises:
            InputError: a model of another role, a command that can't be read or whose cells lie outside of the grid, nothing to begin with.
        """
        self.refuse_other_roles(model, needs=_NEEDS, capabilities=(ComposableVideo,))
        if image is not None and past is not None:
            raise InputError("image and past are given; past is a clip whose last frame is continued, so leave image out")
        clip = None if past is None else as_video(past, size=model.size, name="past", events=events)
        first = None if image is None else as_image(image, size=model.size, name="image", events=events)
        known = clip.frames if clip is not None else None if first is None else first.pixels[None]
        if known is None and not patch:
            raise InputError("nothing is given to begin with; give image or past, or patches for an empty canvas")
        if known is None and (move or move_px):
            raise InputError("move and move_px are of the first frame, and none is given; give image or past, or use patch")
        count = num_frames if num_frames is not None else FRAMES if known is not None else model.targets
        if count < 1:
            raise InputError(f"num_frames is {count}; it must be 1 or more")
        found = [as_image(picture, size=model.size, name=f"pictures {number}", events=events) for number, picture in enumerate(pictures)]
        commands = self._commands(model, known, found, [*move, *self._of_clicks(model, move_px)], patch, word_model)
        late = max((frame for command, _ in commands for frame in command.path), default=0)
        if late > count:
            raise InputError(f"a path goes to frame {late}, and {count} frames are made; give num_frames {late}")
        controls = self.controls(model, commands, count)
        if not bool(controls.given.any()):
            events.note("no cell is controlled: the scene goes on by itself")
        made = self.generate(model, None if known is None else known[None], controls, seeds=[seed], events=events)[0]
        shown = made if known is None else torch.cat([known[-1:], made])
        drawn = sheet(None if known is None else known[-1], made, commands, model.grid)
        return Composition(Video(shown, clip.fps if clip is not None else self.fps), drawn)

    def controls(self, model: ComposableVideo, commands: Sequence[tuple[Command, Tensor]], frames: int) -> Controls:
        """Features [1, frames, d, rows, columns] at the cells that commands name; a later command covers an earlier one.

        Args:
            model: has the grid.
            commands: each with the picture [3, H, W] in [0, 1] that its cells are of.
            frames: to be made.
        """
        rows, columns = model.grid
        width = model.transformer.config.feature_width
        features, given = torch.zeros(1, frames, width, rows, columns), torch.zeros(1, frames, rows, columns)
        for command, picture in commands:
            known = model.features(picture[None])[0].to(features)
            for frame in range(1, frames + 1):
                for source, target in command.at(frame, model.grid):
                    features[0, frame - 1, :, target[0], target[1]] = known[:, source[0], source[1]]
                    given[0, frame - 1, target[0], target[1]] = 1.0
        return Controls(features, given)

    def generate(
        self, model: ComposableVideo, known: Float[Tensor, "batch past 3 height width"] | None, controls: Controls, *, seeds: Sequence[int],
        events: Events = SILENT,
    ) -> Float[Tensor, "batch frames 3 height width"]:  # fmt: skip
        """The frames to come, as many as the controls have; each row as it would be alone with its seed.

        Args:
            model: see `__call__`.
            known: frames that are known, the last of which is continued; None for an empty canvas.
            controls: see `controls`.
            seeds: of each row.
            events: hears the metric `model_calls`.
        """
        rows, frames = controls.given.shape[:2]
        latents: list[Tensor] = []
        if known is not None:
            latents = [model.encode(known[:, number]) for number in range(known.shape[1])]
        begun, calls, targets = len(latents), 0, model.targets
        shape = (targets, *model.latent_shape())
        padded = Controls(*(torch.nn.functional.pad(each, [0, 0] * (each.ndim - 2) + [0, targets]) for each in controls))
        rollout = self.chunk == "rollout"
        state, ahead = torch.empty(0), 1 if rollout else targets
        events.stage("make frames", frames)
        for first in range(0, frames, ahead):
            fresh = torch.cat([batch_noise(shape, seed, 1, stream=RENOISE + first) for seed in seeds])
            if rollout:
                times = staggered_times(self.num_inference_steps, warm=first > 0)
                start = fresh if first == 0 else torch.cat([state, fresh[:, -1:]], 1)
            else:
                times, start = joint_times(self.num_inference_steps), fresh
            state = integrate(
                model.velocity, self._context(latents, seeds, first), padded.at(slice(first, first + targets)), start, times,
                guidance=self.control_guidance,
            )  # fmt: skip
            calls += rows * (len(times) - 1) * (2 if self.control_guidance else 1)
            latents.extend(state[:, :ahead].unbind(1))
            state = state[:, ahead:]
            events.step(min(ahead, frames - first))
            events.check()
        events.metric("model_calls", float(calls))
        made = torch.stack(latents[begun : begun + frames], 1)
        pixels: Tensor = model.decode(made.flatten(0, 1)).unflatten(0, made.shape[:2])
        return pixels

    def _context(self, latents: list[Tensor], seeds: Sequence[int], first: int) -> Callable[[int], Known | None]:
        """The frames before those that are made: the last one, and an earlier one that is drawn anew in each step."""
        if not latents:
            return lambda step: None
        reference = len(latents) - 1
        oldest = 0 if self.past_horizon < 0 else max(0, reference - self.past_horizon)
        if oldest == reference:
            alone = Known(latents[-1][:, None], torch.zeros(len(seeds), 1, dtype=torch.int64))
            return lambda step: alone

        def draw(step: int) -> Known:
            stream = _CONTEXT + (first << 10) + step
            numbers = [int(torch.randint(oldest, reference, (), generator=generator(seed, stream=stream))) for seed in seeds]
            earlier = torch.stack([latents[number][row] for row, number in enumerate(numbers)])
            offsets = torch.tensor([[number - reference, 0] for number in numbers])
            return Known(torch.stack([earlier, latents[-1]], 1), offsets)

        return draw

    def _of_clicks(self, model: ComposableVideo, texts: Sequence[str]) -> list[str]:
        return [cells_of_clicks(text, model.size, model.grid) for text in texts]

    def _commands(
        self, model: ComposableVideo, known: Tensor | None, pictures: Sequence[Image], moves: Sequence[str], patches: Sequence[str],
        word_model: TextToImage | None,
    ) -> list[tuple[Command, Tensor]]:  # fmt: skip
        """Every command with the picture that its cells are of."""
        made = []
        for text in moves:
            assert known is not None
            find = None if word_model is None else word_cells(word_model, Image(known[-1]), model.grid)
            made.append((read_command(split_move(text), model.grid, targets=model.targets, find=find), known[-1]))
        for text in patches:
            name, asked = split_patch(text)
            if not name.isdigit() or int(name) >= len(pictures):
                raise InputError(f"patch {text!r} names the picture {name}; {len(pictures)} pictures are given, numbered from 0")
            picture = pictures[int(name)]
            find = None if word_model is None else word_cells(word_model, picture, model.grid)
            made.append((read_command(asked, model.grid, targets=model.targets, find=find), picture.pixels))
        return made

    def evaluations(self) -> Evaluations:
        """Of fifteen frames."""
        branches = 2 if self.control_guidance else 1
        return Evaluations(branches * self.num_inference_steps * FRAMES // 3, 1)


def word_cells(model: TextToImage, picture: Image, grid: tuple[int, int]) -> Callable[[str], tuple[Cell, ...]]:
    """What finds the cells of a word in a picture: those that its mask covers by half, with the method that the index names for it."""

    def find(word: str) -> tuple[Cell, ...]:
        module, _, name = SOURCES["word"].partition(":")
        mask = getattr(import_module(module), name)(model, picture, word)
        shares = torch.nn.functional.interpolate(mask.values.float()[None, None], size=grid, mode="area")[0, 0]
        cells = tuple((int(row), int(column)) for row, column in (shares >= 0.5).nonzero().tolist())
        if not cells:
            raise InputError(f"word:{word} marks no cell by half; give cells, or another word")
        return cells

    return find
