"""The verb `demo`: the first method on two example pictures, with this pair's table against the baselines."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.core.events import Events
    from calotype.evaluation.pairs import Pair
    from calotype.evaluation.report import Report
    from calotype.runs import Run

SLUG = "time-reversal-fusion"
MODEL = "toy-i2v"
PAIR_SEED = 1_000_000
"""Of the example pair: the first one that `calotype eval time-reversal-fusion` would take by default."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Common):
    """What `demo` takes."""

    out: Path | None = None
    """Folder of the run; by default runs/demo-<time>."""
    seed: int = 0
    """Seed of all noise."""
    overwrite: bool = False
    """Replace the run that is in --out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def demo(arguments: Sequence[str]) -> int:
    """`calotype demo`."""
    page = Help(
        "calotype demo",
        "The first method on two example pictures, with the embedded model: the clip between them, and how much better it is than what you"
        " would have done without the method.",
        "The same as `calotype run time-reversal-fusion` on the two pictures in examples/ and their caption, then this pair's table.",
    )
    options = parse(DemoOptions, arguments, page)
    from calotype.cli.loading import load_model, look
    from calotype.cli.reporting import report_run
    from calotype.registry import resolve_method
    from calotype.runs import ModelRequest, Session
    from calotype.runs.presets import default_preset, preset_instance

    request = ModelRequest(MODEL, device=options.device)
    look(request)
    method = resolve_method(SLUG)
    preset = default_preset(method, MODEL)
    configured = preset_instance(method, preset)
    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        pair = example_pair()
        pictures = example_files(pair)
        session = Session(load_model)
        done = session.run(
            configured,
            {**pictures, "prompt": pair.scene.caption},
            model=request,
            preset=preset,
            seed=options.seed,
            out=options.out or f"runs/demo-{datetime.now():%Y%m%d-%H%M%S}",
            overwrite=options.overwrite,
            command=("calotype", "demo", *arguments),
            events=events,
        )
        report = pair_report(pair, done, session.load(request), configured, options.seed, events)
    if options.json:
        print_json({"folder": str(done.folder), **done.record.to_json(), "table": report.to_dict()})
        return 0
    console.results().print()
    console.results().print(report.render())
    console.results().print()
    report_run(done, options)
    return 0


def example_pair() -> Pair:
    """The scene that the pictures in examples/ are of."""
    from calotype.evaluation.pairs import symmetric_pairs

    return symmetric_pairs("small", "eval", PAIR_SEED, 1)[0]


def example_files(pair: Pair) -> dict[str, Path]:
    """The example pictures of the working tree; in an installed package, the same two, painted anew."""
    import calotype

    folder = Path(calotype.__file__).resolve().parents[2] / "examples"
    files = {"start": folder / "start.png", "end": folder / "end.png"}
    if all(file.is_file() for file in files.values()):
        return files
    return write_examples(pair, Path(tempfile.mkdtemp(prefix="calotype-demo-")))


def write_examples(pair: Pair, folder: Path) -> dict[str, Path]:
    """Paint the pair's two pictures as PNG."""
    files = {"start": folder / "start.png", "end": folder / "end.png"}
    pair.start.save(files["start"], overwrite=True)
    pair.end.save(files["end"], overwrite=True)
    return files


def pair_report(pair: Pair, done: Run, model: Any, method: Any, seed: int, events: Events) -> Report:
    """The pair's table: the clip that was just made, plain image-to-video with the same caption and noise, and a cross-fade."""
    from calotype.evaluation import Report
    from calotype.evaluation.baselines import cross_fade
    from calotype.evaluation.time_reversal_fusion import PairExperiment, continued, fixed
    from calotype.imaging.types import Video

    clip = done.results["result"]
    if not isinstance(clip, Video):
        raise InputError(f"{SLUG} made a {type(clip).__name__}; a clip is expected")
    events.stage("baselines", 2)
    test = PairExperiment(seed - pair.index, events)
    cost = {"seconds": done.record.seconds["method"], "model_calls": done.record.metrics.get("model_calls", math.nan)}
    test.add("method", "method", [{**pair.measure(clip.frames), **cost}])
    test.run("image-to-video", "baseline", [pair], continued(model, method, captions=True))
    test.run("crossfade", "baseline", [pair], fixed(cross_fade))
    seconds = sum(row.metrics["seconds"] for row in test.rows)
    return Report(SLUG, seed, 1, done.record.environment["device"], seconds, test.rows)
