"""A report of stored runs: one HTML page that stands by itself."""

from embedcal.reporting.gathering import ReportOptions
from embedcal.reporting.writing import Written, report

__all__ = ["ReportOptions", "Written", "report"]
