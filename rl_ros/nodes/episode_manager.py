"""episode_manager: runs episodes - reset, goal, start, and end with an outcome."""

import json
from pathlib import Path

from rl_ros.episodes import messages
from rl_ros.episodes.lifecycle import End, EpisodeLifecycle, Failed, Finished, Prepare, Reset, Start, Step
from rl_ros.episodes.record import DISK
from rl_ros.nodes.base import Node, steady
from rl_ros.robots.sentry import STOPPED
from rl_ros.tasks.task import make_task


class EpisodeManager(Node):
    """Says what the lifecycle says, and tells it what was heard. Each episode leaves a line in `results`."""

    def __init__(self) -> None:
        super().__init__("episode_manager")
        self.task = make_task(self.contract.task)
        self.problems: dict[str, str] = {}
        """The last problem of each node, until it is ready or well again."""
        self.stopped = False
        """Whether the guard takes no actions until it is armed again."""
        settings = self.settings
        self.lifecycle = EpisodeLifecycle(
            settings["episodes"],
            settings["seed"],
            settings["first_episode"],
            ["policy", "reward", "goal_encoder", "arm_guard"]
            + (["recorder"] if settings["recorded"] else [])
            + (["trainer"] if settings["awaits_trainer"] else [])
            + (["operator"] if settings["awaits_operator"] else []),
            settings["recorded"],
            settings["patience"],
            settings["fault_after"],
        )
        self.listen(self.contract.reward.topic, self.on_judgement)
        self.listen("episode/acknowledge", self.on_acknowledge)
        self.listen("episode/reset_done", self.on_reset_done)
        self.listen("arm_guard/state", self.on_guard)
        self.listen("arm_controller/joint_trajectory", self.on_command)
        self.listen("arm_sim/control_latency", self.on_latency)
        self.listen("recorder/state", self.on_recorder)
        self.listen("diagnostics", self.on_diagnostics)
        self.steady_timer(0.25, self.on_time)
        self.act(self.lifecycle.begin(steady()))

    def act(self, steps: list[Step]) -> None:
        """Publish what the lifecycle decided."""
        for step in steps:
            match step:
                case Prepare(number, seed):
                    self.say("prepare", 0, number, seed)
                case Reset(number, seed):
                    self.send("episode/reset", messages.joint_state_cdr(0, ["episode", "seed"], [number, seed]))
                case Start(number, seed, stamp):
                    self.start(number, seed, stamp)
                case End():
                    self.say("end", step.stamp, step.number, step.seed, outcome=step.outcome)
                    self.note(
                        {
                            "episode": step.number,
                            "seed": step.seed,
                            "outcome": step.outcome,
                            "steps": step.steps,
                            "return": step.total_reward,
                            "simulated_seconds": step.simulated_seconds,
                            "running_seconds": step.running_seconds,
                            "wall_seconds": step.wall_seconds,
                        }
                    )
                case Finished():
                    self.exit_code = 0
                case Failed(sentence):
                    self.get_logger().error(sentence)
                    self.exit_code = 3

    def start(self, number: int, seed: int, stamp: int) -> None:
        """An episode begins, with a goal of its own unless the last one is to be kept.

        Where goals are images goal_encoder imagines one.
        """
        if self.settings["keep_goal"] and number > self.settings["first_episode"]:
            self.say("start", stamp, number, seed)
        elif self.contract.goal.image:
            self.say("start", stamp, number, seed, goal="imagined")
        else:
            goal = self.task.goal_pose(seed)
            self.send("goal/pose", messages.pose_cdr(stamp, self.contract.frame, goal))
            self.say("start", stamp, number, seed, goal=json.dumps(goal.tolist()))

    def say(self, event: str, stamp: int, number: int, seed: int, **values: str) -> None:
        """One episode event."""
        everything = {"episode": str(number), "seed": str(seed), **values}
        self.send("episode/event", messages.status_cdr(stamp, event, "", everything))

    def note(self, line: dict) -> None:
        """Append one JSON line to the results."""
        if self.settings["results"]:
            with Path(self.settings["results"]).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def on_judgement(self, cdr: bytes) -> None:
        """A reward arrived."""
        judgement = messages.decode("sensor_msgs/msg/JointState", cdr)
        flags = dict(zip(judgement.name, judgement.position.tolist(), strict=True))
        success, terminated, truncated = (bool(flags[name]) for name in ("success", "terminated", "truncated"))
        stamp = messages.stamp_of(cdr)
        self.act(self.lifecycle.judged(stamp, flags["reward"], success, terminated, truncated, steady()))

    def on_acknowledge(self, cdr: bytes) -> None:
        """A node is ready for an episode."""
        ready = messages.decode("sensor_msgs/msg/JointState", cdr)
        self.problems.pop(ready.name[0], None)
        self.act(self.lifecycle.acknowledged(ready.name[0], int(ready.position[0]), steady()))

    def on_reset_done(self, cdr: bytes) -> None:
        """The world is ready."""
        done = messages.decode("sensor_msgs/msg/JointState", cdr)
        self.act(self.lifecycle.reset_done(int(done.position[0]), messages.stamp_of(cdr), steady()))

    def on_command(self, cdr: bytes) -> None:
        """The guard answered an action."""
        self.act(self.lifecycle.guarded(messages.stamp_of(cdr), steady()))

    def on_guard(self, cdr: bytes) -> None:
        """The guard does something else than before."""
        state = messages.status_of(cdr)
        self.stopped = STOPPED in state.values
        if rejects := state.level == messages.ERROR:
            self.get_logger().warning(f"arm_guard: {state.name}: {state.text}")
        self.act(self.lifecycle.guard_changed(state.stamp, rejects, steady()))

    def on_latency(self, cdr: bytes) -> None:
        """Seconds from each observation to its command, of one episode."""
        latencies = messages.decode("sensor_msgs/msg/JointState", cdr).position
        self.note({"control_latency": [round(float(seconds), 6) for seconds in latencies]})

    def on_recorder(self, cdr: bytes) -> None:
        """A bag was closed."""
        state = messages.status_of(cdr)
        if state.name != "bag":  # a bag of an earlier run was recovered
            return
        if state.level == messages.ERROR:
            self.get_logger().error(f"recorder: episode {state.values['episode']}: {state.text}")
        self.act(self.lifecycle.bag_closed(int(state.values["episode"]), steady()))

    def on_diagnostics(self, cdr: bytes) -> None:
        """Remember each node's last problem, drivers' too: it explains why nothing happens."""
        try:
            problem = messages.status_of(cdr)
        except messages.MessageError:  # somebody's who has nothing to say
            return
        if problem.level == messages.ERROR:
            self.problems[problem.name] = problem.text
            if problem.name == "recorder" and DISK in problem.values:
                self.get_logger().error(f"recorder: {problem.text}")
                self.act(self.lifecycle.broken_off(steady()))
        else:
            self.problems.pop(problem.name, None)

    def on_time(self) -> None:
        """Give up on what takes too long."""
        hint = "; ".join(f"{node} says: {text}" for node, text in sorted(self.problems.items()))
        self.act(self.lifecycle.waited(steady(), hint, self.stopped))
