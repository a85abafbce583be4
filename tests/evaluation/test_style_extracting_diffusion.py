"""The evaluation of style-extracting diffusion: its patients are what they say, its metrics tell right from wrong, its claims can fail."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import calotype
from calotype.core.events import SILENT
from calotype.evaluation import style_extracting_diffusion as proof
from calotype.evaluation.experiment import ResultTable
from calotype.evaluation.style_encoders import ENCODERS, encoders, samples
from calotype.evaluation.style_extracting_diffusion import (
    CLASSES,
    LABELLED_HUES,
    SIZE,
    Patients,
    StyleExperiment,
    asked,
    claims,
    correlation,
    make,
    train_segmenter,
)
from calotype.methods.style_extracting_diffusion import StyleExtractingDiffusion
from calotype.methods.style_extracting_diffusion.training import StyleExtractingDiffusionTraining
from calotype.methods.style_extracting_diffusion.windows import StyledWindows
from calotype.world.tissue import paint_tissue
from tests.tiny import cached
from tests.tiny_style import cached_style_model

SCENES = 48
METHOD = dataclasses.replace(StyleExtractingDiffusion.toy(), num_inference_steps=2)


def test_patients_depend_on_split_seed_and_stream_alone() -> None:
    one, again = (Patients("tune", 3, "annotated", 4, 2, LABELLED_HUES).scenes() for _ in range(2))
    assert one == again
    assert [scene.patient for scene in one] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert one[0].style == one[1].style
    assert all(LABELLED_HUES[0] <= scene.style.hue <= LABELLED_HUES[1] for scene in one)
    for other in (("eval", 3, "annotated"), ("tune", 4, "annotated"), ("tune", 3, "plain")):
        some = Patients(*other, 4, 2, LABELLED_HUES).scenes()
        assert all(a.layout.blobs != b.layout.blobs and a.style.hue != b.style.hue for a, b in zip(one, some, strict=True))


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 20))
    assert np.allclose(correlation(a, b), [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])


def painted(items: list[proof.Asked]) -> torch.Tensor:
    """What is asked for, as the world paints it: layout i in style i."""
    layouts = Patients("tune", 0, "layouts", len(items), 1).scenes()
    return paint_tissue([dataclasses.replace(own, style=item.scene.style) for own, item in zip(layouts, items, strict=True)], SIZE).image


@pytest.fixture(scope="module")
def judge() -> torch.nn.Module:
    pictures = Patients("train", 0, "oracle", 24, 4).paint()
    return train_segmenter(pictures.image, pictures.mask, steps=60, seed=0)


def test_true_pictures_have_their_style_and_layout(judge: torch.nn.Module) -> None:
    items = asked("tune", 0, 12, 1)
    table = StyleExperiment(None, METHOD, items, judge, 0, SILENT)
    for variant, pictures in (("method", painted(items)), ("shuffled", painted(items).roll(1, 0))):
        table.add(variant, "method", [table.measure(item, picture) for item, picture in zip(items, pictures, strict=True)])
    found = {row.variant: row.metrics for row in table.rows}
    assert proof.hue_correlation(table, "method").value > 0.98
    assert found["method"]["hue_error"] < 0.03
    assert found["method"]["layout_iou"] > found["shuffled"]["layout_iou"] + 0.2


def numbers(*, hues: float = 0.0, iou: float = 0.9) -> list[dict[str, float]]:
    """Scenes whose hue is off by `hues` times a scatter."""
    truth = np.linspace(0.0, 1.0, SCENES)
    scatter = np.sin(np.arange(SCENES) * 2.4)
    return [{"hue": float(t + hues * s), "true_hue": float(t), "layout_iou": iou} for t, s in zip(truth, scatter, strict=True)]


def patients(iou: float, spread: float) -> list[dict[str, float]]:
    """Twelve patients."""
    return [{"patient_iou": iou + spread * math.cos(3.0 * number)} for number in range(12)]


def shuffled(scenes: list[dict[str, float]]) -> list[dict[str, float]]:
    others = np.random.default_rng(1).permutation(len(scenes))
    return [{**scene, "true_hue": scenes[other]["true_hue"]} for scene, other in zip(scenes, others, strict=True)]


GOOD: Mapping[str, list[dict[str, float]]] = {
    "method": numbers(), "shuffled-styles": shuffled(numbers()), "shuffled-layouts": numbers(iou=0.2),
    "segmenter": patients(0.5, 0.2), "segmenter+layout-only": patients(0.55, 0.2), "segmenter+own-styles": patients(0.6, 0.2),
    "segmenter+method": patients(0.8, 0.05), "segmenter@all-stains": patients(0.85, 0.03),
    "segmenter+method@all-stains": patients(0.85, 0.03),
}  # fmt: skip


def told(rows: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """The claims that fail."""
    table = ResultTable()
    for variant, scenes in rows.items():
        table.add(variant, "method", scenes)
    return [claim.claim for claim in claims(table) if not claim.holds]


def test_claims_hold_and_fail() -> None:
    assert told(GOOD) == []
    for variant, worse, words in (
        ("method", numbers(iou=0.8), "IoU at least 0.85"),
        ("shuffled-layouts", numbers(iou=0.6), "chance"),
        ("shuffled-styles", numbers(), "shuffled styles"),
        ("segmenter+layout-only", patients(0.77, 0.2), "0.05 IoU"),
        ("segmenter+own-styles", patients(0.77, 0.2), "own styles"),
        ("segmenter+layout-only", patients(0.55, 0.01), "differ less"),
        ("segmenter+method@all-stains", patients(0.9, 0.03), "nothing is left"),
    ):
        failed = told({**GOOD, variant: worse})
        assert len(failed) == 1, (variant, failed)
        assert words in failed[0]
    assert any("0.8" in claim for claim in told({**GOOD, "method": numbers(hues=1.0)}))


def test_the_whole_table_on_an_untrained_model(monkeypatch: pytest.MonkeyPatch, judge: torch.nn.Module) -> None:
    """Two steps of a narrow network: every row is there, and rows that must differ do."""
    for name, value in (("PLAIN", 2), ("ANNOTATED", 2), ("TEST", 2), ("TEST_PICTURES", 1)):
        monkeypatch.setattr(proof, name, value)
    model: Any = calotype.load(str(cached_style_model()), device="cpu")
    table = StyleExperiment(model, METHOD, asked("tune", 0, 2, 1), judge, 0, SILENT)
    table.pictures(2)
    table.segmenters(0, pictures=2, steps=1)
    assert {row.variant for row in table.rows} == {
        "method", "shuffled-styles", "shuffled-layouts", "no-style", "segmenter", "segmenter+colour-jitter", "segmenter+layout-only",
        "segmenter+own-styles", "segmenter+method", "segmenter@all-stains", "segmenter+method@all-stains",
    }  # fmt: skip
    assert all(row.n == 2 for row in table.rows)
    assert all(value >= 0 for value in table.of("segmenter+method", "patient_iou"))


def test_encoders_differ_in_being_trained_alone(monkeypatch: pytest.MonkeyPatch, judge: torch.nn.Module) -> None:
    """A step of each: the frozen one stays as both began, the rows and the lines are there."""
    small = StyleExtractingDiffusionTraining(
        vae=str(cached("toy-vae")), block_out_channels=(8, 16), norm_num_groups=4, style_width=12, encoder_channels=(8, 8),
        batch_size=2, held_out_samples=2,
    )  # fmt: skip
    for name, value in (("PLAIN", 2), ("ANNOTATED", 2)):
        monkeypatch.setattr(proof, name, value)
    begun = small.build(samples(small, *(Patients("train", 0, "plain", 2, 1).paint(),) * 2, 1), seed=0).conditioner.convs[0].weight
    kept: dict[str, torch.Tensor] = {}

    def made(data: StyledWindows, **given: Any) -> Iterator[tuple[str, Any]]:
        for name, model in encoders(data, training=small, seed=0, **given):
            kept[name] = model.conditioner.convs[0].weight.float()
            yield name, model

    monkeypatch.setattr(proof, "encoders", made)
    table = StyleExperiment(None, METHOD, asked("tune", 0, 2, 1), judge, 0, SILENT)
    lines = table.encoders("tune", "cpu", 2, pictures=2, steps=2)
    assert [row.variant for row in table.rows] == [f"{name}{many}" for name in ENCODERS for many in ("", "@5-styles")]
    assert [line.partition(":")[0] for line in lines] == [row.variant for row in table.rows]
    assert torch.equal(kept["frozen-encoder"], begun.half().float())
    assert not torch.equal(kept["trained-encoder"], kept["frozen-encoder"])


def test_a_picture_can_be_made_alone() -> None:
    model: Any = calotype.load(str(cached_style_model()), device="cpu")
    items = asked("tune", 0, 2, 1)
    both = make(METHOD, model, 5, items, SILENT)
    assert both.shape == (2, 3, SIZE, SIZE)
    assert int(torch.stack([item.layout for item in items]).max()) < CLASSES
    alone = make(METHOD, model, 5, items[1:], SILENT)
    assert float((alone[0] - both[1]).abs().max()) < 1e-3
