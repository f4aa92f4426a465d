"""The VAE's losses against hand values, and that it learns to say in a few numbers what moves in an image."""

import math

import numpy as np
import pytest
import torch

from rl_ros.networks.vae import (
    ImageVAE,
    divergence_from_prior,
    log_likelihood,
    negative_elbo,
    pixel_error,
    reparameterised,
    vae_loss,
)
from rl_ros.training.representation import RepresentationConfig, RepresentationTraining, disturbed

SHAPE = (16, 16, 3)


def squares(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of a white square on black, (n, 16, 16, 3), and its corner (n, 2)."""
    corner = np.random.default_rng(seed).integers(0, 11, (count, 2))
    images = np.zeros((count, *SHAPE), np.uint8)
    for image, (row, column) in zip(images, corner, strict=True):
        image[row : row + 6, column : column + 6] = 255
    return images, corner


def test_divergence_of_known_gaussians() -> None:
    # KL( N(μ, σ) ‖ N(0, 1) ) = ½ (μ² + σ² − 1) − log σ.
    mean, std = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[2.0, 1.0], [1.0, 0.5]])
    by_hand = [0.5 * (1 + 4 - 1) - math.log(2), 0.5 * (4 + 0.25 - 1) - math.log(0.5)]
    np.testing.assert_allclose(divergence_from_prior(mean, std.log()), by_hand, rtol=1e-6)
    prior = torch.distributions.Normal(0.0, 1.0)
    known = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), prior).sum(1)
    np.testing.assert_allclose(divergence_from_prior(mean, std.log()), known, rtol=1e-6)


def test_reparameterisation_shifts_and_scales_noise_and_lets_gradients_through() -> None:
    mean = torch.tensor([[1.0, -1.0]], requires_grad=True)
    log_std = torch.tensor([[math.log(2.0), 0.0]], requires_grad=True)
    latent = reparameterised(mean, log_std, torch.tensor([[0.5, 3.0]]))
    np.testing.assert_allclose(latent.detach(), [[1.0 + 2.0 * 0.5, -1.0 + 3.0]])
    latent.sum().backward()
    np.testing.assert_allclose(mean.grad, [[1.0, 1.0]])
    np.testing.assert_allclose(log_std.grad, [[2.0 * 0.5, 3.0]], rtol=1e-6)  # ∂(σ ε) / ∂ log σ = σ ε


def test_the_negative_elbo_by_hand() -> None:
    image = torch.tensor([[[[0], [255]]]], dtype=torch.uint8)  # one image of two pixels
    error = pixel_error(torch.tensor([[[[0.2], [0.9]]]]), image, pixel_std=0.1)
    np.testing.assert_allclose(error, [0.5 * (0.2**2 + 0.1**2) / 0.1**2], rtol=1e-5)
    assert float(negative_elbo(error, torch.tensor([3.0]), beta=4.0)) == pytest.approx(2.5 + 12.0)


def test_of_several_latents_the_one_that_decodes_best_counts() -> None:
    error, divergence = torch.tensor([[5.0, 1.0], [2.0, 7.0]]), torch.tensor([1.0, 3.0])
    assert float(negative_elbo(error, divergence, beta=1.0)) == (2.0 + 1.0 + 1.0 + 3.0) / 2
    model, images = ImageVAE(SHAPE, 2), torch.from_numpy(squares(8)[0])
    noise = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
    best = vae_loss(model, images, images, noise, 1.0, 0.1)[0]
    each = [vae_loss(model, images, images, noise[k : k + 1], 1.0, 0.1)[0] for k in range(4)]
    assert best.item() <= min(loss.item() for loss in each)


def test_the_estimate_of_the_likelihood_by_hand() -> None:
    model, images = ImageVAE(SHAPE, 2), torch.from_numpy(squares(3)[0])
    noise = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean, log_std = model.encode(images)
        latent = mean + log_std.exp() * noise[0]
        posterior = torch.distributions.Normal(mean, log_std.exp()).log_prob(latent).sum(1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(latent).sum(1)
        expected = prior - posterior - pixel_error(model.decode(latent), images, 1.0)
    np.testing.assert_allclose(log_likelihood(model, images, noise), expected, rtol=1e-4)


def test_latents_say_where_the_square_is_and_unseen_images_are_decoded() -> None:
    images, corner = squares(600)
    training = RepresentationTraining(SHAPE, 2, RepresentationConfig(beta=5.0, features=64, exposure=0.0), seed=0)
    training.begin_with(images)
    before = training.fit(images, 1)["pixel_error"]
    after = training.fit(images, 500)["pixel_error"]
    assert after < 0.4 * before
    unseen, where = squares(200, seed=1)
    with torch.no_grad():
        latents = training.model.encode(torch.from_numpy(unseen))[0].numpy()
        seen = training.model.encode(torch.from_numpy(images))[0].numpy()
    nearest = np.linalg.norm(latents[:, None] - seen[None], axis=2).argmin(1)
    apart = np.linalg.norm(corner[nearest] - where, axis=1)
    assert np.median(apart) <= 1.0  # pixels; two random squares are 5 apart


def test_latents_are_nearly_linear_in_places() -> None:
    images, corner = squares(600)
    training = RepresentationTraining(SHAPE, 4, RepresentationConfig(beta=5.0, features=64, exposure=0.0), seed=0)
    training.begin_with(images)
    training.fit(images, 500)
    unseen, where = squares(200, seed=1)
    with torch.no_grad():
        seen, new = (training.model.encode(torch.from_numpy(some))[0].numpy() for some in (images, unseen))
    line = np.linalg.lstsq(np.c_[seen, np.ones(len(seen))], corner, rcond=None)[0]
    apart = np.linalg.norm(np.c_[new, np.ones(len(new))] @ line - where, axis=1)
    assert np.median(apart) < 0.5  # pixels; where the decoder draws the whole image at once it is 0.7 to 1.1


def test_a_conditional_model_leaves_to_its_context_what_does_not_change() -> None:
    model, images = ImageVAE(SHAPE, 2, conditional=True), torch.from_numpy(squares(4)[0])
    with pytest.raises(ValueError, match="first image of the episode"):
        model.encode(images)
    black, white = torch.zeros_like(images), torch.full_like(images, 255)
    assert not torch.equal(model.encode(images, black)[0], model.encode(images, white)[0])
    # Squares of three colours: the context shows the colour, so that two numbers are left for the place.
    places, _ = squares(600)
    colours = np.eye(3, dtype=np.uint8)[np.arange(600) % 3]
    coloured = places * colours[:, None, None, :]
    context = np.arange(600) % 3  # the first image of that colour
    training = RepresentationTraining(SHAPE, 2, RepresentationConfig(beta=5.0, conditional=True, exposure=0.0), seed=0)
    blind = RepresentationTraining(SHAPE, 2, RepresentationConfig(beta=5.0, exposure=0.0), seed=0)
    knowing = training.fit(coloured, 400, contexts=context)["loss"]
    assert knowing < 0.8 * blind.fit(coloured, 400)["loss"]


def test_exposure_is_disturbed_within_its_share_and_nothing_else() -> None:
    image = torch.full((50, 4, 4, 3), 128, dtype=torch.uint8)
    other = disturbed(image, 0.2, torch.Generator().manual_seed(0))
    assert other.min() >= 128 * (1 - 0.25) - 128 * 0.2
    assert other.max() <= 128 * (1 + 0.25) + 128 * 0.2
    assert other.std(dim=0).max() > 1.0
    assert float(other.std(dim=(1, 2)).max()) == 0.0  # the same at every pixel of a channel
    assert disturbed(image, 0.0, torch.Generator()) is image


def test_training_goes_on_bit_for_bit_from_its_state() -> None:
    images, _ = squares(50)
    whole, first = (RepresentationTraining(SHAPE, 2, RepresentationConfig(), seed=3) for _ in range(2))
    whole.fit(images, 3)
    whole.fit(images, 3)
    first.fit(images, 3)
    again = RepresentationTraining(SHAPE, 2, RepresentationConfig(), seed=99)
    again.load_state_dict(first.state_dict(), first.rng_state)
    again.fit(images, 3)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
