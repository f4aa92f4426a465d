"""Bin grasping in process, without a graph: many grasps into bags, and how well a policy grasps.

What is recorded are the messages that a graph would record. A bag holds a hundred episodes or more, told apart by
`/episode/event`: ten thousand directories are a joy to nobody. Each worker writes bags of its own and waits for nobody.
"""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rl_ros
from rl_ros.contract import ACTOR_TOPIC, Contract
from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Tick
from rl_ros.episodes.ingest import EVENTS
from rl_ros.episodes.record import EpisodeFile
from rl_ros.episodes.statistics import success_figures
from rl_ros.errors import UserError
from rl_ros.robots.bin import ObjectSet
from rl_ros.tasks.env import BinEnvironment
from rl_ros.tasks.grasp import GraspImage, GraspRoutine, lifted
from rl_ros.tasks.task import Values
from rl_ros.training.acting import BundleActor, ExploringActor
from rl_ros.training.bundle import Bundle

EPISODES_A_BAG = 250
NAME = re.compile(r"grasps_(\d{7,})_(\d{1,3})(?!\d)")
"""Of a bag: its first grasp, and how many it has. What follows, such as `_interrupted`, says what became of it; bags of
`rl_ros train` are named otherwise."""
CAMERA_FRAME = "camera_optical_frame"
JUDGEMENT = ("reward", "success", "terminated", "truncated")

Choose = Callable[[Values, np.ndarray], np.ndarray]
"""An action, float32 (A,), for an observation and a goal."""


@dataclass
class Grasp:
    """What came of one episode."""

    seed: int
    success: bool
    """As the robot's own check says."""
    lifted: bool
    """As the simulator knows: anything, or where a picture shows what is to be grasped, that."""
    anything: bool
    """Whether it was anything at all."""
    ticks: int
    """Of the policy, without those of the check."""


@dataclass
class GraspEpisodes:
    """Grasps, one after the other, in an environment; a recording where there is a file."""

    environment: BinEnvironment
    file: EpisodeFile | None = None
    actor: str = "scripted"
    """Who chooses, for the record: one of `contract.ACTORS`."""
    stamp: int = 0
    """ns, of the tick at hand: one clock for all episodes of a file."""
    seen: list[Values] = field(default_factory=list)

    def run(self, seed: int, number: int, choose: Choose) -> Grasp:
        """One episode."""
        environment, contract = self.environment, self.environment.contract
        routine, period = GraspRoutine(), contract.period_ns
        environment.reset(seed=seed)
        self.stamp += period
        self.seen = []
        self._event("start", number, {"seed": str(seed)})
        self._begin()
        success = over = False
        steps = 0
        while True:
            self.seen.append(environment.values)
            self._observe()
            if over:
                break
            values, goal = environment.values, environment.desired_goal
            action = routine.act(values, lambda: choose(values, goal))  # noqa: B023 (called at once)
            reward, terminated, info = environment.act(action)
            success, steps = bool(info["is_success"]), steps + 1
            truncated = steps >= contract.episode_length and not terminated
            self._acted(action)
            self.stamp += period
            self._judged([reward, float(success), float(terminated), float(truncated)])
            over = terminated or truncated
        outcome = "success" if success else "failure" if terminated else "timeout"
        self._event("end", number, {"seed": str(seed), "outcome": outcome})
        columns = (np.stack([v[k] for v in self.seen]) for k in ("tool_position", "objects_position"))
        up = lifted(*columns)
        right = up[environment.judge.wanted(seed, len(up))] if isinstance(environment.judge, GraspImage) else up.any()
        return Grasp(seed, success, bool(right), bool(up.any()), routine.ticks)

    def _write(self, topic: str, cdr: bytes) -> None:
        if self.file is not None:
            self.file.write(topic, self.stamp, cdr)

    def _event(self, name: str, number: int, values: dict[str, str]) -> None:
        if self.file is not None:
            self._write(EVENTS, messages.status_cdr(self.stamp, name, "", {"episode": str(number), **values}))

    def _begin(self) -> None:
        if self.file is None:
            return
        environment, stamp = self.environment, self.stamp
        goal = environment.contract.goal.desired_goal
        self._write(goal.topic, messages.joint_state_cdr(stamp, goal.names, environment.desired_goal))
        height, width = environment.world.scene.camera.height, environment.world.scene.camera.width
        matrix = environment.world.camera_matrix()
        self._write("/camera/camera_info", messages.camera_info_cdr(stamp, CAMERA_FRAME, matrix, height, width))

    def _observe(self) -> None:
        if self.file is None:
            return
        environment, stamp = self.environment, self.stamp
        world, contract = environment.world, environment.contract
        joints = world.joint_state()
        self._write("/camera/image_raw", messages.image_cdr(stamp, CAMERA_FRAME, environment.values["image"]))
        self._write("/tool/pose", messages.pose_cdr(stamp, contract.frame, *world.tool_pose()))
        self._write(
            "/joint_states",
            messages.joint_state_cdr(stamp, joints.names, joints.positions, joints.velocities, joints.efforts),
        )
        things = environment.seen["/objects/state"]["position"]
        self._write("/objects/state", messages.joint_state_cdr(stamp, environment.object_names, things))

    def _acted(self, action: np.ndarray) -> None:
        if self.file is None:
            return
        environment, stamp = self.environment, self.stamp
        contract, arm, command = environment.contract, environment.guard.arm, environment.command
        self._write(ACTOR_TOPIC, messages.actor_cdr(stamp, self.actor))
        for topic, cdr in messages.action_cdrs(contract, stamp, action).items():
            self._write(topic, cdr)
        assert command is not None
        trajectory = messages.trajectory_cdr(stamp, arm.joint_names, command.positions, contract.period)
        self._write("/arm_controller/joint_trajectory", trajectory)
        fingers = [command.gripper * environment.opening] * 2
        hand = messages.trajectory_cdr(stamp, arm.finger_joint_names, fingers, contract.period)
        self._write("/gripper_controller/joint_trajectory", hand)

    def _judged(self, judgement: list[float]) -> None:
        if self.file is not None:
            self._write(
                self.environment.contract.reward.topic, messages.joint_state_cdr(self.stamp, JUDGEMENT, judgement)
            )


def write_bag(
    environment: BinEnvironment,
    out: Path,
    name: str,
    seeds: Sequence[int],
    first: int,
    choose: Callable[[int], tuple[str, Choose]],
) -> list[Grasp]:
    """One bag of an episode for each seed.

    Args:
        environment: where they happen.
        out: the directory of bags.
        name: of the bag.
        seeds: of the episodes.
        first: number of the first episode.
        choose: who acts in the episode of a seed, one of `contract.ACTORS`, and how.
    """
    contract = environment.contract
    file = EpisodeFile(
        out, name, contract.recorded_topics(), {"contract": contract.to_yaml(), "rl_ros": rl_ros.__version__}
    )
    try:
        episodes = GraspEpisodes(environment, file)
        grasps = []
        for index, seed in enumerate(seeds):
            episodes.actor, act = choose(seed)
            grasps.append(episodes.run(seed, first + index, act))
        file.close({"outcome": "success" if all(grasp.success for grasp in grasps) else "mixed"})
    except BaseException:
        file.discard()
        raise
    return grasps


def evaluate_grasps(
    bundle: Bundle,
    objects: ObjectSet,
    episodes: int,
    seed: int,
    progress: Callable[[int, float], None] = lambda done, success: None,
) -> dict[str, Any]:
    """Run a policy bundle as the robot would, one episode for each seed from `seed` on.

    Returns:
        `episodes`, `success` (as the robot's own check says), `success_95`, `lifted` (as the simulator knows),
        `detector_agreement` of the two, `anything` (the share of grasps that lifted something, be it what the picture
        shows or not), `ticks` that a grasp took, and `hz` at which the policy can answer.
    """
    environment = BinEnvironment(objects, encoder=bundle.image_encoder() if bundle.contract.goal.image else None)
    policy, seconds = bundle.policy(), []

    def choose(values: Values, goal: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        action = policy.act(values, goal)
        seconds.append(time.perf_counter() - began)
        return action

    runner, found = GraspEpisodes(environment), []
    try:
        for number in range(episodes):
            found.append(runner.run(seed + number, number, choose))
            progress(number + 1, float(np.mean([grasp.success for grasp in found])))
    finally:
        environment.close()
    return {
        **success_figures(sum(grasp.success for grasp in found), episodes),
        "lifted": round(float(np.mean([grasp.lifted for grasp in found])), 4),
        "detector_agreement": round(float(np.mean([grasp.success == grasp.lifted for grasp in found])), 4),
        "anything": round(float(np.mean([grasp.anything for grasp in found])), 4),
        "ticks": round(float(np.mean([grasp.ticks for grasp in found])), 2),
        "hz": round(1.0 / float(np.median(seconds)), 1),
    }


def collect_grasps(
    out: Path,
    grasps: int,
    seed: int,
    *,
    noise: float = 1.0,
    policy: str = "",
    exploration: float = 0.0,
    objects: ObjectSet = "train",
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, successes: None,
) -> dict[str, float]:
    """Grasps of the scripted explorer, or of a policy, into bags under `out`, numbered after those that are there.

    An episode follows from its seed alone, however many workers there are.

    Args:
        out: made if it is not there.
        grasps: how many.
        seed: of the first.
        noise: scale of the explorer's errors.
        policy: directory of a bundle that grasps instead of the explorer.
        exploration: its errors, as in `ExploringActor`.
        objects: which are in the tray.
        workers: processes; 0 does it in this one.
        progress: called with the grasps so far and the successes among them.

    Returns:
        `grasps`, `success`, `detector_agreement` and `grasps_per_second`.

    Raises:
        UserError: a worker was killed.
    """
    out.mkdir(parents=True, exist_ok=True)
    there = (NAME.match(path.name) for path in out.glob("grasps_*"))
    first = max((int(name[1]) + int(name[2]) for name in there if name), default=0)
    blocks = [(first + start, min(EPISODES_A_BAG, grasps - start)) for start in range(0, grasps, EPISODES_A_BAG)]
    began, done, successes, agreed = time.monotonic(), 0, 0, 0
    jobs = [_Job(out, start, count, seed, noise, policy, exploration, objects) for start, count in blocks]

    def heard(found: list[Grasp]) -> None:
        nonlocal done, successes, agreed
        done += len(found)
        successes += sum(grasp.success for grasp in found)
        agreed += sum(grasp.success == grasp.lifted for grasp in found)
        progress(done, successes)

    if workers == 0:
        for job in jobs:
            heard(_run(job))
    else:
        _in_workers(jobs, workers, heard)
    return {
        "grasps": done,
        "success": round(successes / done, 4),
        "detector_agreement": round(agreed / done, 4),
        "grasps_per_second": round(done / (time.monotonic() - began), 2),
    }


@dataclass(frozen=True)
class _Job:
    """One bag."""

    out: Path
    start: int
    count: int
    seed: int
    noise: float
    policy: str
    exploration: float
    objects: ObjectSet


_ENVIRONMENTS: dict[ObjectSet, BinEnvironment] = {}
"""Of this process."""


def scripted(environment: BinEnvironment, noise: float, seed: int) -> Choose:
    """The scripted explorer in the episode of that seed."""
    expert = environment.judge.expert(noise)
    expert.reset(seed)
    return expert.act


def exploring(bundle: str, contract: Contract, share: float) -> Callable[[int], Choose]:
    """The policy of a bundle with errors, as in `ExploringActor`: who chooses in the episode of a seed."""
    actor = ExploringActor(BundleActor(bundle, contract), contract, share)

    def begin(seed: int) -> Choose:
        actor.reset(seed)
        return lambda values, goal: actor.act(Tick(0, {**values, "desired_goal": goal}))

    return begin


def _run(job: _Job) -> list[Grasp]:
    environment = _ENVIRONMENTS.get(job.objects)
    if environment is None:
        environment = _ENVIRONMENTS[job.objects] = BinEnvironment(job.objects)

    by_policy = exploring(job.policy, environment.contract, job.exploration) if job.policy else None

    def choose(seed: int) -> tuple[str, Choose]:
        return ("policy", by_policy(seed)) if by_policy else ("scripted", scripted(environment, job.noise, seed))

    seeds = range(job.seed + job.start, job.seed + job.start + job.count)
    return write_bag(environment, job.out, f"grasps_{job.start:07d}_{job.count}", seeds, job.start, choose)


def _in_workers(jobs: Sequence[_Job], workers: int, heard: Callable[[list[Grasp]], None]) -> None:
    """Each bag in one of so many processes; what comes of it is heard as soon as it is whole.

    Raises:
        UserError: one of them was killed.
    """
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("fork"), _quiet) as pool:
        try:
            for done in as_completed([pool.submit(_run, job) for job in jobs]):
                heard(done.result())
        except BrokenProcessPool as error:
            raise UserError(
                f"{jobs[0].out}: a process that recorded grasps was killed, most likely as memory ran out; the bags "
                "that are whole count, go on with fewer --workers."
            ) from error
        except BaseException:
            # Nobody waits for the bags that are still to come.
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


def _quiet() -> None:
    # An interrupt of the terminal reaches every process; the first one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which the first one ends the others
    os.environ["OMP_NUM_THREADS"] = "1"
