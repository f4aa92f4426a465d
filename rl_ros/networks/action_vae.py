"""A generative model of what was done: actions like the recorded ones, for a given state."""

import torch
from torch import Tensor, nn

from rl_ros.networks.layers import multilayer


class ActionVAE(nn.Module):
    """A conditional variational auto-encoder of actions, as in BCQ (Fujimoto et al. 2019, 1812.02900, appendix D).

    Sohn, Lee and Yan 2015, "Learning Structured Output Representation using Deep Conditional Generative Models".

    Args:
        features: size of a state.
        action: entries of an action.
        hidden_size: width of both hidden layers of encoder and decoder.
    """

    LOG_STD = (-4.0, 15.0)
    """Range of the logarithm of the latent's standard deviation."""
    LATENT_LIMIT = 0.5
    """Latents that actions are drawn with are clipped to ± this: the likelier half of what was done."""

    def __init__(self, features: int, action: int, hidden_size: int) -> None:
        super().__init__()
        self.latent = 2 * action
        self.encoder = multilayer([features + action, hidden_size, hidden_size, 2 * self.latent])
        self.decoder = multilayer([features + self.latent, hidden_size, hidden_size, action])

    def draw(self, count: int, batch: int, generator: torch.Generator) -> Tensor:
        """Latents (count, batch, latent)."""
        latent = torch.randn(count, batch, self.latent, generator=generator)
        return latent.clamp(-self.LATENT_LIMIT, self.LATENT_LIMIT)

    def decode(self, state: Tensor, latents: Tensor) -> Tensor:
        """Actions before the tanh, (count, batch, A), of features (batch, size) and latents (count, batch, latent)."""
        repeated = state.expand(len(latents), *state.shape)
        actions: Tensor = self.decoder(torch.cat([repeated, latents], dim=2))
        return actions

    def loss(self, state: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """What it descends: squared error of the reconstruction, and half of the mean divergence from N(0, 1).

        Args:
            state: features, (batch, size).
            action: scaled to -1..1, (batch, A).
            noise: standard normal, (batch, latent).
        """
        mean, log_std = self.encoder(torch.cat([state, action], dim=1)).chunk(2, dim=1)
        log_std = log_std.clamp(*self.LOG_STD)
        reconstruction = torch.tanh(self.decode(state, (mean + noise * log_std.exp())[None])[0])
        return nn.functional.mse_loss(reconstruction, action) + 0.5 * divergence(mean, log_std)


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL( N(μ, σ) ‖ N(0, 1) ) = −½ ( 1 + log σ² − μ² − σ² ), the mean over (batch, latent)."""
    return -0.5 * (1.0 + 2.0 * log_std - mean.square() - (2.0 * log_std).exp()).mean()
