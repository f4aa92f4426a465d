"""QT-Opt: its losses by hand, its search on a known function, and what it makes of an episode."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import make_algorithm
from rl_ros.algorithms.cross_entropy_method import CrossEntropyMethod
from rl_ros.algorithms.qt_opt import (
    QTOpt,
    QTOptConfig,
    clipped_double_target,
    conservative_loss,
    cross_entropy,
)
from rl_ros.contract import Contract
from rl_ros.episodes.decisions import FALL, decisions, held_up
from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.grasp_q import STRIDE, GraspQ, Scene, SceneEncoder
from rl_ros.training.bundle import load_bundle, save_learner

CONTRACT = Contract.load("grasp")
NORMALISATION = {
    "tool_position": {"mean": [0.5, 0.0, 0.1], "std": [0.05, 0.05, 0.05]},
    "tool_orientation": {"mean": [1.0, 0.0, 0.0, 0.0], "std": [0.01, 0.3, 0.01, 0.01]},
    "finger_position": {"mean": [0.02, 0.02], "std": [0.01, 0.01]},
}
TERMINATE = 5


def observations(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    place = torch.tensor([0.4, -0.1, 0.02]) + torch.rand(count, 3, generator=generator) * 0.2
    return {
        "image": torch.randint(0, 256, (count, 64, 64, 3), generator=generator, dtype=torch.uint8),
        "tool_position": place,
        "tool_orientation": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        "finger_position": torch.full((count, 2), 0.04),
    }


def episode(said_at: int, ticks: int, grasped: bool, seed: int) -> Episode:
    """An episode in which the policy terminates at a tick, and the check goes on to the end."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-0.4, 0.4, (ticks, 6)).astype(np.float32)
    action[:, 4:] = 0.0
    action[said_at:, TERMINATE] = 1.0
    reward = np.full(ticks, -0.02, np.float32)
    reward[ticks - 2] = float(grasped)
    terminated, has = np.zeros(ticks, bool), np.ones(ticks, bool)
    terminated[ticks - 2], has[-1] = True, False
    seen = {name: value.numpy() for name, value in observations(ticks, seed).items()}
    return Episode(
        stamps=np.arange(ticks) * CONTRACT.period_ns,
        observation=seen,
        auxiliary={
            "objects_position": rng.uniform(0.0, 0.1, (ticks, 15)).astype(np.float32) + np.float32(0.4),
            "objects_heading": np.zeros((ticks, 5), np.float32),
        },
        desired_goal=np.full((ticks, 1), 0.15, np.float32),
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=np.zeros(ticks, bool),
        has_transition=has,
        outcome="success" if grasped else "failure",
        seed=seed,
        source="made up",
    )


def test_cross_entropy_of_a_probability() -> None:
    q, y = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 1.0])
    expected = -(0.5 * np.log(0.2) + 0.5 * np.log(0.8) + np.log(0.9)) / 2
    assert float(cross_entropy(torch.logit(q), y)) == pytest.approx(expected, abs=1e-6)


def test_recorded_actions_are_asked_to_look_better_than_others() -> None:
    logit = torch.zeros(1, requires_grad=True)
    others = torch.tensor([[0.0, float(np.log(2.0))]], requires_grad=True)
    loss = conservative_loss(logit, others)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(4.0))  # exp: 1 recorded, 1 and 2 others
    np.testing.assert_allclose(others.grad, [[0.25, 0.5]])
    np.testing.assert_allclose(logit.grad, [-0.75])


def test_other_actions_are_near_and_anywhere_and_seldom_terminate() -> None:
    learner = make_algorithm("qt_opt", CONTRACT, NORMALISATION, overrides={"conservative_actions": 400})
    recorded = torch.tensor([[0.5, 0.0, 0.0, 0.0, 1.0, -1.0]])
    [found] = learner.other_actions(recorded)
    near, anywhere = found[:200], found[200:]
    assert 0.75 < (near[:, 4] == 1.0).float().mean() < 0.95
    assert 0.75 < (near[:, 5] == -1.0).float().mean() < 0.95
    assert 0.2 < near[:, 0].std() < 0.4
    assert anywhere[:, 0].std() > 0.5
    assert set(anywhere[:, 4].tolist()) == {-1.0, 1.0}
    assert 0.03 < (anywhere[:, 5] > 0).float().mean() < 0.2


def test_the_target_takes_the_smaller_q_and_stays_a_probability() -> None:
    def target(reward: float, terminated: float, first: float, second: float) -> float:
        one = [torch.tensor([value]) for value in (reward, terminated)]
        two = [torch.logit(torch.tensor([value])) for value in (first, second)]
        return float(clipped_double_target(*one, *two, 0.9))

    assert target(-0.02, 0.0, 0.8, 0.5) == pytest.approx(0.9 * 0.5 - 0.02)
    assert target(1.0, 1.0, 0.8, 0.5) == 1.0
    assert target(-0.02, 0.0, 0.01, 0.5) == 0.0
    assert target(0.0, 1.0, 0.8, 0.5) == 0.0


def test_the_check_is_taken_out_and_its_outcome_given_to_the_decision_that_it_judged() -> None:
    memory = ReplayMemory([episode(2, 6, True, 0), episode(1, 5, False, 1)])
    known = decisions(memory, TERMINATE, discount=0.5)
    assert known.nearest[:5].tolist() == [0, 1, 2, 0, 1]
    assert known.nearest[6:10].tolist() == [6, 7, 6, 7]
    assert known.last[[0, 1, 2, 6, 7]].tolist() == [False, False, True, False, True]
    assert known.reward[[0, 1, 2, 6, 7]] == pytest.approx([-0.02, -0.02, 1.0, -0.02, 0.0])
    assert known.success[[0, 1, 2, 6, 7]].tolist() == [True, True, True, False, False]
    assert known.seen_return[2] == pytest.approx(1.0)
    assert known.seen_return[1] == pytest.approx(-0.02 + 0.5)
    assert known.seen_return[0] == pytest.approx(-0.02 + 0.5 * (-0.02 + 0.5))
    assert known.seen_return[6] == pytest.approx(-0.02)


PICTURED = Contract.load("grasp_image")


def pictured(count: int, latents: list[float]) -> ReplayMemory:
    """Grasps whose pictures before the end have these latents, but for the last `count`, which failed."""
    episodes = []
    for seed, latent in enumerate(latents):
        one = episode(2, 8, seed < len(latents) - count, seed)
        seen = np.zeros((8, 4), np.float32)
        seen[8 - 1 - FALL] = latent
        goal = np.zeros((8, 4), np.float32)
        episodes.append(dataclasses.replace(one, auxiliary={**one.auxiliary, "latent": seen}, desired_goal=goal))
    return ReplayMemory(episodes, achieved_goal="latent")


def test_a_grasp_is_right_for_what_it_held_up_and_wrong_for_what_others_did() -> None:
    memory = pictured(1, [1.0, -1.0, 5.0])
    known = held_up(memory)
    assert known.latent[:, 0].tolist() == [1.0, -1.0]
    rows = np.repeat(memory.transitions, 50)
    goal, right = known.draw(rows, 0.5, np.random.default_rng(0))
    first, failed = memory.episode[rows] == 0, memory.episode[rows] == 2
    np.testing.assert_array_equal(right[first], goal[first, 0] == 1.0)
    assert 0.7 < right[first].mean() < 0.8  # half of them its own, and half of the others the same
    assert right[failed].all()  # a failure is one whatever was wanted
    assert set(goal[failed, 0].tolist()) == {1.0, -1.0}
    with pytest.raises(UserError, match="no grasp in these recordings has succeeded"):
        held_up(pictured(2, [1.0, 2.0]))


def test_what_is_learned_depends_on_what_was_wanted() -> None:
    learner = make_algorithm("qt_opt", PICTURED, NORMALISATION)
    memory = pictured(0, [1.0, -1.0])
    [batch] = learner.batches(memory, np.repeat(memory.transitions, 10)[None], np.random.default_rng(0))
    last, right = batch.terminated > 0, batch.extra["success"]
    np.testing.assert_array_equal(batch.reward[last], right[last].astype(np.float32))
    assert (batch.reward[~last] < 0.0).all()
    assert (batch.extra["seen_return"][~right] == 0.0).all()
    assert 0.1 < right.mean() < 0.9
    learner.update(batch)


class Known(nn.Module):
    """-‖a − best‖², and worse with the wrong gripper; stands for a Q-function."""

    def __init__(self, q: GraspQ, best: Tensor) -> None:
        super().__init__()
        self.plain, self.best = q.plain, best

    def judge(self, scene: Scene, action: Tensor) -> Tensor:
        return -(action - self.best[:, None]).square().sum(-1)


def test_the_search_finds_a_different_best_action_in_each_of_many_states_at_once() -> None:
    encoder = SceneEncoder(CONTRACT, 4)
    q = GraspQ(CONTRACT, encoder, QTOptConfig().projection, 8, 1)
    search = CrossEntropyMethod(q, samples=128, elites=6, iterations=6, least_std=0.1)
    generator = torch.Generator().manual_seed(0)
    best = torch.rand(20, 6, generator=generator) * 1.6 - 0.8
    best[:, 4] = torch.sign(best[:, 4])
    best[:, 5] = -1.0
    scene = Scene(torch.zeros(20, 4), torch.zeros(20, 6), torch.zeros(20, 0))
    with torch.no_grad():
        found, value = search(Known(q, best), scene)  # type: ignore[arg-type]
    assert float((found - best).abs().max()) < 0.25
    assert torch.equal(found[:, 4], best[:, 4])
    assert float(value.min()) > -0.1
    assert float(found.abs().max()) <= 1.0


def test_a_place_is_looked_at_where_the_camera_shows_it() -> None:
    encoder = SceneEncoder(CONTRACT, 2)
    q = GraspQ(CONTRACT, encoder, QTOptConfig().projection, 8, 1)
    # A map whose features are each cell's own column and row.
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    cells = torch.stack([column, row], dim=-1).view(-1, 2).repeat(2, 1)
    places = torch.tensor([[[0.5, 0.0], [0.55, 0.06]], [[0.45, -0.05], [0.5, 0.1]]])
    seen = q.look(cells, *places.unbind(-1))
    projection = torch.tensor(QTOptConfig().projection).view(3, 4)
    points = torch.cat([places, torch.full((2, 2, 1), 0.015), torch.ones(2, 2, 1)], dim=-1)
    pixels = points @ projection.T
    expected = (pixels[..., :2] / pixels[..., 2:] - (STRIDE - 1) / 2) / STRIDE
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


def test_some_millimetres_between_the_fingers_are_seen_as_more_than_nothing() -> None:
    """An empty hand that says it holds something was every second grasp that failed by ending early."""
    hand = torch.tensor([0.5, 0.0, 0.2, 1.0, 0.0, 0.0]).repeat(3, 1)
    hand[:, 5] = torch.tensor([0.0, 0.006, 0.08])
    scene, action, logits = Scene(torch.zeros(3 * 256, 4), hand, torch.zeros(3, 0)), torch.zeros(3, 1, 6), []
    for seed in range(16):
        torch.manual_seed(seed)
        q = GraspQ(CONTRACT, SceneEncoder(CONTRACT, 4), QTOptConfig().projection, 64, 2)
        with torch.no_grad():
            logits.append(q(scene, action)[:, 0])
    empty, thin, wide = torch.stack(logits, dim=1)
    assert (thin - empty).norm() > 0.25 * (wide - empty).norm()


def test_an_action_that_terminates_is_worth_the_same_whatever_else_it_asks_for() -> None:
    learner = make_algorithm("qt_opt", CONTRACT, NORMALISATION)
    q, encoder = learner.policy.q, learner.policy.encoder
    scene = encoder.scene(encoder(observations(3), torch.zeros(3, 1)))
    actions = torch.rand(3, 10, 6) * 2 - 1
    actions[..., TERMINATE] = 1.0
    values = q(scene, actions)
    assert float((values - values[:, :1]).abs().max()) < 1e-6
    actions[..., TERMINATE] = -1.0
    assert float(q(scene, actions).std(1).min()) > 1e-4


@pytest.mark.parametrize("targets", ["bellman", "monte_carlo", "supervised"])
def test_it_learns_which_episodes_succeed(targets: str) -> None:
    # What tells them apart is the colour of the whole picture.
    episodes = []
    for seed in range(24):
        each = episode(3, 7, grasped=seed % 2 == 0, seed=seed)
        each.observation["image"][:] = 220 if seed % 2 == 0 else 30
        episodes.append(each)
    memory = ReplayMemory(episodes)
    settings = {"targets": targets, "average_rate": 1.0, "schedule": "constant", "learning_rate": 3e-3}
    learner = make_algorithm("qt_opt", CONTRACT, NORMALISATION, overrides=settings)
    assert isinstance(learner, QTOpt)
    rng = np.random.default_rng(0)
    rows = memory.transitions[rng.integers(0, len(memory.transitions), (100, 16))]
    for batch in learner.batches(memory, rows, rng):
        learner.update(batch)
    known = decisions(memory, TERMINATE, learner.config.discount)
    last = np.flatnonzero(known.last)
    batch = next(iter(learner.batches(memory, last[None], rng)))
    with torch.no_grad():
        transitions = learner._transitions(batch, shift=0)
        scene = learner.policy.encoder.scene(learner.policy.encoder(transitions.observation, transitions.desired_goal))
        probability = torch.sigmoid(learner.policy.q(scene, transitions.action[:, None])[:, 0]).numpy()
    assert probability[known.success[last]].min() > probability[~known.success[last]].max() + 0.2


def test_recordings_of_a_robot_which_do_not_say_where_things_are_are_learned_from() -> None:
    contract = CONTRACT.without_simulated()
    learner = make_algorithm(
        "qt_opt", contract, {k: v for k, v in NORMALISATION.items() if k not in CONTRACT.auxiliary}
    )
    memory = ReplayMemory([dataclasses.replace(episode(2, 6, True, 0), auxiliary={})])
    [batch] = learner.batches(memory, memory.transitions[None, :2], np.random.default_rng(0))
    assert "occupied_loss" not in learner.update(batch)


def test_bellman_targets_after_others_begin_with_what_was_learned() -> None:
    memory = ReplayMemory([episode(2, 6, True, 0)])
    first = make_algorithm("qt_opt", CONTRACT, NORMALISATION, overrides={"targets": "monte_carlo"})
    rng = np.random.default_rng(0)
    for batch in first.batches(memory, rng.integers(0, 3, (3, 8)), rng):
        first.update(batch)
    second = make_algorithm("qt_opt", CONTRACT, NORMALISATION, seed=1, overrides={"targets": "bellman"})
    second.load_state_dict(first.state_dict())
    for name in ("target", "lagged_target"):
        for key, value in second.networks[name].state_dict().items():
            assert torch.equal(value, first.trained_policy.state_dict()[key]), (name, key)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"elites": 65}, "elites: expected 1 to samples, which is 64, got 65"),
        ({"samples": 0, "elites": 0}, "elites: expected 1 to samples, which is 0, got 0"),
        ({"acting_samples": 4}, "acting_elites: expected 1 to acting_samples, which is 4, got 10"),
        ({"iterations": 0}, "iterations: expected at least 1, got 0"),
        ({"acting_iterations": -1}, "acting_iterations: expected at least 1, got -1"),
        ({"lag": 0}, "lag: expected at least 1, got 0"),
        ({"projection": [1.0, 2.0]}, "projection: expected 12 numbers, 3 x 4 row by row, got 2"),
        ({"batch_size": 0}, "batch_size: expected a finite number above 0, got 0"),
    ],
)
def test_settings_that_no_search_can_be_made_with_are_a_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=f"qt_opt settings: {sentence}"):
        make_algorithm("qt_opt", CONTRACT, NORMALISATION, overrides=settings)


def test_a_bundle_of_the_policy_alone_is_learned_on_from(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first, second = (make_algorithm("qt_opt", CONTRACT, NORMALISATION, seed=seed) for seed in (1, 2))
    bundle = load_bundle(save_learner(tmp_path / "bundle", first, policy_alone=True))
    second.load_state_dict(bundle.state())
    for name, network in second.networks.items():
        if name != "occupied":
            assert all(torch.equal(v, first.policy.state_dict()[k]) for k, v in network.state_dict().items()), name
    with pytest.raises(UserError, match="do not fit a policy of qt_opt of this size"):
        make_algorithm("qt_opt", CONTRACT, NORMALISATION, overrides={"hidden_size": 8}).load_state_dict(bundle.state())


def test_where_rounding_decides_between_actions_an_export_may_decide_otherwise() -> None:
    policy = make_algorithm("qt_opt", CONTRACT, NORMALISATION).policy
    seen, goal = observations(1), torch.zeros(1, 1)
    with torch.no_grad():
        clear = policy.equally_good(seen, goal)
        for parameter in policy.q.rest[-1].parameters():
            parameter.mul_(1e-5)  # all actions are worth the same, but for the last digits
        tied = policy.equally_good(seen, goal)
        torch.testing.assert_close(tied[0], policy(seen, goal)[0], atol=0, rtol=0)
    assert len(torch.unique(tied, dim=0)) > 10 * len(torch.unique(clear, dim=0))


@pytest.mark.parametrize("contract", [CONTRACT, PICTURED], ids=["anything", "what a picture shows"])
def test_the_bundle_acts_as_the_policy_does(tmp_path, contract: Contract) -> None:  # type: ignore[no-untyped-def]
    learner = make_algorithm("qt_opt", contract, NORMALISATION, seed=1)
    directory = save_learner(tmp_path / "bundle", learner)
    policy = load_bundle(directory).policy()
    seen = observations(8, seed=3)
    with torch.no_grad():
        goal = torch.full((8, contract.goal.desired_goal.shape[0]), 0.5)
        expected = learner.policy(seen, goal).numpy()
    for row in range(8):
        action = policy.act({name: value[row].numpy() for name, value in seen.items()}, goal[row].numpy())
        np.testing.assert_allclose(action, expected[row], atol=1e-4)
