"""What a person looks at: tables and pictures of runs, and of Theorem 1."""

from adderkit.report.curves import draw_curves
from adderkit.report.tables import run_table
from adderkit.report.theorem1 import draw_truncation, truncation, truncation_table

__all__ = ["draw_curves", "draw_truncation", "run_table", "truncation", "truncation_table"]
