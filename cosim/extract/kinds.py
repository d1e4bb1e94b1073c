"""Which modules and operators are free, and which are vector work of what kind (see the package's conventions)."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import activation, batchnorm, dropout, instancenorm, padding, pooling

from cosim.pruning.tracing import ACTIVATIONS

ADVICE = "use convolutions, linear layers, attention, normalisation, activations, pooling and element-wise operators"

FUNCTION_MODULES = (*ACTIVATIONS, dropout._DropoutNd, nn.Identity, nn.PReLU, nn.Threshold, activation.Softshrink)
"""Element-wise functions of one tensor."""
FREE_MODULES = (
    *FUNCTION_MODULES, batchnorm._BatchNorm, nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle,
    nn.PixelUnshuffle, nn.Unfold,
)  # fmt: skip
VECTOR_MODULES: tuple[tuple[tuple[type, ...], str], ...] = (
    (
        (
            pooling._AvgPoolNd, pooling._MaxPoolNd, pooling._LPPoolNd, pooling._AdaptiveAvgPoolNd,
            pooling._AdaptiveMaxPoolNd,
        ),
        "pool",
    ),
    ((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm, instancenorm._InstanceNorm), "normalization"),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmax2d), "softmax"),
    ((nn.Upsample,), "resize"),
    ((padding._ConstantPadNd, padding._ReflectionPadNd, padding._ReplicationPadNd), "pad"),
    ((nn.Embedding,), "embedding"),
)  # fmt: skip

FREE = frozenset(
    """
    getattr getitem view reshape flatten unflatten permute transpose swapaxes movedim moveaxis squeeze unsqueeze t ravel
    cat concat concatenate stack chunk split split_with_sizes unbind select slice expand
    expand_as repeat tile roll flip index_select
    channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle unfold batch_norm size zeros_like ones_like
    tril triu arange zeros ones full empty
    """.split()  # noqa: SIM905  a table
)
FUNCTIONS = frozenset(
    """
    relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid logsigmoid tanh hardtanh hardswish hardsigmoid softplus
    softsign prelu neg abs sqrt rsqrt square exp log log1p clamp clip clamp_min clamp_max erf sin cos round sign
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout contiguous clone detach to type type_as float
    double half bfloat16 masked_fill nan_to_num logical_not lift_fresh_copy lift_fresh
    """.split()  # noqa: SIM905  a table
)
"""Element-wise functions of one tensor."""
ELEMENTWISE = {
    **{name: name for name in "add sub mul truediv pow where maximum minimum eq ne lt le gt ge".split()},  # noqa: SIM905
    "iadd": "add", "radd": "add", "isub": "sub", "rsub": "sub", "imul": "mul", "rmul": "mul", "itruediv": "truediv",
    "div": "truediv", "lerp": "lerp", "addcmul": "addcmul", "logical_and": "and_", "logical_or": "or_",
}  # fmt: skip
"""Operator -> the name that it is counted by."""
VECTORS = {
    **dict.fromkeys(
        (
            "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "lp_pool1d", "lp_pool2d", "adaptive_avg_pool1d",
            "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "boolean_dispatch",
            "mean", "sum", "amax", "amin", "std", "var", "argmax", "argmin", "norm", "prod", "logsumexp",
        ),
        "pool",
    ),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm", "normalize"), "normalization"
    ),
    **dict.fromkeys(("softmax", "log_softmax"), "softmax"),
    **dict.fromkeys(("interpolate", "upsample_nearest2d", "upsample_bilinear2d"), "resize"),
}  # fmt: skip
"""Operator -> kind of vector work on its first argument."""
