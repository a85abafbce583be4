"""Every collected test is in exactly one tier."""

import pytest

from tests.conftest import TIERS


def test_every_test_is_in_one_tier(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert len([mark for mark in item.iter_markers() if mark.name in TIERS]) == 1, item.nodeid
