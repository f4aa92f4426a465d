"""On a GPU: recorded updates are those launched one by one, and what is learned there is used elsewhere."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from points import POINT, detours

from rl_ros.algorithms.base import ALGORITHMS, GENERATOR_BYTES, Algorithm, dataset_statistics, make_algorithm
from rl_ros.algorithms.gpu import EAGER
from rl_ros.contract import Contract
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.errors import UserError
from rl_ros.training.bundle import load_bundle
from rl_ros.training.offline import train
from rl_ros.training.runs import restore

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
OF_POINTS = sorted(set(ALGORITHMS) - {"qt_opt", "rig", "rig_sac"})
"""Those that learn to move a point; grasping has a contract of its own, and RIG is DDPG or SAC with other goals."""
UPDATES = 4 * EAGER + 8


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.from_yaml(POINT, "point.yaml")


@pytest.fixture(scope="module")
def memory() -> ReplayMemory:
    return detours(40)


def learner_of(name: str, contract: Contract, memory: ReplayMemory, device: str) -> Algorithm:
    sizes = {"hidden_size": 64, "batch_size": 64}
    return make_algorithm(name, contract, dataset_statistics(memory, contract), overrides=sizes, device=device)


def learn(learner: Algorithm, memory: ReplayMemory, updates: int = UPDATES) -> dict[str, float]:
    rng = np.random.default_rng(0)
    for index, batch in enumerate(learner.batches(memory, memory.sample(rng, (updates, 64)), rng)):
        learner.schedule(index / updates)
        metrics = learner.update(batch)
    return {name: float(value) for name, value in metrics.items()}


@needs_gpu
def test_a_learner_that_is_gone_does_not_break_off_what_another_records(
    contract: Contract, memory: ReplayMemory
) -> None:
    learn(learner_of("td3_bc", contract, memory, "cuda"), memory)  # leaves its graphs as garbage in a cycle
    often = gc.get_threshold()
    gc.set_threshold(1)
    try:
        learner = learner_of("td3_bc", contract, memory, "cuda")
        assert np.isfinite(list(learn(learner, memory).values())).all()
    finally:
        gc.set_threshold(*often)
    assert learner._captured is not None
    assert learner._captured._recordings


@needs_gpu
@pytest.mark.parametrize("name", OF_POINTS)
def test_recorded_updates_are_those_launched_one_by_one(name: str, contract: Contract, memory: ReplayMemory) -> None:
    recorded, plain = (learner_of(name, contract, memory, "cuda") for _ in range(2))
    assert recorded._captured is not None
    plain._captured = None
    metrics, expected = learn(recorded, memory), learn(plain, memory)
    assert recorded._captured._recordings, "nothing was recorded"
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for (key, ours), theirs in zip(recorded.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@needs_gpu
@pytest.mark.parametrize("name", ["bc", "iql", "awr"])
def test_a_gpu_learns_what_the_cpu_learns(name: str, contract: Contract, memory: ReplayMemory) -> None:
    # These draw no random numbers of their own, which differ between devices.
    ours, theirs = (learner_of(name, contract, memory, device) for device in ("cuda", "cpu"))
    assert learn(ours, memory) == pytest.approx(learn(theirs, memory), rel=1e-2, abs=1e-3)


@needs_gpu
def test_learning_goes_on_where_it_stopped(contract: Contract, memory: ReplayMemory) -> None:
    whole, half = (learner_of("sac", contract, memory, "cuda") for _ in range(2))
    rng = np.random.default_rng(0)
    batches = list(whole.batches(memory, memory.sample(rng, (40, 64)), rng))
    for batch in batches:
        whole.update(batch)
    for batch in batches[:20]:
        half.update(batch)
    state = half.state_dict()
    for batch in batches[:5]:
        half.update(batch)
    half.load_state_dict(state)
    for batch in batches[20:]:
        half.update(batch)
    for (key, expected), value in zip(whole.state_dict().items(), half.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@needs_gpu
def test_a_bundle_of_a_gpu_acts_on_the_cpu(tmp_path: Path, contract: Contract, memory: ReplayMemory) -> None:
    bundle = train(memory, contract, "td3_bc", tmp_path, updates=50, overrides={"hidden_size": 64}, device="cuda")
    learner = restore(load_bundle(bundle))
    points, goals, policy = memory.observation["point"][:5], memory.desired_goal[:5], load_bundle(bundle).policy()
    expected = [policy.act({"point": point}, goal) for point, goal in zip(points, goals, strict=True)]
    np.testing.assert_allclose(learner.act({"point": points}, goals), np.stack(expected), atol=1e-5)


def test_a_gpu_that_is_not_there_is_named(contract: Contract, memory: ReplayMemory) -> None:
    with pytest.raises(UserError, match=r"device 'cuda:63' is not there: torch .* sees \d+ GPUs?\. Use --device cpu"):
        learner_of("bc", contract, memory, "cuda:63")
    with pytest.raises(UserError, match="no device is named 'gpu'"):
        learner_of("bc", contract, memory, "gpu")
    with pytest.raises(UserError, match="cpu or cuda, not on 'meta'"):
        learner_of("bc", contract, memory, "meta")


def test_random_numbers_of_a_gpu_begin_anew_on_the_cpu_and_damaged_ones_are_refused(
    contract: Contract, memory: ReplayMemory
) -> None:
    learner, other = (learner_of("sac", contract, memory, "cpu") for _ in range(2))
    state = learner.state_dict()
    assert len(state["generator"]) in GENERATOR_BYTES
    other.load_state_dict({**state, "generator": torch.zeros(16, dtype=torch.uint8)})
    torch.testing.assert_close(other.state_dict()["generator"], learner.state_dict()["generator"])
    with pytest.raises(UserError, match="do not fit a sac"):
        other.load_state_dict({**state, "generator": torch.zeros(7, dtype=torch.uint8)})
