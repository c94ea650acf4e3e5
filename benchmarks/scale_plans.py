"""The runs of benchmarks/scale.py that are planned and simulated: H100s, a student of 1.7B, a teacher of 30B-A3B."""

from gkd_dist.config.load import load_run_config
from gkd_dist.planning.devices import load_device
from gkd_dist.planning.prediction import Prediction
from gkd_dist.planning.search import best_split
from gkd_dist.planning.shapes import shape_of_size
from gkd_dist.planning.workload import Lengths, workload_of
from gkd_dist.simulation.planned import planned_scenario
from gkd_dist.simulation.scenario import Scenario

PLANNED = {10: 512, 100: 2048, 1000: 4096}
"""Sequences of a batch by number of devices."""
STUDENT, TEACHER = shape_of_size("1.7B"), shape_of_size("30B-A3B")
LENGTHS = Lengths(prompt=200, completion=400, longest=400, fixed=400, source="given")
OVERRIDES = (
    "student.prune=null",
    "objective.student_fraction=1",
    "sampling.num_generations=4",
    "sampler.engine=vllm",
    "teacher.engine=vllm",
    "cluster.mode=ray",
)


def plan_of(num_devices: int, max_staleness: int) -> tuple[Prediction, Scenario]:
    """The best split of so many devices, and its simulation."""
    mode = ["mode=async", f"replay.max_staleness={max_staleness}"] if max_staleness else ["mode=sync"]
    config = load_run_config("quickstart", [*OVERRIDES, *mode, f"learner.batch_size={PLANNED[num_devices]}"])
    work = workload_of(config, STUDENT, dict.fromkeys(config.named_teachers, TEACHER), LENGTHS)
    device = load_device("h100")
    found = best_split(work, device, num_devices)
    return found, planned_scenario(work, device, found, max_steps=6 + 2 * max_staleness)
