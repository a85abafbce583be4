"""The role VolumePrior: MONAI's network around folders, windows counted, folders that are no prior refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import calotype
from calotype.backbones import locate
from calotype.backbones.quantized import load_quantized
from calotype.backbones.volume_network import VolumeNetwork, monai_unet
from calotype.backbones.volume_prior import VolumePrior
from calotype.errors import InputError, MissingError, ShapeError
from tests.tiny_qsm import PIPELINE_CONFIG, SCHEDULE, WINDOW, cached_prior, tiny_volume_prior, volume_config
from tests.tolerance import close, layers

KINDS = [(1, False), (2, False), (2, True)]


def windows(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, 1, WINDOW, WINDOW, WINDOW), generator=torch.Generator().manual_seed(seed))


def copy(to: Path, *, rounded: bool = False) -> Path:
    return Path(shutil.copytree(cached_prior(2, rounded), to))


@pytest.mark.parametrize(("patch_size", "rounded"), KINDS)
def test_a_folder_loads_in_its_role_with_the_weights_that_were_saved(patch_size: int, rounded: bool) -> None:
    from safetensors.torch import load_file

    folder = cached_prior(patch_size, rounded)
    model = calotype.load(folder, device="cpu")
    assert isinstance(model, VolumePrior)
    assert (model.role, model.unit, model.window, model.spacing) == ("VolumePrior", "ppm", (WINDOW,) * 3, (2.0, 2.0, 2.0))
    assert (model.scale, model.limit) == (PIPELINE_CONFIG["scale"], PIPELINE_CONFIG["limit"])
    assert model.network.patch_size == patch_size
    (path,) = locate(folder).checkpoint.weights
    saved = load_quantized(path) if rounded else load_file(path)
    found = model.network.unet.state_dict()
    assert set(saved) == set(found)
    assert all(torch.equal(saved[name].float(), found[name]) for name in saved)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not model.network.training


def test_eight_bits_are_the_same_network_within_their_rounding() -> None:
    plain, rounded = (calotype.load(cached_prior(2, kind), device="cpu").network.unet.state_dict() for kind in (False, True))
    for name, value in plain.items():
        assert (value - rounded[name]).abs().max() <= 0.01 * value.abs().max() + 1e-6, name


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_the_estimate_is_monais_network_and_diffusers_conversion(prediction_type: str, tmp_path: Path) -> None:
    """By the libraries alone: MONAI's network on the scheduler's scaled state, DDIM's `pred_original_sample`."""
    from diffusers import DDIMScheduler
    from monai.networks.nets import DiffusionModelUNet
    from safetensors.torch import load_file

    folder = tiny_volume_prior(tmp_path / "prior", prediction_type=prediction_type)
    unet = DiffusionModelUNet(**volume_config()).eval()
    unet.load_state_dict({name: value.float() for name, value in load_file(folder / "unet" / "model.safetensors").items()})
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(50)
    model = calotype.load(folder, device="cpu")
    denoise = model.denoiser()
    for t in (900, 500, 40):
        alpha = scheduler.alphas_cumprod[t].double()
        sigma = float(((1 - alpha) / alpha).sqrt())
        z = windows(seed=t)
        with torch.no_grad():
            expected = scheduler.step(unet(z, timesteps=torch.full((2,), t)), t, z).pred_original_sample
        found = denoise(z / float(alpha.sqrt()), sigma)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), t
        assert found.dtype == torch.float32
        assert (found - z).abs().max() > 0.05
    assert denoise.calls == 6


def test_noise_levels_are_the_checkpoints_own() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_pretrained(cached_prior() / "scheduler")
    scheduler.set_timesteps(20)
    alphas = scheduler.alphas_cumprod[scheduler.timesteps].double()
    found = calotype.load(cached_prior(), device="cpu").sigmas(20)
    assert torch.allclose(found[:-1], ((1 - alphas) / alphas).sqrt(), rtol=1e-4)
    assert found[-1] == 0


def test_every_window_counts_and_is_what_it_is_alone() -> None:
    model = calotype.load(cached_prior(2), device="cpu")
    denoise = model.denoiser()
    x = 3 * windows(3)
    together = denoise(x, 2.0)
    assert denoise.calls == 3
    alone = torch.cat([denoise(part[None], 2.0) for part in x])
    assert denoise.calls == 6
    close(together, alone, depth=layers(model.network))
    assert not torch.allclose(together, denoise(x, 0.5), atol=1e-2)
    assert model.denoiser().calls == 0


def test_cells_of_a_patch_are_what_is_near_each_other() -> None:
    """The network sees 2^3 blocks as channels: one that returns its input returns the volume, and one that keeps a channel its voxels."""

    class Kept(torch.nn.Module):
        def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            assert x.shape == (1, 8, 4, 4, 4)
            return torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], dim=1)

    x, time = windows(1), torch.zeros(1)
    found = VolumeNetwork(Kept(), 2)(x, time)
    assert torch.equal(found[0, 0, ::2, ::2, ::2], x[0, 0, ::2, ::2, ::2])
    found[0, 0, ::2, ::2, ::2] = 0
    assert not found.any()
    with pytest.raises(ShapeError, match=r"sides \[8, 8, 7\]; each must be divisible by 2"):
        VolumeNetwork(Kept(), 2)(x[..., :7], time)


def _lacks_weights(folder: Path) -> None:
    (folder / "unet" / "model.safetensors").unlink()


def _cuts_weights(folder: Path) -> None:
    path = folder / "unet" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lacks_scheduler(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()


def _facts(**changes: object):  # type: ignore[no-untyped-def]
    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    return change


def _config(**changes: object):  # type: ignore[no-untyped-def]
    def change(folder: Path) -> None:
        path = folder / "unet" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (_lacks_weights, MissingError, "unet/model.safetensors is missing"),
        (_cuts_weights, MissingError, "unet/model.safetensors is cut short"),
        (_lacks_scheduler, MissingError, "scheduler/scheduler_config.json is missing"),
        (_facts(unet=None), MissingError, "model_index.json names no unet"),
        (_facts(window=[8, 8]), InputError, r"window \[8, 8\]; it must be three positive numbers"),
        (_facts(window=[9, 8, 8]), InputError, r"window \[9, 8, 8\]; each side must be a multiple of 4"),
        (_facts(window=None), InputError, "window None; it must be three positive numbers"),
        (_facts(spacing=[2, 2, 0]), InputError, "spacing .*must be three positive numbers"),
        (_facts(scale="0.05"), InputError, "scale '0.05'; it must be a positive number"),
        (_facts(limit=-1), InputError, "limit -1; it must be a positive number"),
        (_facts(patch_size=0), InputError, "patch_size 0 and the network has 8 channels"),
        (_facts(patch_size=1), InputError, "patch_size 1 and the network has 8 channels"),
        (_facts(patch_size="2"), InputError, "patch_size '2' and the network has 8 channels"),
        (_config(channels=[8, 16]), InputError, "config.json and weights don't belong together"),
        (_config(channels=[8, 6]), InputError, "refused by MONAI's DiffusionModelUNet"),
        (_config(colour="red"), InputError, "refused by MONAI's DiffusionModelUNet"),
    ],
)
def test_bad_folders_are_one_line(damage, kind: type[Exception], said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = copy(tmp_path / "prior")
    damage(folder)
    with pytest.raises(kind, match=said) as caught:
        calotype.load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_without_monai_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("monai", "monai.networks", "monai.networks.nets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingError, match=r'volumes need MONAI; install it: pip install "calotype\[medical\]"'):
        monai_unet(volume_config())
    with pytest.raises(MissingError, match="volumes need MONAI"):
        calotype.load(cached_prior(), device="cpu")


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_must_be_positive(rows: int) -> None:
    with pytest.raises(InputError, match=f"max_rows is {rows}"):
        calotype.load(cached_prior(), device="cpu", max_rows=rows)
    assert calotype.load(cached_prior(), device="cpu", max_rows=3).max_rows == 3


def test_neither_the_library_nor_the_lists_import_monai() -> None:
    code = (
        "import sys, calotype, calotype.core, calotype.backbones, calotype.data; from calotype.methods.qsmdiff import QSMDiff; "
        "from calotype.cli.app import run; "
        "status = [run(['list']), run(['--help']), run(['info', 'qsmdiff'])]; "
        "print(status, [name for name in ('monai', 'nibabel', 'nilearn', 'pydicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] []"
