"""The best split of a number of devices (floor F2).

Exhaustive over samplers, teachers and learner ranks; of more than 64 replicas every number that is 3 % larger is looked
at. More of a role may take longer: each replica costs the controller calls. Of the splits whose step is the shortest
but for half a percent the one with the fewest devices is taken.
"""

import math

import numpy as np

from gkd_dist.errors import ConfigError
from gkd_dist.planning.devices import Device
from gkd_dist.planning.memory import USABLE, learner_bytes, sampler_bytes, smallest_group, teacher_bytes
from gkd_dist.planning.prediction import Groups, Prediction, Split, predict
from gkd_dist.planning.steps import Steps
from gkd_dist.planning.workload import TeacherLoad, Workload

ALL_BELOW, APART = 64, 1.03
"""Where numbers of replicas begin to be left out, and how far those are apart that are looked at."""
NO_WORSE = 1.005
"""Between rungs of steps that count as the same."""
ROUNDING = 1 + 1e-9
MOST_RANKS = 4096
"""Of a learner, looked for where it does not fit on fewer."""


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
    need = _bytes_together(work)
    if not _fits_one_device(work, device):
        raise ConfigError(
            [
                f"--gpus 1: samplers, teachers and learner together need {need / 1e9:.1f} GB, more than "
                f"{USABLE:.0%} of {device.memory_bytes / 1e9:.0f} GB; give more devices"
            ]
        )
    groups = Groups(1, tuple(1 for _ in work.teachers))
    return predict(work, device, Split(1, 1 if work.teachers else 0, 1), groups, shared=True)


def _bytes_together(work: Workload) -> float:
    return sampler_bytes(work, 1) + sum(teacher_bytes(load, 1) for load in work.teachers) + learner_bytes(work, 1)


def _fits_one_device(work: Workload, device: Device) -> bool:
    return _bytes_together(work) <= USABLE * device.memory_bytes


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
    """The split of at most `num_devices` with the shortest step, without what that does not need; one device that all
    roles share, where that is no slower.

    Raises:
        ConfigError: they are too few.
    """
    groups = groups_of(work, device)
    unit = sum(groups.teachers)
    least = fewest_ranks(work, device, MOST_RANKS)
    if least is None:
        raise ConfigError([_too_few_ranks(work, device, MOST_RANKS)])
    shared = shared_device(work, device) if _fits_one_device(work, device) else None
    smallest = groups.sampler + unit + least
    if smallest > num_devices:
        if shared is not None:
            return shared
        taken = f"a sampler takes {groups.sampler}, the teachers {unit}, the learner {least}"
        raise ConfigError([f"--gpus {num_devices}: {taken}; give {smallest} or more"])
    samplers = counts(1, max(1, min(math.ceil(work.student_sequences), num_devices // groups.sampler)))
    teachers = counts(1, min(work.batch_size, num_devices // unit if unit else 1)) if work.teachers else [0]
    ranks = counts(least, num_devices - groups.sampler - unit)
    apart = predict(work, device, _fewest(work, device, groups, num_devices, (samplers, teachers, ranks)), groups)
    return shared if shared is not None and shared.step_s <= apart.step_s * ROUNDING else apart


def counts(least: int, most: int) -> list[int]:
    """From `least` to `most`, all below 64 and then every one that is 3 % larger: with a larger `most` they are the
    same and more."""
    found, number = [least], least
    while number <= most:
        number = max(number + 1, math.floor(number * APART)) if number >= ALL_BELOW else number + 1
        if number <= most:
            found.append(number)
    return found


def _fewest(
    work: Workload, device: Device, groups: Groups, num_devices: int, replicas: tuple[list[int], list[int], list[int]]
) -> Split:
    """Of at most `num_devices`, with which the step is as short as it gets, up to a rung of `NO_WORSE`.

    Rungs are the same for any number of devices, and so are the candidates but for those that are too large: with more
    devices it is the same split, or one of a lower rung.
    """
    samplers, teachers, ranks = replicas
    steps = Steps(work, device, groups, samplers, ranks)
    floor_s = steps.floor_s
    shortest, near = math.inf, list[tuple[int, float, Split]]()
    for number in reversed(teachers):
        total, bound = steps.devices(number), shortest * NO_WORSE * ROUNDING
        pairs = np.flatnonzero((total <= num_devices) & (floor_s <= bound))
        if not pairs.size:
            continue
        step_s = steps.with_teachers(number, pairs)
        shortest = min(shortest, float(step_s.min()))
        bound = shortest * NO_WORSE * ROUNDING
        near = [each for each in near if each[1] <= bound]
        for place in np.flatnonzero(step_s <= bound):
            pair = pairs[place]
            split = Split(int(steps.samplers[pair]), number, int(steps.ranks[pair]))
            near.append((int(total[pair]), float(step_s[place]), split))
    rung = NO_WORSE ** math.ceil(math.log(shortest / ROUNDING, NO_WORSE))
    fits = [each for each in near if each[1] <= rung * ROUNDING]
    return min(fits, key=lambda each: each[:2])[2]


def _too_few_ranks(work: Workload, device: Device, ranks: int) -> str:
    need = learner_bytes(work, ranks)
    return (
        f"the learner needs {need / 1e9:.1f} GB on each of {ranks} rank(s), more than {USABLE:.0%} of "
        f"{device.memory_bytes / 1e9:.0f} GB; give it more, lower learner.max_micro_batch_tokens, or set "
        "learner.gradient_checkpointing=true"
    )
