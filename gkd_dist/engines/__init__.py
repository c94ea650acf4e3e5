"""What engines of several roles share: the start of vLLM, probes of transformers models, its decoding (floor F3)."""
