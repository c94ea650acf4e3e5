"""What model families do to logits after the head's product, read from their transformers configurations (floor F0).

A key is read wherever it is present, also in a configuration whose model ignores it: whoever needs certainty compares
(`engines/probes.py`, `teachers/verified.py`).
"""

SCALES = ("logit_scale", "lm_head_multiplier")
"""Keys that multiply: Cohere, Falcon-H1."""
SCALINGS = ("logits_scaling", "logits_mup_width_multiplier")
"""Keys that divide: Granite and MiniCPM (HyperCLOVA X multiplies by the same key), Inkling."""
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Keys of Gemma, RecurrentGemma and xLSTM."""


def logit_scale(config: object) -> float:
    """The factor on every logit.

    T5 of version 1.0 multiplies its decoder's states by d_model**-0.5; version 1.1, Flan-T5 and mT5 do not.
    """
    factor = 1.0
    for key in SCALES:
        factor *= _number(config, key)
    for key in SCALINGS:
        number = _number(config, key)
        factor *= number if getattr(config, "model_type", None) == "hyperclovax" else 1.0 / number
    if _t5_scaled(config):
        factor *= float(config.d_model) ** -0.5  # type: ignore[attr-defined]
    return factor


def soft_cap(config: object) -> float | None:
    """The bound of the absolute logit; None where there is none."""
    found = [float(value) for key in SOFT_CAPS if (value := getattr(config, key, None)) is not None]
    return found[0] if found else None


def _t5_scaled(config: object) -> bool:
    """transformers keeps T5's choice as `scale_decoder_outputs`; UMT5 and Switch scale whenever they tie."""
    scaled = getattr(config, "scale_decoder_outputs", None)
    if scaled is None and getattr(config, "model_type", None) in ("umt5", "switch_transformers"):
        scaled = getattr(config, "tie_word_embeddings", True)
    return bool(scaled)


def _number(config: object, key: str) -> float:
    value = getattr(config, key, None)
    return 1.0 if value is None else float(value)
