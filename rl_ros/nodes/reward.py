"""reward: judges each observation and says whether the episode is over."""

from pathlib import Path

import numpy as np

from rl_ros.episodes import messages
from rl_ros.episodes.assemble import Assembler, EpisodeGate, Tick
from rl_ros.episodes.trace import Trace
from rl_ros.nodes.base import Node
from rl_ros.tasks.task import make_task


class Reward(Node):
    """Publishes reward, success, terminated and truncated with the stamp of the observation they judge."""

    def __init__(self) -> None:
        super().__init__("reward")
        self.task = make_task(self.contract.task)
        keys = self.contract.observation | self.contract.auxiliary
        keys = keys | {"desired_goal": self.contract.goal.desired_goal}
        self.gate = EpisodeGate(Assembler(keys, self.contract.reference))
        self.first: int | None = None
        """Stamp of the running episode's first judged observation: its length is counted from there, since what was
        on its way while the nodes heard of the episode is lost on a busy machine."""
        self.goal: np.ndarray | None = None
        """Of the tick before, in the running episode."""
        self.episode_length = self.settings["episode_length"] or self.contract.episode_length
        self.trace = Trace(Path(self.settings["trace"]) / "reward.jsonl") if self.settings["trace"] else None
        for topic in self.gate.assembler.types:
            self.listen(topic, lambda cdr, topic=topic: self.judge(self.gate.push(topic, cdr)))  # type: ignore[misc]
        self.listen("episode/event", self.on_event)

    def judge(self, ticks: list[Tick]) -> None:
        """One judgement per valid tick."""
        for tick in ticks:
            if not tick.valid:
                continue
            # What was done was done for the goal of the tick before; the new one, if there is one, is for the next.
            goal, self.goal = self.goal, tick.values["desired_goal"]
            judgement = self.task.judge(tick.values, self.goal if goal is None else goal)
            self.first = tick.stamp if self.first is None else self.first
            steps = round((tick.stamp - self.first) / self.contract.period_ns)
            terminated = judgement.over or (judgement.success and self.task.ends_with_success)
            flags = {
                "reward": judgement.reward,
                "success": float(judgement.success),
                "terminated": float(terminated),
                "truncated": float(not terminated and steps >= self.episode_length),
            }
            cdr = messages.joint_state_cdr(tick.stamp, list(flags), list(flags.values()))
            self.send(self.contract.reward.topic, cdr)
            if self.trace:
                self.trace.note(tick.stamp, {name: np.array([flag], np.float32) for name, flag in flags.items()})

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.gate.prepare()
            self.get_ready(int(event.values["episode"]))
        elif event.name == "start":
            self.first = self.goal = None
            self.task.begin()
            self.judge(self.gate.begin(event.stamp))

    def close(self) -> None:
        """Write out the trace."""
        if self.trace:
            self.trace.close()
