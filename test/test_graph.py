"""The graph of nodes: what is started, with which parameters, and the sentence for every mistake."""

import dataclasses
import importlib.util
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_ros import bringup
from rl_ros.commands.preflight import FRAMES
from rl_ros.contract import Contract, Recorded
from rl_ros.errors import UserError
from rl_ros.graph import (
    QOS,
    Argument,
    Graph,
    GraphNode,
    ResolvedGraph,
    Variable,
    endpoints,
    load_graph,
    node_specs,
    offered_profiles,
    parse_arguments,
    qos,
    resolve,
)
from rl_ros.resources import share_directory, share_file


def grasp(**arguments: str) -> ResolvedGraph:
    return resolve(load_graph("lift"), arguments)


def parameters(graph: ResolvedGraph, node: str) -> dict[str, Any]:
    return next(each.parameters for each in graph.nodes if each.name == node)


def processes(graph: ResolvedGraph) -> dict[str, list[str]]:
    return {process: [node.name for node in nodes] for process, nodes in graph.processes.items()}


def graph_of(nodes: Mapping[str, GraphNode], **parts: Any) -> Graph:
    arguments = {
        "contract": Argument("lift", "name of the contract"),
        "robot": Argument("pybullet", "where the arm is", ("pybullet", "real")),
    }
    return Graph("mine", arguments, dict(nodes), **{"common": {"contract": "$(contract)"}, **parts})


def test_by_default_guard_and_recorder_have_their_own_process_and_the_rest_share_one() -> None:
    assert processes(grasp(bags="somewhere")) == {
        "arm_guard": ["arm_guard"],
        "recorder": ["recorder"],
        "main": ["policy", "goal_encoder", "reward", "arm_sim", "episode_manager"],
    }


def test_separate_composition_gives_every_node_its_own_process() -> None:
    graph = grasp(bags="somewhere", composition="separate")
    assert processes(graph) == {node.name: [node.name] for node in graph.nodes}
    assert len(graph.nodes) == 7


def test_composition_changes_no_parameter() -> None:
    together, apart = grasp(), grasp(composition="separate")
    assert {n.name: n for n in together.nodes} == {n.name: n for n in apart.nodes}


def test_without_bags_nothing_is_recorded_and_nobody_waits_for_bags() -> None:
    graph = grasp()
    assert "recorder" not in graph.processes
    assert parameters(graph, "episode_manager")["recorded"] is False
    graph = grasp(bags="somewhere")
    assert parameters(graph, "recorder")["directory"] == "somewhere"
    assert parameters(graph, "episode_manager")["recorded"] is True


@pytest.mark.parametrize(("robot", "simulated"), [("pybullet", True), ("real", False), ("gazebo", False)])
def test_the_simulated_arm_runs_only_for_its_robot(robot: str, simulated: bool) -> None:
    assert ("arm_sim" in [node.name for node in grasp(robot=robot).nodes]) is simulated


@pytest.mark.parametrize(("robot", "simulated"), [("pybullet", True), ("gazebo", True), ("real", False)])
def test_the_recorder_logs_in_simulated_time_where_time_is_simulated(robot: str, simulated: bool) -> None:
    assert parameters(grasp(robot=robot, bags="somewhere"), "recorder")["use_sim_time"] is simulated


def test_lockstep_reaches_every_node_that_must_know() -> None:
    graph = grasp(lockstep="true", bags="somewhere")
    assert graph.lossless
    assert all(node.parameters["lossless"] is True for node in graph.nodes)
    assert parameters(graph, "arm_sim")["lockstep"] is True
    assert parameters(graph, "recorder")["log_time_from_stamp"] is True
    assert parameters(graph, "arm_guard")["watchdog"] > parameters(grasp(), "arm_guard")["watchdog"]
    assert not grasp().lossless


@pytest.mark.parametrize(("robot", "told"), [("pybullet", True), ("real", False), ("gazebo", False)])
def test_a_robot_is_not_waited_for_to_tell_what_only_a_simulation_knows(robot: str, told: bool) -> None:
    nodes = resolve(load_graph("grasp"), {"robot": robot, "bags": "somewhere", "policy": "somewhere"}).nodes
    heard = {endpoint.topic for node in nodes for endpoint in node.subscribes}
    assert ("/objects/state" in heard) is told
    assert "/camera/image_raw" in heard


def test_every_parameter_of_every_node_has_a_value_of_its_type() -> None:
    kinds = {"string": str, "bool": bool, "integer": int, "double": float, "double_array": tuple}
    for node in grasp(bags="somewhere").nodes:
        specs = node_specs()[node.name].parameters
        assert node.parameters.keys() == specs.keys()
        for name, value in node.parameters.items():
            assert type(value) is kinds[specs[name].type], name


def test_episodes_are_numbered_and_seeded_after_those_that_are_there(tmp_path: Path) -> None:
    def begins(**arguments: str) -> tuple[object, object]:
        found = parameters(grasp(bags=str(tmp_path), **arguments), "episode_manager")
        return found["first_episode"], found["seed"]

    assert begins() == (0, 0)
    for name in ("episode_000003", "episode_000011.unfinished", "something_else"):
        (tmp_path / name).mkdir()
    assert begins() == (12, 12)
    assert begins(seed="0") == (12, 0)
    assert begins(first_episode="40") == (40, 40)


def test_arguments_arrive_as_numbers_and_text() -> None:
    graph = grasp(episodes="12", seed="7", expert_noise="0.5", policy="policies/lift", results="results.jsonl")
    manager = parameters(graph, "episode_manager")
    assert (manager["episodes"], manager["seed"], manager["results"]) == (12, 7, "results.jsonl")
    policy = parameters(graph, "policy")
    assert (policy["bundle"], policy["expert_noise"]) == ("policies/lift", 0.5)


def test_text_that_looks_like_a_number_stays_text() -> None:
    assert parameters(grasp(policy="12"), "policy")["bundle"] == "12"


def test_only_the_episode_manager_ends_the_graph() -> None:
    assert [node.name for node in grasp(bags="somewhere").nodes if node.stops_graph] == ["episode_manager"]


def test_every_topic_that_a_node_subscribes_to_has_a_publisher_with_the_same_type_and_a_matching_profile() -> None:
    for lockstep in ("true", "false"):
        graph = grasp(bags="somewhere", lockstep=lockstep)
        offered = {"/" + e.topic.lstrip("/"): e for node in graph.nodes for e in node.publishes}
        for node in graph.nodes:
            for endpoint in node.subscribes:
                topic = "/" + endpoint.topic.lstrip("/")
                if endpoint.optional:  # a person's, such as the emergency stop
                    continue
                assert topic in offered, f"{node.name} listens to {topic}, which nobody publishes"
                assert offered[topic].type == endpoint.type
                there, here = qos(offered[topic].qos, graph.lossless), qos(endpoint.qos, graph.lossless)
                assert there.reliable >= here.reliable, f"{node.name}: {topic}"
                assert there.transient_local >= here.transient_local, f"{node.name}: {topic}"


def test_only_the_guard_publishes_to_the_controllers() -> None:
    publishers = {
        topic: [node.name for node in grasp().nodes if topic in {e.topic for e in node.publishes}]
        for topic in ("arm_controller/joint_trajectory", "gripper_controller/joint_trajectory")
    }
    assert set(map(tuple, publishers.values())) == {("arm_guard",)}


def test_the_parts_of_a_contract_become_its_topics() -> None:
    contract = Contract.load("lift")
    found = endpoints(node_specs()["policy"].subscribes, contract)
    for key in (*contract.observation.values(), contract.goal.desired_goal):
        assert found[key.topic].type == key.type
    assert found["/goal/latent"].qos == "latched"
    assert set(endpoints(node_specs()["recorder"].subscribes, contract)) == set(contract.recorded_topics())
    assert set(endpoints(node_specs()["policy"].publishes, contract)) >= {"/policy/action", "/policy/gripper"}
    assert "/reward" in endpoints(node_specs()["reward"].publishes, contract)


def test_the_recorder_asks_for_what_publishers_offer() -> None:
    contract = Contract.load("lift")
    contract = dataclasses.replace(contract, record={**contract.record, "/rosout": Recorded("rcl_interfaces/msg/Log")})
    offered, asked = offered_profiles(contract), endpoints(node_specs()["recorder"].subscribes, contract)
    for topic in set(contract.recorded_topics()) - {"/episode/event"}:
        assert QOS[asked[topic].qos].depth == 1000
        # A reliable stream loses nothing on its way to the bag; a best-effort publisher is heard nevertheless.
        assert QOS[asked[topic].qos].reliable == (topic in offered and QOS[offered[topic]].reliable)
    assert not QOS[asked["/camera/image_raw"].qos].reliable
    assert QOS[asked["/joint_states"].qos].reliable
    assert not QOS[asked["/rosout"].qos].reliable


def test_a_probe_that_gets_no_processor_for_a_moment_misses_no_image() -> None:
    probe = node_specs()["probe"].subscribes
    assert [QOS[topic.qos].depth >= FRAMES and not QOS[topic.qos].reliable for topic in probe] == [True]


def test_lossless_profiles_are_reliable_and_late_joiners_get_everything() -> None:
    for name in QOS:
        profile = qos(name, lossless=True)
        assert profile.reliable
        assert profile.transient_local
        assert profile.depth >= QOS[name].depth
        assert qos(name, lossless=False) == QOS[name]
    assert str(QOS["sensor"]) == "best effort, volatile, depth 5"
    assert str(QOS["latched"]) == "reliable, transient local, depth 1"


def test_arguments_are_key_value_texts() -> None:
    assert parse_arguments(["robot:=real", "policy:=", "results:=a:=b"]) == {
        "robot": "real",
        "policy": "",
        "results": "a:=b",
    }


@pytest.mark.parametrize("text", ["robot", "robot=real", ":=real", "", "robot:real"])
def test_an_argument_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected the form key:=value, such as robot:=pybullet"):
        parse_arguments([text])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"robt": "real"}, "graph lift: no argument 'robt'; there are: robot, lockstep"),
        ({"robot": "fake"}, "graph lift: robot: expected one of pybullet, gazebo, real, got 'fake'."),
        ({"lockstep": "yes"}, "graph lift: lockstep: expected one of true, false, got 'yes'."),
        ({"episodes": "many"}, "graph lift: episode_manager: episodes: expected a whole number, got 'many'."),
        ({"episodes": "1.5"}, "episode_manager: episodes: expected a whole number, got 1.5."),
        ({"episodes": "-1"}, "episode_manager: episodes: expected at least 0, got -1."),
        ({"episodes": ""}, "episode_manager: episodes: expected a whole number, got None."),
        ({"expert_noise": "-0.5"}, "policy: expert_noise: expected at least 0, got -0.5."),
        ({"expert_noise": ".nan"}, "policy: expert_noise: expected a number, got nan."),
        ({"expert_noise": "[1"}, "policy: expert_noise: not valid YAML"),
        ({"namespace": "arm 1"}, "graph lift: namespace: 'arm 1' is no namespace: letters, digits and underscores"),
        ({"namespace": "arm", "robot": "gazebo"}, "graph lift: namespace:=arm: the world for Gazebo has one arm"),
        ({"contract": "juggle"}, "no contract is named 'juggle'; there are: grasp, grasp_image, lift"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(arguments: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        grasp(**arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (graph_of({"juggler": GraphNode("main")}), "graph mine: nodes: 'juggler' is not one of: arm_guard, arm_sim"),
        (
            graph_of({"policy": GraphNode("main", {"bundel": "x"})}),
            "graph mine: policy: bundel: no such parameter; policy has: contract",
        ),
        (graph_of({"arm_sim": GraphNode("main")}), "graph mine: arm_sim: the parameter 'scene' must be given."),
        (graph_of({"policy": GraphNode("main")}, common={}), "policy: the parameter 'contract' must be given."),
        (
            graph_of({"policy": GraphNode("main", {"bundle": "$(bundel)"})}),
            "graph mine: policy: bundle: $(bundel) is not an argument; there are: contract, robot.",
        ),
        (
            graph_of({"arm_guard": GraphNode("main", {"joint_speed_share": 1.5})}),
            "arm_guard: joint_speed_share: expected at most 1, got 1.5.",
        ),
        (
            graph_of({"arm_guard": GraphNode("main", {"workspace_low": [0.0, "low", 0.0]})}),
            "arm_guard: workspace_low[1]: expected a number, got 'low'.",
        ),
        (
            graph_of({"policy": GraphNode("main")}, variables={"speed": Variable("robot", {}, "$(fast)")}),
            "graph mine: variables: speed: $(fast) is not an argument",
        ),
        (
            graph_of({"policy": GraphNode("main", only={"robt": "real"})}),
            "graph mine: policy: 'robt' is not an argument; there are: contract, robot.",
        ),
        (
            graph_of({"policy": GraphNode("main", unless={"robt": "real"})}),
            "graph mine: policy: 'robt' is not an argument; there are: contract, robot.",
        ),
        (
            graph_of({"policy": GraphNode("main")}, variables={"speed": Variable("robt", {}, "1")}),
            "graph mine: variables: speed: 'robt' is not an argument; there are: contract, robot.",
        ),
    ],
)
def test_a_wrong_graph_is_named_with_its_place(graph: Graph, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(graph, {})
    assert sentence in str(caught.value)


def test_another_goal_brings_other_defaults_and_what_is_given_stays() -> None:
    def contract(**arguments: str) -> str:
        [policy] = [node for node in resolve(load_graph("grasp"), arguments).nodes if node.name == "policy"]
        return str(policy.parameters["contract"])

    given = {key: argument.default for key, argument in load_graph("grasp").arguments.items()}  # as ros2 launch does
    assert contract() == contract(**given) == "grasp"
    assert contract(goal="image") == contract(**{**given, "goal": "image"}) == "grasp_image"
    assert contract(goal="image", contract="lift") == "lift"
    with pytest.raises(UserError, match="goal: expected one of any, image, got 'photo'"):
        contract(goal="photo")


def test_conditions_are_all_of_only_and_none_of_unless() -> None:
    conditions = {
        "policy": GraphNode("main", only={"robot": "real", "contract": "lift"}),
        "reward": GraphNode("main", unless={"robot": "real", "contract": "push"}),
        "goal_encoder": GraphNode("main", only={"contract": "lift"}, unless={"robot": "pybullet"}),
    }
    graph = graph_of(conditions)
    assert [node.name for node in resolve(graph, {"robot": "real"}).nodes] == ["policy", "goal_encoder"]
    assert [node.name for node in resolve(graph, {"robot": "pybullet"}).nodes] == ["reward"]


def test_variables_follow_from_their_argument_and_may_build_on_others() -> None:
    variables = {
        "noise": Variable("robot", {"real": "0.0"}, otherwise="2.0"),
        "same": Variable("robot", {}, otherwise="$(noise)"),
    }
    graph = graph_of({"policy": GraphNode("main", {"expert_noise": "$(same)"})}, variables=variables)
    assert parameters(resolve(graph, {"robot": "real"}), "policy")["expert_noise"] == 0.0
    assert parameters(resolve(graph, {}), "policy")["expert_noise"] == 2.0


def test_a_parameter_of_the_node_wins_over_the_common_one() -> None:
    graph = graph_of(
        {"policy": GraphNode("main", {"lossless": False}), "reward": GraphNode("main")},
        common={"contract": "lift", "lossless": True, "bundle": "for those that know it"},
    )
    resolved = resolve(graph, {})
    assert parameters(resolved, "policy")["lossless"] is False
    assert parameters(resolved, "reward")["lossless"] is True
    assert parameters(resolved, "policy")["bundle"] == "for those that know it"
    assert "bundle" not in parameters(resolved, "reward")


def test_an_unknown_graph_and_an_unknown_file_list_what_there_is() -> None:
    with pytest.raises(UserError, match=r"no graph is named 'juggle'; there are: .*lift"):
        load_graph("juggle")
    with pytest.raises(UserError, match=r"config/juggle.yaml does not exist; config/ holds: .*nodes.yaml"):
        share_file("config/juggle.yaml")


def test_the_parameter_file_of_a_process_holds_every_parameter_of_its_nodes() -> None:
    nodes = grasp(policy="a: [odd] 'path'").processes["main"]
    read = yaml.safe_load(bringup.parameters_yaml(nodes))
    assert read["/**/policy"]["ros__parameters"]["bundle"] == "a: [odd] 'path'"
    assert [key.removeprefix("/**/") for key in read] == [node.name for node in nodes]
    for node in nodes:
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in node.parameters.items()}
        assert read[f"/**/{node.name}"]["ros__parameters"] == plain


def test_remaps_reach_the_node_they_belong_to() -> None:
    remaps = {"camera/image_raw": "/wrist/image"}
    nodes = resolve(graph_of({"policy": GraphNode("main", remaps=remaps), "reward": GraphNode("main")}), {}).nodes
    assert bringup.ros_arguments(nodes, Path("parameters.yaml")) == [
        "--params-file",
        "parameters.yaml",
        "-r",
        "policy:camera/image_raw:=wrist/image",
    ]


def test_a_namespace_goes_before_every_name_and_before_the_clock() -> None:
    resolved = grasp(namespace="/lab/arm_1", operator="true", bags="bags")
    node = next(node for node in resolved.nodes if node.name == "policy")
    assert {node.name_of(endpoint) for endpoint in node.publishes} >= {
        "/lab/arm_1/proposed/policy/action",
        "/lab/arm_1/diagnostics",
    }
    arguments = bringup.ros_arguments([node], Path("parameters.yaml"))
    assert "policy:policy/action:=proposed/policy/action" in arguments  # which ROS expands
    assert arguments[-3:] == ["policy:__ns:=/lab/arm_1", "-r", "policy:/clock:=/lab/arm_1/clock"]
    recorder = next(node for node in resolved.nodes if node.name == "recorder")
    assert "/camera/image_raw" in {endpoint.topic for endpoint in recorder.subscribes}  # as it is called in the bag


def test_with_security_each_process_has_the_enclave_of_the_shipped_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    arguments = bringup.ros_arguments(grasp().processes["arm_guard"], Path("arm_guard.yaml"))
    assert arguments[2:4] == ["--enclave", "/rl_ros/arm_guard"]


def test_the_environment_of_a_user_wins_over_our_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = bringup.environment()
    assert environment["OMP_NUM_THREADS"] == "3"
    assert Path(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()


Started = dict[str, tuple[list[str], dict[str, Any], list[str]]]
"""By process: its nodes, the content of its parameter file, and its other ROS arguments."""


def _started(process: str, nodes: list[str], ros_arguments: list[str]) -> Started:
    assert ros_arguments[0] == "--params-file"
    return {process: (nodes, yaml.safe_load(Path(ros_arguments[1]).read_text()), ros_arguments[2:])}


def by_supervisor(
    graph_name: str, arguments: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Started:
    """What the supervisor runs, read off the command lines that it gives to the operating system."""
    started: Started = {}

    class Process:
        returncode = 0

        def __init__(self, command: list[str], **options: Any) -> None:
            separator = command.index("--ros-args")
            nodes = command[command.index("rl_ros.nodes") + 1 : separator]
            started.update(_started(Path(command[separator + 2]).stem, nodes, command[separator + 1 :]))
            self.stdout = iter(())

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(bringup.subprocess, "Popen", Process)
    monkeypatch.setattr(bringup.tempfile, "gettempdir", lambda: str(tmp_path))
    with bringup.Supervisor(resolve(bringup.load_graph(graph_name), arguments)):
        pass
    return started


def by_launch(launch_file: Path, arguments: dict[str, str]) -> Started:
    """What `ros2 launch` runs: the launch file's actions, evaluated in order by launch itself."""
    from launch.actions import DeclareLaunchArgument, OpaqueFunction
    from launch.utilities import perform_substitutions
    from launch_ros.actions import Node

    from launch import LaunchContext

    description = runpy.run_path(str(launch_file))["generate_launch_description"]()
    context = LaunchContext(argv=[])
    context.launch_configurations.update(arguments)
    started: Started = {}
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
        elif isinstance(entity, OpaqueFunction):
            for action in entity.execute(context) or []:
                if not isinstance(action, Node):
                    continue
                # The first word is the executable, which is only there in an installed workspace.
                words = [perform_substitutions(context, list(word)) for word in action.cmd[1:]]
                separator = words.index("--ros-args")
                ros_arguments = [word for word in words[separator + 1 :] if word != "--ros-args"]
                started.update(_started(Path(ros_arguments[1]).stem, words[:separator], ros_arguments))
    return started


@pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch_ros is not installed: it comes with a ROS 2 installation, PyPI does not have it",
)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bags": "somewhere", "lockstep": "true", "episodes": "3", "seed": "5"},
        {"robot": "real", "composition": "separate", "policy": "policies/lift"},
    ],
)
def test_launch_file_and_supervisor_start_the_same_nodes_with_the_same_parameters_and_remaps(
    arguments: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No shipped graph remaps anything, and a difference in remaps must not go unseen.
    graph = load_graph("lift")
    graph.nodes["policy"].remaps["diagnostics"] = "/policy/diagnostics"
    monkeypatch.setattr(bringup, "load_graph", lambda name: graph)
    launched = by_launch(share_directory() / "launch" / "lift.launch.py", arguments)
    assert launched == by_supervisor("lift", arguments, tmp_path, monkeypatch)
    assert any("policy:diagnostics:=/policy/diagnostics" in started[2] for started in launched.values())
    names = {name for nodes, _, _ in launched.values() for name in nodes}
    assert names == {node.name for node in resolve(graph, arguments).nodes}


def test_the_supervisor_starts_every_node_of_the_graph_with_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"bags": "somewhere", "lockstep": "true"}
    started = by_supervisor("lift", arguments, tmp_path, monkeypatch)
    resolved = grasp(**arguments)
    assert {process: nodes for process, (nodes, _, _) in started.items()} == processes(resolved)
    for process, nodes in resolved.processes.items():
        assert started[process][1] == yaml.safe_load(bringup.parameters_yaml(nodes))


def test_a_second_graph_on_the_same_domain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringup.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    empty = ResolvedGraph("empty", {}, False)
    named = dataclasses.replace(empty, namespace="arm_1")
    with bringup.Supervisor(empty), pytest.raises(UserError, match="already runs on ROS domain 77; stop it,"):
        bringup.Supervisor(empty)
    another_robot = pytest.raises(UserError, match="on ROS domain 77 as arm_1; stop it,")
    with bringup.Supervisor(empty), bringup.Supervisor(named), another_robot:
        bringup.Supervisor(named)
    with bringup.Supervisor(empty):  # the lock is let go of
        pass
