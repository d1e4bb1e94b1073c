"""Learn which 2 of every 8 weights stay, on the embedded digits images: seconds on one core.

python examples/dpp_digits.py
"""

from torch import nn

from cosim.data import load_dataset
from cosim.networks import build_network
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.mask_metrics import MaskHistory
from cosim.pruning.plan import MaskPlan
from cosim.training import Recipe, evaluate, fit, recalibrate_batchnorm

data = load_dataset("digits")
network = build_network("digits_resnet")
fit(network, data.train, Recipe(epochs=10, lr=0.003, optimizer="adam"), seed=0)
print(f"dense: {evaluate(network, data.test):.1%}")

layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)][1:]
attach_masks(network, {name: MaskPlan(granularity="weight", k=2, n=8) for name in layers})
schedule, history = MaskSchedule(), MaskHistory()
history.record(network, 0.0)
fit(
    network,
    data.train,
    Recipe(epochs=5, lr=0.003, optimizer="adam"),
    seed=0,
    on_step=lambda done: schedule.apply(network, done),
)
history.record(network, 5.0)
for record in history.records[len(layers) :]:
    print(f"{record.layer}: {record.churn:.0%} of the kept weights are others than at the start")
masks = freeze_masks(network)
recalibrate_batchnorm(network, data.train)
kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
print(f"{kept:.0%} of their weights: {evaluate(network, data.test):.1%}")
