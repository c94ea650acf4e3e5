"""The simulation of what `gkd plan` predicts: the same rates, with queues and the order of events."""

from gkd_dist.config.base import MAX_DURATION_S
from gkd_dist.planning.devices import Device
from gkd_dist.planning.prediction import Prediction
from gkd_dist.planning.sampling import most_at_once, position_time
from gkd_dist.planning.workload import Workload
from gkd_dist.simulation.scenario import LearnerRates, SamplerRates, Scenario, TeacherRates, WeightRates


def planned_scenario(work: Workload, device: Device, found: Prediction, *, max_steps: int) -> Scenario:
    """A run on the split of `found`, all rates its own; every answer is as long as the mean one.

    Args:
        work: in which the student writes everything, and one teacher with replicas here reads it.
        found: of `work` on `device`.

    Raises:
        ValueError: the simulation knows no such run.
    """
    problems = []
    if work.student_fraction != 1:
        problems.append(f"student_fraction {work.student_fraction:g}: only the student writes there")
    if len(work.teachers) != 1 or work.teachers[0].engine == "server":
        problems.append("teachers: there is one, with replicas of its own")
    if found.shared:
        problems.append("shared: no role waits for the device of another one there")
    if problems:
        raise ValueError("cannot be simulated: " + "; ".join(problems))
    split, parts = found.split, found.parts
    read_tokens = work.read_tokens / split.teachers
    # What the nodes read in all, divided among samplers that each read by themselves: those beside the learner, a last
    # node that is not full and samplers of several nodes are in it.
    read_bytes = work.published_bytes * parts.receivers.others / split.samplers
    link = device.network_bytes_per_s * device.achieved.publish.network
    return Scenario(
        num_samplers=split.samplers,
        num_teachers=split.teachers,
        batch_size=work.batch_size,
        max_steps=max_steps,
        max_staleness=work.max_staleness,
        num_generations=work.num_generations,
        prompt_tokens=round(work.lengths.prompt),
        sampler=_sampler(work, device, found),
        teacher=TeacherRates(tokens_per_s=read_tokens / parts.scoring_s),
        learner=LearnerRates(
            step_s=parts.wire_s + parts.learning.seconds,
            gather_s=parts.publishing.gather_s,
            num_calls=round(parts.traffic.learner),
        ),
        weights=WeightRates(read_bytes, learner_bytes_per_s=link, node_bytes_per_s=link, samplers_per_node=1),
        driver=work.driver,
        whole_steps=work.max_staleness == 0,
        probe_interval_s=min(work.probe_interval_s, MAX_DURATION_S),
    )


def _sampler(work: Workload, device: Device, found: Prediction) -> SamplerRates:
    """Linear in the number of running sequences, through what one takes and what is planned."""
    sampling, group = found.parts.sampling, found.groups.sampler
    running = max(2.0, sampling.at_once)
    first_s, planned_s = (position_time(work, device, group, number)[0] for number in (1.0, running))
    each_s = (planned_s - first_s) / (running - 1)
    step_s = first_s + (sampling.at_once - 1) * each_s
    # In the simulation a prompt is read at the pace of the batch, of which a replica's time is a share.
    prompt_s = sampling.prefill_s * sampling.at_once
    return SamplerRates(
        max_running=int(most_at_once(work, device, group)),
        step_s=first_s - each_s,
        step_per_sequence_s=each_s,
        prompt_token_cost=prompt_s / step_s / work.lengths.prompt,
        median_tokens=work.lengths.completion,
        sigma=0.0,
        max_tokens=max(1, round(work.lengths.completion)),
        load_s=found.parts.publishing.load_s,
    )
