"""CUDA graphs: a whole step (teacher, student, losses, optimisers, averages, banks) recorded once and replayed.

Small nets at small batches are bound by the launches of their kernels; a graph launches all of a step at once.

Why steps are compared (trace.py) in place of being recorded anew in each epoch, on the word of a test that a method's
steps are alike: methods of the user's own (plugins) are run by none of our tests, and a graph of a step that was not
like the others gives wrong numbers without a word. The comparison costs two eager steps when a shape is first seen and
one an epoch after that; recording anew in each epoch costs two eager steps and a capture every time, of the 23
steps that the digits have in batches of 64 for one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from distill.batch import Batch
from distill.engine.beside import side_stream
from distill.engine.static_buffers import StaticBuffers, layout_of, tensors
from distill.engine.trace import traced
from distill.files import first_line
from distill.method import TeacherForward
from distill.models import FeatureNet, Outputs

log = logging.getLogger(__name__)
Measures = tuple[tuple[str, ...], Tensor]  # names of a step's losses, and their values on the device
Work = Callable[[Batch], Measures]
LARGE = 64  # pixels of an image above which launches are taken not to be what a step waits for
_PATIENCE = 6  # steps in a row that differ before a method is left to run eagerly


class Graph(Protocol):
    """Work of the device that is recorded without being done, and done as often as is wanted."""

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record `work` and return what it returns: tensors that each replay fills anew."""

    def replay(self) -> None:
        """Do what was recorded, on the current stream."""


class CudaGraph:
    """A torch.cuda.CUDAGraph with memory of its own. Other threads, such as loaders', may go on using the GPU."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.graph = stream, torch.cuda.CUDAGraph()

    def capture(self, work: Callable[[], Any]) -> Any:
        with (
            torch.cuda.device(self.stream.device),  # else a capture opens the first GPU as well, to wait for it
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            return work()

    def replay(self) -> None:
        self.graph.replay()


@dataclass
class Recorded:
    """A step as a graph."""

    graph: Graph
    names: tuple[str, ...]
    values: Tensor
    generation: int


@dataclass
class _CaptureState:
    """What is known of the steps of one shape."""

    steps: int = 0
    operations: Any = None  # of the last step that was traced
    generation: int = 0  # in which it was
    different: int = 0  # steps in a row whose operations were not those of the one before
    recorded: Recorded | None = None


class GraphedStep:
    """Runs `work` on batches: eagerly until two steps are alike, then as a graph; one graph for each shape of batch.

    The first step of an epoch, whose batch leads, runs eagerly and is compared with what was recorded. Where they
    differ, as when the weight of a loss warms up, a new generation begins and all shapes are recorded anew. Work that
    cannot be repeated runs eagerly from then on, and one line says why. Steps run on a stream of their own, so that
    those of several runs overlap; `join` waits for them. Steps that draw random numbers share the device's generator
    and take turns.

    roots: the objects whose Python state a step must leave alone, by name. buffers: where batches lie that other runs
    read too; others are copied to a place of this run's own. why: what forbids it from the start.
    """

    def __init__(
        self,
        work: Work,
        roots: Mapping[str, Any],
        device: torch.device,
        make: Callable[[Any], Graph] = CudaGraph,
        buffers: StaticBuffers | None = None,
        *,
        why: str | None = None,
    ) -> None:
        self.work, self.roots, self.device = work, roots, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.make = make
        self.why: str | None = None  # steps run eagerly
        self.replayed = 0
        self._shared, self._own = buffers or StaticBuffers(), StaticBuffers()
        self._shared.readers.add(self)
        self._seen = dict[Any, _CaptureState]()
        self._generation, self._agreed, self._draws = 0, False, False
        if why:
            self._give_up(why)

    def begin_epoch(self) -> None:
        """Compare the next step with what was recorded."""
        self._agreed = False

    def __call__(self, batch: Batch, prepare: Callable[[], None]) -> Measures:
        """Do one step after `prepare`, which writes what is new, such as rates; names and values of its losses."""
        if self.why:
            self.join()
            prepare()
            return self.work(batch)
        with self._on_stream(batch):
            prepare()
            batch = (self._shared if batch in self._shared else self._own)(batch)
            seen = self._seen.setdefault(layout_of(batch), _CaptureState())
            recorded = seen.recorded
            if recorded is None or recorded.generation != self._generation or not self._agreed:
                return self._watch(batch, seen)
            if not self._draws:
                return self._replay(recorded)
        self.join()
        return self._replay(recorded)

    def join(self) -> None:
        """Let the device's current stream wait for the steps."""
        if self.stream:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _on_stream(self, batch: Batch) -> AbstractContextManager[Any]:
        if not self.stream:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        for tensor in tensors(batch).values():
            tensor.record_stream(self.stream)
        return torch.cuda.stream(self.stream)

    def _replay(self, recorded: Recorded) -> Measures:
        recorded.graph.replay()
        self.replayed += 1
        return recorded.names, recorded.values.clone()

    def _watch(self, batch: Batch, seen: _CaptureState) -> Measures:
        """Do a step eagerly, compare it with the one before, and record it when they are alike."""
        seen.steps += 1
        if seen.steps == 1:  # makes what is made at first use, momentum for one
            return self.work(batch)
        drawn = self._generator_state()
        measures, trace, changed = traced(lambda: self.work(batch), self.roots, self.device)
        self._draws = self._draws or drawn != self._generator_state()
        same = trace.operations == seen.operations
        if not same and not self._agreed and seen.recorded and seen.recorded.generation == self._generation:
            self._generation += 1
        elif not same and seen.generation == self._generation:
            seen.different += 1
        seen.operations, seen.generation = trace.operations, self._generation
        if trace.waits:
            self._give_up(trace.waits[0])
        elif changed:
            self._give_up(f"each step changes {changed[0]}")
        elif seen.different > _PATIENCE:
            self._give_up("no two of its steps are the same")
        elif same:
            seen.different = 0
            self._record(batch, seen)
        return measures

    def _record(self, batch: Batch, seen: _CaptureState) -> None:
        """Record a step, unless it is; from now on this epoch's steps are known to be what was recorded."""
        if seen.recorded is None or seen.recorded.generation != self._generation:
            graph = self.make(self.stream)
            try:
                names, values = graph.capture(lambda: self.work(batch))
            except Exception as error:
                self._give_up(first_line(error))
                return
            if not any(other.recorded for other in self._seen.values()):
                log.info("steps are replayed as a CUDA graph")
            seen.recorded = Recorded(graph, names, values, self._generation)
        self._agreed = True

    def _generator_state(self) -> Any:
        return torch.cuda.get_rng_state(self.device).tolist() if self.stream else None

    def _give_up(self, why: str) -> None:
        self.why = why
        self._seen.clear()
        log.info("steps run without a CUDA graph: %s", why)


class GraphedTeacher:
    """Runs teachers by a graph each, for batches that lie in static buffers; on others as before.

    A frozen teacher does the same at every step, so its second forward of a shape is recorded.
    """

    def __init__(
        self, forward: TeacherForward, buffers: StaticBuffers, make: Callable[[Any], Graph] = CudaGraph
    ) -> None:
        self.forward, self.buffers, self.make = forward, buffers, make
        self._shapes: set[Any] = set()
        self._recorded: dict[Any, tuple[Graph, Outputs]] = {}

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        key, static = (id(teacher), layout_of(batch)), batch in self.buffers
        if not static or key not in self._shapes:
            self._shapes |= {key} if static else set()
            return self.forward(teacher, batch)
        if key not in self._recorded:
            graph = self.make(side_stream(batch.inputs.device))  # torch's own for this is the first GPU's
            self._recorded[key] = graph, graph.capture(lambda: self.forward(teacher, batch))
        graph, outputs = self._recorded[key]
        graph.replay()
        return outputs


def without_graphs(
    setting: Any, device: torch.device, precision: str, world: int, size: int, cached: bool = False
) -> bool:
    """Whether a run is to have no graphs, which is said where there is a GPU; `setting` is auto, true or false.

    size: of images, in pixels. Large ones are taken to keep a GPU busy; graphs hold a step's memory for good. cached:
    whether what teachers say is looked up in files.
    Raises ValueError where graphs are asked for and there is no GPU.
    """
    setting = str(setting).lower()
    if device.type != "cuda":
        if setting == "true":
            raise ValueError(f"cuda_graphs=true needs a GPU, and this run is on {device.type}: use cuda_graphs=auto.")
        return True
    why = {
        "cuda_graphs=false": setting == "false",
        "fp16's scaling of gradients waits for the device at every step; precision=bf16 does not": precision == "fp16",
        "several processes share each step": world > 1,
        "every look-up in the cache of teachers waits for the device; teacher.cache=off does not": cached,
        f"images of {size} pixels are taken to keep a GPU busy (cuda_graphs=true)": size > LARGE and setting != "true",
    }
    for reason in (reason for reason, holds in why.items() if holds):
        log.info("steps run without a CUDA graph: %s", reason)
        return True
    return False
