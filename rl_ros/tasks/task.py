"""What a task is: goals, judgement, and a scripted expert."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from rl_ros.errors import UserError

Values = Mapping[str, np.ndarray]
"""Observation and auxiliary values of one tick, by contract key."""


@dataclass(frozen=True)
class Judgement:
    """What arriving at one tick is worth."""

    reward: float
    success: bool
    over: bool = False
    """Whether the episode ends with this, whatever came of it."""


class Expert(Protocol):
    """A scripted behaviour policy. It may look at auxiliary values, which no learned policy sees."""

    def reset(self, seed: int) -> None:
        """Begin an episode; everything random in it follows from the seed."""

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """The action, float32 (A,), in the units of the contract."""


class Routine(Protocol):
    """Stands between whoever chooses actions and the arm, for a part of the episode that is the same for all."""

    def begin(self) -> None:
        """An episode begins."""

    def act(self, values: Values, choose: Callable[[], np.ndarray]) -> np.ndarray:
        """The action, float32 (A,), in the units of the contract; `choose` asks for that of the policy."""


class Task(Protocol):
    """A task. Its data are those of the contract that names it."""

    name: ClassVar[str]
    ends_with_success: ClassVar[bool]
    """Whether success terminates an episode; else it goes on to be truncated, and success can be lost again."""

    expert_needs: ClassVar[tuple[str, ...]]
    """Auxiliary keys that its scripted expert looks at."""

    def begin(self) -> None:
        """An episode begins; for tasks whose judgement depends on what was seen before in it."""

    def routine(self) -> Routine | None:
        """What stands between a policy and the arm; None where nothing does."""

    def goal_pose(self, seed: int) -> np.ndarray:
        """The desired goal of the episode with this seed, as a position, float64 (3,) m."""

    def goal_vector(self, position: np.ndarray) -> np.ndarray:
        """A goal given as a position (3,) as the contract's desired goal, float32 (G,)."""

    def judge(self, values: Values, desired_goal: np.ndarray) -> Judgement:
        """Reward and success of being where the values say."""

    def expert(self, noise: float) -> Expert:
        """The scripted expert; `noise` scales its errors, 0 is as good as it gets."""


def make_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none.
    """
    from rl_ros.tasks.grasp import Grasp, GraspImage
    from rl_ros.tasks.lift import Lift
    from rl_ros.tasks.pick_and_place import PickAndPlace
    from rl_ros.tasks.push import Push
    from rl_ros.tasks.reach import Reach
    from rl_ros.tasks.slide import Slide
    from rl_ros.tasks.visual import VisualDoor, VisualPush, VisualPushTwo, VisualReach

    known: tuple[type[Task], ...] = (
        Lift,
        Grasp,
        GraspImage,
        Reach,
        Push,
        Slide,
        PickAndPlace,
        VisualReach,
        VisualPush,
        VisualPushTwo,
        VisualDoor,
    )
    tasks = {task.name: task for task in known}
    if name not in tasks:
        raise UserError(f"no task is named '{name}'; there are: {', '.join(sorted(tasks))}.")
    return tasks[name]()
