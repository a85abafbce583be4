"""The gates of an embedded model: claims from the bars in its file, recorded where the queue and the card's readers look."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from calotype.embedded import RECIPES
from calotype.embedded.evaluate import GateEvaluation
from calotype.embedded.export import missing_gates, read_gates, write_gates
from calotype.errors import InputError


def test_gates_become_claims_and_are_recorded_in_the_gates_file_and_the_card(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "checkpoints"
    shutil.copytree(family, home)
    evaluation = GateEvaluation(RECIPES["toy-vae"], home)
    report = evaluation(seed=3, count=4, device="cpu")
    assert (report.method, report.count, [row.variant for row in report.rows]) == ("toy-vae", 4, ["toy-vae"])
    assert [(claim.claim, claim.bar) for claim in report.claims] == [("psnr_db at least", 29.0), ("latent_condition at most", 2.0)]
    assert not report.claims[0].holds
    evaluation.record(report, command="calotype eval toy-vae --seed 3 --record")
    known = read_gates(home)["toy-vae"]
    assert known["figures"] == report.rows[0].metrics
    assert known["figures_seed"] == 3
    assert "psnr_db" in missing_gates("toy-vae", known)
    card = (home / "toy-vae" / "README.md").read_text()
    assert RECIPES["toy-vae"].card.about in card
    assert "`calotype eval toy-vae --seed 3`" in card
    assert (tmp_path / "results" / "toy-vae.csv").is_file()


def test_figures_of_other_weights_are_not_recorded(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "checkpoints"
    shutil.copytree(family, home)
    write_gates(home, "toy-vae", {**read_gates(home)["toy-vae"], "weights": "others"})
    evaluation = GateEvaluation(RECIPES["toy-vae"], home)
    report = evaluation(seed=3, count=2, device="cpu")
    with pytest.raises(InputError, match=r"has other weights than gates\.json describes"):
        evaluation.record(report, command="")
    assert not (tmp_path / "results").exists()
