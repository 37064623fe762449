"""What the tests of the C library share."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _c


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with the C library's programs, built; skips a test where that is not possible."""
    if (reason := _c.missing()) is not None:
        pytest.skip(reason)
    return _c.build()
