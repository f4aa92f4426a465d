"""The search for the action with the largest Q, where there is no actor to ask."""

from typing import Protocol

import torch
from torch import Tensor, nn

from rl_ros.networks.grasp_q import GraspQ, Scene


class Judge(Protocol):
    """What is searched: a `GraspQ`, or something that judges as one does."""

    def plain(self, action: Tensor) -> Tensor:
        """See `GraspQ.plain`."""

    def judge(self, scene: Scene, action: Tensor) -> Tensor:
        """See `GraspQ.judge`."""


class CrossEntropyMethod(nn.Module):
    """argmax_a Q(s, a) for many states at once (1806.10293, section 4.2; Rubinstein and Kroese 2004).

    Continuous entries are drawn from a Gaussian and clipped to their limits, discrete ones from a Bernoulli. The
    deviation has a floor, and so has the probability of either limit, so that no iteration decides for good.

    Args:
        q: whose actions are searched.
        samples: drawn in each iteration.
        elites: that the next one's distribution is fitted to.
        iterations: how many.
        least_std: floor of the deviation, where half of an action's range is 1.
    """

    LEAST_PROBABILITY = 0.1
    """Of each limit of a discrete entry."""

    noise: Tensor
    uniform: Tensor
    is_discrete: Tensor
    share: Tensor

    def __init__(self, q: GraspQ, samples: int, elites: int, iterations: int, least_std: float) -> None:
        super().__init__()
        layout = q.layout
        self.samples, self.elites, self.iterations, self.least_std = samples, elites, iterations, least_std
        size = len(layout.low)
        generator = torch.Generator().manual_seed(0)
        shape = (self.iterations, self.samples, size)
        self.register_buffer("noise", torch.randn(shape, generator=generator), persistent=False)
        self.register_buffer("uniform", torch.rand(shape, generator=generator), persistent=False)
        self.register_buffer("is_discrete", layout.is_discrete, persistent=False)
        share = torch.full((size,), 0.5)
        if q.terminate >= 0:
            share[q.terminate] = self.LEAST_PROBABILITY  # all of these are one action
        self.register_buffer("share", share, persistent=False)

    def forward(self, q: Judge, scene: Scene) -> tuple[Tensor, Tensor]:
        """The best action found, (batch, A) scaled to -1..1, and its logit, (batch,)."""
        batch, size = len(scene.hand), self.noise.shape[2]
        # The first actions are the same in every state, so that what concerns them alone is computed once.
        mean, std, share = torch.zeros(1, 1, size), torch.full((1, 1, size), 0.6), self.share.view(1, 1, size)
        best, logit = mean[:, 0], mean[:, 0, 0]
        for iteration in range(self.iterations):
            continuous = (mean + std * self.noise[iteration]).clamp(-1.0, 1.0)
            high = (self.uniform[iteration] < share).float() * 2.0 - 1.0
            actions = q.plain(torch.where(self.is_discrete, high, continuous))
            logits = q.judge(scene, actions)
            found, index = torch.topk(logits, self.elites, dim=1)
            elite = torch.gather(actions.expand(batch, -1, -1), 1, index[:, :, None].expand(-1, -1, size))
            best, logit = elite[:, 0], found[:, 0]
            mean = elite.mean(1, keepdim=True)
            deviation = (elite - mean).square().mean(1, keepdim=True).sqrt()
            std = deviation.clamp(min=self.least_std)
            share = ((mean + 1.0) / 2.0).clamp(self.LEAST_PROBABILITY, 1.0 - self.LEAST_PROBABILITY)
        return best, logit
