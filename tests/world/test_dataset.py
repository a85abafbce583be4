"""Data sets: whole or absent, readable without this package, and equal to the ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from calotype.errors import Cancelled, InputError
from calotype.world import Scene, ground_truth, paint, sample_scene, write_dataset
from tests.recorder import Recorder


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_pictures_masks_parts_and_layers_are_the_truth(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", preset="full", seed=4, count=5, size=48)
    assert json.loads((folder / "dataset.json").read_text())["count"] == 5
    for index, line in enumerate(lines(folder)):
        scene = sample_scene("full", seed=4, index=index)
        truth = ground_truth(scene, 48)
        assert Scene.from_dict(line["scene"]) == scene  # type: ignore[arg-type]
        assert line["caption"] == scene.caption
        pixels = np.asarray(Image.open(folder / str(line["file_name"])))
        assert np.abs(pixels / 255.0 - paint([scene], size=48)[0].permute(1, 2, 0).numpy()).max() <= 1.01 / 255.0
        name = f"{line['id']}.png"
        assert np.array_equal(np.asarray(Image.open(folder / "masks" / name)), truth.depth[0].numpy())
        parts = np.asarray(Image.open(folder / "parts" / name)).astype(int)
        assert np.array_equal(parts // 16, truth.depth[0].numpy())
        assert np.array_equal(parts % 16, truth.parts[0].sum(0).numpy())
        composed = np.asarray(Image.open(folder / "backgrounds" / name).convert("RGBA"))
        for number, thing in enumerate(line["objects"]):  # type: ignore[arg-type, var-annotated]
            layer = Image.open(folder / "layers" / f"{line['id']}_{number}.png")
            composed = np.asarray(Image.alpha_composite(Image.fromarray(composed), layer))
            box = thing["boxes"][0]
            rows, columns = np.nonzero(truth.masks[0, number].numpy())
            assert box == ([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None)
        assert np.abs(composed[..., :3].astype(int) - pixels).max() <= 3


def test_clips_can_be_played_and_have_flow(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", count=2, size=32, num_frames=4)
    for index, line in enumerate(lines(folder)):
        truth = ground_truth(sample_scene("small", index=index, num_frames=4), 32)
        with av.open(str(folder / str(line["clip"]))) as clip:
            frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
        assert len(frames) == 4
        assert np.abs(np.stack(frames) / 255.0 - truth.frames.permute(0, 2, 3, 1).numpy()).mean() < 0.03
        flow = np.load(folder / str(line["flow"]), allow_pickle=False)
        assert np.abs(flow - truth.flow.numpy()).max() < 0.01
        assert all((folder / "images" / f"{stem}.png").is_file() for stem in line["frames"])  # type: ignore[attr-defined]


def test_the_same_call_writes_the_same_pictures(tmp_path: Path) -> None:
    first, second = (write_dataset(tmp_path / name, count=3, size=32) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*.*") if path.is_file())
    assert len(files) > 12
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)


def test_a_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        write_dataset(tmp_path / "d", count=2, size=32, events=Recorder(stop_after=1))
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_user_is_overwritten(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", count=1, size=32)
    with pytest.raises(InputError, match="holds files already"):
        write_dataset(folder, count=2, size=32)
    assert len(lines(write_dataset(folder, count=2, size=32, overwrite=True))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no toy-world data set"):
        write_dataset(own, count=1, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        write_dataset(own / "thesis.txt", count=1, overwrite=True)
    assert (own / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "options",
    [{"preset": "tiny"}, {"split": "x"}, {"count": 0}, {"seed": -1}, {"size": 8}, {"num_frames": 0}, {"size": 33, "num_frames": 2}],
)
def test_refusals(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        write_dataset(tmp_path / "d", **{"count": 1, **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
