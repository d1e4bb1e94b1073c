"""Study files: what cannot be searched is refused in one line that names file, field and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cosim.codesign.check import check_study
from cosim.codesign.study import StudySpec, load_study, parse_mask
from cosim.errors import ConfigError
from tests.cosim.conftest import EXAMPLE, tiny, write_study

NAN, INF = float("nan"), float("inf")

# changes -> field, remedy
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown key": ({"search__trails": 9}, "search.trails", "did you mean 'trials'"),
    "unknown key at the top": ({"netwrk": "x"}, "netwrk", "did you mean 'network'"),
    "zero trials": ({"search__trials": 0}, "search.trials", "greater than or equal to 1 (given: 0)"),
    "negative trials": ({"search__trials": -5}, "search.trials", "(given: -5)"),
    "trials NaN": ({"search__trials": NAN}, "search.trials", "nan"),
    "population of one": ({"search__population": 1}, "search.population", "greater than or equal to 2"),
    "unknown sampler": ({"search__sampler": "nsga22"}, "search.sampler", "did you mean 'nsga2'"),
    "unknown criterion": ({"plan__criterion": "nuclear"}, "plan.criterion", "did you mean 'nuclear_norm'"),
    "worst NaN": ({"worst__energy_pj": NAN}, "worst.energy_pj", "finite"),
    "worst infinite": ({"worst__latency_ms": INF}, "worst.latency_ms", "finite"),
    "worst zero": ({"worst__energy_pj": 0}, "worst.energy_pj", "greater than 0"),
    "worst accuracy of one": ({"worst__accuracy": 1.0}, "worst.accuracy", "less than 1"),
    "area NaN": ({"limits__area_mm2": NAN}, "limits.area_mm2", "finite"),
    "area negative": ({"limits__area_mm2": -1}, "limits.area_mm2", "greater than 0"),
    "no limits": ({"limits": None}, "limits", "valid dictionary"),
    "learning rate NaN": ({"training__finetune_lr": NAN}, "training.finetune_lr", "finite"),
    "negative epochs": ({"training__finetune_epochs": -1}, "training.finetune_epochs", "greater than or equal to 0"),
    "negative seed": ({"seed": -1}, "seed", "greater than or equal to 0"),
    "no repeats": ({"repeats": 0}, "repeats", "greater than or equal to 1"),
    "name with a slash": ({"name": "a/b"}, "name", "pattern"),
    "name above": ({"name": ".."}, "name", "pattern"),
    "keep NaN": ({"plan__keep": [1.0, NAN]}, "plan.keep.1", "nan"),
    "keep zero": ({"plan__keep": [0]}, "plan.keep.0", "greater than 0"),
    "keep above one": ({"plan__keep": [1.5]}, "plan.keep.0", "less than or equal to 1"),
    "keep empty": ({"plan__keep": []}, "plan", "keep: give at least one value"),
    "keep twice": ({"plan__keep": [0.5, 0.5]}, "plan", "0.5 is there twice"),
    "mask k > n": ({"plan__masks": ["weight 9:8"]}, "plan.masks", "k = 9 of n = 8; use 1 <= k <= n"),
    "mask k = 0": ({"plan__masks": ["weight 0:8"]}, "plan.masks", "use 1 <= k <= n"),
    "mask unknown": ({"plan__masks": ["filter 0.5"]}, "plan.masks", "must read"),
    "mask NaN": ({"plan__masks": ["kernel nan"]}, "plan.masks", "0 < R <= 1"),
    "mask above one": ({"plan__masks": ["kernel 2"]}, "plan.masks", "0 < R <= 1"),
    "masks empty": ({"plan__masks": []}, "plan", "masks: give at least one value"),
    "bits zero": ({"plan__weight_bits": [0]}, "plan.weight_bits.0", "greater than or equal to 1"),
    "bits that no multiplier holds": ({"plan__weight_bits": [8, 16]}, "hardware.base", "16 bits"),
    "unknown accelerator": ({"hardware__base": "edge_os_16x61"}, "hardware.base", "nearest: 'edge_os_16x16'"),
    "missing accelerator file": ({"hardware__base": "no.yaml"}, "hardware.base", "no.yaml"),
    "vary unknown field": ({"hardware__vary": {"pe_array.row": [4]}}, "hardware.vary.pe_array.row", "mean 'rows'"),
    "vary unknown memory": ({"hardware__vary": {"memories.x.banks": [4]}}, "hardware.vary.memories.x", "there are"),
    "vary zero": ({"hardware__vary": {"pe_array.rows": [8, 0]}}, "hardware.vary.pe_array.rows", "given: 0"),
    "vary NaN": ({"hardware__vary": {"clock_mhz": [NAN]}}, "hardware.vary.clock_mhz", "given: nan"),
    "vary empty": ({"hardware__vary": {"pe_array.rows": []}}, "hardware.vary", "pe_array.rows: give at least one"),
    "vary no list": ({"hardware__vary": {"pe_array.rows": 4}}, "hardware.vary.pe_array.rows", "valid list"),
    "vary twice": ({"hardware__vary": {"pe_array.rows": [4, 4.0]}}, "hardware.vary", "4.0 is there twice"),
    "vary within": (
        {"hardware__vary": {"weight_sparsity": [{"action": "none"}], "weight_sparsity.format": ["dense"]}},
        "hardware.vary",
        "both set weight_sparsity.format",
    ),
    "vary a whole list": ({"hardware__vary": {"memories.dram": [1]}}, "hardware.vary.memories.dram", "given: 1"),
    "vary into a wrong price": (
        {"hardware__vary": {"memories.dram.dram_type": ["LPDDR4", "DDR9"]}},
        "hardware.vary.memories.dram.dram_type",
        "'DDR9' is none of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_study_that_cannot_be_used_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    changes, field, remedy = BAD[case]
    path = write_study(tmp_path / "study.yaml", tiny(**changes))
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    message = str(caught.value)
    assert str(path) in message
    assert field in message
    assert remedy in message
    assert "\n" not in message


LATER: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown network": ({"network": "digits_resnt"}, "network", "did you mean 'digits_resnet'"),
    "network of nobody": ({"network": "nowhere:net"}, "network", "cannot be imported"),
    "unknown data set": ({"dataset": "digit"}, "dataset", "did you mean 'digits'"),
    "network for other images": ({"network": "resnet20_cifar"}, "network", "choose another network or data set"),
    "pattern without layer": ({"plan__blocks": {"b": ["conv9"]}}, "plan.blocks.b", "matches no layer"),
    "impossible area": ({"limits__area_mm2": 1e-6}, "limits.area_mm2", "raise the limit"),
}


@pytest.mark.parametrize("case", LATER)
def test_what_only_network_and_data_show_is_refused_before_any_training(case: str, tmp_path: Path) -> None:
    changes, field, remedy = LATER[case]
    spec = load_study(write_study(tmp_path / "study.yaml", tiny(**changes)))
    with pytest.raises(ConfigError) as caught:
        check_study(spec, "my.yaml")
    message = str(caught.value)
    assert message.startswith(f"my.yaml: {field}")
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"name: {", b"\xff\xfe\x00", b"a: \x00"])
def test_a_file_that_holds_no_study_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        load_study(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read"):
        load_study(tmp_path / "no.yaml")


def test_the_example_is_a_study() -> None:
    spec = load_study(EXAMPLE)
    check_study(spec)
    assert spec.search.trials >= 200
    assert spec.repeats == 5


def test_a_study_survives_yaml() -> None:
    spec = load_study(EXAMPLE)
    assert StudySpec.model_validate(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))) == spec


def test_yaml_exponents_without_a_sign_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 2e7 as text."""
    text = yaml.safe_dump(tiny()).replace("energy_pj: 20000000.0", "energy_pj: 2e7")
    assert "2e7" in text
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert load_study(path).worst.energy_pj == 2e7


@given(k=st.integers(1, 99), n=st.integers(1, 99))
def test_weight_masks_are_read_as_k_of_n(k: int, n: int) -> None:
    if k <= n:
        assert parse_mask(f"weight {k}:{n}") == ("weight", k, n)
    else:
        with pytest.raises(ValueError, match="use 1 <= k <= n"):
            parse_mask(f"weight {k}:{n}")


@pytest.mark.parametrize(
    "text", ["", "dense 1", "weight", "weight 1", "weight 1:2:3", "weight a:b", "kernel", "kernel x"]
)
def test_other_words_are_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match="must read"):
        parse_mask(text)


def test_masks_without_k() -> None:
    assert parse_mask("dense") is None
    assert parse_mask("kernel 0.25") == ("kernel", 0.25)
