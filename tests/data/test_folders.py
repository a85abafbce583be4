"""Data sets in folders: each problem is told, nothing is read twice, splits hold, and rows are what the files hold."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calotype.core.events import Events
from calotype.data import manifest as manifests
from calotype.data.clip_folder import ClipFolder
from calotype.data.folders import FilePart, FolderData, Sample, _place, check_folder
from calotype.data.images import read_image
from calotype.data.manifest import FileRecord, read_manifest
from calotype.data.picture_folder import PICTURES, PictureFolder
from calotype.data.tables import SPLITS
from calotype.errors import Cancelled, DataError, InputError
from calotype.imaging.types import Image, Mask, Video
from calotype.world.scenes.dataset import write_dataset


def picture(path: Path, number: int, size: tuple[int, int] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.Generator(np.random.PCG64(number)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.from_numpy(pixels).save(path, overwrite=True)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        picture(tmp_path / "data" / "images" / f"{number}.png", number)
    return tmp_path / "data"


def problems(run: Callable[[], object]) -> list[str]:
    with pytest.raises(DataError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return sorted(caught.value.problems)


def test_rows_are_the_pictures_in_the_order_of_their_names(pictures: Path) -> None:
    data = PictureFolder.open(pictures)
    made = data.rows([4, 0])["image"]
    for row, number in zip(made, (4, 0), strict=True):
        assert torch.equal(row, read_image(pictures / "images" / f"{number}.png").pixels)
    assert torch.equal(pickle.loads(pickle.dumps(data)).rows([4])["image"][0], made[0])
    assert PictureFolder.open(pictures, size=(16, 16)).rows([1])["image"].shape == (1, 3, 16, 16)


def test_every_problem_gets_a_line_and_one_error_lists_them(pictures: Path) -> None:
    images = pictures / "images"
    (images / "0.png").write_bytes((images / "0.png").read_bytes()[:200])
    (images / "1.png").write_bytes(b"")
    (images / "7.png").write_text("no picture, but a text")
    picture(images / "3.jpg", 3)
    picture(images / "4.png", 2)
    picture(images / "big.png", 9, (40, 40))
    found = problems(lambda: PictureFolder.open(pictures))
    assert [line.split(":")[0] for line in found] == ["3", *(f"images/{name}.png" for name in ("0", "1", "4", "7", "big"))]
    for line, words in zip(
        found, ("2 files of that name", "truncated", "empty", "same content as images/2.png", "text file", "40x40"), strict=True
    ):
        assert words in line
    with pytest.raises(DataError, match=r"data has 6 problems: .*; and 1 more$"):
        PictureFolder.open(pictures)


@pytest.mark.parametrize(
    ("make", "words"), [(lambda path: None, "is not there"), (Path.mkdir, "holds no images"), (Path.touch, "is no folder")]
)
def test_a_folder_without_pictures_is_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(InputError, match=words):
        PictureFolder.open(tmp_path / "data")


def test_captions_come_from_a_table_or_from_text_beside_the_pictures(pictures: Path) -> None:
    assert PictureFolder.open(pictures).captions([0]) == [""]
    (pictures / "captions.csv").write_text("file_name,caption\n" + "".join(f'images/{n}.png,"number {n}, red"\n' for n in range(5)))
    assert problems(lambda: PictureFolder.open(pictures)) == ["5: no caption"]
    (pictures / "images" / "5.txt").write_text("number\n5")
    assert PictureFolder.open(pictures, captions=True).captions([4, 5]) == ["number 4, red", "number 5"]
    assert PictureFolder.open(pictures, captions=False).captions([4]) == [""]
    (pictures / "images" / "4.txt").write_text("another")
    assert "two captions" in problems(lambda: PictureFolder.open(pictures))[0]


def test_what_is_wrong_with_a_table_is_told_by_its_line(pictures: Path) -> None:
    table = pictures / "table.csv"
    table.write_text("stem,patient,split\n0,anna,train\n1,anna,test\n9,ben,train\n2,ben,sometimes\n2,carl,\n,x,\n3,carl,\n")
    assert problems(lambda: PictureFolder.open(pictures)) == [
        "group anna: it is in 2 splits (left-out, train); put all of it in one",
        "table.csv, line 4: there is no file '9'",
        f"table.csv, line 5: split 'sometimes' is unknown; it is one of {', '.join(SPLITS)}",
        "table.csv, line 6: a second group for the same file ('carl', before it was 'ben')",
        "table.csv, line 7: no file is named",
    ]
    for content, words in (
        (b"\xff\xfea", "UTF-8"),
        (b"", "empty"),
        (b'stem,group\n"0', "no CSV"),
        (b"stem,group\n0,a,b", "more entries"),
        (b"x,y\n0,a", "no column"),
    ):
        table.write_bytes(content)
        assert words in problems(lambda: PictureFolder.open(pictures))[0]


def test_a_toy_world_data_set_is_a_data_set(tmp_path: Path) -> None:
    data = PictureFolder.open(write_dataset(tmp_path / "world", count=3, size=32), captions=True)
    assert len(data) == 3
    assert data.captions([0]) == ["a purple star right of a blue star on snow"]


def test_a_second_start_reads_no_file_that_is_as_it_was(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tmp_path / "out" / "manifest.jsonl"
    looked: list[str] = []
    record = manifests._record
    monkeypatch.setattr(manifests, "_record", lambda root, path, look: (looked.append(path), record(root, path, look))[1])
    first = PictureFolder.open(pictures, manifest=manifest)
    assert len(looked) == 6
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert lines[0]["format"] == "calotype-manifest"
    assert (lines[1]["path"], lines[1]["group"], lines[1]["metadata"]) == ("images/0.png", "0", {"height": 20, "width": 24})
    looked.clear()
    assert PictureFolder.open(pictures, manifest=manifest).fingerprint == first.fingerprint
    assert looked == []
    picture(pictures / "images" / "3.png", 33)
    os.utime(pictures / "images" / "4.png", (1, 1))
    picture(pictures / "images" / "6.png", 6)
    again = PictureFolder.open(pictures, manifest=manifest)
    assert looked == ["images/3.png", "images/4.png", "images/6.png"]
    assert again.fingerprint != first.fingerprint
    assert again.fingerprint == PictureFolder.open(pictures).fingerprint
    for damage in (
        "",
        "{",
        '{"format": "calotype-manifest", "version": 1, "folder": 3}\n',
        manifest.read_text().replace('"sha256": "', '"sha256": "x'),
    ):
        manifest.write_text(damage)
        assert PictureFolder.open(pictures, manifest=manifest).fingerprint == again.fingerprint


def test_what_was_read_is_kept_although_there_are_problems(pictures: Path, tmp_path: Path) -> None:
    (pictures / "images" / "0.png").write_bytes(b"")
    assert problems(lambda: PictureFolder.open(pictures, manifest=tmp_path / "m"))
    assert sorted(read_manifest(tmp_path / "m", pictures)) == [f"images/{number}.png" for number in range(1, 6)]


def test_nothing_is_written_into_the_users_folder(pictures: Path) -> None:
    with pytest.raises(InputError, match="nothing is written"):
        PictureFolder.open(pictures, manifest=pictures / "out" / "manifest.jsonl")
    assert sorted(path.name for path in pictures.rglob("*")) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "images"]


def test_a_file_that_changes_while_it_is_trained_on_is_noticed(pictures: Path) -> None:
    data = PictureFolder.open(pictures)
    picture(pictures / "images" / "2.png", 22)
    os.utime(pictures / "images" / "2.png", (5, 5))
    data.rows([1, 3])
    with pytest.raises(InputError, match=r"2\.png changed since the training began"):
        data.rows([1, 2])


def test_a_check_can_be_stopped_and_goes_on_from_there(pictures: Path, tmp_path: Path) -> None:
    class Stop(Events):
        left = 3

        def check(self) -> None:
            self.left -= 1
            if not self.left:
                raise Cancelled("stopped by the test")

    with pytest.raises(Cancelled):
        PictureFolder.open(pictures, manifest=tmp_path / "manifest", events=Stop())
    assert sorted(read_manifest(tmp_path / "manifest", pictures)) == [f"images/{number}.png" for number in range(3)]
    assert len(PictureFolder.open(pictures, manifest=tmp_path / "manifest")) == 6


def test_the_fingerprint_is_that_of_what_is_trained_on(pictures: Path, tmp_path: Path) -> None:
    data = PictureFolder.open(pictures)
    moved = pictures.rename(tmp_path / "elsewhere")
    assert PictureFolder.open(moved).fingerprint == data.fingerprint
    others = [PictureFolder.open(moved, size=(16, 16)).fingerprint]
    (moved / "table.csv").write_text("stem,group\n0,a\n1,a\n")
    others.append(PictureFolder.open(moved).fingerprint)
    (moved / "images" / "0.png").rename(moved / "images" / "00.png")
    (moved / "table.csv").unlink()
    others.append(PictureFolder.open(moved).fingerprint)
    others += [part.fingerprint for part in PictureFolder.open(moved).split(0.3)]
    assert len({data.fingerprint, *others}) == 6


class Numbers(FolderData):
    """Rows that hold their numbers."""

    def read(self, row: Sample) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor(int(row.stem))}


def rows_of_groups(groups: list[str], splits: list[str] | None = None) -> FolderData:
    record = FileRecord("x", 1, 1, "0" * 64)
    return Numbers(
        root=Path("data"),
        content=tuple(Sample(str(n), {"image": record}, "", group, (splits or [""] * len(groups))[n]) for n, group in enumerate(groups)),
    )


@given(
    groups=st.lists(st.text(max_size=3), min_size=2, max_size=30),
    more=st.lists(st.text(max_size=3), max_size=30),
    share=st.floats(0.01, 0.99),
)
def test_groups_are_never_torn_and_stay_where_they_are(groups: list[str], more: list[str], share: float) -> None:
    if len(set(groups)) < 2:
        with pytest.raises(InputError, match="two are needed"):
            rows_of_groups(groups).split(share)
        return
    train, held = rows_of_groups(groups).split(share, seed=4)
    sides = [{row.group for row in part.content} for part in (train, held)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(groups)
    assert all(sides)
    assert len(train) + len(held) == len(groups)
    # Only the group that stands in for a side that would be empty may go back to where its name puts it.
    later = {row.group for row in rows_of_groups([*groups, *more]).split(share, seed=4)[1].content}
    moved = {group for group in set(groups) if (group in sides[1]) != (group in later)}
    assert all((group in later) == (_place(group, 4) < share) for group in moved)


def test_the_share_is_about_that_of_the_groups() -> None:
    train, held = rows_of_groups([str(number) for number in range(2000)]).split(0.1)
    assert 150 < len(held) < 250
    other = rows_of_groups([str(number) for number in range(2000)]).split(0.1, seed=1)[1]
    assert {row.group for row in held.content} != {row.group for row in other.content}
    assert len(train) + len(held) == 2000


def test_splits_of_the_table_count() -> None:
    data = rows_of_groups(["a", "b", "c", "d"], ["train", "held-out", "left-out", ""])
    assert [[row.group for row in part.content] for part in data.split(0.5)] == [["a", "d"], ["b"]]
    train, held = rows_of_groups(["a", "b", "c"], ["train", "train", "left-out"]).split(0.5)
    assert sorted(row.group for part in (train, held) for row in part.content) == ["a", "b"]
    with pytest.raises(InputError, match="holds all of its rows out"):
        rows_of_groups(["a", "b"], ["held-out", "held-out"]).split(0.5)
    with pytest.raises(InputError, match="share is 1"):
        data.split(1.0)


def test_keys_name_what_the_tensors_are_made_of(pictures: Path) -> None:
    data = PictureFolder.open(pictures)
    assert data.key([0, 1]) != data.key([1, 0])
    assert data.key([0]) != data.key([1])
    assert data.key([0]) != PictureFolder.open(pictures, size=(16, 16)).key([0])
    picture(pictures / "images" / "00.png", 99)
    assert PictureFolder.open(pictures).key([2]) == data.key([1])


def clip(path: Path, frames: int, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(number)).expand(frames, -1, -1, -1).clone()
    pixels *= torch.linspace(0.2, 1.0, frames).view(-1, 1, 1, 1)
    Video(pixels, 10.0).save(path)
    return path


def test_clips_are_cut_into_excerpts_that_stay_together(tmp_path: Path) -> None:
    clip(tmp_path / "data" / "clips" / "long.mp4", 13, 1)
    clip(tmp_path / "data" / "clips" / "short.mp4", 5, 2)
    (tmp_path / "data" / "metadata.jsonl").write_text(
        '{"clip": "clips/long.mp4", "caption": "one"}\n{"clip": "clips/short.mp4", "caption": "two"}\n'
    )
    data = ClipFolder.open(tmp_path / "data", size=(16, 16), num_frames=3, stride=2, manifest=tmp_path / "manifest")
    assert data.captions(range(len(data))) == ["one", "one", "two"]
    made = data.rows([0, 1])
    assert made["clip"].shape == (2, 3, 3, 16, 16)
    assert made["fps"].tolist() == [5.0, 5.0]
    brightness = made["clip"].mean((2, 3, 4)).flatten()
    assert bool((brightness.diff() > 0).all())
    assert [len({row.stem for row in part.content}) for part in data.split(0.5)] == [1, 1]
    assert len({data.key([number]) for number in range(3)}) == 3
    assert problems(lambda: ClipFolder.open(tmp_path / "data", size=(16, 16), num_frames=6, manifest=tmp_path / "manifest")) == [
        "clips/short.mp4: 5 frames, 6 are needed"
    ]
    torn = (tmp_path / "data" / "clips" / "short.mp4").read_bytes()
    (tmp_path / "data" / "clips" / "short.mp4").write_bytes(torn[: len(torn) // 3])
    assert "clips/short.mp4" in problems(lambda: ClipFolder.open(tmp_path / "data", size=(16, 16), num_frames=3))[0]


def test_parts_that_belong_together_are_matched_by_stem(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(3):
        picture(root / "images" / "a" / f"{number}.png", number)
    (root / "masks" / "a").mkdir(parents=True)
    for name in ("a/0", "a/1", "a/9"):
        Mask(torch.ones(20, 24, dtype=torch.bool)).save(root / "masks" / f"{name}.png")
    masks = FilePart("mask", ("masks", "labels"), frozenset((".png",)), PICTURES.look)
    assert problems(lambda: check_folder(root, [PICTURES, masks])) == [
        "a/2: no mask of that name in masks/",
        "a/9: no image of that name in images/",
    ]
