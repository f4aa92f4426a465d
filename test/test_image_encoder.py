"""Image encoders on disk: what they compute, what they refuse, and pictures of any kind."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.pictures import COMPRESSED, IMAGE, fitted, picture, read_picture
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import Calibration, ImageEncoder, frame_of, load_encoder, measures, save_encoder
from rl_ros.networks.vae import ImageVAE
from rl_ros.training.representation import RepresentationConfig, restored, train_encoder

CAMERA = Contract.load("visual_reach").auxiliary["image"]
SHAPE = (24, 24, 3)


def scenes(count: int, seed: int) -> np.ndarray:
    """Images of a red disc on a table, (n, 24, 24, 3)."""
    rng = np.random.default_rng(seed)
    images = np.full((count, *SHAPE), (220, 212, 194), np.uint8)
    for image in images:
        x, y = rng.uniform(5, 19, 2)
        cv2.circle(image, (round(x), round(y)), 4, (210, 30, 30), -1)
    return images


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageEncoder, dict[str, float], Path]:
    out = tmp_path_factory.mktemp("encoder")
    config = RepresentationConfig(beta=5.0, features=64)
    _, encoder, figures = train_encoder(scenes(800, 0), scenes(600, 1), 2, out, updates=600, config=config)
    return encoder, figures, out


@pytest.mark.parametrize("shape", [(24, 24, 3), (84, 84, 3), (20, 31, 1)])
@pytest.mark.parametrize("conditional", [False, True])
def test_what_is_exported_computes_what_the_model_does(
    tmp_path: Path, shape: tuple[int, ...], conditional: bool
) -> None:
    model = ImageVAE(shape, 3, features=16, hidden_size=32, conditional=conditional)
    save_encoder(tmp_path / "encoder", model, Calibration(1.0, 1.0, 1.0, 1.0), {})
    encoder = load_encoder(tmp_path / "encoder")
    assert (encoder.shape, encoder.latent, encoder.conditional) == (shape, 3, conditional)
    image, context = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    with torch.no_grad():
        first = torch.from_numpy(context)[None] if conditional else None
        latent = model.encode(torch.from_numpy(image)[None], first)[0][0].numpy()
        decoded = model.decode(torch.from_numpy(latent)[None], first)[0].numpy()
    np.testing.assert_allclose(encoder.encode(image, context), latent, atol=1e-4)
    expected = np.clip(np.rint(decoded * 255), 0, 255)
    np.testing.assert_allclose(encoder.decode(latent, context), expected, atol=1)


def test_what_is_outside_of_its_view_makes_no_difference(tmp_path: Path) -> None:
    view = (4, 6, 10, 12)
    model = ImageVAE(SHAPE, 3, features=16, hidden_size=32, view=view)
    save_encoder(tmp_path / "encoder", model, Calibration(1.0, 1.0, 1.0, 1.0), {"view": view})
    encoder = load_encoder(tmp_path / "encoder")
    [image] = scenes(1, 0)
    elsewhere, within = image.copy(), image.copy()
    elsewhere[:4], elsewhere[:, 18:] = 0, 0
    within[5, 7] = 0
    np.testing.assert_array_equal(encoder.encode(elsewhere), encoder.encode(image))
    assert not np.array_equal(encoder.encode(within), encoder.encode(image))
    assert encoder.look(image).reconstruction.shape == (10, 12, 3)
    assert encoder.imagined(np.zeros(3, np.float32)).shape == (3,)


def test_alone_or_among_others_an_image_has_the_same_latent_to_the_last_bit(
    trained: tuple[ImageEncoder, dict[str, float], Path],
) -> None:
    encoder, _, out = trained
    images = scenes(20, 5)
    together = encoder.encode_all(images)
    again = load_encoder(out / "encoder")
    for image, latent in zip(images, together, strict=True):
        np.testing.assert_array_equal(again.encode(image), latent)


def test_the_version_is_the_sha256_of_what_encodes(trained: tuple[ImageEncoder, dict[str, float], Path]) -> None:
    encoder, _, out = trained
    assert encoder.sha256 == hashlib.sha256((out / "encoder" / "encoder.onnx").read_bytes()).hexdigest()
    assert encoder.frame == frame_of(encoder.sha256) == f"encoder/{encoder.sha256[:16]}"


def test_a_damaged_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such image encoder"):
        load_encoder(tmp_path / "none")
    save_encoder(tmp_path / "e", ImageVAE(SHAPE, 2, 8, 8), Calibration(1.0, 1.0, 1.0, 1.0), {})
    (tmp_path / "e" / "decoder.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path / "e")


def test_a_training_leaves_pictures_a_log_and_weights_to_go_on_from(
    trained: tuple[ImageEncoder, dict[str, float], Path],
) -> None:
    encoder, _, out = trained
    for name, rows in (("reconstructions.png", 4), ("samples.png", 4)):
        assert cv2.imread(str(out / name)).shape == (rows * 48, 12 * 48, 3)
    assert (out / "encoder.csv").read_text().startswith("update,loss,pixel_error,divergence")
    model = restored(encoder).model
    image = scenes(1, 3)
    with torch.no_grad():
        again = model.encode(torch.from_numpy(image))[0][0].numpy()
    np.testing.assert_allclose(encoder.encode(image[0]), again, atol=1e-4)


def test_of_good_images_at_most_two_in_a_hundred_are_refused(
    trained: tuple[ImageEncoder, dict[str, float], Path],
) -> None:
    encoder, figures, _ = trained
    assert figures["measured"] == 300
    assert figures["false_refusals"] <= 0.02
    fresh = [encoder.look(image).score > 1.0 for image in scenes(500, 9)]
    assert np.mean(fresh) <= 0.02


def test_what_is_like_nothing_that_was_seen_is_refused(trained: tuple[ImageEncoder, dict[str, float], Path]) -> None:
    encoder, _, _ = trained
    known = scenes(1, 4)[0]
    assert encoder.look(known).score < 1.0
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    another = known.copy()
    another[2:8, 14:22] = (20, 160, 40)  # something green lies there
    upside_down = 255 - known
    blank = np.full(SHAPE, 180, np.uint8)
    for image in (noise, another, upside_down, blank):
        assert encoder.look(image).score > 1.0


def test_another_brightness_is_no_reason_to_refuse() -> None:
    image, latent = scenes(1, 4)[0], np.zeros(2, np.float32)
    darker = np.rint(image * 0.8).astype(np.uint8)
    assert measures(darker, image, latent)["block_error"] < 0.01
    assert measures(darker, image, latent)["contrast"] == pytest.approx(0.5 / 0.8, abs=0.02)
    assert measures(255 - image, image, latent)["block_error"] > 0.3


def test_a_picture_may_be_of_any_size_and_encoding() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, CAMERA.shape, np.uint8)
    large = np.repeat(np.repeat(small, 5, axis=0), 5, axis=1)
    same = messages.image_cdr(7, "camera", small)
    np.testing.assert_array_equal(picture(IMAGE, same, CAMERA), messages.value(CAMERA, same))
    np.testing.assert_array_equal(picture(IMAGE, messages.image_cdr(7, "", large), CAMERA), small)
    bgr = encoded(large[..., ::-1], "bgr8")
    np.testing.assert_array_equal(picture(IMAGE, bgr, CAMERA), small)
    grey = picture(IMAGE, encoded(large[..., :1], "mono8"), CAMERA)
    np.testing.assert_array_equal(grey, np.repeat(small[..., :1], 3, axis=2))
    tiny = picture(IMAGE, messages.image_cdr(7, "", np.full((5, 9, 3), 80, np.uint8)), CAMERA)
    np.testing.assert_array_equal(tiny, np.full(CAMERA.shape, 80))
    png = compressed(large)
    np.testing.assert_array_equal(picture(COMPRESSED, png, CAMERA), small)
    with pytest.raises(messages.MessageError):
        picture(COMPRESSED, compressed(None), CAMERA)


def test_a_picture_of_a_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    np.testing.assert_array_equal(read_picture(tmp_path / "photo.png"), image)
    assert fitted(image, CAMERA).shape == CAMERA.shape
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("text.png", "no picture that can be read"), ("none.png", "no such picture")):
        with pytest.raises(UserError, match=message):
            read_picture(tmp_path / name)


def encoded(image: np.ndarray, encoding: str) -> bytes:
    """An Image of that encoding."""
    height, width, channels = image.shape
    return messages.encode(
        IMAGE,
        messages.message(
            IMAGE,
            header=messages.header(7),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(image).reshape(-1),
        ),
    )


def compressed(image: np.ndarray | None) -> bytes:
    """A CompressedImage, or one that is none."""
    data = np.zeros(10, np.uint8) if image is None else cv2.imencode(".png", image[..., ::-1])[1].reshape(-1)
    return messages.encode(COMPRESSED, messages.message(COMPRESSED, header=messages.header(7), format="png", data=data))
