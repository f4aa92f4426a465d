"""The contract: what it accepts, what it refuses and how it says so."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_ros.contract import Contract, Key, difference
from rl_ros.errors import UserError


@pytest.fixture
def contract() -> Contract:
    return Contract.load("lift")


def changed(contract: Contract, change: Callable[[dict[str, Any]], object]) -> Contract:
    data = copy.deepcopy(contract.to_dict())
    change(data)
    return Contract.from_dict(data, "changed.yaml")


def test_the_shipped_contract_says_what_the_readme_says(contract: Contract) -> None:
    assert list(contract.observation) == ["image", "tool_position", "finger_position"]
    assert contract.period == pytest.approx(0.1)
    assert contract.period_ns == 100_000_000
    np.testing.assert_array_equal(contract.action_low, np.array([-0.3, -0.3, -0.3, 0.0], np.float32))
    np.testing.assert_array_equal(contract.action_high, np.array([0.3, 0.3, 0.3, 1.0], np.float32))
    assert contract.action_discrete.tolist() == [False, False, False, True]


def test_the_action_vector_splits_into_its_channels(contract: Contract) -> None:
    parts = contract.split_action(np.arange(4.0))
    assert {name: part.tolist() for name, part in parts.items()} == {
        "linear_velocity": [0.0, 1.0, 2.0],
        "gripper": [3.0],
    }


def test_text_and_plain_data_give_an_equal_contract_back(contract: Contract) -> None:
    assert Contract.from_yaml(contract.to_yaml(), "text") == contract
    assert Contract.from_dict(contract.to_dict(), "data") == contract


def test_a_bag_holds_every_topic_of_the_contract_once(contract: Contract) -> None:
    topics = contract.recorded_topics()
    keys = [*contract.observation.values(), *contract.auxiliary.values(), *contract.action.values()]
    for key in keys:
        assert topics[key.topic].type == key.type
        assert topics[key.topic].every_tick
    assert topics[contract.reward.topic].every_tick
    assert not topics[contract.goal.desired_goal.topic].every_tick
    for topic, recorded in contract.record.items():
        assert topics[topic] == recorded


def test_a_robot_does_without_what_only_a_simulation_knows(contract: Contract) -> None:
    assert contract.without_simulated() == contract  # whose reward needs to know where the object is
    grasp = Contract.load("grasp")
    assert set(grasp.auxiliary) == {"objects_position", "objects_heading"}
    assert not grasp.without_simulated().auxiliary
    assert "/objects/state" not in grasp.without_simulated().recorded_topics()
    assert difference(grasp, grasp.without_simulated()) is None  # to a policy, which never sees it
    with pytest.raises(UserError, match="image is simulated: a policy that sees it could not run on a robot"):
        changed(contract, lambda data: data["observation"]["image"].update(simulated=True))


def test_a_contract_is_found_by_name_and_by_path(contract: Contract, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(contract.to_yaml())
    assert Contract.load(path) == contract
    assert Contract.load(str(path)) == contract
    with pytest.raises(UserError, match=r"no contract is named 'juggle'; there are: .*lift.*or give a path"):
        Contract.load("juggle")
    with pytest.raises(UserError, match="no such file"):
        Contract.load(tmp_path / "other.yaml")


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set("format", to=2), "reads contracts of format 1, got 2"),
        (_set("control_rate", to=0.0), "control_rate: expected a positive number of Hz, got 0.0"),
        (_set("control_rate", to=float("nan")), "control_rate: expected a number, got nan"),
        (_set("episode_length", to=0), "episode_length: expected at least 1 tick, got 0"),
        (_set("reference", to="picture"), "reference: expected an observation key (image, tool_position, finger_"),
        (_set("action", to={}), "action: expected at least one channel"),
        (
            lambda data: data["auxiliary"].update(image=data["observation"]["image"]),
            "auxiliary: image is an observation key as well",
        ),
        (_set("observation", "image", "topic", to="camera"), "image: topic: expected an absolute name such as"),
        (_set("observation", "image", "type", to="a/msg/B"), "image: type: expected one of geometry_msgs/msg/Pose"),
        (_set("observation", "image", "field", to="pixels"), "image: field: sensor_msgs/msg/Image offers data, got"),
        (_set("observation", "image", "encoding", to=""), "image: encoding: expected rgb8 or mono8"),
        (_set("observation", "image", "encoding", to="mono8"), "encoding mono8 is uint8 of shape [height, width, 1]"),
        (_set("observation", "image", "dtype", to="float32"), "got float32 [64, 64, 3]"),
        (_set("observation", "image", "shape", to=(0, 64, 3)), "shape: expected positive sizes, got [0, 64, 3]"),
        (_set("observation", "image", "max_age", to=0.0), "max_age: expected a positive number of seconds, got 0.0"),
        (_set("observation", "image", "max_age", to=float("nan")), "max_age: expected a number, got nan"),
        (_set("observation", "tool_position", "shape", to=(2,)), "pose.position of geometry_msgs/msg/PoseStamped has"),
        (_set("observation", "tool_position", "unit", to="mm"), "PoseStamped is in m, got 'mm'"),
        (_set("observation", "finger_position", "names", to=("one",)), "shape: expected [1], one entry for each of"),
        (_set("action", "gripper", "low", to=()), "gripper: low: expected 1 numbers, got []"),
        (_set("action", "gripper", "high", to=(0.0,)), "low: expected each entry below high, got [0.0] and [0.0]"),
        (_set("action", "gripper", "high", to=(float("nan"),)), "gripper: high[0]: expected a number, got nan"),
        (_set("surprise", to=1), "unknown key 'surprise'"),
    ],
)
def test_a_wrong_contract_is_refused_with_the_place_in_the_sentence(
    contract: Contract, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        changed(contract, change)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("changed.yaml: ")


def test_an_action_travels_only_as_twist_or_named_vector(contract: Contract) -> None:
    def change(data: dict[str, Any]) -> None:
        data["action"]["linear_velocity"] |= {
            "type": "geometry_msgs/msg/WrenchStamped",
            "field": "wrench.force",
            "unit": "N",
        }

    with pytest.raises(UserError, match="an action travels as a TwistStamped or a JointState"):
        changed(contract, change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set("control_rate", to=20.0), "control_rate was 10.0 in training and is 20.0 here"),
        (_set("frame", to="base"), "frame was 'panda_link0' in training and is 'base' here"),
        (
            _set("observation", "image", "topic", to="/other"),
            "observation.image.topic was '/camera/image_raw' in training and is '/other' here",
        ),
        (
            _set("observation", "image", "shape", to=(32, 32, 3)),
            "observation.image.shape was [64, 64, 3] in training and is [32, 32, 3] here",
        ),
        (
            _set("action", "linear_velocity", "high", to=(0.3, 0.3, 0.5)),
            "action.linear_velocity.high was [0.3, 0.3, 0.3] in training and is [0.3, 0.3, 0.5] here",
        ),
        (
            lambda data: data["observation"].pop("tool_position"),
            "observation.tool_position is only in the trained contract",
        ),
        (
            lambda data: data["observation"].update(second=data["observation"]["tool_position"]),
            "observation.second is only in the live contract",
        ),
        (
            lambda data: data.update(action=dict(reversed(data["action"].items()))),
            "action are in another order",
        ),
        (_set("goal", "policy_input", to=True), "goal.policy_input was False in training and is True here"),
    ],
)
def test_what_a_policy_would_see_differently_is_named(
    contract: Contract, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    assert difference(contract, changed(contract, change)) == sentence


@pytest.mark.parametrize(
    "change",
    [
        _set("episode_length", to=7),
        _set("auxiliary", to={}),
        _set("record", to={}),
        _set("name", to="other"),
        _set("reward", "topic", to="/other"),
        lambda data: None,
    ],
)
def test_what_a_policy_never_sees_may_differ(contract: Contract, change: Callable[[dict[str, Any]], object]) -> None:
    assert difference(contract, changed(contract, change)) is None


def test_a_discrete_channel_is_at_home_in_a_continuous_one_and_not_the_other_way_round(contract: Contract) -> None:
    continuous = changed(contract, _set("action", "gripper", "discrete", to=False))
    assert contract.action["gripper"].discrete
    assert difference(contract, continuous) is None
    assert difference(continuous, contract) == "action.gripper.discrete was False in training and is True here"


def image(**changes: Any) -> Key:
    fields: dict[str, Any] = {"shape": (4, 4, 3), "dtype": "uint8", "encoding": "rgb8"} | changes
    return Key("/i", fields.pop("type", "sensor_msgs/msg/Image"), "data", **fields)


DEPTH = {"encoding": "depth", "shape": (4, 4, 1), "dtype": "float32", "unit": "m", "invalid": 0.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoding": ""}, "encoding: expected rgb8 or mono8 for an image"),
        (DEPTH | {"type": "sensor_msgs/msg/CompressedImage"}, "unit: data of sensor_msgs/msg/CompressedImage"),
        (DEPTH | {"dtype": "uint8"}, "depth is float32 of shape"),
        (DEPTH | {"shape": (4, 4, 3)}, "depth is float32 of shape"),
        (DEPTH | {"unit": ""}, "unit: an image of encoding depth is in m, got ''"),
        (DEPTH | {"invalid": None}, "invalid: a depth image needs the number of metres"),
        ({"invalid": 1.0}, "invalid: a depth image needs the number of metres"),
        ({"alignment": "window", "shape": (4,)}, r"shape: a window has shape \[n, ...\]"),
        ({"alignment": "window", "shape": (4, 4, 3)}, r"rgb8 is uint8 of shape \[height, width, 3\]"),
    ],
)
def test_an_image_that_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        image(**changes)


def test_depth_compressed_images_and_windows_are_described_by_their_shape() -> None:
    assert image(**DEPTH).invalid == 0.0
    assert image(type="sensor_msgs/msg/CompressedImage").window == 1
    window = image(alignment="window", shape=(5, 4, 4, 3))
    assert (window.window, window.message_shape) == (5, (4, 4, 3))
