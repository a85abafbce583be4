"""What is replaced and removed: only what is the run's own, only once its successor is ready, and nothing of a working run."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from calotype.core.events import Events
from calotype.errors import CalotypeError, Cancelled, InputError
from calotype.imaging import files
from calotype.imaging.files import disk_trouble
from calotype.runs import ModelRequest, Run, read_record, run
from calotype.runs.folders import locked, taken
from calotype.train.state import locked as locked_training
from tests.runs.test_running import StopsAt
from tests.runs.test_trust import again, edit, go_on, no_load, tree
from tests.runs.toy_method import ToyFade, ToyStamp

NO_MODEL = ModelRequest("")
STRAY = {
    ".result.4711.0123abcd.tmp.png": b"half",
    ".notes.tmpl": b"mine",
    ".x.tmp.png": b"mine",
    "inputs/.start.99.89abcdef.tmp.png": b"half",
    "previews/.0001.99.89abcdef.tmp.png": b"half",
    "thoughts/.a.99.89abcdef.tmp.txt": b"mine",
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Pillow.linear_gradient("L").resize((32, 32)).convert("RGB").save(tmp_path / "start.png")
    return tmp_path / "start.png"


def fade(picture: Path, out: Path, events: Events | None = None, *, previews: bool = False, overwrite: bool = False, **fields: Any) -> Run:
    arguments = {"start": picture, "end": picture}
    method = ToyFade(**{"num_inference_steps": 4, **fields})
    options = {"previews": previews, "overwrite": overwrite, "events": events or Events()}
    return run(method, arguments, no_load, model=NO_MODEL, out=out, **options)


def scatter(folder: Path) -> None:
    for name, content in STRAY.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def test_only_what_the_record_lists_is_removed_as_long_as_it_is_that(picture: Path, tmp_path: Path) -> None:
    folder = fade(picture, tmp_path / "run", previews=True).folder
    mine = {
        "notes.txt": b"mine",
        "previews/holiday.png": b"mine",
        "inputs/other.png": b"mine",
        "state/plan.txt": b"mine",
        "old.mp4": b"mine",
    }
    for name, content in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    # A record that lists a file of the user's, with another hash, and an input that was changed since.
    (folder / "inputs" / "end.png").write_bytes(b"changed")

    def claim(record: dict[str, Any]) -> None:
        for number, name in enumerate(("notes.txt", "old.mp4", "run.json", "inputs", "state")):
            record["outputs"][f"r{number}"] = {**record["outputs"]["result"], "name": f"r{number}", "file": name}

    edit(folder, claim)
    run(ToyStamp(), {"image": picture}, no_load, model=NO_MODEL, out=folder, overwrite=True)
    left = tree(folder)
    assert {name: left[name] for name in mine} == mine
    assert left.keys() == mine.keys() | {"run.json", "progress.jsonl", "inputs/image.png", "inputs/end.png", "result.png"}


@pytest.mark.parametrize("file", ["../victim/thesis.tex", "/{victim}/thesis.tex", "inputs/../../victim/thesis.tex"])
def test_a_record_that_lists_a_file_elsewhere_removes_nothing(picture: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.tex").write_text("x")
    folder = fade(picture, tmp_path / "run").folder
    edit(folder, lambda record: record["outputs"]["result"].update(file=file.format(victim=tmp_path / "victim")))
    before = tree(tmp_path)
    with pytest.raises(InputError, match="bare name"):
        fade(picture, folder, overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["inputs", "previews", "state", "attention"])
def test_a_linked_folder_is_neither_emptied_nor_written_to(picture: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "start.png").write_bytes(picture.read_bytes())
    (tmp_path / "victim" / "0001.png").write_bytes(b"mine")
    with pytest.raises(Cancelled):
        fade(picture, tmp_path / "run", StopsAt(2))
    folder = tmp_path / "run"
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(tmp_path / "victim")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="is a link"):
        fade(picture, folder, overwrite=True, previews=True)
    with pytest.raises(InputError, match="is a link"):
        go_on(folder, previews=True)
    assert tree(tmp_path) == before


def test_a_result_may_be_the_input_of_what_replaces_it(picture: Path, tmp_path: Path) -> None:
    first = run(ToyStamp(), {"image": picture}, no_load, model=NO_MODEL, out=tmp_path / "run")
    before = (first.folder / "result.png").read_bytes()
    second = run(ToyStamp(), {"image": first.folder / "result.png"}, no_load, model=NO_MODEL, out=first.folder, overwrite=True)
    assert (second.folder / "inputs" / "image.png").read_bytes() == before
    assert again(second.folder, second.folder, overwrite=True).identical is True


def test_a_run_stays_until_its_successor_s_model_is_loaded(picture: Path, tmp_path: Path) -> None:
    folder = fade(picture, tmp_path / "run").folder
    before = tree(folder)

    def fails(request: ModelRequest) -> None:
        assert tree(folder).items() >= before.items()
        raise InputError("no device 'nonsense'; give auto, cpu, cuda, cuda:1 or mps")

    def stops(request: ModelRequest) -> None:
        raise KeyboardInterrupt

    for load, error in ((fails, InputError), (stops, KeyboardInterrupt)):
        with pytest.raises(error):
            run(ToyFade(), {"start": picture}, load, model=ModelRequest("toy-t2i"), out=folder, overwrite=True)
        assert tree(folder) == before
    with pytest.raises(InputError, match="does not exist"):
        run(ToyFade(), {"start": tmp_path / "gone.png"}, no_load, model=NO_MODEL, out=folder, overwrite=True)
    assert tree(folder) == before


def test_a_folder_without_a_run_is_not_replaced(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "result.mp4").write_bytes(b"wedding")
    with pytest.raises(InputError, match="no run that could be replaced"):
        fade(picture, tmp_path / "album", overwrite=True)
    assert tree(tmp_path / "album") == {"result.mp4": b"wedding"}


def test_what_did_not_begin_leaves_no_folder(picture: Path, tmp_path: Path) -> None:
    with taken(tmp_path / "new", "x", overwrite=False):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    picture.write_bytes(b"no picture")
    with pytest.raises(InputError):
        fade(picture, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_refused_resume_removes_nothing_of_the_working_run(picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Cancelled):
        fade(picture, folder, StopsAt(2))
    scatter(folder)
    before = tree(folder)
    with locked(folder), pytest.raises(InputError, match="another process"):
        go_on(folder)
    with locked(folder), pytest.raises(InputError, match="another process"):
        fade(picture, folder, overwrite=True)
    assert tree(folder) == before
    go_on(folder)
    left = tree(folder)
    assert {name: left.get(name) for name in STRAY} == {name: content if content == b"mine" else None for name, content in STRAY.items()}


def test_two_trainings_never_begin_in_one_new_folder(tmp_path: Path) -> None:
    with (
        locked_training(tmp_path / "new"),
        pytest.raises(InputError, match="another process is training"),
        locked_training(tmp_path / "new"),
    ):
        pass
    (tmp_path / "linked").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "linked" / "lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(InputError, match="is a link"), locked_training(tmp_path / "linked"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "dangling", "second name", "pipe", "folder"])
def test_progress_is_not_written_through_what_is_no_file_of_ours(picture: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Cancelled):
        fade(picture, folder, StopsAt(2))
    victim, progress = tmp_path / "bashrc", folder / "progress.jsonl"
    progress.unlink()
    if kind != "dangling":
        victim.write_text("ok\n")
    if kind in ("link", "dangling"):
        progress.symlink_to(victim)
    elif kind == "second name":
        os.link(victim, progress)
    elif kind == "pipe":
        os.mkfifo(progress)
    else:
        progress.mkdir()
    with pytest.raises(InputError, match=r"progress\.jsonl"):
        go_on(folder)
    assert victim.exists() == (kind != "dangling")
    assert kind == "dangling" or victim.read_text() == "ok\n"


@pytest.mark.parametrize("name", ["traceback.log", "run.json", "result.mp4", "contact-sheet.png"])
def test_links_in_a_run_folder_are_replaced_and_not_followed(picture: Path, tmp_path: Path, name: str) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    with pytest.raises(Cancelled):
        fade(picture, folder, StopsAt(2), fault="none" if name.startswith(("result", "contact")) else "strange", num_inference_steps=6)
    if (folder / name).exists():
        shutil.move(folder / name, victim)
    else:
        victim.write_text("ok\n")
    before = victim.read_bytes()
    (folder / name).symlink_to(victim)
    if name.startswith(("result", "contact")):
        go_on(folder)
    else:
        with pytest.raises(CalotypeError, match="ZeroDivisionError"):
            go_on(folder)
    assert victim.read_bytes() == before
    assert not (folder / name).is_symlink()


def test_a_state_that_is_a_link_is_not_read(picture: Path, tmp_path: Path) -> None:
    whole = fade(picture, tmp_path / "whole").record
    with pytest.raises(Cancelled):
        fade(picture, tmp_path / "run", StopsAt(2))
    state = tmp_path / "run" / "state" / "fade.safetensors"
    shutil.move(state, tmp_path / "elsewhere")
    state.symlink_to(tmp_path / "elsewhere")
    steps = StopsAt()
    done = go_on(tmp_path / "run", events=steps)
    assert steps.steps == 4
    assert done.record.outputs["result"]["pixels_sha256"] == whole.outputs["result"]["pixels_sha256"]


def test_a_folder_that_is_deleted_in_the_middle_costs_one_run_at_most(picture: Path, tmp_path: Path) -> None:
    class Deletes(StopsAt):
        def step(self, advance: int = 1) -> None:
            if self.steps == 2:
                shutil.rmtree(tmp_path / "run")
            super().step(advance)

    done = fade(picture, tmp_path / "run", Deletes())
    assert read_record(tmp_path / "run")[0].status == "finished"
    assert (done.folder / "result.mp4").is_file()


def test_six_runs_at_once_have_six_folders(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def one(number: int) -> Path:
        with taken(None, "toy", overwrite=False) as held:
            held.began = True
            return held.folder

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(one, range(6)))) == 6


class FullDisk(StopsAt):
    """From a step on every new file lies on a disk without room: the system's own, which refuses each byte."""

    def __init__(self, at: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.full_at, self.folder, self.monkeypatch = at, folder, monkeypatch

    def step(self, advance: int = 1) -> None:
        super().step(advance)
        if self.steps == self.full_at:
            self.monkeypatch.setattr(files, "temporary_beside", self.place)

    def place(self, target: Path) -> Path:
        link = target.with_name(f".{target.stem}.{os.getpid()}.{os.urandom(4).hex()}.tmp{target.suffix}")
        link.symlink_to("/dev/full")
        return link


@pytest.mark.skipif(sys.platform != "linux", reason="the disk without room is a device of Linux")
@pytest.mark.parametrize("at", [1, 4])
def test_a_full_disk_interrupts_a_run_which_then_goes_on(picture: Path, tmp_path: Path, at: int) -> None:
    whole = fade(picture, tmp_path / "whole").record
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(CalotypeError, match=r"the disk is full .*calotype resume") as failure:
        fade(picture, folder, FullDisk(at, folder, patch))
    assert "\n" not in str(failure.value)
    assert str(folder) in str(failure.value)
    # No new file could be written: the record that was there says so in its own bytes.
    assert read_record(folder)[0].status == "interrupted"
    assert not [name for name in tree(folder) if ".tmp" in name]
    assert go_on(folder).record.outputs["result"]["pixels_sha256"] == whole.outputs["result"]["pixels_sha256"]


@pytest.mark.skipif(sys.platform != "linux", reason="the disk without room is a device of Linux")
def test_a_full_disk_during_a_stop_leaves_the_record_interrupted(picture: Path, tmp_path: Path) -> None:
    class Stops(FullDisk):
        def check(self) -> None:
            if self.steps >= 2:
                raise Cancelled("stopped")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cancelled):
        fade(picture, tmp_path / "run", Stops(2, tmp_path / "run", patch))
    assert read_record(tmp_path / "run")[0].status == "interrupted"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: OSError(errno.ENOSPC, "No space left on device", "/a"), "the disk is full (no space left on device: /a)"),
        (lambda: OSError(errno.EDQUOT, "Disk quota exceeded", "/a"), "your share of the disk is used up (disk quota exceeded: /a)"),
        (lambda: PermissionError(errno.EACCES, "Permission denied", "/a"), "a file can't be read or written (permission denied: /a)"),
        (lambda: OSError(errno.EROFS, "Read-only file system", "/a"), "a file can't be read or written (read-only file system: /a)"),
        (lambda: RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full (no space left on device)"),
        (lambda: RuntimeError("odd"), ""),
        (lambda: OSError("image file is truncated"), ""),
        (lambda: InputError("no such option"), ""),
    ],
)
def test_what_the_system_refuses_is_named(make: Callable[[], Exception], told: str) -> None:
    assert disk_trouble(make()) == told
    wrapped = ValueError("a library's own words")
    wrapped.__cause__ = make()
    assert disk_trouble(wrapped) == told


def test_names_that_no_utf8_has_are_recorded_and_read_again(picture: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/st\xe4rt\x1b[31m.png"))
    odd.write_bytes(picture.read_bytes())
    done = run(ToyStamp(), {"image": odd}, no_load, model=NO_MODEL, out=tmp_path / "run", command=("run", str(odd)))
    assert again(done.folder, tmp_path / "again").identical is True
    assert "\x1b" not in (done.folder / "run.json").read_text()
    for number, name in enumerate((f"{'ä' * 120}.png", "a\\b.png", "..odd", "two\nlines.png", ".png")):
        (tmp_path / name).write_bytes(picture.read_bytes())
        done = run(ToyStamp(), {"image": tmp_path / name}, no_load, model=NO_MODEL, out=tmp_path / f"run{number}", command=("x" * 100_000,))
        assert again(done.folder, tmp_path / f"again{number}").identical is True
        assert again(done.folder / "result.png", tmp_path / f"result{number}").identical is True
