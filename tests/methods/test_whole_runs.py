"""Every method from end to end, as large checkpoints are run: in half precision, and with weights that wait until they are needed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import calotype
from calotype.backbones.placement import Placement, settle
from calotype.cli.attention_capture import Watcher
from calotype.imaging.types import Image, Mask, Video
from calotype.methods.anyv2v import AnyV2V
from calotype.methods.design_edit import DesignEdit
from calotype.methods.harmonized_customization import HarmonizedCustomization
from calotype.methods.ovam import OpenVocabularyAttentionMaps
from calotype.methods.ovam.tokens import fit_token
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.time_reversal_fusion import TimeReversalFusion
from tests.methods.test_anyv2v import clip, frame
from tests.methods.test_qsmdiff import scan
from tests.tiny import cached
from tests.tiny_qsm import cached_prior
from tests.tiny_subject import cached_subject

CPU = torch.device("cpu")
MAPS = OpenVocabularyAttentionMaps(num_inference_steps=2, guidance_scale=2.0, levels=2, refine="none", height=64, width=64)
EDIT = DesignEdit(num_inference_steps=3)
BETWEEN = TimeReversalFusion(num_inference_steps=2, num_frames=3)
VIDEO = AnyV2V(num_inversion_steps=2, num_inference_steps=2, guidance_scale=2.0, cache_megabytes=0, negative_prompt="", height=64, width=64)
CUSTOM = HarmonizedCustomization(num_inference_steps=2, guidance_scale=2.0, swap_start=0.0, subject_mask="on", height=64, width=64)
MAP = QSMDiff(num_inference_steps=2, num_guidance_steps=2, overlap=0.25, padding=1.25)


def picture(seed: int = 0, side: int = 64) -> Image:
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Image(torch.nn.functional.interpolate(coarse, side, mode="bilinear")[0])


def disc(side: int = 64) -> Mask:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return Mask((rows - side // 2) ** 2 + (columns - side // 2) ** 2 < (side // 12) ** 2)


def maps(model: Any) -> list[Tensor]:
    look = MAPS.generate(model, ["a red ball on sand"], seed=1)
    asked = MAPS.look(model, [picture()], prompts=["a ball"], words=["ball"])
    kept = dataclasses.replace(MAPS, store="maps").generate(model, ["a red ball"], words=["ball"], seed=1)
    token = fit_token(look, "ball", disc().values[None, None], num_steps=2)
    return [look.pictures, look.maps(["ball", "blue star"]), asked.maps(["ball"]), kept.maps(["ball"]), MAPS.maps(look, ["ball"], token)]


def edit(model: Any) -> list[Tensor]:
    return [EDIT(model, picture(), remove=("masks:0",), masks=(disc(),), seed=1).pixels]


def subject(word: str) -> Callable[[Any], list[Tensor]]:
    def run(model: Any) -> list[Tensor]:
        made = CUSTOM.generate(model, [picture(2)], ["on sand"], word=word, seed=1)
        plain = dataclasses.replace(CUSTOM, swap="off", conditioning="text").generate(model, [picture(2)], ["on sand"], word=word, seed=1)
        return [made, plain]

    return run


def between(model: Any) -> list[Tensor]:
    return [BETWEEN(model, picture(1), picture(2), prompt="a ball" if getattr(model, "needs_prompt", False) else "", seed=1).frames]


def video(model: Any) -> list[Tensor]:
    video = Video(torch.nn.functional.interpolate(clip().frames, 64), 8.0)
    return [VIDEO(model, video, frame(size=64), prompt="a red ball", seed=1).frames]


def susceptibility(model: Any) -> list[Tensor]:
    return [MAP(model, *scan(), seed=1).chi.values]


RUNS: dict[str, tuple[Callable[[], Path], Callable[[Any], list[Tensor]]]] = {
    "ovam-sdxl": (lambda: cached("sdxl"), maps),
    "design-edit-sd21": (lambda: cached("toy-t2i"), edit),
    "harmonized-customization-toy": (lambda: cached_subject("toy-subject"), subject("creature")),
    "harmonized-customization-blip": (lambda: cached_subject("blip"), subject("ball")),
    "time-reversal-fusion-svd": (lambda: cached("svd"), between),
    "anyv2v-i2vgen": (lambda: cached("i2vgen"), video),
    "qsmdiff": (lambda: cached_prior(2), susceptibility),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", RUNS)
def test_every_method_runs_in_half_precision(name: str, dtype: str) -> None:
    folder, run = RUNS[name]
    model = calotype.load(str(folder()), device="cpu", dtype=dtype)
    for result in run(model):
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()
        assert float(result.std()) > 1e-6


def asleep(model: Any) -> None:
    """Each network's weights are there only inside of its own `forward`, as with model offload just before another network's turn."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for network in model.networks.values():
        add_hook_to_module(network, AlignDevicesHook(execution_device=CPU, offload=True, place_submodules=True, offload_buffers=False))


def by_layer(model: Any) -> None:
    settle(list(model.networks.values()), Placement(CPU, model.dtype, "sequential"))


@pytest.mark.parametrize("hang", [asleep, by_layer], ids=["model", "sequential"])
@pytest.mark.parametrize("name", RUNS)
def test_every_method_runs_with_weights_that_wait(name: str, hang: Callable[[Any], None]) -> None:
    folder, run = RUNS[name]
    expected = run(calotype.load(str(folder()), device="cpu"))
    model = calotype.load(str(folder()), device="cpu")
    hang(model)
    assert {parameter.device.type for network in model.networks.values() for parameter in network.parameters()} == {"meta"}
    for found, wanted in zip(run(model), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4), float((found - wanted).abs().max())


@pytest.mark.parametrize("hang", [asleep, by_layer], ids=["model", "sequential"])
@pytest.mark.parametrize("name", ["design-edit-sd21", "harmonized-customization-blip", "ovam-sdxl"])
def test_attention_is_saved_with_weights_that_wait(name: str, hang: Callable[[Any], None], tmp_path: Path) -> None:
    folder, run = RUNS[name]
    model = calotype.load(str(folder()), device="cpu")
    hang(model)
    watcher = Watcher("ball")
    try:
        run(watcher.attach(model))
    finally:
        watcher.detach()
    assert len(watcher.write(tmp_path)) > 1


def test_a_borrowed_pipeline_may_run_in_another_thread() -> None:
    """The method steers the pipeline's own networks; the pipeline's pictures stay what they are alone."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(cached("toy-t2i"))
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    model = calotype.load(pipeline)
    latents = torch.randn(1, *model.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        settings = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt"}
        found: Tensor = pipeline("a red ball", latents=latents.clone(), **settings).images
        return found

    (edited,), pictured = edit(model), plain()
    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(lambda: [plain() for _ in range(3)])
        again = [edit(model)[0] for _ in range(2)]
        pictures = beside.result(timeout=300)
    assert all(torch.allclose(found, edited, atol=1e-4) for found in again)
    assert all(torch.allclose(found, pictured, atol=1e-4) for found in pictures)


SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "edm": ("EDMEulerScheduler", {"sigma_data": 0.5, "sigma_max": 80.0}),
    "edm-exponential": ("EDMEulerScheduler", {"sigma_data": 1.0, "sigma_schedule": "exponential", "prediction_type": "v_prediction"}),
    "ends-noisy": ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"}),
    "beta": ("UniPCMultistepScheduler", {"use_beta_sigmas": True, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["ovam-sdxl", "design-edit-sd21", "harmonized-customization-toy", "anyv2v-i2vgen", "qsmdiff"])
def test_every_method_follows_every_kind_of_schedule(name: str, schedule: str, tmp_path: Path) -> None:
    folder, run = RUNS[name]
    copied = tmp_path / "model"
    shutil.copytree(folder(), copied)
    scheduler_class, changes = SCHEDULES[schedule]
    for path, change in (
        (copied / "model_index.json", {"scheduler": ["diffusers", scheduler_class]}),
        (copied / "scheduler" / "scheduler_config.json", {"use_karras_sigmas": False, "timestep_type": "discrete", **changes}),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for result in run(calotype.load(str(copied), device="cpu")):
        assert torch.isfinite(result).all()
        assert float(result.std()) > 1e-6
