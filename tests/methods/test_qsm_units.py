"""The unit of a field: read from the file, given, or asked for where the values can't be ppm; which way the main field runs."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from calotype.data import as_volume, read_volume, volume_mask
from calotype.data.volumes import masked_values
from calotype.errors import InputError
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.inputs import read_measurement
from calotype.methods.qsmdiff.units import field_in_ppm
from tests.fuzz.mutations import reads_or_refuses
from tests.methods.test_qsmdiff import White
from tests.recorder import Recorder

SIZE = (12, 10, 9)
BRAIN = torch.ones(SIZE, dtype=torch.bool)
EYE = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
PPM = 0.013 * torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
"""Like a brain's: its 99th percentile is 0.035."""
HERTZ = 42.577478518 * 7
PER_PPM = {
    "ppm": 1.0, "ppb": 1e3, "hz": HERTZ, "rad/s": 2 * np.pi * HERTZ, "radians": 2 * np.pi * HERTZ * 0.005, "tesla": 7e-6, "fraction": 1e-6,
}  # fmt: skip


def told(unit: str) -> dict[str, float]:
    """What a unit needs beside, of the scan that `PER_PPM` is of."""
    one = {"b0_tesla": 7.0}
    return {"hz": one, "rad/s": one, "tesla": one, "radians": {**one, "te_ms": 5.0}}.get(unit, {})


@pytest.mark.parametrize("unit", PER_PPM)
def test_every_unit_comes_out_in_ppm(unit: str) -> None:
    field = Volume(PPM * PER_PPM[unit], EYE)
    found = field_in_ppm(field, BRAIN, unit=unit, **told(unit))  # type: ignore[arg-type]
    assert found.unit == "ppm"
    torch.testing.assert_close(found.values, PPM, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ("unit: ppm", "ppm"), ("unit: Hertz", "hz"), ("unit: T", "tesla"), ("field map [Hz]", "hz"), ("ppb, LBV", "ppb"),
        ("rad", "radians"),
        ("fieldmap (rad/s)", "rad/s"), ("in radians per second", "rad/s"), ("rad s^-1", "rad/s"), ("rad/sec", "rad/s"),
    ],
)  # fmt: skip
def test_the_unit_in_a_files_description_counts(tmp_path: Path, written: str, unit: str) -> None:
    image = nibabel.Nifti1Image((PPM * PER_PPM[unit]).numpy(), EYE.numpy())
    image.header["descrip"] = written.encode()
    nibabel.save(image, tmp_path / "f.nii.gz")
    field = read_volume(tmp_path / "f.nii.gz")
    torch.testing.assert_close(field_in_ppm(field, BRAIN, **told(unit)).values, PPM, rtol=1e-4, atol=1e-7)  # type: ignore[arg-type]
    if told(unit):
        with pytest.raises(InputError, match=rf"a field in {unit} needs .*b0_tesla"):
            field_in_ppm(field, BRAIN)
    notes = Recorder()
    field_in_ppm(field, BRAIN, unit="fraction", events=notes)
    assert any("and fraction counts, which was given" in note for note in notes.notes)


@pytest.mark.parametrize("unit", ["ppb", "hz", "rad/s", "radians", "tesla", "fraction"])
def test_values_that_cant_be_ppm_are_refused_with_the_unit_that_they_look_like(unit: str) -> None:
    """At 3 T and 20 ms; the likeliest unit first."""
    values = PPM * {**PER_PPM, "hz": 127.7, "rad/s": 802.6, "radians": 16.05, "tesla": 3e-6}[unit]
    for scale in (0.6, 1, 1.6):
        with pytest.raises(InputError, match=rf"99th percentile .* looks like .*{unit} .*--field-unit") as caught:
            field_in_ppm(Volume(scale * values, EYE), BRAIN)
        if scale == 1 and unit != "rad/s":
            assert f"looks like {unit} " in str(caught.value)


def test_a_unit_that_is_none_of_a_fields_is_asked_for() -> None:
    for unit in ("HU", "µT", "arbitrary"):
        with pytest.raises(InputError, match=rf"its unit is '{unit}', which is none of ppm, .*--field-unit"):
            field_in_ppm(Volume(PPM, EYE, unit), BRAIN)
    assert torch.equal(field_in_ppm(Volume(PPM, EYE, "HU"), BRAIN, unit="ppm").values, PPM)


def test_what_could_be_ppm_and_is_nearer_to_another_unit_is_noted() -> None:
    """Phase of a short echo passes the size test."""
    notes = Recorder()
    field_in_ppm(Volume(PPM * 5, EYE), BRAIN, events=notes)
    assert any("taken as ppm, and could be radians" in note for note in notes.notes)
    notes = Recorder()
    for scale in (0.4, 1, 2.5):
        field_in_ppm(Volume(PPM * scale, EYE), BRAIN, events=notes)
    assert not notes.notes


def test_zeros_in_a_wide_mask_dont_count() -> None:
    """A mask of the head around a field of the brain: the size is that of what was measured."""
    values = torch.zeros(30, 30, 30)
    values[:6, :6, :6] = 10 * torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(1))
    with pytest.raises(InputError, match="looks like ppb"):
        field_in_ppm(Volume(values, EYE), torch.ones(30, 30, 30, dtype=torch.bool))


def test_the_limits_of_the_size_test_and_what_a_given_unit_changes() -> None:
    for scale, refused in ((0.9 * 0.3 / 0.035, False), (1.3 * 0.3 / 0.035, True), (1.3e-4 / 0.035, False), (0.7e-4 / 0.035, True)):
        field = Volume(PPM / PPM.abs().quantile(0.99) * 0.035 * scale, EYE)
        if refused:
            with pytest.raises(InputError, match="99th percentile"):
                field_in_ppm(field, BRAIN)
            notes = Recorder()
            assert torch.equal(field_in_ppm(field, BRAIN, unit="ppm", events=notes).values, field.values)
            assert any("is the unit right" in note for note in notes.notes)
        else:
            assert torch.equal(field_in_ppm(field, BRAIN).values, field.values)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unit": "hz"}, "needs b0_tesla too"),
        ({"unit": "radians", "b0_tesla": 3.0}, "needs te_ms too"),
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


def test_whole_numbers_in_ppb_are_no_raw_phase() -> None:
    """A field stored as whole ppb: taken where the unit is said, and asked for where it isn't."""
    whole = (PPM * 1e3 * 3).round()
    for field, given in ((Volume(whole, EYE), {"unit": "ppb"}), (Volume(whole, EYE, "ppb"), {})):
        torch.testing.assert_close(field_in_ppm(field, BRAIN, **given).values, whole / 1e3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"as scanners store phase .* if these are ppb, give --field-unit ppb"):
        field_in_ppm(Volume(whole, EYE), BRAIN)


def test_numbers_of_the_scan_that_a_unit_doesnt_need_change_nothing() -> None:
    for unit, numbers in (("hz", {"te_ms": 20.0, "b0_tesla": 7.0}), ("ppm", {"b0_tesla": 3.0}), ("ppb", {"te_ms": 20.0})):
        notes = Recorder()
        found = field_in_ppm(Volume(PPM * PER_PPM[unit], EYE), BRAIN, unit=unit, **numbers, events=notes)  # type: ignore[arg-type]
        torch.testing.assert_close(found.values, PPM, rtol=1e-5, atol=1e-8)
        assert any("needs no" in note for note in notes.notes)


def test_a_maps_unit_is_ppm_or_a_part_of_it() -> None:
    mask, method = Volume(BRAIN.float(), EYE), QSMDiff(task="denoising", num_inference_steps=1, step_size=0.5)
    chi = 5 * PPM
    with pytest.raises(InputError, match="a map of susceptibility was said to be in hz; it comes in ppm, ppb, fraction"):
        method(White(), Volume(chi, EYE), mask, field_unit="hz", b0_tesla=3.0)
    expected = method(White(), Volume(chi, EYE), mask).chi.values
    for unit in ("ppb", "fraction"):
        scaled = Volume(chi * PER_PPM[unit], EYE)
        with pytest.raises(InputError, match=rf"a brain's map has about 0.18 ppm; it looks like {unit}"):
            method(White(), scaled, mask)
        torch.testing.assert_close(method(White(), scaled, mask, field_unit=unit).chi.values, expected, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]


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
    notes = Recorder()
    given = {"quantity": "field", "field_unit": None, "te_ms": None, "b0_tesla": None}
    *_, b0 = read_measurement(tmp_path / "f.nii.gz", tmp_path / "m.nii.gz", b0_direction=None, **given, events=notes)  # type: ignore[arg-type]
    assert np.allclose(b0, [0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))], atol=1e-5)
    assert any("give --b0-direction" in note for note in notes.notes) == noted
    notes = Recorder()
    *_, b0 = read_measurement(tmp_path / "f.nii.gz", tmp_path / "m.nii.gz", b0_direction=(0, 3, 4), **given, events=notes)  # type: ignore[arg-type]
    assert np.allclose(b0, [0, 0.6, 0.8])
    assert not any("--b0-direction" in note for note in notes.notes)


def test_two_scanners_placements_that_disagree_are_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(PPM.numpy(), None)
    image.set_sform(turned(10), code=1)
    image.set_qform(turned(30), code=1)
    nibabel.save(image, tmp_path / "f.nii.gz")
    notes = Recorder()
    read_volume(tmp_path / "f.nii.gz", events=notes)
    assert any("sform (the scanner's) and qform (the scanner's) place the voxels differently" in note for note in notes.notes)


def test_a_mask_that_kept_the_templates_placement_alone_still_fits(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(PPM.numpy(), None)
    image.set_sform(turned(0), code=4)
    image.set_qform(turned(30), code=1)
    nibabel.save(image, tmp_path / "f.nii.gz")
    mask = nibabel.Nifti1Image(np.ones(SIZE, np.uint8), None)
    mask.set_sform(turned(0), code=4)
    nibabel.save(mask, tmp_path / "m.nii.gz")
    assert bool(volume_mask(tmp_path / "m.nii.gz", read_volume(tmp_path / "f.nii.gz")).all())


def test_a_mask_whose_scanners_placement_is_another_one_doesnt_fit(tmp_path: Path) -> None:
    """Moved in the scanner's frame, with the field's old qform left behind."""
    for name, sform, qform in (("f", turned(0), (turned(0), 1)), ("m", turned(10), (turned(0), 2))):
        image = nibabel.Nifti1Image(np.ones(SIZE, np.float32), None)
        image.set_sform(sform, code=1)
        image.set_qform(*qform)
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    with pytest.raises(InputError, match="turned by up to 10 degrees"):
        volume_mask(tmp_path / "m.nii.gz", read_volume(tmp_path / "f.nii.gz"))


def test_a_header_without_a_placement_is_laid_on_the_fields_grid(tmp_path: Path) -> None:
    field = Volume(PPM, torch.from_numpy(turned(30)))
    for side, fits in ((2.0, True), (1.0, False)):
        mask = nibabel.Nifti1Image(np.ones(SIZE, np.uint8), np.diag([side, side, side, 1]))
        mask.set_sform(None, code=0)
        mask.set_qform(None, code=0)
        nibabel.save(mask, tmp_path / "m.nii.gz")
        if fits:
            notes = Recorder()
            assert bool(volume_mask(tmp_path / "m.nii.gz", field, events=notes).all())
            assert any("its header doesn't say where it lies; it is laid on field's grid" in note for note in notes.notes)
        else:
            with pytest.raises(InputError, match="voxels of 1 x 1 x 1 mm"):
                volume_mask(tmp_path / "m.nii.gz", field)


def test_a_field_in_an_array_is_laid_on_the_masks_grid(tmp_path: Path) -> None:
    """The mask knows the voxel size and how the head lay."""
    mask = nibabel.Nifti1Image(np.ones(SIZE, np.uint8), None)
    mask.set_sform(turned(0), code=4)
    mask.set_qform(turned(30), code=1)
    nibabel.save(mask, tmp_path / "m.nii.gz")
    np.save(tmp_path / "f.npy", PPM.numpy())
    for field in (tmp_path / "f.npy", PPM.numpy()):
        notes = Recorder()
        found = QSMDiff(num_inference_steps=1)(White(), field, tmp_path / "m.nii.gz", events=notes)
        assert np.allclose(found.chi.affine, turned(30), atol=1e-4)
        assert any("field: an array doesn't say where it lies; it is laid on mask's grid" in note for note in notes.notes)
        assert not any("--b0-direction" in note for note in notes.notes)


@pytest.mark.parametrize("codes", [(1, 1), (4, 1), (2, 0), (0, 1), (0, 0)])
def test_a_finer_map_keeps_both_placements_and_their_codes(tmp_path: Path, codes: tuple[int, int]) -> None:
    image = nibabel.Nifti1Image(PPM.numpy(), None)
    image.set_sform(turned(10), code=codes[0])
    image.set_qform(turned(30), code=codes[1])
    nibabel.save(image, tmp_path / "f.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones(SIZE, np.uint8), None, image.header), tmp_path / "m.nii.gz")
    method = QSMDiff(task="both", factor=(1, 2, 3), num_inference_steps=1)
    method(White(), tmp_path / "f.nii.gz", tmp_path / "m.nii.gz").chi.save(tmp_path / "chi.nii.gz")
    coarse, fine = (nibabel.load(tmp_path / name).header for name in ("f.nii.gz", "chi.nii.gz"))
    assert (int(fine["sform_code"]), int(fine["qform_code"])) == codes
    assert np.allclose(fine.get_zooms(), np.array(coarse.get_zooms()) / (1, 2, 3))
    for form, code in zip(("sform", "qform"), codes, strict=True):
        before, after = (getattr(each, f"get_{form}")() for each in (coarse, fine))
        if code:
            for corner in ([0, 0, 0], SIZE):
                there = before @ [*(np.array(corner) - 0.5), 1]
                assert np.allclose(after @ [*(np.array(corner) * (1, 2, 3) - 0.5), 1], there, atol=1e-4), form


@pytest.mark.parametrize("factor", [(1, 1, 2), (2, 3, 1)])
def test_a_blob_stays_where_it_lies_in_a_finer_map(factor: tuple[int, int, int]) -> None:
    """Through a whole run, read through the affine of the result: off by less than a hundredth of a voxel."""
    size, place = (14, 12, 12), np.array([6.3, 5.6, 6.1])
    affine = torch.from_numpy(turned(25) @ np.diag([-1, 1, 1.5, 1]))
    index = np.stack(np.meshgrid(*[np.arange(side) for side in size], indexing="ij"), -1)
    blob = torch.from_numpy(0.5 * np.exp(-((index - place) ** 2).sum(-1) / (2 * 1.5**2))).float()
    method = QSMDiff(
        task="super-resolution", factor=factor, num_inference_steps=6, spacing="karras", guidance_mode="dc", tv=0.0, step_size=0.5, eta=0.0
    )
    found = method(White(limit=1e-3), Volume(blob, affine), Volume(torch.ones(size), affine)).chi
    values = (found.values.numpy() - np.median(found.values)) ** 2
    fine = np.stack(np.meshgrid(*[np.arange(side) for side in found.size], indexing="ij"), -1)
    middle = found.affine.numpy()[:3, :3] @ (fine * values[..., None]).sum((0, 1, 2)) / values.sum() + found.affine.numpy()[:3, 3]
    true = (affine.numpy() @ [*place, 1])[:3]
    assert np.linalg.norm(middle - true) < 0.02


def test_a_kept_header_that_is_none_is_refused() -> None:
    """As a stranger's exact input may hold."""
    good = Volume(BRAIN.float(), EYE)
    for block in (b"garbage", bytes(347), bytes(541)):
        field = Volume(PPM, EYE, "ppm", block)
        with pytest.raises(InputError, match="no NIfTI header"):
            QSMDiff().check({"field": field, "mask": good})
        with pytest.raises(InputError, match="no NIfTI header"):
            QSMDiff().check({"field": Volume(PPM, EYE, "ppm"), "mask": Volume(BRAIN.float(), EYE, "", block)})
    for seed in range(20):
        block = np.random.default_rng(seed).integers(0, 256, 348, dtype=np.uint8).tobytes()
        reads_or_refuses(lambda block=block: QSMDiff().check({"field": Volume(PPM, EYE, "ppm", block), "mask": good}))  # type: ignore[misc]


@pytest.mark.parametrize(("shift", "accepted", "noted"), [(1e-4, True, False), (2e-3, True, True), (1e-2, True, True), (0.1, False, False)])
def test_a_mask_a_little_off_the_grid(shift: float, accepted: bool, noted: bool) -> None:
    """In mm, of voxels of 2 mm."""
    moved = EYE.clone()
    moved[0, 3] += shift
    notes = Recorder()
    if not accepted:
        with pytest.raises(InputError, match="shifted by"):
            volume_mask(Volume(BRAIN.float(), moved), Volume(PPM, EYE))
        return
    assert bool(volume_mask(Volume(BRAIN.float(), moved), Volume(PPM, EYE), events=notes).all())
    assert any("taken as the same" in note for note in notes.notes) == (shift > 2e-3 * 1.0001)


def test_an_array_on_disk_is_a_mask_of_the_fields_grid(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", BRAIN.numpy().astype(np.uint8))
    notes = Recorder()
    assert bool(volume_mask(as_volume(tmp_path / "m.npy"), Volume(PPM, EYE), events=notes).all())
    assert any("laid on field's grid" in note for note in notes.notes)
    np.save(tmp_path / "other.npy", np.ones((12, 10, 8), np.uint8))
    with pytest.raises(InputError, match="12x10x8 voxels"):
        volume_mask(as_volume(tmp_path / "other.npy"), Volume(PPM, EYE))


def test_nan_outside_the_mask_is_zero_and_inside_it_is_refused() -> None:
    values, inside = PPM.clone(), BRAIN.clone()
    inside[:2] = False
    values[0] = float("nan")
    values[1, 0, 0] = float("inf")
    notes = Recorder()
    found = masked_values(Volume(values, EYE), inside, events=notes)
    assert torch.equal(found.values[inside], PPM[inside])
    assert not bool(found.values[0].any())
    assert notes.notes == ["field: 91 voxels outside the mask are NaN or infinite; they are taken as 0"]
    values[5, 5, 5] = float("nan")
    with pytest.raises(InputError, match="1 of the 900 voxels in the mask are NaN"):
        masked_values(Volume(values, EYE), inside)
