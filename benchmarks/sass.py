"""Compiles the GPU kernels of adder2d for sm_90, without a GPU, and counts the instructions of their inner loops.

    PYTHONPATH=src python benchmarks/sass.py --csv sass.csv

It needs Triton alone: its wheel brings ptxas and nvdisasm. Columns:

- slots: instructions that a warp issues for one adder operation of each lane. A scheduler issues one a cycle, so
  `share`, 2 / slots, is the share of the instruction limit (2 a term) that the loop can reach;
- float: those of them in the floating-point pipe (FADD, FMUL, FFMA, FMNMX, and IMAD, which shares it);
- writeback: values that loads bring each lane for one operation, times 4 schedulers: cycles of the multiprocessor's
  load path, if it writes 128 bytes a cycle. Above `slots`, it is the limit;
- registers of a thread; warps that a multiprocessor holds with them; spills: instructions in any of its loops
  that move registers to memory and back; spills_once: outside; barriers: those and shared-memory accesses in the loop.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adderkit.ops import gpu
from adderkit.ops.gpu_kernels.forward import forward_kernel
from adderkit.ops.gpu_kernels.input_grad import input_grad_kernel

_WARPS = 4
_VALUES = {"LDG.E": 1, "LDG.E.64": 2, "LDG.E.128": 4, "LDG.E.U16": 1}  # registers that a load writes
_STEP = 1024  # a channel's elements of a contiguous image of 32 x 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="write the table there too")
    parser.add_argument("--sass", type=Path, help="folder for the listings")
    parser.add_argument("--limit", type=float, default=2.3, help="float instructions an operation: more is a failure")
    options = parser.parse_args()
    rows = []
    for variant in _variants():
        rows.append(_row(*variant, options.sass))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    faults = [row for row in rows if row["spills"] or row["barriers"]]
    wanted = [row for row in rows if row["variant"].split(",")[0] in ("padded", "not padded", "channels_last")]
    faults += [row for row in wanted if row["float"] > options.limit]
    for row in faults:
        print(f"too much: {row}", file=sys.stderr)
    return 1 if faults else 0


def _variants() -> list[tuple[str, str, gpu.Tile, dict[str, Any]]]:
    usual = {"UNROLL": 4, "VECTOR": 1, "MASKED": True, "dtype": "fp32", "step": _STEP}
    changes = {
        "padded": {},
        "not padded": {"MASKED": False},
        "channels_last": {"VECTOR": 4, "step": 1},
        "any strides": {"step": 0},
        "bfloat16": {"dtype": "bf16"},
        "bfloat16 channels_last": {"dtype": "bf16", "VECTOR": 4, "step": 1},
        "3 channels": {"UNROLL": 1},
    }
    variants = []
    for name, change in changes.items():
        for tile in gpu.FORWARD_TILES:
            variants.append(("forward", name, tile, usual | change | {"RUNS": False}))
            if name in ("padded", "channels_last"):
                variants.append(("forward", f"{name}, long sums", tile, usual | change | {"RUNS": True}))
        variants += [("input_grad", name, tile, usual | change) for tile in gpu.INPUT_GRAD_TILES]
    variants.append(("forward", "depthwise", gpu.FORWARD_TILES[1]._replace(lanes=1), usual | {"RUNS": False}))
    variants.append(("input_grad", "depthwise", gpu.INPUT_GRAD_TILES[1]._replace(lanes=1), usual))
    return variants


def _row(kernel: str, name: str, tile: gpu.Tile, constants: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    constants = dict(constants)
    dtype, step = constants.pop("dtype"), constants.pop("step")
    constants |= {"PIXELS": tile.pixels, "LANES": tile.lanes, "Y_CHANNEL": step}
    registers = tile.registers_of_runs if constants.get("RUNS") else tile.registers
    if kernel == "forward":
        cubin = _compile(forward_kernel, ("x", "y"), dtype, constants | {"X_CHANNEL": step}, registers)
    else:
        constants |= {"G_CHANNEL": step, "FLAGS": 128, "FAST": True}
        cubin = _compile(input_grad_kernel, ("g", "x", "y"), dtype, constants, registers)
    listing, usage = _disassemble(cubin)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        title = re.sub(r"\W+", "-", f"{kernel} {name} {tile.pixels}x{tile.lanes}")
        (folder / f"{title}.sass").write_text(listing, encoding="utf-8")
    marker = "FADD" if kernel == "forward" else "FADD.SAT"
    instructions, loops = _loops(listing)
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    body = max((Counter(instructions[start:end]) for start, end in inner), key=lambda counts: counts[marker])
    operations = body[marker] // 2 if kernel == "forward" else body[marker]
    if not operations:
        raise RuntimeError(f"no inner loop with {marker} in {kernel}, {name}")
    floats = sum(count for name, count in body.items() if name.startswith(("FADD", "FMUL", "FFMA", "IMAD", "FMNMX")))
    spills = [at for at, name in enumerate(instructions) if name.startswith(("STL", "LDL"))]
    used = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index]
    return {
        "kernel": kernel,
        "variant": name,
        "pixels": tile.pixels,
        "lanes": tile.lanes,
        "operations": operations,
        "instructions": sum(body.values()),
        "slots": round(sum(body.values()) / operations, 3),
        "float": round(floats / operations, 3),
        "share": round(2 * operations / sum(body.values()), 3),
        "writeback": round(4 * sum(_VALUES[n] * c for n, c in body.items() if n.startswith("LDG")) / operations, 3),
        "registers": used,
        "warps": 65536 // (-(-used // 8) * 8 * 32 * _WARPS) * _WARPS,
        "spills": sum(any(start <= at < end for start, end in loops) for at in spills),
        "spills_once": sum(not any(start <= at < end for start, end in loops) for at in spills),
        "barriers": sum(count for name, count in body.items() if name.startswith(("BAR", "LDS", "STS"))),
    }


def _compile(
    kernel: Any, tensors: tuple[str, ...], dtype: str, constants: dict[str, Any], registers: int | None
) -> bytes:
    names = kernel.arg_names
    signature = dict.fromkeys(names, "i32") | dict.fromkeys(tensors, f"*{dtype}") | {"packed": "*fp32"}
    signature |= dict.fromkeys(constants, "constexpr")
    if "flags" in names:
        signature["flags"] = "*i32"
    aligned = [name for name in signature if signature[name].startswith("*")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()}, attributes)
    options = {"num_warps": _WARPS, "num_stages": 1, "maxnreg": registers, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


def _disassemble(cubin: bytes) -> tuple[str, str]:
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([tools / "nvdisasm", "-c", file.name], [tools / "cuobjdump", "-res-usage", file.name])
        listing, usage = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return listing, usage


def _loops(listing: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The names of all instructions; of each loop, its first and the one after its last, which jumps back."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(found[1].strip())
    loops = []
    for at, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", instruction)
        # The end of a kernel jumps to itself.
        if target and labels.get(target[1], at) < at:
            loops.append((labels[target[1]], at + 1))
    return [re.sub(r"^@\S+\s+", "", instruction).split()[0] for instruction in instructions], loops


if __name__ == "__main__":
    sys.exit(main())
