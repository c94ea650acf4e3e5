"""RunConfig: all components, and the rules between them."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gkd_dist.config.base import Strict
from gkd_dist.config.combination import combination_problems
from gkd_dist.config.data import DataConfig
from gkd_dist.config.learner import LearnerConfig
from gkd_dist.config.models import SamplerConfig, StudentConfig, TeacherConfig
from gkd_dist.config.objective import ObjectiveConfig
from gkd_dist.config.ring import (
    ClusterConfig,
    EvaluationConfig,
    MetricsConfig,
    ReplayConfig,
    SamplingConfig,
    WeightsConfig,
)
from gkd_dist.config.transports import transport_problems


class RunConfig(Strict):
    """One distillation job."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="text of letters, digits, dots, dashes and underscores that begins with a letter or digit",
    )
    output_dir: Path = Path("runs")
    """Run directories are made below it: output_dir/name-NUMBER."""
    seed: int = Field(default=0, ge=0)
    mode: Literal["sync"] = "sync"
    """`sync` is Algorithm 1 exactly: staleness 0. A seed repeats bit for bit with the `hf` engines; vLLM rounds by what
    happens to share a batch, so its samples may differ from run to run."""
    student: StudentConfig
    teacher: TeacherConfig | None = None
    """The teacher; or, where there are several:"""
    teachers: dict[str, TeacherConfig] | None = None
    """Teachers by name, combined by `objective.combine_teachers`; instead of `teacher`."""
    sampler: SamplerConfig = SamplerConfig()
    sampling: SamplingConfig = SamplingConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = DataConfig()
    replay: ReplayConfig = ReplayConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def named_teachers(self) -> dict[str, TeacherConfig]:
        """Every teacher by its name; the one under `teacher` is called that."""
        return dict(self.teachers or {}) if self.teacher is None else {"teacher": self.teacher}

    def key_of(self, teacher: str) -> str:
        """Where the settings of a teacher stand: `teacher`, or `teachers.NAME`."""
        return f"teachers.{teacher}" if self.teacher is None else "teacher"

    @property
    def samples_off_policy(self) -> bool:
        """Whether training samples are drawn from something else than the student's own softmax."""
        return self.sampling.temperature != 1 or self.sampling.teacher_mix > 0

    @model_validator(mode="after")
    def _between_components(self) -> "RunConfig":
        problems = []
        if self.sampling.max_new_tokens >= self.sampler.max_model_len:
            problems.append(
                f"sampling.max_new_tokens ({self.sampling.max_new_tokens}) leaves no room for a prompt in "
                f"sampler.max_model_len ({self.sampler.max_model_len}); lower the first or raise the second"
            )
        if (self.evaluation.max_new_tokens or 0) >= self.sampler.max_model_len:
            problems.append(
                f"evaluation.max_new_tokens ({self.evaluation.max_new_tokens}) leaves no room for a prompt in "
                f"sampler.max_model_len ({self.sampler.max_model_len}); lower the first or raise the second"
            )
        by_key = {self.key_of(name): teacher for name, teacher in self.named_teachers.items()}
        for key, teacher in by_key.items():
            if teacher.max_model_len < self.sampler.max_model_len:
                problems.append(
                    f"{key}.max_model_len ({teacher.max_model_len}) is below sampler.max_model_len "
                    f"({self.sampler.max_model_len}): the teacher could not score the longest samples; raise it"
                )
        problems += combination_problems(self.teacher, self.teachers, self.objective.combine_teachers)
        capacity = self.replay.capacity
        if capacity is not None and capacity < self.learner.batch_size:
            problems.append(
                f"replay.capacity ({capacity}) is below learner.batch_size ({self.learner.batch_size}): "
                "no batch would ever be complete; raise it"
            )
        problems += transport_problems(self.objective, by_key, self.sampling, self.evaluation)
        if self.sampling.teacher_mix > 0 and (self.sampler.engine != "hf" or len(self.named_teachers) > 1):
            problems.append(
                f"sampling.teacher_mix ({self.sampling.teacher_mix:g}) draws from two models at once, which only the "
                "hf sampler can, with a single teacher; set sampler.engine=hf, or teacher_mix=0"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
