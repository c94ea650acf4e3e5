"""The best split of a number of devices (floor F2).

Exhaustive over samplers and learner ranks; teachers get what is left, because more of them never take longer (probes of
those that have nothing to do are not counted here). Where a
role could have more than 256 counts, 256 of them are looked at, spread evenly on a logarithmic scale. What the best
split does not need is then left out: the fewest replicas whose step is at most 1 % longer. The bottleneck is that of
the best split: what more of anything does not help.
"""

import math
from dataclasses import replace
from functools import cache

from gkd_dist.errors import ConfigError
from gkd_dist.planning.devices import Device
from gkd_dist.planning.learning import Learning, learning_time
from gkd_dist.planning.memory import USABLE, learner_bytes, sampler_bytes, smallest_group, teacher_bytes
from gkd_dist.planning.prediction import Groups, Prediction, Split, parts_with, predict, step_of
from gkd_dist.planning.sampling import Sampling, sampling_time
from gkd_dist.planning.scoring import scoring_time
from gkd_dist.planning.workload import TeacherLoad, Workload

MOST_COUNTS = 256
NO_WORSE = 1.01
"""A step that counts as the same, over the shortest one."""


def groups_of(work: Workload, device: Device) -> Groups:
    """Devices of one replica: what the configuration says, else the fewest that hold it.

    Raises:
        ConfigError: what fits into no number of devices, or not into the one that is configured; all at once.
    """
    problems: list[str] = []

    def group(role: str, asked: int | None, found: int | None, need: float, splits: bool) -> int:
        if found is None:
            more = "even over 64 devices" if splits else "and this engine takes one device; use engine=vllm"
            room = f"{USABLE:.0%} of {device.memory_bytes / 1e9:.0f} GB"
            problems.append(f"{role}: needs {need / 1e9:.1f} GB, more than {room}, {more}")
        elif asked is not None and asked < found:
            problems.append(f"{role}: engine_args.tensor_parallel_size={asked} is too small, it takes {found}")
        return asked or found or 1

    def of_sampler(size: int) -> float:
        return sampler_bytes(work, size)

    splits = work.splits_engines
    found = smallest_group(of_sampler, device.memory_bytes, splits=splits)
    sampler = group("sampler", work.sampler_tensor_parallel, found, of_sampler(1), splits)
    teachers = []
    for load in work.teachers:
        if load.engine == "server":
            teachers.append(0)
            continue

        def of_teacher(size: int, load: TeacherLoad = load) -> float:
            return teacher_bytes(load, size)

        splits = load.engine == "vllm"
        found = smallest_group(of_teacher, device.memory_bytes, splits=splits)
        teachers.append(group(f"teacher {load.shape.name}", load.tensor_parallel, found, of_teacher(1), splits))
    if problems:
        raise ConfigError(problems)
    return Groups(sampler, tuple(teachers))


def fewest_ranks(work: Workload, device: Device, most: int) -> int | None:
    """Of the learner, so that it fits; None where `most` are too few."""
    room = USABLE * device.memory_bytes
    return next((ranks for ranks in range(1, most + 1) if learner_bytes(work, ranks) <= room), None)


def shared_device(work: Workload, device: Device) -> Prediction:
    """All roles on one device.

    Raises:
        ConfigError: they do not fit together.
    """
    need = sampler_bytes(work, 1) + sum(teacher_bytes(load, 1) for load in work.teachers) + learner_bytes(work, 1)
    if need > USABLE * device.memory_bytes:
        raise ConfigError(
            [
                f"--gpus 1: samplers, teachers and learner together need {need / 1e9:.1f} GB, more than "
                f"{USABLE:.0%} of {device.memory_bytes / 1e9:.0f} GB; give more devices"
            ]
        )
    groups = Groups(1, tuple(1 for _ in work.teachers))
    return predict(work, device, Split(1, 1 if work.teachers else 0, 1), groups, shared=True)


def checked_split(work: Workload, device: Device, split: Split) -> Prediction:
    """What a given split does.

    Raises:
        ConfigError: it has no replica of a role that is needed, or the learner does not fit.
    """
    groups = groups_of(work, device)
    problems = []
    if split.samplers < 1 or split.ranks < 1:
        problems.append("--split: needs a sampler and a learner rank at least, as in --split 4,2,1")
    if work.teachers and split.teachers < 1:
        problems.append("--split: needs a teacher at least")
    if not work.teachers and split.teachers:
        problems.append("--split: nobody is asked here (objective.divergence=nll); give 0 teachers")
    if split.ranks >= 1 and fewest_ranks(work, device, split.ranks) is None:
        problems.append(_too_few_ranks(work, device, split.ranks))
    if problems:
        raise ConfigError(problems)
    return predict(work, device, split, groups)


def best_split(work: Workload, device: Device, num_devices: int) -> Prediction:
    """The split of at most `num_devices` with the shortest step.

    Raises:
        ConfigError: they are too few.
    """
    groups = groups_of(work, device)
    unit = sum(groups.teachers)
    asked = bool(work.teachers)
    least = fewest_ranks(work, device, num_devices)
    if least is None:
        raise ConfigError([f"--gpus {num_devices}: {_too_few_ranks(work, device, num_devices)}"])
    smallest = groups.sampler + unit + least
    if smallest > num_devices:
        raise ConfigError(
            [
                f"--gpus {num_devices}: a sampler takes {groups.sampler}, the teachers {unit}, the learner {least}; "
                f"give {smallest} or more, or 1, which all share"
            ]
        )
    times = _Times(work, device, groups)
    most_ranks = num_devices - groups.sampler - unit
    most_samplers = max(1, min(math.ceil(work.student_sequences), (num_devices - unit - least) // groups.sampler))
    best: tuple[float, int, Split] | None = None
    for ranks in counts(least, most_ranks):
        for samplers in counts(1, most_samplers):
            left = num_devices - ranks - samplers * groups.sampler
            if left < unit:
                break
            teachers = (min(work.batch_size, left // unit) if unit else 1) if asked else 0
            split = Split(samplers, teachers, ranks)
            found = (times.step_s(split), groups.total(split), split)
            if best is None or found[:2] < best[:2]:
                best = found
    if best is None:
        raise ConfigError([f"--gpus {num_devices}: no split fits"])
    needed = predict(work, device, _fewest(best[2], least, asked, times), groups)
    limit = predict(replace(work, probe_interval_s=math.inf), device, best[2], groups)
    return replace(needed, bottleneck=limit.bottleneck, reason=limit.reason)


def counts(least: int, most: int) -> list[int]:
    """From `least` to `most`; all of them, or 256 that are spread evenly on a logarithmic scale."""
    if most - least < MOST_COUNTS:
        return list(range(least, most + 1))
    ratio = (most / least) ** (1 / (MOST_COUNTS - 1))
    return sorted({min(most, round(least * ratio**step)) for step in range(MOST_COUNTS)} | {most})


class _Times:
    """Steps of many splits; what depends on one count alone is computed once."""

    def __init__(self, work: Workload, device: Device, groups: Groups) -> None:
        self._work, self._device, self._groups = replace(work, probe_interval_s=math.inf), device, groups

        @cache
        def sampling(samplers: int) -> Sampling:
            return sampling_time(work, device, samplers, groups.sampler)

        @cache
        def scoring(teachers: int) -> float:
            pairs = zip(work.teachers, groups.teachers, strict=True)
            return max((scoring_time(work, load, device, teachers, group) for load, group in pairs if group), default=0)

        @cache
        def learning(ranks: int) -> Learning:
            return learning_time(work, device, ranks)

        self._sampling, self._scoring, self._learning = sampling, scoring, learning

    def step_s(self, split: Split) -> float:
        parts = parts_with(
            self._work,
            self._device,
            split,
            self._groups,
            sampling=self._sampling(split.samplers),
            scoring_s=self._scoring(split.teachers),
            learning=self._learning(split.ranks),
        )
        return step_of(self._work, split, parts, shared=False)[0]


def _fewest(split: Split, least_ranks: int, asked: bool, times: _Times) -> Split:
    """Without the replicas that change nothing."""
    bound = times.step_s(split) * NO_WORSE
    floors = {"samplers": 1, "teachers": 1 if asked else 0, "ranks": least_ranks}
    for role, floor in floors.items():
        low, high = floor, getattr(split, role)
        while low < high:  # longer with every replica less, but for weights and orders: the first that is no worse
            middle = (low + high) // 2
            if times.step_s(replace(split, **{role: middle})) <= bound:
                high = middle
            else:
                low = middle + 1
        split = replace(split, **{role: low})
    return split


def _too_few_ranks(work: Workload, device: Device, ranks: int) -> str:
    need = learner_bytes(work, ranks)
    return (
        f"the learner needs {need / 1e9:.1f} GB on each of {ranks} rank(s), more than {USABLE:.0%} of "
        f"{device.memory_bytes / 1e9:.0f} GB; give it more, lower learner.max_micro_batch_tokens, or set "
        "learner.gradient_checkpointing=true"
    )
