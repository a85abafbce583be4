"""Artifacts beyond pictures and volumes: text formats that come back as they were, folders, and kinds that another package adds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calotype.chains import Chain, rerun_chain, resume_chain, run_chain
from calotype.core.artifacts import CheckpointFolder, DatasetFolder, HtmlReport, Ledger, Points, Pose, Table
from calotype.core.events import Events
from calotype.errors import CalotypeError, InputError, MissingError
from calotype.imaging.types import Image
from calotype.methods.ovam.tokens import TOKEN, Token
from calotype.runs import ModelRequest, Run, call_parameters, compare, read_record, rerun, resume, run
from calotype.runs.inputs import read, write_exact
from calotype.runs.kinds import KINDS, is_artifact, kind_named, kind_names, kind_of
from tests.cli.conftest import plugin_path, plugins  # noqa: F401
from tests.fuzz.mutations import fuzzed, reads_or_refuses
from tests.runs.test_trust import edit, no_load, tree
from tests.runs.toy_folder_method import GREETING, Greeting, ToyUpper
from tests.runs.toy_method import ToyStamp

NO_MODEL = ModelRequest("")
pytestmark = pytest.mark.usefixtures("plugins")

TURN = torch.tensor([[0.0, -1, 0, 0.1], [1, 0, 0, 1 / 3], [0, 0, 1, -2], [0, 0, 0, 1]], dtype=torch.float64)
VALUES: list[Any] = [
    Table(("case", "dice", "note"), (("007", 0.1 + 0.2, 'a "b",\nc'), ("x", None, "é"), ("y", 3, None))),
    Table(("only",), ((None,), (1,))),
    HtmlReport("<p>é</p>\r\n"),
    Points(torch.rand(3, 3, dtype=torch.float64), {"score": torch.rand(3, dtype=torch.float64)}),
    Points(torch.zeros(0, 2, dtype=torch.float64)),
    Pose(TURN),
    Ledger(({"mechanism": "query", "epsilon": 0.1 + 0.2, "count": 3}, {"note": None})),
    Greeting("world"),
    Token(("house",), torch.rand(2, 8), {"model": "toy-t2i"}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: kind_of(value).name)
def test_a_file_gives_back_what_was_written(value: Any, tmp_path: Path) -> None:
    kind = kind_of(value)
    path = tmp_path / f"a{kind.suffix}"
    write_exact(value, path)
    found = read(kind, path, "it", Events())
    assert kind.digest(found) == kind.digest(value)
    write_exact(found, tmp_path / f"b{kind.suffix}")
    assert kind.digest(read(kind, tmp_path / f"b{kind.suffix}", "it", Events())) == kind.digest(value)
    if kind.suffix != ".safetensors":  # The order of its metadata is not fixed.
        assert (tmp_path / f"b{kind.suffix}").read_bytes() == path.read_bytes()
    assert kind_named(kind.name) is kind


cells = st.none() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6)


@given(st.lists(st.tuples(cells, cells), max_size=5))
@fuzzed
def test_the_text_of_any_table_stays_the_same(rows: list[tuple[Any, Any]]) -> None:
    table = Table(("a", "b"), tuple(rows))
    content = table.to_text()
    if "\r" not in content and "\0" not in content:
        again = Table.from_text(content)
        assert len(again.rows) == len(rows)
        assert Table.from_text(again.to_text()) == again


@given(st.text(max_size=200), st.sampled_from([Table, HtmlReport, Points, Pose, Ledger]))
@fuzzed
def test_any_text_is_read_or_refused_in_one_line(content: str, made: Any) -> None:
    reads_or_refuses(lambda: made.from_text(content))


REFUSED: list[tuple[Any, str, str]] = [
    (Table, "a,a\n1,2\n", "different names"),
    (Table, "a,b\n1\n", "row 1 has 1 values for 2 columns"),
    (Table, "", "no line"),
    (Table, 'a\n"b', "no CSV"),
    (Points, "x,z\n1,2\n", "x, y and"),
    (Points, "x,y\n1,a\n", "no number"),
    (Points, "x,y\n1,\n", "no number"),
    (Pose, "{}", "list is expected"),
    (Pose, json.dumps({"pose": [[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "unit": "m"}), "no rotation"),
    (Pose, json.dumps({"pose": torch.eye(4).tolist(), "unit": "mm"}), "unit 'm'"),
    (Ledger, '{"a": 1}\n{"a": [1]}\n', "line 2"),
    (Ledger, "[]\n", "line 1"),
    (HtmlReport, "text", "no HTML"),
]


@pytest.mark.parametrize(("made", "content", "said"), REFUSED)
def test_what_is_no_such_file_is_told(made: Any, content: str, said: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS.values() if kind.type is made)
    (tmp_path / "x").write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        made.from_text(content)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError):
        read(kind, tmp_path / "x", "it", Events())


def test_values_that_can_t_be_are_refused() -> None:
    for wrong in (
        lambda: Table((), ()),
        lambda: Table(("a",), ((float("nan"),),)),
        lambda: Points(torch.zeros(3)),
        lambda: Points(torch.full((1, 2), float("inf"), dtype=torch.float64)),
        lambda: Points(torch.zeros(2, 2, dtype=torch.float64), {"a": torch.zeros(3, dtype=torch.float64)}),
        lambda: Pose(torch.eye(4)),
        lambda: DatasetFolder(Path("/nowhere")),
    ):
        with pytest.raises(InputError):
            wrong()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deeper" / "b.txt").write_text("two")
    (tmp_path / "hi.hello").write_text("hello you")
    return folder


def upper(texts: Path | DatasetFolder, out: Path, *, overwrite: bool = False, **more: Any) -> Run:
    arguments = {"data": texts, **({"greeting": more.pop("greeting")} if "greeting" in more else {})}
    return run(ToyUpper(**more), arguments, no_load, model=NO_MODEL, out=out, overwrite=overwrite)


def again(source: Path, out: Path, **options: Any) -> Run:
    return rerun(source, resolve_method=lambda slug: ToyUpper, load_model=no_load, out=out, **options)


def test_a_plug_in_s_folders_tables_and_own_kind_are_run_and_run_again(texts: Path, tmp_path: Path) -> None:
    assert [(item.name, item.kind, item.required) for item in call_parameters(ToyUpper)] == [
        ("data", "dataset", True),
        ("greeting", "greeting", False),
    ]
    done = upper(texts, tmp_path / "run", greeting=tmp_path / "hi.hello")
    made = tree(done.folder)
    assert made["capitals/deeper/b.txt"] == b"you TWO"
    assert made["lengths.csv"] == b"file,letters,third\na.txt,7,2.3333333333333335\nb.txt,7,2.3333333333333335\n"
    assert made["answer.hello"] == b"hello 2 texts"
    assert made["inputs/greeting.hello"] == b"hello you"
    # A data set may be large, or private: its hash is recorded, and it stays where it is.
    assert not any(name.startswith("inputs/data") for name in made)
    record = json.loads((done.folder / "run.json").read_text())
    assert {name: (told["kind"], told["contents"]) for name, told in record["outputs"].items()} == {
        "capitals": ("dataset", "2 files, 0.0 MB"),
        "lengths": ("table", "3 columns of 2"),
        "answer": ("greeting", "7 letters"),
    }
    assert json.loads(json.dumps(read_record(done.folder)[0].to_json())) == record
    with pytest.raises(InputError, match=r"reads .*texts \(data\); pass --trust .*--inputs DIR"):
        again(done.folder, tmp_path / "two")
    for place, source in enumerate(("", "run.json", "capitals", "lengths.csv", "answer.hello")):
        repeated = again(done.folder / source, tmp_path / f"two-{place}", trust=True)
        assert repeated.identical is True
        assert {name: value for name, value in tree(repeated.folder).items() if name not in ("run.json", "progress.jsonl")} == {
            name: value for name, value in made.items() if name not in ("run.json", "progress.jsonl")
        }
    shutil.move(texts, tmp_path / "given" / "texts")
    assert again(done.folder, tmp_path / "three", input_folder=tmp_path / "given").identical is True
    assert again(tmp_path / "three", tmp_path / "four", trust=True).identical is True
    (tmp_path / "given" / "texts" / "a.txt").write_text("other")
    with pytest.raises(InputError, match="was not found"):
        again(done.folder, tmp_path / "five", input_folder=tmp_path / "given", trust=True)


def test_a_result_that_was_changed_tells_no_record(texts: Path, tmp_path: Path) -> None:
    done = upper(texts, tmp_path / "run")
    (done.folder / "lengths.csv").write_text("a\n1\n")
    (done.folder / "capitals" / "new.txt").write_text("x")
    for name in ("lengths.csv", "capitals"):
        with pytest.raises(InputError):
            read_record(done.folder / name)


def test_two_such_runs_are_compared(texts: Path, tmp_path: Path) -> None:
    first, second = upper(texts, tmp_path / "a"), upper(texts, tmp_path / "b", repeats=2)
    told = {line.name: line.right for line in compare(first.folder, second.folder).lines if line.section == "results"}
    assert told == {"capitals": "different values", "lengths": "different values", "answer": "bit for bit the same"}
    (texts / "c.txt").write_text("three")
    third = upper(texts, tmp_path / "c")
    told = {line.name: line.right for line in compare(first.folder, third.folder).lines if line.section == "results"}
    assert told["answer"] == "0 letters apart"


def test_a_folder_in_memory_is_kept(texts: Path, tmp_path: Path) -> None:
    done = upper(DatasetFolder(texts), tmp_path / "run")
    assert (done.folder / "inputs" / "data" / "deeper" / "b.txt").read_text() == "two"
    shutil.rmtree(texts)
    second = again(done.folder, tmp_path / "two")
    assert second.identical is True
    assert again(second.folder, tmp_path / "three").identical is True


def test_a_replaced_run_takes_its_folders_along_and_nothing_else(texts: Path, tmp_path: Path) -> None:
    folder = upper(texts, tmp_path / "run").folder
    upper(texts, folder, overwrite=True, repeats=2)
    assert (folder / "capitals" / "a.txt").read_text() == "ONEONE"
    (folder / "capitals" / "mine.txt").write_text("mine")
    before = {name: value for name, value in tree(folder).items() if name.startswith("capitals")}
    with pytest.raises(CalotypeError, match="capitals is in the way"):
        upper(texts, folder, overwrite=True)
    assert {name: value for name, value in tree(folder).items() if name.startswith("capitals")} == before


def test_a_folder_that_leads_out_of_itself_is_no_input_and_no_result(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("secret")
    (texts / "z.txt").symlink_to(tmp_path / "private.txt")
    with pytest.raises(InputError, match="a link that leaves the folder"):
        upper(texts, tmp_path / "run")
    (texts / "z.txt").unlink()
    os.mkfifo(texts / "z.txt")
    with pytest.raises(InputError, match="not a regular file"):
        upper(texts, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for wrong in (tmp_path / "private.txt", tmp_path / "absent"):
        with pytest.raises(InputError):
            upper(wrong, tmp_path / "run")


def test_an_interrupted_run_on_a_data_set_goes_on_with_trust(texts: Path, tmp_path: Path) -> None:
    done = upper(texts, tmp_path / "run")
    edit(done.folder, lambda record: record.update(status="interrupted", outputs={}))
    options: dict[str, Any] = {"resolve_method": lambda slug: ToyUpper, "load_model": no_load}
    with pytest.raises(InputError, match="pass --trust"):
        resume(done.folder, **options)
    # The results of the session before are there already, and are the same.
    again = resume(done.folder, trust=True, **options)
    assert again.record.status == "finished"
    assert again.record.outputs["capitals"]["pixels_sha256"] == done.record.outputs["capitals"]["pixels_sha256"]


def test_kinds_of_other_packages_are_known_by_their_entry_points(monkeypatch: pytest.MonkeyPatch, texts: Path, tmp_path: Path) -> None:
    assert {"image", "table", "token", "greeting"} <= set(kind_names())
    assert kind_named("greeting") is GREETING
    assert kind_named("token") is TOKEN
    with pytest.raises(InputError, match="did you mean greeting"):
        kind_named("greetings")
    with pytest.raises(MissingError, match="broken-package"):
        kind_named("broken")
    assert not is_artifact(3)
    monkeypatch.setattr("calotype.runs.inputs.kind_names", lambda: ("dataset",))
    with pytest.raises(InputError, match=r"greeting: the artifact kind greeting is in no package's entry points .*calotype.artifacts"):
        upper(texts, tmp_path / "run", greeting=tmp_path / "hi.hello")


def test_folders_and_tables_are_handed_on(texts: Path, tmp_path: Path) -> None:
    links = {
        "one": {"method": "toy-upper", "give": {"data": "texts", "greeting": "hi.hello"}},
        "two": {"method": "toy-upper", "give": {"data": "@one.capitals", "greeting": "@one.answer"}},
    }
    chain = Chain.of({"links": links}, tmp_path, lambda slug: ToyUpper)
    done = run_chain(chain, load_model=no_load, out=tmp_path / "out")
    assert (done.folder / "2-two" / "capitals" / "a.txt").read_text() == "2 texts YOU ONE"
    shutil.rmtree(texts)
    options: dict[str, Any] = {"resolve_method": lambda slug: ToyUpper, "load_model": no_load}
    assert rerun_chain(done.folder, out=tmp_path / "again", **options).identical is True
    for link in ("1-one", "2-two"):
        edit(done.folder / link, lambda record: record.update(status="interrupted", outputs={}))
        shutil.rmtree(done.folder / link / "capitals")
        assert resume_chain(done.folder, **options).runs["two"].record.status == "finished"
    assert (done.folder / "2-two" / "capitals" / "a.txt").read_text() == "2 texts YOU ONE"
    first = {"method": "toy-upper", "give": {"data": "out/2-two/capitals"}}
    wrong = {"one": first, "two": {"method": "toy-upper", "give": {"data": "@one.lengths"}}}
    with pytest.raises(InputError, match=r"@one\.lengths is a table and a folder with a data set is needed"):
        run_chain(Chain.of({"links": wrong}, tmp_path, lambda slug: ToyUpper), load_model=no_load, out=tmp_path / "wrong")


def test_a_record_that_kept_a_file_as_text_is_read_as_before(tmp_path: Path) -> None:
    """Earlier versions recorded the path of a token's file as a plain argument, and an empty text where there was none."""
    from calotype.registry import resolve_method
    from calotype.runs.recorded import prepared

    Token(("house",), torch.zeros(2, 8)).save(tmp_path / "house.safetensors")
    picture = Image(torch.rand(3, 32, 32))
    done = run(ToyStamp(), {"image": picture}, no_load, model=NO_MODEL, out=tmp_path / "run")

    def before(record: dict[str, Any], token: str) -> None:
        arguments = {"words": "" if token else "house", "prompt": "", "token": token, "save_token": ""}
        record.update(method="ovam", parameters={}, arguments=arguments, status="interrupted")

    options: dict[str, Any] = {"resolve_method": resolve_method, "source": "it", "folder": done.folder, "extra": None, "events": Events()}
    edit(done.folder, lambda record: before(record, ""))
    found = prepared(read_record(done.folder)[0], trust=False, **options)
    assert (found.plain["words"], "token" in found.values) == ("house", False)
    edit(done.folder, lambda record: before(record, str(tmp_path / "house.safetensors")))
    with pytest.raises(InputError, match=r"reads .*house.safetensors \(token\); pass --trust"):
        prepared(read_record(done.folder)[0], trust=False, **options)
    found = prepared(read_record(done.folder)[0], trust=True, **options)
    assert found.values["token"].words == ("house",)
    assert len(found.record.inputs["token"]["sha256"]) == 64
    for wrong in (5, ["x"], "\0", "/nowhere"):
        edit(done.folder, lambda record, wrong=wrong: record["arguments"].update(token=wrong))
        with pytest.raises(InputError):
            prepared(read_record(done.folder)[0], trust=True, **options)


def test_a_checkpoint_folder_is_one_more_kind(texts: Path) -> None:
    found = read(KINDS["checkpoint"], texts, "start", Events())
    assert isinstance(found, CheckpointFolder)
    (texts.parent / "empty").mkdir()
    with pytest.raises(InputError, match="no folder with files"):
        read(KINDS["checkpoint"], texts.parent / "empty", "start", Events())
