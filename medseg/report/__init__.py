"""Numbers and pictures of results: agreement with a reference, statistics of structures, previews."""

from medseg.report.align import reoriented
from medseg.report.evaluation import Report, Row
from medseg.report.measuring import Measuring, mapped, measuring_of
from medseg.report.picture import preview
from medseg.report.structures import statistics
from medseg.report.study_page import study_page

__all__ = ["Measuring", "Report", "Row", "mapped", "measuring_of", "preview", "reoriented", "statistics", "study_page"]
