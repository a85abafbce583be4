from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.narrow import run


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums depend on how they are split over threads; this comes before the fixtures of a module that train something."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with all three models, each trained for two steps."""
    home = tmp_path_factory.mktemp("family")
    for name in ("toy-vae", "toy-t2i", "toy-i2v"):
        assert run(name, home / "runs" / name, home / "checkpoints", "2steps").exported
    return home / "checkpoints"
