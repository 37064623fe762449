"""An environment without nin-edge's own variables."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NIN_EDGE_")]:
        monkeypatch.delenv(name)
