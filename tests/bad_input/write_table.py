"""Writes the table of docs/bad-input.md: every case, its exit code, and the first line of what the user is told.

PYTHONPATH=src python tests/bad_input/write_table.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import cases_files
import cases_images
import cases_networks
import cases_options
import cases_parquet
from test_bad_input import called, without_rights

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
PARTS = {
    "Images": cases_images.CASES,
    "Parquet files": cases_parquet.CASES,
    "Recipes, options, folders": cases_options.CASES,
    "Runs, weights, checkpoints, other commands": cases_files.CASES,
    "Integer networks and pictures for them": cases_networks.CASES,
}
LONGEST = 170


def message(case) -> tuple[int, str]:
    """Exit code and the first line, without the folder of the moment."""
    errors = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="adderkit-bad-") as name:
        root = Path(name)
        root.chmod(0o755)
        os.chdir(root)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            arguments = case.build(root)
            errors.truncate(0)
            errors.seek(0)
            with without_rights(root) if case.nobody else contextlib.nullcontext():
                code = called(arguments)
        cases_options.release()
        os.chdir("/")
        text = errors.getvalue().replace(f"{name}/", "").replace(name, ".").replace(root.name, "FOLDER")
    words = " ".join(line.strip("│╭╮╰╯─ ") for line in text.splitlines())  # errors of the parser come in a box
    words = re.sub(r"^(Parsing error|Unrecognized options|Required options)\s*─*", r"\1:", words)
    words = re.sub(r"\s*[─-]{4,}\s*", ". ", re.sub(r"^adderkit ?[a-z]*: ", "", words)).strip()
    return code, words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    os.environ |= {"COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    warnings.simplefilter("ignore")
    lines: list[str] = []
    for title, cases in PARTS.items():
        lines += [f"### {title}", "", "| input | exit | message |", "|---|---|---|"]
        for case in cases:
            code, text = message(case)
            lines.append(f"| {case.name} | {code} | {cell(text)} |")
        lines.append("")
    head, _, rest = DOCUMENT.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    DOCUMENT.write_text(head + BEGIN + "\n" + "\n".join(lines) + END + tail)


if __name__ == "__main__":
    sys.exit(main())
