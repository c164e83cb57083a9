"""Numbers and pictures of results: agreement with a reference, statistics of structures, previews."""

from medseg.report.align import reoriented
from medseg.report.evaluation import Report, Row, report_names
from medseg.report.picture import preview
from medseg.report.structures import statistics

__all__ = ["Report", "Row", "preview", "reoriented", "report_names", "statistics"]
