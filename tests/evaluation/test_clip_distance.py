"""Two folders of clips as samples: one excerpt a clip, both networks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from calotype.backbones.i3d import I3D
from calotype.cli.app import run
from calotype.errors import DataError, InputError
from calotype.evaluation.clip_distance import clip_distance
from calotype.imaging.types import Video
from calotype.world import paint
from calotype.world.moving import sample_moving
from tests.recorder import Recorder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two seeds of the moving world, clips whose colours are turned, and a narrow I3D."""
    home = tmp_path_factory.mktemp("clips")
    for name, seed, count in (("one", 1, 24), ("two", 2, 20), ("few", 1, 3)):
        clips = paint([sample_moving(split="tune", seed=seed, index=index) for index in range(count)], num_frames=12)
        (home / name).mkdir()
        for number, clip in enumerate(clips):
            Video(clip, 8.0).save(home / name / f"{number:02d}.mp4")
    (home / "turned").mkdir()
    for number, clip in enumerate(paint([sample_moving(split="tune", seed=3, index=index) for index in range(20)], num_frames=12)):
        Video(clip[:, [1, 2, 0]], 8.0).save(home / "turned" / f"{number:02d}.mp4")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = I3D(classes=6, narrow=16).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                torch.nn.init.uniform_(module.running_var, 0.001, 0.01)
    save_file(network.state_dict(), home / "i3d.safetensors")
    return home


def test_other_colours_are_further_than_other_clips(folders: Path) -> None:
    same = clip_distance(folders / "one", folders / "two")
    other = clip_distance(folders / "one", folders / "turned")
    assert same.frechet.counts == (24, 20)
    assert same.num_frames == 8
    assert other.frechet.value > same.frechet.value
    assert other.kernel.value > max(0.0, same.kernel.value)


def test_few_clips_are_told(folders: Path) -> None:
    heard = Recorder()
    clip_distance(folders / "one", folders / "two", events=heard)
    assert any("are few for 64 features" in note for note in heard.notes)


def test_fvd_comes_from_a_users_file(folders: Path) -> None:
    found = clip_distance(folders / "one", folders / "two", features=str(folders / "i3d.safetensors"), num_frames=9)
    assert found.name.startswith("FVD")
    assert found.frechet.dimensions == 6
    assert found.frechet.value >= 0
    with pytest.raises(InputError, match="9 or more"):
        clip_distance(folders / "one", folders / "two", features=str(folders / "i3d.safetensors"), num_frames=8)


def test_what_cannot_be_compared_is_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 clips; 20 or more"):
        clip_distance(folders / "few", folders / "one")
    with pytest.raises(InputError, match="is not there"):
        clip_distance(tmp_path / "nowhere", folders / "one")
    with pytest.raises(DataError, match="13 are needed"):
        clip_distance(folders / "one", folders / "two", num_frames=13)


def test_the_command_prints_both_distances(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", str(folders / "one"), str(folders / "two"), "--features", "toy-clip-features", "--quiet"]
    assert run(asked) == 0
    told = capsys.readouterr().out
    assert "Frechet distance of toy-clip features" in told
    assert "FVD" not in told
    assert run([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == [24, 20]
    assert run(["compare", str(folders / "one"), str(folders / "two"), "--frames", "4"]) == 2
    assert "only --features takes --frames" in capsys.readouterr().err
