"""The exact denoiser against closed forms and float64, its banks, and Time Reversal Fusion on it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from calotype.core.denoiser import Condition
from calotype.core.guidance import ClassifierFreeGuidance, NoGuidance
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample
from calotype.core.schedule import karras_sigmas
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image
from calotype.world import paint, sample_scene
from calotype.world.scenes.banks import at_moment, clips_from, pictures
from calotype.world.scenes.exact import Bank, ExactDenoiser, ExactImageToVideo


def exact(samples: Tensor, x: Tensor, sigma: float, log_weights: Tensor | None = None) -> Tensor:
    """The definition, in float64."""
    y, flat = samples.double().flatten(1), x.double().flatten(1)
    logits = -(flat[:, None] - y).square().sum(2) / (2 * sigma**2)
    if log_weights is not None:
        logits = logits + log_weights.double()
    return (torch.softmax(logits, 1) @ y).view(x.shape)


def test_two_points_have_the_closed_form() -> None:
    bank = Bank(torch.tensor([[-1.0], [1.0]]))
    x = torch.linspace(-3, 3, 13)[:, None]
    for sigma in (0.3, 1.0, 5.0):
        assert torch.allclose(bank.posterior(x, sigma)[0], torch.tanh(x / sigma**2), atol=1e-6)


def test_it_is_the_posterior_mean_at_every_noise_level() -> None:
    samples = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    samples[1] = samples[0] + 1e-3  # nearly the same
    weights = torch.linspace(-2, 2, 40)
    bank = Bank(samples, weights)
    noise = batch_noise((3, 6, 6), 1, 8)
    for sigma in (1e-3, 0.01, 0.1, 1.0, 3.0, 80.0):
        x = samples[:8] + sigma * noise
        assert torch.allclose(bank.posterior(x, sigma)[0].double(), exact(samples, x, sigma, weights), atol=2e-5), sigma


def test_low_noise_tells_neighbours_apart_that_float32_does_not() -> None:
    base = torch.rand(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    samples = base + 1e-3 * torch.randn(6, 8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    samples = torch.cat([samples, -base])
    x = samples[:6] + 1e-3 * batch_noise(samples.shape[1:], 2, 6)
    assert torch.allclose(Bank(samples).posterior(x, 1e-3)[0], samples[:6], atol=1e-6)
    assert torch.allclose(Bank(samples).posterior(samples, 0.0)[0], samples, atol=1e-6)


def test_the_evidence_is_the_likelihood_up_to_its_constant() -> None:
    samples, x = batch_noise((5,), 0, 7), batch_noise((5,), 100, 3)
    logits = -(x.double()[:, None] - samples.double()).square().sum(2) / (2 * 0.7**2) - math.log(7)
    assert torch.allclose(Bank(samples).posterior(x, 0.7)[1], torch.logsumexp(logits, 1), atol=1e-5)


def test_high_noise_gives_the_prior_mean() -> None:
    bank = Bank(batch_noise((3, 8, 8), 0, 30), torch.linspace(-1, 1, 30))
    assert torch.allclose(ExactDenoiser(bank)(1e4 * batch_noise((3, 8, 8), 50, 2), 1e4), bank.mean.expand(2, 3, 8, 8), atol=2e-2)


def test_sampling_lands_on_members_of_the_bank() -> None:
    samples = pictures(count=24, size=16)
    denoise = ExactDenoiser(Bank(samples))
    made = sample(denoise, 80.0 * batch_noise((3, 16, 16), 3, 6), karras_sigmas(30, 0.01, 80.0))
    distances = (made[:, None] - samples).abs().flatten(2).amax(2)
    assert float(distances.min(1).values.max()) < 1e-4
    assert len(set(distances.argmin(1).tolist())) > 1
    assert denoise.calls == 6 * 30


def test_each_row_has_its_own_bank_and_is_what_it_is_alone() -> None:
    banks = [Bank(batch_noise((3, 4, 4), 10 * i, 9)) for i in range(3)]
    x = batch_noise((3, 4, 4), 77, 4)
    rows = [2, 0, 2, 1]
    together = ExactDenoiser(banks, rows)(x, 0.8)
    for i, row in enumerate(rows):
        alone = ExactDenoiser(banks, [row])(x[i : i + 1], 0.8)
        assert torch.allclose(together[i], alone[0], atol=1e-6)
        assert torch.allclose(alone, banks[row].posterior(x[i : i + 1], 0.8)[0], atol=1e-6)


def test_all_banks_together_are_the_bank_of_all_samples() -> None:
    samples = batch_noise((4, 4), 0, 12)
    x = batch_noise((4, 4), 60, 3)
    pooled = ExactDenoiser([Bank(samples[:6]), Bank(samples[6:])], rows=[-1] * 3)
    assert torch.allclose(pooled(x, 0.9), ExactDenoiser(Bank(samples))(x, 0.9), atol=1e-5)


def test_what_it_refuses() -> None:
    bank = Bank(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"\[B, 4\]"):
        ExactDenoiser(bank)(torch.zeros(1, 5), 1.0)
    with pytest.raises(ShapeError, match="2 rows"):
        ExactDenoiser(bank, [0])(torch.zeros(2, 4), 1.0)
    with pytest.raises(InputError, match="bank 3"):
        ExactDenoiser(bank, [3])
    with pytest.raises(InputError, match="sigma"):
        bank.posterior(torch.zeros(1, 4), math.nan)
    with pytest.raises(ShapeError, match="bank's samples"):
        Bank(torch.zeros(0, 4))
    with pytest.raises(ShapeError, match="log weights"):
        Bank(torch.zeros(2, 4), torch.zeros(3))


def test_clips_begin_with_the_scene_and_move_within_it() -> None:
    scene = sample_scene("small", split="tune", seed=5, index=0, num_frames=8, objects=1, motion="arc")
    clips = clips_from(scene, count=48, size=32, seed=1)
    assert clips.shape == (48, 8, 3, 32, 32)
    assert float(clips.min()) >= -1
    assert float(clips.max()) <= 1
    assert torch.allclose(clips[:, 0], (paint([at_moment(scene, 0.0)], size=32) * 2 - 1).expand_as(clips[:, 0]), atol=1 / 255)
    assert float((clips[:, -1] - clips[:, 0]).abs().flatten(1).amax(1).min()) > 0.1
    assert torch.equal(clips, clips_from(scene, count=48, size=32, seed=1))
    assert not torch.equal(clips, clips_from(scene, count=48, size=32, seed=2))
    straight = clips_from(scene, count=8, size=32, families=["straight"])
    assert not torch.equal(straight, clips[:8])
    with pytest.raises(InputError, match="directed"):
        clips_from(scene, families=["directed"])


def test_directed_objects_leave_in_the_direction_of_their_nose() -> None:
    from calotype.world.scenes.banks import _motions

    for index in range(4):
        scene = at_moment(sample_scene("small", split="tune", seed=6, index=index, num_frames=8, objects=1, motion="directed"), 0.0)
        heading = scene.objects[0].angle
        for (motion,) in _motions(scene, 64, 0, ("straight",)):
            first = math.atan2(motion.dy + 4 * motion.bend_y, motion.dx + 4 * motion.bend_x)
            assert motion.family == "directed"
            assert abs(math.remainder(first - heading, 2 * math.pi)) < 1e-6


def test_two_objects_stay_clear_of_each_other_and_some_rest() -> None:
    from calotype.world.scenes.banks import _motions

    scene = at_moment(sample_scene("small", split="tune", seed=8, index=1, num_frames=8, objects=2), 0.0)
    drawn = _motions(scene, 64, 0, ("straight", "turning"))
    assert {one[0].family for one in drawn} <= {"straight", "turning", "directed"}
    assert 0 < sum(one[1].family == "still" for one in drawn) < 64


def test_the_last_moment_stands_where_the_clip_ends() -> None:
    for index in range(6):
        scene = sample_scene("small", split="tune", seed=7, index=index, num_frames=8, camera="pan" if index % 2 else None)
        last = paint([scene], size=32, num_frames=8)[0, -1]
        assert float((paint([at_moment(scene, 1.0)], size=32)[0] - last).abs().max()) < 0.02


def test_pictures_fit_their_caption() -> None:
    from calotype.world.scenes.banks import _captioned
    from calotype.world.scenes.sampling import PRESETS

    for caption in ("a purple rocket at night", "a red ball and an orange ball on snow", "a blue tree left of a red house on sand"):
        assert {scene.caption for scene in _captioned(PRESETS["small"], caption, 3, 0, "train")} == {caption}
    with pytest.raises(InputError, match="isn't of the world"):
        pictures(caption="a photograph of Paris")


def model_between() -> tuple[ExactImageToVideo, Tensor]:
    scene = sample_scene("small", split="tune", seed=9, index=0, num_frames=8, objects=1, motion="straight", camera="still")
    ends = (at_moment(scene, 0.0), at_moment(scene, 1.0))
    banks = [Bank(clips_from(end, count=192, size=16, families=["straight"])) for end in ends]
    return ExactImageToVideo(banks), paint([scene], size=16, num_frames=8)[0]


def test_the_model_keeps_the_interface() -> None:
    model, truth = model_between()
    start, end = model.condition(Image(truth[0])), model.condition(Image(truth[-1]))
    assert start.tensors["bank"].tolist() == [0]
    assert end.tensors["bank"].tolist() == [1]
    assert model.latent_shape() == (8, 3, 16, 16)
    sigmas = model.sigmas(5)
    assert len(sigmas) == 6
    assert sigmas[-1] == 0
    assert torch.allclose(model.decode(model.encode(truth), 7.0).frames, truth, atol=1e-6)
    both = Condition.cat([start, end])
    guided = model.denoiser({"cond": both, "uncond": model.unconditional(both)}, ClassifierFreeGuidance(2.0))
    x = 5.0 * batch_noise(model.latent_shape(), 0, 2)
    plain = model.denoiser({"cond": both}, NoGuidance())(x, 5.0)
    assert not torch.allclose(guided(x, 5.0), plain, atol=1e-4)
    assert guided.calls == 4
    with pytest.raises(InputError, match="no clip"):
        model.condition(Image(torch.rand(3, 16, 16)))
    with pytest.raises(ShapeError, match="16x16"):
        model.condition(Image(torch.rand(3, 32, 32)))
    with pytest.raises(InputError, match="asked for"):
        model.latent_shape(14)
    with pytest.raises(InputError, match="uncond"):
        model.denoiser({"cond": both}, ClassifierFreeGuidance(2.0))


def test_time_reversal_fusion_runs_on_it_unchanged() -> None:
    from calotype.methods.time_reversal_fusion import TimeReversalFusion

    model, truth = model_between()
    method = TimeReversalFusion(num_inference_steps=12, min_guidance_scale=1.0, max_guidance_scale=1.0)
    made = method(model, Image(truth[0]), Image(truth[-1]), seed=0)
    frames = made.frames
    assert float((frames[0] - truth[0]).abs().mean()) < 0.02
    assert float((frames[-1] - truth[-1]).abs().mean()) < 0.02
    plain = sample(
        model.denoiser({"cond": model.condition(Image(truth[0]))}, NoGuidance()), 80 * batch_noise((8, 3, 16, 16), 0, 1), model.sigmas(12)
    )
    assert float((model.decode(plain, 7.0).frames[-1] - truth[-1]).square().mean()) > 2 * float((frames[-1] - truth[-1]).square().mean())
