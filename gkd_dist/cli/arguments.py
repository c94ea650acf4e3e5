"""Arguments that several commands of `gkd` share (floor F5)."""

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Name of a packaged recipe (see `gkd recipes`), or path of a YAML file; A+B is B over A."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings, such as learner.max_steps=100; VALUE is YAML.", show_default=False
    ),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run directory, or the name of one below --output-dir, or `latest`."),
]
OutputDir = Annotated[Path, typer.Option("--output-dir", metavar="FOLDER", help="Where the run directories are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Dashboard of a Ray cluster, such as http://127.0.0.1:8265; else $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS.",
        show_default=False,
    ),
]
SUBJECT_HELP = (
    "A run directory, or the name of one below --output-dir, or `latest`; with --address a job or the name of its run."
)
Subject = Annotated[str, typer.Argument(metavar="RUN", help=SUBJECT_HELP)]
