"""Blocks of a measurement: each is run once, kept as soon as it is done, and found again after a restart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Blocks:
    """The JSON file of a measurement.

    Args:
        path: written whole after every block.
        settings: what every block depends on.
        machine: where it is measured.

    Raises:
        SystemExit: the file holds blocks of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], machine: dict[str, Any]) -> None:
        self._path = path
        self.content: dict[str, Any] = {"settings": settings, "machine": machine, "blocks": {}}
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["settings"] != settings:
                changed = [key for key in settings if kept["settings"].get(key) != settings[key]]
                raise SystemExit(
                    f"{path} holds blocks of other settings ({', '.join(changed)}); move it away, or give --output"
                )
            self.content["blocks"] = kept["blocks"]

    def __getitem__(self, name: str) -> Any:
        return self.content["blocks"][name]

    def __contains__(self, name: str) -> bool:
        return name in self.content["blocks"]

    def do(self, name: str, block: Callable[[], Any]) -> Any:
        """What `block` returns, now or when it was done before."""
        if name in self:
            print(f"{name}: done before", flush=True)
        else:
            print(f"{name} ...", flush=True)
            self.content["blocks"][name] = block()
            self._write()
        return self[name]

    def conclude(self, **results: Any) -> None:
        """Put results beside the blocks."""
        self.content |= results
        self._write()

    def _write(self) -> None:
        draft = self._path.with_suffix(".part")
        draft.write_text(json.dumps(self.content, indent=1) + "\n")
        draft.replace(self._path)
