"""Where an engine runs, and what it reads from the environment."""

import os


def device_of(num_gpus: float) -> str:
    return "cuda" if num_gpus > 0 else "cpu"


def quiet_vllm() -> None:
    """vLLM reads these when it is imported; a user's own values win."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "1")
