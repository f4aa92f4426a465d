"""A generative model of images: what a camera sees, as a few numbers.

Kingma and Welling 2014, "Auto-Encoding Variational Bayes" (1312.6114), with the weight β of Higgins et al. 2017. A few
numbers that say all that moves in an image are something that goals can be drawn from and distances be measured in:
Nair et al. 2018, "Visual Reinforcement Learning with Imagined Goals" (1807.04742).

Encoder and decoder cut the image into patches, as `rl_ros.networks.layers.PatchEncoder` does and for the same reason:
on a CPU they are a handful of large matrix products.
"""

import math

import torch
from torch import Tensor, nn

from rl_ros.networks.layers import PatchEncoder, gaussian_divergence
from rl_ros.networks.view import View


class BroadcastDecoder(nn.Module):
    """A vector as an image: every patch is told the vector and where it is, and draws itself; on top of that the mean
    of all images.

    The spatial broadcast decoder of Watters et al. 2019 (1901.07017), with patches in the place of pixels. Each part of
    the image is drawn by the same weights, so a thing that moves is easiest to say by its place: latents become nearly
    linear in positions, and their distances distances of things. A decoder that draws the whole image at once leaves
    latents folded (measured on visual_push: where the puck is, read off by a line, is wrong by 0.7 cm and not by 4).

    Args:
        inputs: size of the vector.
        shape: (height, width, channels).
        hidden_size: width of the layers.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], hidden_size: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.shape = (height, width, channels)
        self.patch = max(4, -(-max(height, width) // PatchEncoder.GRID))
        self.rows, self.columns = -(-height // self.patch), -(-width // self.patch)
        y, x = torch.meshgrid(torch.linspace(-1, 1, self.rows), torch.linspace(-1, 1, self.columns), indexing="ij")
        self.register_buffer("places", torch.stack([x.flatten(), y.flatten()], 1), persistent=False)
        self.what, self.where = nn.Linear(inputs, hidden_size), nn.Linear(2, hidden_size, bias=False)
        nn.init.normal_(self.where.weight)
        self.draw = nn.Sequential(
            nn.ReLU(), nn.Linear(hidden_size, hidden_size),
            nn.ReLU(), nn.Linear(hidden_size, hidden_size),
            nn.ReLU(), nn.Linear(hidden_size, self.patch * self.patch * channels),
        )  # fmt: skip
        self.background = nn.Parameter(torch.full(self.shape, 0.5))

    def forward(self, vector: Tensor) -> Tensor:
        """Images float32 (batch, height, width, channels), 0 black and 1 white, of vectors (batch, inputs)."""
        (height, width, channels), p = self.shape, self.patch
        patches = self.draw(self.what(vector)[:, None] + self.where(self.places))
        patches = patches.view(-1, self.rows, self.columns, p, p * channels)
        image = patches.transpose(2, 3).reshape(-1, self.rows * p, self.columns * p, channels)
        return image[:, :height, :width] + self.background


class ImageVAE(nn.Module):
    """A variational auto-encoder of images.

    Conditional (Nair et al. 2019, "Contextual Imagined Goals", 1910.11670): encoder and decoder also see the first
    image of the episode. What does not change in an episode, such as the background or the colour of an object, is in
    there, and the latent need not say it.

    Args:
        shape: (height, width, channels).
        latent: numbers in a latent.
        features: of the encoder.
        hidden_size: width of the decoder.
        conditional: whether it is given a context image.
        view: top, left, height and width of the part of an image that is looked at, and drawn; by default all of it.
    """

    LOG_STD = (-6.0, 2.0)
    """Range of the logarithm of the latent's standard deviation."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent: int,
        features: int = 128,
        hidden_size: int = 128,
        conditional: bool = False,
        view: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.latent, self.conditional = tuple(shape), latent, conditional
        self.view = View(*view) if view else View(0, 0, *self.shape[:2])
        seen = (self.view.height, self.view.width, self.shape[2])
        context = features // 2 if conditional else 0
        self.encoder = PatchEncoder(seen, features)
        self.context = PatchEncoder(seen, context) if conditional else None
        self.gaussian = nn.Linear(features + context, 2 * latent)
        self.decoder = BroadcastDecoder(latent + context, seen, hidden_size)

    def encode(self, image: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of q(z|x), (batch, latent) each.

        Args:
            image: uint8 (batch, height, width, channels).
            context: the same of the first image of each one's episode, if the model is conditional.
        """
        features = self._beside(self.encoder(self.view.of(image)), context)
        mean, log_std = self.gaussian(features).chunk(2, dim=1)
        return mean, log_std.clamp(*self.LOG_STD)

    def decode(self, latent: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean of p(x|z): what is looked at, float32 (batch, height, width, channels), about 0 to 1."""
        image: Tensor = self.decoder(self._beside(latent, context))
        return image

    def _beside(self, vector: Tensor, context: Tensor | None) -> Tensor:
        if self.context is None:
            return vector
        if context is None:
            raise ValueError("a conditional model needs the first image of the episode")
        return torch.cat([vector, self.context(self.view.of(context))], dim=1)


def reparameterised(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """z = μ + σ ε, through which gradients flow to μ and σ: 1312.6114, section 2.4. ε may be (K, batch, latent)."""
    return mean + log_std.exp() * noise


def divergence_from_prior(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL( N(μ, σ) ‖ N(0, 1) ) = ½ Σ ( μ² + σ² − 1 − log σ² ), (batch,) from (batch, latent) each."""
    none = torch.zeros_like(mean)
    return gaussian_divergence(mean, log_std, none, none)


def pixel_error(decoded: Tensor, image: Tensor, pixel_std: float) -> Tensor:
    """−log p(x|z) up to a constant: ½ Σ (x − x̂)² / s² over the pixels, (…, batch).

    Args:
        decoded: x̂, (…, batch, height, width, channels), 0 to 1.
        image: x, uint8 (batch, height, width, channels).
        pixel_std: s, of the noise of a pixel.
    """
    difference = decoded - image.float() / 255.0
    return 0.5 / pixel_std**2 * difference.square().sum((-3, -2, -1))


def negative_elbo(error: Tensor, divergence: Tensor, beta: float) -> Tensor:
    """−ELBO = −log p(x|z) + β KL( q(z|x) ‖ p(z) ), the mean of the batch; equation 1 of 1807.04742.

    Args:
        error: −log p(x|z), (batch,), or (K, batch) of K latents each, of which the one that fits best counts: the best
            of many samples (Bhattacharyya, Schiele and Fritz 2018, 1806.07772, equation 6).
        divergence: (batch,).
    """
    best = error.amin(0) if error.ndim == 2 else error
    return (best + beta * divergence).mean()


def vae_loss(
    model: ImageVAE,
    seen: Tensor,
    wanted: Tensor,
    noise: Tensor,
    beta: float,
    pixel_std: float,
    context: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scalar that training descends, and its parts.

    Args:
        seen: what the encoder is shown, uint8 (batch, height, width, channels).
        wanted: what is to be decoded, of the same shape: the image itself, or what it was before it was disturbed.
        noise: standard normal, (K, batch, latent); K is 1 unless the best of K counts.
        beta: β.
        pixel_std: as in `pixel_error`.
        context: of a conditional model.
    """
    mean, log_std = model.encode(seen, context)
    latents = reparameterised(mean, log_std, noise)
    repeated = None if context is None else context.repeat(len(noise), 1, 1, 1)
    wanted = model.view.of(wanted)
    decoded = model.decode(latents.flatten(0, 1), repeated).view(*noise.shape[:2], *wanted.shape[1:])
    error, divergence = pixel_error(decoded, wanted, pixel_std), divergence_from_prior(mean, log_std)
    loss = negative_elbo(error if len(noise) > 1 else error[0], divergence, beta)
    return loss, {"pixel_error": error.detach().mean(), "divergence": divergence.detach().mean()}


@torch.no_grad()
def log_likelihood(
    model: ImageVAE, image: Tensor, noise: Tensor, pixel_std: float = 1.0, context: Tensor | None = None
) -> Tensor:
    """log p(x), up to a constant, estimated from K latents of q(z|x): log mean p(x|z) p(z) / q(z|x), (batch,).

    Pong et al. 2020, "Skew-Fit" (1903.03698), appendix C; pixels have unit variance there, with which the estimate
    varies little.

    Args:
        noise: standard normal, (K, batch, latent).
    """
    mean, log_std = model.encode(image, context)
    latent, image = reparameterised(mean, log_std, noise), model.view.of(image)
    log_prior = -0.5 * latent.square().sum(2)
    log_posterior = -(0.5 * noise.square() + log_std).sum(2)
    repeated = None if context is None else context.repeat(len(noise), 1, 1, 1)
    decoded = model.decode(latent.flatten(0, 1), repeated).view(*noise.shape[:2], *image.shape[1:])
    log_ratio = log_prior - log_posterior - pixel_error(decoded, image, pixel_std)
    return torch.logsumexp(log_ratio, 0) - math.log(len(noise))
