"""Everything that the learner's next step depends on: copied in memory, written to files, and put back.

One rank's part of it is a folder `rank-0` with

    parameters.safetensors  trained parameters, by their names in the model
    optimizer.safetensors   tensors of the optimizer's state, `PARAMETER.NAME`
    random.safetensors      torch's random states, by device type
    learner.json            all numbers, and whose state it is

Nothing that is read can run: safetensors and JSON alone.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from gkd_dist.disk import flush, write_whole
from gkd_dist.errors import EngineError, ModelError
from gkd_dist.fault_points import fault_point
from gkd_dist.learners.identity import differences, identity_of, plain
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.schedule import go_on_from
from gkd_dist.weights.tensors import is_finite

logger = logging.getLogger(__name__)

_VERSION = 1
_NUMBERS = "learner.json"
_GROUPS = ("parameters", "optimizer", "random")
"""Of tensors, one file each."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class LearnerProgress:
    """How far the learner has come."""

    step: int
    """Its policy version."""
    nonfinite_in_a_row: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy that nothing changes any more, in main memory."""

    progress: LearnerProgress
    numbers: Mapping[str, Any]
    """As in learner.json."""
    tensors: Mapping[str, Tensors]
    """By group and name."""
    rank: int

    def write(self, folder: Path) -> None:
        """Write this rank's part into `folder`, flushed to disk.

        Raises:
            OSError: it could not be written.
        """
        own = folder / f"rank-{self.rank}"
        own.mkdir()
        for group, tensors in self.tensors.items():
            path = own / f"{group}.safetensors"
            try:
                save_file(dict(tensors), path)
            except SafetensorError as error:
                raise OSError(f"{path} cannot be written: {error}") from error
            flush(path)
            fault_point("checkpoint.between_files")
        write_whole(own / _NUMBERS, json.dumps(self.numbers, indent=1, sort_keys=True).encode())
        flush(folder)


class LearnerState:
    """The live state of one rank: its part of the parameters, the optimizer and the schedule over them.

    Args:
        student: as the optimizer was made from it.
        rank: of `world_size` ranks that hold the student together; each keeps and finds its own part.
    """

    def __init__(
        self,
        student: StudentModel,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        parameters = dict(student.named_parameters())
        self._trained = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
        self._frozen = {name: tensor for name, tensor in parameters.items() if not tensor.requires_grad}
        self._identity = identity_of(student, optimizer, world_size)
        self._frozen_digest: str | None = None
        self._optimizer = optimizer
        self._schedule = schedule
        self._rank = rank

    def check_finite(self, step: int) -> None:
        """Raise EngineError where a trained parameter of this rank is not finite after `step`: nobody may save it."""
        for name, tensor in self._trained.items():
            if not is_finite(_local(tensor)):
                raise EngineError(
                    f"parameter {name} is not finite after step {step}, so it is not saved; go on from the last "
                    "checkpoint with a lower learner.learning_rate"
                )

    def copy(self, progress: LearnerProgress) -> Snapshot:
        """A snapshot of now. Takes as much main memory as trained parameters and optimizer together.

        Raises:
            EngineError: a parameter is not finite: nothing could go on from there.
        """
        self.check_finite(progress.step)
        optimizer, scalars = self._optimizer_state()
        tensors = {
            "parameters": {name: _copied(tensor) for name, tensor in self._trained.items()},
            "optimizer": {name: _copied(tensor) for name, tensor in optimizer.items()},
            "random": self._random_states(),
        }
        numbers = {
            "version": _VERSION,
            "torch": torch.__version__,
            "step": progress.step,
            "nonfinite_in_a_row": progress.nonfinite_in_a_row,
            "schedule_steps": self._schedule.last_epoch,
            "optimizer_scalars": scalars,
            "whose": self._whose(),
            "tensors": {group: _table(group_tensors) for group, group_tensors in tensors.items()},
        }
        return Snapshot(progress, plain(numbers), tensors, self._rank)

    def load(self, folder: Path) -> LearnerProgress:
        """Put back what `Snapshot.write` has written.

        Raises:
            ModelError: it cannot be read, or is of another student, optimizer or number of ranks; nothing has changed.
        """
        own = folder / f"rank-{self._rank}"
        numbers = self._read_numbers(own if own.is_dir() else folder / "rank-0")
        tensors = {group: _read_tensors(own / f"{group}.safetensors", numbers["tensors"][group]) for group in _GROUPS}
        state = self._merged_state(tensors["optimizer"], numbers["optimizer_scalars"])
        with torch.no_grad():
            for name, tensor in self._trained.items():
                _local(tensor).copy_(tensors["parameters"][name])
        self._optimizer.state.clear()
        for name, values in state.items():
            parameter = self._trained[name]
            self._optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in values.items()}
        go_on_from(self._schedule, self._optimizer, numbers["schedule_steps"])
        self._set_random_states(tensors["random"])
        return LearnerProgress(numbers["step"], numbers["nonfinite_in_a_row"])

    def _whose(self) -> dict[str, Any]:
        """Computed once: frozen weights stay what they are."""
        if self._frozen_digest is None:
            self._frozen_digest = _digest(self._frozen)
        return self._identity | {"frozen parameters (checksum)": self._frozen_digest}

    def _optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, int | float]]]:
        """Tensors by `PARAMETER.NAME`, and plain numbers by parameter and name."""
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, dict[str, int | float]] = {}
        for name, parameter in self._trained.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value
                else:
                    scalars.setdefault(name, {})[key] = value
        return tensors, scalars

    def _merged_state(self, tensors: Tensors, scalars: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """By parameter and name, as `_optimizer_state` found it."""
        state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in scalars.items()}
        for path, tensor in tensors.items():
            name, _, key = path.rpartition(".")
            state.setdefault(name, {})[key] = tensor
        strange = sorted(state.keys() - self._trained.keys())
        if strange:
            raise ModelError(f"the optimizer's state is damaged: it has parameters that are not trained, {strange[:3]}")
        return state

    def _read_numbers(self, folder: Path) -> dict[str, Any]:
        path = folder / _NUMBERS
        try:
            numbers = json.loads(path.read_bytes())
            version, whose, made_with = numbers["version"], dict(numbers["whose"]), numbers["torch"]
            for name in ("step", "nonfinite_in_a_row", "schedule_steps"):
                if type(numbers[name]) is not int or numbers[name] < 0:
                    raise ValueError(f"{name} must be an integer from 0 on")
            for name in ("optimizer_scalars", "tensors"):
                if any(type(value) is not dict for value in (numbers[name], *numbers[name].values())):
                    raise ValueError(f"{name} must be a map of maps")
            if numbers["tensors"].keys() != set(_GROUPS):
                raise ValueError(f"tensors must be those of {_GROUPS}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} does not hold the state of a learner: {error!r}") from error
        if version != _VERSION:
            raise ModelError(f"{path} has version {version!r:.20}, this package reads {_VERSION}")
        found = differences(whose, plain(self._whose()))
        if found:
            lines = "\n".join(f"  {line}" for line in found)
            raise ModelError(
                f"the checkpoint in {folder.parent} is of another learner:\n{lines}\ngo back to the configuration that "
                "wrote it, or set checkpoint.resume=false to train from the beginning in a new run"
            )
        if made_with != torch.__version__:
            logger.warning(
                "%s was written with torch %s, this is %s: the run goes on, but not bit for bit",
                path,
                made_with,
                torch.__version__,
            )
        return dict(numbers)

    def _random_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def _set_random_states(self, states: Tensors) -> None:
        torch.set_rng_state(states["cpu"])
        if self._device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self._device)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._trained.values())).device


def _read_tensors(path: Path, table: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one file in memory of their own, exactly those of `table`."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if _table(tensors) != table:
        raise ModelError(f"{path} does not hold the tensors that {_NUMBERS} names")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _table(tensors: Tensors) -> dict[str, list[Any]]:
    return {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in tensors.items()}


def _local(tensor: Tensor) -> Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copied(tensor: Tensor) -> Tensor:
    return _local(tensor.detach()).to("cpu", copy=True).contiguous()


def _placed(value: Any, parameter: Tensor) -> Any:
    """A value of the optimizer's state where `parameter` is; cut over the ranks as it is where the shape is its own."""
    if not isinstance(value, Tensor):
        return value
    placed = value.to(parameter.device)
    if isinstance(parameter, DTensor) and placed.shape == parameter.to_local().shape:
        return DTensor.from_local(
            placed,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
    return placed


def _digest(tensors: Mapping[str, Tensor | nn.Parameter]) -> str:
    state = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        state.update(name.encode())
        state.update(_local(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()
