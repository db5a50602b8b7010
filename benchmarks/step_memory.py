"""Peak memory of a ResNet-20 training step, adder network against its CNN twin.

    python benchmarks/step_memory.py [--network resnet20] [--batch_size 256] [--steps 3] [--repeats 3]

Each network trains in a process of its own. What counts is the peak resident size (VmHWM, reset after the imports) less
the resident size after the imports, so code and libraries are left out; the median of the repeats is compared. Linux
only. ADDERKIT_ISA chooses the kernels as everywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def resident_kib(field: str) -> int:
    """A field of /proc/self/status in KiB: VmRSS (now) or VmHWM (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(network: str, layer: str, batch_size: int, steps: int) -> float:
    """Peak MiB of `steps` training steps in this process, over the size after the imports."""
    import torch
    from torch.nn import functional as F

    from adderkit import models
    from adderkit.train import AdaptiveLocalRate

    Path("/proc/self/clear_refs").write_text("5")
    baseline = resident_kib("VmRSS")
    torch.manual_seed(0)
    net = models.create(network, layer).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    AdaptiveLocalRate(net).attach(optimizer)
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return (resident_kib("VmHWM") - baseline) / 1024


def in_own_process(arguments: argparse.Namespace, layer: str) -> float:
    command = [sys.executable, __file__, "--layer", layer, "--network", arguments.network]
    command += ["--batch_size", str(arguments.batch_size), "--steps", str(arguments.steps)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layer", choices=["adder", "conv"], help="measure this one here and print it as JSON")
    arguments = parser.parse_args()
    if arguments.layer:
        print(json.dumps(measure(arguments.network, arguments.layer, arguments.batch_size, arguments.steps)))
        return
    import torch

    from adderkit import ops
    from adderkit.train.environment import processor_name

    active = next((backend.name for backend in ops.backends() if backend.active), "torch reference")
    print(f"{arguments.network}, batch {arguments.batch_size}: {arguments.steps} steps in each process")
    print(f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {active}\n")
    print("| layer | peak MiB (median) | all |\n|---|---|---|")
    medians = {}
    for layer in ("conv", "adder"):
        peaks = [in_own_process(arguments, layer) for _ in range(arguments.repeats)]
        medians[layer] = statistics.median(peaks)
        print(f"| {layer} | {medians[layer]:.0f} | {', '.join(f'{peak:.0f}' for peak in peaks)} |")
    print(f"\nadder / conv: {medians['adder'] / medians['conv']:.3f}")


if __name__ == "__main__":
    main()
