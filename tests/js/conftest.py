"""What the tests of the JavaScript package share."""

from __future__ import annotations

import pytest

from benchmarks import _node


@pytest.fixture(scope="session")
def node() -> None:
    """Skips a test where Node or the package's own packages are missing."""
    if (reason := _node.missing()) is not None:
        pytest.skip(reason)
