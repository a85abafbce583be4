"""Clips of the trained video models handed on to methods that take clips or frames, at small width."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.backbones import checkpoint_hash
from calotype.backbones.composable_video import save_parts
from calotype.backbones.control_features import ControlEncoder
from calotype.backbones.control_video_network import ControlledVideoTransformer
from calotype.backbones.folder import SHARED
from calotype.chains import Chain, rerun_chain, run_chain
from calotype.imaging.types import Image, Video
from calotype.registry import resolve_method
from calotype.runs import ModelRequest
from calotype.runs.inputs import read_exact
from calotype.world import paint, sample_scene
from tests.tiny import cached
from tests.tiny_cmd import FRAMES, cached_cmd_model


def load(request: ModelRequest) -> Any:
    return calotype.load(request.name, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def composable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CAGE folder with random weights on the small autoencoder."""
    folder = tmp_path_factory.mktemp("cage") / "model"
    vae = calotype.load(str(cached("toy-t2i")), device="cpu").modules["vae"]
    side = 64 // 2 ** (len(vae.config.block_out_channels) - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ControlEncoder(widths=(8, 8, 8), feature_width=6)
        network = ControlledVideoTransformer(
            latent_channels=vae.config.latent_channels, grid=(side // 2, side // 2), width=16, depth=1, heads=2, feature_width=6
        )
    save_parts(folder, transformer=network, control_encoder=encoder, vae=vae, size=(64, 64), targets=3, stride=1, feature_layers=1)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    Image(paint([sample_scene("small", split="tune", seed=1, index=0)])[0]).save(tmp_path / "first.png")
    return tmp_path


def chain(place: Path, links: dict[str, Any]) -> Chain:
    (place / "chain.json").write_text(json.dumps({"links": links}))
    return Chain.read(place / "chain.json", resolve_method)


def test_a_clip_of_cmd_is_edited(place: Path) -> None:
    steps = {"num_inference_steps": 2}
    links = {
        "make": {
            "method": "cmd", "model": str(cached_cmd_model()), "give": {"prompt": "a red ball on grass moving left"},
            "settings": {**steps, "num_motion_steps": 2},
        },
        "edit": {
            "method": "anyv2v", "model": str(cached("toy-i2v")), "settings": {**steps, "num_inversion_steps": 2},
            "give": {"video": "@make.video", "edited_first_frame": "first.png", "prompt": "a blue ball on grass"},
        },
    }  # fmt: skip
    done = run_chain(chain(place, links), load_model=load, out=place / "out")
    made = read_exact(place / "out" / "handed-on" / "make.video.safetensors")
    edited = done.runs["edit"].results["result"]
    assert isinstance(made, Video)
    assert isinstance(edited, Video)
    assert len(made.frames) == len(edited.frames) == FRAMES


def test_frames_of_cage_become_a_loop(place: Path, composable: Path) -> None:
    links = {
        "go": {
            "method": "cage", "model": str(composable), "settings": {"num_inference_steps": 2},
            "give": {"image": "first.png", "move": ["1,1:1,3@1-3", "3,3:3,1@1-3"], "num_frames": 4},
        },
        "back": {
            "method": "time-reversal-fusion", "model": str(cached("toy-i2v")), "settings": {"num_inference_steps": 2},
            "give": {"start": "@go.video:last", "end": "@go.video:first", "prompt": "a ball on snow"},
        },
    }  # fmt: skip
    done = run_chain(chain(place, links), load_model=load, out=place / "out")
    clip = done.runs["go"].results["video"]
    assert isinstance(clip, Video)
    assert len(clip.frames) == 5
    start = read_exact(place / "out" / "handed-on" / "go.video-last.safetensors")
    assert isinstance(start, Image)
    assert torch.equal(start.pixels, clip.frames[-1])
    again = rerun_chain(place / "out", resolve_method=resolve_method, load_model=load, out=place / "again", trust=True)
    assert again.identical is True


def test_a_checkpoint_whose_parts_lie_beside_it_is_recorded(tmp_path: Path) -> None:
    own, beside = tmp_path / "clips", tmp_path / "pictures"
    shutil.copytree(cached_cmd_model(), own)
    beside.mkdir()
    (own / "text_encoder").rename(beside / "text_encoder")
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, SHARED: {"text_encoder": "pictures"}}))
    before = checkpoint_hash(load(ModelRequest(str(own))))
    assert len(before) == 64
    moved = shutil.move(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert checkpoint_hash(load(ModelRequest(str(Path(moved) / "clips")))) == before
