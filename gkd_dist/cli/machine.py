"""The command about this machine (floor F5)."""

from pathlib import Path

import typer

from gkd_dist.cli.arguments import Address, AsJson, OutputDir


def doctor(as_json: AsJson = False, output_dir: OutputDir = Path("runs"), address: Address = None) -> None:
    """Check this machine: versions, engine, memory, disk, ports, token."""
    from gkd_dist.operations.doctor import doctor as examine

    raise typer.Exit(examine(output_dir, address, as_json=as_json))
