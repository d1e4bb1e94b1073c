"""Plan files: what is written is read, and what cannot be used is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cosim.errors import PruningError
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan, load_plan


@st.composite
def filter_plans(draw: st.DrawFn) -> FilterPlan:
    n = draw(st.integers(1, 64))
    k = draw(st.integers(1, n))
    keep = draw(st.none() | st.permutations(range(n)).map(lambda order: tuple(sorted(order[:k]))))
    return FilterPlan(k=k, n=n, keep=keep)


@st.composite
def mask_plans(draw: st.DrawFn) -> MaskPlan:
    n = draw(st.integers(1, 64))
    return MaskPlan(granularity=draw(st.sampled_from(["weight", "kernel"])), k=draw(st.integers(1, n)), n=n)


layer_plans = st.builds(
    LayerPlan,
    filters=st.none() | filter_plans(),
    mask=st.none() | mask_plans(),
    weight_bits=st.integers(1, 32),
    activation_bits=st.none() | st.integers(2, 16),
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), layer_plans, max_size=4))
def test_a_plan_survives_json(layers: dict[str, LayerPlan]) -> None:
    plan = PruningPlan(network="digits_resnet", layers=layers)
    assert PruningPlan.model_validate_json(plan.to_json()) == plan


def test_a_plan_file_is_read_as_written(tmp_path: Path) -> None:
    filters = FilterPlan(k=2, n=4, keep=(0, 3))
    plan = PruningPlan(network="größe", layers={"conv1": LayerPlan(filters=filters, weight_bits=4)})
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    assert load_plan(path) == plan


def test_the_channels_that_stay_are_one_line_of_the_file() -> None:
    filters = FilterPlan(k=3, n=4, keep=(0, 2, 3))
    text = PruningPlan(network="[\n1]", layers={"conv1": LayerPlan(filters=filters)}).to_json()
    assert '    "keep": [0, 2, 3]\n' in text
    assert "groups" not in text
    named = PruningPlan(network="x", groups={"conv1": filters})
    assert PruningPlan.model_validate_json(named.to_json()) == named


def test_a_layer_that_is_not_named_is_dense_at_8_bits() -> None:
    assert PruningPlan(network="x")["conv1"] == LayerPlan(filters=None, mask=None, weight_bits=8)


def _layer(**fields: Any) -> dict[str, Any]:
    return {"version": 1, "network": "digits_resnet", "layers": {"conv1": fields}}


BAD: dict[str, tuple[Any, str, str]] = {
    "filters k > n": (_layer(filters={"k": 17, "n": 16}), "layers.conv1.filters", "use k <= n"),
    "mask k > n": (_layer(mask={"granularity": "weight", "k": 9, "n": 8}), "layers.conv1.mask", "use k <= n"),
    "zero kept": (_layer(filters={"k": 0, "n": 16}), "layers.conv1.filters.k", "greater than or equal to 1"),
    "keep outside": (_layer(filters={"k": 1, "n": 16, "keep": [16]}), "layers.conv1.filters", "outside 0..15"),
    "keep negative": (_layer(filters={"k": 1, "n": 16, "keep": [-1]}), "layers.conv1.filters", "outside 0..15"),
    "keep twice": (_layer(filters={"k": 2, "n": 16, "keep": [1, 1]}), "layers.conv1.filters", "different indices"),
    "keep unsorted": (_layer(filters={"k": 2, "n": 16, "keep": [2, 1]}), "layers.conv1.filters", "ascending"),
    "keep too few": (_layer(filters={"k": 2, "n": 16, "keep": [1]}), "layers.conv1.filters", "k = 2"),
    "bits": (_layer(weight_bits=33), "layers.conv1.weight_bits", "33"),
    "bits as text": (_layer(weight_bits="8"), "layers.conv1.weight_bits", "'8'"),
    "granularity": (_layer(mask={"granularity": "row", "k": 1, "n": 8}), "granularity", "'weight' or 'kernel'"),
    "one activation bit": (_layer(activation_bits=1), "layers.conv1.activation_bits", "1"),
    "unknown key": (_layer(weight_bit=4), "layers.conv1.weight_bit", "did you mean 'weight_bits'"),
    "version": ({"version": 2, "network": "x"}, "version", "2"),
    "no network": ({"version": 1}, "network", "required"),
    "a list": ([], "(top)", "should be an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_plan_that_cannot_be_used_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, field, remedy = BAD[case]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PruningError) as caught:
        load_plan(path)
    message = str(caught.value)
    assert str(path) in message
    assert field in message
    assert remedy in message
    assert "\n" not in message


def test_nan_is_no_filter_count(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"version": 1, "network": "x", "layers": {"a": {"filters": {"k": NaN, "n": 4}}}}')
    with pytest.raises(PruningError, match=r"layers\.a\.filters\.k"):
        load_plan(path)


@pytest.mark.parametrize("content", [b"", b"{", b"rows: 4", b"\xff\xfe\x00binary"])
def test_a_file_that_is_no_json_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PruningError, match="give the path of a plan file") as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_path_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="cannot be read"):
        load_plan(tmp_path / name)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        LayerPlan().weight_bits = 4
