"""The verb that makes the scenes: world."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.core.events import Events
from calotype.errors import InputError
from calotype.registry import did_you_mean

CLIPS, CLIP_FRAMES = ("moving", "collisions"), 16
"""Presets of clips alone, and the frames of theirs by default."""


@dataclass(frozen=True, kw_only=True)
class WorldOptions(Common):
    """What `world` takes."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder for the data set."""
    count: int = 100
    """Scenes, brains, landscapes, or pictures of tissue."""
    frames: int = 1
    """Frames of a scene; with more than one, clips are written, of landscapes folders of frames. Of moving and collisions: 16 unless it is
    given."""
    size: int = 64
    """Height and width in pixels, 32 to 512."""
    preset: str = "small"
    """The world: small, full; moving: captioned clips of an object that goes left, right, up or down; collisions: clips of sprites that
    bounce; critters: tables with small figures as folders of views with depth, and pictures to click on; brain: maps of synthetic brains
    as NIfTI, each with its mask and field; tissue: stained tissue of patients, with masks, two annotators and a table; or landscapes:
    lakes and rivers under clouds, with masks and motion fields."""
    spacing: float = 2.0
    """Of a brain: side of the voxels in mm."""
    variant: str = "tissue"
    """Of tissue: tissue (two classes and background), big (one lesion) or small (10 to 16 lesions)."""
    patients: int | None = None
    """Of tissue: who share the pictures; by default each has 8."""
    hues: str = "0,1"
    """Of tissue: the range of the patients' stains, on an arc of the colour circle."""
    smooth: bool = False
    """Of tissue: grey, smooth pictures of subtle contrast."""
    noise: float | None = None
    """Of tissue: standard deviation of the sensor's noise, where white is 1; by default 0.008."""
    split: Literal["train", "tune", "eval"] = "train"
    """Scenes of different splits never meet."""
    seed: int = 0
    """Of the scenes; the same seed gives the same scenes everywhere."""
    overwrite: bool = False
    """Replace a data set that is there."""


def world(arguments: Sequence[str]) -> int:
    """`calotype world DIR`."""
    page = Help(
        "calotype world DIR [--count N] [--frames N]",
        "Write a data set of a toy world that other tools can read: pictures, clips or volumes, masks, every ground truth.",
        examples=(
            "calotype world scenes --count 1000 --size 128",
            "calotype world clips --count 100 --frames 8 --preset full",
            "calotype world clips --preset moving --count 200",
            "calotype world maps --preset brain --count 12",
            "calotype world slides --preset tissue --patients 12 --hues 0,0.4",
            "calotype world lakes --preset landscapes --count 10 --frames 24",
            "calotype world tables --preset critters --count 5",
        ),
    )
    options = parse(WorldOptions, arguments, page)
    folder = options.folder.expanduser()
    from calotype.world import PRESETS

    writers = {
        **dict.fromkeys(PRESETS, _scenes), **dict.fromkeys(CLIPS, _clips), "brain": _brains, "tissue": _tissue, "landscapes": _landscapes,
        "critters": _critters,
    }  # fmt: skip
    if options.preset not in writers:
        raise InputError(f"no preset {options.preset!r}; {did_you_mean(options.preset, writers)}there are {', '.join(writers)}")
    _refuse_others(options)
    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        what, facts = writers[options.preset](options, folder, events)
    if options.json:
        print_json({"folder": str(folder), "count": options.count, "seed": options.seed, **facts})
    else:
        console.results().print(f"  {options.count} {what.format(folder=folder)}", highlight=False, soft_wrap=True)
    return 0


Written = tuple[str, Mapping[str, Any]]
"""What was written, in words after its number, and the facts of `--json`."""


def _scenes(options: WorldOptions, folder: Path, events: Events) -> Written:
    from calotype.world import write_dataset

    write_dataset(
        folder, preset=options.preset, split=options.split, seed=options.seed, count=options.count, size=options.size,
        num_frames=options.frames, overwrite=options.overwrite, events=events,
    )  # fmt: skip
    what = f"{'clips' if options.frames > 1 else 'pictures'} of {options.size}x{options.size} px are in {{folder}}"
    return what, {"frames": options.frames, "size": options.size}


def _clips(options: WorldOptions, folder: Path, events: Events) -> Written:
    from calotype.world.clips import SIDE, write_clips

    frames = options.frames if options.frames > 1 else CLIP_FRAMES
    write_clips(
        folder, preset=options.preset, split=options.split, seed=options.seed, count=options.count, num_frames=frames,
        overwrite=options.overwrite, events=events,
    )  # fmt: skip
    more = ", with captions.csv" if (folder / "captions.csv").is_file() else ""
    return f"clips of {frames} frames of {SIDE}x{SIDE} px are in {{folder}}{more}", {"frames": frames, "size": SIDE}


def _brains(options: WorldOptions, folder: Path, events: Events) -> Written:
    from calotype.world.brains.dataset import write_brains

    write_brains(
        folder, split=options.split, seed=options.seed, count=options.count, spacing=options.spacing, overwrite=options.overwrite,
        events=events,
    )  # fmt: skip
    what = f"brains of {options.spacing:g} mm are in {{folder}}: _Chimap, _mask and _fieldmap-local of each"
    return what, {"spacing": options.spacing}


def _tissue(options: WorldOptions, folder: Path, events: Events) -> Written:
    from calotype.world.tissue.dataset import write_tissue

    write_tissue(
        folder, variant=options.variant, split=options.split, seed=options.seed, count=options.count, patients=options.patients,
        hues=_range(options.hues), smooth=options.smooth, noise=options.noise, size=options.size, overwrite=options.overwrite,
        events=events,
    )  # fmt: skip
    what = f"pictures of {options.size}x{options.size} px are in {{folder}}, with masks, annotators and table.csv"
    return what, {"size": options.size, "variant": options.variant}


def _landscapes(options: WorldOptions, folder: Path, events: Events) -> Written:
    from calotype.world.landscapes.dataset import write_landscapes

    write_landscapes(
        folder, split=options.split, seed=options.seed, count=options.count, num_frames=options.frames, size=options.size,
        overwrite=options.overwrite, events=events,
    )  # fmt: skip
    more = f", and {options.frames} frames of each" if options.frames > 1 else ""
    what = f"landscapes of {options.size}x{options.size} px are in {{folder}}, with masks and motion fields{more}"
    return what, {"frames": options.frames, "size": options.size}


def _critters(options: WorldOptions, folder: Path, events: Events) -> Written:
    from calotype.data.rgbd_scenes import write_scene
    from calotype.imaging.files import json_line, write_json
    from calotype.world.critters.sampling import sample_critter_scene
    from calotype.world.critters.views import sample_reference, scene_views
    from calotype.world.scenes.dataset import FORMAT, VERSION, new_dataset

    with new_dataset(folder, options.overwrite) as making:
        (making / "references").mkdir()
        events.stage("see critters", options.count)
        lines: list[str] = []
        given: dict[str, Any] = {"split": options.split, "seed": options.seed}
        for index in range(options.count):
            scene, reference = sample_critter_scene(**given, index=index), sample_reference(**given, index=index)
            name = f"{index:06d}"
            write_scene(scene_views(scene)[0], making / "scenes" / name)
            reference.image.save(making / "references" / f"{name}.png")
            clicks = {part: f"{int(x)},{int(y)}" for part, (x, y) in reference.clicks.items()}
            critters = [
                {solid.part: {"start": solid.start, "end": solid.end, "radius": solid.radius} for solid in critter.primitives()}
                for critter in scene.critters
            ]
            lines.append(
                json_line({"scene": f"scenes/{name}", "reference": f"references/{name}.png", "clicks": clicks, "critters": critters})
            )
            events.step()
            events.check()
        (making / "truth.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        summary = {"format": FORMAT, "version": VERSION, "preset": "critters", **given}
        write_json(making / "dataset.json", {**summary, "count": options.count})
    return "scenes of four views with depth are in {folder}/scenes, each with a picture to click on in {folder}/references", {}


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--hues {text} isn't a range; give two numbers from 0 to 1, such as 0,0.4") from None
    return low, high


def _refuse_others(options: WorldOptions) -> None:
    """Refuse flags that another world has."""
    of_tissue = ("variant", "patients", "hues", "smooth", "noise")
    others = {
        "brain": ("frames", "size", *of_tissue),
        "tissue": ("frames", "spacing"),
        **dict.fromkeys(CLIPS, ("size", "spacing", *of_tissue)),
        "critters": ("frames", "size", "spacing", *of_tissue),
    }.get(options.preset, ("spacing", *of_tissue))
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    given = [f"--{name}" for name in others if getattr(options, name) != defaults[name]]
    if given:
        raise InputError(f"the preset {options.preset} has no {', '.join(given)}; leave {'it' if len(given) == 1 else 'them'} out")
