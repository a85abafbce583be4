"""The proof of style-extracting diffusion on ground truth: do made pictures have the asked style and layout, and do they help a segmenter?

The tissue world draws every layout in every style, so both can be measured on a picture: the style by inverting the stains' mixture
(`calotype.world.tissue.measure_style`), the layout by an oracle, a segmenter that was trained on true pictures of all styles.

- `method`, `no-style`: pictures of unseen layouts in styles of unseen patients, of all hues; and without a style.
- `shuffled-styles`, `shuffled-layouts`: the method's pictures, compared with another one's style or layout. What is left is chance.
- `segmenter`, `segmenter+colour-jitter`: a segmenter trained on few annotated patients of a narrow range of stains, without and with random
  colours, the strong simple remedy. With made pictures beside: `segmenter+layout-only`, without style; `segmenter+own-styles`, in the
  annotated patients' styles; `segmenter+method`, in those of plain patients. Scored on patients outside the annotated range, a number for
  each. A generator that was trained with recoloured pictures draws any colour where it has no style, so that `layout-only` is no longer
  what annotated patients alone would give; `own-styles` is.
- `@all-stains`: the annotated patients have all stains already; then there should be nothing to gain.
- `@5-styles`: five pictures of the patient show the style. `trained-encoder`, `frozen-encoder` (`--full`): two short trainings that differ
  in nothing but whether the style encoder is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calotype.backbones.loading import load
from calotype.backbones.segmenter_network import NormName, make_network, network_config
from calotype.core.events import SILENT, Events
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import LEAST_SCENES, Experiment, ResultTable, pieces
from calotype.evaluation.report import Claim, Report, Role
from calotype.evaluation.style_encoders import STEPS as ENCODER_STEPS
from calotype.evaluation.style_encoders import TRAINING as ENCODER_TRAINING
from calotype.evaluation.style_encoders import encoders, samples
from calotype.methods.style_extracting_diffusion import StyleExtractingDiffusion
from calotype.metrics import Interval, bootstrap
from calotype.metrics.segmentation import iou
from calotype.train.segmentation_batches import Augmentation
from calotype.train.segmenter import fit_segmenter, predict
from calotype.world.tissue import TissuePictures, TissueScene, measure_style, paint_tissue, sample_layout, sample_style

SLUG = StyleExtractingDiffusion.slug
LABELLED_HUES = (0.0, 0.4)
"""Hues of the annotated patients, on the world's range of 0 to 1; the test patients' lie above."""
SIZE, CLASSES = 64, 3
ANNOTATED, PLAIN, TEST = 6, 30, 24
"""Patients of the segmenter's experiment."""
PICTURES, TEST_PICTURES = 40, 4
"""Pictures of an annotated patient (and as many made ones as there are annotated ones), and of a test patient."""
ORACLE_PICTURES, ORACLE_STEPS, STEPS = 1200, 1000, 400
"""Of the oracle and of the segmenters; batches of 16."""
REPEATS = 2
"""Segmenters of a row, from other weights and orders; a patient's number is their mean."""
COLOUR_JITTER = 1.0
"""Any hue: the strength that was best on the split `tune`."""
MANY_STYLES = 5
"""Style pictures of a patient, beside the one of every other row."""
STREAMS = {"layouts": 0, "styles": 1, "annotated": 2, "plain": 3, "test": 4, "wide": 5, "oracle": 6}
"""Numbers that keep the experiments' patients and layouts apart."""


@dataclass(frozen=True, eq=False)
class Patients:
    """Pictures of some patients: layouts and styles of one stream, drawn from the seed."""

    split: str
    seed: int
    stream: str
    count: int
    pictures: int
    hues: tuple[float, float] = (0.0, 1.0)

    def scenes(self) -> list[TissueScene]:
        """Patient after patient."""
        number = self.seed * len(STREAMS) + STREAMS[self.stream]
        styles = [sample_style(split=self.split, seed=number, patient=patient, hues=self.hues) for patient in range(self.count)]
        return [
            TissueScene(
                layout=sample_layout(split=self.split, seed=number, index=index),
                style=styles[index // self.pictures],
                patient=index // self.pictures,
            )
            for index in range(self.count * self.pictures)
        ]

    def paint(self) -> TissuePictures:
        """All of them, at 64 px."""
        painted = [paint_tissue(part, size=SIZE) for part in pieces(self.scenes(), 64)]
        return TissuePictures(
            *(torch.cat([getattr(part, name) for part in painted]) for name in ("image", "mask", "coverage", "annotators"))
        )


def correlation(found: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic: Pearson's r.

    Example:
        >>> round(float(correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.5]))), 3)
        0.998
    """
    a, b = (values - values.mean(-1, keepdims=True) for values in (found, truth))
    return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def train_segmenter(
    images: Tensor, masks: Tensor, *, steps: int, seed: int, colour: float = 0.0, norm: NormName = "batch", events: Events = SILENT
) -> nn.Module:
    """A small U-Net; batch normalisation keeps a picture's own colours, as in the paper's network."""
    config = network_config("unet", channels=3, classes=CLASSES, window=(SIZE, SIZE), widths=(12, 24, 48), norm=norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(config)
    return fit_segmenter(
        network, images, masks, steps=steps, seed=seed, learning_rate=2e-3, augment=Augmentation(colour=colour), events=events
    )


def foreground_iou(network: nn.Module, images: Tensor, masks: Tensor) -> list[float]:
    """Mean over the foreground classes that a picture has, of each picture."""
    found = predict(network, images).argmax(1)
    return torch.nanmean(iou(found, masks, CLASSES), 1).tolist()


def oracle(seed: int, *, steps: int = ORACLE_STEPS, events: Events = SILENT) -> nn.Module:
    """A segmenter that has seen true pictures of all styles, of the split `train`."""
    pictures = Patients("train", seed, "oracle", ORACLE_PICTURES // 4, 4).paint()
    return train_segmenter(pictures.image, pictures.mask, steps=steps, seed=seed, norm="instance", events=events)


@dataclass(frozen=True, eq=False)
class Asked:
    """What one picture is made of, and what it must look like."""

    index: int
    layout: Tensor
    styles: Tensor
    scene: TissueScene


def asked(split: str, seed: int, count: int, num_styles: int) -> list[Asked]:
    """A layout for each of `count` patients, whose style `num_styles` other pictures show."""
    layouts = Patients(split, seed, "layouts", count, 1).paint().mask
    patients = Patients(split, seed, "styles", count, num_styles)
    scenes, images = patients.scenes(), patients.paint().image.view(count, num_styles, 3, SIZE, SIZE)
    return [Asked(index, layouts[index], images[index], scenes[index * num_styles]) for index in range(count)]


def make(method: StyleExtractingDiffusion, model: Any, seed: int, batch: Sequence[Asked], events: Events, *, style: bool = True) -> Tensor:
    """The method's pictures."""
    styles = torch.stack([item.styles for item in batch]) if style else None
    return method.generate(model, torch.stack([item.layout for item in batch]), styles, seed=seed + batch[0].index, events=events)


class StyleExperiment(Experiment):
    """Rows of made pictures, measured against what was asked for, and rows of segmenters."""

    def __init__(
        self, model: Any, method: StyleExtractingDiffusion, items: Sequence[Asked], judge: nn.Module, seed: int, events: Events
    ) -> None:
        super().__init__(seed, events)
        self.model, self.method, self.items, self.judge = model, method, items, judge

    def measure(self, item: Asked, picture: Tensor) -> dict[str, float]:
        """A picture against its layout and style; the hue it shows stands beside the true one for the correlation."""
        found = measure_style(picture[None], item.layout[None])
        style = item.scene.style
        return {
            "hue": float(found.hue[0]), "true_hue": style.hue, "hue_error": abs(float(found.hue[0]) - style.hue),
            "tint_error": abs(float(found.tint[0]) - style.tint), "contrast_error": abs(float(found.contrast[0]) - style.contrast),
            "frequency_error": abs(float(found.frequency[0]) - style.frequency),
            "layout_iou": foreground_iou(self.judge, picture[None], item.layout[None])[0],
        }  # fmt: skip

    def pictures(self, batch_size: int) -> None:
        """The rows of made pictures."""
        batches = pieces(self.items, batch_size)
        kept: list[Tensor] = []

        def method(batch: Sequence[Asked], events: Events) -> Iterable[Tensor]:
            made = make(self.method, self.model, self.seed, batch, events)
            kept.extend(made)
            return made

        self.measured("method", "method", batches, method, self.measure)
        turned = [*self.items[1:], self.items[0]]
        pairs = list(zip(self.items, turned, kept, strict=True))
        self.add("shuffled-styles", "ablation", [self.measure(replace(item, scene=other.scene), picture) for item, other, picture in pairs])
        self.add(
            "shuffled-layouts", "ablation", [self.measure(replace(item, layout=other.layout), picture) for item, other, picture in pairs]
        )
        self.measured("no-style", "ablation", batches, partial(make, self.method, self.model, self.seed, style=False), self.measure)

    def numbers_of_styles(self, variant: str, role: Role, model: Any, split: str, batch_size: int, counts: Sequence[int]) -> list[str]:
        """Rows of one model by how many pictures show a style; a line for each with the hue's correlation."""
        told = []
        for count in counts:
            name = variant if count == 1 else f"{variant}@{count}-styles"
            method = replace(self.method, num_styles=count)
            items = asked(split, self.seed, len(self.items), count)
            self.measured(name, role, pieces(items, batch_size), partial(make, method, model, self.seed), self.measure)
            r, layout = hue_correlation(self, name).value, self.mean(name, "layout_iou").value
            told.append(f"{name}: correlation of the hues {r:.3f}, IoU of the layout {layout:.3f}")
        return told

    def encoders(self, split: str, device: str, batch_size: int, *, pictures: int, steps: int) -> list[str]:
        """The rows of a trained and of a frozen style encoder; see `calotype.evaluation.style_encoders`."""
        labelled = Patients("train", self.seed, "annotated", ANNOTATED, pictures, LABELLED_HUES).paint()
        plain = Patients("train", self.seed, "plain", PLAIN, pictures).paint()
        data, told = samples(ENCODER_TRAINING, labelled, plain, pictures), []
        for name, model in encoders(data, steps=steps, device=device, events=self.events):
            self.events.stage(name, 2 * len(self.items))
            told += self.numbers_of_styles(name, "ablation", model, split, batch_size, (1, MANY_STYLES))
        return told

    def segmenters(self, seed: int, *, pictures: int, steps: int) -> None:
        """The rows of segmenters, scored patient by patient, each by the mean of several segmenters."""
        low = Patients("eval", seed, "annotated", ANNOTATED, pictures, LABELLED_HUES)
        wide = Patients("eval", seed, "wide", PLAIN, max(1, ANNOTATED * pictures // PLAIN))
        plain = Patients("eval", seed, "plain", PLAIN, self.method.num_styles)
        test = Patients("eval", seed, "test", TEST, TEST_PICTURES, (LABELLED_HUES[1], 1.0)).paint()
        for name, annotated in (("", low.paint()), ("@all-stains", wide.paint())):
            made: dict[str, Patients | None] = {"method": plain}
            if not name:
                made = {"layout-only": None, "own-styles": replace(low, pictures=self.method.num_styles), **made}
            self._segmenter(f"segmenter{name}", "baseline", annotated, test, steps)
            if not name:
                self._segmenter("segmenter+colour-jitter", "baseline", annotated, test, steps, colour=COLOUR_JITTER)
            for word, styles in made.items():
                further = self._made(annotated.mask, styles or plain, style=styles is not None)
                both = replace(annotated, image=torch.cat([annotated.image, further]), mask=torch.cat([annotated.mask] * 2))
                self._segmenter(f"segmenter+{word}{name}", "method" if word == "method" else "ablation", both, test, steps)

    def _made(self, layouts: Tensor, plain: Patients, *, style: bool) -> Tensor:
        """A picture for each layout, in the patients' styles in turn."""
        styles = plain.paint().image.view(plain.count, plain.pictures, 3, SIZE, SIZE)
        scenes = plain.scenes()
        items = [
            Asked(index, layout, styles[index % plain.count], scenes[index % plain.count * plain.pictures])
            for index, layout in enumerate(layouts)
        ]
        return torch.cat(
            [make(self.method, self.model, self.seed + 10_000, batch, self.events, style=style) for batch in pieces(items, 32)]
        )

    def _segmenter(
        self, variant: str, role: Any, annotated: TissuePictures, test: TissuePictures, steps: int, *, colour: float = 0.0
    ) -> None:
        found = []
        for repeat in range(REPEATS):
            network = train_segmenter(annotated.image, annotated.mask, steps=steps, seed=self.seed + repeat, colour=colour)
            found.append(foreground_iou(network, test.image, test.mask))
            self.events.check()
        scores = np.array(found).reshape(REPEATS, TEST, TEST_PICTURES)
        self.add(variant, role, [{"patient_iou": float(score)} for score in np.nanmean(scores, (0, 2))])
        self.events.step()
        self.events.check()


def hue_correlation(table: ResultTable, variant: str) -> Interval:
    """Of the hues that a row's pictures show and the styles' hues."""
    return bootstrap(correlation, table.of(variant, "hue"), table.of(variant, "true_hue"))


def spread_ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic: standard deviation between patients over that of another row."""
    return np.asarray(ours.std(-1) / theirs.std(-1))


def claims(table: ResultTable) -> list[Claim]:
    """What is claimed; the bars were fixed before anything was measured."""
    shuffled = bootstrap(
        lambda a, b, c: correlation(a, b) - correlation(a, c),
        table.of("method", "hue"), table.of("method", "true_hue"), table.of("shuffled-styles", "true_hue"),
    )  # fmt: skip
    found = [
        Claim.at_least("hue of made pictures follows the unseen style's: r at least 0.8", hue_correlation(table, "method"), 0.8),
        Claim.at_least("r is at least 0.5 above that with shuffled styles", shuffled, 0.5),
        Claim.at_least("an oracle finds the layout: IoU at least 0.85", table.mean("method", "layout_iou"), 0.85),
        Claim.at_most("with shuffled layouts that is chance: IoU at most 0.5", table.mean("shuffled-layouts", "layout_iou"), 0.5),
    ]
    if "segmenter" in table:
        ours = "segmenter+method"
        found += [
            Claim.at_least(
                "a segmenter gains at least 0.05 IoU over layout-only pictures",
                table.difference(ours, "segmenter+layout-only", "patient_iou"), 0.05,
            ),
            Claim.at_least(
                "and over pictures in the annotated patients' own styles: at least 0.05 IoU",
                table.difference(ours, "segmenter+own-styles", "patient_iou"), 0.05,
            ),
            Claim.at_most(
                "patients differ less than with layout-only pictures: ratio of the standard deviations at most 1",
                bootstrap(spread_ratio, table.of(ours, "patient_iou"), table.of("segmenter+layout-only", "patient_iou")), 1.0,
            ),
            Claim.at_most(
                "nothing is left to gain where annotated patients have all stains: at most 0.02 IoU",
                table.difference(f"{ours}@all-stains", "segmenter@all-stains", "patient_iou"), 0.02,
            ),
        ]  # fmt: skip
    return found


def model_figures(folder: Path | str, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
    """What a model's gates are about: correlation of the hues, and the oracle's IoU."""
    model, method = load(str(folder), device=device), StyleExtractingDiffusion.toy()
    items = asked("tune", seed, count or 64, method.num_styles)
    table = StyleExperiment(model, method, items, oracle(0, events=events), seed, events)
    table.measured("method", "method", pieces(items, 16), partial(make, method, model, seed), table.measure)
    return {"hue_correlation": hue_correlation(table, "method").value, "layout_iou": table.mean("method", "layout_iou").value}


@dataclass(frozen=True, kw_only=True)
class StyleExtractingDiffusionEvaluation(Evaluation):
    """Do made pictures have the asked style and layout, and do they make a segmenter better on patients of other stains?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-tissue"
    default_count: ClassVar[int] = 48
    quick_count: ClassVar[int] = 6

    full: bool = False
    """Train two small generators besides, with a trained and with a frozen style encoder, and use five style pictures beside one."""

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        model, method = self.load(device), StyleExtractingDiffusion.toy()
        scenes = self.scenes(count, quick)
        items = asked("eval", seed, scenes, method.num_styles)
        events.stage("train the oracle", 1)
        judge = oracle(0, steps=60 if quick else ORACLE_STEPS)
        events.step()
        table = StyleExperiment(model, method, items, judge, seed, events)
        events.stage("made pictures", 2 * scenes)
        table.pictures(16)
        events.stage("segmenters", 7)
        table.segmenters(seed, pictures=5 if quick else PICTURES, steps=20 if quick else STEPS)
        notes = self._further(table, model, device, quick) if self.full else []
        if quick or scenes < LEAST_SCENES:
            few = "a quick look" if quick else f"{scenes} made pictures"
            return table.report(SLUG, scenes, model, notes=[*notes, f"{few}: too few for a verdict; {LEAST_SCENES} pictures are the least"])
        return table.report(SLUG, scenes, model, claims(table), notes)

    @staticmethod
    def _further(table: StyleExperiment, model: Any, device: str, quick: bool) -> list[str]:
        """The rows of `full`."""
        table.events.stage(f"{MANY_STYLES} style pictures", len(table.items))
        told = table.numbers_of_styles("method", "ablation", model, "eval", 16, (MANY_STYLES,))
        return told + table.encoders("eval", device, 16, pictures=5 if quick else PICTURES, steps=20 if quick else ENCODER_STEPS)
