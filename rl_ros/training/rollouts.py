"""Many environments stepped together, in this process or in others, and the episodes that come of it.

The policy is always asked here, with the observations of all environments at once: which process an environment is in
changes nothing. Observations and actions lie in shared memory without a name, so that nothing is left behind however a
run ends.
"""

import mmap
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np

from rl_ros.contract import Contract, Key
from rl_ros.episodes.memory import Episode
from rl_ros.errors import UserError
from rl_ros.tasks.env import ContractEnvironment
from rl_ros.tasks.task import Expert

Act = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""Actions float32 (n, A) in the contract's units, for n observations by key and n goals (n, G).

Both are copies. The n episodes at hand are in the order in which they began, and fewer towards the end of `collect`."""
Make = Callable[[], ContractEnvironment]
"""Makes one environment, such as `partial(make, "rl_ros/Push-v0")`."""

IDLE, STEP = -2, -1
"""Orders to an environment; a number from 0 on is the seed to reset it with."""
ALIGNED = 64
"""Bytes that each array's beginning is a multiple of."""


@dataclass(frozen=True)
class _Layout:
    """The arrays that all processes share, one entry of each for each environment."""

    count: int
    arrays: dict[str, tuple[tuple[int, ...], str]]
    """Shape of an entry, and dtype."""

    @classmethod
    def of(cls, contract: Contract, count: int) -> "_Layout":
        def entry(key: Key) -> tuple[tuple[int, ...], str]:
            return key.shape, key.dtype

        keys = contract.observation | contract.auxiliary
        return cls(
            count,
            {
                **{f"values/{name}": entry(key) for name, key in keys.items()},
                "desired_goal": entry(contract.goal.desired_goal),
                "action": (contract.action_low.shape, "float32"),
                "reward": ((), "float32"),
                "terminated": ((), "bool"),
                "truncated": ((), "bool"),
                "success": ((), "bool"),
                "order": ((), "int64"),
            },
        )

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        return sum(self._bytes(*entry) for entry in self.arrays.values())

    def over(self, memory: mmap.mmap | bytearray) -> dict[str, np.ndarray]:
        """The arrays in that memory."""
        found, start = {}, 0
        for name, (shape, dtype) in self.arrays.items():
            found[name] = np.ndarray((self.count, *shape), dtype, memory, start)
            start += self._bytes(shape, dtype)
        return found

    def _bytes(self, shape: tuple[int, ...], dtype: str) -> int:
        size = self.count * int(np.prod(shape)) * np.dtype(dtype).itemsize
        return -(-size // ALIGNED) * ALIGNED


def _carry_out(environment: ContractEnvironment, arrays: Mapping[str, np.ndarray], slot: int) -> None:
    """What one environment is ordered to do; what it then shows goes into the arrays."""
    order = int(arrays["order"][slot])
    if order == IDLE:
        return
    if order == STEP:
        outcome = environment.step(arrays["action"][slot].copy())
        for name, part in zip(("reward", "terminated", "truncated", "success"), outcome, strict=True):
            arrays[name][slot] = part
    else:
        environment.reset(order)
    for name, value in environment.values.items():
        arrays[f"values/{name}"][slot] = value
    arrays["desired_goal"][slot] = environment.desired_goal


def _work(
    make: Make, arrays: Mapping[str, np.ndarray], slots: range, pipe: Connection, inherited: Sequence[Connection]
) -> None:
    """A worker: carries out orders until nobody is there to give any."""
    # An interrupt of the terminal reaches every process; the first one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()  # else the end of the first process would go unnoticed
    try:
        environments = {slot: make() for slot in slots}
        pipe.send_bytes(b"")
        while True:
            pipe.recv_bytes()
            for slot, environment in environments.items():
                _carry_out(environment, arrays, slot)
            pipe.send_bytes(b"")
    except (EOFError, ConnectionError):
        pass
    except Exception:  # noqa: BLE001 - whoever gives the orders says it
        pipe.send_bytes(traceback.format_exc().encode())


class Rollouts:
    """`count` environments, stepped together.

    Args:
        make: makes one of them.
        count: how many.
        workers: processes that step them; with 0 this one does. The same seeds and actions give the same episodes
            whatever it is, so it is no part of what an experiment must record.

    Raises:
        UserError: numbers that make no sense, or an environment that cannot be made.
    """

    def __init__(self, make: Make, count: int = 8, workers: int = 0) -> None:
        if count < 1 or not 0 <= workers <= count:
            raise UserError(
                f"rollouts: expected 1 or more environments and 0 to {count} workers, got {count}, {workers}."
            )
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        # One of them is always here: for the contract, and for rewards of hindsight.
        self.environment = make()
        """One environment, to ask for its contract and its rewards."""
        self.contract = self.environment.contract
        self.count = count
        layout = _Layout.of(self.contract, count)
        try:
            if workers:
                self._arrays = layout.over(mmap.mmap(-1, layout.size))
                self._start(make, workers)
            else:
                self._arrays = layout.over(bytearray(layout.size))
                self._environments = [self.environment, *(make() for _ in range(count - 1))]
        except BaseException:
            self.close()
            raise
        length = self.contract.episode_length + 1
        self._episodes = {
            name: np.zeros((count, length, *shape), dtype)
            for name, (shape, dtype) in layout.arrays.items()
            if name != "order"
        }
        """What the running episodes have seen so far, (count, ticks, ...)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every worker and environment; a second call does nothing."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()
        for environment in {id(e): e for e in [self.environment, *getattr(self, "_environments", [])]}.values():
            environment.close()
        self._pipes, self._processes = [], []

    def collect(self, act: Act, seeds: Sequence[int]) -> list[Episode]:
        """One episode for each seed, in their order.

        An environment that has ended one begins the next seed's at once. An episode follows from its seed and the
        actions alone. Every episode is over on return: who knows which seeds come next can go on from there.

        Raises:
            UserError: a worker has ended or an environment has failed. The rollouts are of no use from then on.
        """
        return self._collect(lambda values, goal, _: act(values, goal), seeds)

    def demonstrate(self, expert: Callable[[], Expert], seeds: Sequence[int]) -> list[Episode]:
        """As `collect`, with a scripted expert of its own for each episode, begun with the episode's seed.

        Raises:
            UserError: as `collect`.
        """
        experts: dict[int, Expert] = {}

        def answer(values: Mapping[str, np.ndarray], goal: np.ndarray, episodes: Sequence[int]) -> np.ndarray:
            actions = []
            for row, index in enumerate(episodes):
                if index not in experts:
                    experts[index] = expert()
                    experts[index].reset(int(seeds[index]))
                seen = {name: array[row] for name, array in values.items()}
                actions.append(experts[index].act(seen, goal[row]))
            return np.stack(actions)

        return self._collect(answer, seeds, privileged=True)

    def _collect(
        self,
        answer: Callable[[Mapping[str, np.ndarray], np.ndarray, Sequence[int]], np.ndarray],
        seeds: Sequence[int],
        privileged: bool = False,
    ) -> list[Episode]:
        arrays, history = self._arrays, self._episodes
        keys = [*self.contract.observation, *(self.contract.auxiliary if privileged else ())]
        finished: list[Episode | None] = [None] * len(seeds)
        running = np.full(self.count, -1)  # index of each environment's episode
        ticks = np.zeros(self.count, np.int64)
        following = 0
        arrays["order"][:] = IDLE
        while True:
            stepped = np.flatnonzero(running >= 0)
            for slot in np.flatnonzero(running < 0):
                if following < len(seeds):
                    running[slot], ticks[slot] = following, 0
                    arrays["order"][slot] = int(seeds[following])
                    following += 1
                else:
                    arrays["order"][slot] = IDLE
            alive = np.flatnonzero(running >= 0)
            if not len(alive):
                return [episode for episode in finished if episode is not None]
            self._exchange()
            ticks[stepped] += 1
            for name, held in history.items():
                if name.startswith("values/") or name == "desired_goal":
                    held[alive, ticks[alive]] = arrays[name][alive]
                else:
                    held[stepped, ticks[stepped] - 1] = arrays[name][stepped]
            for slot in stepped[arrays["terminated"][stepped] | arrays["truncated"][stepped]]:
                index = int(running[slot])
                finished[index] = self._episode(int(slot), int(ticks[slot]), int(seeds[index]))
                running[slot] = -1
            alive = alive[running[alive] >= 0]
            if len(alive):
                # In the order in which the episodes began, whichever environment they are in.
                alive = alive[np.argsort(running[alive])]
                values = {name: arrays[f"values/{name}"][alive] for name in keys}
                actions = answer(values, arrays["desired_goal"][alive], running[alive].tolist())
                arrays["action"][alive] = actions
                arrays["order"][alive] = STEP

    def _episode(self, slot: int, steps: int, seed: int) -> Episode:
        """What an environment has seen, cut out of the history."""
        contract = self.contract
        held = {name: array[slot, : steps + 1].copy() for name, array in self._episodes.items()}
        for name in ("action", "reward", "terminated", "truncated"):
            held[name][steps] = 0  # no transition begins at the last tick
        has_transition = np.ones(steps + 1, bool)
        has_transition[steps] = False
        # An end without success that no time limit brought about is a fall or the like.
        unsuccessful = "fault" if held["terminated"][steps - 1] else "timeout"
        return Episode(
            stamps=np.arange(steps + 1, dtype=np.int64) * contract.period_ns,
            observation={name: held[f"values/{name}"] for name in contract.observation},
            auxiliary={name: held[f"values/{name}"] for name in contract.auxiliary},
            desired_goal=held["desired_goal"],
            action=held["action"],
            reward=held["reward"],
            terminated=held["terminated"],
            truncated=held["truncated"],
            has_transition=has_transition,
            outcome="success" if held["success"][steps - 1] else unsuccessful,
            seed=seed,
            source=f"{contract.name}/{seed}",
        )

    def _start(self, make: Make, workers: int) -> None:
        """Start the workers. They are forks: the memory that they share needs no name."""
        context = multiprocessing.get_context("fork")
        for worker in range(workers):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            slots = range(worker, self.count, workers)
            process = context.Process(
                target=_work, args=(make, self._arrays, slots, theirs, tuple(self._pipes)), name=f"rollouts-{worker}"
            )
            process.start()
            theirs.close()
            self._processes.append(process)
        self._hear()

    def _exchange(self) -> None:
        """Have every order carried out."""
        if not self._pipes:
            for slot, environment in enumerate(self._environments):
                _carry_out(environment, self._arrays, slot)
            return
        try:
            for pipe in self._pipes:
                pipe.send_bytes(b"")
        except ConnectionError:
            pass  # whoever is gone is named below
        self._hear()

    def _hear(self) -> None:
        """Wait for every worker."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                failure = pipe.recv_bytes().decode()
            except (EOFError, ConnectionError):
                process.join()
                code = process.exitcode or 0
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                raise UserError(f"rollouts: worker {process.name} {how}; its episodes are lost.") from None
            if failure:
                raise UserError(f"rollouts: worker {process.name} failed:\n{failure}")
