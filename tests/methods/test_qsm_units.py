"""The unit of a field: read from the file, given, or asked for where the values can't be ppm; which way the main field runs."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from calotype.core.errors import InputError
from calotype.core.events import Events
from calotype.core.types import Volume
from calotype.data import as_volume, read_volume, volume_mask
from calotype.data.volumes import masked_values
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.units import field_in_ppm
from tests.methods.test_qsmdiff import White

SIZE = (12, 10, 9)
BRAIN = torch.ones(SIZE, dtype=torch.bool)
EYE = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
PPM = 0.013 * torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
"""Like a brain's: its 99th percentile is 0.035."""
PER_PPM = {"ppm": 1.0, "ppb": 1e3, "hz": 42.577478518 * 7, "radians": 2 * np.pi * 42.577478518 * 7 * 0.005, "tesla": 7e-6, "fraction": 1e-6}


class Notes(Events):
    def __init__(self) -> None:
        self.all: list[str] = []

    def note(self, message: str) -> None:
        self.all.append(message)


def told(unit: str) -> dict[str, float]:
    """What a unit needs beside, of the scan that `PER_PPM` is of."""
    return {"hz": {"b0_tesla": 7.0}, "tesla": {"b0_tesla": 7.0}, "radians": {"b0_tesla": 7.0, "te_ms": 5.0}}.get(unit, {})


@pytest.mark.parametrize("unit", PER_PPM)
def test_every_unit_comes_out_in_ppm(unit: str) -> None:
    field = Volume(PPM * PER_PPM[unit], EYE)
    found = field_in_ppm(field, BRAIN, unit=unit, **told(unit))  # type: ignore[arg-type]
    assert found.unit == "ppm"
    torch.testing.assert_close(found.values, PPM, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("written", "unit"), [("unit: ppm", "ppm"), ("field map [Hz]", "hz"), ("ppb, LBV", "ppb"), ("rad", "radians")])
def test_the_unit_in_a_files_description_counts(tmp_path: Path, written: str, unit: str) -> None:
    image = nibabel.Nifti1Image((PPM * PER_PPM[unit]).numpy(), EYE.numpy())
    image.header["descrip"] = written.encode()
    nibabel.save(image, tmp_path / "f.nii.gz")
    field = read_volume(tmp_path / "f.nii.gz")
    torch.testing.assert_close(field_in_ppm(field, BRAIN, **told(unit)).values, PPM, rtol=1e-4, atol=1e-7)  # type: ignore[arg-type]
    if told(unit):
        with pytest.raises(InputError, match=rf"a field in {unit} needs .*b0_tesla"):
            field_in_ppm(field, BRAIN)


@pytest.mark.parametrize("unit", ["ppb", "hz", "radians", "tesla", "fraction"])
def test_values_that_cant_be_ppm_are_refused_with_the_unit_that_they_look_like(unit: str) -> None:
    values = PPM * {**PER_PPM, "hz": 42.58 * 3, "radians": 16.05, "tesla": 3e-6}[unit]
    with pytest.raises(InputError, match=rf"99th percentile .* looks like .*{unit}.*--field-unit"):
        field_in_ppm(Volume(values, EYE), BRAIN)


def test_the_limits_of_the_size_test_and_what_a_given_unit_changes() -> None:
    for scale, refused in ((0.9 * 0.3 / 0.035, False), (1.3 * 0.3 / 0.035, True), (1.3e-4 / 0.035, False), (0.7e-4 / 0.035, True)):
        field = Volume(PPM / PPM.abs().quantile(0.99) * 0.035 * scale, EYE)
        if refused:
            with pytest.raises(InputError, match="99th percentile"):
                field_in_ppm(field, BRAIN)
            notes = Notes()
            assert torch.equal(field_in_ppm(field, BRAIN, unit="ppm", events=notes).values, field.values)
            assert any("is the unit right" in note for note in notes.all)
        else:
            assert torch.equal(field_in_ppm(field, BRAIN).values, field.values)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unit": "hz"}, "needs b0_tesla too"),
        ({"unit": "radians", "b0_tesla": 3.0}, "needs te_ms too"),
        ({"unit": "ppm", "b0_tesla": 3.0}, "needs no b0_tesla"),
        ({"te_ms": 20.0}, "without field_unit"),
        ({"unit": "hz", "b0_tesla": 300.0}, "in tesla"),
        ({"unit": "hz", "b0_tesla": -3.0}, "in tesla"),
        ({"unit": "radians", "te_ms": 20_000.0, "b0_tesla": 3.0}, "echo time"),
        ({"unit": "gauss"}, "field_unit is 'gauss'; choose one of ppm"),
    ],
)
def test_a_units_numbers_are_asked_for_in_one_line(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        field_in_ppm(Volume(PPM, EYE), BRAIN, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), [(-4096, 4095), (0, 4095), (-2048, 2047)])
@pytest.mark.parametrize("unit", [None, "radians"])
def test_raw_phase_is_named_before_anything_else(low: int, high: int, unit: str | None) -> None:
    raw = torch.randint(low, high + 1, SIZE, generator=torch.Generator().manual_seed(0)).float()
    with pytest.raises(InputError, match="as scanners store phase"):
        field_in_ppm(Volume(raw, EYE), BRAIN, unit=unit, **(told("radians") if unit else {}))  # type: ignore[arg-type]


def test_a_maps_unit_is_ppm() -> None:
    map_in_ppm, mask = Volume(PPM, EYE), Volume(BRAIN.float(), EYE)
    method = QSMDiff(task="denoising", num_inference_steps=1, step_size=0.5)
    with pytest.raises(InputError, match="task denoising takes a map in ppm"):
        method(White(), map_in_ppm, mask, field_unit="hz", b0_tesla=3.0)


def turned(degrees: float) -> np.ndarray:
    """Voxels of 2 mm, turned about the left-right axis."""
    angle = np.radians(degrees)
    made = np.diag([2.0, 2, 2, 1])
    made[1:3, 1:3] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    made[:3, 3] = [-12, -10, -9]
    return made


@pytest.mark.parametrize(
    ("sform", "qform", "degrees", "noted"),
    [
        ((1, 30), (1, 30), 30, False),
        ((4, 0), (1, 30), 30, False),
        ((3, 0), (1, 30), 30, False),
        ((2, 0), (1, 30), 30, False),
        ((1, 30), (2, 0), 30, False),
        ((0, 0), (1, 30), 30, False),
        ((4, 10), (0, 0), 10, True),
        ((2, 10), (2, 10), 10, True),
        ((0, 0), (0, 0), 0, True),
    ],
)
def test_the_main_field_is_read_off_the_scanners_placement(
    tmp_path: Path, sform: tuple[int, float], qform: tuple[int, float], degrees: float, noted: bool
) -> None:
    image = nibabel.Nifti1Image(PPM.numpy(), None)
    image.set_sform(turned(sform[1]), code=sform[0])
    image.set_qform(turned(qform[1]), code=qform[0])
    nibabel.save(image, tmp_path / "f.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones(SIZE, np.uint8), None, image.header), tmp_path / "m.nii.gz")
    notes = Notes()
    method, given = QSMDiff(num_inference_steps=1), {"field_unit": None, "te_ms": None, "b0_tesla": None}
    *_, b0 = method._measured(tmp_path / "f.nii.gz", tmp_path / "m.nii.gz", b0_direction=None, **given, events=notes)  # type: ignore[arg-type]
    assert np.allclose(b0, [0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))], atol=1e-5)
    assert any("give --b0-direction" in note for note in notes.all) == noted
    notes = Notes()
    *_, b0 = method._measured(tmp_path / "f.nii.gz", tmp_path / "m.nii.gz", b0_direction=(0, 3, 4), **given, events=notes)  # type: ignore[arg-type]
    assert np.allclose(b0, [0, 0.6, 0.8])
    assert not any("--b0-direction" in note for note in notes.all)


def test_two_scanners_placements_that_disagree_are_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(PPM.numpy(), None)
    image.set_sform(turned(10), code=1)
    image.set_qform(turned(30), code=1)
    nibabel.save(image, tmp_path / "f.nii.gz")
    notes = Notes()
    read_volume(tmp_path / "f.nii.gz", events=notes)
    assert any("sform (the scanner's) and qform (the scanner's) place the voxels differently" in note for note in notes.all)


def test_a_mask_that_kept_the_templates_placement_alone_still_fits(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(PPM.numpy(), None)
    image.set_sform(turned(0), code=4)
    image.set_qform(turned(30), code=1)
    nibabel.save(image, tmp_path / "f.nii.gz")
    mask = nibabel.Nifti1Image(np.ones(SIZE, np.uint8), None)
    mask.set_sform(turned(0), code=4)
    nibabel.save(mask, tmp_path / "m.nii.gz")
    assert bool(volume_mask(tmp_path / "m.nii.gz", read_volume(tmp_path / "f.nii.gz")).all())


@pytest.mark.parametrize(("shift", "accepted", "noted"), [(1e-4, True, False), (2e-3, True, True), (1e-2, True, True), (0.1, False, False)])
def test_a_mask_a_little_off_the_grid(shift: float, accepted: bool, noted: bool) -> None:
    """In mm, of voxels of 2 mm."""
    moved = EYE.clone()
    moved[0, 3] += shift
    notes = Notes()
    if not accepted:
        with pytest.raises(InputError, match="shifted by"):
            volume_mask(Volume(BRAIN.float(), moved), Volume(PPM, EYE))
        return
    assert bool(volume_mask(Volume(BRAIN.float(), moved), Volume(PPM, EYE), events=notes).all())
    assert any("taken as the same" in note for note in notes.all) == (shift > 2e-3 * 1.0001)


def test_an_array_on_disk_is_a_mask_of_the_fields_grid(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", BRAIN.numpy().astype(np.uint8))
    notes = Notes()
    assert bool(volume_mask(as_volume(tmp_path / "m.npy"), Volume(PPM, EYE), events=notes).all())
    assert any("laid on field's grid" in note for note in notes.all)
    np.save(tmp_path / "other.npy", np.ones((12, 10, 8), np.uint8))
    with pytest.raises(InputError, match="12x10x8 voxels"):
        volume_mask(as_volume(tmp_path / "other.npy"), Volume(PPM, EYE))


def test_nan_outside_the_mask_is_zero_and_inside_it_is_refused() -> None:
    values, inside = PPM.clone(), BRAIN.clone()
    inside[:2] = False
    values[0] = float("nan")
    values[1, 0, 0] = float("inf")
    notes = Notes()
    found = masked_values(Volume(values, EYE), inside, events=notes)
    assert torch.equal(found.values[inside], PPM[inside])
    assert not bool(found.values[0].any())
    assert notes.all == ["field: 91 voxels outside the mask are NaN or infinite; they are taken as 0"]
    values[5, 5, 5] = float("nan")
    with pytest.raises(InputError, match="1 of the 900 voxels in the mask are NaN"):
        masked_values(Volume(values, EYE), inside)
