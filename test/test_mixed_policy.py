"""Policies with continuous and discrete entries: their density, and that they need not cross what lies between."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from test_algorithms import REACH, random_choices, unit_statistics
from torch import Tensor

from rl_ros.algorithms import cql
from rl_ros.algorithms.base import make_algorithm
from rl_ros.algorithms.cql import ConservativeQLearning
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.networks.mixed_policy import MixedDistribution
from rl_ros.networks.policies import ActionLayout

GRIPPER = 0
"""Where the discrete entry of the contract's action is; a velocity of three entries follows."""


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.from_yaml(REACH, "reach.yaml")


def distribution(contract: Contract, logit: float, rows: int = 1, log_std: float = -0.7) -> MixedDistribution:
    choices = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=int(contract.action_discrete.sum()))))
    continuous = int((~contract.action_discrete).sum())
    return MixedDistribution(
        ActionLayout(contract),
        choices,
        mean=torch.full((rows, continuous), 0.3),
        log_std=torch.full((rows, continuous), log_std),
        logits=torch.full((rows, choices.shape[1]), logit),
    )


def test_densities_of_the_two_limits_are_one_together(contract: Contract) -> None:
    grid = torch.linspace(-1 + 1e-4, 1 - 1e-4, 81)
    x, y, z = torch.meshgrid(grid, grid, grid, indexing="ij")
    mass = {}
    for gripper in (-1.0, 1.0):
        action = torch.stack([torch.full_like(x, gripper), x, y, z], dim=-1).view(-1, 4)
        density = distribution(contract, 1.2, len(action)).log_probability(action).exp().view(x.shape)
        for _ in range(3):
            density = torch.trapezoid(density, grid, dim=-1)
        mass[gripper] = density.item()
    assert mass[1.0] == pytest.approx(torch.sigmoid(torch.tensor(1.2)).item(), abs=5e-3)
    assert mass[1.0] + mass[-1.0] == pytest.approx(1.0, abs=5e-3)


def test_what_is_drawn_is_at_its_limits_as_often_as_it_should(contract: Contract) -> None:
    generator = torch.Generator().manual_seed(0)
    policy = distribution(contract, 1.2, rows=50)
    actions, log_probability = policy.draw(100, generator)
    assert set(actions[..., GRIPPER].unique().tolist()) == {-1.0, 1.0}
    assert (actions[..., GRIPPER] > 0).float().mean().item() == pytest.approx(0.769, abs=0.02)
    assert actions[..., 1:].std() > 0.1
    again = torch.stack([policy.log_probability(action) for action in actions])
    torch.testing.assert_close(log_probability, again, atol=1e-3, rtol=1e-3)


def test_every_choice_is_tried_with_its_share(contract: Contract) -> None:
    policy = distribution(contract, -0.5, rows=6)
    actions, log_probability, share = policy.every_choice(torch.Generator().manual_seed(0))
    assert actions[:, :, GRIPPER].tolist() == [[-1.0] * 6, [1.0] * 6]
    assert torch.equal(actions[0, :, 1:], actions[1, :, 1:]), "they differ in nothing else"
    torch.testing.assert_close(share.sum(0), torch.ones(6))
    assert share[1, 0].item() == pytest.approx(1 / (1 + np.exp(0.5)))
    again = torch.stack([policy.log_probability(action) for action in actions])
    torch.testing.assert_close(log_probability, again, atol=1e-3, rtol=1e-3)


def test_a_policy_gets_from_one_limit_to_the_other_through_a_valley(contract: Contract) -> None:
    """The critic likes -1 more than 1, and nothing between them; the policy begins at 1."""

    def critic(action: Tensor) -> Tensor:
        gripper = action[..., GRIPPER]
        return -gripper - 40.0 * (1.0 - gripper.square())

    generator = torch.Generator().manual_seed(0)
    policy = distribution(contract, 4.0, rows=16)
    policy.logits.requires_grad_(True)
    optimiser = torch.optim.Adam([policy.logits], 0.1)
    for _ in range(150):
        optimiser.zero_grad()
        actions, log_probability, share = policy.every_choice(generator)
        loss = cql.policy_loss((share * critic(actions)).sum(0), (share * log_probability).sum(0), torch.tensor(0.1))
        torch.autograd.backward(loss)
        optimiser.step()
    assert (policy.most_likely()[:, GRIPPER] == -1.0).all()


def test_an_action_without_discrete_entries_has_one_choice(contract: Contract) -> None:
    velocity = {name: channel for name, channel in contract.action.items() if not channel.discrete}
    plain = dataclasses.replace(contract, action=velocity)
    policy = distribution(plain, 0.0, rows=5)
    actions, log_probability, share = policy.every_choice(torch.Generator().manual_seed(3))
    drawn, density = policy.draw(1, torch.Generator().manual_seed(3))
    assert actions.shape == (1, 5, 3)
    assert torch.equal(actions, drawn)
    assert torch.equal(log_probability, density)
    assert share.unique().tolist() == [1.0]


def test_too_many_discrete_entries_are_refused(contract: Contract) -> None:
    gripper = next(channel for channel in contract.action.values() if channel.discrete)
    valves = {f"valve_{i}": dataclasses.replace(gripper, topic=f"/valve_{i}") for i in range(7)}
    many = dataclasses.replace(contract, action=valves)
    with pytest.raises(UserError, match="7 discrete entries of its action have 128 combinations"):
        make_algorithm("cql", many, unit_statistics(many))


def test_conservatism_looks_at_the_limits_of_discrete_entries_only(contract: Contract) -> None:
    learner = make_algorithm("cql", contract, unit_statistics(contract))
    assert isinstance(learner, ConservativeQLearning)
    uniform = learner.uniform_actions(torch.zeros(10, 20, 4))
    assert set(uniform[..., GRIPPER].unique().tolist()) == {-1.0, 1.0}
    assert uniform[..., 1:].abs().max() < 1.0
    assert uniform[..., 1:].std() > 0.5


def test_the_value_of_the_next_state_is_that_of_the_action_asked_for(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, targets = random_choices(), {}

    def note(q: Tensor, target: Tensor, known: Any = cql.critic_loss) -> Tensor:
        targets[learner.config.next_action] = target
        return known(q, target)

    monkeypatch.setattr(cql, "critic_loss", note)
    for which in ("drawn", "best", "most_likely"):
        learner = make_algorithm("cql", contract, unit_statistics(contract), overrides={"next_action": which})
        assert isinstance(learner, ConservativeQLearning)
        batch = memory.take(memory.transitions[:64])
        batch.terminated[:] = False
        learner.update(batch)
    assert (targets["best"] >= targets["drawn"]).all()
    assert (targets["best"] > targets["drawn"]).float().mean() > 0.5
    assert not torch.isclose(targets["most_likely"], targets["drawn"]).any()
