"""The paper's tables: which recipes make their rows, how they are run, what is written of them."""

from adderkit.tables.definition import Row, Table, load_table, table_names
from adderkit.tables.grid import Cell, Failed, Stopped, cells, run_cells
from adderkit.tables.output import write_table
from adderkit.tables.results import Result, read_results

__all__ = [
    "Cell",
    "Failed",
    "Result",
    "Row",
    "Stopped",
    "Table",
    "cells",
    "load_table",
    "read_results",
    "run_cells",
    "table_names",
    "write_table",
]
