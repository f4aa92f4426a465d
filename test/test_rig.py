"""Imagined goals: what they are, that nothing remembered is of an old encoder, and that a run goes on as it was."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_ros.algorithms.base import make_algorithm
from rl_ros.algorithms.rig import drawn_from, practise, seen_through, skewed, standard_normal
from rl_ros.cli import main
from rl_ros.contract import Contract, difference
from rl_ros.episodes.distance import LATENT_REWARD
from rl_ros.episodes.exchange.bags import write_bags
from rl_ros.episodes.memory import Columns, Episode, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.image_encoder import ImageEncoder, load_encoder
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.tasks.goals import GoalTask
from rl_ros.tasks.task import make_task
from rl_ros.tasks.visual import LATENT, LatentEnvironment
from rl_ros.training.bundle import load_bundle
from rl_ros.training.evaluate import environment_of, evaluate_in_process
from rl_ros.training.from_bags import BagTrainer, Exported, Refused, Settings
from rl_ros.training.offline import train
from rl_ros.training.online import OnlineSettings
from rl_ros.training.representation import RepresentationConfig, restored, train_encoder
from rl_ros.training.rig import (
    CameraSenses,
    RigSettings,
    RigTraining,
    TrueSenses,
    as_latents,
    columns_of_latents,
    encoder_of_recordings,
    final_distances,
    wander,
)
from rl_ros.training.rollouts import Rollouts
from rl_ros.training.runs import read_source

CONTRACT = Contract.load("visual_reach")


@pytest.fixture(scope="module")
def wandered() -> list[Episode]:
    return wander(CONTRACT, 12, seed=0)


@pytest.fixture(scope="module")
def first_encoder(wandered: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.concatenate([episode.observation["image"] for episode in wandered])
    out = tmp_path_factory.mktemp("first")
    config = RepresentationConfig(features=32, hidden_size=64)
    train_encoder(images[51:], images[:51], CONTRACT.latent.shape[0], out, updates=60, config=config)
    return out / "encoder"


def training(encoder: Path, out: Path, rollouts: Rollouts, resume: bool = False, **rig: object) -> RigTraining:
    found = load_encoder(encoder)
    senses = next(iter(rollouts.environment.senses for _ in range(1)))  # type: ignore[attr-defined]
    size = CONTRACT.latent.shape[0]
    sizes = {LATENT: size, "tool_position": 3, DESIRED_GOAL: size}
    unknown = {name: {"mean": [0.0] * width, "std": [1.0] * width} for name, width in sizes.items()}
    algorithm = make_algorithm("rig", CONTRACT, unknown, seed=0, overrides={"hidden_size": 16, "batch_size": 16})
    settings = OnlineSettings(
        steps=10**9, episodes_at_once=2, updates_per_step=0.1, random_steps=0, evaluate_every=10**9, capacity=3000
    )
    chosen = RigSettings(**({"refresh_every": 2, "refresh_updates": 5} | rig))  # type: ignore[arg-type]
    return RigTraining(algorithm, rollouts, settings, 0, out, senses, restored(found), chosen, resume=resume)


def rollouts_of(encoder: Path) -> Rollouts:
    senses = CameraSenses(load_encoder(encoder))
    return Rollouts(lambda: LatentEnvironment("visual_reach", senses), count=2)  # type: ignore[arg-type,return-value]


def consistent(memory: ReplayMemory, encoder: ImageEncoder) -> None:
    """Every latent that is remembered is of this encoder, and so are rewards."""
    rows = np.flatnonzero(memory.episode >= 0)
    latents = encoder.encode_all(memory.auxiliary["image"][rows])
    np.testing.assert_array_equal(memory.observation[LATENT][rows], latents)
    np.testing.assert_array_equal(memory.achieved_goal[rows], latents)
    begins = memory.transitions
    rewards = LATENT_REWARD(memory.achieved_goal[begins + 1], memory.desired_goal[begins])
    np.testing.assert_allclose(memory.reward[begins], rewards, rtol=1e-6)


def test_half_of_a_batch_practises_imagined_goals_and_the_rest_what_came_later(wandered: list[Episode]) -> None:
    senses = TrueSenses(["tool_position"])
    contract = CONTRACT.with_latent(2)
    memory = ReplayMemory(
        [as_latents(episode, contract, senses) for episode in wandered], achieved_goal=LATENT, kept=["image"]
    )
    sizes = {LATENT: 2, "tool_position": 3, DESIRED_GOAL: 2}
    unknown = {name: {"mean": [0.0] * width, "std": [1.0] * width} for name, width in sizes.items()}
    algorithm = make_algorithm("rig", contract, unknown)
    pool = np.float32([[7.0, 7.0], [8.0, 9.0]])
    practise(algorithm, drawn_from(pool))
    rng = np.random.default_rng(0)
    [batch] = algorithm.batches(memory, memory.sample(rng, (1, 4000)), rng)
    imagined = (batch.desired_goal[:, None] == pool).all(2).any(1)
    assert 0.46 < imagined.mean() < 0.54
    arrived = batch.next_observation[LATENT]
    np.testing.assert_allclose(batch.reward, -np.linalg.norm(arrived - batch.desired_goal, axis=1), rtol=1e-5)
    assert not batch.terminated.any()
    assert "image" not in batch.auxiliary | batch.next_auxiliary  # images stay where they are
    assert memory.auxiliary["image"].shape[1:] == (48, 48, 3)


def test_goals_of_the_prior_are_standard_normal() -> None:
    goals = standard_normal(3)(np.random.default_rng(0), 20_000)
    assert goals.dtype == np.float32
    np.testing.assert_allclose(goals.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(goals.std(0), 1.0, atol=0.03)


def test_skewed_weights_undo_what_was_seen_often() -> None:
    # Of ten things seen, nine are the same: p = 0.9 each of nine, 0.1 of one.
    log_likelihood = np.log(np.array([0.9] * 9 + [0.1]))
    np.testing.assert_allclose(skewed(log_likelihood, 0.0), 0.1)
    weights = skewed(log_likelihood, -1.0)
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights[:9] / weights[9], 1.0 / 9.0)
    assert np.isfinite(skewed(np.array([-9000.0, -10.0, -9500.0]), -0.5)).all()
    with pytest.raises(UserError, match="power from -1 to 0"):
        skewed(log_likelihood, 0.5)


def test_goals_seen_through_the_encoder_are_latents_of_images(first_encoder: Path) -> None:
    encoder = load_encoder(first_encoder)
    goals = standard_normal(encoder.latent)(np.random.default_rng(0), 5)
    for goal, seen in zip(goals, seen_through(encoder, goals), strict=True):
        np.testing.assert_array_equal(seen, encoder.encode(encoder.decode(goal)))


@pytest.mark.parametrize("skew", [0.0, -0.5])
def test_when_the_encoder_learns_on_everything_remembered_is_encoded_anew(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path, skew: float
) -> None:
    with rollouts_of(first_encoder) as rollouts:
        run = training(first_encoder, tmp_path / "run", rollouts, skew=skew)
        run.remember(wandered[:4])
        consistent(run.memory, run.camera.encoder)
        old, goals = run.camera.encoder, run.memory.desired_goal[run.memory.transitions].copy()
        run.round()
        assert run.camera.encoder.sha256 != old.sha256
        consistent(run.memory, run.camera.encoder)
        # A goal is what the old encoder imagined of it, seen by the new one; and new goals are of the new one.
        row = run.memory.transitions[0]
        image = old.decode(goals[0], run.memory.auxiliary["image"][row])
        np.testing.assert_array_equal(run.memory.desired_goal[row], run.camera.encoder.encode(image))
        assert load_encoder(tmp_path / "run" / "encoder").sha256 == run.camera.encoder.sha256
        if skew:
            known = run.memory.achieved_goal[run.memory.episode >= 0]
            assert all((known == goal).all(1).any() for goal in run._pool[:20])


def test_goals_to_practise_can_be_where_episodes_have_led_to(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path
) -> None:
    with rollouts_of(first_encoder) as rollouts:
        run = training(first_encoder, tmp_path / "run", rollouts, goals="seen", refresh_every=0)
        run.remember(wandered[:4])
        encoder = load_encoder(first_encoder)
        ends = [encoder.encode(episode.observation["image"][-1]) for episode in wandered[:4]]
        np.testing.assert_array_equal(run._pool, np.stack(ends))
        run.round()
        asked = run.memory.desired_goal[run.memory.last_row[run.memory.episode == 4]][0]
        assert any(np.array_equal(asked, end) for end in ends)


def test_a_conditional_encoder_sees_the_first_image_of_each_episode(wandered: list[Episode], tmp_path: Path) -> None:
    images = np.concatenate([episode.observation["image"] for episode in wandered])
    length = len(wandered[0].stamps)
    config = RepresentationConfig(features=32, hidden_size=64, conditional=True)
    begins = np.arange(len(images)) // length * length
    held, learned = slice(0, length), slice(length, None)
    train_encoder(
        images[learned],
        images[held],
        CONTRACT.latent.shape[0],
        tmp_path / "first",
        updates=30,
        config=config,
        contexts=begins[learned] - length,
        held_out_contexts=begins[held],
    )
    with rollouts_of(tmp_path / "first" / "encoder") as rollouts:
        run = training(tmp_path / "first" / "encoder", tmp_path / "run", rollouts, skew=-0.5, seen_through=False)
        run.remember(wandered)
        for _ in range(3):
            run.round()
        memory, encoder = run.memory, run.camera.encoder
        assert encoder.conditional
        rows = np.flatnonzero(memory.episode >= 0)
        context = memory.auxiliary["image"][memory.first_row[rows]]
        latents = encoder.encode_all(memory.auxiliary["image"][rows], context)
        np.testing.assert_array_equal(memory.observation[LATENT][rows], latents)


def test_a_run_goes_on_bit_for_bit_after_an_interruption(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path
) -> None:
    with rollouts_of(first_encoder) as rollouts:
        whole = training(first_encoder, tmp_path / "whole", rollouts)
        whole.remember(wandered[:3])
        for _ in range(3):
            whole.round()
        weights = whole.algorithm.state_dict()
    with rollouts_of(first_encoder) as rollouts:
        part = training(first_encoder, tmp_path / "part", rollouts)
        part.remember(wandered[:3])
        for _ in range(2):
            part.round()
        part.save()
    with rollouts_of(first_encoder) as rollouts:
        again = training(first_encoder, tmp_path / "part", rollouts, resume=True)
        again.round()
        assert again.camera.encoder.sha256 == whole.camera.encoder.sha256
        for name, tensor in again.algorithm.state_dict().items():
            assert torch.equal(tensor, weights[name]), name
        with pytest.raises(UserError, match="begin another"):
            training(first_encoder, tmp_path / "part", rollouts, resume=True, refresh_updates=7)


def test_a_bundle_holds_its_encoder_and_refuses_another(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path
) -> None:
    with rollouts_of(first_encoder) as rollouts:
        run = training(first_encoder, tmp_path / "run", rollouts)
        run.remember(wandered[:3])
        bundle = load_bundle(run.export(tmp_path / "bundle"))
    assert bundle.encoder == bundle.image_encoder().sha256 == load_encoder(first_encoder).sha256
    figures = evaluate_in_process(tmp_path / "bundle", 2, 5)
    assert set(figures) >= {"median_distance_m", "success", "refused"}
    description = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(description | {"encoder": "0" * 64}))
    with pytest.raises(UserError, match="another image encoder .* than the policy was trained with"):
        load_bundle(tmp_path / "bundle").image_encoder()


def test_recorded_episodes_are_learned_from_offline(wandered: list[Episode], tmp_path: Path) -> None:
    columns = Columns.of(wandered)
    with pytest.raises(UserError, match="too few for an image encoder"):
        encoder_of_recordings(Columns.of(wandered[:1]), CONTRACT, tmp_path, updates=1, seed=0)
    encoder, _ = encoder_of_recordings(columns, CONTRACT, tmp_path, updates=20, seed=0)
    latents = columns_of_latents(columns, CONTRACT, encoder)
    assert list(latents.observation) == [LATENT, "tool_position"]
    np.testing.assert_array_equal(latents.observation[LATENT][7], encoder.encode(columns.observation["image"][7]))
    bundle = train(
        ReplayMemory(latents, achieved_goal=LATENT),
        CONTRACT,
        "rig",
        tmp_path / "run",
        updates=3,
        overrides={"hidden_size": 16, "batch_size": 16},
        encoder=encoder,
    )
    assert load_bundle(bundle).encoder == encoder.sha256


def test_a_run_is_judged_by_the_latents_that_it_was_trained_on(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def encoded_by_another(episode: Episode) -> Episode:
        seen, latents = episode.observation, np.full((len(episode.stamps), *CONTRACT.latent.shape), 9.0, np.float32)
        observation = {LATENT: latents, "tool_position": seen["tool_position"]}
        return replace(episode, observation=observation, auxiliary={"image": seen["image"]}, desired_goal=latents)

    recorded = replace(CONTRACT, auxiliary={"image": CONTRACT.camera})
    write_bags(map(encoded_by_another, wandered), recorded, tmp_path / "bags")
    run = tmp_path / "run"
    given = ["--contract", "visual_reach", "--bags", str(tmp_path / "bags"), "--out", str(run), "--updates", "3"]
    tiny = ["--encoder", str(first_encoder), "--set", "hidden_size=16", "--set", "batch_size=16"]
    assert main(["train", "--algorithm", "rig", *given, *tiny]) == 0
    source = read_source(run)
    assert source is not None
    memory, _ = source.read(load_bundle(run / "bundle"))
    images = np.concatenate([episode.observation["image"] for episode in wandered])
    np.testing.assert_array_equal(memory.observation[LATENT], load_encoder(first_encoder).encode_all(images))
    assert main(["doctor", str(run)]) in (0, 1)
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert "normaliser" not in {finding["check"] for finding in findings}


def test_the_trainer_makes_latents_of_the_images_of_bags(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path
) -> None:
    bags, encoder = tmp_path / "bags", load_encoder(first_encoder)
    write_bags(wandered[:3], CONTRACT.without_latent(), bags)
    settings = Settings(
        "rig",
        bags,
        tmp_path / "run",
        updates_per_episode=2,
        export_every=3,
        start_after=1,
        encoder=first_encoder,
        overrides={"hidden_size": 16, "batch_size": 16},
    )
    with pytest.raises(UserError, match="learning from its bags needs an encoder"):
        BagTrainer(replace(settings, encoder=None), CONTRACT)
    trainer = BagTrainer(settings, CONTRACT)
    exported: list[Path] = []
    while not exported:
        events = trainer.step()
        assert not [event for event in events or () if isinstance(event, Refused)]
        exported += [event.bundle for event in events or () if isinstance(event, Exported)]
    expected = encoder.encode_all(np.concatenate([episode.observation["image"] for episode in wandered[:3]]))
    np.testing.assert_array_equal(trainer.memory.observation[LATENT][: len(expected)], expected)
    assert load_bundle(exported[0]).encoder == encoder.sha256


def test_the_command_learns_online_from_images_and_continues_with_their_encoder(
    wandered: list[Episode], first_encoder: Path, tmp_path: Path
) -> None:
    bags, run = tmp_path / "bags", tmp_path / "run"
    write_bags(wandered[:2], CONTRACT.without_latent(), bags)
    online = ["train", "--online", "--contract", "visual_reach", "--bags", str(bags), "--out", str(run)]
    quick = ["--updates", "2", "--start-after", "1", "--set", "hidden_size=16", "--set", "batch_size=16"]
    assert main([*online, *quick, "--algorithm", "rig", "--encoder", str(first_encoder)]) == 0
    write_bags(wandered[2:4], CONTRACT.without_latent(), bags / "new")
    assert main([*online, *quick, "--continue", str(run / "bundle")]) == 0
    learned = load_bundle(run / "bundle")
    assert (learned.encoder, learned.metrics["updates"]) == (load_encoder(first_encoder).sha256, 4)


def test_being_as_near_as_counts_as_reached_can_be_all_that_is_rewarded() -> None:
    sizes = {LATENT: 2, "tool_position": 3, DESIRED_GOAL: 2}
    unknown = {name: {"mean": [0.0] * width, "std": [1.0] * width} for name, width in sizes.items()}
    achieved, desired = np.float32([[0, 0], [0, 0]]), np.float32([[0.3, 0.4], [0.0, 0.6]])
    for reached, expected in ((0.0, [-0.5, -0.6]), (0.55, [0.0, -1.0])):
        algorithm = make_algorithm("rig", CONTRACT.with_latent(2), unknown, overrides={"reached": reached})
        practise(algorithm, standard_normal(2))
        assert algorithm.hindsight is not None
        np.testing.assert_allclose(algorithm.hindsight.compute_reward(achieved, desired), expected, rtol=1e-6)
    with pytest.raises(UserError, match="expected a positive tolerance"):
        practise(
            make_algorithm("rig", CONTRACT.with_latent(2), unknown, overrides={"reached": -1.0}), standard_normal(2)
        )


def test_soft_actor_critic_imagines_as_well() -> None:
    sizes = {LATENT: 2, "tool_position": 3, DESIRED_GOAL: 2}
    unknown = {name: {"mean": [0.0] * width, "std": [1.0] * width} for name, width in sizes.items()}
    algorithm = make_algorithm("rig_sac", CONTRACT.with_latent(2), unknown, overrides={"prior_share": 0.25})
    practise(algorithm, standard_normal(2))
    assert algorithm.hindsight is not None
    assert algorithm.hindsight.shares == {"prior": 0.25, "future": 0.75}


@pytest.mark.parametrize("task", ["visual_reach", "visual_push"])
def test_pictures_show_the_goal_that_distances_are_measured_to(task: str) -> None:
    judge = make_task(task)
    assert isinstance(judge, GoalTask)
    keys = ["tool_position", "object_position"][: 1 + (task == "visual_push")]
    environment = LatentEnvironment(task, TrueSenses(keys), Contract.load(task).with_latent(2 * len(keys)))
    for seed in range(5):
        environment.reset(seed)
        shown = environment.arm.goal_values[judge.achieved_goal]
        np.testing.assert_allclose(shown[:2], judge.goal_pose(seed)[:2], atol=2e-3)
        again = environment.desired_goal.copy()
        environment.reset(seed)
        np.testing.assert_array_equal(environment.desired_goal, again)
    for _ in range(environment.episode_length):
        reward, terminated, truncated, success = environment.step(np.zeros(3, np.float32))
        latents = environment.values[LATENT].astype(np.float64) - environment.desired_goal
        assert reward == pytest.approx(-np.linalg.norm(latents), rel=1e-5)
        assert not terminated
    assert truncated
    apart = np.linalg.norm(environment.values[judge.achieved_goal] - environment.arm.goal_position)
    assert success == (apart < judge.threshold)
    environment.close()


def test_distances_are_of_where_an_episode_ends(wandered: list[Episode]) -> None:
    task = make_task("visual_reach")
    ends = np.stack([episode.value("tool_position")[-1] for episode in wandered])
    goals = np.stack([task.goal_pose(episode.seed) for episode in wandered])
    np.testing.assert_allclose(final_distances(wandered, "visual_reach"), np.linalg.norm(ends - goals, axis=1))


def test_a_contract_of_images_says_what_there_is_without_an_encoder() -> None:
    images = CONTRACT.without_latent()
    assert images.reference == "image"
    assert list(images.observation) == ["image", "tool_position"]
    assert images.observation["image"].shape == (48, 48, 3)
    assert not images.goal.policy_input
    assert Contract.from_yaml(images.to_yaml(), "made") == images
    assert environment_of(CONTRACT) == "rl_ros/VisualReach-v0"
    larger = CONTRACT.with_latent(9)
    assert larger.latent.shape == larger.goal.desired_goal.shape == (9,)
    assert difference(CONTRACT, larger) is not None
    with pytest.raises(UserError, match="goals are not given as images"):
        _ = Contract.load("reach").latent
    with pytest.raises(ValueError, match="goal.image"):
        replace(CONTRACT, auxiliary={})


def test_a_finer_camera_sees_the_same_scene_in_more_pixels() -> None:
    finer = CONTRACT.with_image("image", 84, 96)
    assert finer.latent == CONTRACT.latent and finer.goal == CONTRACT.goal
    coarse, fine = (wander(contract, 1, seed=0)[0] for contract in (CONTRACT, finer))
    assert coarse.observation["image"].shape[1:] == (48, 48, 3)
    assert fine.observation["image"].shape[1:] == (84, 96, 3)
    np.testing.assert_array_equal(fine.action, coarse.action)
