"""Critics: several functions of features at once, computed side by side."""

import itertools
from typing import cast

import torch
from torch import Tensor, nn

from rl_ros.networks.layers import StackedLinear


class StackedCritic(nn.Module):
    """`count` independent networks with one output, in one batched product a layer.

    Two of them on features and action are the twin critics Q1 and Q2; one on features is a value function.

    Args:
        count: how many networks.
        inputs: size of what they all look at.
        hidden_size: width of the hidden layers.
        hidden_layers: how many of them.
        layer_norm: whether each is followed by a LayerNorm, whose scale and shift the networks share.
    """

    def __init__(
        self, count: int, inputs: int, hidden_size: int, hidden_layers: int = 2, layer_norm: bool = True
    ) -> None:
        super().__init__()
        self.count = count
        sizes = [inputs] + [hidden_size] * hidden_layers + [1]
        self.layers = nn.ModuleList([StackedLinear(count, *pair) for pair in itertools.pairwise(sizes)])
        self.norms = nn.ModuleList(
            [nn.LayerNorm(hidden_size) if layer_norm else nn.Identity() for _ in range(hidden_layers)]
        )

    def forward(self, *inputs: Tensor, first: int | None = None) -> Tensor:
        """Values float32 (count, batch) of inputs that are (batch, n) each, concatenated.

        Args:
            first: how many of the networks to ask, the first ones; all by default.
        """
        x = torch.cat(inputs, dim=1).expand(first or self.count, -1, -1)
        *hidden, last = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            x = torch.relu_(norm(layer(x)))
        # With one output, multiplying and adding up takes a third of the time of a matrix product (measured).
        weight, bias = cast(StackedLinear, last).first(x.shape[0])
        return (x * weight.transpose(1, 2)).sum(2) + bias.squeeze(2)
