"""The study: its measures against closed forms, its table, its report, and the profile of any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calotype.backbones.diffusion_segmenter import DiffusionFacts, noise_schedule, state_channels
from calotype.backbones.diffusion_segmenter_network import DiffusionSegmentationNetwork
from calotype.backbones.segmenter_network import PictureFacts
from calotype.errors import InputError
from calotype.evaluation import segmentation_study as study
from calotype.evaluation.diffusion_segmentation import DiffusionSegmentationEvaluation, claims, measure, rows, tissue_cases
from calotype.evaluation.report import Report
from calotype.evaluation.segmentation_study import StudyResult
from calotype.evaluation.study_report import write_report
from calotype.evaluation.timestep_profiles import measure_profile
from calotype.methods.diffusion_segmentation.study import PARTS, load_study, study_folder
from calotype.methods.diffusion_segmentation.theory import least_epsilon_loss, signal_to_noise
from calotype.methods.diffusion_segmentation.training import TraineeDiffusionSegmenter
from calotype.metrics.segmentation import expected_calibration_error
from tests.methods.test_diffusion_segmentation import folder


def part(name: str) -> TraineeDiffusionSegmenter:
    state, image, out = state_channels(PARTS[name].objective, 3, 2)
    torch.manual_seed(1)
    network = DiffusionSegmentationNetwork(
        state_channels=state, image_channels=image, out_channels=out, window=(16, 16), channels=(8, 8), norm_num_groups=4
    )
    facts = PictureFacts(window=(16, 16), channels=3)
    return TraineeDiffusionSegmenter(network, facts, DiffusionFacts(objective=PARTS[name].objective), prediction=PARTS[name].prediction)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("study") / "model"
    for name in PARTS:
        part(name).save(study_folder(home, name))
    return home


@pytest.fixture(scope="module")
def measured(untrained: Path) -> StudyResult:
    return measure(load_study(untrained, device="cpu"), tissue_cases(16, split="tune", seed=2, count=3), seed=2)


def test_pictures_are_the_worlds_and_the_reader_changes() -> None:
    first, again, other = (tissue_cases(32, split="tune", seed=seed, count=6) for seed in (1, 1, 2))
    assert [case.name for case in first] == ["big", "small"]
    assert all(torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, other[0].images)


def test_calibration_is_that_of_the_metrics() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(5, 3, 9, 8, generator=generator).softmax(1)
    masks = torch.randint(0, 3, (5, 9, 8), generator=generator)
    found = study.quality(probability, masks)
    assert float(study.calibration_error(found.bins)) == pytest.approx(expected_calibration_error(probability, masks), rel=1e-9)
    band = study.boundary_band(masks, study.BAND)
    assert float(study.calibration_error(found.band)) == pytest.approx(
        expected_calibration_error(probability, masks, region=band), rel=1e-9
    )
    picks = np.array([[0, 1, 1], [4, 4, 4]])
    drawn = study.calibration_error(found.bins[picks])
    assert drawn[1] == pytest.approx(expected_calibration_error(probability[4:5], masks[4:5]), rel=1e-9)


def test_the_two_losses_are_one(measured: StudyResult) -> None:
    assert measured.identity < 1e-6
    assert measured.oracle < 0.02
    for by_case in measured.profiles.values():
        for found in by_case.values():
            assert torch.allclose(found.mean("epsilon"), found.snr * found.mean("sample"))


class Reads:
    """A segmenter that sees masks through noise exactly, down to a level, and the picture's brightness beyond."""

    num_classes, device = 2, torch.device("cpu")
    diffusion = DiffusionFacts()

    def __init__(self, level: float) -> None:
        self.level = level

    def denoiser(self, images: Tensor) -> Any:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            return x.sign() if sigma < self.level else 2 * (images[:, :1] > 0.5).float() - 1

        return denoise


def test_the_crossover_is_where_the_picture_takes_over_and_moves_with_the_scaling() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.int64)
    masks[0, :4], masks[1, 4:] = 1, 1
    case = study.StudyCase(name="halves", images=masks[:, None].float(), masks=masks)
    model: Any = Reads(noise_schedule().sigma(400.0))
    plain, harder = (study.crossover(*study.swapped_overlaps(model, case, scaling, seed=0)) for scaling in (1.0, 0.5))
    # The first steps of the run are above the level, too: the change comes a step or two later.
    assert 400 < plain < 600
    assert harder < plain - 80
    assert np.isnan(study.crossover(np.zeros((12, 2)), np.ones((12, 2))))


def test_the_table_has_every_network_and_kind(measured: StudyResult) -> None:
    names = [row.variant for row in rows(measured)]
    assert {f"{variant}@{case}" for variant in ("method", "feed-forward", "noise-one-sample") for case in ("big", "small")} <= set(names)
    assert len(claims(measured)) == 10
    fingerprint = next(row for row in rows(measured) if row.variant == "fingerprint@big")
    assert (
        fingerprint.metrics["t_half_predicted"]
        > next(r for r in rows(measured) if r.variant == "fingerprint@small").metrics["t_half_predicted"]
    )


def test_the_report_can_be_read_without_other_files(measured: StudyResult, tmp_path: Path) -> None:
    report = Report("diffusion-segmentation", 2, 3, "cpu", 1.0, rows(measured), claims(measured))
    written = write_report(measured, report, tmp_path / "study", data="of a test")
    page, text = ((tmp_path / "study" / name).read_text() for name in ("study.html", "study.md"))
    assert len(written) == 7
    assert page.count("data:image/png;base64,") == 5
    assert "of a test" in text
    assert all(word not in text for word in ("{", "}", "nan"))
    assert "<td>" in page
    assert "**" not in page


def test_a_folder_that_is_no_study_is_refused(untrained: Path, tmp_path: Path) -> None:
    part("noise").save(tmp_path / "alone")
    with pytest.raises(InputError, match="study"):
        load_study(tmp_path / "alone", device="cpu")
    with pytest.raises(InputError, match="record"):
        DiffusionSegmentationEvaluation(data=tmp_path).check(count=None, record=True)


def test_a_profile_of_a_segmenter_on_the_world_and_on_a_folder(untrained: Path, tmp_path: Path) -> None:
    found = measure_profile(str(untrained), seed=3, count=4, device="cpu")
    assert len(found.rows) == 20
    for row in found.rows:
        assert row.metrics["epsilon_loss"] == pytest.approx(row.metrics["snr"] * row.metrics["sample_loss"], rel=1e-6)
    assert found.rows[0].metrics["snr"] > found.rows[-1].metrics["snr"]
    with pytest.raises(InputError, match="no class"):
        measure_profile(str(untrained), seed=3, count=2, data=folder(tmp_path / "data"), device="cpu")
    with pytest.raises(InputError, match="without diffusion"):
        measure_profile(str(study_folder(untrained, "feed_forward")), seed=3, count=2, device="cpu")


def test_the_exact_denoiser_is_the_closed_form_where_the_open_pixels_are_one_group() -> None:
    """Half of the readers count a group of nine pixels in, all count its neighbour in."""
    coverage = torch.zeros(1, 8, 8)
    coverage[0, :3, :3], coverage[0, 3, :3] = 0.5, 1.0
    found = study.exact_losses(coverage.expand(60, -1, -1), (500, 600, 800), seed=0)
    expected = least_epsilon_loss(signal_to_noise(noise_schedule(), (500, 600, 800)), 9.0) * 9 / 64
    assert np.allclose(found, expected, rtol=0.12)
