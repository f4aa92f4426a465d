"""Graphs whose goal is a pose on /goal/pose: followed at once, and recorded as it was followed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import wait_for
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node

from rl_ros.bringup import Supervisor
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import find_bags
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.trace import compare, read_traces
from rl_ros.graph import load_graph, resolve
from rl_ros.nodes.base import message_class
from rl_ros.nodes.spin import ros
from rl_ros.resources import share_directory
from rl_ros.tasks.goals import THRESHOLD
from rl_ros.tasks.task import make_task

FRAME = "panda_link0"
OTHER_GOAL = np.array([0.45, 0.1, 0.3])


class Person:
    """Publishes goals as a plain node would, and hears rewards."""

    def __init__(self) -> None:
        self.node, self.executor = Node("person"), EventsExecutor()
        self.executor.add_node(self.node)
        self.rewards: list[bytes] = []
        kind = message_class("sensor_msgs/msg/JointState")
        self.node.create_subscription(kind, "/reward", self.rewards.append, 10, raw=True)
        self.goals = self.node.create_publisher(message_class("geometry_msgs/msg/PoseStamped"), "/goal/pose", 10)

    def spin(self) -> None:
        self.executor.spin_once(timeout_sec=0.01)


@pytest.fixture
def person(ros_domain: int) -> Iterator[Person]:
    with ros():
        made = Person()
        yield made
        made.executor.remove_node(made.node)
        made.node.destroy_node()
        made.executor.shutdown()


def run(arguments: dict[str, str], person: Person, turn: object, graph: str = "reach") -> list[str]:
    """Run a graph to its end, with `turn` called all the time; returns what its nodes said."""
    said: list[str] = []
    with Supervisor(resolve(load_graph(graph), {"policy": "", **arguments}), said.append) as supervisor:

        def poll() -> None:
            person.spin()
            turn()  # type: ignore[operator]

        status = supervisor.wait(poll, every=0.001)
    assert status == 0, said
    return said


def recorded(bags: Path, graph: str = "reach") -> list[Episode]:
    episodes, refused = read_episodes(find_bags(bags), Contract.load(graph))
    assert not refused
    return episodes


def test_an_expert_reaches_its_goals_and_bags_hold_what_live_nodes_saw(tmp_path: Path, person: Person) -> None:
    bags, trace, graph = tmp_path / "bags", tmp_path / "trace", "pick_and_place"
    run({"lockstep": "true", "episodes": "2", "bags": str(bags), "trace": str(trace)}, person, lambda: None, graph)
    episodes = recorded(bags, graph)
    assert [episode.outcome for episode in episodes] == ["success", "success"]
    count, mismatches = compare(read_traces(sorted(trace.glob("*.jsonl"))), episodes)
    assert (count, mismatches) == (100, [])
    for seed, episode in enumerate(episodes):
        assert (episode.desired_goal == make_task(graph).goal_pose(seed).astype(np.float32)).all()
        assert not episode.terminated.any()  # reaching a goal ends nothing
        assert episode.truncated.sum() == 1


def test_a_goal_given_in_an_episode_counts_from_a_tick_on_for_policy_reward_and_bag_alike(
    tmp_path: Path, person: Person
) -> None:
    told: list[int] = []

    def turn() -> None:
        # At some ticks, as whoever has just found the graph may not be heard the first time.
        if 2 < len(person.rewards) < 50 and len(person.rewards) not in told:
            told.append(len(person.rewards))
            for frame, position in (("map", [0.5, 0.0, 0.2]), ("", [np.nan, 0.0, 0.2]), (FRAME, OTHER_GOAL)):
                person.goals.publish(messages.pose_cdr(0, frame, position))

    bags, trace = tmp_path / "bags", tmp_path / "trace"
    arguments = {"episodes": "1", "episode_length": "100", "bags": str(bags), "trace": str(trace)}
    said = run(arguments, person, turn)
    assert any("refused: a goal in frame 'map'; it is expected in panda_link0" in line for line in said)
    assert any("refused: a goal that is not finite" in line for line in said)
    [episode] = recorded(bags)
    own = make_task("reach").goal_pose(0).astype(np.float32)
    changed = int((episode.desired_goal == own).all(axis=1).sum())
    assert 0 < changed < 80
    assert (episode.desired_goal[:changed] == own).all()
    assert (episode.desired_goal[changed:] == OTHER_GOAL.astype(np.float32)).all()
    # It went there, it was judged by it, and each of the live nodes counted it from the same tick on as the bag.
    assert np.linalg.norm(episode.observation["tool_position"][-1] - OTHER_GOAL) < THRESHOLD
    assert episode.outcome == "success"
    count, mismatches = compare(read_traces(sorted(trace.glob("*.jsonl"))), [episode])
    assert (count, mismatches) == (100, [])
    task = make_task("reach")
    # Arriving somewhere is judged by the goal that was there when the action was chosen.
    for row in range(100):
        here = {"tool_position": episode.observation["tool_position"][row + 1]}
        assert episode.reward[row] == task.judge(here, episode.desired_goal[row]).reward, row


def test_a_goal_given_by_command_is_kept_from_episode_to_episode_where_the_graph_is_told_to(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    arguments = {"policy": "", "lockstep": "true", "keep_goal": "true", "bags": str(bags)}
    said: list[str] = []

    def complete() -> int:
        return len(list(bags.glob("episode_" + 6 * "[0-9]")))

    with Supervisor(resolve(load_graph("reach"), arguments), said.append):
        assert wait_for(lambda: complete() > 1, 60.0), said
        coordinates = [str(coordinate) for coordinate in OTHER_GOAL]
        command = [sys.executable, "-m", "rl_ros.cli", "goal", *coordinates]
        given = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert given.returncode == 0, given.stdout + given.stderr
        assert "goal: 0.45 0.1 0.3 m in panda_link0" in given.stdout
        then = complete()
        assert wait_for(lambda: complete() > then + 1, 60.0), said
    episodes = recorded(bags)
    own = make_task("reach").goal_pose(0).astype(np.float32)
    assert (episodes[0].desired_goal == own).all()
    assert (episodes[1].desired_goal == own).all()  # the first one is kept as well
    assert (episodes[-2].desired_goal == OTHER_GOAL.astype(np.float32)).all()
    assert np.linalg.norm(episodes[-2].observation["tool_position"][-1] - OTHER_GOAL) < THRESHOLD


def test_nobody_listens_to_a_goal() -> None:
    command = [sys.executable, "-m", "rl_ros.nodes", "goal", "--ros-args", "-p", "contract:=reach"]
    command += ["-p", "position:=[0.5, 0.0, 0.2]", "-p", "patience:=0.3"]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 2
    assert "nobody follows /goal/pose; does a graph run its episodes on this ROS domain?" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("name", ["reach", "push", "pick_and_place"])
def test_the_graph_is_that_of_grasp_with_another_contract_scene_and_policy(name: str) -> None:
    graph, grasp = load_graph(name), load_graph("lift")
    assert graph.nodes == grasp.nodes
    differs = {key for key, argument in graph.arguments.items() if argument != grasp.arguments[key]}
    assert {"contract", "scene"} <= differs <= {"contract", "scene", "expert_noise", "policy", "speed"}
    ours = share_directory() / "policies" / name
    assert graph.arguments["policy"].default == (str(ours) if ours.is_dir() else "")
    nodes = {node.name: node for node in resolve(graph, {}).nodes}
    assert nodes["arm_sim"].parameters["scene"] == nodes["policy"].parameters["contract"] == name
