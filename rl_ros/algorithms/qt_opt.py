"""QT-Opt: Q-learning on pictures, without an actor.

Kalashnikov et al. 2018, "QT-Opt: Scalable Deep Reinforcement Learning for Vision-Based Robotic Manipulation"
(1806.10293).

1. Q(s, a) is a probability, learned by cross entropy: that the grasp will succeed, less what time costs.
2. What to do is the action with the largest Q, found by the cross-entropy method: draw 64 actions, fit a Gaussian to
   the best 6, draw again.
3. The target is r + γ min(Q1, Q2)(s', a*), where a* is what Q1 would do; Q1 follows the weights slowly, and Q2 is an
   older copy of them.

Quillen et al. 2018 (1802.10264) compare it with two simpler targets, which are here as well: the discounted sum of the
rewards that were seen, and whether the episode succeeded.

What is wanted may be shown by a picture (as in Jang et al. 2018, "Grasp2Vec", 1811.06964, which conditions this
learner so): then goals are drawn in hindsight. What a grasp has held up is what it should have been asked for, and for
what other grasps have held up it was none.

What an episode's rows mean for it is in `rl_ros/episodes/decisions.py`, the search in `cross_entropy_method.py`.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ColumnOfMemory
from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.algorithms.cross_entropy_method import CrossEntropyMethod
from rl_ros.contract import Contract
from rl_ros.episodes.decisions import Decisions, HeldUp, decisions, held_up
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.grasp_q import ALIKE, GraspQ, Scene, SceneEncoder
from rl_ros.networks.layers import Normalisation, move_towards
from rl_ros.networks.policies import ActionLayout

PROJECTION = (
    -86.9139, 92.6759, -23.5594, 72.011,
    60.5909, 40.3939, -106.747, 2.41794,
    -0.552308, -0.368205, -0.747917, 1.18263,
)  # fmt: skip


TARGET = "target"
"""In the extra columns of a batch whose targets were found elsewhere."""
LYING = 0.08
"""m: what is below this has not been lifted."""
NEAR = 0.3
"""Standard deviation of actions near a recorded one, where half of an action's range is 1."""
OTHER_WAY = 0.15
"""Share of their discrete entries that are the other way."""
ROUNDED, ROUNDING = 64, 3e-6
"""How many answers are compared where rounding may decide, and by how much it changes a logit."""
TARGETS = ("target", "lagged_target")
"""The networks that targets come from."""


@dataclass(frozen=True)
class QTOptConfig(Config):
    """Settings of QT-Opt; those of the search for targets are the paper's."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 64
    average_rate: float = 0.002
    hidden_size: int = 64
    image_features: int = 24
    """Features of a cell of the picture's map."""
    image_shift: int = 0
    auxiliary_weight: float = 0.3
    """Of the loss that asks the picture's features where the contract's `objects_position` are."""
    matching_weight: float = 1.0
    """Where a picture shows what is wanted: of the loss that asks which of the things at `objects_position` it is."""
    targets: Literal["bellman", "monte_carlo", "supervised"] = "bellman"
    """What Q learns: the paper's, or one of Quillen's."""
    discount: float = 0.9
    """γ: what a reward one tick later is worth."""
    at_least_seen: bool = True
    """Whether a target is at least the return that was seen from there on: what happened can be had again (He et al.
    2017, 1611.01606)."""
    conservative_weight: float = 0.0
    """Of the loss that asks the recorded action to look better than `conservative_actions` others. Recordings say
    nothing of most actions, and the search finds the one that Q is most wrong about; a robot that goes on collecting
    finds out, one that learns from recordings alone does not (Kumar et al. 2020, 2006.04779)."""
    conservative_actions: int = 16
    """Half of them anywhere, half near the recorded one."""
    target_rate: float = 0.01
    """Share of the way that the first target moves at each update."""
    lag: int = 1000
    """Updates between two copies to the second target."""
    samples: int = 64
    """Actions that the search for targets draws in each iteration, for many states at once."""
    elites: int = 6
    """How many of them, the best, the next iteration draws like."""
    iterations: int = 2
    """Of the search for targets."""
    least_std: float = 0.1
    """Floor of the search's standard deviation, where half of an action's range is 1."""
    acting_samples: int = 256
    """`samples` of the search for what to do, in one state, which has the time to find better actions."""
    acting_elites: int = 10
    """`elites` of that search."""
    acting_iterations: int = 4
    """`iterations` of it."""
    acting_least_std: float = 0.05
    """`least_std` of it."""
    own_goals: float = 0.5
    """Where a picture shows what is wanted: share of the grasps that are asked for what they have held up."""
    projection: tuple[float, ...] = PROJECTION
    """Of the camera, 3 x 4 row by row: homogeneous positions, m, to homogeneous pixels. The default is the camera of
    sim/scenes/grasp.yaml; `rl_ros.robots.pybullet_arm.projection_of` computes it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for search in ("", "acting_"):
            samples, elites = getattr(self, f"{search}samples"), getattr(self, f"{search}elites")
            if not 1 <= elites <= samples:
                raise ValueError(f"{search}elites: expected 1 to {search}samples, which is {samples}, got {elites}.")
        for name in ("iterations", "acting_iterations", "lag"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if len(self.projection) != 12:
            raise ValueError(f"projection: expected 12 numbers, 3 x 4 row by row, got {len(self.projection)}.")


class QPolicy(nn.Module):
    """Acts by the largest Q. Raw observations go in, contract units come out.

    Its search draws the same numbers each time, so that the same observation gives the same action.
    """

    def __init__(self, contract: Contract, config: QTOptConfig) -> None:
        super().__init__()
        self.encoder = SceneEncoder(contract, config.image_features)
        self.layout = ActionLayout(contract)
        self.q = GraspQ(contract, self.encoder, config.projection, config.hidden_size, config.hidden_layers)
        self.search = CrossEntropyMethod(self.q, config.samples, config.elites, config.iterations, config.least_std)
        self.acting_search = CrossEntropyMethod(
            self.q, config.acting_samples, config.acting_elites, config.acting_iterations, config.acting_least_std
        )

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """The action to take, float32 (batch, A) in the contract's units and within its limits."""
        scene = self.encoder.scene(self.encoder(observation, desired_goal))
        return self.layout.unscale(self.acting_search(self.q, scene)[0])

    def equally_good(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """Answers to one observation that rounding decides between, (n, A), the first of which is `forward`'s.

        Which actions are among the elites can hang on the last digits of their values, and the rest of the search on
        which they are.
        """
        features = self.encoder(observation, desired_goal).expand(ROUNDED, -1)
        return self.layout.unscale(self.acting_search(Rounded(self.q), self.encoder.scene(features))[0])


class Rounded:
    """Q with an error of the size of rounding in all but the first of a batch of scenes."""

    def __init__(self, q: GraspQ) -> None:
        self.q, self.plain = q, q.plain
        self._generator = torch.Generator().manual_seed(0)

    def judge(self, scene: Scene, action: Tensor) -> Tensor:
        """See `GraspQ.judge`."""
        logits = self.q.judge(scene, action)
        error = ROUNDING * torch.randn(logits.shape, generator=self._generator)
        error[0] = 0.0
        return logits + error


class QTOpt(Algorithm):
    """One Q-function, two targets, no actor."""

    name: ClassVar[str] = "qt_opt"
    config_type: ClassVar[type[Config]] = QTOptConfig
    config: QTOptConfig

    def __init__(
        self, contract: Contract, normalisation: Normalisation, config: Config, seed: int, device: str = "cpu"
    ) -> None:
        self._decisions: ColumnOfMemory[Decisions] = ColumnOfMemory()
        self._goals: ColumnOfMemory[HeldUp] = ColumnOfMemory()
        super().__init__(contract, normalisation, config, seed, device)

    def build(self) -> dict[str, nn.Module]:
        """`policy`, which holds Q, its two targets, and what tells where objects are."""
        policy = QPolicy(self.contract, self.config)
        networks: dict[str, nn.Module] = {"policy": policy}
        for name in TARGETS:
            networks[name] = copy.deepcopy(policy).requires_grad_(False)
        if "objects_position" in self.contract.auxiliary and self.config.auxiliary_weight > 0:
            networks["occupied"] = nn.Linear(self.config.image_features, 1)
            if policy.q.goal_size:
                networks["matching"] = nn.Linear(ALIKE, 1)
        return networks

    @property
    def acting(self) -> QPolicy:
        """The networks that learn."""
        return cast(QPolicy, self.networks["policy"])

    def state_dict(self) -> dict[str, Tensor]:
        """As `Algorithm.state_dict`. Targets that nothing was learned from are the trained networks, to begin with."""
        if self.config.targets != "bellman":
            for name in TARGETS:
                move_towards(self.networks[name], self.trained_policy, 1.0)
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor | np.ndarray]) -> None:
        """As `Algorithm.load_state_dict`; from the policy alone, as a shipped bundle holds it, training begins anew."""
        prefix = "networks.policy."
        if any(not name.startswith(prefix) for name in state):
            super().load_state_dict(state)
            return
        weights = {name.removeprefix(prefix): torch.as_tensor(value) for name, value in state.items()}
        try:
            for network in (self.trained_policy, self.policy, *(self.networks[name] for name in TARGETS)):
                network.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"these weights do not fit a policy of qt_opt of this size: {reason}") from error

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Algorithm.batches`; each row stands for a decision of its episode."""
        config = self.config
        terminate = self.acting.q.terminate
        known = self._decisions.get(memory, lambda memory: decisions(memory, terminate, config.discount))
        goals = self._goals.get(memory, held_up) if self.contract.goal.policy_input else None
        for chosen in known.nearest[rows]:
            batch, right = memory.take(chosen), np.ones(len(chosen), bool)
            if goals is not None:
                goal, right = goals.draw(chosen, config.own_goals, rng)
                batch = replace(batch, desired_goal=goal)
            yield replace(
                batch,
                reward=np.where(right, known.reward[chosen], np.minimum(known.reward[chosen], 0.0)),
                terminated=known.last[chosen],
                extra={
                    "seen_return": np.where(right, known.seen_return[chosen], 0.0).astype(np.float32),
                    "success": known.success[chosen] & right,
                }
                | ({} if goals is None else {"thing": goals.thing[chosen]}),
            )

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        config, policy = self.config, self.acting
        scene = policy.encoder.scene(features)
        logits = policy.q(scene, batch.action[:, None])[:, 0]
        target = batch.extra[TARGET] if TARGET in batch.extra else self.target(batch)
        loss = cross_entropy(logits, target)
        with torch.no_grad():
            probability = torch.sigmoid(logits)
            metrics = {
                "q_loss": loss.detach(),
                "q": probability.mean(),
                "target": target.mean(),
                "q_error": (probability - target).abs().mean(),
            }
            metrics["last_loss"] = cross_entropy(logits, target, batch.terminated)
            metrics["seen_loss"] = cross_entropy(logits, batch.extra["seen_return"].clamp(0.0, 1.0))
        if config.conservative_weight > 0:
            others = self.other_actions(batch.action)
            conservative = conservative_loss(logits, policy.q(scene, others))
            loss = loss + config.conservative_weight * conservative
            metrics["conservative_loss"] = conservative.detach()
        if "occupied" in self.networks:
            occupied = self.occupied_loss(scene, batch.auxiliary["objects_position"])
            loss = loss + config.auxiliary_weight * occupied
            metrics["occupied_loss"] = occupied.detach()
        if "matching" in self.networks:
            matching = self.matching_loss(
                scene, batch.auxiliary["objects_position"], batch.extra["thing"].long(), batch.extra["success"] > 0
            )
            loss = loss + config.matching_weight * matching
            metrics["matching_loss"] = matching.detach()
        return loss, metrics

    @torch.no_grad()
    def target(self, batch: Transitions) -> Tensor:
        """What Q(s, a) should be, (batch,), 0 to 1."""
        config = self.config
        if config.targets == "supervised":
            return batch.extra["success"].float()
        seen = batch.extra["seen_return"].clamp(0.0, 1.0)
        if config.targets == "monte_carlo":
            return seen
        first, second = (cast(QPolicy, self.networks[name]) for name in ("target", "lagged_target"))
        scene = first.encoder.scene(first.encoder(batch.next_observation, batch.desired_goal))
        action, logit = first.search(first.q, scene)
        older = second.encoder.scene(second.encoder(batch.next_observation, batch.desired_goal))
        other = second.q(older, action[:, None])[:, 0]
        target = clipped_double_target(batch.reward, batch.terminated, logit, other, config.discount)
        return torch.maximum(target, seen) if config.at_least_seen else target

    def other_actions(self, action: Tensor) -> Tensor:
        """What might be done instead of recorded actions (batch, A), scaled to -1..1; (batch, n, A)."""
        layout, shape = self.acting.q.layout, (len(action), self.config.conservative_actions, action.shape[1])
        anywhere = torch.rand(shape, generator=self._generator) * 2.0 - 1.0
        near = action[:, None] + NEAR * torch.randn(shape, generator=self._generator)
        is_near = torch.arange(shape[1])[:, None] < shape[1] // 2
        high = torch.where(anywhere / 2.0 + 0.5 < self.acting.search.share, 1.0, -1.0)
        other_way = torch.where(
            torch.rand(shape, generator=self._generator) < OTHER_WAY, -action[:, None], action[:, None]
        )
        discrete = torch.where(is_near, other_way, high)
        return torch.where(layout.is_discrete, discrete, torch.where(is_near, near, anywhere)).clamp(-1.0, 1.0)

    def label(self, batch: Batch) -> Batch:
        """The batch with its targets: another learner with the same weights need not search for them."""
        target = self.target(self._transitions(batch, shift=0)).cpu().numpy()
        return replace(batch, extra={**batch.extra, TARGET: target})

    def target_weights(self) -> dict[str, np.ndarray]:
        """Of the networks that targets come from, by name; copies."""
        networks = ((name, self.networks[name].state_dict()) for name in TARGETS)
        return {f"{name}.{key}": value.cpu().numpy().copy() for name, state in networks for key, value in state.items()}

    def use_target_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Find targets with `target_weights` of another learner."""
        for name in TARGETS:
            own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
            self.networks[name].load_state_dict({key: torch.from_numpy(value.copy()) for key, value in own.items()})

    def occupied_loss(self, scene: Scene, objects: Tensor) -> Tensor:
        """How well features on the floor tell what lies there; a scalar.

        Half of the places that are asked about are near an object, the others anywhere in the tray.
        """
        xyz = objects.view(len(objects), -1, 3)
        near = xyz[..., :2] + 0.03 * torch.randn(xyz[..., :2].shape, generator=self._generator)
        far = torch.rand(near.shape, generator=self._generator) * 0.28 - 0.14
        far[..., 0] += 0.5
        places = torch.cat([near, far], dim=1)
        apart = (places[:, :, None] - xyz[:, None, :, :2]).square().sum(-1)
        lifted = xyz[:, None, :, 2] > LYING
        closeness = torch.exp(-apart / (2 * 0.015**2)).masked_fill(lifted, 0.0).amax(2)
        seen = self.acting.q.look(scene.cells, *places.unbind(-1))
        return nn.functional.binary_cross_entropy_with_logits(self.networks["occupied"](seen)[..., 0], closeness)

    def matching_loss(self, scene: Scene, objects: Tensor, thing: Tensor, right: Tensor) -> Tensor:
        """How well features on the floor and of the goal tell which thing is wanted; a scalar.

        Args:
            scene: of a batch.
            objects: where things are, (batch, 3n) m.
            thing: which of them the episode's grasp has held up, (batch,); -1 for none.
            right: whether that is what is wanted, (batch,). If it is, no other thing is; if not, others may be.
        """
        xyz = objects.view(len(objects), -1, 3)
        alike = self.acting.q.compare(self.acting.q.look(scene.cells, xyz[..., 0], xyz[..., 1]), scene.goal)
        is_thing = torch.arange(xyz.shape[1]) == thing[:, None]
        wanted = is_thing & right[:, None]
        known = (is_thing | right[:, None]) & (thing >= 0)[:, None] & (xyz[..., 2] < LYING)
        # A thing that is wanted counts as much as all that are not.
        weight = known.float() * torch.where(wanted, float(xyz.shape[1]), 1.0)
        logits = self.networks["matching"](alike)[..., 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted.float(), weight, reduction="sum")
        return loss / weight.sum().clamp(min=1.0)

    def after_update(self) -> None:
        """Move the first target, and now and then copy it to the second."""
        if self.config.targets != "bellman":
            return
        # Running means of the weights from the first update on, so that none holds a trace of the initial ones.
        move_towards(self.networks["target"], self.trained_policy, max(self.config.target_rate, 1.0 / self.updates))
        if self.updates % self.config.lag == 0 or self.updates == 1:
            move_towards(self.networks["lagged_target"], self.networks["target"], 1.0)

    @torch.no_grad()
    def explore(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """See `Algorithm.explore`."""
        action: Tensor = self.policy(observation, desired_goal)
        return action


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Section 4.1: −E[ y log Q(s, a) + (1 − y) log(1 − Q(s, a)) ], where Q is the sigmoid of the logits.

    Args:
        logits: (batch,).
        target: y, (batch,), 0 to 1; no gradient flows to it.
        weight: of each in the mean, (batch,); all the same if None, and 0 where all weights are 0.
    """
    if weight is None:
        return nn.functional.binary_cross_entropy_with_logits(logits, target.detach())
    total = nn.functional.binary_cross_entropy_with_logits(logits, target.detach(), weight, reduction="sum")
    return total / weight.sum().clamp(min=1.0)


def clipped_double_target(
    reward: Tensor, terminated: Tensor, logit: Tensor, other_logit: Tensor, discount: float
) -> Tensor:
    """Equation 1 with clipped double Q: r + γ min( Q1(s', a*), Q2(s', a*) ), kept within 0 to 1; (batch,).

    Args:
        reward: (batch,).
        terminated: 1 where nothing follows, (batch,).
        logit: of the first target at the action it would choose, (batch,).
        other_logit: of the second target there, (batch,).
        discount: γ.
    """
    value = torch.sigmoid(torch.minimum(logit, other_logit))
    return (reward + discount * (1.0 - terminated) * value).clamp(0.0, 1.0)


def conservative_loss(logit: Tensor, others: Tensor) -> Tensor:
    """CQL(H), equation 4 of 2006.04779, over samples: E[ log Σ_a exp Q(s, a) − Q(s, a_recorded) ], of logits.

    The recorded action is one of those that are summed over, so that nothing is gained by making the others ever worse.

    Args:
        logit: of the recorded actions, (batch,).
        others: of other actions in the same states, (batch, n).
    """
    return (torch.logsumexp(torch.cat([logit[:, None], others], dim=1), dim=1) - logit).mean()
