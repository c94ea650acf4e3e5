"""One strict pydantic model per component; `run.RunConfig` composes them (floor F1)."""
