"""Learning from bags as they land: first without ROS, then as the node that swaps the policy of a running graph."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import episode_messages, small_contract, wait_for
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import GetParameters
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from rl_ros.algorithms.base import make_algorithm
from rl_ros.bringup import Supervisor
from rl_ros.cli import main
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.exchange.bags import write_bags
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError
from rl_ros.graph import load_graph, resolve
from rl_ros.nodes.base import message_class
from rl_ros.nodes.spin import ros
from rl_ros.nodes.trainer import Trainer
from rl_ros.training import from_bags
from rl_ros.training.bundle import load_bundle
from rl_ros.training.from_bags import BagTrainer, Event, Exported, Learned, Refused, Settings

TICKS = 6
TINY = {"hidden_size": 8, "image_features": 8, "batch_size": 4}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_bags, "LOOK_SECONDS", 0.0)


def record(directory: Path, number: int, contract: Contract | None = None) -> Path:
    """A bag of a whole episode."""
    contract = contract or small_contract()
    file = EpisodeFile(
        directory,
        f"episode_{number:06d}",
        contract.recorded_topics(),
        {"contract": contract.to_yaml(), "start": "1000000000000", "seed": str(number), "episode": str(number)},
    )
    for topic, stamp, cdr in episode_messages(contract, TICKS):
        file.write(topic, stamp, cdr)
    last = str(1_000_000_000_000 + (TICKS - 1) * 100_000_000)
    return file.close({"outcome": "success", "end": last, "seed": str(number), "episode": str(number)})


def trainer(directory: Path, **settings: object) -> BagTrainer:
    values: dict = {"updates_per_episode": 3, "export_every": 2, "start_after": 1, "overrides": TINY, **settings}
    made = Settings("bc", directory / "bags", directory / "run", **values)
    return BagTrainer(made, small_contract())


def reach_bag(directory: Path, number: int) -> Path:
    """A bag in which the tool wanders along x, far from the goal that it was given."""
    contract = Contract.load("reach")
    rows = np.arange(TICKS)
    tool = np.column_stack([0.3 + 0.04 * rows, np.zeros((TICKS, 2))]).astype(np.float32)
    episode = Episode(
        stamps=(1 + rows) * contract.period_ns,
        observation={"tool_position": tool, "tool_velocity": np.zeros_like(tool)},
        auxiliary={},
        desired_goal=np.tile(np.float32([0.5, 0.2, 0.3]), (TICKS, 1)),
        action=np.zeros_like(tool),
        reward=-np.ones(TICKS, np.float32),
        terminated=np.zeros(TICKS, bool),
        truncated=rows == TICKS - 2,
        has_transition=rows < TICKS - 1,
        outcome="timeout",
        seed=number,
        source="",
    )
    [bag] = write_bags([episode], contract, directory / f"part_{number}")
    return bag


def reach_trainer(algorithm: str, directory: Path, **settings: object) -> BagTrainer:
    """A trainer of a task whose rewards follow from goals, so that hindsight can replace those."""
    values: dict = {"updates_per_episode": 3, "start_after": 1, "overrides": TINY, **settings}
    return BagTrainer(Settings(algorithm, directory / "bags", directory / "run", **values), Contract.load("reach"))


def until_idle(one: BagTrainer) -> list[Event]:
    """What is told until there is nothing to do, at two looks one after the other."""
    told: list[Event] = []
    idle = 0
    while idle < 3:
        events = one.step()
        idle = idle + 1 if events is None else 0
        told += events or []
    return told


def of(kind: type, events: Sequence[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def test_each_new_episode_earns_its_updates_once(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    assert until_idle(one) == []  # not even the directory is there
    first, second = record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    told = until_idle(one)
    assert of(Learned, told) == [Learned(first, 1), Learned(second, 1)]
    assert (one.updates, one.owed, one.episodes) == (6, 0, 2)
    assert until_idle(one) == []
    assert one.updates == 6
    third = record(tmp_path / "bags", 2)
    assert of(Learned, until_idle(one)) == [Learned(third, 1)]
    assert one.updates == 9


def test_bags_that_were_there_before_are_read_through_the_cache_and_all_are_remembered(tmp_path: Path) -> None:
    record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    one = trainer(tmp_path)
    until_idle(one)
    record(tmp_path / "bags", 2)
    until_idle(one)
    assert one.episodes == 3
    assert len(one.memory) == 3 * (TICKS - 1)
    assert (tmp_path / "bags" / ".rl_ros_cache").is_dir()


def test_bundles_come_as_often_as_asked_and_the_link_names_the_newest(tmp_path: Path) -> None:
    one = trainer(tmp_path, keep=2)
    bundles = []
    for number in range(0, 8, 2):
        record(tmp_path / "bags", number), record(tmp_path / "bags", number + 1)
        bundles += [event.bundle for event in of(Exported, until_idle(one))]
    run = tmp_path / "run"
    assert bundles == [run / f"bundle_{number:06d}" for number in (1, 2, 3, 4)]
    assert sorted(path.name for path in run.glob("bundle_*")) == ["bundle_000003", "bundle_000004"]
    bundle = load_bundle(run / "bundle")
    assert (run / "bundle").resolve() == bundles[-1]
    assert (bundle.algorithm, bundle.metrics["episodes"], bundle.metrics["updates"]) == ("bc", 8, 24)
    assert len(bundle.source_episodes) == 8
    assert one.export() == []  # nothing was learned since


def test_broken_bags_are_one_sentence_each_and_learning_goes_on(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    good = record(bags, 0)
    for name, content in (("empty", b""), ("noise", b"no bag at all"), ("cut", b"")):
        (bags / name).mkdir()
        (bags / name / f"{name}_0.mcap").write_bytes(content)
    [whole] = good.glob("*.mcap")
    (bags / "cut" / "cut_0.mcap").write_bytes(whole.read_bytes()[:400])
    one = trainer(tmp_path)
    told = until_idle(one)
    assert len(of(Refused, told)) == 3
    assert all(event.sentence.endswith(".") for event in of(Refused, told))
    more = record(bags, 1)
    (bags / "later").mkdir()
    (bags / "later" / "later_0.mcap").write_bytes(b"nothing either")
    told += until_idle(one)
    assert of(Learned, told) == [Learned(good, 1), Learned(more, 1)]
    [later] = of(Refused, told)[3:]
    assert "later" in later.sentence
    assert one.updates == 6


def test_a_bag_that_still_grows_is_waited_for(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    whole = record(tmp_path / "elsewhere", 0)
    [source] = whole.glob("*.mcap")
    growing = tmp_path / "bags" / "copied"
    growing.mkdir(parents=True)
    content = source.read_bytes()
    for size in range(1000, len(content), 1000):  # each step of the trainer finds more of it
        (growing / source.name).write_bytes(content[:size])
        assert not one.step()
    shutil.copytree(whole, growing, dirs_exist_ok=True)
    assert of(Learned, until_idle(one)) == [Learned(growing, 1)]
    assert len(one.memory) == TICKS - 1


def test_a_continued_bundle_goes_on_where_it_was_and_its_bags_earn_nothing(tmp_path: Path) -> None:
    record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    first = trainer(tmp_path)
    [bundle] = [event.bundle for event in of(Exported, until_idle(first))]
    second = trainer(tmp_path, continue_from=bundle)
    until_idle(second)
    assert (second.updates, len(second.memory)) == (0, 2 * (TICKS - 1))  # remembered, but learned from already
    record(tmp_path / "bags", 2)
    until_idle(second)
    assert second.updates == 3
    [exported] = of(Exported, second.export())
    learned = load_bundle(exported.bundle)
    assert learned.metrics["updates"] == 9
    assert len(learned.source_episodes) == 3
    # Three updates on it is still nearer to the bundle than to the weights that training began with.
    before, after = load_bundle(bundle).state(), learned.state()
    fresh = make_algorithm("bc", small_contract(), learned.normalisation, seed=0, overrides=TINY).state_dict()
    weights = [name for name in before if name.startswith("networks.") and name.endswith("weight")]

    def distance(other: Mapping[str, Any]) -> float:
        return float(sum(np.square(after[name] - np.asarray(other[name])).sum() for name in weights))

    assert 0 < distance(before) < distance(fresh)


@pytest.mark.parametrize("name", ["cal_ql", "awr"])
def test_what_learns_from_whole_episodes_does_so_where_other_goals_are_relabelled(name: str, tmp_path: Path) -> None:
    reach_bag(tmp_path / "bags", 0)
    first = reach_trainer(name, tmp_path)
    until_idle(first)
    [exported] = of(Exported, first.close())
    reach_bag(tmp_path / "bags", 1)
    second = reach_trainer(name, tmp_path, continue_from=exported.bundle)
    until_idle(second)
    assert (first.updates, second.updates) == (3, 3)


@pytest.mark.parametrize(("name", "hindsight", "mean"), [("iql", 4.0, 0.45), ("iql", 0.0, 0.5), ("cal_ql", 4.0, 0.5)])
def test_goals_are_standardised_by_those_that_are_learned_from(
    name: str, hindsight: float, mean: float, tmp_path: Path
) -> None:
    reach_bag(tmp_path / "bags", 0)
    one = reach_trainer(name, tmp_path, hindsight=hindsight)
    until_idle(one)
    [exported] = of(Exported, one.close())
    # Asked for was x = 0.5, achieved 0.3 to 0.5.
    assert load_bundle(exported.bundle).normalisation["desired_goal"]["mean"][0] == pytest.approx(mean)


def test_rewards_that_an_algorithm_is_not_set_for_end_learning_with_a_sentence(tmp_path: Path) -> None:
    record(tmp_path / "bags", 0)
    settings = Settings("sac", tmp_path / "bags", tmp_path / "run", start_after=1, overrides=TINY)
    with pytest.raises(UserError, match=r"sac: rewards from \S+ to \S+ are not between .* largest_reward 0.0"):
        until_idle(BagTrainer(settings, small_contract()))


def test_bags_that_were_learned_from_are_known_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    monkeypatch.chdir(tmp_path)
    [bundle] = [event.bundle for event in of(Exported, until_idle(trainer(Path())))]
    monkeypatch.chdir("/")
    second = trainer(tmp_path, continue_from=tmp_path / bundle)
    until_idle(second)
    assert (second.episodes, second.updates) == (2, 0)


def test_the_bags_of_a_continued_bundle_are_half_of_each_batch_wherever_they_are(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path / "bags", number)
    first = trainer(tmp_path, export_every=4)
    [bundle] = [event.bundle for event in of(Exported, until_idle(first))]
    (tmp_path / "bags").rename(tmp_path / "old")
    description = json.loads((bundle / "bundle.json").read_text())
    description["source_episodes"] = [path.replace("/bags/", "/old/") for path in description["source_episodes"]]
    (bundle / "bundle.json").write_text(json.dumps(description))
    second = trainer(tmp_path, continue_from=bundle)
    until_idle(second)
    assert second.episodes == 4
    assert set(second.memory.episode[second.sample(40)]) == {0, 1, 2, 3}
    record(tmp_path / "bags", 9)
    until_idle(second)
    assert second.updates == 3  # earned by the new one alone
    episodes = second.memory.episode[second.sample(40)]
    assert (episodes == 4).sum() == 20  # one of five episodes, and half of the batch


def test_an_offline_run_is_continued_in_place(tmp_path: Path) -> None:
    record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    first = trainer(tmp_path)
    until_idle(first)
    run = tmp_path / "run"
    offline = (run / "bundle").resolve()
    (run / "bundle").unlink()
    offline.rename(run / "bundle")  # as `rl_ros train` leaves it
    record(tmp_path / "bags", 2)
    second = trainer(tmp_path, continue_from=run / "bundle", export_every=1)
    until_idle(second)
    assert (run / "bundle").resolve() == run / "bundle_000001"
    assert load_bundle(run / "bundle_000000").metrics["updates"] == 6
    columns = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert columns[:2] == ["update", "seconds"]
    assert "loss" in " ".join(columns)


def test_mistakes_are_told_before_the_first_bag(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no algorithm is named 'magic'"):
        BagTrainer(Settings("magic", tmp_path, tmp_path / "run"), small_contract())
    with pytest.raises(UserError, match="bc settings: unknown key 'batch'"):
        trainer(tmp_path, overrides={"batch": 1})
    with pytest.raises(UserError, match="no such policy bundle"):
        trainer(tmp_path, continue_from=tmp_path / "none")
    record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    [bundle] = [event.bundle for event in of(Exported, until_idle(trainer(tmp_path)))]
    settings = Settings("iql", tmp_path / "bags", tmp_path / "run", continue_from=bundle)
    with pytest.raises(UserError, match="was trained by bc, so iql cannot continue it"):
        BagTrainer(settings, small_contract())
    description = bundle / "bundle.json"
    data = json.loads(description.read_text())
    data["contract"]["control_rate"] = 20.0
    description.write_text(json.dumps(data))
    with pytest.raises(UserError, match="control_rate was 20.0 in training and is 10.0 here"):
        trainer(tmp_path, continue_from=bundle)


def test_the_command_learns_on_from_a_bundle_and_ends_after_its_updates(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "bags", 0), record(tmp_path / "bags", 1)
    [bundle] = [event.bundle for event in of(Exported, until_idle(trainer(tmp_path)))]
    record(tmp_path / "bags", 2)
    online = ["train", "--online", "--bags", str(tmp_path / "bags"), "--out", str(tmp_path / "more")]
    assert main([*online, "--continue", str(bundle), "--updates", "4", "--start-after", "1"]) == 0
    learned = load_bundle(tmp_path / "more" / "bundle")
    assert (learned.algorithm, learned.metrics["updates"], learned.metrics["episodes"]) == ("bc", 6 + 4, 3)
    assert learned.configuration["hidden_size"] == 8  # as the bundle has it
    capfd.readouterr()
    mistakes = {
        ("--continue", str(tmp_path / "none")): "no such policy bundle",
        (): "give the --algorithm to learn with",
        ("--algorithm", "bc", "--seconds", "3"): "--online learns from bags as they are",
        ("--actors", "human", "--held-out", "0.2", "--cache", "x"): "leave out --held-out, --actors, --cache.",
    }
    for arguments, sentence in mistakes.items():
        assert main([*online, *arguments]) == 2
        said = capfd.readouterr()
        assert sentence in said.err + said.out
    assert main(["train", "--bags", str(tmp_path), "--out", "x", "--continue", str(bundle)]) == 2
    assert "--continue goes with --online" in capfd.readouterr().err


def test_the_node_swaps_the_policy_of_a_running_graph_and_a_broken_bag_does_not_stop_it(
    tmp_path: Path, ros_domain: int
) -> None:
    bags, run, said = tmp_path / "bags", tmp_path / "run", []
    (bags / "noise").mkdir(parents=True)
    (bags / "noise" / "noise_0.mcap").write_bytes(b"no bag at all")
    arguments = {
        "policy": "",
        "lockstep": "true",
        "bags": str(bags),
        "run": str(run),
        "trainer": "bc",
        "start_after": "2",
        "export_every": "2",
        "updates_per_episode": "4",
        "trainer_settings": json.dumps({"hidden_size": 8, "batch_size": 4}),
    }
    with ros(), Supervisor(resolve(load_graph("reach"), arguments), said.append):  # type: ignore[arg-type]
        node, executor = Node("listener"), EventsExecutor()
        executor.add_node(node)
        metrics: list[bytes] = []
        kind = message_class("sensor_msgs/msg/JointState")
        node.create_subscription(kind, "/trainer/metrics", metrics.append, 10, raw=True)

        def until(condition: Callable[[], object]) -> bool:
            def turn() -> object:
                executor.spin_once(timeout_sec=0.05)
                return condition()

            return wait_for(turn, 60.0)

        def newest() -> dict[str, float]:
            told = messages.decode("sensor_msgs/msg/JointState", metrics[-1])
            return dict(zip(told.name, told.position.tolist(), strict=True))

        assert until(lambda: metrics and newest()["swaps"] >= 1), said
        figures = newest()
        client = node.create_client(GetParameters, "policy/get_parameters")
        assert until(client.service_is_ready)
        answer = client.call_async(GetParameters.Request(names=["bundle"]))
        assert until(answer.done)
        acting = Path(answer.result().values[0].string_value)
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
    assert acting.parent == run
    assert load_bundle(acting).contract == Contract.load("reach")
    assert figures["updates"] >= 8
    assert figures["episodes"] >= 2
    assert any("loss" in name for name in figures)
    assert sum("noise_0.mcap: not an MCAP file" in line for line in said) == 1, said
    assert not any("Traceback" in line for line in said), said
    # What was learned after the last bundle is in one more, written as the graph went down.
    last = load_bundle(run / "bundle").metrics
    lines = (run / "metrics.csv").read_text().splitlines()
    assert float(lines[-1].split(",")[0]) == last["updates"]


def test_one_trainer_learns_from_several_robots_and_gives_each_what_it_has_learned(
    tmp_path: Path, ros_domain: int
) -> None:
    bags, run, said, robots = tmp_path / "bags", tmp_path / "run", [], ("arm_1", "arm_2")
    learns = {
        "trainer": "bc",
        "learn_from": str(bags),
        "fleet": " ".join(robots),
        "run": str(run),
        "start_after": "2",
        "export_every": "2",
        "updates_per_episode": "4",
        "trainer_settings": json.dumps({"hidden_size": 8, "batch_size": 4}),
    }
    with ExitStack() as stack:
        for robot in robots:
            # Eleven processes begin at once, which takes a slow machine longer than the manager's usual patience.
            arguments = {
                "policy": "",
                "lockstep": "true",
                "namespace": robot,
                "bags": str(bags / robot),
                "patience": "60",
            }
            resolved = resolve(load_graph("reach"), arguments | (learns if robot == robots[0] else {}))
            stack.enter_context(Supervisor(resolved, said.append))
        for robot in robots:  # which its policy node has said
            assert wait_for(lambda robot=robot: any(f"{robot}: the policy is now {run}" in line for line in said), 60.0)
    learned = load_bundle(run / "bundle").source_episodes
    assert {robot for robot in robots if any(robot in source for source in learned)} == set(robots)
    assert not any("Traceback" in line for line in said), said


def test_a_policy_node_that_refuses_a_bundle_is_told_of_and_offered_the_next_one(
    tmp_path: Path, ros_domain: int
) -> None:
    (tmp_path / "small.yaml").write_text(small_contract().to_yaml())
    parameters = {
        "contract": tmp_path / "small.yaml",
        "algorithm": "bc",
        "bags": tmp_path / "bags",
        "updates_per_episode": 2,
        "export_every": 1,
        "start_after": 1,
        "cpu_share": 1.0,
        "settings": f"'{json.dumps(TINY)}'",
    }
    arguments = [part for key, value in parameters.items() for part in ("-p", f"{key}:={value}")]
    offered: list[str] = []

    def on_parameters(changed: list[Parameter]) -> SetParametersResult:
        offered.append(str(changed[0].value))
        return SetParametersResult(successful=len(offered) > 1, reason="another contract")

    with ros(args=["--ros-args", *arguments]):
        policy, node, executor = Node("policy"), Trainer(), EventsExecutor()
        policy.declare_parameter("bundle", "")
        policy.add_on_set_parameters_callback(on_parameters)
        heard: list[bytes] = []
        kind = message_class("diagnostic_msgs/msg/DiagnosticArray")
        policy.create_subscription(kind, "/diagnostics", heard.append, 10, raw=True)
        for each in (policy, node):
            executor.add_node(each)

        def until(condition: Callable[[], object]) -> bool:
            return wait_for(lambda: executor.spin_once(timeout_sec=0.02) or condition(), 30.0)

        assert until(lambda: node.count_subscribers("/diagnostics") == 1)
        record(tmp_path / "bags", 0)
        assert until(lambda: [s for s in map(messages.status_of, heard) if "refuses" in s.text])
        assert node.swaps == 0
        record(tmp_path / "bags", 1)
        assert until(lambda: node.swaps == 1)
        node.close()
        for each in (policy, node):
            executor.remove_node(each)
            each.destroy_node()
        executor.shutdown()
    run = tmp_path / "trainer"  # beside the bags, where no other directory is named
    assert offered == [str(run / "bundle_000001"), str(run / "bundle_000002")]
    [said] = [s.text for s in map(messages.status_of, heard) if "refuses" in s.text]
    assert said == f"the policy node refuses {run / 'bundle_000001'}: another contract"
