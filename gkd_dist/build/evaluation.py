"""Which engines an evaluation asks for; each is made when it is needed, and closed before the next one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gkd_dist.build.environment import quiet_vllm
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.data.rendering import Renderer
from gkd_dist.errors import ConfigError
from gkd_dist.interfaces import Sampler, Scorer

if TYPE_CHECKING:
    from gkd_dist.evaluation.insertion import Insertion
    from gkd_dist.evaluation.writers import Writer


@dataclass(frozen=True)
class EvalEngines:
    """Implements `evaluation.predicting.Engines`."""

    config: EvalConfig
    model: Path
    teacher: Path | None
    renderer: Renderer
    num_ids: int
    """Real ids that are compared: those of the tokenizer that model and teacher share."""
    max_model_len: int
    """Longest prompt with what is written or compared behind it, tokens."""
    stops: tuple[str, ...]
    """Where a completion goes on to a question of its own; greedy decoding on transformers ends there."""

    def make_writer(self) -> "Writer":
        from gkd_dist.evaluation.insertion import InsertingWriter
        from gkd_dist.evaluation.writers import SamplingWriter

        decoding, insertion = self.config.decoding, self._insertion()
        if self.config.engine == "vllm":
            writer = SamplingWriter(self._vllm_sampler())
            return writer if insertion is None else InsertingWriter(writer, insertion)
        next_id = None if insertion is None else insertion.next
        if decoding.temperature == 0:
            from gkd_dist.evaluation.search import SearchingWriter

            return SearchingWriter(
                self.model,
                dtype=self.config.dtype,
                pad_token_id=self.renderer.pad_token_id,
                num_ids=self.renderer.num_ids,
                num_beams=decoding.num_beams,
                length_penalty=decoding.length_penalty,
                next_id=next_id,
                is_over=self._is_over if self.stops else None,
                device=self.config.device,
            )
        from gkd_dist.samplers.hf_sampler import HfSampler

        return SamplingWriter(
            HfSampler(
                self.model,
                dtype=self.config.dtype,
                pad_token_id=self.renderer.pad_token_id,
                num_ids=self.renderer.num_ids,
                max_batch_size=decoding.batch_size,
                next_id=next_id,
                device=self.config.device,
            )
        )

    def make_option_scorer(self) -> Scorer:
        if self.config.engine == "hf":
            return self._full_scorer(self.model)
        quiet_vllm()
        from gkd_dist.teachers.prompt_log_probs import SampledScoring
        from gkd_dist.teachers.vllm_log_prob_teacher import VllmLogProbTeacher

        return VllmLogProbTeacher(
            str(self.model),
            dtype=self.config.dtype,
            max_model_len=self.max_model_len,
            scoring=SampledScoring(),
            num_ids=self.renderer.num_ids,
            engine_args=self.config.engine_args,
        )

    def make_student(self) -> Scorer:
        """The model on transformers, whatever engine writes: divergences need its whole distributions."""
        return self._full_scorer(self.model)

    def make_teacher(self) -> Scorer:
        if self.teacher is None:
            raise ConfigError(["teacher: required to measure a divergence"])
        return self._full_scorer(self.teacher)

    def _is_over(self, ids: Sequence[int]) -> bool:
        text = self.renderer.decode(ids)
        return any(stop in text for stop in self.stops)

    def _vllm_sampler(self) -> Sampler:
        quiet_vllm()
        from gkd_dist.samplers.vllm_sampler import VllmSampler

        return VllmSampler(
            str(self.model),
            dtype=self.config.dtype,
            max_model_len=self.max_model_len,
            engine_args=self.config.engine_args,
            num_ids=self.renderer.num_ids,
        )

    def _full_scorer(self, folder: Path) -> Scorer:
        from gkd_dist.teachers.hf_teacher import HfTeacher

        return HfTeacher(
            folder,
            dtype=self.config.dtype,
            transport="full",
            pad_token_id=self.renderer.pad_token_id,
            num_ids=self.num_ids,
            device=self.config.device,
        )

    def _insertion(self) -> "Insertion | None":
        if self.config.decoding.calculator == "none":
            return None
        from gkd_dist.evaluation.calculator import Calculator
        from gkd_dist.evaluation.insertion import Insertion

        return Insertion(
            Calculator(self.config.decoding.calculator),
            self.renderer.ids_containing("="),
            self.renderer.decode,
            self.renderer.text_ids,
        )
