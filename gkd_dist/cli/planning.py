"""What `gkd plan` does, from its arguments to an exit code (floor F5)."""

import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from gkd_dist.metrics.console import print_table
from gkd_dist.planning.calibration import Fit, calibrate, read_steps
from gkd_dist.planning.devices import Device, device_names, load_device, save_device
from gkd_dist.planning.memory import learner_bytes, sampler_bytes, teacher_bytes
from gkd_dist.planning.prediction import Groups, Prediction, Split
from gkd_dist.planning.search import best_split, checked_split, groups_of, shared_device
from gkd_dist.planning.workload import Workload
from gkd_dist.preparation.plan_inputs import Given, plan_inputs
from gkd_dist.runs.run_directory import RunDirectory

_CPU = "cpu"
FARTHEST = 10
"""Times that a calibration moves a role's rates; what is farther ran on something else."""
_BETWEEN = {"weights": "publishing", "wire": "wire", "controller": "controller"}
"""What a step takes beside the roles, and what it is called in the table."""
_WORKING = {"samplers": "written", "teachers": "read", "learner": "trained"}


@dataclass(frozen=True)
class Hardware:
    """What is to be planned for."""

    device: str | None = None
    """Name or file; None is the CPU, where the recipe asks for no GPU."""
    num_devices: int | None = None
    """None: what the recipe's own numbers of replicas take."""
    split: Split | None = None
    """Given instead of searched for."""
    calibrate: str | None = None
    """A run directory, or the name of one below `output_dir`."""
    output_dir: Path = Path("runs")
    quantile: float | None = None
    """None: the median."""
    save: Path | None = None


@dataclass(frozen=True)
class Planned:
    """The answer."""

    work: Workload
    device: Device
    prediction: Prediction
    fits: tuple[Fit, ...] = field(default=())


def plan(config: RunConfig, given: Given, hardware: Hardware, *, as_json: bool) -> int:
    """Print what is to be expected of `config`; returns 0.

    Raises:
        ConfigError: with all problems, one line each.
    """
    planned = planned_for(config, given, hardware)
    if hardware.save is not None:
        save_device(planned.device, hardware.save)
    if as_json:
        print(json.dumps(as_document(planned), indent=2))
    else:
        _show(planned, hardware)
    return 0


def planned_for(config: RunConfig, given: Given, hardware: Hardware) -> Planned:
    """As `plan`, unprinted."""
    problems = _contradictions(hardware)
    device = None
    try:
        device = load_device(hardware.device or _default_device(config, hardware))
    except ConfigError as error:
        problems += error.problems
    work = None
    try:
        work = plan_inputs(config, given)
    except ConfigError as error:
        problems += error.problems
    if problems or device is None or work is None:
        raise ConfigError(problems)
    fits: tuple[Fit, ...] = ()
    if hardware.calibrate is not None:
        run = RunDirectory.find(hardware.calibrate, hardware.output_dir).path
        device, fits = calibrated(device, run, 0.5 if hardware.quantile is None else hardware.quantile)
    return Planned(work, device, _prediction(config, work, device, hardware), fits)


def calibrated(device: Device, run: Path, quantile: float) -> tuple[Device, tuple[Fit, ...]]:
    """`device` with what the run in this directory reached.

    Raises:
        ConfigError: it tells nothing, or is no run on such a device.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError([f"--calibrate: {run} has no config.yaml; give a run directory"])
    config = load_run_config(str(run / "config.yaml"))
    work = plan_inputs(config, Given())
    shared = device.num_per_node == 1
    groups = Groups(1, tuple(1 for _ in work.teachers)) if shared else groups_of(work, device)
    steps = read_steps(run / "metrics.jsonl")
    found, fits = calibrate(
        device,
        work,
        own_split(config),
        groups,
        steps,
        shared=shared,
        quantile=quantile,
        source=f"calibrated on {run.resolve().name}",
    )
    problems = [
        f"--calibrate: {fit.role} of {run.name} took {fit.measured_s:.3g} s, {1 / fit.factor:.3g} times what "
        f"{device.name} should; give the --device that it ran on, or a YAML file of one"
        for fit in fits
        if not 1 / FARTHEST <= fit.factor <= FARTHEST
    ]
    if problems:
        raise ConfigError(problems)
    return found, fits


def own_split(config: RunConfig) -> Split:
    """The numbers of replicas that the configuration starts with."""
    teachers = min((each.num_replicas for each in config.named_teachers.values()), default=0)
    return Split(config.sampler.num_replicas, teachers, config.learner.num_ranks)


def _prediction(config: RunConfig, work: Workload, device: Device, hardware: Hardware) -> Prediction:
    number = hardware.num_devices
    if hardware.split is not None:
        return checked_split(work, device, hardware.split)
    if number == 1 or (number is None and device.num_per_node == 1):
        return shared_device(work, device)
    return checked_split(work, device, own_split(config)) if number is None else best_split(work, device, number)


def _contradictions(hardware: Hardware) -> list[str]:
    problems = []
    if hardware.num_devices is not None and hardware.split is not None:
        problems.append("--split: says itself how many devices there are; remove --gpus")
    if hardware.quantile is not None and hardware.calibrate is None:
        problems.append("--quantile: nothing was measured; give --calibrate RUN, or leave it out")
    if hardware.save is not None and hardware.calibrate is None:
        problems.append("--save-device: nothing was measured; give --calibrate RUN_DIR")
    return problems


def _default_device(config: RunConfig, hardware: Hardware) -> str:
    cluster = config.cluster
    asked = (cluster.num_gpus_per_sampler, cluster.num_gpus_per_teacher, cluster.num_gpus_learner)
    if any(asked) or hardware.num_devices is not None or hardware.split is not None:
        raise ConfigError([f"--device: is missing; say which GPUs: {', '.join(device_names())}"])
    return _CPU


def as_document(planned: Planned) -> dict[str, Any]:
    """All of it, in seconds, bytes and tokens."""
    work, found = planned.work, planned.prediction
    devices = (1, 1, 1) if found.shared else found.groups.devices(found.split)
    return {
        "recipe": work.name,
        "device": planned.device.name,
        "devices": {"used": found.devices, **dict(zip(("samplers", "teachers", "learner"), devices, strict=True))},
        "shared": found.shared,
        "split": asdict(found.split),
        "devices_per_replica": asdict(found.groups),
        "student": {"params": work.student.num_params, "active_params": work.student.active_params},
        "lengths": asdict(work.lengths),
        "tokens_per_step": found.tokens,
        "tokens_per_s": rates(found),
        "tokens_per_s_while_working": working_rates(found),
        "busy_s": found.busy,
        "staleness_s": found.staleness_s,
        "parts": asdict(found.parts),
        "step_s": found.step_s,
        "steps": work.num_steps,
        "run_s": found.run_s,
        "bottleneck": found.bottleneck,
        "reason": found.reason,
        "wire_bytes_per_step": {**asdict(found.wire), "total": found.wire.total},
        "wire_bytes_per_s": found.wire.total / found.step_s,
        "memory_bytes": memory(planned),
        "calibration": [{**asdict(fit), "factor": fit.factor} for fit in planned.fits],
    }


def rates(found: Prediction) -> dict[str, float]:
    """Tokens per second of the whole step, by role."""
    return {role: tokens / found.step_s for role, tokens in found.tokens.items()}


def working_rates(found: Prediction) -> dict[str, float | None]:
    """Tokens per second while the role works."""
    return {role: tokens / found.busy[role] if found.busy[role] else None for role, tokens in found.tokens.items()}


def memory(planned: Planned) -> dict[str, float]:
    """Of one device of each role, as far as it is planned."""
    work, found = planned.work, planned.prediction
    groups = zip(work.teachers, found.groups.teachers, strict=True)
    return {
        "samplers": sampler_bytes(work, found.groups.sampler),
        "teachers": max((teacher_bytes(load, max(1, group)) for load, group in groups), default=0.0),
        "learner": learner_bytes(work, found.split.ranks),
    }


def _show(planned: Planned, hardware: Hardware) -> None:
    work, found, device = planned.work, planned.prediction, planned.device
    for fit in planned.fits:
        print(f"calibration: {fit.role} took {fit.measured_s:.3g} s where {fit.modelled_s:.3g} s were modelled")
    lengths = work.lengths
    print(
        f"lengths: prompt {lengths.prompt:.0f}, student's completion {lengths.completion:.0f}, fixed completion "
        f"{lengths.fixed:.0f} tokens ({lengths.source})"
    )
    print(f"student: {_size(work.student.num_params)} parameters; teachers: {_teachers(work)}")
    devices = (1, 1, 1) if found.shared else found.groups.devices(found.split)
    replicas = (found.split.samplers, found.split.teachers, found.split.ranks)
    whole, working, held = rates(found), working_rates(found), memory(planned)
    rows = []
    for role, number, used in zip(_WORKING, replicas, devices, strict=True):
        rate = working[role]
        own = [str(number), "shared" if found.shared else str(used), f"{held[role] / 1e9:.1f} GB"]
        tokens = ["-" if rate is None else f"{rate:,.0f}", f"{whole[role]:,.0f}"]
        rows.append([role, *own, *_time(found, found.busy[role]), *tokens])
    for between, label in _BETWEEN.items():
        rows.append([label, "", "", "", *_time(found, found.busy[between]), "", ""])
    if found.staleness_s:
        rows.append(["staleness bound", "", "", "", *_time(found, found.staleness_s), "", ""])
    columns = ["part", "replicas", "devices", "needs at least", "busy per step", "of step", "tokens/s busy", "tokens/s"]
    of = "one device" if found.shared else f"{found.devices} devices"
    print_table(sys.stdout, f"{work.name} on {of}: {device.name}", columns, rows)
    unused = (hardware.num_devices or found.devices) - found.devices
    if unused > 0:
        print(f"{unused} of {hardware.num_devices} devices are not needed: with them the step is less than 1 % shorter")
    print(
        f"step: {found.step_s:.3g} s; bottleneck: {found.bottleneck} ({found.reason}); "
        f"{work.num_steps} steps: {_duration(found.run_s)}, without start and evaluation"
    )
    wire = found.wire
    print(
        f"wire: {_bytes(wire.total)} per step ({_bytes(wire.targets)} teacher targets, {_bytes(wire.trajectories)} "
        f"token ids and log-probs, {_bytes(wire.weights)} weights), {_bytes(wire.total / found.step_s)}/s"
    )
    if hardware.save is not None:
        print(f"device written to {hardware.save}; use it with --device {hardware.save}")


def _time(found: Prediction, seconds: float) -> list[str]:
    return [f"{seconds:.3g} s", f"{min(1.0, seconds / found.step_s):.0%}"]


def _teachers(work: Workload) -> str:
    named = [f"{_size(load.shape.num_params)} ({load.transport})" for load in work.teachers]
    return ", ".join(named) or "none"


def _size(params: float) -> str:
    return f"{params / 1e9:.1f} billion" if params >= 1e9 else f"{params / 1e6:.0f} million"


def _bytes(number: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    power = min(len(units) - 1, int(math.log10(number) // 3)) if number >= 1 else 0
    return f"{number / 1000**power:.3g} {units[power]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def parsed_split(text: str) -> Split:
    """`40,16,8`: samplers, replicas of each teacher, learner ranks.

    Raises:
        ConfigError: it is something else.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError([f"--split: must be SAMPLERS,TEACHERS,RANKS such as 40,16,8, got {text!r}"])
    samplers, teachers, ranks = (int(part) for part in parts)
    return Split(samplers, teachers, ranks)
