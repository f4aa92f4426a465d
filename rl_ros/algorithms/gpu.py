"""Learning on a GPU: updates are recorded once and then launched whole.

An update of small networks is a hundred kernels of a few microseconds each. Launching them one by one from Python takes
many times as long as they do; a CUDA graph launches them all at once.
"""

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rl_ros.errors import UserError

EAGER = 3
"""Steps of each kind that are launched one kernel at a time, before one is recorded: they make what lasts, such as the
optimiser's moments."""


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    metrics: dict[str, Tensor]


class CapturedSteps:
    """A step of learning as CUDA graphs, one for each phase and size of batch.

    Args:
        step: from a batch on the GPU to metrics on it. It may neither wait for the GPU nor look at numbers there.
        generator: whose random numbers it draws.
    """

    def __init__(self, step: Callable[[Any], dict[str, Tensor]], generator: torch.Generator) -> None:
        self._step, self._generator = step, generator
        self._stream = torch.cuda.Stream(generator.device)
        self.forget()

    def forget(self) -> None:
        """Record again: what the step reads or writes has moved."""
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, phase: Hashable, batch: Any) -> dict[str, Tensor]:
        """One step with a batch, a dataclass of tensors; its metrics are overwritten by the next step.

        Args:
            phase: steps that take different ways through the code have different ones.
        """
        tensors = list(tensors_of(batch))
        key = (phase, *(tensor.shape for tensor in tensors))
        recording = self._recordings.get(key)
        if recording is None and self._seen[key] < EAGER:
            self._seen[key] += 1
            return self._aside(batch)
        if recording is None:
            recording = self._recordings[key] = self._record(batch, tensors)
        torch._foreach_copy_(recording.inputs, tensors)
        recording.graph.replay()
        return recording.metrics

    def _aside(self, batch: Any) -> dict[str, Tensor]:
        """A step on the stream that recording will use."""
        main = torch.cuda.current_stream(self._generator.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            metrics = self._step(batch)
        main.wait_stream(self._stream)
        return metrics

    def _record(self, batch: Any, tensors: list[Tensor]) -> _Recording:
        """A step recorded, but not done; the tensors of this batch are its inputs from now on."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with _nothing_freed(), torch.cuda.graph(graph, stream=self._stream):
            metrics = self._step(batch)
        return _Recording(graph, tensors, metrics)


@contextmanager
def _nothing_freed() -> Iterator[None]:
    """No garbage is collected meanwhile: the graphs of an earlier learner may be in it, and freeing one of those breaks
    a recording off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Every tensor of a dataclass of tensors and dictionaries of them, always in the same order."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from value.values()


def require_device(name: str) -> None:
    """Refuse a device that torch cannot learn on here.

    Raises:
        UserError: it is neither the CPU nor a GPU that is there.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device is named '{name}'; there are: cpu, cuda, cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"learning runs on cpu or cuda, not on '{name}'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(
            f"device '{name}' is not there: torch {torch.__version__} sees {found} GPU{'' if found == 1 else 's'}. Use "
            "--device cpu, or install a build of torch for the GPU and its driver."
        )
