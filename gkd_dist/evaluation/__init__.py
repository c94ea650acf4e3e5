"""Metrics of text and of answers, and how a model is asked for them (floor F3)."""
