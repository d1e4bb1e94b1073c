"""Training steps with masks against the dense step, and memory of the sampler against the naive loop."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.registry import Row, benchmark
from cosim.networks import build_network, network_input_shape
from cosim.pruning.dpp import attach_masks, find_masks
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.plan import MaskPlan

DENSITY = 0.05
ROWS, UNITS, KEPT = 512, 4096, 512
NAIVE_ROWS = 8
"""The naive loop of all 512 rows would need 100 GB: its memory is proportional to the rows, so that of 8 is scaled."""


@benchmark("dpp_step_over_dense_resnet20")
def resnet20_step() -> list[Row]:
    """Batch 128, 5 % of each row of every layer."""
    return [_step_row("dpp_step_over_dense_resnet20", "resnet20_cifar", 128, repeats=4, rounds=3)]


@benchmark("dpp_step_over_dense_lenet")
def lenet_step() -> list[Row]:
    """Batch 64, 5 % of each row of every layer."""
    return [_step_row("dpp_step_over_dense_lenet", "lenet_300_100", 64, repeats=100, rounds=5)]


def _step_row(name: str, network: str, batch: int, *, repeats: int, rounds: int) -> Row:
    """Both steps in turns on one thread; processor time, so that a loaded machine does not decide."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dense, masked = _stepper(network, batch, masks=False), _stepper(network, batch, masks=True)
    best = [float("inf")] * 2
    for _ in range(rounds):
        for side, step in enumerate((dense, masked)):
            best[side] = min(best[side], _fastest(step, repeats))
    torch.set_num_threads(threads)
    ratio = best[1] / best[0]
    note = f"batch {batch}, {DENSITY:.0%} of each row, Adam, entropy penalty, 1 thread, processor time"
    peer = "dense step"
    return Row(name=name, value=best[1] * 1e3, unit="ms", peer=peer, peer_value=best[0] * 1e3, ratio=ratio, note=note)


def _stepper(network: str, batch: int, *, masks: bool) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *network_input_shape(network), generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    model = build_network(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if masks:
        attach_masks(model, _plans(model))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    schedule, done = MaskSchedule(), itertools.count(1)

    def step() -> None:
        if masks:
            schedule.apply(model, next(done) * 1e-5)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    assert bool(find_masks(model)) == masks
    return step


def _plans(model: nn.Module) -> dict[str, MaskPlan]:
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    units = {name: layer.weight[0].numel() for name, layer in layers.items()}
    return {name: MaskPlan(granularity="weight", k=max(1, round(DENSITY * n)), n=n) for name, n in units.items()}


def _fastest(step: Callable[[], None], repeats: int) -> float:
    step()
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        step()
        best = min(best, time.thread_time() - start)
    return best


_PEAK = """
def kibibytes(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
open("/proc/self/clear_refs", "w").write("5")  # the peak so far, of compiling kernels say, is forgotten
before = kibibytes("VmRSS")
"""
_OURS = """
import torch
from cosim.pruning.dpp_sampler import sample_mask
torch.set_num_threads(1)
sample_mask(torch.randn(2, 8, requires_grad=True), 2, temperature=0.5).sum().backward()
sample_mask(torch.randn(2, 64, requires_grad=True), 8, temperature=0.5).sum().backward()
logits, grad = torch.randn({rows}, {units}, requires_grad=True), torch.randn({rows}, {units})
logits.grad = torch.zeros_like(logits)
{peak}
sample_mask(logits, {kept}, temperature=0.5).backward(grad)
print(kibibytes("VmHWM") - before)
"""
_NAIVE = """
import torch
torch.set_num_threads(1)
logits, grad = torch.randn({rows}, {units}, requires_grad=True), torch.randn({rows}, {units})
logits.grad = torch.zeros_like(logits)
picks = logits.detach().topk({kept}).indices
{peak}
x, taken, total = logits / 0.5, torch.zeros({rows}, {units}, dtype=torch.bool), 0.0
for j in range({kept}):
    total = total + x.masked_fill(taken, -torch.inf).softmax(1)
    taken = taken.scatter(1, picks[:, j : j + 1], True)
total.backward(grad)
print(kibibytes("VmHWM") - before)
"""


@benchmark("dpp_memory_ratio")
def memory() -> list[Row]:
    """Growth of a process (Linux: its peak over what it held before) by a draw and its backward: k softmaxes / ours."""
    ours = _peak_bytes(_OURS, ROWS)
    naive = _peak_bytes(_NAIVE, NAIVE_ROWS) * ROWS / NAIVE_ROWS
    note = f"n = {UNITS}, k = {KEPT}, {ROWS} rows; the loop measured at {NAIVE_ROWS} rows and scaled"
    peer = "loop over k softmaxes"
    return [
        Row(
            name="dpp_memory_ratio",
            value=ours,
            unit="bytes",
            peer=peer,
            peer_value=naive,
            ratio=naive / ours,
            note=note,
        )
    ]


def _peak_bytes(script: str, rows: int) -> float:
    text = script.format(peak=_PEAK, rows=rows, units=UNITS, kept=KEPT)
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    return 1024.0 * float(done.stdout)
