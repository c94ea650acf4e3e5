"""Dropout by configuration: one share while the student learns, mostly 0; its own in what is saved."""

from collections.abc import Iterator, Mapping

from transformers import PretrainedConfig

_ENDINGS = ("dropout", "pdrop", "layerdrop", "dropout_prob", "dropout_rate")

DropoutValues = Mapping[tuple[str, ...], float]
"""Path of a key through nested configurations -> its value."""


def dropout_values(config: PretrainedConfig) -> DropoutValues:
    """Every key of `config`, nested ones too, that says how much is dropped."""
    return dict(_walk(config, ()))


def set_dropout(config: PretrainedConfig, values: DropoutValues) -> None:
    """Write `values` into `config`."""
    for (*parents, key), value in values.items():
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, key, value)


def even_dropout(values: DropoutValues, share: float) -> DropoutValues:
    """The same keys, all at `share`; whole layers are never dropped.

    Set before the model is built: functional dropout (OPT's, every attention's) keeps a copy of the number, and no
    module that could be found afterwards.
    """
    return {path: 0.0 if path[-1].endswith("layerdrop") else share for path in values}


def _walk(config: PretrainedConfig, parents: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            yield from _walk(value, (*parents, key))
        elif key.endswith(_ENDINGS) and isinstance(value, int | float) and not isinstance(value, bool):
            yield (*parents, key), value
