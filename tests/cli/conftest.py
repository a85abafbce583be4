"""A package that adds a method to the command line, and pictures to give it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as Pillow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sys.path in which packages are "installed": four good, one broken, one whose names are taken."""
    root = tmp_path_factory.mktemp("plugins")
    points = {
        "toy-fade-package": "toy-fade = tests.runs.toy_method:ToyFade",
        "toy-negative-package": "toy-negative = tests.runs.toy_bare_method:ToyNegative",
        "toy-smooth-package": "toy-smooth = tests.runs.toy_volume_method:ToySmooth",
        "toy-upper-package": "toy-upper = tests.runs.toy_folder_method:ToyUpper",
        "broken-package": "broken-method = no_such_module:Method",
        "rude-package": "time-reversal-fusion = tests.runs.toy_method:ToyFade",
    }
    evaluations = {
        "toy-negative-package": "toy-negative = tests.runs.toy_bare_method:evaluate",
        "toy-smooth-package": "toy-smooth = tests.runs.toy_bare_method:ManyTimes\ntoy-forgetful = tests.runs.toy_bare_method:nothing",
        "broken-package": "broken-method = no_such_module:evaluate",
        "rude-package": "ovam = tests.runs.toy_bare_method:evaluate",
    }
    kinds = {
        "toy-upper-package": "greeting = tests.runs.toy_folder_method:GREETING",
        "broken-package": "broken = no_such_module:KIND",
        "rude-package": "token = tests.runs.toy_folder_method:GREETING",
    }
    trainings = {
        "toy-negative-package": "toy-negative = tests.train.toy_training:MeanTraining",
        "broken-package": "broken-method = no_such_module:Training",
    }
    for package, line in points.items():
        folder = root / f"{package.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        groups = {"methods": line, "evaluations": evaluations.get(package, ""), "artifacts": kinds.get(package, "")}
        groups["trainings"] = trainings.get(package, "")
        (folder / "entry_points.txt").write_text("".join(f"[calotype.{group}]\n{point}\n" for group, point in groups.items()))
    return root


@pytest.fixture
def plugins(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same packages in this process."""
    monkeypatch.syspath_prepend(str(plugin_path))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    Pillow.linear_gradient("L").convert("RGB").save(tmp_path / "first.png")
    Pillow.radial_gradient("L").convert("RGBA").save(tmp_path / "last.png")
    return tmp_path
