"""Every test is in one tier, by its folder; numerical tests are marked, so that they can be repeated with other vectors and threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

import tests.typed

# Before any test imports calotype: modules are changed as they are imported.
install_import_hook(tests.typed.PACKAGES, "tests.typed.checked")

TESTS = Path(__file__).parent
TIERS = {
    "unit": ("core", "imaging", "data", "metrics", "world", "test_index.py", "test_readme.py", "test_tiers.py"),
    "method": ("methods", "evaluation", "chains"),
    "contract": ("attention", "embedded", "features", "backbones", "cli", "fuzz", "runs", "train"),
}
"""unit: mathematics and files, without networks. method: each method on ground truth. contract: networks of the real classes, the command,
run folders, training."""
TIER_OF = {place: tier for tier, places in TIERS.items() for place in places}

NUMERICS = (
    "attention", "core", "features", "imaging", "metrics",
    "backbones/test_folder.py", "backbones/test_models.py", "backbones/test_parity.py", "backbones/test_subject_models.py",
    "backbones/test_volume_prior.py", "methods/test_harmonized_customization.py", "methods/test_ovam.py", "methods/test_qsm_classical.py",
    "methods/test_qsm_guidance.py", "methods/test_time_reversal_fusion.py", "world/test_exact.py",
)  # fmt: skip
"""Whose results depend on the order of sums; single tests elsewhere carry the mark themselves."""


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of deliberate bad input see what a user sees: our errors, not the checker's."""
    if request.node.get_closest_marker("bad_input") is None:
        yield
        return
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, unless it names one itself."""
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        place = item.path.relative_to(TESTS)
        if place.parts[0] not in TIER_OF:
            raise pytest.UsageError(f"tests/{place.parts[0]} is in no tier; name it in TIERS of tests/conftest.py")
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(TIER_OF[place.parts[0]])
        if any(place.is_relative_to(numeric) for numeric in NUMERICS):
            item.add_marker("numerics")
