"""Whether the network after a removal computes what the larger one does without the channels: ours and Torch-Pruning.

On every network that ships, and on the small networks of the tests (shuffle, chunk, split, concat, grouped and
depthwise convolutions, heads), each tool removes random channels of a random group of its own. Torch-Pruning is used
as its documents say: its pruner with random importance, told which layers make queries, keys and values, removes whole
heads; the last layer is left alone. Nothing is edited by hand afterwards (its documents ask for that where the code
writes sizes or heads as numbers: such networks count as crashed). Our own check of a removal is switched off.

The oracle is one for both: the original network, in double precision, whose consumers read zeros in place of the
channels that the tool says it removed. The difference counts relative to what another random input moves the outputs.

- exact: at most 1e-5. wrong: more, or another shape. crashed: an exception, when grouping, removing or running.
- refused: the tool offers no channel. renormalised: Torch-Pruning narrows a layer or group normalisation on purpose,
  which no zeroed channel can equal; this is not held against it.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import random
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.coupling_speed import PEER, peer_python
from benchmarks.registry import Row, benchmark

SEEDS = 20
TOLERANCE = 1e-5
FAINT = 1e-6
"""Smallest share of the largest output that inputs are taken to move: 1e-5 of it is far above rounding of doubles."""
OUTCOMES = ("exact", "renormalised", "refused", "wrong", "crashed")
BAD = ("wrong", "crashed")
IMAGE = {"mobilenet_v2": 64, "resnet18": 64, "resnet50": 64, "shufflenet_v2": 64}
"""Size of the images, where the network takes smaller ones than it was made for."""
LONGEST_S = 1500

Outcome = tuple[str, str]  # one of OUTCOMES, and why
Case = tuple[Any, Any]  # network, example
Removal = Callable[[Any, Any, random.Random], Outcome]


def cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """Names and builders of all networks, those that ship first."""
    import torch

    from cosim.networks import build_network, network_example, network_names

    small, heads = (importlib.import_module(f"tests.cosim.{name}") for name in ("test_coupling", "coupling_networks"))

    def shipped(name: str) -> Case:
        size = IMAGE.get(name)
        return build_network(name), network_example(name)[..., :size, :size] if size else network_example(name)

    def made(build: Callable[[], Any]) -> Case:
        torch.manual_seed(0)
        return build(), small.EXAMPLE

    for name in network_names():
        yield name, lambda name=name: shipped(name)  # type: ignore[misc]
    for kind in small.MODULES:
        yield f"test: {kind.__name__}", lambda kind=kind: made(kind)  # type: ignore[misc]
    for name, attention in heads.ATTENTIONS.items():
        yield f"test: heads, {name}", lambda inner=attention: made(lambda: heads.Transformer(inner()))  # type: ignore[misc]
    yield "test: token stream", lambda: made(lambda: heads.Plain(heads.FusedAttention("unbound")))
    yield "test: mixer", lambda: made(heads.Mixer)


def prepared(build: Callable[[], Case]) -> Case:
    """The network with normalisation that is not neutral and fits random inputs, so that its signal does not fade."""
    import torch
    from torch import nn

    model, example = build()
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
            part.momentum = None  # the statistics of the one batch that follows
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    if example.is_floating_point():
        images = torch.randn(max(4, len(example)), *example.shape[1:])[: 4 if len(example) == 1 else len(example)]
        with torch.no_grad():
            model.train()(images)
    return model.eval(), example


def inputs_like(example: Any, seed: int) -> Any:
    """Random doubles, or tokens, of the example's shape."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    if example.is_floating_point():
        return torch.randn(example.shape, generator=generator, dtype=torch.float64)
    return torch.randint(0, 100, example.shape, generator=generator)


def judge(reference: Any, pruned: Any, example: Any) -> Outcome:
    """Compare the network after a removal with the one that reads zeros."""
    import torch

    reference, pruned = reference.double().eval(), copy.deepcopy(pruned).double().eval()
    with torch.no_grad():
        expected, other = (reference(inputs_like(example, seed)) for seed in (1, 2))
        found = pruned(inputs_like(example, 1))
    if found.shape != expected.shape:
        return "wrong", f"outputs {list(found.shape)} instead of {list(expected.shape)}"
    moved = max(float((expected - other).abs().max()), FAINT * float(expected.abs().max()))
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * moved:
        return "wrong", f"outputs differ by {difference / moved if moved else difference:.1e} of what inputs change"
    return "exact", ""


def ours(model: Any, example: Any, draw: random.Random) -> Outcome:
    """Random channels of a random group leave; the result is not checked by the tool itself."""
    import torch

    from cosim.pruning import remove_channels, trace_channel_groups
    from cosim.pruning.apply import prunable_groups

    groups = prunable_groups(trace_channel_groups(model, example))
    if not groups:
        return "refused", "no group can lose a channel"
    group = draw.choice(groups)
    count = min(group.size - 1, max(1, round(draw.uniform(0.2, 0.6) * group.size)))
    channels = draw.sample(range(group.size), count)
    smaller = remove_channels(model, example, {group: channels}, verify=False)
    reference = copy.deepcopy(model)
    tensors = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    with torch.no_grad():
        for part in group.slices:
            if part.role == "in":
                positions = torch.tensor([p for channel in channels for p in part.indices[channel]])
                tensors[part.name].index_fill_(part.dim, positions, 0.0)
    return judge(reference, smaller, example)


def peers(model: Any, example: Any, draw: random.Random) -> Outcome:
    """The same with Torch-Pruning's pruner."""
    import torch
    import torch_pruning as tp  # type: ignore[import-not-found, unused-ignore]
    from torch import nn

    torch.manual_seed(draw.randrange(2**31))
    pruned, plain = copy.deepcopy(model), (nn.Conv2d, nn.Linear)
    last = [module for module in pruned.modules() if isinstance(module, plain)][-1]
    images = example + torch.randn(example.shape) if example.is_floating_point() else example
    pruner = tp.pruner.BasePruner(
        pruned,
        images,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=draw.uniform(0.2, 0.6),
        ignored_layers=[last],
        num_heads=heads_of(pruned),
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=draw.uniform(0.2, 0.6),
    )
    groups = list(pruner.step(interactive=True))
    if not groups:
        return "refused", "no group can lose a channel"
    group = draw.choice(groups)
    reference, narrowed = zero_inputs(copy.deepcopy(model), pruned, group, pruner.DG)
    group.prune()
    outcome = judge(reference, pruned, example)
    return ("renormalised", outcome[1]) if narrowed and outcome[0] == "wrong" else outcome


def heads_of(model: Any) -> dict[Any, int]:
    """The layers that make queries, keys and values, with the number of heads."""
    found = {}
    for module in model.modules():
        parts = [getattr(module, name) for name in ("qkv", "c_attn", "q", "k", "v") if hasattr(module, name)]
        for part in parts:
            width = part.out_features // (3 if len(parts) == 1 else 1)
            found[part] = module.heads if hasattr(module, "heads") else width // module.head_width
    return found


def zero_inputs(reference: Any, pruned: Any, group: Any, graph: Any) -> tuple[Any, bool]:
    """The reference reads zeros where the group takes inputs from layers; also whether it narrows a normalisation."""
    from torch import nn

    names = {module: name for name, module in pruned.named_modules()}
    positions: dict[str, set[int]] = {}
    narrowed = False
    for dependency, indices in group:
        module, handler = dependency.target.module, dependency.handler
        narrowed |= isinstance(module, nn.LayerNorm | nn.GroupNorm)
        reads = graph.is_in_channel_pruning_fn(handler) and not graph.is_out_channel_pruning_fn(handler)
        if reads and module in names:
            positions.setdefault(names[module], set()).update(int(i) for i in indices)
    for name, found in positions.items():
        reference.get_submodule(name).register_forward_pre_hook(_blank(sorted(found)))
    return reference, narrowed


def _blank(positions: Sequence[int]) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    import torch
    from torch import nn

    def hook(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        axis = -1 if isinstance(module, nn.Linear) else 1
        return (args[0].index_fill(axis, torch.tensor(positions), 0.0), *args[1:])

    return hook


def run_all(who: str) -> dict[str, list[Outcome]]:
    """Outcomes of every network by seed."""
    import torch

    torch.set_num_threads(1)
    remove = ours if who == "ours" else peers
    found: dict[str, list[Outcome]] = {}
    for name, build in cases():
        model, example = prepared(build)
        draws = [random.Random(f"{name} {seed}") for seed in range(SEEDS)]
        found[name] = [_attempt(remove, model, example, draw) for draw in draws]
    return found


def _attempt(remove: Removal, model: Any, example: Any, draw: random.Random) -> Outcome:
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            return remove(model, example, draw)
    except Exception as error:  # what a tool raises is what is counted
        text = (str(error).strip().splitlines() or [""])[0]
        return "crashed", f"{type(error).__name__}: {text}"[:120]


def _measure(python: str, who: str) -> dict[str, list[Outcome]]:
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    command = [python, "-m", "benchmarks.coupling_quality", who]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=environment, check=False, timeout=LONGEST_S
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    found: dict[str, list[Outcome]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _bad(found: dict[str, list[Outcome]]) -> int:
    return sum(outcome in BAD for results in found.values() for outcome, _ in results)


@benchmark("coupling_wrong_or_crashed")
def coupling_quality() -> list[Row]:
    """Removals that give another network than promised, or none; fewer is better."""
    own = _measure(sys.executable, "ours")
    removals = sum(map(len, own.values()))
    note = f"of {removals} random removals on {len(own)} networks, {_described(own)}"
    try:
        peer = _measure(peer_python(), "peer")
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        _show(own, {})
        return [_row(_bad(own), f"{note}; no peer: {error}")]
    _show(own, peer)
    note = f"{note}; peer: {_described(peer)} ({_by_network(peer)})"
    row = _row(_bad(own), note)
    return [Row(name=row.name, value=row.value, unit=row.unit, peer=PEER, peer_value=_bad(peer), note=note)]


def _row(value: int, note: str) -> Row:
    return Row(name="coupling_wrong_or_crashed", value=value, unit="removals", note=note)


def _described(found: dict[str, list[Outcome]]) -> str:
    counts = Counter(outcome for results in found.values() for outcome, _ in results)
    return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])


def _by_network(found: dict[str, list[Outcome]]) -> str:
    bad = {name: Counter(outcome for outcome, _ in results if outcome in BAD) for name, results in found.items()}
    return "; ".join(
        f"{name} " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        for name, counts in bad.items()
        if counts
    )


def _show(own: dict[str, list[Outcome]], peer: dict[str, list[Outcome]]) -> None:
    """Every network, both tools, and the first that went wrong in words."""
    table = Table(title=f"{SEEDS} random removals a network", title_justify="left")
    for head in ("network", "tool", *OUTCOMES, "first that is wrong or crashed"):
        table.add_column(head, justify="right" if head in OUTCOMES else "left", overflow="fold")
    for name in own:
        for tool, found in (("ours", own), (PEER, peer)):
            results = found.get(name, [])
            counts = Counter(outcome for outcome, _ in results)
            why = next((text for outcome, text in results if outcome in BAD), "")
            cells = [str(counts[outcome]) if counts[outcome] else "-" for outcome in OUTCOMES]
            table.add_row(name if tool == "ours" else "", tool, *cells, why)
    Console(width=160).print(table)


if __name__ == "__main__":
    print(json.dumps(run_all(sys.argv[1])))
