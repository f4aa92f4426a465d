"""Policy bundles: what is saved is what is loaded, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_ros.algorithms.base import make_algorithm, plain_config
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.networks.layers import Normalisation
from rl_ros.training.acting import BundleActor
from rl_ros.training.bundle import TOLERANCE, load_bundle, save_bundle

NORMALISATION: Normalisation = {
    "tool_position": {"mean": [0.5, 0.0, 0.1], "std": [0.06, 0.08, 0.07]},
    "finger_position": {"mean": [0.03, 0.03], "std": [0.01, 0.01]},
    "object_position": {"mean": [0.5, 0.0, 0.03], "std": [0.06, 0.08, 0.02]},
    "desired_goal": {"mean": [0.1], "std": [1.0]},
}


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.load("lift")


def save(directory: Path, contract: Contract, seed: int = 0, policy: torch.nn.Module | None = None) -> Path:
    learner = make_algorithm("bc", contract, NORMALISATION, seed=seed)
    return save_bundle(
        directory,
        contract=contract,
        algorithm_name="bc",
        configuration=plain_config(learner.config),
        policy_module=policy or learner.policy,
        state_tensors=learner.state_dict(),
        normalisation=NORMALISATION,
        metrics={"policy_loss": 0.5},
        source_episodes=["runs/a.mcap"],
    )


def observation(generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "image": generator.integers(0, 256, (64, 64, 3), np.uint8),
        "tool_position": generator.normal([0.5, 0.0, 0.1], 0.1).astype(np.float32),
        "finger_position": generator.normal(0.03, 0.01, 2).astype(np.float32),
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, contract: Contract) -> Path:
    return save(tmp_path_factory.mktemp("bundles") / "bundle", contract)


def test_what_is_saved_is_what_is_loaded(directory: Path, contract: Contract) -> None:
    files = ["bundle.json", "policy.onnx", "sample.safetensors", "weights.safetensors"]
    assert sorted(p.name for p in directory.iterdir()) == files
    bundle = load_bundle(directory)
    assert bundle.contract == contract
    assert bundle.algorithm == "bc"
    assert bundle.configuration["batch_size"] > 0
    assert bundle.normalisation == NORMALISATION
    assert bundle.metrics == {"policy_loss": 0.5}
    assert bundle.source_episodes == ("runs/a.mcap",)
    assert bundle.versions["torch"] == torch.__version__.split("+")[0] or bundle.versions["torch"] == torch.__version__
    learner = make_algorithm("bc", contract, bundle.normalisation, seed=9)
    learner.load_state_dict(bundle.state())
    for name, tensor in make_algorithm("bc", contract, NORMALISATION, seed=0).state_dict().items():
        assert torch.equal(learner.state_dict()[name], tensor), name


def test_onnx_equals_torch_and_repeats_itself(directory: Path, contract: Contract) -> None:
    policy, generator = load_bundle(directory).policy(), np.random.default_rng(1)
    torch_policy = make_algorithm("bc", contract, NORMALISATION, seed=0).policy
    for _ in range(20):
        values, goal = observation(generator), np.zeros(1, np.float32)
        action = policy.act(values, goal)
        assert action.dtype == np.float32
        assert action.shape == (4,)
        batch = {name: torch.from_numpy(value[None]) for name, value in values.items()}
        expected = torch_policy(batch, torch.zeros(1, 1))[0].detach().numpy()
        np.testing.assert_allclose(action, expected, atol=TOLERANCE)
        assert action[3] in (0.0, 1.0)
        assert (action >= contract.action_low).all() and (action <= contract.action_high).all()
        assert action.tobytes() == policy.act(values, goal).tobytes()


def test_the_goal_is_an_input_only_where_the_contract_says_so(contract: Contract, tmp_path: Path) -> None:
    data = contract.to_dict()
    data["goal"]["policy_input"] = True
    seeing = load_bundle(save(tmp_path / "seeing", Contract.from_dict(data, "test"))).policy()
    blind = load_bundle(save(tmp_path / "blind", contract)).policy()
    values = observation(np.random.default_rng(0))
    low, high = np.zeros(1, np.float32), np.full(1, 5.0, np.float32)
    assert not np.array_equal(seeing.act(values, low), seeing.act(values, high))
    assert np.array_equal(blind.act(values, low), blind.act(values, high))


def test_a_newer_bundle_replaces_an_older_one(contract: Contract, tmp_path: Path) -> None:
    first = load_bundle(save(tmp_path / "bundle", contract, seed=0))
    second = load_bundle(save(tmp_path / "bundle", contract, seed=1))
    assert first.weights != second.weights
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


class Treacherous(torch.nn.Module):
    """Computes something else in torch than what was exported."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, observation: dict[str, torch.Tensor], desired_goal: torch.Tensor) -> torch.Tensor:
        action = observation["tool_position"].repeat(1, 2)[:, :4]
        return action if torch.onnx.is_in_onnx_export() else action + self.value


@pytest.mark.parametrize(("value", "message"), [(0.01, "differs from the trained one"), (np.nan, "not finite")])
def test_a_wrong_export_is_refused(contract: Contract, tmp_path: Path, value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        save(tmp_path / "bundle", contract, policy=Treacherous(value))
    assert not list(tmp_path.iterdir())


def test_damage_is_named(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such policy bundle"):
        load_bundle(tmp_path / "nothing")
    for name in ("policy.onnx", "weights.safetensors", "sample.safetensors"):
        bundle = save(tmp_path / "bundle", contract)
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: damaged"):
            load_bundle(bundle)
    for name in ("policy.onnx", "weights.safetensors", "sample.safetensors", "bundle.json"):
        bundle = save(tmp_path / "bundle", contract)
        (bundle / name).unlink()
        with pytest.raises(UserError, match=f"{name}: missing"):
            load_bundle(bundle)


def test_a_policy_that_answers_otherwise_than_at_its_export_is_refused(contract: Contract, tmp_path: Path) -> None:
    """All hashes are right: a whole file of another policy was put in its place."""
    bundle, other = save(tmp_path / "bundle", contract, seed=0), save(tmp_path / "other", contract, seed=1)
    (bundle / "policy.onnx").write_bytes((other / "policy.onnx").read_bytes())
    data, donor = (json.loads((each / "bundle.json").read_text()) for each in (bundle, other))
    data["sha256"]["policy.onnx"] = donor["sha256"]["policy.onnx"]
    (bundle / "bundle.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="does not answer as it did when it was exported"):
        load_bundle(bundle).policy()


def test_a_bundle_of_before_there_were_samples_runs(contract: Contract, tmp_path: Path) -> None:
    bundle = save(tmp_path / "bundle", contract)
    (bundle / "sample.safetensors").unlink()
    data = json.loads((bundle / "bundle.json").read_text())
    del data["sha256"]["sample.safetensors"]
    (bundle / "bundle.json").write_text(json.dumps(data))
    loaded = load_bundle(bundle)
    assert loaded.sample is None
    loaded.policy()


def test_a_policy_that_takes_longer_than_a_control_period_is_refused(directory: Path, contract: Contract) -> None:
    BundleActor(str(directory), contract, deadline=10.0)
    with pytest.raises(UserError, match="an action takes .* longer than the control period"):
        BundleActor(str(directory), contract, deadline=1e-6)


def test_a_damaged_or_foreign_description_is_named(contract: Contract, tmp_path: Path) -> None:
    bundle = save(tmp_path / "bundle", contract)
    path = bundle / "bundle.json"
    data = json.loads(path.read_text())
    for text, message in [
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps(data | {"format": 99}), "format 99; this version of rl_ros reads format 1"),
        (json.dumps({k: v for k, v in data.items() if k != "algorithm"}), "'algorithm' is missing"),
        (json.dumps(data | {"sha256": {}}), "damaged"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_bundle(bundle)


def test_a_robot_needs_no_torch(directory: Path) -> None:
    code = (
        "import sys; from rl_ros.training.bundle import load_bundle; "
        f"load_bundle({str(directory)!r}).policy(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
