"""The report as a page: one HTML file with its pictures in it, which loads and runs nothing."""

from __future__ import annotations

from nin_edge.page import text, to_page
from nin_edge_export.report import sections
from nin_edge_export.report.figures import Report
from nin_edge_export.report.overview import files, head


def to_html(report: Report) -> bytes:
    """The report as one HTML file: no network, no script, light and dark, for any screen."""
    parts = (
        head(report),
        files(report),
        sections.calibration(report),
        sections.thresholds(report),
        sections.confusion(report),
        sections.int8(report),
        sections.disagreements(report),
        sections.provenance(report),
    )
    return to_page(f"{text(report.name)}: export report", parts)
