"""CMD: clips from prompts, rebuilt clips, halves of two clips, what they depend on, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.backbones.content_motion_network import Motion
from calotype.errors import InputError
from calotype.imaging.types import Image, Video
from calotype.methods.cmd import CMD
from tests.recorder import Recorder
from tests.tiny_cmd import FRAMES, cached_cmd_model
from tests.tolerance import close

METHOD = CMD(num_inference_steps=2, num_motion_steps=2, guidance_scale=3.0)
DEPTH = 400
"""About the layers of all networks, and of two steps with guidance."""
PROMPT = "a red ball on grass moving left"


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(str(cached_cmd_model()), device="cpu")


def clip(seed: int = 0, frames: int = FRAMES) -> Video:
    return Video(torch.rand(frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed)), 7.0)


def test_a_prompt_becomes_clips_of_one_content_frame(model: Any) -> None:
    one = METHOD(model, PROMPT, seed=3)
    assert set(one) == {"video", "content_frame"}
    assert isinstance(one["video"], Video)
    assert one["video"].frames.shape == (FRAMES, 3, 64, 64)
    several = dataclasses.replace(METHOD, num_motions=2)(model, PROMPT, seed=3)
    assert set(several) == {"video-1", "video-2", "content_frame"}
    close(several["video-1"].frames, one["video"].frames, depth=DEPTH)
    close(several["content_frame"].pixels, one["content_frame"].pixels, depth=DEPTH)
    assert (several["video-2"].frames - several["video-1"].frames).abs().max() > 1e-3
    other = METHOD(model, PROMPT, seed=4)
    assert (other["content_frame"].pixels - one["content_frame"].pixels).abs().max() > 1e-3


def test_an_item_can_be_made_alone(model: Any) -> None:
    prompts = [PROMPT, "a blue star on snow moving up"]
    content = METHOD.content(model, prompts, seed=5)
    close(METHOD.content(model, prompts[1:], seed=6), content[1:], depth=DEPTH)
    both, alone = METHOD.motions(model, prompts, content, seed=5), METHOD.motions(model, prompts[1:], content[1:], seed=6)
    for half in ("rows", "columns"):
        close(getattr(alone, half), getattr(both, half)[1:], depth=DEPTH)


def test_motion_depends_on_the_content_frame_the_caption_and_the_noise_on_the_frame(model: Any) -> None:
    content = METHOD.content(model, [PROMPT], seed=1)
    base = METHOD.motions(model, [PROMPT], content, seed=1).rows
    noisy = dataclasses.replace(METHOD, content_noise=0.3)
    for changed in (
        METHOD.motions(model, [PROMPT], content.flip(-1), seed=1),
        METHOD.motions(model, ["a blue star at night"], content, seed=1),
        noisy.motions(model, [PROMPT], content, seed=1),
        dataclasses.replace(METHOD, motion_guidance_scale=4.0).motions(model, [PROMPT], content, seed=1),
    ):
        assert (changed.rows - base).abs().max() > 1e-4


def test_motion_is_normalised_and_back(model: Any) -> None:
    motion = Motion(torch.randn(2, 3, FRAMES, 8), torch.randn(2, 3, FRAMES, 8))
    packed = model.motion.packed(motion)
    close(packed[:, 2, :, :8], motion.rows[:, 2] / 2.0)
    for half, again in zip(motion, model.motion.unpacked(packed), strict=True):
        close(again, half)


def test_clips_are_rebuilt_crossed_and_set_in_motion_anew(model: Any) -> None:
    first, second = clip(1), clip(2)
    rebuilt = METHOD(model, clip=first)["video"].frames
    crossed = METHOD(model, content_of=first, motion_of=second)["video"].frames
    latents = model.encode_clips(torch.stack([first.frames, second.frames]))
    parts = model.split(latents)
    close(rebuilt, model.decode_clips(model.join(parts.content, parts.motion))[0], depth=DEPTH)
    swapped = Motion(*(half.flip(0) for half in parts.motion))
    close(crossed, model.decode_clips(model.join(parts.content, swapped))[0], depth=DEPTH)
    close(METHOD(model, content_of=first, motion_of=first)["video"].frames, rebuilt, depth=DEPTH)
    anew = dataclasses.replace(METHOD, motion="new")
    assert (anew(model, PROMPT, clip=first)["video"].frames - rebuilt).abs().max() > 1e-3
    still = Video(first.frames[:1].expand(FRAMES, -1, -1, -1), 7.0)
    assert (model.split(model.encode_clips(still.frames[None])).content - model.encode_clips(still.frames[None])[:, 0]).abs().max() < 1e-5


def test_a_picture_as_content_frame_has_its_note(model: Any) -> None:
    heard = Recorder()
    made = METHOD(model, PROMPT, content_frame=Image(torch.rand(3, 80, 100)), events=heard)
    assert len(made["video"].frames) == FRAMES
    assert any("picture is none" in note for note in heard.notes)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        (METHOD, {}, "nothing to make"),
        (METHOD, {"content_of": clip()}, "go together"),
        (METHOD, {"clip": clip(), "content_frame": Image(torch.rand(3, 64, 64))}, "clip and content_frame"),
        (METHOD, {"clip": clip(frames=5)}, "has 5 frames"),
        (dataclasses.replace(METHOD, motion="new"), {"prompt": PROMPT}, "no clip is given"),
    ],
)
def test_what_cannot_be_used_is_refused(model: Any, method: CMD, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        method(model, **arguments)


def test_other_roles_and_broken_facts_are_refused(tmp_path: Path) -> None:
    from tests.tiny import cached

    with pytest.raises(InputError, match="can't be used"):
        METHOD(calotype.load(str(cached("toy-t2i")), device="cpu"), PROMPT)
    for name, value in (("motion_mean", [0.0]), ("num_frames", None), ("motion_scheduler", {}), ("motion_std", [0.0, 1.0, 1.0])):
        broken = tmp_path / name
        shutil.copytree(cached_cmd_model(), broken)
        index = json.loads((broken / "model_index.json").read_text())
        (broken / "model_index.json").write_text(json.dumps({**index, name: value}))
        with pytest.raises(InputError, match="train the checkpoint again"):
            calotype.load(str(broken), device="cpu")


def test_settings_have_ranges() -> None:
    for wrong in ({"num_motions": 0}, {"content_noise": -1.0}, {"motion": "old"}, {"guidance_scale": -1.0}):
        with pytest.raises(InputError):
            CMD(**wrong)
