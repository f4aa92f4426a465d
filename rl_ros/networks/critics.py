"""Critics: several functions of features at once, computed side by side."""

import torch
from torch import Tensor, nn

from rl_ros.networks.layers import StackedLinear


class StackedCritic(nn.Module):
    """`count` independent networks with two hidden layers and one output, in one batched product a layer.

    Two of them on features and action are the twin critics Q1 and Q2; one on features is a value function.

    Args:
        count: how many networks.
        inputs: size of what they all look at.
        hidden_size: width of both hidden layers.
    """

    def __init__(self, count: int, inputs: int, hidden_size: int) -> None:
        super().__init__()
        self.count = count
        self.layers = nn.ModuleList(
            [
                StackedLinear(count, inputs, hidden_size),
                StackedLinear(count, hidden_size, hidden_size),
                StackedLinear(count, hidden_size, 1),
            ]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Values float32 (count, batch) of inputs that are (batch, n) each, concatenated."""
        x = torch.cat(inputs, dim=1).expand(self.count, -1, -1)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        values: Tensor = self.layers[-1](x).squeeze(2)
        return values
