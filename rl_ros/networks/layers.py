"""Building blocks: encoders of observations, stacks of layers, and helpers that every algorithm uses."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl_ros.contract import Contract

Normalisation = Mapping[str, Mapping[str, Sequence[float]]]
"""`mean` and `std` of each vector that is normalised, by key; plain data, so that a bundle can hold it."""

DESIRED_GOAL = "desired_goal"
"""The key of the goal in a `Normalisation`."""


class PatchEncoder(nn.Module):
    """An image, cut into patches, as one vector of features.

    Each patch goes through the same two layers; one linear layer then sees all of them with their places. On a CPU
    this trains four to five times faster than a stack of strided 3x3 convolutions (measured at 64x64), because it is
    three large matrix products. Patch embedding: Dosovitskiy et al. 2021 (2010.11929), equation 1.

    Args:
        shape: (height, width, channels). An image is cut into about 8x8 patches, whatever its size.
        features: size of the vector.
    """

    GRID = 8
    PATCH_FEATURES = (32, 16)

    def __init__(self, shape: Sequence[int], features: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.patch = max(4, -(-max(height, width) // self.GRID))
        self.rows, self.columns = -(-height // self.patch), -(-width // self.patch)
        # Pixels that fill the last patches when the size is no multiple of theirs.
        self.padding = (0, 0, 0, self.columns * self.patch - width, 0, self.rows * self.patch - height)
        wide, narrow = self.PATCH_FEATURES
        self.embed = nn.Linear(self.patch * self.patch * channels, wide)
        self.refine = nn.Linear(wide, narrow)
        self.combine = nn.Sequential(
            nn.Linear(self.rows * self.columns * narrow, features), nn.LayerNorm(features), nn.ReLU()
        )

    def forward(self, image: Tensor) -> Tensor:
        """Features float32 (batch, features) of images uint8 (batch, height, width, channels)."""
        if any(self.padding):
            image = nn.functional.pad(image, self.padding)
        batch, channels, p = *image.shape[::3], self.patch
        patches = image.reshape(batch, self.rows, p, self.columns, p * channels).transpose(2, 3)
        pixels = patches.reshape(batch * self.rows * self.columns, p * p * channels).float()
        # Pixels go from 0..255 to -2..2 by way of the weights, of which there are far fewer.
        weight = self.embed.weight / 64.0
        embedded = nn.functional.linear(pixels, weight, self.embed.bias - 127.5 * weight.sum(1))
        tokens = torch.relu(self.refine(torch.relu(embedded)))
        features: Tensor = self.combine(tokens.view(batch, -1))
        return features


class Standardise(nn.Module):
    """Vectors less the mean of the data set, divided by its standard deviation, float32.

    Args:
        statistics: the `mean` and `std`; learning online `set` them anew as data come in.
        limit: what comes out is clipped to ± this; 0 leaves it as it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: Mapping[str, Sequence[float]], limit: float = 0.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.tensor(statistics["mean"], dtype=torch.float32))
        self.register_buffer("std", torch.tensor(statistics["std"], dtype=torch.float32))

    def set(self, statistics: Mapping[str, Sequence[float]]) -> None:
        """Use this mean and standard deviation from now on."""
        self.mean.copy_(torch.as_tensor(statistics["mean"], dtype=torch.float32))
        self.std.copy_(torch.as_tensor(statistics["std"], dtype=torch.float32))

    def forward(self, vector: Tensor) -> Tensor:
        """(batch, n) of any shape and dtype per row, flattened, standardised."""
        standardised = (vector.flatten(1).float() - self.mean) / self.std
        return standardised.clamp(-self.limit, self.limit) if self.limit else standardised


class ObservationEncoder(nn.Module):
    """A contract's observation, and its goal where the policy sees it, as one vector of features.

    Images (rank 3, uint8) each have a `PatchEncoder`; everything else is standardised. The features of the images
    can be asked for what the contract calls auxiliary, such as where the object is: a training signal only.
    """

    def __init__(
        self, contract: Contract, normalisation: Normalisation, image_features: int, vector_limit: float = 0.0
    ) -> None:
        super().__init__()
        keys = contract.observation
        images = [name for name, key in keys.items() if len(key.shape) == 3 and key.dtype == "uint8"]
        vectors = [name for name in keys if name not in images]
        if contract.goal.policy_input:
            vectors.append(DESIRED_GOAL)
        self.images = nn.ModuleDict({name: PatchEncoder(keys[name].shape, image_features) for name in images})
        self.vectors = nn.ModuleDict({name: Standardise(normalisation[name], vector_limit) for name in vectors})
        self.size = image_features * len(images) + sum(len(normalisation[name]["mean"]) for name in vectors)
        """How many features there are."""
        self.image_size = image_features * len(images)
        """How many of them, the first ones, come from images."""

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """Features float32 (batch, size) of raw observations and goals, batch first."""
        values = {**observation, DESIRED_GOAL: desired_goal}
        parts = [encode(values[name]) for name, encode in (*self.images.items(), *self.vectors.items())]
        return torch.cat(parts, dim=1)


def multilayer(sizes: Sequence[int], layer_norm: bool = False) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them, none after the last, and a LayerNorm before each ReLU."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(nn.Linear(inputs, outputs))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(outputs)] if layer_norm else []
            layers.append(nn.ReLU(inplace=True))  # nothing else needs what it replaces
    return nn.Sequential(*layers)


class StackedLinear(nn.Module):
    """`count` linear layers of the same size side by side, in one batched matrix product."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5  # the range nn.Linear draws from
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(count, batch, inputs) to (count, batch, outputs); inputs for fewer layers are for the first ones."""
        weight, bias = self.first(x.shape[0])
        return torch.baddbmm(bias, x, weight)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Weights and biases of the first layers; of all of them without slicing, whose gradient costs a copy."""
        if count == self.weight.shape[0]:
            return self.weight, self.bias
        return self.weight[:count], self.bias[:count]


def shift_images(image: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Images moved by up to `pixels` each way, their edges repeated: the random shifts of DrQ.

    Kostrikov et al. 2021 (2004.13649), section 3.1. One shift for the whole batch, drawn anew at every update, costs
    a fiftieth of a shift per image and over many updates shows the network the same.

    Args:
        image: uint8 (batch, height, width, channels).
    """
    if pixels == 0:
        return image
    height, width = image.shape[1:3]
    down, right = torch.randint(-pixels, pixels + 1, (2,), generator=generator, device=generator.device).tolist()
    # Slices, because index_select along the width takes thirty times as long.
    shifted = torch.empty_like(image)
    top, left = max(down, 0), max(right, 0)
    bottom, end = height + min(down, 0), width + min(right, 0)
    shifted[:, top:bottom, left:end] = image[:, top - down : bottom - down, left - right : end - right]
    shifted[:, :top], shifted[:, bottom:] = shifted[:, top : top + 1], shifted[:, bottom - 1 : bottom]
    shifted[:, :, :left], shifted[:, :, end:] = shifted[:, :, left : left + 1], shifted[:, :, end - 1 : end]
    return shifted


def gaussian_divergence(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL( q ‖ p ) of Gaussians with diagonal covariance, (batch,) from (batch, n) each."""
    variance_ratio = torch.exp(2.0 * (log_std - prior_log_std))
    distance = ((mean - prior_mean) * torch.exp(-prior_log_std)).square()
    return 0.5 * (variance_ratio + distance - 1.0).sum(1) + (prior_log_std - log_std).sum(1)


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move each weight of `target` the share `rate` of the way to `source`: a target network, or a running mean."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


def frozen(module: nn.Module, *inputs: Tensor, **options: Any) -> Tensor:
    """What the module makes of its inputs, with gradients for the inputs and none for its weights.

    For a loss that looks through a critic at the action: half of the arithmetic of its backward pass would otherwise
    go into gradients of the critic's weights that nobody wants.
    """
    if torch.compiler.is_compiling():  # a compiled graph cannot switch gradients off and on, but costs nothing for this
        detached = {name: weight.detach() for name, weight in module.named_parameters()}
        output: Tensor = torch.func.functional_call(module, detached, inputs, options)
        return output
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        output = module(*inputs, **options)
    finally:
        for weight in weights:
            weight.requires_grad_(True)
    return output
