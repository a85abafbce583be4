"""Files from somebody else on the command line, and what a user is told when the machine refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from calotype.cli import app
from calotype.errors import Cancelled
from calotype.runs import ModelRequest, read_record, run
from tests.runs.test_running import StopsAt
from tests.runs.toy_method import ToyFade
from tests.tiny import cached

FADE = ["run", "toy-fade", "--start", "first.png", "--preset", "quick", "--quiet", "--out"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    found = app.run(arguments)
    captured = capsys.readouterr()
    assert found == status, captured.err
    return captured.out, captured.err


@pytest.mark.usefixtures("plugins")
def test_a_received_picture_is_done_again_with_the_files_that_the_user_gives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, *FADE, "one")
    shutil.copyfile("one/contact-sheet.png", "received.png")
    shutil.rmtree("one")
    _, err = said(capsys, "rerun", "received.png", "--out", "two", status=2)
    assert err.count("\n") == 1
    assert f"it reads {here}/first.png (start); pass --trust if that is all right, or give the files with --inputs DIR" in err
    assert not (here / "two").exists()
    assert "bit for bit the same" in said(capsys, "rerun", "received.png", "--out", "two", "--trust")[0]
    assert "bit for bit the same" in said(capsys, "rerun", "received.png", "--out", "three", "--inputs", ".")[0]


@pytest.mark.usefixtures("plugins")
def test_texts_of_a_record_are_neither_markup_nor_commands_of_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, *FADE, "one")
    shutil.copytree("one", "two")
    record = json.loads((here / "two" / "run.json").read_text())
    odd = "[/bold] [link=file:///etc/passwd]x[/link] \x1b]0;title\x07\x1b[2J"
    record["notes"], record["rerun_of"], record["error"] = [odd], odd, odd
    record["environment"]["device_name"] = odd
    record["environment"]["versions"][odd] = odd
    record["checkpoint"] = {odd: odd}
    record["arguments"] = {"gain": 1.0, odd: odd}
    record["outputs"][odd.replace("/", "").replace("\x1b", "").replace("\x07", "")] = record["outputs"]["result"]
    (here / "two" / "run.json").write_text(json.dumps(record))
    for arguments in (("compare", "one", "two", "--all"), ("resume", "two")):
        out, err = said(capsys, *arguments)
        assert "\x1b" not in out + err
        assert "[link=file:" in out
    _, err = said(capsys, "rerun", "two", "--out", "three", status=2)
    assert "\x1b" not in err
    assert "no such argument" in err


@pytest.mark.usefixtures("here")
def test_a_stopped_run_says_the_whole_command_that_goes_on(here: Path) -> None:
    for name, end in (("", ""), ("toy-t2i", ""), ("~/models/mine", " --trust")):
        out = here / f"run{len(name)}"
        with pytest.raises(Cancelled, match=rf"calotype resume {out}{end}$"):
            run(ToyFade(), {"start": here / "first.png"}, lambda _: None, model=ModelRequest(name), out=out, events=StopsAt(2))


def test_words_name_no_places(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.parent.rglob("*"))
    words = "../../evil,/etc/evil,..,a/b"
    arguments = ["run", "ovam", "--model", str(cached("toy-t2i")), "--image", "first.png", "--levels", "1", "--words", words]
    out, _ = said(capsys, *arguments, "--out", "maps", "--json")
    made = {path for path in here.parent.rglob("*") if path not in before}
    assert made == {here / "maps", *(here / "maps").rglob("*")}
    assert read_record(here / "maps" / "run.json")[0].outputs.keys() == json.loads(out)["outputs"].keys()
    assert all((here / "maps" / entry["file"]).is_file() for entry in json.loads(out)["outputs"].values())


@pytest.mark.usefixtures("plugins", "here")
@pytest.mark.parametrize("out", ["/proc/nothing/x", "/dev/full", "first.png/x", "a" * 300])
def test_a_place_that_can_t_be_written_is_named_in_one_line(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, *FADE, out, status=2)
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "unexpected" not in err
