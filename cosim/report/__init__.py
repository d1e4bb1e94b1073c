"""The report of a search: front.json and trials.json become report.html and front.png."""

from cosim.report.write import write_report

__all__ = ["write_report"]
