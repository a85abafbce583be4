"""The evaluation of UMed: its data and counter-measures are what they say, its rows see the same pictures, its claims can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from calotype.core.events import SILENT
from calotype.data.segmentation_folder import Pair, write_segmentation
from calotype.errors import InputError
from calotype.evaluation import umed
from calotype.evaluation.umed import MATCHED, Poisoning, UMedEvaluation, claims
from calotype.evaluation.umed_victims import Attack, Pairs, blur, chosen, clean_share, grey, jpeg, levels, tissue_pairs
from calotype.methods.umed import UMed
from calotype.methods.umed.regions import diagonal_detail
from calotype.metrics import psnr
from calotype.metrics.segmentation import dice
from tests.methods.test_umed import TINY, blobs

SHORT = Attack("unet", steps=2, seeds=(0,))


def table(train: Pairs, test: Pairs) -> Poisoning:
    return Poisoning(train, test, test, TINY, SHORT, 0, SILENT)


def test_pictures_of_different_numbers_never_meet() -> None:
    train, test = (tissue_pairs(3, split="eval", seed=1, noise=0.004, size=32, first=first) for first in (0, 3))
    again = tissue_pairs(1, split="eval", seed=1, noise=0.004, size=32, first=3)
    assert torch.equal(test.images[:1], again.images)
    assert not torch.equal(train.images, test.images)
    assert torch.equal(levels(train.images), train.images)
    assert train.images.shape == (3, 1, 32, 32)
    assert train.masks.unique().tolist() == [0, 1]


def test_counter_measures_do_what_they_say() -> None:
    images, _ = blobs(2, 32, channels=3)
    noisy = levels(images + 0.03 * (torch.randint(0, 2, images.shape) * 2 - 1))
    assert float(psnr(jpeg(images), images).min()) > 35
    smooth = blur(noisy)
    assert float((smooth - images).abs().mean()) < float((noisy - images).abs().mean()) / 2
    assert torch.allclose(blur(torch.full((1, 1, 16, 16), 0.3)), torch.full((1, 1, 16, 16), 0.3))
    assert torch.equal(grey(noisy)[:, 0], grey(noisy)[:, 2])
    assert jpeg(images[:, :1]).shape == (2, 1, 32, 32)


def test_names_are_checked() -> None:
    assert [clean_share(name) for name in ("clean10%", "clean100%", "clean%", "blur")] == [0.1, None, None, None]
    assert chosen("a, b", ("a", "b"), "x") == ["a", "b"]
    for settings in ({"victims": "alexnet"}, {"counter_measures": "pray"}):
        with pytest.raises(InputError, match="unknown"):
            UMedEvaluation(**settings).check(count=None, record=False)  # type: ignore[arg-type]
    UMedEvaluation(counter_measures="jpeg75,blur,grey,clean10%,clean25%").check(count=None, record=False)
    with pytest.raises(InputError, match="leave out count"):
        UMedEvaluation(data=Path("x")).check(count=3, record=False)


def test_baselines_spend_at_least_as_much_as_the_method() -> None:
    train = Pairs(*blobs(4))
    made = table(train, train)
    most = 42.0
    for name in ("random-signs", "constant", "checkerboard", "lsp", "ar"):
        images, epsilon = made.matched(name, most)
        assert made.psnr_of(images) <= most
        if epsilon > 1:
            assert made.psnr_of(made.baseline(name, epsilon - 1)) > most


def test_a_quick_look_gives_two_rows_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umed, "QUICK_STEPS", 2)
    report = UMedEvaluation()(seed=3, count=2, quick=True, device="cpu")
    assert [row.variant for row in report.rows] == ["clean", "method"]
    assert not report.claims
    assert report.row("clean").metrics["psnr_db"] == 99
    assert any("no verdict" in note or "quick" in note for note in report.notes)


def test_a_folder_is_measured_by_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umed, "QUICK_STEPS", 2)
    images, masks = blobs(10, 40)
    rows = [Pair(f"p{number}", images[number], masks[number], {"patient": f"who{number // 2}"}) for number in range(10)]
    folder = write_segmentation(tmp_path / "data", rows)
    report = UMedEvaluation(data=folder)(seed=3, quick=True, device="cpu")
    assert {row.n for row in report.rows} <= set(range(1, 10))


def test_claims_can_hold_and_fail() -> None:
    train = Pairs(*blobs(4))
    made = table(train, train)
    about = {"psnr_db": 45.0, "protected_dice": 0.95, "changed_share": 0.1, "epsilon": 4.0}
    dice = {"clean": 0.9, "method": 0.2, "null": 0.88, "shuffled": 0.8, "contour": 0.5, "interior": 0.6}
    dice |= dict.fromkeys(MATCHED, 0.7) | {f"clean{umed.LOUD}": 0.8, f"method{umed.LOUD}": 0.79}
    for variant, value in dice.items():
        made.add(variant, "baseline", [{"dice": value + 0.001 * number, **about} for number in range(40)])
    assert [claim.claim for claim in claims(made, 1.0, 16.0) if not claim.holds] == []
    worse = table(train, train)
    for variant, value in {**dice, "method": 0.75, "checkerboard": 0.1}.items():
        worse.add(variant, "baseline", [{"dice": value + 0.001 * number, **about, "psnr_db": 40.0} for number in range(40)])
    failing = [claim for claim in claims(worse, 5.0, 2.0) if not claim.holds]
    assert len(failing) >= 10


def test_the_noise_tells_the_mask_more_plainly_than_random_signs() -> None:
    """One filter of 3 x 3 and a threshold are the simplest segmenter there is; what it finds, every network finds first."""
    pairs = tissue_pairs(32, split="tune", seed=2, noise=0.004, size=32)
    made = Poisoning(pairs, pairs, pairs, dataclasses.replace(UMed(), fit_steps=40, tries=1, widths=(8, 16)), SHORT, 0, SILENT)
    found = {}
    for name, images in (("clean", pairs.images), ("random-signs", made.baseline("random-signs", 4)), ("method", made.protected())):
        seen = diagonal_detail(images).abs()[:, 0]
        cuts = [dice((seen > level).long(), pairs.masks).nanmean() for level in seen.quantile(torch.linspace(0.5, 0.95, 10))]
        found[name] = float(max(cuts))
    assert found["method"] > found["random-signs"] + 0.05 > found["clean"] + 0.1
