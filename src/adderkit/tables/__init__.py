"""The paper's tables: which recipes make their rows, how they are run, what is written of them."""

from adderkit.tables.cells import Cell, cells, finished_seeds
from adderkit.tables.definition import Row, Table, load_table, row_config, table_names
from adderkit.tables.grid import Failed, Stopped, run_cells
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
    "finished_seeds",
    "load_table",
    "read_results",
    "row_config",
    "run_cells",
    "table_names",
    "write_table",
]
