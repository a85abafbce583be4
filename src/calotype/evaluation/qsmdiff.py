"""The proof of QSMDiff on ground truth: is the map right where the field is blind, and do prior, guidance, scope and main field matter?

Every brain is new, every other one has a ball of 0.3 ppm, a kind of lesion that no training brain has. All rows see the same fields with
the same noise. What the prior and the classical inversions may know is the level of the noise; their settings were chosen for it on brains
of the split `tune`.

- `tkd`, `l2`, `tv`, `ndi`: the classical inversions (`calotype.methods.qsmdiff.classical`).
- `no-prior`: the guidance alone, as many steps of it. `no-guidance`: a sample of the prior, whatever the field.
- `patch-guidance`: every window corrected by its own field alone. `wrong-b0`: a main field at a right angle to the true one.
- `@noise-0.002`: a field as of a good gradient echo. `@tilt-20`: the head turned by 20 degrees, read off the affine. `@slices-4mm`: a field
  of slices of 4 mm at 0.002 ppm, from which the method makes a map of 2 mm; TV inverts it at 4 mm and is interpolated without loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.volume_prior import VolumePrior
from calotype.core.dipole import DipoleOperator
from calotype.core.events import SILENT, Events
from calotype.data.qsm_folder import find_qsm_files
from calotype.errors import InputError
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import Experiment, ResultTable, pieces
from calotype.evaluation.qsm_baselines import SOLVERS, settings_for, solve
from calotype.evaluation.qsm_cases import Head, Scan, heads, scan, scan_thick
from calotype.evaluation.qsm_folders import read_head
from calotype.evaluation.report import Claim, Report, Role
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.guidance import Measurement
from calotype.methods.qsmdiff.resolution import Resolution
from calotype.metrics import Interval

SLUG = QSMDiff.slug
COUNT = 4
"""Brains; with two samples a map, some 520 seconds of one core."""
NOISE_PPM, CLEAN_PPM, TILT_DEGREES = 0.006, 0.002, 20.0
"""Of the main experiment, of the clean field, and of the head that lies turned."""
THICK, SLICES = (1, 1, 2), "@slices-4mm"
"""Fine voxels per measured one in the experiment with thick slices, and the end of its rows' names."""

Map = Float[Tensor, "x y z"]
Maker = Callable[[Scan, Events], Map]
"""Finds the map of a case in ppm, and tells how many model calls it took."""


class MapExperiment(Experiment):
    """Runs variants on heads; a condition's fields are measured once."""

    def __init__(self, model: VolumePrior, settings: QSMDiff, some: Sequence[Head], seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model, self.settings, self.heads = model, settings, some
        self._cases: dict[tuple[float, float], list[Scan]] = {}

    def cases(self, noise_ppm: float, tilt_degrees: float) -> list[Scan]:
        """The heads in one condition."""
        key = noise_ppm, tilt_degrees
        if key not in self._cases:
            self._cases[key] = [scan(head, noise_ppm=noise_ppm, tilt_degrees=tilt_degrees) for head in self.heads]
        return self._cases[key]

    def run(self, variant: str, role: Role, some: Sequence[Scan], make: Maker) -> None:
        """One row: the maps of all cases, measured."""
        self.measured(variant, role, pieces(some, 1), lambda batch, events: [make(case, events) for case in batch], Scan.measure)

    def found(self, *, b0_direction: tuple[float, float, float] | None = None, **changes: object) -> Maker:
        """The method, told the noise, with some settings changed or another main field."""

        def make(case: Scan, events: Events) -> Map:
            method = dataclasses.replace(self.settings, **{"noise": case.noise_ppm, **changes})  # type: ignore[arg-type]
            return method(
                self.model, case.field, case.mask, b0_direction=b0_direction, seed=self.seed + case.head.index, events=events
            ).chi.values

        return make

    def without_prior(self) -> Maker:
        """The guidance from an empty map, once for each step of the method."""

        def make(case: Scan, events: Events) -> Map:
            method = dataclasses.replace(self.settings, noise=case.noise_ppm)
            dipole, mask = case.dipole.without_mask(), case.mask.values > 0
            guide = method.guide(Measurement(case.field.values / self.model.scale, mask, dipole, self.model.scale))
            x = torch.zeros_like(case.field.values)
            for sigma in method.sigmas(self.model).tolist()[:-1]:
                x = guide(x, sigma) * mask
            return x * self.model.scale

        return make

    def classical(self, name: str) -> Maker:
        """A baseline with the settings that suit the case."""
        return lambda case, _: solve(name, case, settings_for(case.noise_ppm, case.tilt_degrees)[name])

    def finer(self) -> Maker:
        """The method from a field of thick slices."""

        def make(case: Scan, events: Events) -> Map:
            method = dataclasses.replace(self.settings, noise=case.noise_ppm, task="both", factor=THICK)
            return method(self.model, *scan_thick(case, THICK), seed=self.seed + case.head.index, events=events).chi.values

        return make

    @staticmethod
    def interpolated_tv(case: Scan, events: Events) -> Map:
        """Total variation at the thick slices, then the band-limited map through its voxels."""
        field, mask = scan_thick(case, THICK)
        dipole = DipoleOperator(field.size, field.spacing, case.direction, mask=mask.values > 0)
        thick = SOLVERS["tv"](field.values, dipole, settings_for(case.noise_ppm, case.tilt_degrees)["tv"])
        return Resolution(field.size, THICK).refine(thick) * case.mask.values


def rows(test: MapExperiment, noise_ppm: float) -> None:
    """The method, its baselines and its ablations; the clean and the turned head."""
    main = test.cases(noise_ppm, 0.0)
    test.run("method", "method", main, test.found())
    for name in SOLVERS:
        test.run(name, "baseline", main, test.classical(name))
    test.run("no-prior", "ablation", main, test.without_prior())
    test.run("no-guidance", "ablation", main, test.found(guidance_mode="none"))
    test.run("patch-guidance", "ablation", main, test.found(guidance_scope="window"))
    test.run("wrong-b0", "ablation", main, test.found(b0_direction=(0.0, 1.0, 0.0)))
    for end, noise, tilt in ((f"@noise-{CLEAN_PPM:g}", CLEAN_PPM, 0.0), (f"@tilt-{TILT_DEGREES:g}", noise_ppm, TILT_DEGREES)):
        some = test.cases(noise, tilt)
        test.run(f"method{end}", "method", some, test.found())
        for name in SOLVERS:
            test.run(f"{name}{end}", "baseline", some, test.classical(name))
    clean = test.cases(CLEAN_PPM, 0.0)
    test.run(f"method{SLICES}", "method", clean, test.finer())
    test.run(f"tv{SLICES}", "baseline", clean, test.interpolated_tv)


def claims(table: ResultTable, noise_ppm: float = NOISE_PPM) -> list[Claim]:
    """Each claim must hold at the unfavourable end of its 90 % bootstrap interval over brains."""
    clean, turned = f"@noise-{CLEAN_PPM:g}", f"@tilt-{TILT_DEGREES:g}"

    def share(variant: str, of: str) -> Interval:
        return table.ratio(variant, of, "nrmse_percent")

    def fair(variant: str, noise: float, bar: float) -> Claim:
        value = table.mean(variant, "nrmse_percent").value
        return Claim(f"the table counts: tuned TV's error at {noise:g} ppm is at most, in %", value, bar, value <= bar)

    against = [
        Claim.at_most(f"error as a share of {name.upper()}'s at {noise:g} ppm", share(f"method{end}", f"{name}{end}"), 0.7)
        for name in ("tkd", "l2")
        for noise, end in ((noise_ppm, ""), (CLEAN_PPM, clean))
    ]
    return [
        *against,
        Claim.at_most(f"error as a share of tuned TV's at {noise_ppm:g} ppm", share("method", "tv"), 1.0),
        Claim.at_most(f"the same with the head turned by {TILT_DEGREES:g} degrees", share(f"method{turned}", f"tv{turned}"), 1.0),
        Claim.at_most(f"the same at {CLEAN_PPM:g} ppm", share(f"method{clean}", f"tv{clean}"), 1.0),
        Claim.at_most("error of a 2 mm map from 4 mm slices, over interpolated TV's", share(f"method{SLICES}", f"tv{SLICES}"), 1.0),
        Claim.at_most("streak energy in the cone as a share of TKD's", table.ratio("method", "tkd", "cone_energy"), 0.5),
        Claim.at_least("slope of the regions' means over the true ones, not below", table.mean("method", "roi_slope"), 0.9),
        Claim.at_most("slope of the regions' means over the true ones, not above", table.mean("method", "roi_slope"), 1.1),
        *(
            Claim.at_least(f"{name}: error above the method's, in points", table.difference(name, "method", "nrmse_percent"), 5.0)
            for name in ("no-prior", "no-guidance", "patch-guidance", "wrong-b0")
        ),
        fair(f"tv{clean}", CLEAN_PPM, 28.0),
        *([fair("tv", NOISE_PPM, 38.0)] if noise_ppm == NOISE_PPM else []),
    ]


def measure(
    model: VolumePrior,
    *,
    seed: int,
    count: int = COUNT,
    split: str = "eval",
    noise_ppm: float = NOISE_PPM,
    settings: QSMDiff | None = None,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a prior.

    Args:
        model: a prior of susceptibility maps in ppm, trained at 2 mm.
        seed: of brains and noise.
        count: brains.
        split: `eval`, or `tune` for whoever chooses settings.
        noise_ppm: of the main experiment. Baselines are tuned for one that isn't 0.002 or 0.006 before anything is measured.
        settings: the method; `QSMDiff.toy()` by default. Its `noise` is set to that of each experiment.
        events: hears one step per map.

    Raises:
        InputError: noise that isn't positive.
    """
    test = MapExperiment(model, settings or QSMDiff.toy(), heads(split, seed, count), seed, events)
    events.stage(f"evaluate {SLUG}", (5 + 4 + 2 * 5 + 2) * count)
    rows(test, noise_ppm)
    return test.report(SLUG, count, model, claims(test, noise_ppm))


def prior_figures(folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
    """The claims of the main experiment as figures of a prior: toy-qsm's gates.

    Returns:
        Errors and cone energy over those of the tuned baselines, `roi_slope`, and `nrmse_percent` itself; means over `count` brains.
    """
    from calotype.backbones import load

    test = MapExperiment(load(str(folder), device=device), QSMDiff.toy(), heads("eval", seed, count or COUNT), seed, events)
    events.stage(f"evaluate {folder.name}", 4 * len(test.heads))
    main = test.cases(NOISE_PPM, 0.0)
    test.run("method", "method", main, test.found())
    for name in ("tkd", "l2", "tv"):
        test.run(name, "baseline", main, test.classical(name))

    def over(name: str, metric: str = "nrmse_percent") -> float:
        return test.ratio("method", name, metric).value

    return {
        **{f"error_over_{name}": over(name) for name in ("tkd", "l2", "tv")},
        "cone_energy_over_tkd": over("tkd", "cone_energy"),
        **{metric: test.mean("method", metric).value for metric in ("roi_slope", "nrmse_percent")},
        "count": float(len(test.heads)),
    }


def measure_folder(
    folder: str | os.PathLike[str],
    model: VolumePrior,
    *,
    noise_ppm: float | None = None,
    settings: QSMDiff | None = None,
    seed: int = 0,
    events: Events = SILENT,
) -> Report:
    """The table without ablations and claims, one case for each true map in the folder.

    A local field that lies there is used; otherwise it is computed from the true map, without noise unless it is asked for. The slope is
    that over the deep grey matter.

    Args:
        folder: see `calotype.data.qsm_folder.find_qsm_files`.
        model: a prior of susceptibility maps in ppm.
        noise_ppm: of a computed field; for a field from a file, what the methods are told of its noise.
        settings: the method; `QSMDiff.toy()` by default. Its `noise` is set to the field's.
        seed: of the noise and of the sampling.
        events: hears one step per map.

    Raises:
        InputError: an unknown folder, a file that is refused, or files of one head on different grids.
    """
    found = enumerate(find_qsm_files(folder))
    cases = [read_head(files, noise_ppm, seed, number, events, unknown_noise_ppm=NOISE_PPM) for number, files in found]
    test = MapExperiment(model, settings or QSMDiff.toy(), [case.head for case in cases], seed, events)
    events.stage(f"evaluate {SLUG}", (1 + len(SOLVERS)) * len(cases))
    test.run("method", "method", cases, test.found())
    for name in SOLVERS:
        test.run(name, "baseline", cases, test.classical(name))
    return test.report(SLUG, len(cases), model)


@dataclass(frozen=True, kw_only=True)
class QSMDiffEvaluation(Evaluation):
    """Is the map right where the field is blind, and do prior, guidance, scope and main field matter?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-qsm"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 1

    noise: float | None = None
    """Standard deviation of the field's noise in ppm; 0.006 by default."""
    data: Path | None = None
    """A folder of the QSM challenge or of qsm-forward, whose heads are scored in place of synthetic ones."""

    def check(self, *, count: int | None, record: bool) -> None:
        """Refuse what a folder's heads leave no room for."""
        if self.data is not None and (count is not None or record):
            raise InputError("data holds the heads to be scored; leave out count and record")

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        model = self.load(device)
        if self.data is not None:
            return measure_folder(self.data, model, noise_ppm=self.noise, seed=seed, events=events)
        noise = NOISE_PPM if self.noise is None else self.noise
        return measure(model, seed=seed, count=self.scenes(count, quick), noise_ppm=noise, events=events)
