"""What a person looks at: tables and pictures of runs."""

from adderkit.report.curves import draw_curves
from adderkit.report.tables import run_table

__all__ = ["draw_curves", "run_table"]
