"""Numbers and pictures of results: agreement with a reference, statistics of structures, previews."""

from medseg.report.align import reoriented
from medseg.report.evaluation import Report, Row
from medseg.report.measuring import Measuring, load_mapping, mapped
from medseg.report.picture import preview
from medseg.report.structures import statistics

__all__ = ["Measuring", "Report", "Row", "load_mapping", "mapped", "preview", "reoriented", "statistics"]
