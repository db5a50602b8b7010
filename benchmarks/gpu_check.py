"""What a GPU must show: equal results, the speed of layers and of whole training steps.

    PYTHONPATH=src python benchmarks/gpu_check.py --json gpu.json

It needs torch and Triton alone; training steps are measured where the packages that a training needs are there too.
Everything is compared with float64 before it is timed. `--device cpu --quick` only shows that the script runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from gpu_checks import equality, layers
from gpu_checks.clock import is_lost, operations_limit

# Both nets and every term in every step, the longest kind.
_PKKD = {"method": "pkkd", "pkkd": {"progressive": True, "head_start": 0, "alpha": 1, "mid_share": 1}}
_PARTS = ("equality", "steps", "layers")
_STEPS: tuple[dict[str, Any], ...] = (
    _PKKD,
    {**_PKKD, "cuda_graph": False},
    {**_PKKD, "teacher_autocast": True},
    {"method": "none"},
    {"method": "none", "layer": "conv"},
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="where all figures go")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--cases", type=int, default=150, help="random layers that are compared with float64")
    parser.add_argument("--seconds", type=float, default=1.0, help="for which each layer is timed")
    parser.add_argument("--quick", action="store_true", help="a few small cases of everything")
    parser.add_argument("--only", default=_PARTS, choices=_PARTS, nargs="+", help="parts to do (default: all)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device here", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    report: dict[str, Any] = {"machine": _machine(device), "settings": {k: str(v) for k, v in vars(options).items()}}

    def keep() -> None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    report |= {"equality": [], "layers": [], "steps": [], "training": {}}
    cases = [*equality.FIXED, *equality.drawn(options.cases, seed=0)]
    if "equality" in options.only:
        report["equality"] = equality.check(cases[-3:] if options.quick else cases, device)
        keep()
    if "steps" in options.only and not is_lost(device):
        report["training"] = _training(device, options.quick, keep, report)
        keep()
    for layer, batch in layers.wanted(options.quick) if "layers" in options.only else ():
        if is_lost(device):
            report["layers"].append({"layer": layer.name, "error": "the device is lost, for an error before this"})
            break
        try:
            row = layers.measure(layer, batch, device, report["machine"]["limit"], options.seconds, others=True)
        except Exception as error:  # one layer must not hide the others
            row = {"layer": layer.name, "network": layer.network, "error": f"{type(error).__name__}: {error}"[:500]}
        report["layers"].append(row)
        keep()
    _print(report)
    wrong = [row for row in (*report["equality"], *report["layers"]) if row.get("error") or not row.get("ok", True)]
    print(f"all figures: {options.json}")
    return 1 if wrong or report["training"].get("error") else 0


def _machine(device: torch.device) -> dict[str, Any]:
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": version,
        "float32 convolutions": torch.backends.cudnn.conv.fp32_precision,  # torch's default is "tf32"
        "limit": operations_limit(device),
    }


def _training(device: torch.device, quick: bool, keep: Any, report: dict[str, Any]) -> dict[str, Any]:
    try:
        from gpu_checks import steps
    except ImportError as error:
        return {"not measured": str(error)}
    size = {"student": "resnet8", "batch_size": 8} if quick else {"student": "resnet20", "batch_size": 256}
    count = 3 if quick else 100
    found: dict[str, Any] = {}
    try:
        for options in _STEPS[:1] if quick else _STEPS:
            report["steps"].append(steps.measure(device, count, **size, **options))
            keep()
        if device.type == "cuda":
            plain, graph = {**_PKKD, "cuda_graph": False}, _PKKD
            found["graph, largest difference to the plain step"] = steps.weights_differ(device, 20, plain, graph)
            found["same run twice, largest difference"] = steps.weights_differ(device, 20, graph, graph)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"[:500]
        traceback.print_exc()
    return found


def _print(report: dict[str, Any]) -> None:
    machine = report["machine"]
    print(f"\n{machine['device']}, torch {machine['torch']}, Triton {machine['triton']}")
    wrong = [row for row in report["equality"] if not row["ok"]]
    print(f"equality: {len(report['equality']) - len(wrong)} of {len(report['equality'])} layers within tolerance")
    for row in wrong[:5]:
        print("  wrong:", {key: row[key] for key in row if key not in ("ok",)})
    print(
        f"{'layer':26s} {'adder':>7s} {'grad x':>7s} {'both':>7s} {'conv':>7s} {'both':>7s} {'share':>6s} {'share':>6s}"
    )
    for row in report["layers"]:
        if "error" in row:
            print(f"{row['layer']:26s} {row['error'][:90]}")
            continue
        names = ("adder ms", "adder input_grad ms", "adder both ms", "conv ms", "conv both ms")
        shares = [row.get("adder share"), row.get("adder input_grad share")]
        figures = " ".join(f"{row[name]:7.3f}" for name in names)
        print(f"{row['layer']:26s} {figures} {' '.join('' if s is None else f'{s:6.1%}' for s in shares)}")
    for row in report.get("steps", []):
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()})
    print(report["training"])


if __name__ == "__main__":
    begin = time.monotonic()
    code = main()
    print(f"{time.monotonic() - begin:.0f} s")
    sys.exit(code)
