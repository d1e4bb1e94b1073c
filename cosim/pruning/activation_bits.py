"""8-bit (or other) inputs of layers: fake quantization in front of a convolution or linear layer.

The range is a running maximum of the batches seen in training mode, as in Jacob et al. 2018, arXiv 1712.05877, section
3.1; evaluation uses it as it is. Inputs that were never negative get 2^b - 1 steps of [0, max], others
±(2^(b-1) - 1) steps of [-max, max]. The gradient passes straight through inside the range and is 0 outside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cosim.errors import PruningError

_NAME = "input_quantizer"
_MEMORY = 0.99
"""Share of the old range that stays after a batch: arXiv 1712.05877 asks for a value close to 1."""


def _rounded(x: Tensor, low: Any, high: Any, step: Any) -> Tensor:
    """x in [low, high] on multiples of the step; numbers or tensors of one element."""
    return x.clamp(low, high).div(step).round() * step


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return _rounded(x, low, high, step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None, None


class ActivationQuantizer(nn.Module):
    """Rounds its input to 2^bits - 1 levels; without any batch seen in training mode it changes nothing.

    Parameters
    ----------
    bits : int, 2..16
    layer : str
        Named in messages.
    """

    size: Tensor
    lowest: Tensor

    def __init__(self, bits: int, layer: str = "layer") -> None:
        super().__init__()
        if not 2 <= bits <= 16:
            raise PruningError(f"{layer}: activation_bits = {bits}; use 2 to 16")
        self.bits = bits
        self.fixed: tuple[float, float, float] | None = None
        self.register_buffer("size", torch.zeros(()))
        self.register_buffer("lowest", torch.zeros(()))

    @torch.no_grad()
    def _watch(self, x: Tensor) -> None:
        size = x.abs().amax()
        self.size.copy_(torch.where(self.size > 0, _MEMORY * self.size + (1 - _MEMORY) * size, size))
        self.lowest.copy_(torch.minimum(self.lowest, x.amin()))

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed is not None:
            return _rounded(x, *self.fixed) if self.fixed[1] > 0.0 else x
        if self.training:
            self._watch(x.detach())
        low, high, step = (value.to(x.dtype) for value in self._range())
        rounded: Tensor = _Rounded.apply(x, low, high, step)
        return rounded if self.training else torch.where(self.size > 0.0, rounded, x)

    def fix(self) -> None:
        """Take the range as it is now, as numbers: from then on plain operators, which files of others can hold."""
        low, high, step = (float(value) for value in self._range())
        self.fixed = low, high, step

    def _range(self) -> tuple[Tensor, Tensor, Tensor]:
        """(lowest, highest, step), without a branch on values: devices need not wait for each other."""
        signed = self.lowest < 0.0
        steps = torch.where(signed, 2.0 ** (self.bits - 1) - 1.0, 2.0**self.bits - 1.0)
        step = torch.where(self.size > 0.0, self.size / steps, 1.0)
        return torch.where(signed, -self.size, 0.0), self.size, step

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def attach_activation_quantizers(model: nn.Module, bits: Mapping[str, int]) -> None:
    """Quantize the input of each named layer to its bits, in place; the ranges are part of the state_dict.

    Raises
    ------
    PruningError
        A layer is missing, no Conv2d or Linear, or has quantized inputs already; or bits is not in 2..16. Nothing has
        been attached then.
    """
    modules = dict(model.named_modules())
    for name, count in bits.items():
        if not isinstance(modules.get(name), nn.Conv2d | nn.Linear):
            raise PruningError(f"{name}: activation_bits: no Conv2d or Linear layer of that name; check it")
        if hasattr(modules[name], _NAME):
            raise PruningError(f"{name}: its inputs are quantized already; detach_activation_quantizers first")
        ActivationQuantizer(count, name)
    for name, count in bits.items():
        quantizer = ActivationQuantizer(count, name).train(modules[name].training)
        modules[name].add_module(_NAME, quantizer.to(next(modules[name].parameters()).device))
        modules[name].register_forward_pre_hook(_quantize_input)


def _quantize_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer = getattr(module, _NAME, None)
    return args if quantizer is None else (quantizer(args[0]), *args[1:])


def detach_activation_quantizers(model: nn.Module) -> None:
    """Remove them, in place."""
    for module in model.modules():
        if hasattr(module, _NAME):
            delattr(module, _NAME)
            hooks = module._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is _quantize_input]:
                del hooks[key]
