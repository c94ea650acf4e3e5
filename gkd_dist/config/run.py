"""RunConfig: all components, and the rules between them."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, model_validator

from gkd_dist.config.base import WITHOUT_RULES, Strict
from gkd_dist.config.combination import combination_problems
from gkd_dist.config.data import DataConfig
from gkd_dist.config.learner import LearnerConfig
from gkd_dist.config.models import SamplerConfig, StudentConfig, TeacherConfig
from gkd_dist.config.objective import ObjectiveConfig
from gkd_dist.config.pacing import pacing_problems
from gkd_dist.config.ranks import rank_problems
from gkd_dist.config.reward import RewardConfig
from gkd_dist.config.ring import (
    ClusterConfig,
    EvaluationConfig,
    MetricsConfig,
    ReplayConfig,
    SamplingConfig,
    WeightsConfig,
)
from gkd_dist.config.supervision import OF_REPLICAS, CheckpointConfig, SupervisionConfig
from gkd_dist.config.transports import is_policy_gradient, transport_problems


class RunConfig(Strict):
    """One distillation job."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="text of letters, digits, dots, dashes and underscores that begins with a letter or digit",
    )
    """Of the run; its directory is output_dir/name-NUMBER, and the same name goes on with an unfinished one."""
    output_dir: Path = Path("runs")
    """Run directories are made below it: output_dir/name-NUMBER."""
    seed: int = Field(default=0, ge=0)
    """Of data order, coins, sampling noise and everything made at random."""
    mode: Literal["sync", "async"] = "sync"
    """`sync` is Algorithm 1 exactly: staleness 0. `async`: samplers, teachers and learner never wait for each other's
    batches; replay.max_staleness bounds how old a sequence may be. In sync mode a seed repeats bit for bit with the
    `hf` engines; vLLM rounds by what happens to share a batch, so its samples may differ from run to run."""
    student: StudentConfig
    teacher: TeacherConfig | None = None
    """The teacher, which every objective.divergence but nll needs; `teachers` where there are several."""
    teachers: dict[str, TeacherConfig] | None = None
    """Teachers by name, combined by `objective.combine_teachers`; instead of `teacher`."""
    sampler: SamplerConfig = SamplerConfig()
    sampling: SamplingConfig = SamplingConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    reward: RewardConfig | None = None
    """What answers are worth; exactly where objective.alpha is below 1."""
    data: DataConfig = DataConfig()
    replay: ReplayConfig = ReplayConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    cluster: ClusterConfig = ClusterConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    metrics: MetricsConfig = MetricsConfig()

    @property
    def named_teachers(self) -> dict[str, TeacherConfig]:
        """Every teacher by its name; the one under `teacher` is called that. Empty where nobody is asked."""
        return dict(self.teachers or {}) if self.teacher is None else {"teacher": self.teacher}

    def key_of(self, teacher: str) -> str:
        """Where the settings of a teacher stand: `teacher`, or `teachers.NAME`."""
        return f"teachers.{teacher}" if self.teacher is None else "teacher"

    def max_ongoing_requests(self, part: SamplerConfig | TeacherConfig) -> int:
        """Of a replica of that part."""
        if part.max_ongoing_requests is not None:
            return part.max_ongoing_requests
        return -(-2 * part.num_at_once // self.sampling.num_generations)

    @property
    def max_staleness(self) -> int:
        """Train steps; see `replay.max_staleness`."""
        asked = self.replay.max_staleness
        return asked if asked is not None else int(self.mode == "async")

    @property
    def samples_off_policy(self) -> bool:
        """Whether training samples are drawn from something else than the softmax of the student that is trained."""
        return self.sampling.temperature != 1 or self.sampling.teacher_mix > 0 or self.max_staleness > 0

    @model_validator(mode="after")
    def _between_components(self, info: ValidationInfo) -> "RunConfig":
        if info.context == WITHOUT_RULES:
            return self
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
            if teacher.engine == "server" and teacher.request_timeout_s >= self.cluster.request_timeout_s:
                problems.append(
                    f"{key}.request_timeout_s ({teacher.request_timeout_s:g}) must be below cluster.request_timeout_s "
                    f"({self.cluster.request_timeout_s:g}), which all attempts have together; lower it to a fraction, "
                    "or raise the other"
                )
        problems += combination_problems(
            self.teacher,
            self.teachers,
            self.objective.combine_teachers,
            needs_teacher=self.objective.needs_teacher,
        )
        capacity = self.replay.capacity
        if capacity is not None and capacity < self.learner.batch_size:
            problems.append(
                f"replay.capacity ({capacity}) is below learner.batch_size ({self.learner.batch_size}): "
                "no batch would ever be complete; raise it"
            )
        problems += transport_problems(self.objective, by_key, self.sampling, self.evaluation)
        if self.sampling.teacher_mix > 0 and (self.sampler.engine != "hf" or len(self.named_teachers) != 1):
            problems.append(
                f"sampling.teacher_mix ({self.sampling.teacher_mix:g}) draws from two models at once, which only the "
                "hf sampler can, with a single teacher; set sampler.engine=hf, or teacher_mix=0"
            )
        problems += self._reinforcement()
        problems += pacing_problems(self)
        problems += rank_problems(self)
        problems += self._without_effect()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def _bent_sampling(self) -> list[str]:
        """Keys that make training samples something else than draws from the student's own softmax."""
        defaults, sampling = SamplingConfig(), self.sampling
        keys = ("temperature", "top_p", "top_k", "min_p", "teacher_mix")
        return [f"sampling.{key}" for key in keys if getattr(sampling, key) != getattr(defaults, key)]

    def idle_paths(self) -> set[tuple[str, ...]]:
        between = {(section, key) for section, reasons in self.idle_reasons.items() for key in reasons}
        return super().idle_paths() | between

    @property
    def idle_reasons(self) -> dict[str, dict[str, str]]:
        """Keys that the other sections leave without effect, by section, with the reason."""
        teachers = self.named_teachers.values()
        objective: dict[str, str] = {}
        cluster: dict[str, str] = {}
        weights: dict[str, str] = {}
        supervision: dict[str, str] = {}
        metrics: dict[str, str] = {}
        if self.cluster.mode == "local":
            why = "cluster.mode=local is one process, in which nothing is probed, replaced or scaled; remove it"
            supervision = dict.fromkeys(sorted(OF_REPLICAS), why)
            metrics["ray_bridge"] = "cluster.mode=local starts no Ray; set cluster.mode=ray, or remove it"
        if self.sampler.engine == "hf":
            weights["kv_cache"] = "the hf sampler takes new weights between two batches alone; remove it"
        if not any(each.transport == "topk" for each in teachers):
            objective["topk_tail"] = "no teacher has transport=topk; set it, or remove topk_tail"
        by_key = {self.key_of(name): each for name, each in self.named_teachers.items()}
        is_gradient = is_policy_gradient(self.objective, by_key) or self.objective.alpha < 1
        if not (self.samples_off_policy and is_gradient):
            objective["max_importance"] = (
                "caps the weights of a policy gradient (sequence_reverse_kl, transport=sampled, alpha below 1) where "
                "sampling is not from the student at temperature 1, or mode=async, and there are none here; remove it"
            )
        if self.reward is None or self.reward.model is None:
            why = "no model computes the reward; set reward.type=entailment, or remove it"
            cluster |= dict.fromkeys(("num_cpus_reward", "num_gpus_reward", "resources_reward"), why)
        if teachers and all(each.engine == "server" for each in teachers):
            cluster["num_gpus_per_teacher"] = "every teacher is behind a server, and to ask it takes no GPU; remove it"
            cluster["resources_per_teacher"] = "every teacher is behind a server, and any node can ask it; remove it"
        return {
            "metrics": metrics,
            "objective": objective,
            "cluster": cluster,
            "weights": weights,
            "supervision": supervision,
        }

    def _without_effect(self) -> list[str]:
        return [
            f"{section}.{key}: {why}"
            for section, keys in self.idle_reasons.items()
            for key, why in keys.items()
            if key in getattr(self, section).model_fields_set
        ]

    def _reinforcement(self) -> list[str]:
        """What is wrong between the objective, the reward and the number of samples per prompt."""
        objective, num_generations, problems = self.objective, self.sampling.num_generations, []
        if objective.alpha < 1 and self.reward is None:
            problems.append(
                f"objective.alpha: {objective.alpha:g} needs a reward; set reward.type to answer, entailment or "
                "python, or objective.alpha=1"
            )
        if objective.alpha == 1 and self.reward is not None:
            problems.append("reward: not used with objective.alpha=1; set objective.alpha below 1, or remove reward")
        if objective.alpha < 1 and not objective.may_use_student:
            problems.append(
                f"objective.alpha: {objective.alpha:g} rewards what the student writes, but "
                "objective.student_fraction is 0; raise it, or set objective.alpha=1"
            )
        if objective.alpha < 1 and self._bent_sampling:
            problems.append(
                f"{' and '.join(self._bent_sampling)} must be left alone with objective.alpha below 1: the policy "
                "gradient holds for answers drawn from the student itself; remove what bends the distribution "
                "(defaults: temperature=1, top_p=1, top_k=0, min_p=0, teacher_mix=0)"
            )
        if objective.alpha < 1 and objective.baseline == "leave_one_out" and num_generations < 2:
            problems.append(
                "objective.baseline: leave_one_out compares samples of one prompt; set sampling.num_generations to 2 "
                "or more, or objective.baseline=moving_average"
            )
        if self.learner.batch_size % num_generations:
            problems.append(
                f"learner.batch_size: {self.learner.batch_size} sequences are no whole number of prompts with "
                f"sampling.num_generations={num_generations}; choose a multiple of it"
            )
        return problems
