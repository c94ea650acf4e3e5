"""From a checked configuration to engines: the only place that chooses implementations (floor F5)."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gkd_dist.config.run import RunConfig
from gkd_dist.interfaces import Fleet, Learner, Sampler, Scorer, Teacher
from gkd_dist.types import Trajectory

if TYPE_CHECKING:
    from gkd_dist.divergences import Readout
    from gkd_dist.learners.objective import Objective
    from gkd_dist.learners.targets import TeacherView
    from gkd_dist.teachers.golden import Golden

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

    def make_sampler(self) -> Sampler:
        sampler = self.config.sampler
        if sampler.engine == "hf":
            from gkd_dist.samplers.hf_sampler import HfSampler

            return HfSampler(self.student, dtype=sampler.dtype, pad_token_id=self.pad_token_id, num_ids=self.num_ids)
        _quiet_vllm()
        from gkd_dist.samplers.vllm_sampler import VllmSampler

        return VllmSampler(
            str(self.student),
            dtype=sampler.dtype,
            max_model_len=sampler.max_model_len,
            engine_args=sampler.engine_args,
            num_ids=self.num_ids,
        )

    def make_teacher(self, name: str) -> Teacher:
        """An engine that scores, made able to verify its own answers."""
        from gkd_dist.teachers.checked import CheckedTeacher
        from gkd_dist.teachers.golden import TOLERANCE_NATS
        from gkd_dist.teachers.readout import load_readout

        teacher = self.config.teachers[name]
        hidden = teacher.transport == "hidden"
        engine, golden = self._hf_teacher(name) if teacher.engine == "hf" else self._vllm_teacher(name)
        return CheckedTeacher(
            engine,
            sequences=self.golden,
            golden=golden,
            load_readout=partial(load_readout, self.teachers[name], dtype=teacher.dtype, num_ids=self.num_ids)
            if hidden
            else None,
            tolerance_nats=TOLERANCE_NATS[teacher.dtype],
        )

    def _hf_teacher(self, name: str) -> "tuple[Scorer, Golden | None]":
        from gkd_dist.teachers.golden import Golden, top_answers
        from gkd_dist.teachers.hf_teacher import HfTeacher

        teacher = self.config.teachers[name]
        engine = HfTeacher(
            self.teachers[name],
            dtype=teacher.dtype,
            transport=teacher.transport,
            pad_token_id=self.pad_token_id,
            num_ids=self.num_ids,
            device=_device(self.config.cluster.num_gpus_per_teacher),
        )
        if not (teacher.verify_readout and teacher.transport == "hidden"):
            return engine, None
        own = asyncio.run(engine.own_log_probs(self.golden))
        return engine, Golden(top_answers(self.golden, own, None), "its own logits")

    def _vllm_teacher(self, name: str) -> "tuple[Scorer, Golden | None]":
        from gkd_dist.teachers.verified import check_readout

        teacher, folder = self.config.teachers[name], self.teachers[name]
        check_readout(folder)
        _quiet_vllm()
        from gkd_dist.teachers.vllm_teacher import VllmTeacher

        return VllmTeacher(
            str(folder),
            dtype=teacher.dtype,
            max_model_len=teacher.max_model_len,
            engine_args=teacher.engine_args,
        ), None

    def make_learner(self) -> Learner:
        from gkd_dist.learners.learner import GkdLearner
        from gkd_dist.learners.load import load_student
        from gkd_dist.learners.step import LossSettings
        from gkd_dist.weights.publisher import WeightPublisher

        config, objective = self.config, self.config.objective
        settings = LossSettings(
            objective=self._objective(),
            reduction=objective.reduction,
            bf16=config.learner.bf16,
            max_micro_batch_tokens=config.learner.max_micro_batch_tokens,
            pad_token_id=self.pad_token_id,
            num_ids=self.num_ids,
        )
        return GkdLearner(
            load_student(
                self.student,
                gradient_checkpointing=config.learner.gradient_checkpointing,
                device=_device(config.cluster.num_gpus_learner),
            ),
            source=self.student,
            config=config.learner,
            settings=settings,
            publisher=WeightPublisher(
                self.run_epoch, config.weights.bucket_bytes, config.weights.dtype or config.sampler.dtype
            ),
        )

    def _objective(self) -> "Objective":
        from gkd_dist.divergences import make_divergence
        from gkd_dist.learners.objective import Distillation

        objective = self.config.objective
        return Distillation(
            divergence=make_divergence(
                objective.divergence, beta=objective.beta, normalize_jsd=objective.normalize_jsd
            ),
            teachers={name: self._teacher_view(name) for name in self.config.teachers},
            num_ids=self.num_ids,
            bf16=self.config.learner.bf16,
        )

    def _teacher_view(self, name: str) -> "TeacherView":
        from gkd_dist.learners.targets import TeacherView

        return TeacherView(self._teacher_readout(name), self.config.teachers[name].temperature)

    def _teacher_readout(self, name: str) -> "Readout | None":
        teacher = self.config.teachers[name]
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


def _quiet_vllm() -> None:
    """vLLM reads these when it is imported; a user's own values win."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "1")
