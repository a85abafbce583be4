"""StyleCineGAN's evaluation: true frames count as right, each control fails where it has to, and the claims can fail."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch

from calotype.backbones.feature_style_encoder import FeatureStyleEncoder
from calotype.backbones.landscape_generator import LandscapeGenerator
from calotype.backbones.loading import load
from calotype.backbones.motion_network import MotionNetwork
from calotype.backbones.stylegan2 import StyleGAN2Generator
from calotype.core.events import SILENT
from calotype.evaluation import stylecinegan as proof
from calotype.evaluation.landscape_cases import (
    NEAR,
    SIDE,
    CrossFadeLoop,
    ForwardLoop,
    as_kind,
    clip_of,
    landscape_cases,
    loop_figures,
    motion_figures,
    of_picture,
    turned,
)
from calotype.evaluation.stylecinegan import LoopTable, claims, fitted, flipped_past, learn_masks, untrained
from calotype.methods.stylecinegan.method import Loop

CASES = landscape_cases("tune", 3, 3)


@functools.cache
def tiny() -> LandscapeGenerator:
    """64 px, with the weights that the networks begin with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2Generator(size=SIDE, style_dim=8, num_mapping_layers=2, channels=dict.fromkeys((4, 8, 16, 32, 64), 6))
        encoder = FeatureStyleEncoder(
            size=SIDE, style_dim=8, num_styles=10, feature_layer=6, feature_channels=6, widths=(8, 8, 8), style_width=16, feature_width=8
        )  # fmt: skip
        motion = MotionNetwork(size=16, widths=(8, 8))
    modules = {"generator": generator, "encoder": encoder, "motion": motion}
    ready = {name: network.eval().requires_grad_(False) for name, network in modules.items()}
    return LandscapeGenerator(load("toy-vae", device="cpu").source, ready, device=torch.device("cpu"))


@functools.cache
def table() -> LoopTable:
    return LoopTable(tiny(), CASES, 3, SILENT)


def photo(number: int, **changes: torch.Tensor) -> Loop:
    """The photograph in place of the inversion, which isn't one with random weights."""
    return of_picture(table().loop(number, **changes), CASES[number].image.pixels[None] * 2 - 1)


def test_cases_depend_on_split_and_seed_alone() -> None:
    again, other = landscape_cases("tune", 3, 2), landscape_cases("eval", 3, 2)
    assert all(torch.equal(a.later, b.later) and a.angle == b.angle for a, b in zip(CASES, again, strict=False))
    assert not torch.equal(CASES[0].image.pixels, other[0].image.pixels)
    case = CASES[0]
    assert torch.equal(case.later[0], case.image.pixels)
    assert torch.equal(case.earlier[0], case.image.pixels)
    assert not case.motion[:, ~case.moving.values].any()
    assert torch.allclose(turned(turned(case.motion, 1.0), -1.0), case.motion, atol=1e-5)


def test_a_splatted_photograph_follows_the_truth_and_controls_do_not() -> None:
    def error(field: torch.Tensor | None = None) -> tuple[float, float]:
        found = [
            motion_figures(case, clip_of(photo(number, **({} if field is None else {"field": field[number]})), NEAR + 1))
            for number, case in enumerate(CASES)
        ]
        known = [each["flow_error_px"] for each in found if each["windows"]]
        return sum(known) / len(known), sum(each["early_psnr_db"] for each in found) / len(found)

    fields = torch.stack([case.motion for case in CASES])
    right, near = error()
    assert right < 0.5
    for wrong in (-fields, fields.flip(1), torch.zeros_like(fields)):
        away, far = error(wrong)
        assert away > 1.0
        assert far < near
    assert motion_figures(CASES[0], CASES[0].later)["true_psnr_db"] == 99


def test_loops_close_and_baselines_tear_or_jump() -> None:
    case = CASES[0]
    figures = {}
    for name, loop in (
        ("method", photo(0)), ("forward", as_kind(photo(0), ForwardLoop)), ("fade", as_kind(photo(0), CrossFadeLoop)),
        ("flipped", flipped_past(photo(0))),
    ):  # fmt: skip
        clip = clip_of(loop)
        assert len(clip) == proof.FRAMES + 1
        figures[name] = loop_figures(case, loop, clip)
        figures[name]["end"] = motion_figures(case, clip.flip(0), backwards=True)["true_psnr_db"]
    assert figures["method"]["seam"] == figures["method"]["static_change"] == 0
    assert 0.7 < figures["method"]["seam_ratio"] < 1.3
    assert figures["forward"]["seam"] > 0.02
    assert figures["forward"]["seam_ratio"] > 2
    assert figures["forward"]["holes"] > figures["method"]["holes"] + 0.03
    assert figures["fade"]["holes"] == 0
    assert figures["fade"]["contrast"] < figures["method"]["contrast"] < figures["forward"]["contrast"] <= 1.0
    # A past of the wrong sign ends at the first frame, too: it shows before the end.
    assert figures["flipped"]["seam"] == 0
    assert figures["flipped"]["end"] < figures["method"]["end"] - 1


def test_without_the_composite_the_rest_moves() -> None:
    loop = table().loop(1, method=dataclasses.replace(table().method, composite="none"))
    assert loop_figures(CASES[1], loop, clip_of(loop))["static_change"] > 0.01


def test_a_classifier_learns_masks_from_maps_that_show_them() -> None:
    shown = [[torch.nn.functional.one_hot(case.classes, 3).movedim(-1, 0)[None].float()] for case in CASES]
    classifier = learn_masks(shown, CASES, members=1)
    assert proof._overlap(classifier, shown[2], CASES[2])["miou"] > 0.9
    wrong = torch.ones(SIDE, SIDE, dtype=torch.long)
    assert proof._agreement(wrong, CASES[2])["miou"] < 0.5
    assert proof._agreement(CASES[2].classes, CASES[2])["miou"] == 1


def test_a_feature_is_fitted_on_any_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "FITTING_STEPS", 8)
    pictures = torch.stack([case.image.pixels for case in CASES])
    fresh = untrained(tiny().generator)
    made = fitted(fresh, table().inversions, tiny().feature_layer, pictures)
    with torch.no_grad():
        before = fresh(torch.cat([each.w_plus for each in table().inversions]))
    wanted = pictures * 2 - 1
    assert float((made - wanted).square().mean()) < float((before - wanted).square().mean())


def test_three_channels_are_enough_at_any_size() -> None:
    found = proof.both_ways(table().loop, 0)
    assert found["difference"] < 1e-5
    assert found["times_faster"] > 0


def good() -> LoopTable:
    """Figures with which every claim holds."""
    rows = LoopTable(tiny(), [], 0, SILENT)
    loops = {
        "seam": 0.0,
        "seam_ratio": 1.0,
        "holes": 0.0,
        "contrast": 0.9,
        "flow_error_px": 0.1,
        "early_psnr_db": 35.0,
        "static_change": 0.0,
    }
    rows.add("method", "method", [loops] * 60)
    for variant in ("cross-fade", "forward-only"):
        rows.add(variant, "baseline", [{"contrast": 0.7}] * 60)
    for variant in ("random-direction", "swapped-axes"):
        rows.add(variant, "ablation", [{"flow_error_px": 2.0}] * 60)
    rows.add("flipped-motion", "ablation", [{"early_psnr_db": 28.0}] * 60)
    rows.add("no-composite", "ablation", [{"static_change": 0.2}] * 60)
    rows.add("flipped-past", "ablation", [{"end_flow_error_px": 2.0}] * 60)
    rows.add("method@inversion", "method", [{"inversion_psnr_db": 36.0}] * 60)
    rows.add("w-plus@inversion", "baseline", [{"inversion_psnr_db": 26.0}] * 60)
    rows.add("features@mask", "method", [{"miou": 0.95}] * 60)
    rows.add("colour-and-place@mask", "baseline", [{"miou": 0.7}] * 60)
    rows.add("method@exact", "method", [{"difference": 1e-7}] * 3)
    rows.add(f"method@exact-{proof.LARGE}", "method", [{"times_faster": 40.0}])
    return rows


def test_claims_hold_for_good_figures_and_each_can_fail() -> None:
    assert all(claim.holds for claim in claims(good()))
    rows = good()
    for variant, metrics in (("method", {"seam": 0.1, "flow_error_px": 0.5}), ("random-direction", {"flow_error_px": 0.9})):
        numbers = rows._scenes[variant]
        for name, value in metrics.items():
            numbers[name] = [value] * 60
    assert sum(not claim.holds for claim in claims(rows)) == 3


def test_a_quick_look_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof.StyleCineGANEvaluation, "load", lambda self, device: tiny())
    monkeypatch.setattr(proof, "predicted", lambda rows, number: rows.loop(number))
    monkeypatch.setattr(proof, "large_model", tiny)
    monkeypatch.setattr(proof, "mask_rows", lambda rows: None)
    monkeypatch.setattr(proof, "FITTING_STEPS", 2)
    monkeypatch.setattr(proof, "FRAMES", 6)
    report = proof.StyleCineGANEvaluation()(seed=1, count=1, quick=True)
    assert not report.claims
    assert {"method", "forward-only", "cross-fade", "flipped-past", "true-frames", "w-plus@inversion"} <= {
        row.variant for row in report.rows
    }
    assert any("too few" in note for note in report.notes)
    assert not math.isnan(report.row("method").metrics["true_psnr_db"])
