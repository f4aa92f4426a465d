"""`rl_ros evaluate` where nothing is live: a bundle in the environment of its task."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import small_contract

from rl_ros.cli import main
from rl_ros.contract import Contract
from rl_ros.training.bundle import save_bundle
from rl_ros.training.evaluate import environment_of


class Proportional(torch.nn.Module):
    """Goes straight to the goal, as a policy could learn to."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, observation: dict[str, torch.Tensor], desired_goal: torch.Tensor) -> torch.Tensor:
        return (self.sign * 5.0 * (desired_goal - observation["tool_position"])).clamp(-0.3, 0.3)


def reach_bundle(directory: Path, sign: float, contract: Contract | None = None) -> Path:
    return save_bundle(
        directory,
        contract=contract or Contract.load("reach"),
        algorithm_name="bc",
        configuration={},
        policy_module=Proportional(sign),
        state_tensors={},
        normalisation={},
        metrics={},
        source_episodes=[],
    )


def test_a_bundle_is_run_in_the_environment_of_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name, sign in (("good", 1.0), ("bad", -1.0)):
        bundle = reach_bundle(tmp_path / name, sign)
        assert main(["evaluate", "--policy", str(bundle), "--episodes", "6", "--seed", "12345"]) == 0
        found[name] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["good"]["success"] == 1.0
    assert found["good"]["episodes"] == 6
    assert found["bad"]["success"] == 0.0
    assert found["bad"]["mean_return"] < found["good"]["mean_return"] <= 0.0
    assert main(["evaluate", "--policy", str(tmp_path / "good"), "--episodes", "6", "--seed", "12345"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found["good"]  # seeds say it all


def test_which_contracts_have_an_environment() -> None:
    assert environment_of(Contract.load("push")) == "rl_ros/Push-v0"
    assert environment_of(Contract.load("pick_and_place_image")) == "rl_ros/PickAndPlaceImage-v0"
    assert environment_of(small_contract()) is None  # grasp is run live


def test_a_bundle_of_another_contract_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = Contract.load("reach")
    bundle = reach_bundle(tmp_path / "slower", 1.0, replace(contract, control_rate=2.0))
    assert main(["evaluate", "--policy", str(bundle), "--episodes", "1"]) == 2
    assert f"control_rate was 2.0 in training and is {contract.control_rate} here" in capsys.readouterr().err
