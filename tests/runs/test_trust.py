"""A record of a stranger reads, writes and removes nothing outside of its folder, and hangs nothing; what it would touch is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from calotype.core.method import Method
from calotype.errors import CalotypeError, InputError
from calotype.imaging.types import Image
from calotype.runs import ModelRequest, Run, compare, read_record, rerun, resume, run
from tests.data.test_dicom import series, turn
from tests.fuzz.mutations import bounded
from tests.recorder import Recorder
from tests.runs.toy_method import ToyFade, ToyStamp
from tests.runs.toy_volume_method import ToySmooth

TOYS: dict[str, type[Method]] = {"toy-fade": ToyFade, "toy-stamp": ToyStamp, "toy-smooth": ToySmooth}
NO_MODEL = ModelRequest("")


def resolve(slug: str) -> type[Method]:
    return TOYS[slug]


def no_load(request: ModelRequest) -> None:
    raise AssertionError(f"{request.name} was loaded")


def again(source: Path, out: Path, **options: Any) -> Run:
    return rerun(source, resolve_method=resolve, load_model=no_load, out=out, **options)


def go_on(folder: Path, **options: Any) -> Run:
    return resume(folder, resolve_method=resolve, load_model=no_load, **options)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The folder, its record changed."""
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    Pillow.linear_gradient("L").resize((32, 32)).convert("RGB").save(tmp_path / "mine" / "start.png")
    return tmp_path / "mine" / "start.png"


@pytest.fixture
def shared(picture: Path, tmp_path: Path) -> Path:
    """The run folder that somebody sends; what it was made from is not on this machine."""
    done = run(ToyFade.quick(), {"start": picture}, no_load, model=NO_MODEL, seed=7, out=tmp_path / "shared")
    shutil.rmtree(picture.parent)
    return done.folder


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's that nothing may touch."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "photo.png").write_bytes(b"precious")
    return folder


OUTSIDE = ("../victim/photo.png", "{victim}/photo.png", "{victim}", "inputs/../../victim/photo.png", "inputs/start.png/../../x.png",
           "inputs/start/../../victim/photo.png", "inputs/other.png", "start.png", "", "inputs/start.png\0", ".", 5, None)  # fmt: skip


@pytest.mark.parametrize("file", OUTSIDE)
@pytest.mark.parametrize("alone", [False, True])
def test_an_input_is_never_copied_to_where_the_record_says(shared: Path, victim: Path, tmp_path: Path, file: Any, alone: bool) -> None:
    before = tree(tmp_path)
    file = file.format(victim=victim) if isinstance(file, str) else file
    if alone:
        with Pillow.open(shared / "contact-sheet.png") as opened:
            record = json.loads(opened.text["calotype"])  # type: ignore[attr-defined]
            record["inputs"]["start"].update(file=file, path=str(shared / "inputs" / "start.png"))
            told = PngInfo()
            told.add_itxt("calotype", json.dumps(record))
            opened.save(tmp_path / "alone.png", pnginfo=told)
        source = tmp_path / "alone.png"
    else:
        source = edit(shared, lambda record: record["inputs"]["start"].update(file=file, path=str(shared / "inputs" / "start.png")))
    for trust in (False, True):
        with pytest.raises(InputError):
            again(source, tmp_path / "new", trust=trust)
    after = tree(tmp_path)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"alone.png", "shared/run.json"}


def test_a_folder_of_frames_brings_no_private_file_and_no_pipe(tmp_path: Path) -> None:
    series(tmp_path / "series", turn(10, 20, 30))
    done = run(ToySmooth(), {"field": tmp_path / "series"}, no_load, model=NO_MODEL, out=tmp_path / "shared")
    (tmp_path / "private.txt").write_text("secret")
    inside = done.folder / "inputs" / "field"
    (inside / "zz.txt").symlink_to(tmp_path / "private.txt")
    # The digest that the folder has if the link is followed: whoever made it may know the contents.
    total = hashlib.sha256()
    for item in sorted(inside.iterdir()):
        total.update(f"{item.name}\0{hashlib.sha256(item.read_bytes()).hexdigest()}\n".encode())
    edit(done.folder, lambda record: record["inputs"]["field"].update(sha256=total.hexdigest(), path=""))
    for made in ("link", "pipe", "folder link"):
        with bounded(), pytest.raises(InputError, match="was not found"):
            again(done.folder, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        (inside / "zz.txt").unlink()
        if made == "link":
            os.mkfifo(inside / "zz.txt")
        else:
            (inside / "zz.txt").symlink_to(tmp_path / "mine")
    for give in (tmp_path / "series" / "zz.txt",):
        give.symlink_to(tmp_path / "private.txt")
        with pytest.raises(InputError, match="a link that leaves the folder"):
            run(ToySmooth(), {"field": give.parent}, no_load, model=NO_MODEL, out=tmp_path / "own")


@pytest.mark.parametrize("kind", ["device", "pipe", "link", "linked folder"])
def test_an_input_that_is_no_regular_file_is_not_waited_for(shared: Path, tmp_path: Path, kind: str) -> None:
    place = shared / "inputs" / "start.png"
    copy = tmp_path / "elsewhere"
    shutil.move(shared / "inputs", copy)
    if kind == "linked folder":
        (shared / "inputs").symlink_to(copy)
    else:
        (shared / "inputs").mkdir()
        if kind == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero" if kind == "device" else copy / "start.png")
    for path in ("", "/dev/zero"):
        edit(shared, lambda record, path=path: record["inputs"]["start"].update(path=path))
        with bounded(), pytest.raises(InputError):
            again(shared, tmp_path / "new", trust=True)
    assert not (tmp_path / "new").exists()


def test_recorded_paths_are_told_and_followed_only_on_trust(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x" * 100)
    (tmp_path / "table.txt").write_text("x" * 50)
    report = tmp_path / "report.txt"
    given = {"image": picture, "note": tmp_path / "note.txt", "report": str(report)}
    done = run(ToyStamp(table=tmp_path / "table.txt"), given, no_load, model=NO_MODEL, out=tmp_path / "run")
    report.unlink()
    (tmp_path / "note.txt").rename(tmp_path / "moved.txt")
    with pytest.raises(InputError) as refused:
        again(done.folder, tmp_path / "new")
    told = str(refused.value)
    for part in (f"reads {tmp_path}/table.txt (table)", f"reads {tmp_path}/note.txt (note)", f"writes {report} (report)", "--trust"):
        assert part in told
    assert "--inputs" not in told
    assert "\n" not in told
    assert not report.exists()
    assert not (tmp_path / "new").exists()
    (tmp_path / "moved.txt").rename(tmp_path / "note.txt")
    heard = Recorder()
    assert again(done.folder, tmp_path / "new", trust=True, events=heard).identical is True
    assert report.read_text() == "150"
    assert f"writes {report}" in heard.notes[0]


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:9/x/y",
        "https:/x",
        "../../etc",
        "/etc",
        "..\\x/y",
        "x/..",
        "hf://a/b",
        "toy-t2i/../toy-vae",
        "~root",
        "-x/y",
        ".",
        "mine",
    ],
)
def test_a_model_that_is_a_folder_is_loaded_only_on_trust(shared: Path, tmp_path: Path, name: str) -> None:
    edit(shared, lambda record: record["model"].update(name=name))
    with pytest.raises(InputError, match=r"loads .* \(model\); pass --trust"):
        again(shared, tmp_path / "new")
    edit(shared, lambda record: record.update(status="interrupted"))
    with pytest.raises(InputError, match=r"loads .* \(model\); pass --trust"):
        go_on(shared)


def test_embedded_models_and_hub_ids_need_no_trust(shared: Path, tmp_path: Path) -> None:
    for name in ("toy-t2i", "some-owner/some.model"):
        edit(shared, lambda record, name=name: record["model"].update(name=name))
        with pytest.raises(AssertionError, match=f"{name} was loaded"):
            raise_through(lambda: again(shared, tmp_path / "new"))
        shutil.rmtree(tmp_path / "new")


def raise_through(call: Callable[[], object]) -> None:
    """The error below the run's own."""
    try:
        call()
    except CalotypeError as error:
        raise error.__cause__ or error from None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("revision", value) for value in ("../../../../etc/passwd", "/dev/zero", "\0", 5, "a" * 300)),
        *(("variant", value) for value in ("../../x", 5, "\n")),
        *(("device", value) for value in (7, "meta", "", "cpu:0000", None)),
        *(("dtype", value) for value in ("complex64", [], None)),
        ("offload", "x"),
        *((key, value) for key in ("max_rows", "decode_chunk_size") for value in ("x", -1, 0, 1e300, True)),
        *(("name", value) for value in (None, 5, ["a"], {"a": 1}, "\0", "a b/c\n", "x" * 5000)),
    ],
)
def test_a_model_is_what_a_model_can_be(shared: Path, key: str, value: Any) -> None:
    edit(shared, lambda record: record["model"].update({key: value}))
    with pytest.raises(InputError, match=f"model: {key}"):
        read_record(shared)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), -1),
        (("seed",), 2**80),
        (("seed",), 1.5),
        (("seed",), True),
        (("method",), "../x"),
        (("method",), 3),
        (("preset",), "\x1b"),
        (("status",), "odd"),
        (("sessions",), 0),
        (("inputs",), []),
        (("inputs", "start", "sha256"), "0"),
        (("inputs", "start", "name"), "../x"),
        (("inputs", "start", "name"), "a/b"),
        (("inputs", "start", "kind"), "file"),
        (("inputs", "start", "path"), 4),
        (("outputs", "result", "file"), "../x"),
        (("outputs", "result", "file"), "/etc/passwd"),
        (("outputs", "result", "file"), ".."),
        (("outputs", "result", "pixels_sha256"), "x"),
        (("outputs", "result", "width"), "x"),
        (("outputs", "result", "fps"), -1),
        (("environment", "threads"), -4),
        (("environment", "device"), "cuda:x"),
        (("environment", "versions"), 3),
        (("metrics", "model_calls"), "x"),
        (("seconds", "total"), -1),
        (("notes",), [1]),
        (("command",), "x"),
        (("error",), []),
        (("checkpoint", "sha256"), 1),
    ],
)
def test_every_value_of_a_record_is_checked(shared: Path, path: tuple[str, ...], value: Any) -> None:
    def change(record: dict[str, Any]) -> None:
        *parents, key = path
        for parent in parents:
            record = record[parent]
        record[key] = value

    edit(shared, change)
    with pytest.raises(InputError) as refused:
        read_record(shared)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"calotype_run": 1, "a": ' + b"[" * 50 + b"]" * 50 + b"}",
        b'{"calotype_run": NaN}',
        b'{"calotype_run": 1e999}',
        b'{"calotype_run": 1, "calotype_run": 1}',
        b'{"calotype_run": "\\ud800"}',
        b"\xff\xfe",
        b'{"calotype_run": ' + b"9" * 5000 + b"}",
        b"null",
        b'"x"',
        b"[]",
        b" " * 17_000_000,
        b'{"calotype_run": 1}',
        b'{"calotype_run": 2}',
    ],
)
def test_text_that_is_no_record_is_refused_in_one_line(shared: Path, content: bytes) -> None:
    (shared / "run.json").write_bytes(content)
    with bounded(), pytest.raises(InputError) as refused:
        read_record(shared)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_the_same_text_in_a_picture_is_refused_too(tmp_path: Path) -> None:
    for number, content in enumerate(("[" * 100_000, '{"calotype_run": NaN}', "{", '{"calotype_run": 1}')):
        told = PngInfo()
        told.add_itxt("calotype", content)
        Pillow.new("RGB", (20, 20)).save(tmp_path / f"{number}.png", pnginfo=told)
        with pytest.raises(InputError):
            again(tmp_path / f"{number}.png", tmp_path / "new")


def test_a_record_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    for source in (tmp_path, tmp_path / "run.json"):
        with bounded(), pytest.raises(InputError):
            read_record(source)


def test_names_in_a_record_don_t_lead_out_of_the_folder_of_the_user(shared: Path, victim: Path, tmp_path: Path) -> None:
    shutil.rmtree(shared / "inputs")
    digest = hashlib.sha256(b"precious").hexdigest()
    (tmp_path / "given").mkdir()
    edit(shared, lambda record: record["inputs"]["start"].update(sha256=digest, name="../victim/photo.png", path=""))
    with pytest.raises(InputError, match="bare name"):
        again(shared, tmp_path / "new", input_folder=tmp_path / "given")


def test_comparing_reads_only_what_lies_in_the_two_folders(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(shared, other)
    (shared / "result.mp4").rename(tmp_path / "private.mp4")
    (shared / "result.mp4").symlink_to(tmp_path / "private.mp4")
    edit(shared, lambda record: record["outputs"]["result"].update(pixels_sha256="1" * 64))
    assert compare(shared, other).lines[-1].right == "different values (a file is gone)"
    edit(shared, lambda record: record["outputs"]["result"].update(file="run.json"))
    assert compare(shared, other).lines[-1].right == "different kinds of files"


def test_an_own_run_is_done_again_without_a_word(picture: Path, tmp_path: Path) -> None:
    done = run(ToyFade.quick(), {"start": picture, "end": Image(torch.rand(3, 40, 40))}, no_load, model=NO_MODEL, out=tmp_path / "run")
    picture.unlink()
    heard = Recorder()
    assert again(done.folder, tmp_path / "two", events=heard).identical is True
    assert not any("trust" in note for note in heard.notes)
