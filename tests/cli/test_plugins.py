"""Methods of other packages: without presets, with an evaluation of their own, or broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import calotype
from calotype.cli import app
from calotype.errors import CalotypeError, InputError, MissingError
from calotype.evaluation import evaluate
from calotype.registry import EVALUATIONS, find_evaluation, known_evaluations, plugins, resolve_evaluation
from calotype.runs.presets import default_preset, preset_instance
from tests.runs.toy_bare_method import ToyNegative
from tests.runs.toy_method import ToyFade

pytestmark = pytest.mark.usefixtures("plugins")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    found = app.run(arguments)
    captured = capsys.readouterr()
    assert found == status, captured.err
    return captured.out, captured.err


def test_a_method_without_presets_runs_and_is_run_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "run", "toy-negative", "--image", "first.png", "--out", "made")
    record = json.loads((here / "made" / "run.json").read_text())
    assert (record["preset"], record["parameters"]) == ("", {})
    out, _ = said(capsys, "rerun", "made", "--out", "again", "--json")
    assert json.loads(out)["identical"] is True
    _, err = said(capsys, "run", "toy-negative", "--image", "first.png", "--preset", "paper", status=2)
    assert "toy-negative has no presets, and 'paper' was asked for; leave out --preset" in err


def test_its_pages_are_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "info", "toy-negative")
    assert "--mask" in out
    assert "Presets" not in out
    told = json.loads(said(capsys, "info", "toy-negative", "--json")[0])
    assert (told["presets"], told["defaults"]) == ({}, {})
    assert [item["kind"] for item in told["inputs"]] == ["image", "mask"]
    out, _ = said(capsys, "run", "toy-negative", "--help")
    assert "preset " not in out.partition("The run")[0].replace("Presets", "")
    said(capsys, "doctor", "toy-negative")
    assert json.loads(said(capsys, "info", "toy-fade", "--json")[0])["defaults"]["num_inference_steps"] == 8


def test_a_method_of_folders_and_tables_works_like_any_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").write_text("one")
    (here / "you.hello").write_text("hello you")
    out, _ = said(capsys, "run", "toy-upper", "--help")
    assert "--data FOLDER" in out
    assert "--greeting FILE" in out
    told = json.loads(said(capsys, "info", "toy-upper", "--json")[0])
    assert [(item["name"], item["kind"]) for item in told["inputs"]] == [("data", "dataset"), ("greeting", "greeting")]
    out, _ = said(capsys, "run", "toy-upper", "--data", "texts", "--greeting", "you.hello", "--out", "made")
    for line in ("made/capitals  1 file, 0.0 MB", "made/lengths.csv  3 columns of 1", "made/answer.hello  7 letters"):
        assert line in out
    assert (here / "made" / "capitals" / "a.txt").read_text() == "you ONE"
    _, err = said(capsys, "rerun", "made/lengths.csv", status=2)
    assert "reads" in err
    assert "--trust" in err
    out, _ = said(capsys, "rerun", "made/lengths.csv", "--trust", "--out", "again", "--json")
    assert json.loads(out)["identical"] is True
    said(capsys, "run", "toy-upper", "--data", "texts", "--out", "other")
    out, _ = said(capsys, "compare", "made", "other")
    assert "different values" in out
    _, err = said(capsys, "run", "toy-upper", "--data", "you.hello", "--out", "wrong", status=2)
    assert "data: you.hello is no folder with files in it" in err


def test_a_method_takes_part_in_a_chain_without_presets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links = {"one": {"method": "toy-negative", "give": {"image": "first.png"}}}
    links["two"] = {"method": "toy-negative", "give": {"image": "@one"}}
    (here / "chain.json").write_text(json.dumps({"links": links}))
    said(capsys, "run", "chain.json", "--out", "both")
    assert list((here / "both").glob("*/result.png"))


def test_a_preset_that_the_class_lacks_is_named() -> None:
    class Forgets(ToyFade):
        presets = ("paper", "slow")

    assert default_preset(Forgets, "") == "paper"
    with pytest.raises(MissingError, match=r"names a preset 'slow' and has no class method of that name"):
        preset_instance(Forgets, "slow")
    assert preset_instance(ToyNegative, "") == ToyNegative()


def test_an_evaluation_of_another_package_is_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "eval", "toy-negative", "--seed", "3", "--json")
    told = json.loads(out)
    assert (told["method"], told["seed"], told["count"]) == ("toy-negative", 3, 4)
    assert [claim["holds"] for claim in told["claims"]] == [True]
    assert "holds" in said(capsys, "eval", "toy-negative", "--quick")[0]
    assert evaluate(find_evaluation("toy-negative"), "toy-negative", count=1).count == 1
    said(capsys, "eval", "toy-negative", "--record")
    assert (here / "results" / "toy-negative.csv").is_file()
    assert "toy-negative" in known_evaluations()


def test_an_evaluations_fields_are_flags_and_go_into_the_recorded_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "eval", "toy-smooth", "--help")
    assert "Settings of toy-smooth" in out
    assert "--times N" in out
    assert "How often the negative is taken." in out
    told = json.loads(said(capsys, "eval", "--times", "4", "toy-smooth", "--record", "--json")[0])
    assert told["rows"][0]["metrics"] == {"times": 4.0}
    assert "calotype eval toy-smooth --seed 1000000 --times 4 --record" in (here / "results" / "toy-smooth.csv").read_text()
    assert evaluate(find_evaluation("toy-smooth"), "toy-smooth", quick=True, times=6).row("method").metrics["times"] == 6
    _, err = said(capsys, "eval", "toy-smooth", "--time", "4", status=2)
    assert "no option --time; did you mean --times" in err
    _, err = said(capsys, "eval", "toy-smooth", "--times", "3", status=2)
    assert "times is 3; it must be even" in err
    with pytest.raises(InputError, match=r"the evaluation of toy-smooth has no setting 'time'; it takes times"):
        evaluate(find_evaluation("toy-smooth"), "toy-smooth", time=4)
    with pytest.raises(InputError, match=r"the evaluation of toy-negative has no setting 'times'; it takes no settings of its own"):
        evaluate(find_evaluation("toy-negative"), "toy-negative", times=4)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("toy-fade", InputError, "the package toy-fade-package adds no evaluation of toy-fade; the entry-point group for one is calotype"),
        ("toy-forgetful", CalotypeError, "the evaluation of toy-forgetful returned a NoneType; a calotype.evaluation.Report is expected"),
        ("broken-method", MissingError, "the evaluation of broken-method of the package broken-package can't be imported"),
        ("toy-negatve", InputError, "nothing called 'toy-negatve' can be evaluated; did you mean toy-negative"),
    ],
)
def test_an_evaluation_that_is_none_is_refused(
    name: str, kind: type[CalotypeError], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind, match=words):
        evaluate(find_evaluation(name), name, count=1)
    _, err = said(capsys, "eval", name, status=kind.exit_status)
    assert words in err.replace("\n", " ")


def test_a_training_of_another_package_is_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data").mkdir()
    (here / "data" / "points.csv").write_text("".join(f"{1 + 0.1 * n},{2 - 0.1 * n}\n" for n in range(10)))
    command = ["train", "toy-negative", "--data", "data", "--out", "made", "--budget", "60steps", "--learning-rate", "0.2", "--width", "3"]
    told = json.loads(said(capsys, *command, "--json")[0])
    assert (told["method"], told["settings"]["width"], told["steps"]) == ("toy-negative", 3, 60)
    assert sorted(path.name for path in (here / "made").iterdir()) == ["README.md", "mean.txt", "training", "training.json"]
    x, y = map(float, (here / "made" / "mean.txt").read_text().split())
    assert abs(x - 1.55) < 0.2
    assert abs(y - 1.45) < 0.2
    assert "--width N" in said(capsys, "train", "toy-negative", "--help")[0]
    assert json.loads(said(capsys, "info", "toy-negative", "--json")[0])["training"]["defaults"]["width"] == 1
    assert json.loads(said(capsys, "list", "--json")[0])["methods"]["toy-negative"]["trains"] is True
    (here / "data" / "points.csv").write_text("1,2\nthree\n4\n")
    _, err = said(capsys, *command, "--out", "other", status=2)
    assert "  points.csv, line 2: 'three' is not two numbers\n  points.csv, line 3: '4' is not two numbers\n" in err
    assert not (here / "other").exists()
    _, err = said(capsys, "train", "broken-method", "--data", "data", "--out", "other", status=3)
    assert "the training of broken-method of the package broken-package can't be imported" in err
    _, err = said(capsys, "train", "toy-fade", "--data", "data", "--out", "other", status=2)
    known = "cmd, cage, diffusion-segmentation, style-extracting-diffusion, qsmdiff, broken-method, toy-negative"
    assert f"toy-fade has nothing to train; trainings are {known}" in err.replace("\n", " ")


def test_an_evaluation_of_our_own_method_is_not_replaced() -> None:
    assert any("which calotype has itself" in plugin.problem for plugin in plugins(EVALUATIONS).values())
    with pytest.raises(InputError, match="no evaluation of 'ovam'"):
        resolve_evaluation("ovam")


def test_what_calls_take_can_be_imported_from_the_package() -> None:
    for name in ("ImageLike", "MaskLike", "VideoLike", "VolumeLike"):
        assert name in calotype.__all__
        kind = name.removesuffix("Like")
        assert getattr(calotype, kind) in getattr(calotype, name).__args__


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are bytes on Linux alone")
def test_files_whose_names_are_no_text_are_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "first.png").rename(here / "\udcff.png")
    said(capsys, "run", "toy-negative", "--image", "\udcff.png", "--out", "made")
    record = json.loads((here / "made" / "run.json").read_text(encoding="utf-8"))
    assert record["inputs"]["image"]["name"].encode().endswith(b".png")
    for source in ("made", "made/result.png"):
        told = json.loads(said(capsys, "rerun", source, "--out", "again", "--overwrite", "--json")[0])
        assert told["identical"] is True
    _, err = said(capsys, "run", "toy-negative", "--image", "\udcfe.png", status=2)
    assert "\N{REPLACEMENT CHARACTER}.png does not exist" in err
