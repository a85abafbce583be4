"""What a training on a user's data is: a frozen dataclass whose fields are hyper-parameters and whose call gives a checkpoint folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from calotype.backbones.folder import open_checkpoint
from calotype.backbones.loading import quiet
from calotype.core.events import SILENT, Events
from calotype.core.untrusted import mapping, parse_json
from calotype.data.folders import DataSet
from calotype.data.manifest import NAME, refuse_inside
from calotype.errors import InputError
from calotype.imaging.files import atomic_path, json_line, write_json
from calotype.train.budget import Budget
from calotype.train.loop import Trainer, TrainResult, accelerator_for
from calotype.train.recipe import Settings, Source
from calotype.train.state import locked

METADATA, RUN = "training.json", "training"
"""In the folder of a training: what is trained on what, and the folder of its state, log, plot and sheets."""
SPLIT_SEED = 0
"""Of the split, which is the same whatever the training's seed is."""


@dataclass(frozen=True, kw_only=True)
class Training(ABC):
    """Base of every training. Subclasses are `@dataclass(frozen=True, kw_only=True)` beside their method.

    The fields (with the docstring below each) are the only source of the command line's flags and of the record; presets are class methods
    named in `presets`. A subclass says what its data are (`data_set`), what is trained (`build`), on which samples (`source`) with which
    numbers (`settings`), and writes the folder (`write`); `calotype.train.loop.Trainer` does the rest.
    """

    slug: ClassVar[str]
    """Of the method whose checkpoints it makes."""
    presets: ClassVar[tuple[str, ...]] = ()
    """Class methods that return a ready-made configuration; the first one is the default. Without any, the fields' defaults are."""
    folders: ClassVar[tuple[str, ...]] = ()
    """Fields that are further data folders, "" where none is given. `data_set` reads them, and its fingerprint covers what they hold; where
    they lie may change between two starts of a training, as with `data`."""

    batch_size: int = 16
    """Samples of a step."""
    micro_batch_size: int | None = None
    """Samples whose gradients are computed at once, where the memory doesn't hold a whole batch; the result is about the same."""
    learning_rate: float = 1e-3
    """Peak; a training that begins with --model has half of it."""
    ema_decay: float = 0.998
    """Of the moving average of the weights, which is what you get."""
    held_out_share: float = 0.15
    """Share of the data that is never trained on and measures the result, by subject or file; at least one."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("micro_batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be {least} or more")
        for name, most in (("learning_rate", 1.0), ("ema_decay", 1.0), ("held_out_share", 0.9)):
            if not 0 < getattr(self, name) < most:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0 and below {most:g}")

    def settings(self) -> Settings:
        """The loop's numbers."""
        return Settings(
            batch_size=self.batch_size, cuda_batch_size=self.batch_size, micro_batch_size=self.micro_batch_size,
            learning_rate=self.learning_rate, warm_learning_rate=self.learning_rate / 2, ema_decay=self.ema_decay,
        )  # fmt: skip

    @abstractmethod
    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> DataSet:
        """The user's data. `kept` is a folder for what is worth keeping of them; it isn't made before something is. `events` hears how far
        a look at many files is.

        Raises:
            InputError: there are none, or (as `DataError`) some can't be used.
        """

    def check(self, data: Any, events: Events = SILENT) -> None:  # noqa: B027 - a hook that may stay empty
        """Look through all that `data_set` gave, where opening it didn't; done before a new training alone.

        Raises:
            DataError: something in it can't be used; it has a line for each problem.
        """

    def check_start(self, start: Path, data: Any, events: Events = SILENT) -> None:  # noqa: B027 - as `check`
        """Look at the checkpoint to begin with, and whether it suits the data, before anything is made.

        Raises:
            InputError: this training can't begin with it.
        """

    @abstractmethod
    def build(self, data: Any, *, seed: int, start: Path | None = None) -> nn.Module:
        """What is trained, from `seed` or from a checkpoint folder. `data` is all that `data_set` gave: the network may depend on its
        channels and classes. See `calotype.train.loop.Trainer`."""

    @abstractmethod
    def source(self, trainee: Any, data: Any, device: str) -> Source:
        """Batches of a data set's rows on a device."""

    def draw(self, trainee: Any, source: Any, path: Path) -> list[Path]:
        """Draw what the trainee can do today; the files that were written."""
        return []

    @abstractmethod
    def write(self, trainee: Any, folder: Path) -> None:
        """Write the checkpoint that `calotype.load` reads into an empty folder."""

    def __call__(
        self,
        data: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        seed: int = 0,
        budget: str | Budget = "30m",
        device: str = "auto",
        events: Events = SILENT,
        save_every: float = 60.0,
        report_every: float = 600.0,
    ) -> Path:
        """Train, or go on with the same training in `out`.

        Args:
            data: the folder of the user's data. All of it is checked first.
            out: the checkpoint's folder. Beside the checkpoint, `training.json` says how it was made, and `training/` holds the state, the
                log, the plot of the losses and the sheets of samples.
            model: a checkpoint to begin with: the name of an embedded model or a folder.
            seed: of the weights, the order of the data and the noise.
            budget: `30m`, or `500steps`, which can be repeated bit for bit; see `calotype.embedded.train`.
            device: `auto`, `cpu` or `cuda`; several processes under `accelerate launch`.
            events: hears stages, steps, losses and notes; `events.check` may cancel.
            save_every: seconds between states on disk.
            report_every: seconds between sheets of samples.

        Returns:
            `out`.

        Raises:
            DataError: some of the data can't be used.
            InputError: `out` holds something else; bad values.
            CalotypeError: the training diverged.
        """
        target, asked = Path(out).expanduser(), Budget.parse(budget)
        accelerator = accelerator_for(device)
        events = events if accelerator.is_main_process else SILENT
        folder = Path(data).expanduser()
        further = {name: Path(getattr(self, name)).expanduser() for name in self.folders if getattr(self, name)}
        for place in (folder, *further.values()):
            refuse_inside(target, place)
        found = self.data_set(folder, target / RUN / "data", events)
        parts = found.split(self.held_out_share, SPLIT_SEED)
        start = _start(model)
        wanted = {
            "method": self.slug, "settings": self._recorded(), "seed": seed, "data": found.fingerprint,
            "model": None if start is None else _mark(start),
        }  # fmt: skip
        known = _facts(target)
        if known is None:
            if start is not None:
                self.check_start(start, found, events)
            self.check(found, events)
        else:
            _refuse_other(target, known, wanted)
            if known.get("status") == "finished":
                if known.get("budget") != str(asked):
                    done = f"{target} holds a finished training of {known.get('budget')}"
                    raise InputError(f"{done}; give another --out, with --model {target} to go on from it")
                events.note(f"{target} is finished already: {known['steps']:,} steps")
                return target
        with locked(target / RUN) if accelerator.is_main_process else nullcontext():
            if accelerator.is_main_process and known is None:
                if start is not None:
                    _pin(start, target / RUN / "start")
                about = {
                    "files": str(folder),
                    **{name: str(place) for name, place in further.items()},
                    "model_name": None if model is None else os.fspath(model),
                }
                write_json(target / METADATA, {"status": "begun", **wanted, **about, "budget": str(asked)})
            accelerator.wait_for_everyone()
            settings = self.settings()
            trainee = self.build(found, seed=seed, start=None if start is None else target / RUN / "start")
            train, held_out = (self.source(trainee, part, str(accelerator.device)) for part in parts)
            trainer = Trainer(
                self.slug, trainee, source=train, held_out=held_out, folder=target / RUN, budget=asked, seed=seed,
                accelerator=accelerator, settings=settings, peak=settings.learning_rate if start is None else settings.warm_learning_rate,
                sample_grid=self.draw, events=events, save_every=save_every, report_every=report_every,
            )  # fmt: skip
            fitted = trainer.fit()
            if accelerator.is_main_process:
                events.stage(f"write {target.name}")
                self._finish(fitted, target, asked)
            # The others, too, return a folder that is whole; a launcher stops all of them when one fails.
            accelerator.wait_for_everyone()
        return target

    def _recorded(self) -> dict[str, Any]:
        """The fields as JSON has them, without folders."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in self.folders}
        return mapping(json.loads(json_line(values)), "settings")

    def _finish(self, fitted: TrainResult, target: Path, budget: Budget) -> None:
        """Put the checkpoint beside its training: parts first, then what names them."""
        making = target / RUN / "model"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        with quiet():
            self.write(fitted.trainee, making)
        for path in sorted(making.iterdir(), key=lambda path: path.is_file()):
            if (target / path.name).is_dir():
                shutil.rmtree(target / path.name)
            path.replace(target / path.name)
        making.rmdir()
        metadata = {
            **(_facts(target) or {}), "status": "finished", "budget": str(budget), "steps": fitted.steps,
            "batch_size": fitted.settings.batch_size, "seconds": round(fitted.seconds, 1), "held_out_loss": fitted.held_out,
            "held_out_count": fitted.held_out_count, "loss": _last_loss(target / RUN / "progress.jsonl"), "device": fitted.device,
            "precision": fitted.precision, "held_out_precision": fitted.held_out_precision,
        }  # fmt: skip
        with atomic_path(target / "README.md", overwrite=True) as temporary:
            temporary.write_text(card(target.name, metadata), encoding="utf-8")
        write_json(target / METADATA, metadata)


def card(name: str, metadata: dict[str, Any]) -> str:
    """The README of a trained folder."""
    rows = {
        "made with": f"`calotype train {metadata['method']}`, on {metadata['files']} (fingerprint {metadata['data']})",
        "begun with": metadata["model_name"] or "random weights",
        "steps": f"{metadata['steps']:,} of {metadata['batch_size']} samples, seed {metadata['seed']}, {metadata['seconds'] / 60:.1f} min",
        "device": f"{metadata['device']}, {metadata['precision']}; weights and optimiser in float32",
        "held-out loss": f"{metadata['held_out_loss']:.5f} on {metadata['held_out_count']:,} samples that were not trained on",
        "licence": "as the data's owner says: write it here before you pass the folder on",
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join([f"# {name}", "", "| | |", "|---|---|", *lines, "", f"All settings are in `{METADATA}`.", ""])


def _facts(target: Path) -> dict[str, Any] | None:
    """What a folder's `training.json` says; None if there is nothing in it yet.

    Raises:
        InputError: it is a file, or holds other things.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise InputError(f"{target} is a file; give --out the name of a folder")
    path = target / METADATA
    if path.is_file():
        return mapping(parse_json(path.read_bytes(), str(path), "delete the folder to start anew"), str(path))
    # A kill between the making of the folder and its metadata leaves the empty folders of a training, and what is known of its data.
    if target.is_dir() and any(place.name not in ("lock", NAME) for place in target.rglob("*") if place.is_file()):
        raise InputError(f"{target} holds files that are no training's; give --out another folder")
    return None


def _refuse_other(target: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        there = known.get(name)
        if there == value:
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            name = next(key for key in {**value, **there} if value.get(key) != there.get(key))
            value, there = value.get(name), there.get(name)
        raise InputError(f"{target} holds a training with {name} {there}, not {value}; give --out another folder")


def _start(model: str | os.PathLike[str] | None) -> Path | None:
    """The folder of the checkpoint to begin with."""
    if model is None or model == "":
        return None
    from calotype.backbones.hub import locate

    return locate(os.fspath(model)).checkpoint.folder


def _mark(folder: Path) -> str:
    """A fingerprint of a checkpoint's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        if RUN not in path.relative_to(folder).parts:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _pin(start: Path, copy: Path) -> None:
    """Copy the checkpoint that a training begins with into it: it must be the same after a kill."""
    shutil.rmtree(copy, ignore_errors=True)
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(start, temporary, ignore=shutil.ignore_patterns(RUN, METADATA))
    for part in open_checkpoint(start).parts.values():
        if not part.folder.is_relative_to(start):
            shutil.copytree(part.folder, temporary / part.folder.name)
    temporary.rename(copy)


def _last_loss(log: Path) -> float | None:
    """The last loss in a log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if '"loss"' in line] if log.is_file() else []
    return float(lines[-1]["loss"]) if lines else None
