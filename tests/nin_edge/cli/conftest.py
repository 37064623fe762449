"""What the tests of the command line share."""

from __future__ import annotations

import pytest


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports measure latency for the fewest rounds, not for 2 s of CPU time each."""
    from nin_edge_export.report import measurement

    monkeypatch.setattr(measurement, "SECONDS", 0.0)
