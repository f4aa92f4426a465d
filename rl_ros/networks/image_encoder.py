"""An image encoder on disk, and as everybody runs it: live nodes, environments and training alike.

A directory of four files, nothing in which is ever unpickled:

- `encoder.onnx`: an image, raw pixels, to its latent; its SHA-256 is the version that policies name;
- `decoder.onnx`: a latent to an image, so that people can see what was understood;
- `weights.safetensors`: what training goes on from;
- `encoder.json`: sizes, settings, calibration, and the SHA-256 of the others.

Images are always encoded one by one: products of matrices of another size may round otherwise, and a latent of a live
node is to be that of a training to the last bit. Only `save_encoder` needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import safetensors.numpy

from rl_ros import schema
from rl_ros.errors import UserError
from rl_ros.networks.onnx_file import onnx_of, session_of
from rl_ros.networks.stored import read_directory, write_directory
from rl_ros.networks.view import View

if TYPE_CHECKING:
    import torch

    from rl_ros.networks.vae import ImageVAE

FORMAT = 1
ENCODER, DECODER, WEIGHTS, DESCRIPTION = "encoder.onnx", "decoder.onnx", "weights.safetensors", "encoder.json"
VERSION_DIGITS = 16
"""Of the SHA-256, in the `frame_id` of latents."""
TOLERANCE = 1e-4
"""Largest difference between ONNX and torch that may be exported, in latents of about unit size."""
BLOCKS = 8
"""An image is judged in so many by so many blocks."""
GAIN = (0.5, 2.0)
"""Brightness and contrast may be so many times those of the images that were learned from."""
MARGIN = 1.3
"""Errors may be so many times the calibrated limits: another lamp and a camera moved by 5 degrees cost up to that, and
other scenes, or things that were not there, begin at 1.4 (measured on visual_push)."""

Coder = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""An image and the first one of its episode to a latent; or a latent and that image to an image, uint8."""


@dataclass(frozen=True)
class Calibration:
    """What is usual in images that training has not seen; see `measures`.

    A goal image is refused where its latent is longer, an error is more than `MARGIN` times as large, or its contrast
    is out of `GAIN`.
    """

    mean_error: float
    block_error: float
    size: float
    near: float
    """Distance of latents that only one in fifty pairs of images is below: what counts as the same place."""


@dataclass(frozen=True)
class Look:
    """What an encoder makes of an image."""

    latent: np.ndarray
    """float32 (latent,)."""
    reconstruction: np.ndarray
    """uint8, as the part of the image that is looked at."""
    score: float
    """The largest of the image's measures over its limit: above 1 it is like nothing that was learned from."""


@dataclass(frozen=True)
class Description:
    """What `encoder.json` says."""

    format: int
    shape: tuple[int, int, int]
    """(height, width, channels) of an image."""
    latent: int
    """Numbers in a latent."""
    conditional: bool
    """Whether it also needs the first image of the episode."""
    calibration: Calibration
    configuration: dict[str, Any]
    """What it was trained with; see `rl_ros.training.representation.RepresentationConfig`."""
    sha256: dict[str, str]

    def view(self, source: str) -> View:
        """What is looked at of an image.

        Raises:
            UserError: the configuration names a part that images do not have.
        """
        height, width, _ = self.shape
        given = self.configuration.get("view")
        view = View(*schema.convert(tuple[int, int, int, int], given or (0, 0, height, width), f"{source}: view"))
        if not (
            0 <= view.top <= view.top + view.height <= height and 0 <= view.left <= view.left + view.width <= width
        ):
            raise UserError(f"{source}: view: {list(view)} is no part of an image of {height}x{width} pixels.")
        return view


class ImageEncoder:
    """Images to latents and back, on one thread. Made by `load_encoder`. The same image gives the same bits.

    Raises:
        UserError: the description is not whole, or the models do something else than it says.
    """

    def __init__(self, directory: Path, description: Mapping[str, Any], encoder: bytes, decoder: bytes) -> None:
        source = str(directory / DESCRIPTION)
        known: Description = schema.convert(Description, description, source)
        self.directory = directory
        self.shape, self.latent, self.conditional = known.shape, known.latent, known.conditional
        self.calibration, self.configuration = known.calibration, known.configuration
        self.view = known.view(source)
        """What is looked at of an image."""
        self.sha256 = hashlib.sha256(encoder).hexdigest()
        self._encoder, self._decoder = sessions_of(encoder, decoder, known.shape, known.latent, self.view, directory)

    @property
    def frame(self) -> str:
        """The `frame_id` of its latents: numbers of another encoder mean something else."""
        return frame_of(self.sha256)

    def encode(self, image: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The latent, float32 (latent,), of an image uint8 (height, width, channels).

        Args:
            context: the first image of the episode, for a conditional encoder; others ignore it.
        """
        inputs = {"image": image, "context": context} if self.conditional else {"image": image}
        latent: np.ndarray = self._encoder.run(None, inputs)[0]
        return latent

    def encode_all(self, images: np.ndarray, contexts: np.ndarray | None = None) -> np.ndarray:
        """Latents (n, latent) of images (n, height, width, channels), one by one."""
        if contexts is None:
            contexts = images
        found = [self.encode(image, context) for image, context in zip(images, contexts, strict=True)]
        return np.stack(found) if found else np.zeros((0, self.latent), np.float32)

    def decode(self, latent: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """What is looked at of the image, uint8 (height, width, channels), that a latent stands for."""
        inputs = {"latent": np.asarray(latent, np.float32)}
        image = self._decoder.run(None, inputs | ({"context": context} if self.conditional else {}))[0]
        return np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)

    def imagined(self, latent: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """The latent of the image that a latent stands for: a goal that some image has."""
        image = np.zeros(self.shape, np.uint8)
        self.view.of(image)[:] = self.decode(latent, context)
        return self.encode(image, context)

    def look(self, image: np.ndarray, context: np.ndarray | None = None) -> Look:
        """Encode an image, and say whether it is like what was learned from."""
        latent = self.encode(image, context)
        reconstruction = self.decode(latent, context)
        found, usual = measures(self.view.of(image), reconstruction, latent), self.calibration
        limits = {
            "mean_error": MARGIN * usual.mean_error,
            "block_error": MARGIN * usual.block_error,
            "size": usual.size,
            "contrast": 1.0,
        }
        return Look(latent, reconstruction, max(value / limits[name] for name, value in found.items()))


def frame_of(sha256: str) -> str:
    """The `frame_id` of the latents of the encoder with this SHA-256."""
    return f"encoder/{sha256[:VERSION_DIGITS]}"


def measures(image: np.ndarray, reconstruction: np.ndarray, latent: np.ndarray) -> dict[str, float]:
    """How well an encoder knows an image: 0 is best.

    Brightness and contrast of each channel are taken out first: another lamp does not make another place.

    Args:
        image: uint8 (height, width, channels).
        reconstruction: of the same shape.
        latent: (n,).

    Returns:
        `mean_error`, root of the mean squared error of the pixels, 0 to 1; `block_error`, the same of the worst of
        `BLOCKS` by `BLOCKS` blocks; `size`, the latent's root mean square, of which the prior expects 1; `contrast`,
        how far it is from the reconstruction's, where 1 is at the end of `GAIN`: a blank wall has none.
    """
    seen, expected = image.astype(np.float64) / 255.0, reconstruction.astype(np.float64) / 255.0
    axes = (0, 1)
    centred, varied = expected - expected.mean(axes), seen - seen.mean(axes)
    common, own = (centred * varied).mean(axes), np.maximum(np.square(centred).mean(axes), 1e-6)
    error = np.square(varied - np.clip(common / own, *GAIN) * centred).mean(2)
    contrast = max(float(common.sum() / own.sum()), 1e-6)
    rows, columns = (np.array_split(np.arange(length), BLOCKS) for length in error.shape)
    worst = max(
        float(error[row[0] : row[-1] + 1, column[0] : column[-1] + 1].mean()) for row in rows for column in columns
    )
    return {
        "mean_error": float(np.sqrt(error.mean())),
        "block_error": float(np.sqrt(worst)),
        "size": float(np.sqrt(np.square(latent, dtype=np.float64).mean())),
        "contrast": max(GAIN[0] / contrast, contrast / GAIN[1]),
    }


def calibrated(
    encode: Coder,
    decode: Coder,
    images: np.ndarray,
    first: np.ndarray,
    view: View,
    refused: float = 0.01,
) -> Calibration:
    """Limits that so large a share of images like these is above.

    Args:
        encode: an image to its latent.
        decode: a latent to an image, uint8.
        images: that training has not seen, uint8 (n, height, width, channels).
        first: the first image of the episode of each, of the same shape.
        view: what is looked at of them.
        refused: share of good images that may be refused, all measures together.
    """
    latents = [encode(image, context) for image, context in zip(images, first, strict=True)]
    seen = zip(images, first, latents, strict=True)
    rows = [measures(view.of(image), decode(latent, context), latent) for image, context, latent in seen]
    calibrated_measures = ("mean_error", "block_error", "size")
    share = refused / len(calibrated_measures)
    limits = {name: float(np.quantile([row[name] for row in rows], 1.0 - share)) for name in calibrated_measures}
    pairs = np.random.default_rng(0).integers(0, len(latents), (2, 20_000))
    stacked = np.stack(latents)
    apart = np.linalg.norm(stacked[pairs[0]] - stacked[pairs[1]], axis=1)
    return Calibration(**limits, near=float(np.quantile(apart[pairs[0] != pairs[1]], 0.02)))


def load_encoder(directory: str | Path) -> ImageEncoder:
    """Read an encoder and verify that each of its files is the one that was saved.

    Raises:
        UserError: the directory or a file in it is missing or damaged, or of a format this version does not read.
    """
    directory = Path(directory)
    data, files = read_directory(directory, DESCRIPTION, (ENCODER, DECODER, WEIGHTS), FORMAT, "image encoder")
    return ImageEncoder(directory, data, files[ENCODER], files[DECODER])


def load_weights(directory: str | Path) -> dict[str, np.ndarray]:
    """The weights of an encoder's model, by name, for training to go on from.

    Raises:
        UserError: they are damaged.
    """
    file = Path(directory) / WEIGHTS
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(file.read_bytes())
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{file}: damaged: {str(error)[:200]}; train it again.") from error
    return tensors


def save_encoder(
    directory: str | Path, model: ImageVAE, calibration: Calibration, configuration: Mapping[str, Any]
) -> ImageEncoder:
    """Export a model; an older encoder of that name is replaced, and none is ever half there.

    Raises:
        UserError: ONNX and torch disagree by more than `TOLERANCE`.
    """
    directory = Path(directory)
    encoder, decoder = export(model)
    tensors = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.state_dict().items()}
    files = {ENCODER: encoder, DECODER: decoder, WEIGHTS: safetensors.numpy.save(tensors)}
    description = {
        "format": FORMAT,
        "shape": list(model.shape),
        "latent": model.latent,
        "conditional": model.conditional,
        "calibration": asdict(calibration),
        "configuration": dict(configuration),
    }
    write_directory(directory, DESCRIPTION, description, files)
    return load_encoder(directory)


def export(model: ImageVAE) -> tuple[bytes, bytes]:
    """Encoder and decoder as ONNX graphs over one unbatched image, or latent.

    Raises:
        UserError: ONNX and torch disagree by more than `TOLERANCE`.
    """
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return self.model.encode(image[None], context[None] if model.conditional else None)[0][0]

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, latent: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return self.model.decode(latent[None], context[None] if model.conditional else None)[0]

    generator = np.random.default_rng(0)
    image = torch.from_numpy(generator.integers(0, 256, model.shape, np.uint8))
    latent = torch.from_numpy(generator.normal(size=model.latent).astype(np.float32))
    looked, drawn = {"image": image, "context": image.flip(0)}, {"latent": latent, "context": image}
    encoder, decoder = onnx_of(Encoder(), looked, "output"), onnx_of(Decoder(), drawn, "output")
    sessions = sessions_of(encoder, decoder, model.shape, model.latent, model.view)
    for session, module, inputs in zip(sessions, (Encoder(), Decoder()), (looked, drawn), strict=True):
        given = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
        with torch.no_grad():
            expected = module(*inputs.values()).numpy()
        error = float(np.abs(session.run(None, given)[0] - expected).max())
        if not error <= TOLERANCE:
            raise UserError(
                f"the exported image encoder differs from the trained one by {error:.1e}; none was written."
            )
    return encoder, decoder


def sessions_of(
    encoder: bytes, decoder: bytes, shape: Sequence[int], latent: int, view: View, directory: Path = Path()
) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Both models, ready to run on one thread; either may also take the first image of the episode, `context`.

    Args:
        encoder, decoder: the files.
        shape: of an image, (height, width, channels).
        latent: numbers in a latent.
        view: what the decoder draws of an image.
        directory: where they are, for sentences.

    Raises:
        UserError: one of them does something else.
    """
    image, drawn = ("uint8", shape), (view.height, view.width, shape[2])
    return (
        session_of(encoder, str(directory / ENCODER), {"image": image, "context": image}, [latent]),
        session_of(decoder, str(directory / DECODER), {"latent": ("float32", [latent]), "context": image}, drawn),
    )
