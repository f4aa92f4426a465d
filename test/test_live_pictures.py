"""The live graph is shown a picture, and the arm goes there: with the shipped policy and its encoder."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import wait_for

from rl_ros.algorithms.rig import seen_through
from rl_ros.bringup import Supervisor
from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.trace import compare, read_traces
from rl_ros.graph import load_graph, resolve
from rl_ros.networks.image_encoder import load_encoder
from rl_ros.resources import share_directory
from rl_ros.tasks.env import ArmEnvironment, BinEnvironment
from rl_ros.tasks.grasp import GraspImage
from rl_ros.tasks.task import make_task
from rl_ros.tasks.visual import LatentEnvironment
from rl_ros.training.bundle import load_bundle
from rl_ros.training.rig import CameraSenses, TrueSenses

POLICY = share_directory() / "policies" / "visual_reach"
SEED = 12345
"""Of the goal that the picture shows."""


@pytest.fixture
def arm() -> Iterator[ArmEnvironment]:
    environment = LatentEnvironment(
        "visual_reach", TrueSenses(["tool_position"]), Contract.load("visual_reach").with_latent(2)
    )
    environment.reset(SEED)
    yield environment.arm
    environment.close()


def show(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rl_ros.cli", "goal", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def complete(bags: Path) -> int:
    """How many episodes have been recorded."""
    return len(list(bags.glob("episode_" + 6 * "[0-9]")))


def followed(picture: Path, bags: Path, said: list[str]) -> int:
    """Show the running graph a picture, and wait for two more episodes: how many there were before."""
    shown = show(picture)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    then = complete(bags)
    assert wait_for(lambda: complete(bags) > then + 2, 60.0), said
    return then


def test_the_arm_goes_where_a_picture_shows_it_and_bags_hold_the_same_latents(
    tmp_path: Path, arm: ArmEnvironment
) -> None:
    picture, noise = tmp_path / "picture.png", tmp_path / "noise.png"
    cv2.imwrite(str(picture), arm.goal_values["image"][..., ::-1])
    cv2.imwrite(str(noise), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    bags, trace = tmp_path / "bags", tmp_path / "trace"
    said: list[str] = []

    arguments = {"lockstep": "true", "bags": str(bags), "trace": str(trace)}
    with Supervisor(resolve(load_graph("visual_reach"), arguments), said.append):
        assert wait_for(lambda: complete(bags) > 0, 60.0), said
        refused = show(noise)
        assert refused.returncode == 2
        assert "refused: a picture like nothing the encoder has learned from: score" in refused.stdout
        then = followed(picture, bags, said)
    episodes, problems = read_episodes(find_bags(bags)[:-1], Contract.load("visual_reach"))
    assert not problems
    encoder = load_encoder(POLICY / "encoder")
    wanted = encoder.encode(arm.goal_values["image"])
    last = episodes[then + 1]
    np.testing.assert_array_equal(last.desired_goal, np.broadcast_to(wanted, last.desired_goal.shape))
    prior = np.random.default_rng([episodes[0].seed, 0x1A6]).normal(size=(1, encoder.latent)).astype(np.float32)
    imagined = np.broadcast_to(seen_through(encoder, prior), episodes[0].desired_goal.shape)
    np.testing.assert_array_equal(episodes[0].desired_goal, imagined)
    goal = make_task("visual_reach").goal_pose(SEED)
    assert np.linalg.norm(last.observation["tool_position"][-1] - goal) < 0.03
    # What was imagined, seen and followed live is what the encoder makes of the bag's images, to the last bit.
    for episode in episodes[: then + 2]:
        latents = encoder.encode_all(episode.auxiliary["image"])
        np.testing.assert_array_equal(episode.observation["latent"], latents)
    count, mismatches = compare(read_traces(sorted(trace.glob("*.jsonl"))), episodes)
    assert count > 100
    assert not mismatches


def test_a_picture_shows_what_to_grasp_and_bags_hold_what_was_judged(tmp_path: Path) -> None:
    encoder = load_encoder(share_directory() / "policies" / "grasp_image" / "encoder")
    tray = BinEnvironment("held_out", encoder=encoder)
    tray.reset(seed=SEED)
    assert tray.picture is not None
    picture, bags, said = tmp_path / "picture.png", tmp_path / "bags", []
    cv2.imwrite(str(picture), tray.picture[..., ::-1])
    wanted = tray.desired_goal
    tray.close()

    arguments = {"goal": "image", "objects": "held_out", "lockstep": "true", "bags": str(bags), "seed": str(SEED)}
    with Supervisor(resolve(load_graph("grasp"), arguments), said.append):
        assert wait_for(lambda: complete(bags) > 0, 60.0), said
        then = followed(picture, bags, said)
    episodes, problems = read_episodes(find_bags(bags)[:-1], Contract.load("grasp_image"))
    assert not problems
    for episode in episodes[then + 1 :]:
        np.testing.assert_array_equal(episode.desired_goal, np.broadcast_to(wanted, episode.desired_goal.shape))
        latents = encoder.encode_all(episode.observation["image"])
        np.testing.assert_array_equal(episode.auxiliary["latent"], latents)
        task, ticks = GraspImage(), episode.observation | episode.auxiliary
        judged = [
            task.judge({key: value[tick] for key, value in ticks.items()}, wanted) for tick in range(len(latents))
        ]
        assert episode.success == judged[-1].success
        assert judged[-1].over


def test_a_policy_does_not_act_on_latents_of_another_encoder(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in POLICY.iterdir():
        if file.is_file():
            (bundle / file.name).write_bytes(file.read_bytes())
    description = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(description | {"encoder": "0" * 64}))
    said: list[str] = []
    arguments = {"policy": str(bundle), "encoder": str(POLICY / "encoder"), "episodes": "1", "patience": "5.0"}
    with Supervisor(resolve(load_graph("visual_reach"), arguments), said.append) as supervisor:
        assert supervisor.wait() != 0
    theirs, ours = load_bundle(POLICY).encoder[:16], 16 * "0"
    assert any(
        f"latents are of encoder/{theirs}, the policy was trained with encoder/{ours}" in line for line in said
    ), said


def test_a_graph_of_pictures_needs_an_encoder_that_fits(tmp_path: Path) -> None:
    def refusal(**arguments: str) -> str:
        said: list[str] = []
        with Supervisor(resolve(load_graph("visual_reach"), arguments), said.append) as supervisor:
            assert supervisor.wait() == 2
        return " ".join(said)

    assert "encoder: must be given, as the goals of visual_reach are images" in refusal(policy="")
    other = Contract.load("visual_reach").with_latent(7)
    (tmp_path / "other.yaml").write_text(other.to_yaml())
    told = refusal(policy="", encoder=str(POLICY / "encoder"), contract=str(tmp_path / "other.yaml"))
    assert "an encoder of images [48, 48, 3] to" in told
    assert "has images [48, 48, 3] and 7 numbers" in told


def test_the_environment_encodes_as_the_node_does() -> None:
    encoder = load_encoder(POLICY / "encoder")
    environment = LatentEnvironment("visual_reach", CameraSenses(encoder))
    environment.reset(3)
    np.testing.assert_array_equal(environment.values["latent"], encoder.encode(environment.values["image"]))
    environment.close()
