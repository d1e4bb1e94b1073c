"""First weights that several networks share."""

from __future__ import annotations

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Convolutions normal with variance 2 / fan-out, their biases 0 (He et al., arXiv 1502.01852, section 2.2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def truncated_normal(network: nn.Module, std: float = 0.02) -> None:
    """Linear layers and embeddings truncated normal, biases 0 (Touvron et al., arXiv 2012.12877, section 6)."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
