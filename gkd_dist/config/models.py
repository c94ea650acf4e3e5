"""Which student and which teacher, and the engines that run them."""

from typing import Any, Literal

from pydantic import Field, model_validator

from gkd_dist.config.base import Strict

Dtype = Literal["float32", "bfloat16"]


def _check_engine_args(engine: str, engine_args: dict[str, Any]) -> None:
    if engine == "hf" and engine_args:
        raise ValueError("the hf engine takes no engine_args; use engine=vllm, or set engine_args={}")


class PruneConfig(Strict):
    """Make the student by dropping decoder layers of `student.model`."""

    num_layers: int = Field(ge=1)
    """How many layers the student keeps."""
    drop_layers: tuple[int, ...] | None = None
    """Exactly these; None measures which removals change the model least."""

    @model_validator(mode="after")
    def _distinct(self) -> "PruneConfig":
        if self.drop_layers is not None and len(set(self.drop_layers)) != len(self.drop_layers):
            raise ValueError("drop_layers names a layer twice; name each layer once")
        return self


class StudentConfig(Strict):
    model: str
    """A local folder, a hub name, or `package:NAME` for a GGUF model inside an installed Python package."""
    prune: PruneConfig | None = None


class SamplerConfig(Strict):
    engine: Literal["vllm", "hf"] = "vllm"
    num_replicas: int = Field(default=1, ge=1)
    dtype: Dtype = "bfloat16"
    max_model_len: int = Field(default=1024, ge=2)
    """Longest prompt plus completion, tokens."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to the vllm engine untouched."""

    @model_validator(mode="after")
    def _engine_args_of_engine(self) -> "SamplerConfig":
        _check_engine_args(self.engine, self.engine_args)
        return self


class TeacherConfig(Strict):
    model: str
    """A local folder, a hub name, or `package:NAME`."""
    engine: Literal["vllm", "hf"] = "vllm"
    transport: Literal["hidden", "topk", "full", "sampled"] = "hidden"
    """What it says about a token: hidden states (exact), its `top_k` most probable ids, all of the vocabulary (exact),
    or the log-prob of that token alone."""
    top_k: int = Field(default=64, ge=1)
    """Of `topk`."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of the teacher in the loss; the student's is 1 (paper, section 4)."""
    verify_readout: bool = True
    """With `hidden`: before the run, compare the log-probs that the learner rebuilds with the engine's own. The vllm
    engine that gives hidden states has no LM head, so another one answers first, once for each model (the answers are
    kept in the cache folder); false spares that start, and compares the teacher with its own first answers only."""
    sentinel_steps: int = Field(default=50, ge=0)
    """Every so many steps the teacher's answers about golden sequences are compared again; 0 is never."""
    num_replicas: int = Field(default=1, ge=1)
    dtype: Dtype = "bfloat16"
    max_model_len: int = Field(default=1024, ge=2)
    engine_args: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_engine(self) -> "TeacherConfig":
        _check_engine_args(self.engine, self.engine_args)
        if self.engine == "vllm" and self.transport == "full":
            raise ValueError(
                "the vllm engine has no `full` transport; use teacher.transport=hidden (exact) or engine=hf"
            )
        return self
