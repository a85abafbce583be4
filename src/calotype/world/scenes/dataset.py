"""Data sets of the toy world on disk: PNG and MP4 files, masks, and one JSON line per scene, for any tool to read.

`metadata.jsonl` has the `file_name` column that image-folder loaders look for. A data set appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.types import Image, Video
from calotype.world.painting.backgrounds import BACKGROUNDS
from calotype.world.painting.shapes import CATEGORIES, COLOURS, STYLES
from calotype.world.scenes.sampling import SPLITS, find_preset, sample_scene
from calotype.world.scenes.truth import GroundTruth, ground_truth

FORMAT = "calotype-world"
VERSION = 1
PARTS_PER_OBJECT = 16
"""A part map's value is 16 x the object's number in the masks (1, 2, ...) + the part's id (1, 2, ...)."""


def write_dataset(
    directory: str | os.PathLike[str],
    *,
    preset: str = "small",
    split: str = "train",
    seed: int = 0,
    count: int = 100,
    size: int = 64,
    num_frames: int = 1,
    overwrite: bool = False,
    events: Events = SILENT,
) -> Path:
    """Write scenes 0 .. count - 1 of a stream with every ground truth; `docs/world.md` describes the files.

    Args:
        directory: the folder to make. A folder that holds anything is refused, unless it is such a data set and `overwrite` is true.
        preset: `small` or `full`.
        split: `train`, `tune` or `eval`.
        seed: number of the stream, >= 0.
        count: number of scenes, 1 or more.
        size: side in pixels, 16 to 2048; with more than one frame it must be even, as MP4 asks for.
        num_frames: 1 for pictures, 2 or more for clips.
        overwrite: replace a data set that is there.
        events: told of each scene that is done; may cancel.

    Returns:
        The folder.

    Raises:
        InputError: a value out of range, or files in the way.

    >>> import tempfile
    >>> folder = write_dataset(Path(tempfile.mkdtemp()) / "scenes", count=2, size=32)
    >>> json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])["caption"]
    'a purple star right of a blue star on snow'
    """
    target = Path(directory)
    find_preset(preset)
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    for name, value, least, most in (
        ("seed", seed, 0, None),
        ("count", count, 1, None),
        ("size", size, 16, 2048),
        ("num_frames", num_frames, 1, 1000),
    ):
        if value < least or (most is not None and value > most):
            raise InputError(f"{name} must be {least} {'or more' if most is None else f'to {most}'}, not {value}")
    if num_frames > 1 and size % 2:
        raise InputError(f"size must be even for clips, not {size}: MP4 files can't hold an odd side")
    with new_dataset(target, overwrite) as making:
        events.stage("painting scenes", count)
        with (making / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for index in range(count):
                scene = sample_scene(preset, split=split, seed=seed, index=index, num_frames=num_frames)
                line = _write(making, f"{index:06d}", ground_truth(scene, size))
                lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                events.step()
                events.check()
        (making / "dataset.json").write_text(
            json.dumps(_summary(preset, split, seed, count, size, num_frames), indent=2) + "\n", encoding="utf-8"
        )
    return target


@contextmanager
def new_dataset(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the block ends, and vanishes when it fails.

    The block writes a `dataset.json` that has the `format` `FORMAT`.

    Raises:
        InputError: files are in the way (checked before and after the block).
    """
    _refuse(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        making.mkdir()
        yield making
        _refuse(target, overwrite)
        _swap(making, target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _refuse(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target) and not target.is_dir():
        raise InputError(f"{target} is a file; give the name of a folder")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise InputError(f"{target} holds files already; choose another folder or pass overwrite (--overwrite on the command line)")
        if not _is_dataset(target):
            raise InputError(f"{target} holds files that are no toy-world data set, so it is not overwritten; choose another folder")


def _is_dataset(folder: Path) -> bool:
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def _swap(made: Path, target: Path) -> None:
    """Put the made folder in the target's place; an old data set is kept aside until the new one is there."""
    if not target.is_dir():
        made.rename(target)
        return
    old = made.with_suffix(".old")
    target.rename(old)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _summary(preset: str, split: str, seed: int, count: int, size: int, num_frames: int) -> dict[str, Any]:
    world = find_preset(preset)
    return {
        "format": FORMAT,
        "version": VERSION,
        "preset": preset,
        "split": split,
        "seed": seed,
        "count": count,
        "size": size,
        "num_frames": num_frames,
        "categories": {name: {"parts": CATEGORIES[name].parts, "directed": CATEGORIES[name].directed} for name in world.categories},
        "colours": {name: COLOURS[name] for name in COLOURS if name in world.colours},
        "backgrounds": [name for name in BACKGROUNDS if name in world.backgrounds],
        "styles": [name for name in STYLES if name in world.styles],
        "parts_per_object": PARTS_PER_OBJECT,
    }


def _write(folder: Path, name: str, truth: GroundTruth) -> dict[str, Any]:
    """Write one scene's files; its line of metadata."""
    clip = len(truth.frames) > 1
    stems = [f"{name}_{frame:03d}" for frame in range(len(truth.frames))] if clip else [name]
    numbers = (truth.depth > 0) * (PARTS_PER_OBJECT * truth.depth) + truth.parts.sum(1)
    for frame, stem in enumerate(stems):
        _picture(folder / "images" / f"{stem}.png", truth.frames[frame])
        _picture(folder / "backgrounds" / f"{stem}.png", truth.background[frame])
        _map(folder / "masks" / f"{stem}.png", truth.depth[frame])
        _map(folder / "parts" / f"{stem}.png", numbers[frame])
        for number in range(truth.layers.shape[1]):
            _layer(folder / "layers" / f"{stem}_{number}.png", truth.layers[frame, number])
    scene = truth.scene
    line: dict[str, Any] = {"file_name": f"images/{stems[0]}.png", "id": name}
    if clip:
        (folder / "clips").mkdir(exist_ok=True)
        Video(truth.frames, fps=float(scene.fps)).save(folder / "clips" / f"{name}.mp4")
        (folder / "flow").mkdir(exist_ok=True)
        np.save(folder / "flow" / f"{name}.npy", truth.flow.numpy().astype(np.float16), allow_pickle=False)
        line["clip"], line["flow"] = f"clips/{name}.mp4", f"flow/{name}.npy"
    line |= {
        "frames": stems,
        "caption": scene.caption,
        "background": scene.background.name,
        "style": scene.style,
        "fps": scene.fps,
        "motion_bucket_id": scene.motion_bucket_id,
        "objects": [_object(truth, number) for number in range(len(scene.objects))],
        "camera": _plain(truth.camera),
        "camera_motion": _plain(truth.camera_motion),
        "scene": scene.to_dict(),
    }
    return line


def _object(truth: GroundTruth, number: int) -> dict[str, Any]:
    thing = truth.scene.objects[number]
    return {
        "category": thing.category,
        "colour": thing.colour,
        "word_positions": truth.scene.word_positions[number],
        "motion_family": thing.motion.family,
        "flip": thing.flip,
        "parts": truth.part_names[number],
        "mask_value": number + 1,
        "boxes": [_box(mask) for mask in truth.masks[:, number]],
        "visible_share": _plain(truth.visible_share[:, number]),
        "positions": _plain(truth.positions[:, number]),
        "radii": _plain(truth.radii[:, number]),
        "angles": _plain(truth.angles[:, number]),
        "motion": _plain(truth.motion[:, number]),
    }


def _box(mask: Tensor) -> list[int] | None:
    """Left, top, right, bottom of what is visible, the last two exclusive; None where nothing is."""
    rows, columns = np.flatnonzero(mask.any(1).numpy()), np.flatnonzero(mask.any(0).numpy())
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if len(rows) else None


def _plain(values: Tensor) -> Any:
    return (np.round(values.double().numpy(), 4) + 0.0).tolist()


def _picture(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    Image(pixels.contiguous()).to_pil().save(path)


def _layer(path: Path, layer: Tensor) -> None:
    from PIL import Image as PILImage

    path.parent.mkdir(exist_ok=True)
    values = (layer.clamp(0.0, 1.0) * 255.0).round().byte().permute(1, 2, 0).contiguous().numpy()
    PILImage.fromarray(values, "RGBA").save(path)


def _map(path: Path, values: Tensor) -> None:
    """An indexed PNG whose pixel values are the numbers; the palette only makes them visible."""
    from PIL import Image as PILImage

    path.parent.mkdir(exist_ok=True)
    picture = PILImage.fromarray(values.numpy().astype(np.uint8), "P")
    picture.putpalette(_PALETTE.tobytes())
    picture.save(path)


def _palette() -> npt.NDArray[np.uint8]:
    """0 is black; other numbers get colours that differ between neighbours."""
    numbers = np.arange(256)
    colours = np.stack([(numbers * step) % 176 + 64 for step in (97, 57, 143)], axis=1).astype(np.uint8)
    colours[0] = 0
    return colours


_PALETTE = _palette()
