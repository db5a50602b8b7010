"""Runs a test once on each path that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adderkit import native

PATHS = [isa.name for isa in native.isas() if not isa.reason] or ["reference"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:adder2d runs in plain torch:RuntimeWarning")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "reference":
        yield request.param
        return
    with native.forced_isa(request.param):
        yield request.param
