"""Reports: the JSON form to the letter, claims decided by intervals, the record that the docs read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from calotype.errors import InputError
from calotype.evaluation import Claim, Report, Row, evaluate
from calotype.metrics import Interval
from calotype.registry import find_evaluation


def report() -> Report:
    rows = [
        Row.of("method", "method", {"end_psnr_db": [20.0, 22.0], "jump_ratio": [1.0, math.nan]}),
        Row.of("cut", "baseline", {"end_psnr_db": [99.0], "loop_rmse": [math.nan]}),
    ]
    claims = [Claim.at_least("better, in dB", Interval(7.0, 6.5, 7.5), 6.0), Claim.at_most("ratio", Interval(0.4, 0.1, 0.9), 0.5)]
    return Report("time-reversal-fusion", 7, 2, "cpu", 1.23456, rows, claims, ["a note"])


def test_the_json_form_is_exactly_as_agreed() -> None:
    found = json.loads(json.dumps(report().to_dict(), allow_nan=False))
    assert list(found) == ["method", "seed", "count", "device", "seconds", "rows", "claims"]
    assert found["rows"][0] == {
        "variant": "method",
        "role": "method",
        "metrics": {"end_psnr_db": 21.0, "jump_ratio": 1.0},
        "sd": {"end_psnr_db": pytest.approx(math.sqrt(2), abs=1e-6), "jump_ratio": None},
        "n": 2,
    }
    assert found["rows"][1]["metrics"] == {"end_psnr_db": 99.0, "loop_rmse": None}
    assert found["claims"] == [
        {"claim": "better, in dB", "value": 7.0, "bar": 6.0, "holds": True},
        {"claim": "ratio", "value": 0.4, "bar": 0.5, "holds": False},
    ]


def test_a_claim_holds_only_if_its_whole_interval_does() -> None:
    assert not Claim.at_least("x", Interval(7.0, 5.9, 8.0), 6.0).holds
    assert Claim.at_most("x", Interval(0.4, 0.3, 0.5), 0.5).holds
    assert not Claim.at_least("x", Interval(math.nan, math.nan, math.nan), 6.0).holds
    assert not report().holds


def test_variants_are_unique() -> None:
    row = Row.of("method", "method", {})
    with pytest.raises(ValueError, match="method"):
        Report("m", 0, 1, "cpu", 0.0, [row, row])


def test_the_table_shows_every_row_claim_and_note() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report().render())
    text = console.export_text()
    for part in ("method", "cut", "21", "99", "holds better, in dB: 7 (90 % interval 6.5 to 7.5), bar 6", "FAILS ratio", "a note"):
        assert part in text


def test_the_record_is_what_the_docs_read(tmp_path: Path) -> None:
    report().record(tmp_path, command="calotype eval time-reversal-fusion --seed 7 --record")
    with (tmp_path / "time-reversal-fusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["method", "cut"]
    assert rows[0]["end_psnr_db"] == "21 ± 1.41"
    assert rows[1]["loop_rmse"] == "-"
    assert rows[0]["command"].startswith("calotype eval")
    assert all(rows[0][name] for name in ("commit", "hardware", "date"))
    with (tmp_path / "time-reversal-fusion.claims.csv").open() as file:
        claims = list(csv.DictReader(file))
    assert [claim["verdict"] for claim in claims] == ["holds", "**fails**"]


def test_unknown_names_and_counts_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean time-reversal-fusion"):
        evaluate(find_evaluation("time-reversal"), "time-reversal")
    with pytest.raises(InputError, match="count is 0"):
        evaluate(find_evaluation("toy-i2v"), "toy-i2v", count=0)
