"""What engines of several roles share: the start of vLLM in this process, probes of transformers models (floor F3)."""
