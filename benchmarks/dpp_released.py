"""LeNet-5 as the authors of dynamic probabilistic pruning trained it: their network, their masks, their rate.

Read from github lizethgo/DPP_sparse (commit c528d52): `tiling/lenet5/lenet_5_caffe_load.py` loads the checkpoint of
99.24 % (epoch 13), `tiling/lenet5/quantized/model_1` trains and loads that of 99.42 % (epoch 76); both figures are
validation accuracies of the best epoch of up to 100. What both have in common is easily missed: **the output layer has
no mask, nor does the first convolution** ("20" is 20 of its 20 filters), and padded convolutions hand 2,450 features to
the hidden layer, where Caffe's LeNet-5 has 800.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from benchmarks.dpp_tables import Setting, Tables, load, masked_run, row_plans
from cosim.networks import build_network
from cosim.pruning.dpp_layout import Plan
from cosim.pruning.mask_methods import DynamicProbabilistic
from cosim.pruning.plan import MaskPlan
from cosim.pruning.quantize import attach_quantizers, freeze_quantizers
from cosim.training import fit

RELEASED = Setting("mnist", 3, 20, 1e-3, "adam", 64, 0.0, augment=False, precision="bfloat16")
"""Adam, rate and batch are the authors'; the first 3 epochs are dense (they start from random masks)."""
NETWORKS = {"authors' network": f"{__name__}:authors_lenet5", "Caffe's LeNet-5": "lenet5"}
TILED = "two tiles, 8 bit"


def authors_lenet5() -> nn.Module:
    """Two padded 5x5 convolutions of 20 and 50 filters, ReLU and pooling after each, 500 hidden units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(1, 20, 5, padding=2),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5, padding=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(50 * 7 * 7, 500),
        relu3=nn.ReLU(inplace=True),
        fc2=nn.Linear(500, 10),
    )
    return nn.Sequential(layers)


class EightBit(DynamicProbabilistic):
    """DPP with 8-bit weights in every layer, from the first step (the authors leave the output layer in float32)."""

    def attach(self, model: nn.Module, plans: Mapping[str, Plan], *, seed: int) -> None:
        super().attach(model, plans, seed=seed)
        attach_quantizers(model, dict.fromkeys(row_plans(model, 1.0), 8))

    def finish(self, model: nn.Module) -> dict[str, torch.Tensor]:
        masks = super().finish(model)
        freeze_quantizers(model)
        return masks


def released_plans(features: int) -> dict[str, dict[str, MaskPlan]]:
    """Masks by the number of inputs of the hidden layer.

    "20 of 50": their second convolution keeps, of the 50 weights at one place of one input channel, 20; here a row is
    an output map, of the same density: 200 of 500. "Two tiles": each map reads 10 of 20 channels (theirs in two fixed
    groups), each hidden unit 25 inputs of each half. The last reading masks the output layer too.
    """
    of = partial(MaskPlan, granularity="weight")
    return {
        "conv2 20 of 50, fc1 10 of n": {"conv2": of(k=200, n=500), "fc1": of(k=10, n=features)},
        TILED: {"conv2": MaskPlan(granularity="kernel", k=10, n=20), "fc1": of(k=25, n=features // 2)},
        "fc1 10 of n, outputs 10 of 500": {"fc1": of(k=10, n=features), "fc2": of(k=10, n=500)},
    }


def released(options: argparse.Namespace) -> Tables:
    """Both networks with every reading of the masks."""
    data, tables = load("mnist", options.data), Tables(options.out, RELEASED)
    for seed in options.seeds:
        for label, name in NETWORKS.items():
            warm = build_network(name, seed)
            fit(warm, data.train, RELEASED.recipe(RELEASED.dense_epochs), seed=seed)
            features = warm.get_parameter("fc1.weight").shape[1]
            for target, plans in released_plans(features).items():
                method = EightBit if target == TILED else DynamicProbabilistic
                run = masked_run(warm, method, plans, data, RELEASED, seed)
                tables.add({"network": label, "method": "dpp", "target": target, "seed": seed}, run)
    return tables
