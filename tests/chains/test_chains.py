"""Chains: what is checked before anything runs, what is handed on, stops, reruns, and the real methods one after the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

from calotype.chains import Chain, Reference, is_chain, rerun_chain, resume_chain, run_chain
from calotype.chains.handing import select
from calotype.core.method import Method
from calotype.data import read_video
from calotype.errors import Cancelled, InputError
from calotype.imaging.types import Image, Mask, Video, Volume
from calotype.metrics import iou, psnr
from calotype.registry import resolve_method
from calotype.runs import run as run_one
from calotype.runs.inputs import read_exact
from calotype.world import ground_truth, paint, sample_scene, without
from tests.data.test_dicom import series, turn
from tests.runs.test_running import NO_MODEL, StopsAt, load
from tests.runs.toy_method import ToyFade
from tests.runs.toy_volume_method import ToySmooth

FADES = {
    "links": {
        "there": {"method": "toy-fade", "give": {"start": "first.png"}, "settings": {"num_inference_steps": 4}},
        "back": {"method": "toy-fade", "give": {"start": "@there:last", "end": "@there:first"}, "preset": "quick", "seed": 9},
    }
}


def resolve(slug: str) -> type[Method]:
    own = {"toy-fade": ToyFade, "toy-smooth": ToySmooth}
    return own[slug] if slug in own else resolve_method(slug)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    Pillow.linear_gradient("L").convert("RGB").save(folder / "first.png")
    (folder / "chain.json").write_text(json.dumps(FADES))
    return folder


def fades(place: Path) -> Chain:
    return Chain.read(place / "chain.json", resolve)


def test_each_link_gets_what_the_one_before_made_to_the_bit(place: Path, tmp_path: Path) -> None:
    done = run_chain(fades(place), load_model=load, seed=3, out=tmp_path / "out")
    there, back = done.runs["there"], done.runs["back"]
    clip = there.results["result"]
    assert isinstance(clip, Video)
    alone = ToyFade.quick()(None, Image(clip.frames[-1]), Image(clip.frames[0]), seed=9)
    made = back.results["result"]
    assert isinstance(made, Video)
    assert torch.equal(made.frames, alone.frames)
    assert (there.record.seed, back.record.seed) == (3, 9)
    record = json.loads((done.folder / "chain.json").read_text())
    assert set(record["records"]) == {"there", "back"}
    assert record["records"]["back"]["status"] == "finished"
    assert record["links"]["there"]["give"]["start"] == "inputs/0-first.png"
    assert Pillow.open(done.folder / "chain.png").size[0] > 300


def test_a_chain_is_done_again_from_its_folder_alone(place: Path, tmp_path: Path) -> None:
    run_chain(fades(place), load_model=load, out=tmp_path / "out")
    shutil.rmtree(place)
    moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    again = rerun_chain(moved, resolve_method=resolve, load_model=load, out=tmp_path / "again")
    assert again.identical is True
    (Path(moved) / "inputs/0-first.png").write_bytes(b"other")
    with pytest.raises(InputError, match="has changed"):
        rerun_chain(moved, resolve_method=resolve, load_model=load, out=tmp_path / "third")


def test_volumes_are_handed_on_with_their_place(tmp_path: Path) -> None:
    """From a DICOM folder through two links: the second result lies where the slices lay, and the sheet shows planes."""
    series(tmp_path / "series", turn(10, 20, 30))
    links = {
        "one": {"method": "toy-smooth", "give": {"field": "series"}},
        "two": {"method": "toy-smooth", "give": {"field": "@one.chi", "mask": "@one.deviation"}},
    }
    (tmp_path / "chain.json").write_text(json.dumps({"links": links}))
    done = run_chain(Chain.read(tmp_path / "chain.json", resolve), load_model=load, out=tmp_path / "out")
    first, second = (done.runs[name].results["chi"] for name in ("one", "two"))
    assert isinstance(first, Volume)
    assert isinstance(second, Volume)
    assert torch.equal(first.affine, second.affine)
    assert not torch.equal(first.values, second.values)
    assert Pillow.open(done.folder / "chain.png").size[0] > 300
    shutil.rmtree(tmp_path / "series")
    again = rerun_chain(done.folder, resolve_method=resolve, load_model=load, out=tmp_path / "again")
    assert again.identical is True
    (done.folder / "inputs" / "0-series" / "IM0002").write_bytes(b"other")
    with pytest.raises(InputError, match="has changed"):
        rerun_chain(done.folder, resolve_method=resolve, load_model=load, out=tmp_path / "third")


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_chain_goes_on_with_the_same_result(place: Path, tmp_path: Path, step: int) -> None:
    whole = run_chain(fades(place), load_model=load, out=tmp_path / "whole")
    with pytest.raises(Cancelled, match="calotype resume"):
        run_chain(fades(place), load_model=load, out=tmp_path / "out", events=StopsAt(step))
    done = resume_chain(tmp_path / "out", resolve_method=resolve, load_model=load)
    for name in ("there", "back"):
        assert done.runs[name].record.outputs["result"]["pixels_sha256"] == whole.runs[name].record.outputs["result"]["pixels_sha256"]
    assert resume_chain(tmp_path / "out", resolve_method=resolve, load_model=load).runs["back"].record.status == "finished"


def test_what_is_in_the_folder_is_only_replaced_on_request(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_chain(fades(place), load_model=load, out=out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        run_chain(fades(place), load_model=load, out=out)
    run_chain(fades(place), load_model=load, out=out, seed=5, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "chain.json").read_text())["seed"] == 5
    assert is_chain(out)
    assert not is_chain(place / "first.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"links": {}}, "has no links"),
        ({"there": {"give": {}}}, "method is missing"),
        ({"there": {"method": "toy-fad", "give": {}}}, "no method 'toy-fad'"),
        ({"there": {"method": "toy-fade", "give": {}}}, "start is missing"),
        ({"there": {"method": "toy-fade", "gives": {}}}, "did you mean give"),
        ({"there": {"method": "toy-fade", "give": {"start": "nowhere.png"}}}, "nowhere.png does not exist"),
        ({"there": {"method": "toy-fade", "give": {"start": "@back"}}}, "names no earlier link"),
        ({"there": {"method": "toy-fade", "give": {"start": ["first.png"]}}}, "one file or reference"),
        ({"there": {"method": "toy-fade", "give": {"start": "first.png", "gian": 2}}}, "did you mean gain"),
        ({"there": {"method": "toy-fade", "give": {"start": "first.png"}, "settings": {"steps": 2}}}, "no setting 'steps'"),
        ({"there": {"method": "toy-fade", "give": {"start": "first.png"}, "preset": "papr"}}, "did you mean paper"),
        ({"there": {"method": "toy-fade", "give": {"start": "first.png"}, "seed": "one"}}, "whole number"),
        ({"back": {"method": "toy-fade", "give": {"start": "@there:middle"}}}, "take :first or :last"),
        ({"a/b": {"method": "toy-fade", "give": {"start": "first.png"}}}, "link name"),
    ],
)
def test_a_bad_chain_is_refused_in_one_line_before_anything_runs(place: Path, change: dict[str, Any], said: str) -> None:
    value = change if "links" in change else {"links": {**FADES["links"], **change}}
    with pytest.raises(InputError, match=said) as refused:
        Chain.of(value, place, resolve)
    assert "\n" not in str(refused.value)


def test_no_json_is_refused(place: Path) -> None:
    (place / "chain.json").write_text("{links")
    with pytest.raises(InputError, match="no JSON"):
        fades(place)


def test_references_choose_among_results() -> None:
    clip, mask = Video(torch.rand(3, 3, 16, 16), 4.0), Mask(torch.ones(16, 16, dtype=torch.bool))
    assert select({"result": clip}, Reference.read("@a")) is clip
    first = select({"clip": clip, "mask": mask}, Reference.read("@a.clip:first"))
    assert isinstance(first, Image)
    assert torch.equal(first.pixels, clip.frames[0])
    with pytest.raises(InputError, match=r"@a\.clip, @a\.mask"):
        select({"clip": clip, "mask": mask}, Reference.read("@a"))
    with pytest.raises(InputError, match="no result 'mast'"):
        select({"clip": clip, "mask": mask}, Reference.read("@a.mast"))
    with pytest.raises(InputError, match="not a clip"):
        select({"mask": mask}, Reference.read("@a:first"))


def test_a_clip_where_a_picture_is_needed_is_told(place: Path, tmp_path: Path) -> None:
    value = {"links": {**FADES["links"], "back": {"method": "toy-fade", "give": {"start": "@there"}}}}
    with pytest.raises(InputError, match="take @there:first or @there:last"):
        run_chain(Chain.of(value, place, resolve), load_model=load, out=tmp_path / "out")


def test_exact_files_keep_every_kind(tmp_path: Path, place: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(InputError, match="can't be read"):
        read_exact(tmp_path / "bad.safetensors")
    clip = run_one(ToyFade.quick(), {"start": place / "first.png"}, load, model=NO_MODEL, out=tmp_path / "a").results["result"]
    again = run_one(ToyFade.quick(), {"start": clip[0]}, load, model=NO_MODEL, out=tmp_path / "b")  # type: ignore[index]
    kept = read_exact(again.folder / "inputs/start.safetensors")
    assert isinstance(kept, Image)
    assert torch.equal(kept.pixels, clip[0].pixels)  # type: ignore[index]


def test_the_example_goes_from_a_word_to_a_loop(tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples"
    command = [sys.executable, "-m", "calotype", "run", str(examples / "chain.json"), "--out", str(tmp_path / "out"), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert list(told["links"]) == ["mask", "still", "clip", "back"]

    scene = sample_scene("small", split="tune", seed=77, index=2, num_frames=8, objects=2)
    house = next(number for number, thing in enumerate(scene.objects) if thing.category == "house")
    handed = {path.stem: read_exact(path) for path in (tmp_path / "out" / "handed-on").iterdir()}
    mask, still = handed["mask.house-mask"], handed["still"]
    assert isinstance(mask, Mask)
    assert isinstance(still, Image)
    assert iou(mask.values, ground_truth(scene, 64).masks[0, house]) > 0.7
    clip, back = (read_video(tmp_path / "out" / folder / "result.mp4") for folder in ("3-clip", "4-back"))
    without_house = paint([without(scene, house)], size=64, num_frames=8)[0]
    # What is left is the mushroom on its way, without the house; and the way back ends where the clip begins.
    assert float(psnr(still.pixels, without_house[0])) > 28
    assert float(psnr(clip.frames, without_house).mean()) > 25
    red = (clip.frames[:, 0] - clip.frames[:, 1:].amax(1) > 0.35).float().mean()
    assert float(red) < 0.01
    assert float(psnr(back.frames[-1], clip.frames[0])) > 24
    assert Pillow.open(tmp_path / "out" / "chain.png").size[0] > 700
