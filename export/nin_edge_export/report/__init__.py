"""The report on an export: its figures, and the page and the JSON that show them."""

from nin_edge_export.report.figures import Report
from nin_edge_export.report.html import to_html
from nin_edge_export.report.json import to_json
from nin_edge_export.report.measurement import measure

__all__ = ["Report", "measure", "to_html", "to_json"]
