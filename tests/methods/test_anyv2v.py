"""AnyV2V: what is injected where and when, on real networks at tiny width; inversion, cache and windows; refusals."""

from __future__ import annotations

import dataclasses
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype import load
from calotype.attention import AttentionControl, Capture, attention_sites
from calotype.backbones.preprocessing import working_size
from calotype.core.denoiser import Condition
from calotype.core.guidance import ClassifierFreeGuidance, NoGuidance
from calotype.core.inversion import Trajectory
from calotype.core.noise import noise
from calotype.core.samplers import sample
from calotype.core.schedule import karras_sigmas
from calotype.core.stepping import StepContext
from calotype.data.cache import TensorCache
from calotype.errors import Cancelled, InputError
from calotype.imaging.types import Image, Video
from calotype.methods.anyv2v import AnyV2V
from calotype.methods.anyv2v.editor import edit_picture
from calotype.methods.anyv2v.injection import EDIT, NEGATIVE, SOURCE, BesideSource, DecoderAttention, Injection, convolution, sigma_of_tau
from calotype.methods.anyv2v.inversion import Windows, nested_tables
from tests import tiny
from tests.recorder import Recorder
from tests.tolerance import ENDS, close, in_float64, tolerance

VIDEO = ("svd", "toy-i2v", "i2vgen")
QUICK = AnyV2V(num_inversion_steps=2, num_inference_steps=2, guidance_scale=2.0, rebuild=False, cache_megabytes=0, negative_prompt="")
SMALL = dataclasses.replace(QUICK, height=32, width=32)
"""For the toy model, which halves the latents of 32 px three times; the others need 64 px."""
EVERYWHERE = Injection(conv=0.0, spatial=0.0, temporal=0.0)


def clip(frames: int = 3, seed: int = 0, size: int = 32) -> Video:
    """A square that walks to the right over a soft ground."""
    ground = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)), size, mode="bilinear")
    made = ground.expand(frames, -1, -1, -1).clone()
    for index in range(frames):
        made[index, 0, 10:18, 4 + 2 * index : 12 + 2 * index] = 1.0
    return Video(made, 8.0)


def frame(seed: int = 0, size: int = 32) -> Image:
    """The clip's first frame with a green square."""
    pixels = clip(1, seed, size).frames[0].clone()
    pixels[0, 10:18, 4:12], pixels[1, 10:18, 4:12] = 0.0, 1.0
    return Image(pixels)


def side(kind: str) -> int:
    """Pixels that the deepest level of a network needs."""
    return 32 if kind == "toy-i2v" else 64


def guided(kind: str) -> str:
    return "red ball" if kind == "i2vgen" else ""


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.5, 0.66, 1.0])
def test_shares_are_the_papers_steps_on_its_own_schedule(tau: float) -> None:
    levels = load(tiny.cached("i2vgen")).sigmas(50)[:-1]
    injected = sum(Injection(conv=inf, spatial=sigma_of_tau(tau), temporal=inf).active(float(sigma)) for sigma in levels)
    assert injected == int(50 * tau + 1e-9)


def test_thresholds_are_noise_levels_on_other_schedules() -> None:
    assert sigma_of_tau(0.2) == pytest.approx(3.14, abs=0.01)
    assert sigma_of_tau(0.5) == pytest.approx(1.02, abs=0.01)
    assert sigma_of_tau(0.2, 0.25) == pytest.approx(sigma_of_tau(0.2) / 4)
    svd = karras_sigmas(50, 0.002, 700.0)[:-1]
    shares = [sum(float(sigma) >= sigma_of_tau(tau) for sigma in svd) / 50 for tau in (0.2, 0.5)]
    assert shares == [0.64, 0.72]


@pytest.mark.parametrize("kind", VIDEO)
def test_the_papers_layers_are_found_by_name(kind: str) -> None:
    network = load(tiny.cached(kind)).unet
    wanted = [(1, 1), (1, 2), *((block, layer) for block in (2, 3) for layer in (0, 1, 2))]
    for which in ("self", "temporal-self"):
        found = [site for site in attention_sites(network) if DecoderAttention(which)(site)]  # type: ignore[arg-type]
        assert [(site.block, site.layer) for site in found] == wanted
        assert all(site.name.endswith("attn1") and site.name.startswith("up_blocks") for site in found)
        assert all(("temp" in site.name) == (which == "temporal-self") for site in found)
    assert convolution(network) == f"up_blocks.1.resnets.1.{'' if kind == 'i2vgen' else 'spatial_res_block.'}conv2"


def test_a_network_without_these_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"without up_blocks\.1\.resnets\.1\.conv2"):
        convolution(torch.nn.Linear(1, 1))


OFF = Injection(conv=inf, spatial=inf, temporal=inf)


def one_step(model: Any, kind: str, injection: Injection, *, equal: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The guided estimate with the source in the batch, and what each attention gave the source; three equal branches or different ones."""
    size = side(kind)
    x = noise(model.latent_shape(3, (size, size)), 1)[None] * 3
    source = model.condition(clip(1, size=size)[0], prompt=guided(kind))
    edit = source if equal else model.condition(frame(size=size), prompt=guided(kind))
    conditions = {SOURCE: source, NEGATIVE: source if equal else model.unconditional(edit), EDIT: edit}
    trajectory = Trajectory(torch.tensor([2.0], dtype=torch.float64), (x,))
    with AttentionControl(model, roles=(SOURCE, NEGATIVE, EDIT)) as control:
        injection.add(control)
        hidden = control.add(Capture(what="attn_output", rows=SOURCE, dtype=torch.float32))
        denoise = model.denoiser(conditions, BesideSource.of(2.0, trajectory, EVERYWHERE), control=control)
        estimate = denoise.at(StepContext(0, 1, 2.0))(x, 2.0)
    return estimate, [tensor for _, tensor in sorted(hidden.tensors.items())]


@pytest.mark.numerics
@pytest.mark.parametrize("kind", VIDEO)
def test_injection_between_equal_branches_changes_nothing(kind: str) -> None:
    model = in_float64(load(tiny.cached(kind)))
    plain, injected = (one_step(model, kind, injection, equal=True)[0] for injection in (OFF, EVERYWHERE))
    close(injected, plain, depth=ENDS, scale=3)  # guidance of scale 2
    # The same injection between different branches is far above what rounding may do.
    plain, injected = (one_step(model, kind, injection)[0] for injection in (OFF, EVERYWHERE))
    assert float((plain - injected).abs().max()) > 10 * tolerance(plain, depth=ENDS, scale=3)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", VIDEO)
@pytest.mark.parametrize("part", ["conv", "spatial", "temporal", "value"])
def test_each_injection_changes_the_edit_and_never_the_source(kind: str, part: str) -> None:
    """Every attention's output for the source's rows is what it is without injection."""
    model = load(tiny.cached(kind))
    if part == "value":
        off, on = EVERYWHERE, dataclasses.replace(EVERYWHERE, value=True)
    else:
        off, on = OFF, dataclasses.replace(OFF, **{part: 0.0})
    (before, source), (after, same) = (one_step(model, kind, injection) for injection in (off, on))
    assert len(source) == len(attention_sites(model.unet))
    assert all(torch.equal(first, second) for first, second in zip(source, same, strict=True))
    assert (before - after).abs().max() > 1e-6


@pytest.mark.parametrize("kind", VIDEO)
def test_all_shares_zero_is_plain_sampling_from_the_inverted_noise(kind: str) -> None:
    model = load(tiny.cached(kind))
    source, edited_frame = clip(size=side(kind)), frame(size=side(kind))
    bare = dataclasses.replace(QUICK, tau_conv=0.0, tau_spatial=0.0, tau_temporal=0.0)
    inversion = bare.invert(model, [source])
    edited = bare.edit(model, [source], [edited_frame], inversion, prompts=[guided(kind)])[0]
    edit = bare.condition(model, edited_frame, guided(kind), 8.0, 0)
    negative = model.unconditional(bare.condition(model, edited_frame, bare.negative_prompt, 8.0, 0))
    denoise = model.denoiser({"cond": edit, "uncond": negative}, ClassifierFreeGuidance(2.0))
    x = sample(denoise, inversion.trajectory.start, inversion.trajectory.table)
    assert torch.equal(edited.frames, model.decode(x, 8.0).frames)
    assert not torch.equal(edited.frames, QUICK.edit(model, [source], [edited_frame], inversion, prompts=[guided(kind)])[0].frames)


def test_the_source_rows_are_the_saved_latents_of_each_level() -> None:
    """Its own estimate is thrown away: feeding it anything else changes the edit."""
    model = load(tiny.cached("toy-i2v"))
    inversion = SMALL.invert(model, [clip()])
    seen: list[Tensor] = []
    handle = model.unet.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    SMALL.edit(model, [clip()], [frame()], inversion)
    handle.remove()
    path = inversion.trajectory
    for sigma, rows in zip(path.sigmas, seen, strict=True):
        if SMALL.injection.active(float(sigma)):
            close(rows[0, :, :4], path.at(float(sigma))[0] / (float(sigma) ** 2 + 1) ** 0.5, depth=ENDS)
        assert len(rows) == 2 + SMALL.injection.active(float(sigma))
    assert {len(rows) for rows in seen} == {2, 3}


def test_skipped_steps_begin_at_the_saved_level_and_leave_the_schedule_alone() -> None:
    model = load(tiny.cached("toy-i2v"))
    heard = Recorder()
    late = dataclasses.replace(SMALL, num_inference_steps=3, num_inversion_steps=3, start_index=1)
    inversion = late.invert(model, [clip()])
    late.edit(model, [clip()], [frame()], inversion, events=heard)
    injected = [late.injection.active(float(sigma)) for sigma in inversion.trajectory.sigmas]
    assert heard.metrics["model_calls"] == 2 * 2 + sum(injected) + inversion.calls
    with pytest.raises(InputError, match="start_index is 2"):
        dataclasses.replace(SMALL, start_index=2)


def test_fresh_noise_keeps_the_variance() -> None:
    model = load(tiny.cached("toy-i2v"))
    inversion = SMALL.invert(model, [clip()])
    other = SMALL.invert(model, [clip(seed=5)])
    bare = dataclasses.replace(SMALL, tau_conv=0.0, tau_spatial=0.0, tau_temporal=0.0, random_ratio=1.0)
    first, second = (bare.edit(model, [clip()], [frame()], found)[0].frames for found in (inversion, other))
    assert torch.equal(first, second)
    half = dataclasses.replace(bare, random_ratio=0.5)
    mixed = half._start(model, inversion.trajectory, torch.tensor([80.0, 0.0]), 0).var()
    assert float(mixed) == pytest.approx(float(inversion.trajectory.start.var() + 80.0**2 + 1) / 2, rel=0.05)


@pytest.mark.numerics
def test_clips_together_come_out_as_alone() -> None:
    model = in_float64(load(tiny.cached("toy-i2v")))  # an inversion blows rounding up
    clips, frames = [clip(seed=0), clip(seed=3)], [frame(0), frame(3)]
    together = SMALL.edit(model, clips, frames, SMALL.invert(model, clips))
    alone = SMALL.edit(model, clips[1:], frames[1:], SMALL.invert(model, clips[1:], seed=1), seed=1)
    close(together[1].frames, alone[0].frames, depth=4 * ENDS)
    assert (together[0].frames - alone[0].frames).abs().max() > 0.05


@pytest.mark.parametrize("kind", VIDEO)
def test_a_whole_edit_leaves_the_network_as_it_was(kind: str) -> None:
    model = load(tiny.cached(kind))
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    heard = Recorder()
    made = dataclasses.replace(QUICK, rebuild=True, height=side(kind), width=side(kind))(
        model, clip(size=side(kind)), frame(size=side(kind)), prompt=guided(kind), events=heard
    )
    assert made.frames.shape == (3, 3, side(kind), side(kind))
    assert made.fps == 8.0
    assert heard.heard.index("metric rebuilt_psnr_db") < next(at for at, what in enumerate(heard.heard) if what.startswith("stage anyv2v "))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.unet.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.unet.modules())
    assert not any(module._forward_hooks for module in model.unet.modules())


def test_a_second_edit_of_a_clip_skips_the_inversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path))
    model, keeping = load(tiny.cached("toy-i2v")), dataclasses.replace(SMALL, cache_megabytes=50, rebuild=True)
    first, second = Recorder(), Recorder()
    made = keeping(model, clip(), frame(), events=first)
    again = keeping(model, clip(), frame(), events=second)
    assert torch.equal(made.frames, again.frames)
    assert first.metrics["inversion_calls"] > 0
    assert second.metrics["inversion_calls"] == 0
    assert second.metrics["rebuilt_psnr_db"] == first.metrics["rebuilt_psnr_db"]
    assert torch.equal(made.frames, dataclasses.replace(keeping, cache_megabytes=0)(model, clip(), frame()).frames)
    for other in (
        lambda heard: keeping(model, clip(seed=1), frame(), events=heard),
        lambda heard: dataclasses.replace(keeping, num_inversion_steps=3)(model, clip(), frame(), events=heard),
        lambda heard: keeping(model, clip(), frame(), seed=1, events=heard),
        lambda heard: dataclasses.replace(keeping, noise_aug_strength=0.1)(model, clip(), frame(), events=heard),
    ):
        heard = Recorder()
        other(heard)
        assert heard.metrics["inversion_calls"] > 0
    heard = Recorder()
    dataclasses.replace(keeping, tau_spatial=1.0)(model, clip(), Image(frame().pixels.flip(0)), prompt="red ball", events=heard)
    assert heard.metrics["inversion_calls"] == 0


def test_an_interrupted_edit_goes_on_where_it_was() -> None:
    model = load(tiny.cached("toy-i2v"))
    whole = SMALL(model, clip(), frame())
    for stop in (1, 3):
        states: dict[str, dict[str, Tensor]] = {}
        with pytest.raises(Cancelled):
            SMALL(model, clip(), frame(), events=Recorder(stop, states))
        assert torch.equal(SMALL(model, clip(), frame(), events=Recorder(None, states)).frames, whole.frames)


def test_levels_nest() -> None:
    def karras(steps: int) -> Tensor:
        return karras_sigmas(steps, 0.002, 80.0)

    for sigmas, asked, steps, expected in ((karras, 500, 50, 491), (karras, 49, 25, 49), (karras, 3, 25, 25)):
        table, run = nested_tables(sigmas, asked, steps)
        assert len(table) == expected + 1
        assert torch.equal(run, sigmas(steps))
        assert all(bool(((table / level - 1).abs() < 1e-6).any()) for level in run[:-1])
    model = load(tiny.cached("i2vgen"))
    table, run = nested_tables(model.sigmas, 500, 50)
    assert len(run) == 51
    assert table[0] == run[0]
    assert len(table) == 492
    assert all(bool(((table / level - 1).abs() < 1e-6).any()) for level in run[:-1])


def test_long_clips_are_edited_in_windows_that_share_frames() -> None:
    model, long = load(tiny.cached("toy-i2v")), clip(7)
    method = dataclasses.replace(SMALL, window=4, overlap=2)
    heard = Recorder()
    assert method.windows(model, 7).starts == [0, 2, 3]
    made = method(model, long, frame(), events=heard)
    assert made.frames.shape == (7, 3, 32, 32)
    assert any("7 frames are edited in 3 windows of 4" in line for line in heard.notes)
    short = method.windows(model, 4)
    assert short.starts == [0]
    untouched = short.fused(lambda x, sigma: x * 2)
    assert torch.equal(untouched(torch.ones(1, 4, 1, 1, 1), 1.0), torch.full((1, 4, 1, 1, 1), 2.0))
    with pytest.raises(InputError, match="windows must share fewer frames"):
        dataclasses.replace(method, overlap=4).windows(model, 7)


def test_each_window_of_the_inversion_is_told_its_own_first_frame() -> None:
    """The model of a window answers with the grey of the frame that it was told: the fused estimate follows the clip."""

    class Grey:
        num_frames, max_rows = 2, None

        def denoiser(self, conditions: dict[str, Condition], guidance: NoGuidance) -> object:
            level = conditions["cond"].tensors["grey"]
            return lambda x, sigma: level.view(-1, 1, 1, 1, 1).expand_as(x)

    from calotype.methods.anyv2v.inversion import Inverter

    rising = Video(torch.linspace(0, 0.6, 4)[:, None, None, None].expand(4, 3, 16, 16).contiguous(), 8.0)
    inverter = Inverter(
        model=Grey(),  # type: ignore[arg-type]
        condition=lambda image, prompt, fps, seed: Condition({"grey": image.pixels.mean().view(1)}),
        tables=(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])),
        solver="ddim",
        prompt="",
        seed=0,
        windows=Windows(4, 2, 1),
        rebuild=False,
        told={},
        cache=TensorCache("none", 0),
    )
    denoise, _ = inverter.denoiser([rising])
    found = denoise(torch.zeros(1, 4, 1, 1, 1), 1.0).flatten()
    assert torch.allclose(found, torch.tensor([0.0, 0.1, 0.3, 0.4]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tau_spatial": 1.5}, "tau_spatial is 1.5; it must lie between 0 and 1"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5"),
        ({"overlap": 0}, "overlap is 0; it must be 1 or more"),
        ({"window": 1}, "window is 1; it must be 2 or more"),
        ({"height": 8}, "height is 8"),
        ({"motion_bucket_id": 256}, "motion_bucket_id is 256"),
    ],
)
def test_settings_are_checked(change: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        dataclasses.replace(QUICK, **change)  # type: ignore[arg-type]


def test_inputs_are_checked_before_anything_is_computed() -> None:
    model = load(tiny.cached("toy-i2v"))
    tall = Image(torch.zeros(3, 48, 32))
    for video, edited, extra, said in (
        (clip(1), frame(), {}, "it has one frame"),
        (clip(), tall, {}, "32x48 px and the clip 32x32, another shape"),
        (clip(), None, {}, "edited_first_frame is missing"),
        (clip(), None, {"instruction": "make it red"}, "editor is missing"),
        (clip(), None, {"editor": model}, "instruction is empty"),
        (clip(), frame(), {"instruction": "red", "editor": model}, "the one or the other"),
        (clip(), None, {"instruction": "red", "editor": model}, "give a loaded InstructPix2Pix checkpoint"),
        (torch.zeros(4, 2, 64, 64), frame(), {}, "a clip is"),
    ):
        with pytest.raises(InputError, match=said):
            SMALL(model, video, edited, **extra)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"prompt is empty and .* is guided by it"):
        QUICK(load(tiny.cached("i2vgen")), clip(), frame())
    with pytest.raises(InputError, match="can't be used: anyv2v needs"):
        QUICK(load(tiny.cached("sd")), clip(), frame())
    with pytest.raises(InputError, match=r"max_rows is 1, .* 3 rows must go in one call"):
        SMALL(model.with_max_rows(1), clip(), frame())


def test_other_sizes_are_fitted_with_a_message() -> None:
    heard = Recorder()
    wide = Video(torch.nn.functional.interpolate(clip().frames, (96, 128)), 12.0)
    first = Image(torch.nn.functional.interpolate(frame().pixels[None], (192, 256))[0])
    made = SMALL(load(tiny.cached("toy-i2v")), wide, first, events=heard)
    assert made.size == (32, 32)
    assert made.fps == 12.0
    assert sum("resized to 32x32, 25 % of it cut off at the sides" in line for line in heard.notes) == 2


def test_instructions_are_followed_by_two_guidances() -> None:
    editor = load(tiny.cached("pix2pix"))
    picture = Image(torch.rand(3, 72, 120, generator=torch.Generator().manual_seed(0)))
    made = edit_picture(editor, picture, "red ball", num_inference_steps=2)
    assert made.size == picture.size
    assert working_size(editor, (72, 120)) == (128, 192)
    assert torch.equal(made.pixels, edit_picture(editor, picture, "red ball", num_inference_steps=2).pixels)
    assert not torch.equal(made.pixels, edit_picture(editor, picture, "blue house", num_inference_steps=2).pixels)
    assert not torch.equal(made.pixels, edit_picture(editor, picture, "red ball", num_inference_steps=2, image_guidance_scale=3.0).pixels)
    with pytest.raises(InputError, match="give a loaded InstructPix2Pix checkpoint"):
        edit_picture(load(tiny.cached("sd")), picture, "red ball")  # type: ignore[arg-type]


def test_an_instruction_makes_the_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calotype.methods.anyv2v.method.edit_picture", partial(edit_picture, num_inference_steps=1))
    made = SMALL(load(tiny.cached("toy-i2v")), clip(), instruction="red ball", editor=load(tiny.cached("pix2pix")))
    assert made.frames.shape == (3, 3, 32, 32)
