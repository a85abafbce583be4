"""A chain of a stranger touches nothing outside of its folder; a chain that is replaced loses only what it made."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from calotype.chains import Chain, ChainRun, rerun_chain, resume_chain, run_chain
from calotype.chains.record import read_chain_record
from calotype.chains.running import _locked
from calotype.core.method import Method
from calotype.errors import CalotypeError, Cancelled, InputError
from calotype.runs import ModelRequest
from tests.fuzz.mutations import bounded
from tests.recorder import Recorder
from tests.runs.test_running import StopsAt
from tests.runs.test_trust import TOYS, no_load, tree
from tests.runs.toy_method import ToyFade

LINKS = {
    "stamp": {"method": "toy-stamp", "give": {"image": "first.png"}},
    "there": {"method": "toy-fade", "give": {"start": "@stamp"}, "settings": {"num_inference_steps": 4}},
    "back": {"method": "toy-fade", "give": {"start": "@there:last", "end": "first.png"}, "preset": "quick"},
}


def resolve(slug: str) -> type[Method]:
    return TOYS[slug]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    Pillow.linear_gradient("L").resize((32, 32)).convert("RGB").save(folder / "first.png")
    return folder


def made(mine: Path, out: Path, **options: Any) -> ChainRun:
    return run_chain(Chain.of({"links": LINKS}, mine, resolve), **{"load_model": no_load, "out": out, **options})


@pytest.fixture
def shared(mine: Path, tmp_path: Path) -> Path:
    """A chain's folder that somebody sends."""
    made(mine, tmp_path / "shared")
    shutil.rmtree(mine)
    return tmp_path / "shared"


def again(source: Path, out: Path, **options: Any) -> ChainRun:
    return rerun_chain(source, resolve_method=resolve, load_model=no_load, out=out, **options)


def go_on(folder: Path, **options: Any) -> ChainRun:
    return resume_chain(folder, resolve_method=resolve, load_model=no_load, **options)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "chain.json") -> Path:
    record = json.loads((folder / name).read_text())
    change(record)
    (folder / name).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    "file", ["{0}", "../victim/photo.png", "~/photo.png", "inputs/../../victim/photo.png", "chain.png", "inputs/1-x.png"]
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_recorded_chain_reads_no_file_but_its_own_copies(shared: Path, tmp_path: Path, file: str, listed: bool) -> None:
    (tmp_path / "victim").mkdir()
    Pillow.new("RGB", (32, 32)).save(tmp_path / "victim" / "photo.png")
    name = file.format(tmp_path / "victim" / "photo.png")
    edit(shared, lambda record: record["links"]["stamp"]["give"].update(image=name))
    if listed:
        edit(shared, lambda record: record["files"].update({name: "0" * 64}))
    for trust in (False, True):
        with pytest.raises(InputError):
            again(shared, tmp_path / "new", trust=trust)
        with pytest.raises(InputError):
            go_on(shared, trust=trust)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_copy_that_is_a_link_or_a_pipe_is_not_read(shared: Path, tmp_path: Path, kind: str) -> None:
    copy = shared / "inputs" / "0-first.png"
    shutil.move(copy, tmp_path / "private.png")
    if kind == "link":
        copy.symlink_to(tmp_path / "private.png")
    else:
        os.mkfifo(copy)
    for call in (lambda: again(shared, tmp_path / "new"), lambda: go_on(shared)):
        with bounded(), pytest.raises(InputError, match=r"missing or has changed|not a regular file"):
            call()


@pytest.mark.parametrize("name", ["x/../../victim", "../victim", "/etc", "..", "", "a/b", "a" * 300])
def test_the_name_of_a_link_is_never_a_path(mine: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.tex").write_text("x")
    folder = tmp_path / "hostile"
    (folder / "1-x").mkdir(parents=True)
    record = {"calotype_chain": 1, "links": {name: {}}, "files": {}, "records": {}, "seed": 0, "device": "auto", "dtype": "auto"}
    (folder / "chain.json").write_text(json.dumps(record))
    before = tree(tmp_path)
    for call in (lambda: made(mine, folder, overwrite=True), lambda: go_on(folder), lambda: again(folder, tmp_path / "new")):
        with pytest.raises(InputError):
            call()
    assert tree(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_places_in_links_are_told_before_anything_runs(shared: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    edit(shared, lambda record: record["links"]["stamp"]["give"].update(report=str(report)))
    edit(shared, lambda record: record["links"]["back"].update(model="../elsewhere"))
    for call in (lambda: again(shared, tmp_path / "new"), lambda: go_on(shared)):
        with pytest.raises(InputError, match=rf"writes {report} \(report\), loads ../elsewhere \(model\); pass --trust"):
            call()
    assert not report.exists()
    assert not (tmp_path / "new").exists()
    edit(shared, lambda record: record["links"]["back"].update(model=""))
    heard = Recorder()
    with pytest.raises(InputError):
        again(shared, tmp_path / "new")
    assert again(shared, tmp_path / "new", trust=True, events=heard).identical is True
    assert report.exists()
    assert f"writes {report}" in heard.notes[0]


def test_the_record_of_a_link_s_own_folder_is_a_stranger_s_too(shared: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"

    def hostile(record: dict[str, Any]) -> None:
        record.update(status="interrupted")
        record["arguments"]["report"] = str(report)

    edit(shared / "1-stamp", hostile, "run.json")
    with pytest.raises(InputError, match=rf"writes {report}"):
        go_on(shared)
    assert not report.exists()


@pytest.mark.parametrize("name", ["1-stamp", "2-there", "handed-on", "inputs"])
def test_a_linked_folder_in_a_chain_is_not_followed(shared: Path, mine_again: Path, tmp_path: Path, name: str) -> None:
    shutil.move(shared / name, tmp_path / "elsewhere")
    (shared / name).symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    if name != "handed-on":
        with pytest.raises(InputError):
            go_on(shared)
    with pytest.raises(InputError, match="is a link") if name in ("handed-on", "inputs") else pytest.raises(InputError):
        made(mine_again, shared, overwrite=True)
    assert tree(tmp_path / "elsewhere") == before


@pytest.fixture
def mine_again(shared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copyfile(shared / "inputs" / "0-first.png", folder / "first.png")
    return folder


def test_what_is_handed_on_is_read_from_the_folder_alone(shared: Path, tmp_path: Path) -> None:
    handed = shared / "handed-on" / "stamp.safetensors"
    shutil.move(handed, tmp_path / "private.safetensors")
    handed.symlink_to(tmp_path / "private.safetensors")
    before = (tmp_path / "private.safetensors").read_bytes()
    done = go_on(shared)  # The link is run anew, and what it hands on replaces what was there.
    assert (tmp_path / "private.safetensors").read_bytes() == before
    assert not handed.is_symlink()
    assert done.runs["stamp"].results


@pytest.mark.parametrize("reference", ["@stamp.../../evil", "@stamp./etc/x", "@stamp.a/b", "@stamp.\0", "@stamp:../x", "@../stamp", "@"])
def test_a_reference_is_never_a_path(mine: Path, reference: str) -> None:
    links = {**LINKS, "there": {"method": "toy-fade", "give": {"start": reference}}}
    with pytest.raises(InputError) as refused:
        Chain.of({"links": {name: links[name] for name in ("stamp", "there")}}, mine, resolve)
    assert "\n" not in str(refused.value)


def test_only_what_a_chain_made_is_replaced(mine: Path, tmp_path: Path) -> None:
    folder = made(mine, tmp_path / "out").folder
    own = {
        "notes.txt": b"mine",
        "inputs/x.png": b"mine",
        "handed-on/notes.txt": b"mine",
        "9-x/run.json": b"mine",
    }
    for name, content in own.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    made(mine, folder, overwrite=True, seed=4)
    left = tree(folder)
    assert {name: left[name] for name in own} == own
    assert read_chain_record(folder).seed == 4
    (folder / "1-stamp" / "notes.txt").write_bytes(b"mine")
    before = tree(folder)
    with pytest.raises(InputError, match=r"notes.txt is in a folder that would be replaced"):
        made(mine, folder, overwrite=True)
    assert tree(folder) == before


def test_a_chain_stays_until_the_models_of_the_next_one_are_loaded(mine: Path, tmp_path: Path) -> None:
    folder = made(mine, tmp_path / "out").folder
    before = tree(folder)

    def fails(request: ModelRequest) -> None:
        raise InputError(f"no device {request.device!r}; give auto, cpu, cuda, cuda:1 or mps")

    links = {**LINKS, "back": {**LINKS["back"], "model": "toy-t2i"}}
    with pytest.raises(InputError, match="no device"):
        run_chain(Chain.of({"links": links}, mine, resolve), load_model=fails, out=folder, overwrite=True, device="nonsense")
    assert tree(folder) == before


def test_a_working_chain_is_left_alone(mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(Cancelled):
        made(mine, folder, events=StopsAt(2))
    (folder / "1-stamp" / ".x.99.89abcdef.tmp.png").write_bytes(b"half")
    (folder / ".y.99.89abcdef.tmp.png").write_bytes(b"half")
    before = tree(folder)
    with _locked(folder):
        for call in (lambda: go_on(folder), lambda: made(mine, folder, overwrite=True)):
            with pytest.raises(InputError, match="another process"):
                call()
    assert tree(folder) == before


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"calotype_chain": 1, "links": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"calotype_chain": 1, "links": {}, "seed": NaN}',
        b'{"calotype_chain": 1, "links": {}, "seed": -1}',
        b'{"calotype_chain": 1, "links": {}, "device": "meta"}',
        b'{"calotype_chain": 1, "links": {}, "dtype": 3}',
        b'{"calotype_chain": 1, "links": []}',
        b'{"calotype_chain": 1, "links": {}, "files": {"/etc/passwd": "0"}}',
        b'{"calotype_chain": 1, "links": {}, "records": {"x": {}}}',
        b'{"calotype_chain": 2}',
        b"[]",
        b"\xff",
    ],
)
def test_text_that_is_no_chain_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chain.json").write_bytes(content)
    calls = (lambda: Chain.read(tmp_path / "chain.json", resolve), lambda: go_on(tmp_path), lambda: again(tmp_path, tmp_path / "new"))
    for call in calls:
        with bounded(), pytest.raises(CalotypeError) as refused:
            call()
        assert "\n" not in str(refused.value)


def test_a_full_disk_names_the_chain_to_go_on_with(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(ToyFade.__call__)
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ToyFade, "__call__", full)
        with pytest.raises(CalotypeError, match=rf"disk is full .*calotype resume {tmp_path}/out$"):
            made(mine, tmp_path / "out")
    assert go_on(tmp_path / "out").runs["back"].record.status == "finished"
