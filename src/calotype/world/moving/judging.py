"""The judge of moving clips: what is in them and where it goes, by the world's recogniser alone, so that it works on generated clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from calotype.errors import ShapeError
from calotype.world.moving.sampling import DIRECTIONS, MovingScene, sample_moving
from calotype.world.painting.painter import paint
from calotype.world.scenes.recogniser import Recognition, recognise

LEAST_SHARE = 0.5
"""An object counts as found if it is found in at least this share of the frames."""
LEAST_PATH = 4.0 / 64.0
"""Shortest path, in sides, that counts as motion; the world's shortest is 14 pixels of 64."""


@dataclass(frozen=True)
class SeenClip:
    """What the judge saw in a clip."""

    words: tuple[str, str] | None
    """Category and colour that most frames show; None where fewer than half of the frames agree on any."""
    ground: str
    """The ground that most frames show."""
    path: NDArray[np.float64]
    """[frames, 2], centre (x, y) in pixels of the object of those words; NaN in frames that don't show it."""
    displacement: tuple[float, float]
    """From the first to the last frame by a straight line through the path, in sides, to the right and downwards; NaN without words."""

    @property
    def direction(self) -> str | None:
        """`left`, `right`, `up` or `down`; None where the object isn't found or hardly moves."""
        dx, dy = self.displacement
        if not max(abs(dx), abs(dy)) >= LEAST_PATH:
            return None
        return max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * dx + DIRECTIONS[name][1] * dy)

    def agrees(self, scene: MovingScene) -> dict[str, bool]:
        """Which parts of a scene's caption the clip shows: `category`, `colour`, `words` (both), `ground`, `direction`."""
        category, colour = scene.objects[0].words
        return {
            "category": self.words is not None and self.words[0] == category,
            "colour": self.words is not None and self.words[1] == colour,
            "words": self.words == (category, colour),
            "ground": self.ground == scene.background.name,
            "direction": self.direction == scene.direction,
        }


def judge_clips(clips: Float[Tensor, "batch frames 3 height width"]) -> list[SeenClip]:
    """Look at clips of one object.

    Args:
        clips: pixels in [0, 1].

    Raises:
        ShapeError: not [B, F, 3, H, W], or fewer than two frames.

    >>> scene = sample_moving(split="eval", seed=1, index=0)
    >>> seen = judge_clips(paint([scene], num_frames=8))[0]
    >>> seen.words, seen.ground, seen.direction
    (('rocket', 'orange'), 'grass', 'down')
    """
    if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[1] < 2:
        raise ShapeError(f"clips of shape {tuple(clips.shape)} were given; expected [B, F, 3, H, W] with two or more frames")
    frames, sides = clips.shape[1], (clips.shape[4], clips.shape[3])
    seen = recognise(clips.flatten(0, 1))
    return [_clip(seen[row * frames : (row + 1) * frames], sides) for row in range(len(clips))]


def _clip(frames: Sequence[Recognition], sides: tuple[int, int]) -> SeenClip:
    ground = Counter(frame.background for frame in frames).most_common(1)[0][0]
    votes = Counter(words for frame in frames for words in {found.words for found in frame.objects})
    path = np.full((len(frames), 2), np.nan)
    words = None
    if votes:
        likeliest, number = votes.most_common(1)[0]
        words = likeliest if number >= LEAST_SHARE * len(frames) else None
    for place, frame in enumerate(frames):
        which = [found for found in frame.objects if found.words == words]
        if which:
            path[place] = which[0].x, which[0].y
    known = np.isfinite(path[:, 0])
    if known.sum() < 2:
        return SeenClip(words, ground, path, (float("nan"), float("nan")))
    moments = np.arange(len(frames))[known]
    slope = np.polyfit(moments, path[known], 1)[0] * (len(frames) - 1) / np.array(sides)
    return SeenClip(words, ground, path, (float(slope[0]), float(slope[1])))


def judge_accuracy(
    seed: int, count: int = 128, *, split: str = "eval", num_frames: int = 8, through: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """The judge's own figures on `count` true clips: shares of right `category`, `colour`, `words`, `ground` and `direction`.

    Args:
        seed: of the clips.
        count: clips.
        split: `eval`, or `tune` for choices.
        num_frames: frames of a clip.
        through: what the clips go through first, [B, F, 3, 64, 64] to the same (an autoencoder's reconstruction).

    Returns:
        Shares, and `place_px`, the mean distance of the found from the true centres in pixels at 64 px.

    >>> judge_accuracy(1, 8)["direction"]
    1.0
    """
    scenes = [sample_moving(split=split, seed=seed, index=index, num_frames=num_frames) for index in range(count)]
    clips = paint(scenes, num_frames=num_frames)
    seen = judge_clips(clips if through is None else through(clips))
    shares = [clip.agrees(scene) for clip, scene in zip(seen, scenes, strict=True)]
    figures = {name: float(np.mean([share[name] for share in shares])) for name in shares[0]}
    moments = np.linspace(0.0, 1.0, num_frames)
    truth = [np.stack(scene.objects[0].placement(scene.camera, moments)[:2], axis=1) * 64.0 for scene in scenes]
    away = [np.linalg.norm(clip.path - path, axis=1) for clip, path in zip(seen, truth, strict=True)]
    return {**figures, "place_px": float(np.nanmean(np.concatenate(away)))}
