"""Training an image encoder: from images to a directory that `rl_ros.networks.image_encoder` loads, with pictures.

`RUN/encoder/` is the encoder; beside it are `encoder.csv` (a row every so many updates), `reconstructions.png` (images
that training has not seen, above what the encoder understood of them) and `samples.png` (what it imagines).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_ros import schema
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import (
    Coder,
    ImageEncoder,
    calibrated,
    export,
    load_weights,
    save_encoder,
    sessions_of,
)
from rl_ros.networks.vae import ImageVAE, log_likelihood, vae_loss
from rl_ros.training.logs import RunLog

LOG_EVERY = 50
STRIP = 12
"""Images in a row of the pictures."""
CHECKED_AT_MOST = 1000
"""Images to calibrate with, and as many to measure with."""


@dataclass(frozen=True)
class RepresentationConfig:
    """Settings of the model and of its training."""

    beta: float = 20.0
    """β, of the divergence from the prior."""
    pixel_std: float = 0.1
    """Noise of a pixel that the model believes in, where white is 1; it and β matter only as β · pixel_std²."""
    features: int = 128
    """Of the encoder."""
    hidden_size: int = 128
    """Of the decoder."""
    conditional: bool = False
    """Show encoder and decoder the first image of each episode, for scenes that look different every time."""
    best_of: int = 1
    """K latents of each image, of which the one that decodes best counts."""
    learning_rate: float = 2e-3
    batch_size: int = 128
    exposure: float = 0.25
    """Brightness and contrast are disturbed by up to this share, and the model is asked for the image without that:
    so it learns that the lamp does not matter."""
    view: tuple[int, ...] | None = None
    """Top, left, height and width, in pixels, of the part of an image that is looked at; None: all of it."""


class RepresentationTraining:
    """A model, its optimiser, and updates of both; what it has learned goes on being learned.

    Args:
        shape: of an image.
        latent: numbers in a latent.
        seed: of weights, batches and noise.
    """

    def __init__(self, shape: tuple[int, ...], latent: int, config: RepresentationConfig, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = ImageVAE(shape, latent, config.features, config.hidden_size, config.conditional, config.view)
        self.updates = 0
        self._optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=True)
        self._generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng([seed, 0x5EE])

    def fit(
        self,
        images: np.ndarray,
        updates: int,
        *,
        contexts: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        rate: float = 1.0,
        on_update: Callable[[int, dict[str, Tensor]], None] = lambda done, metrics: None,
    ) -> dict[str, float]:
        """Learn from images, with a learning rate that rises and then falls to nothing.

        Args:
            images: uint8 (n, height, width, channels).
            contexts: of a conditional model, for each image the index of the first image of its episode, int64 (n,).
            weights: how often each is drawn, (n,), of any scale; equally often by default.
            rate: share of the configured learning rate.
            on_update: called with the number of updates made and the metrics of the last one.

        Returns:
            The metrics of the last update.
        """
        metrics: dict[str, Tensor] = {}
        bounds = None if weights is None else np.cumsum(weights, dtype=np.float64)
        for done in range(1, updates + 1):
            uniform = self._rng.random(self.config.batch_size)
            rows = (uniform * len(images)).astype(np.int64)
            if bounds is not None:
                rows = np.searchsorted(bounds, uniform * bounds[-1], side="right")
            part = rate * min(1.0, done / 100) * 0.5 * (1.0 + math.cos(math.pi * done / updates))
            for group in self._optimiser.param_groups:
                group["lr"] = self.config.learning_rate * part
            image = torch.from_numpy(images[rows])
            context = torch.from_numpy(images[contexts[rows]]) if contexts is not None else None
            metrics = self._update(image, context)
            on_update(done, metrics)
        return {name: float(value) for name, value in metrics.items()}

    def begin_with(self, images: np.ndarray) -> None:
        """Take the mean of the images as the decoder's background, before the first update."""
        with torch.no_grad():
            mean = images[:: max(1, len(images) // 1000)].mean(0, dtype=np.float64) / 255.0
            self.model.decoder.background.copy_(torch.from_numpy(self.model.view.of(mean)))

    def log_likelihood(self, images: np.ndarray, first: np.ndarray | None = None, count: int = 10) -> np.ndarray:
        """log p(x) of each image up to a constant, float64 (n,), from `count` latents each; `first` as for `freeze`."""
        found = []
        for start in range(0, len(images), self.config.batch_size):
            rows = slice(start, start + self.config.batch_size)
            image = torch.from_numpy(images[rows])
            context = torch.from_numpy(first[rows]) if first is not None else None
            noise = torch.randn(count, len(image), self.model.latent, generator=self._generator)
            found.append(log_likelihood(self.model, image, noise, context=context).double().numpy())
        return np.concatenate(found)

    def freeze(self, directory: Path, images: np.ndarray, first: np.ndarray | None = None) -> ImageEncoder:
        """Write what the model is now as an encoder, calibrated with images that it has not learned from.

        Args:
            images: (n, height, width, channels), of which the first `CHECKED_AT_MOST` count.
            first: the first image of the episode of each, of the same shape; by default each is its own.
        """
        images = images[:CHECKED_AT_MOST]
        contexts = images if first is None else first[:CHECKED_AT_MOST]
        calibration = calibrated(*runnable(self.model), images, contexts, self.model.view)
        return save_encoder(directory, self.model, calibration, asdict(self.config))

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor that training goes on from."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, entries in self._optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{name}": value for name, value in entries.items()}
        state["updates"] = torch.tensor(self.updates)
        state["generator"] = self._generator.get_state()
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Any], rng: dict[str, Any]) -> None:
        """Go on from `state_dict` and `rng_state`."""
        tensors = {name: torch.as_tensor(value).clone() for name, value in state.items()}
        self.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, entry = name.split(".")
                moments.setdefault(int(index), {})[entry] = value
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": moments})
        self.updates = int(tensors["updates"])
        self._generator.set_state(tensors["generator"])
        self._rng.bit_generator.state = rng

    @property
    def rng_state(self) -> dict[str, Any]:
        """Of the batches."""
        state: dict[str, Any] = dict(self._rng.bit_generator.state)
        return state

    def _update(self, image: Tensor, context: Tensor | None) -> dict[str, Tensor]:
        config = self.config
        noise = torch.randn(config.best_of, len(image), self.model.latent, generator=self._generator)
        seen = disturbed(image, config.exposure, self._generator)
        loss, metrics = vae_loss(self.model, seen, image, noise, config.beta, config.pixel_std, context)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimiser.step()
        self.updates += 1
        return {"loss": loss.detach(), **metrics}


def disturbed(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Images with other contrast and brightness, drawn for each image and channel: float32 0 to 255, of that shape.

    Args:
        image: uint8 (batch, height, width, channels).
        share: of both, at most.
    """
    if not share:
        return image
    gain, offset = 2.0 * share * (torch.rand(2, len(image), 1, 1, 1, generator=generator) - 0.5)
    tint = 0.5 * share * (torch.rand(len(image), 1, 1, image.shape[3], generator=generator) - 0.5)
    return (image.float() * (1.0 + gain + tint) + 128.0 * offset).clamp(0.0, 255.0)


def train_encoder(
    images: np.ndarray,
    held_out: np.ndarray,
    latent: int,
    out: Path,
    *,
    updates: int = 4000,
    config: RepresentationConfig | None = None,
    contexts: np.ndarray | None = None,
    held_out_contexts: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[RepresentationTraining, ImageEncoder, dict[str, float]]:
    """Train an encoder and write `out/encoder/`, `out/encoder.csv` and two pictures.

    Args:
        images: to learn from, uint8 (n, height, width, channels).
        held_out: not to learn from: every second one calibrates, the others measure; of other episodes than `images`.
        latent: numbers in a latent.
        updates: how many.
        contexts: see `RepresentationTraining.fit`.
        held_out_contexts: the same for `held_out`; by default each of its images is its own context.
        progress: called with the number of updates made.

    Returns:
        The training, to go on with; the encoder; and figures: `false_refusals`, the share of `held_out` images that it
        takes for something it has never seen, how many were `measured`, and the metrics of the last update.
    """
    training = RepresentationTraining(images.shape[1:], latent, config or RepresentationConfig(), seed)
    training.begin_with(images)
    with RunLog(out / "encoder.csv") as log:

        def note(done: int, metrics: dict[str, Tensor]) -> None:
            progress(done)
            if done % LOG_EVERY == 0:
                log.write({"update": done, **{name: float(value) for name, value in metrics.items()}})

        metrics = training.fit(images, updates, contexts=contexts, on_update=note)
    first = held_out if held_out_contexts is None else held_out[held_out_contexts]
    encoder = training.freeze(out / "encoder", held_out[::2], first[::2])
    measured = list(zip(held_out[1::2], first[1::2], strict=True))[:CHECKED_AT_MOST]
    refused = np.mean([encoder.look(*pair).score > 1.0 for pair in measured])
    write_pictures(encoder, held_out, first, out, seed)
    return training, encoder, {"false_refusals": float(refused), "measured": float(len(measured)), **metrics}


def restored(encoder: ImageEncoder, seed: int = 0) -> RepresentationTraining:
    """The training of an encoder on disk, with its weights and a fresh optimiser.

    Raises:
        UserError: its weights or its configuration are damaged.
    """
    source = f"{encoder.directory}: configuration"
    config: RepresentationConfig = schema.convert(RepresentationConfig, encoder.configuration, source)
    training = RepresentationTraining(encoder.shape, encoder.latent, config, seed)
    weights = {name: torch.from_numpy(array) for name, array in load_weights(encoder.directory).items()}
    try:
        training.model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{encoder.directory}: its weights do not fit its configuration: {reason}") from error
    return training


def runnable(model: ImageVAE) -> tuple[Coder, Coder]:
    """Encode and decode single images, and latents, as an encoder on disk would, each with its context."""
    encoder, decoder = sessions_of(*export(model), model.shape, model.latent, model.view)

    def encode(image: np.ndarray, context: np.ndarray) -> np.ndarray:
        latent: np.ndarray = encoder.run(None, {"image": image} | ({"context": context} if model.conditional else {}))[
            0
        ]
        return latent

    def decode(latent: np.ndarray, context: np.ndarray) -> np.ndarray:
        image = decoder.run(None, {"latent": latent} | ({"context": context} if model.conditional else {}))[0]
        return np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)

    return encode, decode


def write_pictures(encoder: ImageEncoder, images: np.ndarray, first: np.ndarray, out: Path, seed: int = 0) -> None:
    """`reconstructions.png` and `samples.png` in `out`; `first` is the first image of the episode of each."""
    chosen = np.linspace(0, len(images) - 1, 2 * STRIP).astype(np.int64)
    rows = []
    for part in (chosen[:STRIP], chosen[STRIP:]):
        rows += [
            encoder.view.of(images[part]),
            np.stack([encoder.look(images[row], first[row]).reconstruction for row in part]),
        ]
    write_sheet(out / "reconstructions.png", rows)
    latents = np.random.default_rng(seed).normal(size=(4 * STRIP, encoder.latent)).astype(np.float32)
    imagined = np.stack([encoder.decode(latent, images[0]) for latent in latents])
    write_sheet(out / "samples.png", [imagined[row * STRIP : (row + 1) * STRIP] for row in range(4)])


def write_sheet(file: Path, rows: list[np.ndarray], scale: int = 2) -> None:
    """Rows of images uint8 (n, height, width, channels) as one PNG, each pixel `scale` pixels wide."""
    import cv2

    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    if sheet.shape[2] == 3:
        sheet = sheet[..., ::-1]
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), sheet)
