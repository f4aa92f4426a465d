"""Bags to training arrays, through the same assembler as the live nodes."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rl_ros.contract import Contract, difference
from rl_ros.episodes.assemble import Assembler, Tick
from rl_ros.episodes.bags import Bag, read_bag
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError


def read_episodes(
    bags: Sequence[Path], contract: Contract, progress: Callable[[], None] = lambda: None
) -> tuple[list[Episode], list[str]]:
    """The episodes in `bags`, and one sentence for each bag that could not be used.

    Args:
        bags: directories or files.
        contract: what to take from them.
        progress: called after each bag.
    """
    episodes, refused = [], []
    for path in bags:
        try:
            episodes.append(read_episode(read_bag(path), contract))
        except UserError as error:
            refused.append(str(error))
        progress()
    return episodes, refused


def read_episode(bag: Bag, contract: Contract) -> Episode:
    """One bag as one episode.

    A transition joins two consecutive valid ticks whose action and judgement are both there; anything
    less is cut out, and `problems` says what and why.

    Raises:
        UserError: the bag was recorded under another contract, or holds no tick.
    """
    recorded = bag.contract
    if recorded is not None and (found := difference(recorded, contract)):
        raise UserError(f"{bag.path}: recorded under another contract: {found}.")
    if not bag.messages:
        raise UserError(f"{bag.path}: holds no message.")
    observed = contract.observation | contract.auxiliary | {"desired_goal": contract.goal.desired_goal}
    ticks = _ticks(bag, Assembler(observed, contract.reference))
    if "end" in bag.outcome:  # in real time the camera goes on while the end is announced
        ticks = [tick for tick in ticks if tick.stamp <= int(bag.outcome["end"])]
    actions = {t.stamp: t for t in _ticks(bag, Assembler(contract.action, next(iter(contract.action))))}
    judgements = {t.stamp: t for t in _ticks(bag, Assembler(contract.reward_keys, "reward"))}

    problems = Counter(problem for tick in ticks for problem in tick.problems)
    ticks = [tick for tick in ticks if tick.valid]
    if not ticks:
        reasons = "; ".join(sorted(problems)) or f"no message on {contract.observation[contract.reference].topic}"
        raise UserError(f"{bag.path}: not one complete observation: {reasons}.")
    stamps = np.array([tick.stamp for tick in ticks], np.int64)
    count = len(ticks)
    action = np.zeros((count, len(contract.action_low)), np.float32)
    reward = np.zeros(count, np.float32)
    terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
    has_transition = np.zeros(count, bool)
    for row in range(count - 1):
        given, judged = actions.get(int(stamps[row])), judgements.get(int(stamps[row + 1]))
        gap = int(stamps[row + 1] - stamps[row])
        if gap > 1.5 * contract.period_ns:
            problems[f"ticks {gap * 1e-9:.2f} s apart"] += 1
        elif given is None or not given.valid:
            problems["no action"] += 1
        elif judged is None or not judged.valid:
            problems["no judgement"] += 1
        else:
            has_transition[row] = True
            action[row] = np.concatenate(list(given.values.values()))
            reward[row] = judged.values["reward"][0]
            terminated[row] = judged.values["terminated"][0] > 0
            truncated[row] = judged.values["truncated"][0] > 0
    if not (terminated | truncated).any() and count > 1:
        truncated[count - 2] = True  # stopped from outside: by a person, a fault, or the end of the recording
    return Episode(
        stamps=stamps,
        observation=_columns(ticks, contract.observation),
        auxiliary=_columns(ticks, contract.auxiliary),
        desired_goal=np.stack([tick.values["desired_goal"] for tick in ticks]),
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        has_transition=has_transition,
        outcome=bag.outcome.get("outcome", "unfinished"),
        seed=int(bag.metadata.get("seed", "0")),
        source=str(bag.path),
        problems=tuple(f"{text} ({times} times)" for text, times in sorted(problems.items())),
    )


def _ticks(bag: Bag, assembler: Assembler) -> list[Tick]:
    ticks = []
    for message in bag.messages:
        if assembler.types.get(message.topic) == message.type:
            ticks += assembler.push(message.topic, message.cdr)
    return ticks + assembler.finish()


def _columns(ticks: Sequence[Tick], keys: dict) -> dict[str, np.ndarray]:
    return {name: np.stack([tick.values[name] for tick in ticks]) for name in keys}
