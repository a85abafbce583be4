"""The source's way up the noise levels: computed once per clip, kept on disk, cut into windows where the clip is long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Changed, Condition, Denoiser
from calotype.core.events import Events
from calotype.core.guidance import NoGuidance
from calotype.core.inversion import Trajectory, invert
from calotype.core.paths import Path, fuse, windows
from calotype.core.roles import CountingDenoiser, ImageToVideo
from calotype.core.samplers import Step, dpmpp_2m_step, euler_step, heun_step, sample
from calotype.core.schedule import Sigmas
from calotype.data.cache import TensorCache, content_key
from calotype.errors import InputError
from calotype.imaging.types import Image, Video
from calotype.metrics import psnr

Solver = Literal["ddim", "dpmpp_2m", "heun"]
SOLVERS: Mapping[Solver, Step] = {"ddim": euler_step, "dpmpp_2m": dpmpp_2m_step, "heun": heun_step}
_SAME = 1e-6
_FORMAT = 1
"""Raised whenever the meaning of a kept trajectory changes."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """Clips at the noise levels that sampling visits."""

    trajectory: Trajectory
    """Latents [clips, frames, C, h, w], on the CPU."""
    rebuilt_psnr_db: tuple[float, ...] = ()
    """How well sampling back down, unedited, gives each clip again, in pixels; empty if it wasn't looked at."""
    calls: int = 0
    """Evaluations of the network that it took; 0 if it was read from the cache."""

    def cut(self, first: int, frames: int) -> Trajectory:
        """The trajectory of some frames."""
        return Trajectory(self.trajectory.sigmas, tuple(latent[:, first : first + frames] for latent in self.trajectory.latents))


@dataclass(frozen=True)
class Windows:
    """How a clip is cut into windows that the model can look at; a short one is one window."""

    frames: int
    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.frames > self.size and self.overlap >= self.size:
            raise InputError(
                f"overlap is {self.overlap} and a window has {self.size} frames; windows must share fewer frames than they have"
            )

    def note(self, events: Events) -> None:
        """Say that there are several, if so."""
        if len(self.starts) > 1:
            events.note(
                f"video: {self.frames} frames are edited in {len(self.starts)} windows of {self.length}, each from the last one's result"
            )

    @property
    def paths(self) -> list[Path]:
        """The windows as paths over the clip's latents."""
        size = min(self.size, self.frames)
        return windows(self.frames, size, max(1, size - self.overlap))

    @property
    def starts(self) -> list[int]:
        """The first frame of each window."""
        clock = torch.arange(self.frames).view(1, self.frames, 1, 1, 1)
        return [int(path.view(clock).flatten()[0]) for path in self.paths]

    @property
    def length(self) -> int:
        """Frames of a window."""
        return min(self.size, self.frames)

    def fused(self, denoise: Denoiser) -> Denoiser:
        """One denoiser of the whole clip; its conditions hold the windows' rows one window after the other."""
        return denoise if len(self.starts) == 1 else fuse(denoise, self.paths)


def joined(denoise: Denoiser, known: Float[Tensor, "clips shared ..."]) -> Denoiser:
    """The estimate, fused at its beginning with frames that are there already; weights rise and fall as those of overlapping windows."""
    shared = known.shape[1]
    if not shared:
        return denoise
    weight = (torch.arange(1, shared + 1) / (shared + 1)).view(1, shared, 1, 1, 1)
    return Changed(denoise, lambda x0: torch.cat([torch.lerp(known.to(x0), x0[:, :shared], weight.to(x0)), x0[:, shared:]], dim=1))


def identity(model: ImageToVideo, **settings: Any) -> dict[str, Any]:
    """What a trajectory depends on besides clip and levels; nothing for a model without a checkpoint, whose work isn't kept."""
    if getattr(model, "source", None) is None:
        return {}
    from calotype.backbones import checkpoint_hash

    own = {name: str(getattr(model, name, "")) for name in ("dtype", "device")}
    return {"checkpoint": checkpoint_hash(model), **own, **settings}  # type: ignore[arg-type]


def nested_tables(sigmas: Callable[[int], Sigmas], inversion_steps: int, steps: int, start: int = 0) -> tuple[Sigmas, Sigmas]:
    """Levels to invert over and levels to sample at, which are among them.

    Schedules that divide the range by n (diffusers' `leading`) nest where the step numbers do, as 500 and 50; those that span it with n
    points (Karras, `linspace`) nest where n - 1 does. If neither fits, the nearest number of inversion steps that nests is taken.

    Args:
        sigmas: number of steps -> levels.
        inversion_steps: steps up.
        steps: steps down.
        start: noisiest steps to leave out, of those down.

    Returns:
        The inversion's table and the run's.
    """
    run = sigmas(steps)
    factor = max(1, round((inversion_steps - 1) / max(1, steps - 1)))
    for count in dict.fromkeys((inversion_steps, factor * (steps - 1) + 1, steps)):
        if count < steps:
            continue
        table = sigmas(count)
        gaps = (table[None, :-1] / run[:-1, None] - 1).abs().amin(1)
        if bool((gaps < _SAME).all()):
            return table[table <= run[start] * (1 + _SAME)], run[start:]
    return run[start:], run[start:]


@dataclass(frozen=True, eq=False)
class Inverter:
    """Everything that a clip's trajectory depends on, but for the clip."""

    model: ImageToVideo
    condition: Callable[[Image, str, float, int], Condition]
    """First frame, prompt, frames a second and seed -> one row."""
    tables: tuple[Sigmas, Sigmas]
    solver: Solver
    prompt: str
    seed: int
    windows: Windows
    rebuild: bool
    told: Mapping[str, Any]
    """Plain values that name the model and the settings, for the cache; empty where the model has no identity."""
    cache: TensorCache

    def __call__(self, clips: Sequence[Video], events: Events, key: str) -> Inversion:
        """Invert clips of one shape together, or read from the cache what was inverted before."""
        name = self._key(clips)
        kept = self.cache.get(name) if name else None
        if kept is not None:
            events.note("the inversion of this clip was computed before and is read from the cache")
            return _unpacked(kept)
        inversion = self._inverted(clips, events, key)
        if name and self.cache.max_megabytes > 0 and not self.cache.put(name, _packed(inversion)):
            events.note(
                f"the inversion ({inversion.trajectory.megabytes:.0f} MB) is not kept for a next edit in {self.cache.folder}: "
                f"{self.cache.trouble}"
            )
        return inversion

    def denoiser(self, clips: Sequence[Video]) -> tuple[Denoiser, CountingDenoiser]:
        """The unguided denoiser of the source clips, each window told its own first frame; and the network behind it."""
        rows = [
            self.condition(clip[start], self.prompt, clip.fps, self.seed + index)
            for start in self.windows.starts
            for index, clip in enumerate(clips)
        ]
        several, bounded = len(self.windows.starts) > 1, getattr(self.model, "max_rows", None) is not None
        # A long clip has as many rows as windows: one window at a time, so that its length doesn't decide about the memory.
        small = getattr(self.model, "with_max_rows", None) if several and not bounded else None
        network = (small(len(clips)) if small else self.model).denoiser({"cond": Condition.cat(rows)}, NoGuidance())
        return self.windows.fused(network), network

    def _inverted(self, clips: Sequence[Video], events: Events, key: str) -> Inversion:
        denoise, network = self.denoiser(clips)
        table, run = self.tables
        clean = torch.cat([self.model.encode(clip.frames) for clip in clips])
        step = SOLVERS[self.solver]
        path = invert(denoise, clean, table, step=step, keep=run, events=events, key=f"{key}-inversion")
        if not self.rebuild:
            return Inversion(path, (), network.calls)
        back = sample(denoise, path.start.to(clean.device), path.table, step=step, events=events, key=f"{key}-rebuilt")
        return Inversion(path, tuple(self._quality(row, clip) for row, clip in zip(back, clips, strict=True)), network.calls)

    def _quality(self, latents: Float[Tensor, "frames channels h w"], clip: Video) -> float:
        frames = self.model.decode(latents[None], clip.fps).frames
        error = psnr(frames.cpu(), clip.frames.cpu())
        return float(error.mean())

    def _key(self, clips: Sequence[Video]) -> str:
        if not self.told:
            return ""
        plain = {**self.told, "format": _FORMAT, "prompt": self.prompt, "seed": self.seed, "rebuild": self.rebuild, "solver": self.solver}
        plain |= {"windows": [self.windows.length, self.windows.starts], "fps": [clip.fps for clip in clips]}
        levels = {"table": self.tables[0], "run": self.tables[1]}
        return content_key(plain, levels | {f"clip.{index}": clip.frames for index, clip in enumerate(clips)})


def _packed(inversion: Inversion) -> dict[str, Tensor]:
    return {
        "sigmas": inversion.trajectory.sigmas,
        "latents": torch.stack(inversion.trajectory.latents),
        "rebuilt_psnr_db": torch.tensor(inversion.rebuilt_psnr_db, dtype=torch.float64),
    }


def _unpacked(kept: Mapping[str, Tensor]) -> Inversion:
    return Inversion(Trajectory(kept["sigmas"], tuple(kept["latents"])), tuple(kept["rebuilt_psnr_db"].tolist()))
