"""Reads the PTX that Triton writes: one kernel as a list of labels and instructions, nothing interpreted."""

from __future__ import annotations

import re
from typing import NamedTuple

_SIZES = {"pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16}
_SIZES |= {"b32": 32, "u32": 32, "s32": 32, "f32": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64}


class PtxError(Exception):
    """PTX that this translator does not know: to be taught, never to be skipped."""


class Address(NamedTuple):
    base: str
    offset: int


# A register or symbol or number as it is written, several of them in braces, or a place in memory.
Operand = str | list[str] | Address


class Instruction(NamedTuple):
    opcode: str
    operands: list[Operand]
    predicate: str  # "%p1", "!%p1", or "" where it is always executed
    text: str
    source: str  # "forward.py:85", where debug information has it


class Label(NamedTuple):
    name: str


class Kernel(NamedTuple):
    name: str
    parameters: dict[str, str]  # name: type
    registers: dict[str, int]  # name: bits, 1 of a predicate
    threads: int
    body: list[Label | Instruction]


def size(kind: str) -> int:
    """Bits of a PTX type."""
    if kind not in _SIZES:
        raise PtxError(f"type .{kind}")
    return _SIZES[kind]


def parse(text: str) -> Kernel:
    files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"(?:[^"]*/)?([^"/]+)"', text, re.MULTILINE))
    lines = [line.split("//")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    start = next((at for at, line in enumerate(lines) if ".entry" in line), None)
    if start is None:
        raise PtxError("no .entry")
    for line in lines[:start]:
        if not re.match(r"\.(version|target|address_size) |\.extern \.shared \.align 16 \.b8 global_smem\[\];$", line):
            raise PtxError(f"declaration {line}")
    opening, closing = lines.index("{", start), lines.index("}", start)
    head = " ".join(lines[start:opening])
    found = re.fullmatch(r"\.visible \.entry (\w+)\s*\((.*?)\)\s*(.*)", head)
    if not found:
        raise PtxError(f"head {head}")
    name, declarations, limits = found.groups()
    threads = re.search(r"\.reqntid (\d+)(?:, 1, 1)?", limits)
    if not threads or re.search(r"\.(?!reqntid|maxnreg|minnctapersm)", limits):
        raise PtxError(f"limits {limits}")
    parameters = {}
    for declaration in filter(None, (part.strip() for part in declarations.split(","))):
        words = declaration.split()
        if words[0] != ".param":
            raise PtxError(f"parameter {declaration}")
        parameters[words[-1]] = words[1].removeprefix(".")
    registers, body = _body(lines[opening + 1 : closing], files)
    return Kernel(name, parameters, registers, int(threads[1]), body)


def _body(lines: list[str], files: dict[str, str]) -> tuple[dict[str, int], list[Label | Instruction]]:
    registers: dict[str, int] = {}
    body: list[Label | Instruction] = []
    source = pending = ""
    for line in lines:
        if not pending:
            if place := re.match(r"\.loc\s+(\d+)\s+(\d+)", line):
                source = f"{files.get(place[1], '?')}:{place[2]}"
                continue
            if label := re.fullmatch(r"(\$\w+):", line):
                body.append(Label(label[1]))
                continue
        *statements, pending = f"{pending} {line}".split(";")
        pending = pending.strip()
        for statement in statements:
            statement = statement.strip()
            if statement.startswith(".reg"):
                registers |= _registers(statement)
            elif not statement.startswith(".pragma"):
                body.append(_instruction(statement, source))
    if pending:
        raise PtxError(f"unfinished {pending}")
    return registers, body


def _registers(statement: str) -> dict[str, int]:
    found = re.fullmatch(r"\.reg \.(\w+)\s+(%\w+)<(\d+)>", statement)
    if not found:
        raise PtxError(f"registers {statement}")
    return {f"{found[2]}{number}": size(found[1]) for number in range(int(found[3]))}


def _instruction(text: str, source: str) -> Instruction:
    found = re.fullmatch(r"(?:@(!?%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", text, re.DOTALL)
    if not found:
        raise PtxError(f"statement {text}")
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^\s,][^,]*", found[3])
    return Instruction(found[2], [_operand(operand.strip()) for operand in operands], found[1] or "", text, source)


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return [part.strip() for part in text[1:-1].split(",")]
    if not text.startswith("["):
        return text
    found = re.fullmatch(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\d+)\s*)?\]", text)
    if not found:
        raise PtxError(f"address {text}")
    return Address(found[1], int(found[2] or 0))
