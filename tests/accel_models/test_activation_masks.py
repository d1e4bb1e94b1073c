"""Captured activations: lanes, gates, traffic and bits follow the actual inputs, run by run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.accelerator import library_names, load_accelerator
from accel_models.activation_masks import activation_mask, input_shape, runs_of
from accel_models.captured_layers import mean_products, stored_inputs, stored_outputs
from accel_models.cost import LayerCost
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.layer_zeros import LayerZeros
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.masks import Mask, weight_mask, weight_shape
from accel_models.sparse_array import SparseArray
from accel_models.sparse_lanes import LaneLayer, count_lanes, lay_out, phases_of
from accel_models.sparse_layers import matrix_shape
from accel_models.sparse_machines import SCNN
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from tests.accel_models.test_layers import convolutions
from tests.accel_models.test_sparse_steps import MACHINES, random_array
from tests.reference import captured
from tests.reference.formats import encode_run_length
from tests.reference.sparse_steps import Stepped, step_array

READERS = tuple(
    name
    for name in library_names()
    if (lanes := load_accelerator(name).lanes) is not None
    and (lanes.array.skips("input") or lanes.array.gates("input"))
)
"""Library arrays that skip or gate zero inputs."""
LAYER = Conv2d(name="c", k=20, c=6, p=7, q=5, r=3, s=3, stride=(2, 1), padding=(1, 1), groups=2, input_size=(14, 5))
PRODUCT = Gemm(name="c", m=9, n=14, k=33)
FEW, MANY = 40, 1000


def drawn(shape: tuple[int, ...], density: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


def captured_runs(layer: Conv2d | Gemm, density: float, seed: int = 0, runs: int = 2) -> np.ndarray:
    one = input_shape(layer)
    return drawn((runs * one[0], *one[1:]) if isinstance(layer, Conv2d) else (runs, *one), density, seed)


def run(name: str, layer: Conv2d | Gemm, weights: np.ndarray | None, inputs: np.ndarray, **more: Any) -> LayerCost:
    masks = {} if weights is None else {layer.name: weight_mask(weights, layer)}
    workload = Workload(name="w", layers=(layer,))
    activation_masks = {layer.name: activation_mask(inputs, layer)}
    return simulate(load_accelerator(name), workload, masks=masks, activation_masks=activation_masks, **more).layers[0]


def assert_stepped(counts: Any, stepped: list[Stepped], array: SparseArray) -> None:
    """Means over runs of what stepped lanes did."""

    def mean(*names: str) -> float:
        return sum(getattr(one, name) for one in stepped for name in names) / len(stepped)

    assert counts.ideal_cycles + counts.fragmentation_cycles == pytest.approx(mean("balanced"), rel=1e-12)
    assert counts.imbalance_cycles == pytest.approx(mean("waited") - mean("balanced"), rel=1e-12)
    assert counts.bank_conflict_cycles == mean("conflicts")
    assert counts.cycles == pytest.approx(mean("total", "conflicts") + array.pass_cycles * mean("passes"), rel=1e-12)
    assert counts.macs_done + counts.macs_gated == pytest.approx(mean("products"), rel=1e-12)


def check_lanes(name: str, seed: int) -> bool:
    """A small random convolution or product on both masks; whether the lanes make something of zero inputs."""
    rng = np.random.default_rng([seed, *name.encode()])
    layer, array = random_layer(rng), random_array(MACHINES[name], rng)
    weights = drawn(weight_shape(layer), rng.choice([0.2, 0.6, 1.0]), seed)
    inputs = captured_runs(layer, rng.choice([0.1, 0.5, 0.9]), seed)
    known, mask = weight_mask(weights, layer) if seed % 4 else None, activation_mask(inputs, layer)
    zeros = LayerZeros(mask=known, inputs=mask.density, input_mask=mask)
    report = count_lanes(layer, zeros, LaneLayer(array, matrix_shape(layer), 1), skips_weights=True)
    if not (array.skips("input") or array.gates("input")):
        assert report.run_cycles == ()
        return False
    operands = [captured.operands(layer, weights, one) for one in inputs.reshape(2, *input_shape(layer))]
    shape = matrix_shape(layer)
    stepped = [step_array(array, shape, left if known is not None else None, right) for left, right in operands]
    assert report.exact is not None
    assert_stepped(report.exact, stepped, array)
    assert sum(report.run_cycles) / 2 == report.exact.cycles
    return True


@pytest.mark.parametrize("name", sorted(set(MACHINES) - {"scnn"}))
def test_lanes_take_the_cycles_of_stepped_ones_on_both_masks_of_a_layer(name: str):
    seen = sum(check_lanes(name, seed) for seed in range(FEW))
    assert seen == (0 if name in ("stc_2_4", "row_gather") else FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MACHINES) - {"scnn"}))
def test_lanes_take_the_cycles_of_stepped_ones_on_both_masks_of_many_layers(name: str):
    for seed in range(FEW, MANY):
        check_lanes(name, seed)


def random_layer(rng: np.random.Generator) -> Conv2d | Gemm:
    if rng.random() < 0.3:
        m, n, k, groups = rng.integers(1, 7, 4).tolist()
        return Gemm(name="g", m=m, n=n, k=k, groups=groups)
    stride, (r, s), groups = rng.integers(1, 3, 2).tolist(), rng.integers(1, 4, 2).tolist(), int(rng.integers(1, 3))
    return Conv2d(
        name="g", k=groups * int(rng.integers(1, 4)), c=groups * int(rng.integers(1, 4)), p=int(rng.integers(1, 4)),
        q=int(rng.integers(1, 4)), r=r, s=s, stride=(stride[0], stride[1]), padding=(int(rng.integers(0, r)), 0),
        groups=groups, input_size=(9, 8),
    )  # fmt: skip


def check_planar(seed: int) -> float:
    """A small random convolution on small planar lanes, both masks or dense weights; its bank conflicts."""
    rng = np.random.default_rng(seed)
    (r, s), stride, groups = rng.integers(1, 4, 2).tolist(), rng.integers(1, 4, 2).tolist(), int(rng.integers(1, 3))
    layer = Conv2d(
        name="c", k=3 * groups, c=int(rng.integers(1, 3)) * groups, p=3, q=3, r=r, s=s, stride=(stride[0], stride[1]),
        padding=(int(rng.integers(0, r)), int(rng.integers(0, s))), groups=groups, input_size=(9, 11),
    )  # fmt: skip
    scnn = load_accelerator("scnn").lanes
    assert scnn is not None
    small = {"lane_pixels": 4, "vector_outputs": 2, "vector_pixels": 3, "accumulator_banks": 5, "accumulator_queue": 2}
    laid = lay_out(layer, scnn.model_copy(update={**small, "accumulators": int(rng.choice([300, 60]))}))
    assert laid.tiling is not None
    known = rng.random() < 0.8
    weights, inputs = drawn(weight_shape(layer), 0.5 if known else 2.0, seed), captured_runs(layer, 0.5, seed + 1)
    kept, mask = weight_mask(weights, layer), activation_mask(inputs, layer)
    zeros = LayerZeros(mask=kept if known else None, inputs=mask.density, input_mask=mask)
    report, taps = count_lanes(layer, zeros, laid, True), phases_of(kept, laid, layer).as_matrix()
    assert report.exact is not None
    assert_stepped(report.exact, [step_cuts(layer, laid, taps, image) for image in inputs], laid.array)
    return report.exact.bank_conflict_cycles


def step_cuts(layer: Conv2d, laid: LaneLayer, taps: np.ndarray, image: np.ndarray) -> Stepped:
    """Sums over the cuts of an image."""
    assert laid.tiling is not None
    whole, cuts = Stepped(), math.isqrt(laid.tiling.cuts)
    for tiles in captured.planar_cuts(layer, image, cuts, laid.tiling.tile, laid.tiling.tiles):
        by_group = np.array(tiles).reshape(len(tiles), layer.groups, -1).transpose(1, 0, 2)
        one = step_array(laid.array, laid.shape, taps, by_group.reshape(layer.groups * len(tiles), -1))
        for name in ("total", "waited", "balanced", "conflicts", "passes", "products"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
    return whole


def test_planar_lanes_take_the_cycles_of_stepped_ones_on_both_masks_of_a_layer():
    assert sum(check_planar(seed) > 0 for seed in range(20)) > 1


@pytest.mark.slow
def test_planar_lanes_take_the_cycles_of_stepped_ones_on_both_masks_of_many_layers():
    for seed in range(20, MANY):
        check_planar(seed)


@pytest.mark.parametrize("layer", [LAYER, PRODUCT, replace(LAYER, stride=(1, 1), dilation=(2, 2), n=2)],
                         ids=["strided", "product", "dilated"])  # fmt: skip
@pytest.mark.parametrize("name", READERS)
def test_products_done_are_those_without_a_zero_and_skipped_or_gated_the_others(name: str, layer: Conv2d | Gemm):
    weights, inputs = drawn(weight_shape(layer), 0.4, 3), captured_runs(layer, 0.3, 4)
    array = load_accelerator(name).lanes.array  # type: ignore[union-attr]
    done = round(np.mean([captured.products(layer, weights, one) for one in inputs.reshape(2, *input_shape(layer))]))
    macs = run(name, layer, weights, inputs).activity.macs
    assert macs.done == done > 0
    slots = weights.sum() * layer.as_gemm().m  # zeros of the padding are gated like others
    assert macs.gated == (0 if array.skips("input") else slots - done)
    assert macs.skipped == layer.macs - macs.done - macs.gated


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_eyeriss_gates_every_product_that_meets_a_zero_input(layer: Conv2d, seed: int):
    inputs = captured_runs(layer, 0.5, seed)
    ones = np.ones(weight_shape(layer), np.bool_)
    done = [captured.products(layer, ones, one) for one in inputs.reshape(2, *input_shape(layer))]
    macs = run("eyeriss_v1", layer, None, inputs).activity.macs
    assert macs.done == round(sum(done) / 2)
    assert macs.gated == layer.macs - macs.done


def test_an_array_that_gates_both_operands_does_what_meets_neither_zero():
    machine = load_accelerator("eyeriss_v1", {"weight_sparsity": {"action": "gate"}})
    weights, inputs = drawn(weight_shape(LAYER), 0.5, 0), captured_runs(LAYER, 0.5, runs=1)
    masks, read = {"c": weight_mask(weights, LAYER)}, {"c": activation_mask(inputs, LAYER)}
    macs = (
        simulate(machine, Workload(name="w", layers=(LAYER,)), masks=masks, activation_masks=read)
        .layers[0]
        .activity.macs
    )
    assert macs.done == captured.products(LAYER, weights, inputs)
    assert macs.skipped == 0


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_inputs_are_stored_as_rows_of_what_outputs_read(layer: Conv2d, seed: int):
    inputs = captured_runs(layer, 0.5, seed, runs=1)
    fp = layer.footprint()
    for mask in stored_inputs(layer, activation_mask(inputs, layer)):
        assert np.array_equal(mask.as_matrix(), captured.stored_rows(layer, inputs))
        assert (mask.rows, mask.row_bits) == (layer.groups * fp.rows, fp.row_elements)


@pytest.mark.parametrize("name", ["eyeriss_v1", "eyeriss_v2", "scnn"])
def test_dram_moves_the_run_lengths_of_the_captured_inputs_and_outputs(name: str):
    """The mean over two images, and the outputs are what the next layer reads."""
    first = Conv2d(name="a", k=6, c=4, p=6, q=6, r=3, s=3, padding=(1, 1))
    second = Conv2d(name="b", k=4, c=6, p=6, q=6, r=1, s=1)
    inputs = {"a": captured_runs(first, 0.2, 0), "b": captured_runs(second, 0.1, 1)}
    masks = {layer.name: activation_mask(inputs[layer.name], layer) for layer in (first, second)}
    machine = load_accelerator(name, {"keep_outputs": False})
    cost = simulate(machine, Workload(name="w", layers=(first, second), edges=(("a", "b"),)), activation_masks=masks)
    width, run_bits = (16, 5) if name == "eyeriss_v1" else (8, 4)

    def coded(matrices: list[np.ndarray]) -> tuple[int, int]:
        strings = [encode_run_length(matrix.astype(int), width, run_bits, False) for matrix in matrices]
        values, runs = (sum(len(part) for part in parts) for parts in zip(*((v, r) for r, v in strings), strict=True))
        return width * math.ceil(values / width / 2), math.ceil(runs / 2)

    read = cost.layers[0].activity.accesses["dram"]["input"]
    rows = [captured.stored_rows(first, image[None]) for image in inputs["a"]]
    if name == "eyeriss_v1":  # words that neighbouring tiles share come again
        assert read.read_bits == math.ceil(read.reads * coded(rows)[0] / rows[0].size)
    else:
        assert (read.read_bits, read.metadata_read_bits) == coded(rows)
    written = cost.layers[0].activity.accesses["dram"]["output"]
    assert (written.write_bits, written.metadata_write_bits) == coded([image.reshape(6, 36) for image in inputs["b"]])


def test_outputs_of_a_product_are_stored_channel_by_channel():
    first, second = Gemm(name="a", m=3, n=5, k=2, groups=2), Gemm(name="b", m=6, n=4, k=5)
    inputs = captured_runs(second, 0.5, runs=1)
    (mask,) = stored_outputs(first, second, activation_mask(inputs, second))
    expected = np.concatenate([inputs[0, :3].T, inputs[0, 3:].T])
    assert np.array_equal(mask.as_matrix(), expected)


def test_outputs_that_a_layer_reads_in_part_have_its_density():
    first = Conv2d(name="a", k=6, c=4, p=6, q=6, r=1, s=1)
    second = Conv2d(name="b", k=4, c=3, p=6, q=6, r=1, s=1)
    workload = Workload(name="w", layers=(first, second), edges=(("a", "b"),))
    mask = activation_mask(captured_runs(second, 0.1), second)
    machine = load_accelerator("sparten")
    captured_, expected = (
        simulate(machine, workload, **given_).layers[0].activity.accesses["dram"]["output"]
        for given_ in ({"activation_masks": {"b": mask}}, {"densities": {"b": mask.density}})
    )
    assert captured_ == expected
    assert expected.write_bits < 0.2 * first.output_elements * 8


@pytest.mark.parametrize("name", [*READERS, "eyeriss_v1"])
def test_counts_are_the_mean_of_single_runs(name: str):
    weights, inputs = drawn(weight_shape(LAYER), 0.5, 0), captured_runs(LAYER, 0.4, 5)
    both, *single = (run(name, LAYER, weights, part).activity for part in (inputs, inputs[:1], inputs[1:]))
    assert both.macs.done == round(sum(one.macs.done for one in single) / 2)
    if both.sparse is not None:
        assert both.sparse.used.cycles == sum(one.sparse.used.cycles for one in single) / 2
        assert both.sparse.run_cycles == tuple(one.sparse.used.cycles for one in single)


@pytest.mark.parametrize("name", [*READERS, "eyeriss_v1"])
def test_full_inputs_cost_at_most_the_dense_layer_and_its_metadata(name: str):
    """Less, where padding is skipped."""
    unpadded = replace(LAYER, padding=(0, 0), stride=(1, 1), input_size=None)
    full = run(name, unpadded, None, np.ones((1, *input_shape(unpadded)[1:]), np.bool_)).activity
    dense = simulate(load_accelerator(name), Workload(name="w", layers=(unpadded,)), densities={"c": 1.0}).layers[0]
    assert full.macs == dense.activity.macs
    if full.sparse is None:
        assert full.compute_cycles == dense.activity.compute_cycles
    else:
        assert full.sparse.used.cycles == pytest.approx(
            dense.activity.sparse.used.cycles, rel=0.01
        )  # banks are sampled
    padded = run(name, LAYER, None, np.ones((1, *input_shape(LAYER)[1:]), np.bool_)).activity
    assert padded.macs.done < LAYER.macs


@pytest.mark.parametrize("name", [*READERS, "eyeriss_v1"])
def test_the_density_of_a_mask_is_the_density_that_stands_beside_it(name: str):
    """Expected counts, and bits that only the number of non-zeros decides, are those of `densities`."""
    inputs = captured_runs(PRODUCT, 0.5, 7, runs=1)
    mask = activation_mask(inputs, PRODUCT)
    exact = run(name, PRODUCT, None, inputs).activity
    workload = Workload(name="w", layers=(PRODUCT,))
    expected = simulate(load_accelerator(name), workload, densities={"c": mask.density}).layers[0].activity
    assert exact.macs == expected.macs  # every input of a product without padding meets as many weights
    if exact.sparse is not None:
        assert exact.sparse.expected == expected.sparse.expected
    if name in ("sparten", "dstc"):  # bitmasks
        assert exact.accesses["dram"]["input"] == expected.accesses["dram"]["input"]


def test_inputs_of_one_corner_leave_the_other_planar_lanes_waiting():
    layer = Conv2d(name="c", k=16, c=64, p=16, q=16, r=1, s=1)
    corner = np.zeros((1, 64, 16, 16), np.bool_)
    corner[:, :, :8, :8] = True
    exact, expected = (
        run("scnn", layer, None, inputs).activity.sparse.used for inputs in (corner, drawn(corner.shape, 0.25, 0))
    )
    assert exact.macs_done == corner.sum() * layer.k
    assert exact.imbalance_cycles == exact.cycles * 3 / 4  # a quarter of the lanes does all the work
    assert expected.imbalance_cycles < exact.imbalance_cycles / 2


def test_layers_without_captured_inputs_have_their_density():
    workload = Workload(name="w", layers=(LAYER, replace(LAYER, name="d")))
    mask = activation_mask(captured_runs(LAYER, 0.4), LAYER)
    machine = load_accelerator("eyeriss_v2")
    both = simulate(machine, workload, activation_masks={"c": mask}, densities={"c": 0.9, "d": 0.4}).layers
    alone = simulate(machine, workload, densities={"d": 0.4}).layers
    assert both[1].activity == alone[1].activity
    assert both[0].activity.macs.done == round(mean_products(LAYER, None, mask))


@pytest.mark.parametrize("name", READERS)
def test_weights_of_a_structure_without_a_mask_are_drawn_once(name: str):
    layer = Conv2d(name="c", k=24, c=16, p=6, q=6, r=3, s=3)
    inputs = captured_runs(layer, 0.5)
    structure = {"c": KofN(granularity="weight", k=2, n=8)}
    first, again = (run(name, layer, None, inputs, structures=structure).activity for _ in range(2))
    assert first == again
    assert first.macs.done == pytest.approx(0.125 * layer.macs, rel=0.05)


def test_batches_are_runs_of_their_own():
    batch = Conv2d(name="c", n=2, k=3, c=2, p=4, q=4, r=1, s=1)
    inputs = captured_runs(batch, 0.5)
    runs = list(runs_of(activation_mask(inputs, batch), batch))
    assert len(runs) == 2
    assert np.array_equal(np.concatenate(runs), inputs)
    activity = run("sparten", batch, None, inputs).activity
    assert activity.macs.done == round(inputs.sum() / 2 * 3)
    assert len(activity.sparse.run_cycles) == 2


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"c": np.ones((1, 3, 14, 5))}, "layer 'c': mask of inputs (1, 3, 14, 5); the layer reads [images, 6, 14, 5]"),
        ({"c": np.full((1, 6, 14, 5), 0.5)}, "layer 'c': mask of inputs: element (0, 0, 0, 0) = np.float64(0.5)"),
        ({"b": np.ones((3, 2, 4, 4))}, "(3, 2, 4, 4); the layer reads [images, 2, 4, 4], a multiple of 2 images"),
        ({"g": np.ones((2, 8, 33))}, "layer 'g': mask of inputs (2, 8, 33); the layer reads [runs, 9, 33]"),
        ({"v": np.ones((1, 9))}, "layer 'v' has no weights"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_their_layer_are_refused_by_name(masks: dict[str, np.ndarray], message: str):
    layers = {
        "c": LAYER,
        "b": Conv2d(name="b", n=2, k=3, c=2, p=4, q=4, r=1, s=1),
        "g": replace(PRODUCT, name="g"),
        "v": VectorOp(name="v", kind="add", input_elements=9, output_elements=9, operations=9),
    }
    ((name, values),) = masks.items()
    with pytest.raises(InvalidInputError) as caught:
        activation_mask(values, layers[name])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"x": Mask.from_bool(np.ones((1, 6, 14, 5)), row_axes=2)},
            "input mask for 'x': workload 'w' has no such layer",
        ),
        ({"c": Mask.from_bool(np.ones((1, 6, 5, 14)), row_axes=2)}, "layer 'c': mask of inputs (1, 6, 5, 14)"),
        ({"c": Mask.from_bool(np.ones((1, 6, 14, 5)))}, "in 1 rows; pack it with activation_mask"),
    ],
)
def test_simulate_refuses_masks_of_other_layers(masks: dict[str, Mask], message: str):
    with pytest.raises(InvalidInputError) as caught:
        simulate(load_accelerator("scnn"), Workload(name="w", layers=(LAYER,)), activation_masks=masks)
    assert message in str(caught.value)


def test_single_rows_of_a_product_may_come_without_their_axis():
    layer = Gemm(name="fc", m=1, n=4, k=10)
    inputs = drawn((3, 10), 0.5, 0)
    assert mean_products(layer, None, activation_mask(inputs, layer)) * 3 == 4 * inputs.sum()
    assert mean_products(layer, None, activation_mask(inputs[:, None], layer)) * 3 == 4 * inputs.sum()
    assert SCNN.skips("input")
