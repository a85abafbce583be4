"""Time Reversal Fusion: the algorithm on closed forms, real SVD classes at tiny width, and ground truth on an exact model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from calotype import load
from calotype.backbones.image_to_video import StableVideoDiffusion
from calotype.backbones.preprocessing import FAMILIAR_PSNR_DB
from calotype.core.denoiser import Condition
from calotype.core.guidance import Guidance
from calotype.core.noise import noise
from calotype.core.paths import WeightKind, frame_weights, time_reversal
from calotype.core.samplers import move_to
from calotype.core.timetravel import Reinject
from calotype.errors import Cancelled, InputError
from calotype.evaluation.baselines import image_to_video
from calotype.evaluation.pairs import Pair, symmetric_pairs
from calotype.evaluation.time_reversal_fusion import exact_model
from calotype.imaging.types import Image, Video
from calotype.methods.time_reversal_fusion import SequentialStep, TimeReversalFusion
from calotype.metrics import psnr
from tests import tiny
from tests.recorder import Recorder
from tests.tolerance import ENDS, close, in_float64

OFF = Reinject(repeats=0)
QUICK = TimeReversalFusion(num_inference_steps=4, reinject=OFF, max_guidance_scale=1.0)


class Lever:
    """An image-to-video model in closed form: a clip is its first frame's grey, a slope along the frames and a share of x.

    Conditions carry the grey value; the unconditional branch carries 0. It records how many rows it is asked for.
    """

    role, name = "ImageToVideo", "lever"
    num_frames = 4
    size = (16, 16)

    def __init__(self, slope: float = 0.0, share: float = 0.0) -> None:
        self.slope, self.share = slope, share
        self.asked: list[int] = []

    def sigmas(self, num_inference_steps: int) -> Tensor:
        return torch.cat([torch.linspace(10, 1, num_inference_steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])

    def condition(
        self, image: Image, *, prompt: str = "", fps: int, motion_bucket_id: int, noise_aug_strength: float, seed: int = 0
    ) -> Condition:
        return Condition({"grey": image.pixels.mean().view(1) + noise_aug_strength * noise((1,), seed)})

    def unconditional(self, condition: Condition) -> Condition:
        return Condition({"grey": torch.zeros_like(condition.tensors["grey"])})

    def init_noise_sigma(self, sigmas: Tensor) -> float:
        return float((float(sigmas[0]) ** 2 + 1) ** 0.5)

    def latent_shape(self, num_frames: int | None = None, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        return (num_frames or self.num_frames, 1, 2, 2)

    def encode(self, frames: Tensor) -> Tensor:
        return frames.mean(dim=(1, 2, 3))[None, :, None, None, None].expand(-1, -1, 1, 2, 2)

    def decode(self, latents: Tensor, fps: float) -> Video:
        return Video(latents[0].expand(-1, 3, -1, -1).contiguous(), fps)

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance) -> Lever.Denoiser:
        return Lever.Denoiser(self, conditions, guidance)

    class Denoiser:
        def __init__(self, model: Lever, conditions: Mapping[str, Condition], guidance: Guidance) -> None:
            self.model, self.conditions, self.guidance, self.calls = model, conditions, guidance, 0

        def __call__(self, x: Tensor, sigma: float) -> Tensor:
            self.calls += len(x) * len(self.guidance.labels)
            self.model.asked.append(len(x))
            ramp = self.model.slope * torch.arange(x.shape[1]).view(1, -1, 1, 1, 1)
            found = {
                label: self.conditions[label].tensors["grey"].view(-1, 1, 1, 1, 1) + ramp + self.model.share * x / (1 + sigma**2) ** 0.5
                for label in self.guidance.labels
            }
            return self.guidance.combine(found, sigma)


def grey(value: float, side: int = 16) -> Image:
    return Image(torch.full((3, side, side), value))


def photograph(seed: int, side: int) -> Image:
    return Image(torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def svd() -> StableVideoDiffusion:
    return load(tiny.cached("svd"), device="cpu")


@pytest.fixture(scope="module")
def toy() -> StableVideoDiffusion:
    return load(tiny.cached("toy-i2v"), device="cpu")


@pytest.mark.parametrize("kind", ["linear", "uniform", "exponential", "smooth"])
@pytest.mark.parametrize("frames", [2, 3, 8, 25])
def test_the_two_paths_weigh_one_at_every_frame(kind: WeightKind, frames: int) -> None:
    forward, backward = time_reversal(frame_weights(kind, frames))
    assert torch.allclose(forward.restore(forward.weight) + backward.restore(backward.weight), torch.ones(1, frames, 1, 1, 1))


def test_first_and_last_frame_belong_to_their_pictures() -> None:
    clip = dataclasses.replace(QUICK, noise_aug_strength=0.0)(Lever(slope=0.1), grey(0.2), grey(0.6))
    # Forward: 0.2 + 0.1 i. Backward: 0.6 + 0.1 (3 - i). Weights 1, 2/3, 1/3, 0.
    expected = [0.2, 2 / 3 * 0.3 + 1 / 3 * 0.8, 1 / 3 * 0.4 + 2 / 3 * 0.7, 0.6]
    assert np.allclose(clip.frames[:, 0, 0, 0].numpy(), expected, atol=1e-6)


def test_two_frames_are_the_two_pictures() -> None:
    method = dataclasses.replace(QUICK, num_frames=2, noise_aug_strength=0.0)
    assert np.allclose(method(Lever(slope=0.3), grey(0.2), grey(0.6)).frames[:, 0, 0, 0].numpy(), [0.2, 0.6], atol=1e-6)


def test_guidance_grows_in_each_paths_own_time() -> None:
    method = dataclasses.replace(QUICK, max_guidance_scale=3.0, noise_aug_strength=0.0)
    clip = method(Lever(), grey(0.1), grey(0.1))
    # Guided estimates are 0.1 * scale: forward 1, 5/3, 7/3, 3 and backward 3, 7/3, 5/3, 1; at frame 3 the scale is 1, too.
    scale = np.array([1, 5 / 3, 7 / 3, 3])
    weight = np.array([1, 2 / 3, 1 / 3, 0])
    assert np.allclose(clip.frames[:, 0, 0, 0].numpy(), 0.1 * (weight * scale + weight[::-1] * scale[::-1]), atol=1e-6)


def test_a_loop_is_palindromic_where_the_model_does_the_same_forward_and_backward() -> None:
    clip = dataclasses.replace(QUICK, num_frames=6)(Lever(slope=0.2), grey(0.4))
    assert torch.allclose(clip.frames, clip.frames.flip(0), atol=1e-6)
    assert not torch.allclose(clip.frames[0], clip.frames[2], atol=1e-2)


def test_a_loop_can_leave_out_its_repeated_frame() -> None:
    method = dataclasses.replace(QUICK, drop_last_frame=True)
    assert len(method(Lever(), grey(0.4))) == 3
    assert len(method(Lever(), grey(0.4), grey(0.5))) == 4


def test_both_pictures_get_the_same_augmentation_noise() -> None:
    loud = dataclasses.replace(QUICK, noise_aug_strength=0.5)
    quiet = dataclasses.replace(QUICK, noise_aug_strength=0.0)
    difference = loud(Lever(), grey(0.2), grey(0.6), seed=3).frames - quiet(Lever(), grey(0.2), grey(0.6), seed=3).frames
    assert torch.allclose(difference, difference[:1].expand_as(difference), atol=1e-6)
    assert difference.abs().max() > 0.01


def test_clamped_ends_are_the_pictures_to_the_bit() -> None:
    for fusion in ("parallel", "sequential"):
        method = dataclasses.replace(QUICK, clamp_end=True, fusion=fusion)
        frames = method(Lever(slope=0.3, share=0.2), grey(0.25), grey(0.75)).frames
        assert torch.allclose(frames[[0, -1], 0, 0, 0], torch.tensor([0.25, 0.75]), atol=1e-6)


@pytest.mark.parametrize(("fusion", "rows"), [("parallel", 2), ("sequential", 1)])
def test_model_calls_are_steps_times_paths_times_branches(fusion: str, rows: int) -> None:
    for scale, branches in ((1.0, 1), (3.0, 2)):
        model, heard = Lever(), Recorder()
        dataclasses.replace(QUICK, fusion=fusion, max_guidance_scale=scale)(model, grey(0.2), grey(0.6), events=heard)
        assert heard.metrics["model_calls"] == 4 * 2 * branches
        assert set(model.asked) == {rows}


def test_reinjection_costs_what_the_paper_says() -> None:
    heard = Recorder()
    TimeReversalFusion.paper()(Lever(), grey(0.2), grey(0.6), events=heard)
    assert heard.metrics["model_calls"] == 220


def test_a_sequential_step_is_two_euler_steps_with_noise_between() -> None:
    forward, backward = (lambda x, s: 0.3 * x + 1), (lambda x, s: 0.2 * x - torch.arange(3.0).view(1, 3, 1, 1, 1))
    x, fresh = noise((3, 1, 2, 2), 0)[None], noise((3, 1, 2, 2), 1)[None]
    found = SequentialStep(backward=backward, renoise=lambda position: fresh)(forward, x, 5.0, 2.0, {}, 7)
    once = move_to(x, forward(x, 5.0), 5.0, 2.0) + (25 - 4) ** 0.5 * fresh
    turned = once.flip(1)
    close(found.x, move_to(turned, backward(turned, 5.0), 5.0, 2.0).flip(1), depth=8)


@pytest.mark.parametrize("fusion", ["parallel", "sequential"])
def test_a_pair_is_the_same_alone_and_in_a_batch(fusion: str) -> None:
    method = TimeReversalFusion(num_inference_steps=5, fusion=fusion, reinject=Reinject(ratio=0.3, length=1), max_guidance_scale=2.0)
    model, starts, ends = Lever(slope=0.1, share=0.5), [grey(0.1), grey(0.2)], [grey(0.7), grey(0.4)]
    both = method.between(model, starts, ends, seed=11)
    for i in range(2):
        alone = method(model, starts[i], ends[i], seed=11 + i)
        assert torch.allclose(both[i].frames, alone.frames, atol=1e-5)
        assert not torch.allclose(both[i].frames, method(model, starts[i], ends[i], seed=12 - i).frames, atol=1e-2)


def test_branches_one_by_one_give_the_same_clip(svd: StableVideoDiffusion) -> None:
    method = TimeReversalFusion(num_inference_steps=2, reinject=OFF)
    start, end = photograph(0, 64), photograph(1, 64)
    exact = in_float64(load(tiny.cached("svd"), device="cpu"))
    together, single = method(exact, start, end), method(exact.with_max_rows(1), start, end)
    close(together.frames, single.frames, depth=2 * ENDS, scale=5)  # guidance of scale 3
    assert together.frames.shape == (svd.num_frames, 3, 64, 64)
    assert bool(torch.isfinite(together.frames).all())


def test_the_same_seed_gives_the_same_bits_and_touches_no_global_state(svd: StableVideoDiffusion) -> None:
    method = TimeReversalFusion(num_inference_steps=3, reinject=Reinject(ratio=0.3, length=1))
    weights = {name: value.clone() for name, value in svd.unet.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = method(svd, photograph(0, 64), photograph(1, 64), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = method(svd, photograph(0, 64), photograph(1, 64), seed=4)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, method(svd, photograph(0, 64), photograph(1, 64), seed=5).frames)
    assert all(torch.equal(weights[name], value) for name, value in svd.unet.state_dict().items())


@pytest.mark.parametrize("fusion", ["parallel", "sequential"])
@pytest.mark.parametrize("stop_after", [1, 4, 8])
def test_a_resumed_run_is_bit_equal(fusion: str, stop_after: int) -> None:
    method = TimeReversalFusion(num_inference_steps=6, fusion=fusion, reinject=Reinject(ratio=0.5, length=2))
    model = Lever(slope=0.1, share=0.4)
    whole = method(model, grey(0.2), grey(0.6), seed=9)
    stopped = Recorder(stop_after=stop_after)
    with pytest.raises(Cancelled):
        method(model, grey(0.2), grey(0.6), seed=9, events=stopped)
    resumed = method(model, grey(0.2), grey(0.6), seed=9, events=Recorder(states=stopped.states))
    assert torch.equal(whole.frames, resumed.frames)


def test_a_preview_is_a_clip_of_the_right_shape(svd: StableVideoDiffusion) -> None:
    heard = Recorder()
    dataclasses.replace(QUICK, num_inference_steps=1)(svd, photograph(0, 64), photograph(1, 64), events=heard)
    (preview,) = heard.previews
    assert isinstance(preview, Video)
    assert preview.frames.shape == (svd.num_frames, 3, 64, 64)


def test_pictures_of_any_size_are_brought_to_the_models(toy: StableVideoDiffusion) -> None:
    picture = (np.random.default_rng(0).random((50, 90, 3)) * 255).astype(np.uint8)
    method = dataclasses.replace(QUICK, num_inference_steps=1, num_frames=3, fps=5)
    clip = method(toy, picture, picture[::-1].copy(), prompt="a red ball on sand")
    assert clip.frames.shape == (3, 3, 64, 64)
    assert clip.fps == 5


def test_a_text_to_image_model_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"turned round in time.*toy-i2v"):
        QUICK(load(tiny.cached("toy-t2i"), device="cpu"), grey(0.1), grey(0.2))


@pytest.mark.parametrize("prompt", ["", "  "])
@pytest.mark.parametrize("end", [None, grey(0.2)], ids=["loop", "between"])
def test_a_model_that_is_guided_by_its_prompt_needs_one(prompt: str, end: Image | None) -> None:
    model = load(tiny.cached("i2vgen"), device="cpu")
    with pytest.raises(InputError, match=r"prompt is empty and .* is guided by it; say what is to be seen between"):
        QUICK(model, grey(0.1), end, prompt=prompt)
    with pytest.raises(InputError, match=r"prompt is empty"):
        QUICK.between(model, [grey(0.1), grey(0.2)], [grey(0.1), grey(0.2)], prompts=["a ball", prompt])
    with pytest.raises(InputError, match=r"prompt is empty"):
        QUICK.between(model, [grey(0.1)], [grey(0.2)])


def test_a_strange_picture_is_noted_on_embedded_models_only() -> None:
    strange = photograph(0, 16)

    class Named(Lever):
        name = "toy-i2v"

        def decode(self, latents: Tensor, fps: float) -> Video:
            return Video(latents[0].mean(dim=(2, 3), keepdim=True).expand(-1, 3, 16, 16).contiguous(), fps)

    heard = Recorder()
    QUICK(Named(), strange, grey(0.3), events=heard)
    assert len([line for line in heard.notes if "stable-video-diffusion" in line]) == 1
    assert "start" in heard.notes[0]
    assert psnr(grey(0.5).pixels, strange.pixels) < FAMILIAR_PSNR_DB
    heard = Recorder()
    QUICK(Lever(), strange, grey(0.3), events=heard)
    assert heard.notes == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_inference_steps", 0),
        ("num_frames", 1),
        ("fps", 0),
        ("motion_bucket_id", 256),
        ("noise_aug_strength", -0.1),
        ("min_guidance_scale", 0.5),
        ("max_guidance_scale", 0.5),
        ("fusion", "both"),
        ("height", 4),
    ],
)
def test_bad_settings_are_named_with_their_value(setting: str, value: object) -> None:
    with pytest.raises(InputError, match=setting) as refused:
        TimeReversalFusion(**{setting: value})
    assert str(value) in str(refused.value)


@pytest.fixture(scope="module")
def exact_pair() -> Pair:
    return symmetric_pairs("small", "tune", 31, 1, size=32)[0]


def test_it_beats_plain_image_to_video_on_an_exact_model(exact_pair: Pair) -> None:
    model = exact_model(exact_pair, bank=192)
    method = TimeReversalFusion.toy()
    (ours,) = method.between(model, [exact_pair.start], [exact_pair.end], seed=2)
    (theirs,) = image_to_video(model, method, [exact_pair.start], seed=2)
    found, other = exact_pair.measure(ours.frames), exact_pair.measure(theirs.frames)
    assert found["end_psnr_db"] >= other["end_psnr_db"] + 6
    assert found["start_psnr_db"] > 40
    assert found["mid_centroid_error_px"] <= 0.6 * other["mid_centroid_error_px"]
    assert found["jump_ratio"] <= 2.5
