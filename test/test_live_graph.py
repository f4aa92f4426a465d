"""The real thing: processes, Fast DDS, bags on disk."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import wait_for
from rosbags.highlevel import AnyReader

from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.ingest import read_episodes
from rl_ros.episodes.messages import decode
from rl_ros.training.live import run_episodes

SECONDS = 90


def rl_ros(*arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rl_ros.cli", *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )


def heed_interrupts() -> None:
    """In a child: as in a terminal. What a shell runs in the background, as these tests may be, ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def contents(bag: Path) -> dict[str, list[tuple[int, str]]]:
    """Log time and decoded content of every message, by topic."""
    found: dict[str, list[tuple[int, str]]] = {}
    for message in read_bag(bag).messages:
        entry = (message.log_time, repr(decode(message.type, message.cdr)))
        found.setdefault(message.topic, []).append(entry)
    return found


def test_two_runs_of_a_seed_record_the_same_though_beside_each_other(tmp_path: Path) -> None:
    """On one domain, one of them in a namespace: neither hears the other, and bags know nothing of namespaces."""

    def record(run: str, namespace: str) -> None:
        arguments = {"bags": str(tmp_path / run), "seed": "3", "namespace": namespace}
        run_episodes("lift", arguments, 5, tmp_path / f"{run}_log")

    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(record, "first", ""), threads.submit(record, "second", "left/arm_1")]
    for run in runs:
        run.result()
    first, second = find_bags(tmp_path / "first"), find_bags(tmp_path / "second")
    assert [bag.name for bag in first] == [f"episode_{number:06d}" for number in range(5)]
    assert [bag.name for bag in second] == [bag.name for bag in first]
    recorded = Contract.load("lift").recorded_topics()
    for a, b in zip(first, second, strict=True):
        left, right = contents(a), contents(b)
        # The guard's state is told when it changes, which may be never in an episode; timings only in real time.
        assert set(left) | {"/arm_guard/state", "/diagnostics"} == set(recorded)
        assert set(left) == set(right)
        for topic in left:
            assert left[topic] == right[topic], f"{a.name}: {topic} differs"


def test_results_bags_and_processes_of_a_run(tmp_path: Path) -> None:
    results = run_episodes("lift", {"bags": str(tmp_path / "bags"), "expert_noise": "0.0"}, 3, tmp_path / "log")
    assert [episode["outcome"] for episode in results.episodes] == ["success"] * 3
    assert results.processes == 3  # the guard and the recorder each have one of their own
    summary = results.summary()
    assert summary["success"] == 1.0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    episodes, refused = read_episodes(find_bags(tmp_path / "bags"), Contract.load("lift"))
    assert not refused
    for episode, told in zip(episodes, results.episodes, strict=True):
        assert episode.has_transition.sum() == told["steps"]
        assert episode.reward.sum() == told["return"] == 1.0
        assert episode.terminated.sum() == 1
        assert not episode.problems
    with AnyReader([tmp_path / "bags" / "episode_000000"]) as reader:
        assert reader.topics["/camera/image_raw"].msgcount == results.episodes[0]["steps"] + 1


@pytest.mark.parametrize("composition", ["composed", "separate"])
def test_both_compositions_run_in_real_time(composition: str, tmp_path: Path) -> None:
    arguments = {"lockstep": "false", "expert_noise": "0.0", "composition": composition, "bags": str(tmp_path / "bags")}
    results = run_episodes("lift", arguments, 1, tmp_path / "log")
    [episode] = results.episodes
    assert episode["outcome"] == "success"
    assert results.processes == (3 if composition == "composed" else 7)
    # Simulated time may fall behind the wall clock on a busy machine, but never runs ahead of it.
    assert episode["simulated_seconds"] < episode["running_seconds"] * 1.05


def test_collect_train_evaluate_and_report_by_command(tmp_path: Path) -> None:
    bags, run = str(tmp_path / "bags"), str(tmp_path / "run")
    collected = rl_ros("collect", "lift", "--episodes", "3", "--bags", bags)
    assert collected.returncode == 0, collected.stderr
    more = rl_ros("collect", "lift", "--episodes", "1", "--bags", bags)
    assert more.returncode == 0, more.stderr
    assert len(find_bags(tmp_path / "bags")) == 4  # numbered on from the first three
    trained = rl_ros("train", "--algorithm", "bc", "--bags", bags, "--out", run, "--updates", "5")
    assert trained.returncode == 0, trained.stderr
    evaluated = rl_ros("evaluate", run, "--episodes", "2", "--bags", str(tmp_path / "evaluated"))
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads(evaluated.stdout.splitlines()[-1])
    assert figures["episodes"] == 2
    assert len(find_bags(tmp_path / "evaluated")) == 2
    other = tmp_path / "faster.yaml"
    other.write_text(Contract.load("lift").to_yaml().replace("control_rate: 10.0", "control_rate: 20.0"))
    refused = rl_ros("up", "lift", f"contract:={other}", f"policy:={run}/bundle")
    assert refused.returncode == 2
    assert "control_rate was 10.0 in training and is 20.0 here" in refused.stdout
    assert "Traceback" not in refused.stdout
    told = rl_ros("info", str(tmp_path / "evaluated" / "episode_000000"))
    assert told.returncode == 0
    assert "/camera/image_raw" in told.stdout


def test_ctrl_c_leaves_whole_bags_and_no_process(tmp_path: Path) -> None:
    # The fixture asserts afterwards that no process and no shared memory is left.
    bags = tmp_path / "bags"
    arguments = ["up", "lift", "lockstep:=true", f"bags:={bags}"]
    with subprocess.Popen(
        [sys.executable, "-m", "rl_ros.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert wait_for(lambda: (bags / "episode_000001").exists(), SECONDS)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list(bags.glob("*.unfinished"))
    for path in find_bags(bags):
        bag = read_bag(path)
        assert not bag.damage
        assert bag.outcome["outcome"] in ("success", "timeout", "operator")


def test_a_second_graph_on_the_same_domain_is_refused(tmp_path: Path, ros_domain: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "rl_ros.cli", "up", "lift", "lockstep:=true", f"bags:={tmp_path / 'bags'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    ) as process:
        assert wait_for(lambda: list((tmp_path / "bags").glob("episode_*")), SECONDS)
        second = rl_ros("up", "lift")
        process.send_signal(signal.SIGINT)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: a graph of rl_ros already runs on ROS domain {ros_domain}")


def test_a_camera_that_never_publishes_is_named(tmp_path: Path) -> None:
    contract = tmp_path / "other.yaml"
    contract.write_text(Contract.load("lift").to_yaml().replace("/camera/image_raw", "/elsewhere/image_raw"))
    failed = rl_ros("up", "lift", "lockstep:=true", f"contract:={contract}", "patience:=4.0")
    assert failed.returncode == 3
    assert "waited 4 s: no answer from: policy, reward" in failed.stdout
    assert "no publisher on /elsewhere/image_raw" in failed.stdout
    assert "Traceback" not in failed.stdout


def test_a_graph_without_an_arm_says_so() -> None:
    failed = rl_ros("up", "lift", "robot:=real", "patience:=3.0")
    assert failed.returncode == 3
    assert "no answer from: arm_guard, policy, reward" in failed.stdout
    assert "arm_guard says: no publisher on joint_states" in failed.stdout
    assert "policy says: no publisher on /camera/image_raw" in failed.stdout


def test_mistakes_are_one_sentence_and_status_two(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mcap"
    empty.touch()
    text = tmp_path / "text.mcap"
    text.write_text("no bag at all")
    cases = {
        ("up", "nothing"): "no graph is named 'nothing'",
        ("up", "lift", "robots:=real"): "no argument 'robots'",
        ("up", "lift", "robot:=toy"): "expected one of pybullet, gazebo, real",
        ("info", str(tmp_path / "none")): "no such bag",
        ("info", str(empty)): "the file is empty",
        ("info", str(text)): "not an MCAP file",
        ("evaluate", str(tmp_path)): "no such policy bundle",
        ("report", str(tmp_path)): "holds no summary.json",
        ("train", "--algorithm", "bc", "--bags", str(tmp_path / "none"), "--out", "x", "--updates", "1"): "no such",
    }
    for arguments, sentence in cases.items():
        failed = rl_ros(*arguments)
        assert failed.returncode == 2, arguments
        assert failed.stderr.startswith("error: "), failed.stderr
        assert sentence in failed.stderr, failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
