"""What the tests of the JavaScript package share."""

from __future__ import annotations

import pytest

from benchmarks import _browser, _node


@pytest.fixture(scope="session")
def node() -> None:
    """Skips a test where Node or the package's own packages are missing."""
    if (reason := _node.missing()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> None:
    """Skips a test where Chromium, Node or a package is missing."""
    if (reason := _browser.missing()) is not None:
        pytest.skip(reason)
