"""Data sets of clips on disk, as trainings on clips take them: films, a table of captions where there are any, and what is true of each."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.types import Video
from calotype.world.collisions import IDENTITIES, paint_bouncing, sample_bouncing
from calotype.world.moving import sample_moving
from calotype.world.painting.painter import paint
from calotype.world.scenes.dataset import FORMAT, VERSION, new_dataset
from calotype.world.scenes.sampling import SPLITS

FPS = 8.0
SIDE = 64
"""Height and width of a clip."""
Made = tuple[Float[Tensor, "frames 3 height width"], str, Mapping[str, Any]]
"""A clip, its caption ("" for none) and its truth as plain values."""


def moving_clip(split: str, seed: int, index: int, num_frames: int) -> Made:
    """One object that goes left, right, up or down, and a caption that says so."""
    scene = sample_moving(split=split, seed=seed, index=index, num_frames=num_frames)
    return paint([scene], size=SIDE, num_frames=num_frames)[0], scene.caption, {"direction": scene.direction, "scene": scene.to_dict()}


def bouncing_clip(split: str, seed: int, index: int, num_frames: int) -> Made:
    """Sprites that bounce, without a caption."""
    scene = sample_bouncing(split=split, seed=seed, index=index, num_frames=num_frames)
    paths = scene.paths().round(3).tolist()
    names = [" ".join(reversed(IDENTITIES[sprite.identity])) for sprite in scene.sprites]
    return paint_bouncing([scene])[0], "", {"sprites": names, "paths": paths, "scene": dataclasses.asdict(scene)}


WORLDS: Mapping[str, Callable[[str, int, int, int], Made]] = {"moving": moving_clip, "collisions": bouncing_clip}
"""By the name of the preset."""


def write_clips(
    directory: str | os.PathLike[str],
    *,
    preset: str = "moving",
    split: str = "train",
    seed: int = 0,
    count: int = 200,
    num_frames: int = 16,
    overwrite: bool = False,
    events: Events = SILENT,
) -> Path:
    """Write clips 0 .. count - 1 of a stream: `clips/000000.mp4` and so on, `captions.csv` where they have captions, `truth.jsonl`.

    Args:
        directory: the folder to make; see `calotype.world.write_dataset`.
        preset: a name of `WORLDS`.
        split: `train`, `tune` or `eval`.
        seed: number of the stream, >= 0.
        count: number of clips, 1 or more.
        num_frames: frames of a clip, 2 to 1000.
        overwrite: replace a data set that is there.
        events: told of each clip that is done; may cancel.

    Returns:
        The folder.

    Raises:
        InputError: a value out of range, or files in the way.

    >>> import tempfile
    >>> folder = write_clips(Path(tempfile.mkdtemp()) / "clips", count=2, num_frames=4)
    >>> (folder / "captions.csv").read_text().splitlines()[:2]
    ['file_name,caption', 'clips/000000.mp4,a blue mushroom on snow moving left']
    """
    target = Path(directory)
    if preset not in WORLDS or split not in SPLITS:
        raise InputError(f"preset is {preset!r} ({', '.join(WORLDS)}) and split {split!r} ({', '.join(SPLITS)})")
    if seed < 0 or count < 1 or not 2 <= num_frames <= 1000:
        raise InputError(f"seed is {seed} (0 or more), count {count} (1 or more), num_frames {num_frames} (2 to 1000)")
    with new_dataset(target, overwrite) as making:
        (making / "clips").mkdir()
        captions: list[tuple[str, str]] = []
        events.stage("painting clips", count)
        with (making / "truth.jsonl").open("w", encoding="utf-8") as lines:
            for index in range(count):
                frames, caption, truth = WORLDS[preset](split, seed, index, num_frames)
                file = f"clips/{index:06d}.mp4"
                Video(frames, FPS).save(making / file)
                captions += [(file, caption)] if caption else []
                lines.write(json.dumps({"file_name": file, **truth}) + "\n")
                events.step()
                events.check()
        if captions:
            with (making / "captions.csv").open("w", encoding="utf-8", newline="") as file_of_captions:
                csv.writer(file_of_captions, lineterminator="\n").writerows([("file_name", "caption"), *captions])
        summary = {"format": FORMAT, "version": VERSION, "preset": preset, "split": split, "seed": seed, "count": count}
        summary |= {"size": [SIDE, SIDE], "num_frames": num_frames, "fps": FPS}
        (making / "dataset.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return target
