"""UMed: its mathematics against plain definitions, the budget, the way back, a fit that resumes to the bit, and noise that is learnt."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from calotype.core.artifacts import DatasetFolder
from calotype.data.segmentation_folder import Pair, SegmentationFolder, write_segmentation
from calotype.errors import Cancelled, DataError, InputError
from calotype.methods.umed import UMed
from calotype.methods.umed.baselines import BASELINES, ar_field, checkerboard, linearly_separable, shuffled
from calotype.methods.umed.fitting import turned
from calotype.methods.umed.generators import CentralDifferenceConv, Perturbation
from calotype.methods.umed.regions import (
    TEXTURES,
    diagonal_detail,
    dilate,
    erode,
    lbp_count,
    lbp_uniformity,
    one_hot,
    regions,
    sensor_noise,
)
from tests.recorder import Recorder
from tests.tolerance import close

TINY = UMed(fit_steps=6, tries=1, batch_size=4, widths=(4, 8), surrogate_widths=(4, 4, 8), window=16)


def blobs(count: int, side: int = 16, channels: int = 1, seed: int = 0, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Smooth pictures in 256 levels with a disc of every class."""
    rng = torch.Generator().manual_seed(seed)
    axis = torch.arange(side, dtype=torch.float32)
    masks = torch.zeros(count, side, side, dtype=torch.int64)
    for number in range(1, classes):
        centre = side * (0.3 + 0.4 * torch.rand(count, 2, generator=rng))
        distance = ((axis[:, None] - centre[:, 0, None, None]) ** 2 + (axis - centre[:, 1, None, None]) ** 2).sqrt()
        masks[distance < side / 5] = number
    waves = 0.06 * torch.sin(axis[:, None] / side * 5 + 6 * torch.rand(count, 1, 1, generator=rng)) * torch.cos(axis / side * 4)
    images = (0.5 + waves + 0.04 * (masks > 0))[:, None].expand(-1, channels, -1, -1)
    return (images * 255).round() / 255, masks


def _bias(layer: CentralDifferenceConv) -> Tensor:
    found = layer.conv.bias
    assert found is not None
    return found[:, None, None]


def test_central_differences_are_taken_from_the_centre() -> None:
    layer = CentralDifferenceConv(2, 3).double()
    layer.logit.data.fill_(0.4)
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    patches = functional.unfold(x, 3, padding=1).view(1, 2, 9, -1)
    weight = layer.conv.weight.view(3, 2, 9)
    theta = 1 / (1 + np.exp(-0.4))
    differences = patches - theta * patches[:, :, 4:5]
    expected = torch.einsum("bcnp,ocn->bop", differences, weight).view(1, 3, 6, 7) + _bias(layer)
    close(layer(x), expected, depth=18)


def test_at_theta_one_a_plain_surface_gives_the_bias() -> None:
    layer = CentralDifferenceConv(1, 2)
    layer.logit.data.fill_(40.0)
    made = layer(torch.full((1, 1, 8, 8), 0.7))[:, :, 1:-1, 1:-1]
    assert float((made - _bias(layer)).detach().abs().max()) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(5, 14), st.integers(5, 14))
def test_dilation_and_erosion_are_those_of_a_square(seed: int, width: int, height: int, breadth: int) -> None:
    mask = np.random.default_rng(seed).random((height, breadth)) < 0.5
    square = np.ones((2 * width + 1, 2 * width + 1), dtype=bool)
    maps = torch.from_numpy(mask).float()[None, None]
    assert np.array_equal(dilate(maps, width)[0, 0].bool().numpy(), ndimage.binary_dilation(mask, square))
    assert np.array_equal(erode(maps, width)[0, 0].bool().numpy(), ndimage.binary_erosion(mask, square, border_value=1))


def test_every_class_has_a_contour_of_its_own() -> None:
    masks = torch.zeros(1, 12, 12, dtype=torch.int64)
    masks[:, 2:10, :] = 1
    masks[:, 4:8, 4:8] = 2
    both, inner = (regions(masks, 3, 1, side) for side in ("both", "inner"))
    assert both.contour.shape == (1, 2, 12, 12)
    # The picture's edge is no border of class 1; the inner border with class 2 is.
    assert not both.contour[0, 0, 5:7, 0].any()
    assert both.contour[0, 0, 4, 4] == both.contour[0, 1, 4, 4] == 1
    classes = one_hot(masks, 3)
    for found in (both, inner):
        assert float((found.contour * found.interior).max()) == 0
        assert torch.equal(torch.maximum(found.contour, found.interior) * classes, classes)
    assert torch.equal(inner.contour + inner.interior, classes)
    assert torch.equal(both.support[:, 0], dilate(both.support, 0)[:, 0])


def test_local_binary_patterns_are_counted_as_defined() -> None:
    image = torch.rand(1, 1, 5, 6)
    wide = functional.pad(image, (1, 1, 1, 1), mode="replicate")[0, 0]
    ring = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
    for row in range(5):
        for column in range(6):
            bits = [bool(image[0, 0, row, column] >= wide[row + 1 + down, column + 1 + right]) for down, right in ring]
            changes = sum(bits[place] != bits[place - 1] for place in range(8))
            assert float(lbp_count(image)[0, 0, row, column]) == pytest.approx(sum(bits) / 8)
            assert float(lbp_uniformity(image)[0, 0, row, column]) == pytest.approx(changes / 8)


@pytest.mark.parametrize("name", list(TEXTURES))
def test_textures_lie_between_none_and_all(name: str) -> None:
    found = TEXTURES[name](torch.rand(2, 3, 9, 9))
    assert found.shape == (2, 1, 9, 9)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_diagonal_detail_is_blind_to_stripes_and_sees_a_checkerboard() -> None:
    rows = torch.arange(8.0) % 2
    assert float(diagonal_detail(rows[:, None].expand(8, 8)[None, None]).abs().max()) == 0
    checks = (rows[:, None] + rows) % 2
    assert diagonal_detail(checks[None, None])[0, 0, 1:-1, 1:-1].abs().unique().tolist() == [8.0]


def test_sensor_noise_is_measured_where_it_counts() -> None:
    noise = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(0, 1, 64).expand(4, 1, 64, 64)
    support = torch.zeros(4, 1, 64, 64)
    support[:, :, 8:56, 8:56] = 1
    assert sensor_noise(slope + 0.02 * noise, support) == pytest.approx(0.02, rel=0.06)
    assert sensor_noise(slope + 0.02 * noise * (1 - support), support) < 1e-3
    assert sensor_noise(slope, torch.zeros_like(support)) == 0


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 1000), st.sampled_from((1, 3)), st.sampled_from((2, 3)), st.tuples(st.integers(16, 25), st.integers(16, 25)),
    st.sampled_from(list(TEXTURES)), st.booleans(), st.booleans(), st.sampled_from(("inner", "both")),
)  # fmt: skip
def test_noise_stays_within_the_budget_and_the_support(
    seed: int, channels: int, classes: int, sides: tuple[int, int], texture: Any, sees_masks: bool, high_pass: bool, side: Any
) -> None:
    torch.manual_seed(seed)
    images, masks = torch.rand(2, channels, *sides), torch.randint(0, classes, (2, *sides))
    masks[:, :9] = 0
    drawn = Perturbation(
        channels, classes, epsilon=0.03, band=2, side=side, texture=texture, widths=(4, 8, 8), sees_masks=sees_masks, high_pass=high_pass
    )
    for part in drawn.parameters():
        part.data.mul_(5.0)
    delta = drawn(images, masks)
    assert delta.shape == images.shape
    assert float(delta.detach().abs().max()) <= 0.03 + 1e-9
    outside = regions(masks, classes, 2, side).support == 0
    assert not bool((delta.detach() * outside).any())


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 12)])
def test_the_positions_of_a_square(shape: Sequence[int]) -> None:
    values = torch.rand(*shape)
    seen = {turned(values, torch.full((2,), number))[0].flatten().numpy().tobytes() for number in range(8)}
    assert len(seen) == (8 if shape[2] == shape[3] else 4)


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("em", "tap")])
@pytest.mark.parametrize("classes", [2, 3])
def test_baselines_keep_the_budget_and_repeat(name: str, classes: int) -> None:
    images, masks = blobs(3, channels=3, classes=classes)
    first, again = (BASELINES[name](images, masks, 0.03, seed=4) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert float(first.abs().max()) == pytest.approx(0.03, abs=1e-6)
    if name not in ("null", "lsp", "ar"):
        assert not bool((first * (masks == 0)[:, None]).any())


def test_autoregressive_noise_follows_its_filter() -> None:
    coefficients = torch.tensor([[[0.1, 0.2, 0.1], [0.3, -0.2, 0.1], [0.2, 0.2, 0.0]]], dtype=torch.float64)
    field = ar_field(coefficients, torch.randn(1, 1, 7, 6, dtype=torch.float64))
    expected = (coefficients[0] * field[0, 0, 3:6, 2:5]).sum()
    close(field[0, 0, 5, 4], expected, depth=9)


def test_linearly_separable_noise_is_one_pattern_a_class() -> None:
    images, masks = blobs(4)
    made = linearly_separable(images, masks, 0.03, seed=1)
    for number in range(2):
        values = torch.where(masks[:, None] == number, made, torch.nan)
        low, high = values.nan_to_num(9).amin(0), values.nan_to_num(-9).amax(0)
        known = (masks == number).any(0)
        assert torch.equal(low[0][known], high[0][known])
    assert not torch.equal(shuffled(made), made)


def test_classes_have_different_checks() -> None:
    images, masks = blobs(1, side=24, classes=3)
    made = checkerboard(images, masks, 1.0)[0, 0]
    one, two = (torch.where(masks[0] == number, made, torch.nan) for number in (1, 2))
    assert not bool((one[:, 1:] == one[:, :-1]).any())
    assert not bool((two[:, 1:] == two[:, :-1]).any())
    assert bool((two[1:] == two[:-1]).any())


def test_em_goes_down_the_loss_and_tap_towards_the_inverted_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calotype.methods.umed.baselines.EM_ROUNDS", 2)
    monkeypatch.setattr("calotype.methods.umed.baselines.EM_STEPS", 3)
    monkeypatch.setattr("calotype.methods.umed.baselines.TAP_TRAINING", 3)
    monkeypatch.setattr("calotype.methods.umed.baselines.TAP_STEPS", 3)
    images, masks = blobs(4)
    for name in ("em", "tap"):
        first, again = (BASELINES[name](images, masks, 0.03, seed=0) for _ in range(2))
        assert torch.equal(first, again)
        assert 0 < float(first.abs().max()) <= 0.03 + 1e-8


def test_a_stopped_fit_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calotype.methods.umed.fitting.SAVE_EVERY", 2)
    images, masks = blobs(5)
    whole = TINY.perturbation(images, masks, seed=3, device="cpu")
    stopped = Recorder(stop_after=4)
    with pytest.raises(Cancelled):
        TINY.perturbation(images, masks, seed=3, device="cpu", events=stopped)
    assert int(stopped.states["umed-fit"]["step"]) == 4
    went_on = Recorder(states=stopped.states)
    assert torch.equal(TINY.perturbation(images, masks, seed=3, device="cpu", events=went_on), whole)
    assert went_on.stages[0][1:] == (6, 6)
    assert not torch.equal(TINY.perturbation(images, masks, seed=4, device="cpu"), whole)


@pytest.mark.parametrize("stop_after", [3, 7, 11, 14, 17])
def test_tries_that_were_stopped_go_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    monkeypatch.setattr("calotype.methods.umed.fitting.SAVE_EVERY", 2)
    monkeypatch.setattr("calotype.methods.umed.fitting.VICTIM_WINDOWS", 6)
    monkeypatch.setattr("calotype.methods.umed.fitting.VICTIM_STEPS", 3)
    images, masks = blobs(5)
    method = dataclasses.replace(TINY, tries=3, try_steps=4)
    heard = Recorder()
    whole = method.perturbation(images, masks, seed=3, device="cpu", events=heard)
    stopped = Recorder(stop_after=stop_after)
    with pytest.raises(Cancelled):
        method.perturbation(images, masks, seed=3, device="cpu", events=stopped)
    went_on = Recorder(states=stopped.states)
    assert torch.equal(method.perturbation(images, masks, seed=3, device="cpu", events=went_on), whole)
    assert heard.stages[0][1:] == went_on.stages[0][1:] == (14, 14)
    assert went_on.notes == heard.notes


def test_the_try_goes_on_whose_victim_finds_least(monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.methods.umed import fitting

    monkeypatch.setattr(fitting, "VICTIM_WINDOWS", 6)
    monkeypatch.setattr(fitting, "VICTIM_STEPS", 1)
    scores = iter([0.5, 0.2, 0.4])
    monkeypatch.setattr(fitting, "dice", lambda *_: torch.tensor(next(scores)))
    images, masks = blobs(5)
    method = dataclasses.replace(TINY, tries=3, try_steps=2)
    heard = Recorder()
    chosen = method.perturbation(images, masks, seed=3, device="cpu", events=heard)
    assert [note for note in heard.notes if "victim" in note] == [
        "a short victim's Dice in pictures without the noise, by fit: 0.50, 0.20, 0.40; fit 2 goes on"
    ]
    scores = iter([0.2, 0.5, 0.4])
    assert not torch.equal(method.perturbation(images, masks, seed=3, device="cpu"), chosen)


def test_the_surrogate_moves_in_every_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.train.optimizers import Optimizers

    moved: list[str] = []
    original = Optimizers.update

    def update(self: Optimizers, name: str, *rest: Any) -> float:
        moved.append(name)
        return original(self, name, *rest)

    monkeypatch.setattr(Optimizers, "update", update)
    TINY.perturbation(*blobs(4), device="cpu")
    assert moved == ["surrogate", "perturbation"] * 3


def test_random_numbers_outside_are_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    TINY.perturbation(*blobs(4), device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def write(folder: Path, count: int = 4, side: int = 40, channels: int = 1, depth: int = 8, classes: int = 2) -> Path:
    images, masks = blobs(count, side, channels, classes=classes)
    if depth == 16:
        images = (images * 65535 + torch.arange(side)).round().clamp(0, 65535) / 65535
    rows = [Pair(f"p{number}", images[number], masks[number], {"patient": f"who{number // 2}", "site": "here"}) for number in range(count)]
    return write_segmentation(folder, rows, class_values=(0, 100, 255)[:classes], depth=depth)


def pixels(folder: Path) -> dict[str, np.ndarray]:
    from PIL import Image as Pillow

    return {str(path.relative_to(folder)): np.asarray(Pillow.open(path)) for path in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize(("channels", "depth", "classes"), [(1, 8, 2), (3, 8, 3), (1, 16, 2)])
def test_a_folder_is_protected_and_its_key_gives_it_back(tmp_path: Path, channels: int, depth: int, classes: int) -> None:
    original = write(tmp_path / "data", channels=channels, depth=depth, classes=classes)
    heard = Recorder()
    made = TINY(None, DatasetFolder(original), seed=1, events=heard)
    assert made.protected is not None
    assert made.key is not None
    assert made.report is not None
    before, after = pixels(original), pixels(made.protected.path)
    assert before.keys() == after.keys()
    whole = 65535 if depth == 16 else 255
    window = SegmentationFolder.open(original).intensity
    bound = round(4 / 255 * (window.high - window.low))
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        change = np.abs(after[name].astype(int) - values.astype(int))
        if name.startswith("masks"):
            assert not change.any()
            continue
        assert 0 < change.max() <= bound <= whole
        mask = before[name.replace("images", "masks")]
        assert not change[mask == 0].any()
    opened = SegmentationFolder.open(made.protected.path)
    assert (opened.patients, opened.columns("site")) == (("who0", "who0", "who1", "who1"), ["here"] * 4)
    assert heard.metrics["largest_change"] <= bound
    assert heard.metrics["psnr_db"] > 36
    assert "within the budget" in made.report.html
    back = TINY(None, DatasetFolder(made.protected.path), key=DatasetFolder(made.key.path)).originals
    assert back is not None
    assert all(np.array_equal(values, before[name]) and values.dtype == before[name].dtype for name, values in pixels(back.path).items())


def test_a_key_of_another_folder_and_a_changed_picture_are_refused(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    made = TINY(None, DatasetFolder(write(tmp_path / "data")))
    assert made.protected is not None
    assert made.key is not None
    other = DatasetFolder(write(tmp_path / "other", count=3))
    with pytest.raises(InputError, match="give its own key"):
        TINY(None, other, key=made.key)
    picture = made.protected.path / "images" / "p1.png"
    values = np.array(Pillow.open(picture))
    values[0, 0] += 1
    Pillow.fromarray(values).save(picture)
    with pytest.raises(InputError, match="p1: the picture was changed"):
        TINY(None, made.protected, key=made.key)
    with pytest.raises(InputError, match=r"key\.json"):
        TINY(None, made.protected, key=other)


def test_who_has_noisy_pictures_is_warned_before_the_fit(tmp_path: Path) -> None:
    images, masks = blobs(4, 32)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    for name, deviation in (("smooth", 0.0), ("noisy", 0.04)):
        rows = [Pair(f"p{number}", (images[number] + deviation * noise[number]).clamp(0, 1), masks[number]) for number in range(4)]
        heard = Recorder(stop_after=20)
        method = dataclasses.replace(TINY, fit_steps=1000)
        with pytest.raises(Cancelled):
            method(None, DatasetFolder(write_segmentation(tmp_path / name, rows)), events=heard)
        (line,) = [note for note in heard.notes if "sensor noise" in note]
        assert ("NOTHING PROTECTS" in line) == (name == "noisy")
        assert heard.heard.index(f"note {line}") < heard.heard.index("stage fit the perturbation 1000")


def test_a_folder_that_cannot_be_protected_is_refused_in_one_line_each(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / "masks" / "p0.png").unlink()
    (folder / "masks" / "p1.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        TINY.check({"data": DatasetFolder(folder)})
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="smallest picture"):
        TINY.perturbation(*blobs(4, 12))
    with pytest.raises(DataError, match="two or more"):
        TINY.check({"data": DatasetFolder(write(tmp_path / "one", count=1))})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"epsilon": 0.1}, "epsilon"),
        ({"widths": (6, 8)}, "widths"),
        ({"texture": "wood"}, "texture"),
        ({"surrogate_every": 1}, "surrogate_every"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        UMed(**changes)


def test_the_command_protects_and_restores(tmp_path: Path) -> None:
    original = write(tmp_path / "data", count=3)
    command = [sys.executable, "-m", "calotype", "run", "umed", "--quiet", "--device", "cpu"]
    few = ["--fit-steps", "4", "--widths", "4", "8", "--surrogate-widths", "4", "4", "8"]
    subprocess.run([*command, "--data", str(original), "--epsilon", "8", *few, "--out", str(tmp_path / "run")], check=True, timeout=120)
    made = tmp_path / "run"
    assert {path.name for path in made.iterdir()} >= {"protected", "key", "report.html", "run.json"}
    again = ["--data", str(made / "protected"), "--key", str(made / "key"), "--out", str(tmp_path / "back")]
    subprocess.run([*command, *again], check=True, timeout=120)
    before, after = pixels(original), pixels(tmp_path / "back" / "originals")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
