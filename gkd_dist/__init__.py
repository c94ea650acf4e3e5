"""On-policy distillation with generalized knowledge distillation (GKD), distributed over Ray and vLLM.

Importing this package imports nothing heavy: no torch, ray, vllm or transformers.
"""

__version__ = "0.1.0"
