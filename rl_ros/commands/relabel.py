"""`rl_ros relabel`: rewards and successes of another task, recomputed from recordings."""

import argparse
from pathlib import Path

import numpy as np

from rl_ros.commands.console import show
from rl_ros.commands.train import add_reading, load_dataset
from rl_ros.contract import Contract
from rl_ros.episodes.cache import Dataset
from rl_ros.episodes.ingest import NO_GOAL
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
    contract, dataset = load_dataset(options)
    require_goals(task, contract, dataset)
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


def require_goals(task: Task, contract: Contract, dataset: Dataset) -> None:
    """Refuse recordings whose goals are not of the kind that a task judges by.

    Raises:
        UserError: they are of another kind, or there are none.
    """

    def goals(of: Contract) -> str:
        return "latents of pictures" if of.goal.image else f"of shape {list(of.goal.desired_goal.shape)}"

    if (judged := goals(Contract.load(task.name))) != (recorded := goals(contract)):
        raise UserError(
            f"--task {task.name}: it judges by goals that are {judged}, and those of contract {contract.name} are "
            f"{recorded}; name a task with such goals."
        )
    for episode in dataset.episodes:
        if any(problem.startswith(NO_GOAL) for problem in episode.problems):
            raise UserError(
                f"{episode.source}: no goal was recorded, so --task {task.name} has nothing to judge by; leave it out."
            )


def judge_of(task: Task) -> Judge:
    """A task's judgement of many ticks; each is judged as the reward node judges it.

    The judge raises a UserError where the recordings lack a key that the task judges by.
    """

    def judge(values: dict[str, np.ndarray], desired_goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            judgements = [
                task.judge({name: column[row] for name, column in values.items()}, desired_goal[row])
                for row in range(len(desired_goal))
            ]
        except KeyError as error:
            raise UserError(
                f"--task {task.name}: it judges by {error.args[0]}, and these recordings have only {', '.join(values)}."
            ) from error
        return (
            np.array([judgement.reward for judgement in judgements], np.float32),
            np.array([judgement.success for judgement in judgements], bool),
        )

    return judge
