"""Mistakes get one line that says what to do, and the right exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype.cli import app, console
from calotype.cli.options import Help, parse
from calotype.cli.running import RunOptions
from calotype.errors import InputError

TRF = "time-reversal-fusion"
MISTAKES = [
    ("evla toy-i2v", 2, "did you mean eval?"),
    ("--verison", 2, "no option '--verison'"),
    ("info", 2, "METHOD is needed"),
    ("info anyv2", 2, "did you mean anyv2v?"),
    ("info dp-rdm", 3, "planned but not there yet"),
    ("run", 0, ""),
    ("run --seed 3", 2, "METHOD is needed first"),
    (f"run {TRF}", 2, "--start FILE is needed"),
    (f"run {TRF} --strat first.png", 2, "did you mean --start?"),
    (f"run {TRF} --start first.png --num-inference-step 3", 2, "did you mean --num-inference-steps"),
    (f"run {TRF} --start first.png --num-frames many", 2, "--num-frames was given 'many' but takes a whole number"),
    (f"run {TRF} --start first.png --weights heavy", 2, "takes one of linear"),
    (f"run {TRF} --start first.png --num-inference-steps", 2, "takes a whole number"),
    (f"run {TRF} --start first.png last.png", 2, "'last.png' is too much here"),
    (f"run {TRF} --start first.png --num-inference-steps 0", 2, "num_inference_steps is 0; it must be 1 or more"),
    (f"run {TRF} --start first.png --reinject.ratio 3", 2, "ratio is 3.0; it must lie between 0 and 1"),
    (f"run {TRF} --start first.png --preset papr", 2, "did you mean paper?"),
    (f"run {TRF} --start first.png --model toy-i2w", 2, "did you mean toy-i2v"),
    (f"run {TRF} --start first.png --model stabilityai/stable-video-diffusion-img2vid-xt", 3, "calotype models get"),
    (f"run {TRF} --start first.png --model .", 2, "no checkpoint folder"),
    ("resume .", 2, "no run folder"),
    ("resume", 2, "RUN is needed"),
    ("rerun first.png", 2, "holds no Calotype run"),
    ("compare . .", 2, "no run folder"),
    ("models got x", 2, "did you mean get?"),
    ("models get toy-i2w", 2, "did you mean toy-i2v"),
    ("eval toy-i2w", 2, "did you mean toy-i2v"),
    ("eval", 2, "NAME is needed"),
    ("train toy-vea", 2, "did you mean toy-vae"),
    ("train", 2, "--pending"),
    ("world first.png", 2, "first.png"),
    ("world data --preset smal", 2, "did you mean small?"),
    ("doctor tme-reversal-fusion", 2, f"did you mean {TRF}?"),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("line", "status", "told"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_gets_one_line(
    line: str, status: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert app.run(line.split()) == status
    said = capsys.readouterr().err
    assert told in said
    if status:
        lines = [row for row in said.splitlines() if not row.startswith("note:")]
        assert len(lines) == 1
        assert lines[0].startswith("calotype: ")
        assert "Traceback" not in said


@pytest.mark.usefixtures("here")
def test_with_json_a_mistake_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["run", TRF, "--start", "absent.png", "--json", "--strat", "x"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == 2
    assert "--start" in told["error"]


@pytest.mark.parametrize("verb", [*app.VERBS, f"run {TRF}", "models get"])
def test_every_verb_has_a_help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*verb.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert "usage: " in page or "usage:" in page
    assert f"calotype {verb.split()[0]}" in page
    if verb != "run":
        assert "--json" in page


def test_the_help_of_a_method_comes_from_its_annotations(capsys: pytest.CaptureFixture[str]) -> None:
    app.run(["run", TRF, "--help", "--preset", "paper"])
    page = " ".join(capsys.readouterr().out.split())
    assert "--start FILE" in page
    assert "(needed)" in page
    assert "--end FILE" in page
    assert "--num-inference-steps N Denoising steps, at least 1 (official script: 50). [50]" in page
    assert "--reinject.ratio X" in page
    assert "--fusion parallel|sequential" in page
    assert "Settings of the method (preset paper)" in page


def test_switches_take_both_forms() -> None:
    page = Help("calotype run x", "")
    assert parse(RunOptions, ["--overwrite"], page).overwrite
    assert not parse(RunOptions, ["--no-overwrite"], page).overwrite
    assert parse(RunOptions, ["--max_rows", "3", "--out=a=b"], page).out == Path("a=b")
    with pytest.raises(InputError, match=r"--seed was given '1.5'"):
        parse(RunOptions, ["--seed", "1.5"], page)


def test_info_shows_presets_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["info", TRF, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"paper", "toy"} <= set(told["presets"])
    assert told["presets"]["paper"]["reinject"]["ratio"] == 0.8
    assert told["inputs"][0] == {"name": "start", "kind": "image", "required": True, "help": told["inputs"][0]["help"]}
    assert "toy-i2v" in told["models"]
    assert app.run(["info", TRF]) == 0
    page = capsys.readouterr().out
    assert "reinject.noise_scale" in page


@pytest.mark.usefixtures("plugins")
def test_methods_of_other_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list"]) == 0
    listed = capsys.readouterr()
    assert "toy-fade" in listed.out
    assert "of the package toy-fade-package" in listed.out
    assert "warning: the package rude-package adds a method 'time-reversal-fusion'" in listed.err
    assert app.run(["info", "broken-method"]) == 3
    assert "of the package broken-package can't be imported (ModuleNotFoundError" in capsys.readouterr().err
    assert app.run(["info", "toy-fade"]) == 0
    assert "Frames of the clip." in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_doctor_reports_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    status = app.run(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert status == (0 if told["ok"] else 3)
    subjects = {finding["subject"] for finding in told["findings"]}
    assert {"Python", "torch", "packages", "processor", "memory", "disk, runs", "model toy-i2v"} <= subjects


def test_what_looks_like_the_code_of_an_emoji_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.errors().print("motion 'wind:up:fast'")
    assert capsys.readouterr().err == "motion 'wind:up:fast'\n"
