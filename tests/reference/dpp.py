"""Slow twin of cosim.pruning.dpp_sampler: the k successive softmaxes as a loop, gradients by autograd."""

import itertools

import torch
from torch import Tensor


def pick_order(perturbed: Tensor, k: int, order: str = "score_order") -> list[list[int]]:
    """Indices of the k largest of each row by a Python sort; ties to the lower index."""
    picks = [sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:k] for row in perturbed.tolist()]  # type: ignore[misc]
    return [sorted(row) for row in picks] if order == "index_order" else picks


def naive_soft_mask(perturbed: Tensor, picks: Tensor, temperature: float) -> Tensor:
    """Σ_j softmax of what the j - 1 earlier picks left; differentiable, [rows, n] saved k times."""
    x = perturbed / temperature
    taken = torch.zeros_like(x, dtype=torch.bool)
    total = torch.zeros_like(x)
    for j in range(picks.shape[1]):
        total = total + x.masked_fill(taken, -torch.inf).softmax(1)
        taken = taken.scatter(1, picks[:, j : j + 1], True)
    return total


def naive_gradient(perturbed: Tensor, picks: Tensor, temperature: float, grad: Tensor) -> Tensor:
    """Gradient of Σ grad ⊙ S with respect to the perturbed logits."""
    leaf = perturbed.detach().clone().requires_grad_(True)
    (naive_soft_mask(leaf, picks, temperature) * grad).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def exact_subsets(theta: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(chance of every k-subset in the order of itertools.combinations, marginals [n]); differentiable."""
    subsets = list(itertools.combinations(range(len(theta)), k))
    chances = torch.stack([theta[list(subset)].sum() for subset in subsets]).softmax(0)
    members = torch.tensor([[i in subset for i in range(len(theta))] for subset in subsets])
    return chances, (chances[:, None] * members).sum(0)
