"""QSMDiff as a whole: against diffusers, against the Wiener solution where the prior is known, and the same head however it is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

import calotype
from calotype.backbones.volume_prior import VolumePrior
from calotype.core.dipole import DipoleOperator
from calotype.core.noise import RENOISE, noise
from calotype.errors import Cancelled, InputError
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.guidance import Measurement
from calotype.methods.qsmdiff.resolution import Resolution
from tests import tiny
from tests.methods.test_qsm_grid import TURNS, ellipsoid, rotation, turned, turned_affine
from tests.recorder import Recorder
from tests.tiny_qsm import cached_prior

QUICK = QSMDiff(num_inference_steps=4, overlap=0.25, spacing="karras", eta=1.0, num_guidance_steps=2, tv=0.0, padding=1.25)
SIZE = (13, 11, 12)


class White:
    """A prior whose maps are white noise of standard deviation `scale`: its best estimate is x / (1 + sigma^2). No network, exact."""

    role, name, unit, spacing, max_rows = "VolumePrior", "white", "ppm", (2.0, 2.0, 2.0), 64

    def __init__(self, window: tuple[int, int, int] = (8, 8, 8), scale: float = 0.05, limit: float = 10.0) -> None:
        self.window, self.scale, self.limit, self.calls = window, scale, limit, 0

    def sigmas(self, num_inference_steps: int) -> Tensor:
        return torch.cat([torch.logspace(1.5, -2, num_inference_steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])

    def denoiser(self) -> White:
        return self

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += len(x)
        return x / (1 + sigma**2)


@pytest.fixture(scope="module")
def prior() -> VolumePrior:
    return calotype.load(cached_prior(2), device="cpu")


def scan(size: tuple[int, int, int] = SIZE, side: float = 2.0, seed: int = 0) -> tuple[Volume, Volume]:
    """A field of 0.02 ppm and the mask of a brain, axes right, front, up."""
    affine = torch.diag(torch.tensor([side, side, side, 1], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-11.0, 7.5, 3.25])
    mask = ellipsoid(size, 1.0)
    chi = 0.05 * torch.randn(size, generator=torch.Generator().manual_seed(seed)) * mask
    field = DipoleOperator(size, (side,) * 3, (0, 0, 1)).forward(chi) * mask
    return Volume(field, affine, "ppm"), Volume(mask.float(), affine)


def test_the_stand_in_is_a_prior() -> None:
    assert isinstance(White(), VolumePrior)


def test_with_an_exact_prior_samples_are_those_of_the_posterior() -> None:
    """chi ~ N(0, 1), y = A chi + n: the proximal point is then the exact mean of x0 given x and y, and sampling that of the posterior.

    The posterior's mean is Wiener's solution (A^T A + s^2)^-1 A^T y and its covariance (A^T A / s^2 + 1)^-1.
    """
    size, scale, s, samples = (4, 5, 4), 0.05, 0.15, 200
    dipole = DipoleOperator(size, (2, 2, 2), (0, 0.3, 1), padding=1.5)
    mask = torch.ones(size, dtype=torch.bool)
    mask[0, 0], mask[3, 4, 3] = False, False
    truth = torch.randn(size, generator=torch.Generator().manual_seed(3)) * mask
    y = (dipole.convolve(truth) + s * torch.randn(size, generator=torch.Generator().manual_seed(4))) * mask
    at = Measurement(y, mask, dipole, scale)
    method = QSMDiff(
        num_inference_steps=150, spacing="karras", guidance_mode="proximal", num_guidance_steps=10, noise=s * scale, strength=1.0, eta=1.0,
        num_samples=samples, sigma_max=20.0,
    )  # fmt: skip
    found = method.sample(White(size), at, seed=0).double()
    inside = mask.flatten()
    matrix = at.forward(torch.eye(80).reshape(80, *size)).reshape(80, 80).T.double()[inside][:, inside]
    precision = matrix.T @ matrix / s**2 + torch.eye(len(matrix), dtype=torch.float64)
    covariance = torch.linalg.inv(precision)
    wiener = covariance @ matrix.T @ y.flatten()[inside].double() / s**2
    assert not found[:, ~mask].any()
    drawn = found.flatten(1)[:, inside]
    wrong = (drawn.mean(0) - wiener).square().mean().sqrt()
    expected = (covariance.diagonal().mean() / samples) ** 0.5
    assert wrong < 1.6 * expected
    assert wiener.square().mean().sqrt() > 5 * expected
    assert torch.allclose(drawn.var(0).mean(), covariance.diagonal().mean(), rtol=0.1)
    # Where the dipole tells most and least: the spread follows.
    values, vectors = torch.linalg.eigh(precision)
    spread = (drawn @ vectors).var(0)
    assert float(spread[-10:].mean()) == pytest.approx(float((1 / values[-10:]).mean()), rel=0.25)
    assert float(spread[:10].mean()) == pytest.approx(float((1 / values[:10]).mean()), rel=0.25)


@pytest.mark.parametrize("guidance", ["init", "none"])
def test_the_sampler_is_the_papers_on_diffusers_scheduler(prior: VolumePrior, guidance: str) -> None:
    """The loop of the official code, written with `DDIMScheduler` on z = x / sqrt(1 + sigma^2), on a volume of one window."""
    from diffusers import DDIMScheduler

    size = prior.window
    mask = ellipsoid(size, 0.5)
    dipole = DipoleOperator(size, (2, 2, 2), (0, 0, 1), padding=1.5)
    at = Measurement(0.2 * torch.randn(size, generator=torch.Generator().manual_seed(5)) * mask, mask, dipole, prior.scale)
    method = QSMDiff(num_inference_steps=10, eta=0.5, guidance_mode=guidance, tv=1e-3)  # type: ignore[arg-type]
    found = method.sample(prior, at, seed=6)[0]

    scheduler = DDIMScheduler(
        1000, 1e-4, 0.02, "linear", prediction_type="sample", clip_sample=False, timestep_spacing="leading", steps_offset=0,
        set_alpha_to_one=True,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    network = prior.network.eval()  # type: ignore[attr-defined]
    alpha = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    z = (1 - alpha).sqrt() * noise((1, *size), 6)[None]
    for position, t in enumerate(scheduler.timesteps):
        alpha = scheduler.alphas_cumprod[t]
        with torch.no_grad():
            v = network(z, torch.full((1,), float(t)))
        x0 = (alpha.sqrt() * z - (1 - alpha).sqrt() * v).clamp(-8, 8)
        for _ in range(3 if guidance == "init" else 0):
            x0 = x0.detach().requires_grad_(True)
            variation = sum(x0.diff(dim=dim).abs().sum() for dim in (2, 3, 4))
            objective = (dipole.convolve(x0) * mask - at.values).square().sum() + 1e-3 * 0.15 / prior.scale * variation
            x0 = x0 - 0.875 * torch.autograd.grad(objective, x0)[0]
        fresh = noise((1, *size), 6, stream=RENOISE + position)[None]
        z = scheduler.step(x0.detach() * mask, t, z, eta=0.5, variance_noise=fresh).prev_sample
    assert torch.allclose(found, z[0, 0], atol=2e-3 * float(z.abs().max()))
    assert not torch.allclose(found, method.sample(prior, at, seed=7)[0], atol=0.1)


def test_without_guidance_the_field_doesnt_matter(prior: VolumePrior) -> None:
    method = dataclasses.replace(QUICK, guidance_mode="none")
    field, mask = scan()
    first, second = method(prior, field, mask, seed=1), method(prior, scan(seed=9)[0], mask, seed=1)
    assert torch.equal(first.chi.values, second.chi.values)
    guided = QUICK(prior, field, mask, seed=1)
    assert not torch.allclose(first.chi.values, guided.chi.values, atol=1e-3)
    white = dataclasses.replace(method, num_inference_steps=200)(White(), field, mask, seed=1).chi.values[mask.values > 0]
    assert float(white.std()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("guidance", ["init", "dc", "proximal"])
def test_guidance_explains_the_field(guidance: str) -> None:
    """The residual is small against the field, and is the field less that of the map."""
    field, mask = scan()
    brain = mask.values > 0
    method = QSMDiff(
        num_inference_steps=12, spacing="karras", guidance_mode=guidance, num_guidance_steps=10, step_size=1.5, tv=0.0, noise=5e-4, eta=1.0,  # type: ignore[arg-type]
        padding=1.5,
    )  # fmt: skip
    events = Recorder()
    found = method(White(), field, mask, seed=2, events=events)
    size = 0.6 if guidance == "dc" else 0.25
    assert float(found.residual.values[brain].std()) < size * float(field.values[brain].std())
    assert events.metrics["residual_ppm"] == pytest.approx(float(found.residual.values[brain].square().mean().sqrt()), rel=1e-4)
    assert abs(float(found.chi.values[brain].mean())) < 1e-6
    assert not found.chi.values[~brain].any()
    low, high = (int(torch.nonzero(brain.any(2).any(1)).min()), int(torch.nonzero(brain.any(2).any(1)).max()))
    assert high - low + 1 <= SIZE[0]
    modelled = DipoleOperator(SIZE, (2, 2, 2), (0, 0, 1), padding=3).forward(found.chi.values)
    # A constant over the mask, which was taken off the map, has a field of its own.
    constant = DipoleOperator(SIZE, (2, 2, 2), (0, 0, 1), padding=3).forward(brain.float())[brain]
    left = (field.values - modelled)[brain] - found.residual.values[brain]
    along = float((left * constant).sum() / constant.square().sum())
    assert float((left - along * constant).abs().max()) < 0.1 * float(field.values[brain].std())


@pytest.mark.parametrize(("axes", "flips"), [TURNS[i] for i in (1, 11, 22, 29, 39, 44)])
def test_a_head_that_is_stored_otherwise_has_the_same_map(prior: VolumePrior, axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    """Axes in another order and direction, b0 along another one of them: the same values at the same places in the world."""
    field, mask = scan()
    expected = QUICK(prior, field, mask, seed=3)
    other = [Volume(turned(v.values, axes, flips), turned_affine(v.affine, SIZE, axes, flips), v.unit) for v in (field, mask)]
    found = QUICK(prior, *other, seed=3)
    assert torch.allclose(found.chi.values, turned(expected.chi.values, axes, flips), atol=1e-6)
    assert torch.equal(found.chi.affine, other[0].affine)
    b0 = (0.2, -0.4, 0.9)
    moved = tuple(-b0[axis] if flip else b0[axis] for axis, flip in zip(axes, flips, strict=True))
    oblique, turned_oblique = QUICK(prior, field, mask, b0_direction=b0, seed=3), QUICK(prior, *other, b0_direction=moved, seed=3)  # type: ignore[arg-type]
    assert torch.allclose(turned_oblique.chi.values, turned(oblique.chi.values, axes, flips), atol=1e-6)
    assert not torch.allclose(oblique.chi.values, expected.chi.values, atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_a_finer_map_of_a_flipped_file_lies_in_the_same_place(flip: bool) -> None:
    """The fine voxels' places in the world don't depend on how the coarse file was stored."""
    axes, flips = (1, 0, 2), (False, False, flip)
    field, mask = scan((8, 9, 7))
    method = dataclasses.replace(QUICK, task="both", factor=(1, 1, 2))
    expected = method(White(), field, mask, seed=4).chi
    other = [Volume(turned(v.values, axes, flips), turned_affine(v.affine, (8, 9, 7), axes, flips), v.unit) for v in (field, mask)]
    found = method(White(), *other, seed=4).chi
    assert torch.allclose(found.values, turned(expected.values, axes, flips), atol=1e-6)
    assert torch.allclose(found.affine, turned_affine(expected.affine, (8, 9, 14), axes, flips))


def test_odd_oblique_anisotropic_volumes_keep_their_place() -> None:
    """0.8 x 0.8 x 2 mm, turned: the affine comes back bit for bit, and a spot is found where it was put."""
    size = (41, 37, 17)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(rotation(17, 25, -9) @ np.diag([0.8, -0.8, 2.0]))
    affine[:3, 3] = torch.tensor([1 / 3, -33.1, 4.7])
    mask = ellipsoid(size)
    values = torch.zeros(size)
    values[26:29, 11:14, 9] = 0.3
    events = Recorder()
    method = QSMDiff(task="denoising", num_inference_steps=3, spacing="karras", guidance_mode="dc", tv=0.0, step_size=0.5)
    found = method(White(), Volume(values, affine, "ppm"), Volume(mask.float(), affine), seed=0, events=events)
    for volume in (found.chi, found.residual):
        assert torch.equal(volume.affine, affine)
        assert volume.size == size
        assert volume.unit == "ppm"
    place = torch.unravel_index(found.chi.values.argmax(), size)
    assert abs(int(place[0]) - 27) <= 1
    assert abs(int(place[1]) - 12) <= 1
    assert int(place[2]) == 9
    assert any("it works at" in note and "the map is brought back" in note for note in events.notes)


def test_headers_are_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import nibabel

    field, mask = scan((9, 8, 10))
    for name, volume in (("f", field), ("m", mask)):
        image = nibabel.Nifti1Image(volume.values.numpy(), None)
        image.set_qform(volume.affine.numpy(), code=1)
        image.set_sform(volume.affine.numpy(), code=4)
        image.to_filename(tmp_path / f"{name}.nii.gz")
    QUICK(White(), tmp_path / "f.nii.gz", tmp_path / "m.nii.gz").chi.save(tmp_path / "chi.nii.gz")
    before, after = (nibabel.load(tmp_path / name).header for name in ("f.nii.gz", "chi.nii.gz"))
    assert (int(after["qform_code"]), int(after["sform_code"])) == (1, 4)
    assert np.array_equal(before.get_best_affine(), after.get_best_affine())


def test_the_task_both_makes_a_finer_map_that_explains_the_coarse_field() -> None:
    field, mask = scan((10, 9, 8), side=4.0)
    method = QSMDiff(
        task="both", factor=(2, 1, 3), num_inference_steps=10, spacing="karras", guidance_mode="proximal", num_guidance_steps=12,
        noise=5e-4,
        eta=1.0,
    )  # fmt: skip
    found = method(White(), field, mask)
    assert found.chi.size == (20, 9, 24)
    assert found.chi.spacing == pytest.approx((2.0, 4.0, 4 / 3))
    corners = torch.tensor([[-0.5, -0.5, -0.5, 1.0], [9.5, 8.5, 7.5, 1.0]], dtype=torch.float64)
    fine = torch.tensor([[-0.5, -0.5, -0.5, 1.0], [19.5, 8.5, 23.5, 1.0]], dtype=torch.float64)
    assert torch.allclose(fine @ found.chi.affine.T, corners @ field.affine.T)
    assert found.residual.size == field.size
    brain = mask.values > 0
    assert float(found.residual.values[brain].std()) < 0.3 * float(field.values[brain].std())


def test_super_resolution_keeps_what_was_measured() -> None:
    """With dc the coarse map is exactly what the scanner would have seen of the fine one."""
    size = (8, 7, 6)
    values = 0.03 * torch.randn(size, generator=torch.Generator().manual_seed(8))
    affine = torch.diag(torch.tensor([4.0, 2, 2, 1], dtype=torch.float64))
    whole = torch.ones(size)
    method = QSMDiff(
        task="super-resolution", factor=(2, 1, 1), num_inference_steps=4, spacing="karras", guidance_mode="dc", tv=0.0, step_size=0.5
    )
    found = method(White(window=(8, 4, 4)), Volume(values, affine, "ppm"), Volume(whole, affine))
    assert found.chi.size == (16, 7, 6)
    low = Resolution(size, (2, 1, 1)).lower(found.chi.values)
    assert torch.allclose(low - low.mean(), values - values.mean(), atol=1e-5)
    assert float(found.residual.values.abs().max()) < 1e-5
    plain = Resolution(size, (2, 1, 1)).refine(values)
    assert not torch.allclose(found.chi.values, plain - plain.mean(), atol=1e-3)


def test_denoising_is_the_posterior_mean_of_a_white_prior() -> None:
    """y = chi + n of equal variances: half of what was measured."""
    size = (8, 8, 8)
    chi = 0.05 * torch.randn(size, generator=torch.Generator().manual_seed(1))
    noisy = chi + 0.05 * torch.randn(size, generator=torch.Generator().manual_seed(2))
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    method = QSMDiff(
        task="denoising",
        num_inference_steps=120,
        spacing="karras",
        guidance_mode="proximal",
        noise=0.05,
        eta=1.0,
        step_size=0.5,
        num_samples=64,
    )
    found = method(White(), Volume(noisy, affine, "ppm"), Volume(torch.ones(size), affine))
    expected = noisy / 2 - noisy.mean() / 2
    assert float((found.chi.values - expected).std()) < 0.2 * float(expected.std())
    assert found.std is not None
    assert float(found.std.values.mean()) == pytest.approx(0.05 / 2**0.5, rel=0.1)


def test_several_samples_are_the_single_ones_and_their_spread(prior: VolumePrior) -> None:
    field, mask = scan()
    found = dataclasses.replace(QUICK, num_samples=3)(prior, field, mask, seed=10)
    singles = [QUICK(prior, field, mask, seed=10 + i) for i in range(3)]
    assert all(single.std is None for single in singles)
    maps = torch.stack([single.chi.values for single in singles])
    assert torch.allclose(found.chi.values, maps.mean(0), atol=1e-5)
    assert found.std is not None
    assert found.std.unit == "ppm"
    brain = mask.values > 0
    assert not found.std.values[~brain].any()
    # The samples' means over the brain, which single runs take off, are part of the spread.
    assert torch.allclose(found.std.values[brain], maps.std(0)[brain], atol=0.2 * float(found.std.values.max()))
    assert float(found.std.values[brain].min()) > 0


def test_an_interrupted_run_goes_on_to_the_same_bits(prior: VolumePrior) -> None:
    field, mask = scan()
    method = dataclasses.replace(QUICK, num_samples=2, num_inference_steps=6)
    whole = Recorder()
    expected = method(prior, field, mask, seed=5, events=whole)
    stopped = Recorder(stop_after=4)
    with pytest.raises(Cancelled):
        method(prior, field, mask, seed=5, events=stopped)
    assert 0 < stopped.steps < whole.steps
    stopped.stop_after = None
    before = stopped.steps
    found = method(prior, field, mask, seed=5, events=stopped)
    assert stopped.metrics["model_calls"] < whole.metrics["model_calls"]
    assert stopped.steps > before
    for name in ("chi", "std", "residual"):
        assert torch.equal(getattr(found, name).values, getattr(expected, name).values), name


def test_nothing_is_left_behind_in_the_model_or_the_generator(prior: VolumePrior) -> None:
    field, mask = scan()
    weights = {name: value.clone() for name, value in prior.network.state_dict().items()}  # type: ignore[attr-defined]
    state = torch.get_rng_state()
    first = QUICK(prior, field, mask, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(QUICK(prior, field, mask, seed=4).chi.values, first.chi.values)
    assert all(torch.equal(value, weights[name]) for name, value in prior.network.state_dict().items())  # type: ignore[attr-defined]
    events = Recorder()
    QUICK(prior, field, mask, seed=4, events=events)
    # 13 x 11 x 12 voxels at a stride of 6: two windows along each axis, at every step.
    assert events.metrics["model_calls"] == 4 * 8


def test_maps_stay_within_the_priors_limit() -> None:
    field, mask = scan()
    found = dataclasses.replace(QUICK, guidance_mode="none")(White(limit=0.02), field, mask).chi.values[mask.values > 0]
    assert float(found.max() - found.min()) <= 0.04 + 1e-6
    assert float(found.max() - found.min()) > 0.03


def test_guidance_by_windows_is_that_of_the_volume_for_one_window_only() -> None:
    """The dipole reaches beyond a window, so that parts don't add up to the whole."""
    method = dataclasses.replace(QUICK, guidance_mode="proximal", num_inference_steps=8, num_guidance_steps=4, noise=1e-3)
    apart = dataclasses.replace(method, guidance_scope="window")
    field, _ = scan((8, 8, 8))
    everywhere = Volume(torch.ones(8, 8, 8), field.affine)
    assert torch.allclose(method(White(), field, everywhere).chi.values, apart(White(), field, everywhere).chi.values, atol=1e-5)
    field, mask = scan()
    whole, parts = method(White(), field, mask), apart(White(), field, mask)
    brain = mask.values > 0
    assert float(parts.residual.values[brain].std()) > 1.3 * float(whole.residual.values[brain].std())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "inverse"}, "task is 'inverse'; choose one of inversion"),
        ({"guidance_mode": "strong"}, "guidance_mode is 'strong'; choose one of init"),
        ({"task": "both"}, "task both needs a factor above 1"),
        ({"task": "super-resolution", "step_size": 0.5}, "task super-resolution needs a factor above 1"),
        ({"factor": (1, 1, 2)}, "task inversion keeps the grid"),
        ({"task": "denoising", "factor": (2, 1, 1), "step_size": 0.5}, "task denoising keeps the grid"),
        ({"task": "both", "factor": (1, 1, 9)}, "three whole numbers from 1 to 8"),
        ({"step_size": 2.3}, "step_size is 2.3"),
        ({"task": "denoising", "step_size": 1.0}, "step_size is 1.0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"eta": 1.1}, "eta is 1.1"),
        ({"noise": 0.0}, "noise is 0.0; it must be above 0"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"padding": 0.5}, "padding is 0.5; it must lie between 1 and 4"),
        ({"sigma_min": 60.0}, "0 < sigma_min < sigma_max"),
        ({"guidance_mode": "none", "guidance_scope": "window"}, "guidance_scope window is for"),
    ],
)
def test_settings_out_of_range_are_refused(fields: Mapping[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        QSMDiff(**fields)  # type: ignore[arg-type]


def test_inputs_that_make_no_sense_are_refused(prior: VolumePrior) -> None:
    field, mask = scan()
    with pytest.raises(InputError, match="it is 0 everywhere in the mask"):
        QUICK(prior, field.with_values(field.values * 0), mask)
    for b0 in ((0, 0, 0), (0, float("nan"), 1)):
        with pytest.raises(InputError, match=r"b0_direction is .* three numbers that are not all 0"):
            QUICK(prior, field, mask, b0_direction=b0)
    with pytest.raises(InputError, match="a prior of volumes; take toy-qsm"):
        QUICK(calotype.load(tiny.cached("toy-vae"), device="cpu"), field, mask)
    events = Recorder()
    QUICK(prior, field, mask, events=events)
    assert not events.notes
