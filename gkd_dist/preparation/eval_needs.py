"""What an evaluation needs of this machine, and does not find (floor F5)."""

import importlib.util

from gkd_dist.config.evaluation import EvalConfig


def missing_packages(config: EvalConfig) -> list[str]:
    """One line if packages of the extra `eval` that this task computes with are not installed."""
    wanted = {"scipy": "scipy"}
    if config.task == "summarisation":
        wanted["rouge_score"] = "rouge-score"
    if config.task == "translation" or config.decoding.num_samples > 1:
        wanted["sacrebleu"] = "sacrebleu"
    missing = [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return []
    return [f"task={config.task} needs {' and '.join(missing)}; run `pip install 'gkd-dist[eval]'`"]


def missing_device(config: EvalConfig) -> list[str]:
    """One line if there is no GPU, and one is asked for."""
    if config.device != "cuda":
        return []
    from gkd_dist.evaluation.devices import has_gpu

    there = has_gpu(is_forked=config.engine == "vllm")
    return [] if there else ["device: cuda needs a GPU, and torch finds none here; set device=cpu"]
