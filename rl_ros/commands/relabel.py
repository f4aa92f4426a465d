"""`rl_ros relabel`: rewards and successes of another task, recomputed from recordings."""

import argparse
from pathlib import Path

import numpy as np

from rl_ros.commands.console import show
from rl_ros.commands.train import add_reading, load_dataset
from rl_ros.episodes.relabel import Judge, judge_again, write_layer
from rl_ros.errors import UserError
from rl_ros.tasks.task import Task, make_task


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "relabel",
        help="recompute rewards offline",
        description="Recompute rewards and successes with a task, into a layer that `rl_ros train --task` learns from; "
        "recordings stay as they are.",
    )
    parser.add_argument("bags", type=Path, metavar="BAGS", help="a directory of bags, or one bag")
    parser.add_argument("--task", required=True, metavar="NAME", help="the task that judges")
    add_reading(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    task = make_task(options.task)
    if task.routine() is not None:
        raise UserError(f"--task {task.name}: it judges an episode by all that was seen in it, not tick by tick.")
    _, dataset = load_dataset(options)
    layer = judge_again(dataset, judge_of(task))
    directory = write_layer(dataset, task.name, layer)
    columns = dataset.columns
    show(
        {
            "transitions": int(columns.has_transition.sum()),
            "return_as_recorded": f"{columns.reward.sum():g}",
            "return_by_the_task": f"{layer.reward.sum():g}",
            "successes_as_recorded": int(columns.terminated.sum()),
            "successes_by_the_task": layer.successes,
            "rewards_that_changed": int((columns.reward != layer.reward).sum()),
            "layer": directory,
        },
        f"{options.bags} judged by {task.name}",
    )
    return 0


def judge_of(task: Task) -> Judge:
    """A task's judgement of many ticks; each is judged as the reward node judges it."""

    def judge(values: dict[str, np.ndarray], desired_goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        judgements = [
            task.judge({name: column[row] for name, column in values.items()}, desired_goal[row])
            for row in range(len(desired_goal))
        ]
        return (
            np.array([judgement.reward for judgement in judgements], np.float32),
            np.array([judgement.success for judgement in judgements], bool),
        )

    return judge
