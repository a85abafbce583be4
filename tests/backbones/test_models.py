"""The adapters' own rules: branches, batches, precision, decoding, what is left unchanged."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.backbones import checkpoint_hash, describe, load
from calotype.backbones.placement import Placement, check_torchvision, place, settle
from calotype.core.denoiser import Condition
from calotype.core.guidance import ClassifierFreeGuidance, NoGuidance, linear_ramp
from calotype.core.noise import batch_noise
from calotype.core.paths import Path as DenoisingPath
from calotype.core.paths import fuse
from calotype.errors import InputError, MissingError, ShapeError
from calotype.imaging.types import Image
from tests.tiny import cached
from tests.tolerance import ENDS, close, in_float64, layers, tolerance


def _image(size: tuple[int, int] = (64, 64), seed: int = 0) -> Image:
    return Image(torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def video() -> Any:
    return load(cached("toy-i2v"), device="cpu")


@pytest.fixture(scope="module")
def picture() -> Any:
    return load(cached("toy-t2i"), device="cpu")


@pytest.fixture(scope="module")
def exact_video() -> Any:
    return in_float64(load(cached("toy-i2v"), device="cpu"))


def _video_branches(model: Any, rows: int = 2) -> dict[str, Condition]:
    positive = Condition.cat([model.condition(_image(seed=i), prompt=f"a red ball {i}", motion_bucket_id=50 * i) for i in range(rows)])
    return {"cond": positive, "uncond": model.unconditional(positive)}


def test_two_different_conditions_in_one_batch_are_two_clips(exact_video: Any) -> None:
    video = exact_video
    branches = _video_branches(video)
    guidance = ClassifierFreeGuidance(linear_ramp(1.0, 3.0, 4))
    x = 5 * batch_noise(video.latent_shape(4), seed=1, count=2)
    both = video.denoiser(branches, guidance)(x, 5.0)
    for row in range(2):
        alone = {label: Condition({name: t[row : row + 1] for name, t in c.tensors.items()}) for label, c in branches.items()}
        close(video.denoiser(alone, guidance)(x[row : row + 1], 5.0)[0], both[row], depth=ENDS, scale=5)
    assert (both[0] - both[1]).abs().max() > 0.1


@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_bounded_batches_equal_one_batch(exact_video: Any, max_rows: int) -> None:
    video = exact_video
    branches = _video_branches(video)
    guidance = ClassifierFreeGuidance(linear_ramp(1.0, 3.0, 4))
    x = 5 * batch_noise(video.latent_shape(4), seed=1, count=2)
    whole, bounded = video.denoiser(branches, guidance), video.with_max_rows(max_rows).denoiser(branches, guidance)
    close(bounded(x, 5.0), whole(x, 5.0), depth=ENDS, scale=5)
    assert bounded.calls == whole.calls == 4
    assert video.max_rows is None


def test_max_rows_bounds_what_the_network_sees(picture: Any) -> None:
    seen: list[int] = []
    handle = picture.unet.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[0]))
    try:
        positive = picture.condition(["a", "b", "c"])
        branches = {"cond": positive, "uncond": picture.unconditional(positive)}
        x = batch_noise(picture.latent_shape(), seed=0, count=3)
        picture.with_max_rows(4).denoiser(branches, ClassifierFreeGuidance(2.0))(x, 1.0)
        assert seen == [4, 2]
        picture.denoiser(branches, ClassifierFreeGuidance(1.0))(x, 1.0)
        assert seen == [4, 2, 3], "the negative branch isn't needed at scale 1"
    finally:
        handle.remove()


def test_two_paths_in_time_with_their_own_pictures(exact_video: Any) -> None:
    """What time reversal does: rows path-major, the second path sees the clip backwards."""
    video = exact_video
    branches = _video_branches(video)
    guidance = ClassifierFreeGuidance(linear_ramp(1.0, 2.0, 4))
    denoise = video.denoiser(branches, guidance)

    def flip(x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)

    weight = torch.linspace(1, 0, 4).view(1, 4, 1, 1, 1)
    fused = fuse(denoise, [DenoisingPath(lambda x: x, lambda x: x, weight), DenoisingPath(flip, flip, weight)])
    x = 5 * batch_noise(video.latent_shape(4), seed=1, count=1)
    one, two = denoise(torch.cat([x, x.flip(1)]), 5.0)
    close(fused(x, 5.0)[0], weight[0] * one + (1 - weight[0]) * two.flip(0), depth=ENDS, scale=3)


def test_every_part_of_a_condition_matters(video: Any, picture: Any) -> None:
    x = 5 * batch_noise(video.latent_shape(4), seed=1, count=1)

    def clip(image: Image, **arguments: Any) -> torch.Tensor:
        return video.denoiser({"cond": video.condition(image, **arguments)}, NoGuidance())(x, 5.0)

    plain = clip(_image())
    assert torch.equal(clip(_image()), plain)
    for other in [
        clip(_image(seed=3)),
        clip(_image(), prompt="a red ball"),
        clip(_image(), fps=20),
        clip(_image(), motion_bucket_id=3),
        clip(_image(), noise_aug_strength=0.3),
        clip(_image(), noise_aug_strength=0.3, seed=1),
    ]:
        assert (other - plain).abs().max() > 1e-3

    y = 5 * batch_noise(picture.latent_shape(), seed=1, count=1)
    red, blue = (picture.denoiser({"cond": picture.condition(f"a {colour} ball")}, NoGuidance())(y, 5.0) for colour in ("red", "blue"))
    assert (red - blue).abs().max() > 1e-3


def test_the_unconditional_branch_keeps_caption_and_ids(video: Any) -> None:
    condition = video.condition(_image(), prompt="a red ball")
    tensors = video.unconditional(condition).tensors
    assert condition.tensors["context"].shape == (1, 1 + 24, 64)
    assert not tensors["context"][:, 0].any()
    assert not tensors["image_latents"].any()
    assert torch.equal(tensors["context"][:, 1:], condition.tensors["context"][:, 1:])
    assert tensors["added_time_ids"].tolist() == [[6.0, 127.0, pytest.approx(0.02)]]


def test_a_checkpoint_without_text_encoder_says_that_the_prompt_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    model = load(cached("svd"), device="cpu")
    with caplog.at_level(logging.WARNING, logger="calotype"):
        silent = model.condition(_image())
        assert not caplog.records
        prompted = model.condition(_image(), prompt="a red ball")
    assert "has no text encoder" in caplog.text
    assert torch.equal(silent.tensors["context"], prompted.tensors["context"])


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(picture: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="calotype"):
        condition = picture.condition("a red ball " * 20)
    assert condition.tensors["text"].shape[1] == 24
    assert "is left out" in caplog.text


def test_wrong_shapes_and_branches_are_refused(picture: Any, video: Any) -> None:
    with pytest.raises(InputError, match="no condition is given for uncond"):
        picture.denoiser({"cond": picture.condition("a")}, ClassifierFreeGuidance(2.0))
    with pytest.raises(ShapeError, match="x has 2 rows and the condition 'cond' has 1"):
        picture.denoiser({"cond": picture.condition("a")}, NoGuidance())(torch.zeros(2, 4, 16, 16), 1.0)
    with pytest.raises(ShapeError, match="multiples of 4, such as 64x68"):
        video.condition(_image((64, 67)))
    with pytest.raises(ShapeError, match="multiples of 4"):
        picture.latent_shape((63, 64))
    with pytest.raises(ShapeError, match=r"expected \[1, frames, 4, h, w\]"):
        video.decode(torch.zeros(2, 8, 4, 16, 16), 7.0)
    with pytest.raises(ShapeError, match=r"expected \[batch, 3, height, width\]"):
        picture.encode(torch.zeros(3, 64, 64))
    with pytest.raises(InputError, match="max_rows is 0"):
        picture.with_max_rows(0)
    with pytest.raises(InputError, match="no prompt"):
        picture.condition([])


def test_encode_and_decode_scale_and_keep_their_ranges() -> None:
    model = load(cached("sdxl"), device="cpu")
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    latents = model.encode(pixels)
    assert latents.shape == (2, *model.latent_shape((64, 96)))
    with torch.no_grad():
        mode = model.vae.encode(pixels * 2 - 1).latent_dist.mode()
    close(latents, mode * 0.13025, depth=ENDS)
    back = model.decode(latents)
    assert back.shape == pixels.shape
    assert back.min() >= 0
    assert back.max() <= 1
    close(model.with_decode_chunk_size(1).decode(latents), back, depth=layers(model.vae))


def test_latent_statistics_in_the_config_are_used() -> None:
    from diffusers import AutoencoderKL

    from calotype.backbones.autoencoder import LatentSpace

    vae: Any = AutoencoderKL.from_pretrained(cached("toy-vae")).eval()
    plain = LatentSpace(vae, torch.device("cpu"))
    latents = plain.encode(torch.rand(1, 3, 16, 16))
    vae.register_to_config(latents_mean=[1.0, 0.0, 0.0, 0.0], latents_std=[2.0, 1.0, 1.0, 1.0])
    moved = LatentSpace(vae, torch.device("cpu"))
    expected = latents / plain.scaling_factor
    expected[:, 0] = (expected[:, 0] - 1) / 2
    pixels = torch.rand(1, 3, 16, 16)
    expected = plain.encode(pixels) / plain.scaling_factor
    expected[:, 0] = (expected[:, 0] - 1) / 2
    found = moved.encode(pixels)
    close(found, expected * plain.scaling_factor, depth=layers(vae))
    close(moved.decode(found), plain.decode(plain.encode(pixels)), depth=layers(vae))


def test_a_temporal_decoder_is_given_its_chunks() -> None:
    model = load(cached("svd"), device="cpu")
    frames = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = model.encode(frames)
    assert latents.shape == (1, 5, 4, 8, 8)
    whole, chunked = model.decode(latents, 7.0).frames, model.with_decode_chunk_size(2).decode(latents, 7.0).frames
    with torch.no_grad():
        last = model.vae.decode(latents[0, 4:] / 0.18215, num_frames=1).sample / 2 + 0.5
    close(chunked[4:], last.clamp(0, 1), depth=layers(model.vae.decoder))
    assert (whole - chunked).abs().max() > 4 * tolerance(whole, depth=layers(model.vae.decoder)), "the decoder joins frames of one chunk"


def test_public_sizes() -> None:
    assert load(cached("sd"), device="cpu").size == (128, 128)
    assert load(cached("toy-i2v"), device="cpu").latent_shape() == (8, 4, 16, 16)


@pytest.mark.parametrize("kind", ["toy-t2i", "svd"])
def test_half_precision_keeps_the_state_in_float32_and_the_autoencoder_safe(kind: str) -> None:
    full = load(cached(kind), device="cpu")
    model = load(cached(kind), device="cpu", dtype="float16")
    assert model.dtype == torch.float16
    assert model.vae.dtype == torch.float32
    if kind == "svd":
        conditions = [m.condition(_image(), seed=1) for m in (full, model)]
        x = 700 * batch_noise(model.latent_shape(3), seed=1, count=1)
    else:
        conditions = [m.condition("a red ball") for m in (full, model)]
        x = 14 * batch_noise(model.latent_shape(), seed=1, count=1)
    sigma = float(model.sigmas(10)[0])
    expected, found = (m.denoiser({"cond": c}, NoGuidance())(x, sigma) for m, c in zip((full, model), conditions, strict=True))
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() < 0.05


def test_gradients_flow_only_where_they_are_asked_for(picture: Any) -> None:
    denoise = picture.denoiser({"cond": picture.condition("a red ball")}, NoGuidance())
    x = batch_noise(picture.latent_shape(), seed=0, count=1)
    assert not denoise(x, 1.0).requires_grad
    wanted = x.clone().requires_grad_()
    denoise(wanted, 1.0).square().sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in picture.unet.parameters())


def test_a_pipeline_object_is_borrowed_and_stays_as_it_was() -> None:
    from diffusers import StableDiffusionPipeline, StableVideoDiffusionPipeline

    folder = cached("toy-t2i")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    before = {name: {key: value.clone() for key, value in module.state_dict().items()} for name, module in _modules(pipeline).items()}
    gradients = {name: [p.requires_grad for p in module.parameters()] for name, module in _modules(pipeline).items()}
    scheduler = dict(pipeline.scheduler.config), pipeline.scheduler.timesteps.clone()
    model = load(pipeline)
    assert model.unet is pipeline.unet
    pixels = model.decode(model.encode(torch.rand(1, 3, 64, 64)))
    assert pixels.dtype == torch.float32
    model.denoiser({"cond": model.condition("a red ball")}, NoGuidance())(torch.randn(1, *model.latent_shape()), 2.0)
    for name, module in _modules(pipeline).items():
        assert all(
            torch.equal(value, before[name][key]) and value.dtype == before[name][key].dtype for key, value in module.state_dict().items()
        )
        assert [p.requires_grad for p in module.parameters()] == gradients[name]
    assert (dict(pipeline.scheduler.config), True) == (scheduler[0], torch.equal(pipeline.scheduler.timesteps, scheduler[1]))
    assert len(checkpoint_hash(model)) == 64

    loaded = load(folder, device="cpu")
    video = load(StableVideoDiffusionPipeline.from_pretrained(cached("svd")))
    assert video.role == "ImageToVideo"
    same = load(cached("svd"), device="cpu")
    image = _image((64, 96))
    assert torch.equal(video.condition(image).tensors["context"], same.condition(image).tensors["context"])
    assert torch.equal(video.sigmas(7), same.sigmas(7))
    assert torch.equal(model.sigmas(7), loaded.sigmas(7))
    with pytest.raises(InputError, match="keeps its own device"):
        load(pipeline, device="cpu")
    with pytest.raises(InputError, match="a Linear was given"):
        load(torch.nn.Linear(1, 1))


def _modules(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def test_records(picture: Any, tmp_path: Path) -> None:
    import json
    import shutil

    facts = describe(picture)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["role"] == "TextToImage"
    assert facts["parameters"] == sum(p.numel() for n in ("unet", "vae", "text_encoder") for p in picture.networks[n].parameters())
    copy = Path(shutil.copytree(cached("toy-t2i"), tmp_path / "copy"))
    first = checkpoint_hash(load(copy, device="cpu"))
    assert first == checkpoint_hash(picture), "the hash is of the content, not of the place"
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoint_hash(load(copy, device="cpu")) != first


def test_places() -> None:
    assert place("cpu", "auto", None).dtype == torch.float32
    assert place("cpu", torch.bfloat16, None).half
    for arguments, said in [
        (("nowhere", "auto", None), "no device 'nowhere'"),
        (("cpu", "int8", None), "dtype 'int8' is unknown"),
        (("cpu", torch.float64, None), "torch.float64 is not supported"),
        (("cpu", "auto", "model"), "on the CPU leave it out"),
        (("cpu", "auto", "disk"), "offload 'disk' is unknown"),
    ]:
        with pytest.raises(InputError, match=said):
            place(*arguments)  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="use auto or cpu"):
        place("cuda:63", "auto", None)


def test_a_broken_torchvision_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(MissingError, match=r"operator torchvision::nms does not exist.*pip uninstall torchvision"):
        check_torchvision()


@pytest.mark.parametrize(("kind", "offload"), [("svd", "sequential"), ("toy-t2i", "model")])
def test_offloaded_networks_say_the_same(kind: str, offload: str) -> None:
    """On the CPU the hooks move weights from main memory to main memory: what matters is that every call passes them."""

    def everything(model: Any) -> list[torch.Tensor]:
        condition = model.condition(_image(), seed=1) if kind == "svd" else model.condition("a red ball")
        shape = model.latent_shape(2) if kind == "svd" else model.latent_shape()
        estimate = model.denoiser({"cond": condition}, NoGuidance())(batch_noise(shape, seed=1, count=1), 1.0)
        decoded = model.decode(estimate, 7.0).frames if kind == "svd" else model.decode(estimate)
        return [estimate, decoded]

    plain, hooked = load(cached(kind), device="cpu"), load(cached(kind), device="cpu")
    settle(list(hooked.networks.values()), Placement(torch.device("cpu"), torch.float32, offload))
    if offload == "sequential":
        assert {parameter.device.type for parameter in hooked.unet.parameters()} == {"meta"}
    for expected, found in zip(everything(plain), everything(hooked), strict=True):
        close(found, expected, depth=layers(plain.unet))
