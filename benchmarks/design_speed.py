"""Designs scored per second: ResNet-50's layers on random systolic arrays."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.accelerator import load_accelerator
from accel_models.designs import designs_like, evaluate_designs
from accel_models.layers import Conv2d, Gemm, Layer
from accel_models.workload import Workload
from benchmarks.registry import Row, benchmark

STAGES = ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7))
"""(width, blocks, output size) of ResNet-50 (He et al., arXiv 1512.03385, Table 1)."""


def resnet50() -> Workload:
    """Convolutions and classifier of ResNet-50 at 224 x 224, stride in the 3 x 3 convolution."""
    layers: list[Layer] = [_conv("conv1", 3, 64, 112, 7, 2)]
    inputs = 64
    for stage, (width, blocks, size) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            name = f"layer{stage + 1}.{block}"
            layers += [
                _conv(f"{name}.conv1", inputs, width, size * stride, 1, 1),
                _conv(f"{name}.conv2", width, width, size, 3, stride),
                _conv(f"{name}.conv3", width, 4 * width, size, 1, 1),
            ]
            if block == 0:
                layers.append(_conv(f"{name}.downsample", inputs, 4 * width, size, 1, stride))
            inputs = 4 * width
    return Workload(name="resnet50", layers=(*layers, Gemm(name="fc", m=1, n=1000, k=2048)))


def _conv(name: str, c: int, k: int, size: int, kernel: int, stride: int) -> Conv2d:
    return Conv2d(
        name=name,
        c=c,
        k=k,
        p=size,
        q=size,
        r=kernel,
        s=kernel,
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        input_size=(size * stride, size * stride),
    )


def random_designs(count: int) -> NDArray[Any]:
    """Arrays of 8 to 256 a side, buffers of 16 KiB to 2 MiB, all dataflows."""
    rng = np.random.default_rng(0)
    designs = designs_like(load_accelerator("edge_os_16x16"), count)
    for field in ("rows", "cols"):
        designs[field] = 2 ** rng.integers(3, 9, count)
    designs["dataflow"] = rng.integers(0, 3, count)
    for field in ("input_bytes", "weight_bytes", "output_bytes"):
        designs[field] = 2 ** rng.integers(14, 22, count)
    return designs


@benchmark("design_evaluations_per_s")
def design_speed() -> list[Row]:
    """100,000 random designs, two threads, after a first call that compiles or loads the kernel."""
    base, workload, designs = load_accelerator("edge_os_16x16"), resnet50(), random_designs(100_000)
    evaluate_designs(base, workload, designs[:10])
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        evaluate_designs(base, workload, designs, threads=2)
        best = min(best, time.perf_counter() - start)
    value = len(designs) / best
    return [Row(name="design_evaluations_per_s", value=value, unit="designs/s", note="ResNet-50, 54 layers, 2 threads")]
