"""The only bridge from networks to hardware: nn.Module + example input -> Workload, PruningPlan -> weight structures.

Conventions, which `accel_models.importers.onnx` shares:

- Convolutions (1-D ones have height 1) are Conv2d; linear layers and products with a stored matrix are Gemm; products
  of two activations (attention) are Gemm with `b_source="activation"`, `groups` = batch x heads. The bias is free.
  `scaled_dot_product_attention` is three layers: `NAME.scores`, `NAME.softmax`, `NAME.context`.
- Free, because they ride on the layer that produces or reads the tensor: element-wise functions of one tensor (ReLU,
  GELU, a scale by a number, x · sigmoid(x)), batch normalisation, dropout, a constant mask before a softmax, and all
  that only moves, joins or cuts tensors (view, permute, slice, chunk, cat, roll, channel shuffle).
- Vector work with its traffic (VectorOp): `pool` (pooling, mean, sum and other reductions; an operation for each
  element read), `normalization` (layer, group, instance, RMS), `softmax`, `elementwise` on two or more tensors, `pad`,
  `resize` and `embedding` (the rows read and written); an operation for each element written.
- A layer is called after its module; what has no module after its operator, counted: add, add_1. A module that runs
  again is NAME#1.
"""

from cosim.extract.capture import capture_activations
from cosim.extract.extractor import extract_workload
from cosim.extract.structures import check_structures, repeated_layers, weight_masks, weight_structures

__all__ = [
    "capture_activations",
    "check_structures",
    "extract_workload",
    "repeated_layers",
    "weight_masks",
    "weight_structures",
]
