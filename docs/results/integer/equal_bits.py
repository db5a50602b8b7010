"""Compares the native runtime with the reference in NumPy, bit for bit, on images of a parquet file.

python docs/results/integer/equal_bits.py net.adk test.parquet 1000
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adderkit import native, quant, runtime
from adderkit.data import image
from adderkit.quant import reference


def main(file: str, parquet: str, count: int) -> int:
    rows = pq.read_table(parquet, columns=["image"]).slice(0, count)["image"].to_pylist()
    images = np.stack([image.decode(image.open_image(io.BytesIO(row["bytes"]))) for row in rows])
    expected = reference.run(quant.read(Path(file)), images)
    net = runtime.load(file)
    wrong = 0
    for isa in native.isas():
        if isa.reason:
            continue
        with native.forced_isa(isa.name):
            for threads in (1, 2):
                found = np.concatenate([net(images[:1], threads), net(images[1:], threads)])
                same = int((found.view(np.int32) == expected.view(np.int32)).all(1).sum())
                wrong += len(images) - same
                print(
                    f"{file}: {isa.name}, {threads} threads: {same} of {len(images)} images have the reference's bits"
                )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
