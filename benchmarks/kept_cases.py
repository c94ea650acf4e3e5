"""Cases of a measurement: each is measured once, written down at once, and found again after a restart."""

import fcntl
import json
import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

MADE_FROM = "made_from"
"""Of a case: a digest of what it was made from."""


class KeptCases:
    """The JSON file of a measurement: parts, which hold cases by name, or cases within cases. Several processes may
    measure different cases of one file.

    Args:
        path: read before and written after every case; what is there already is kept.
        about: what is said of all of them, such as the machine.
        again: parts that are measured anew, whatever is kept.
        after: called with the content after every case.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        again: frozenset[str] = frozenset(),
        after: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        self._path, self._about, self._again, self._after = path, about, again, after

    def do(self, *names: str, of: object, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The case of this part and these names: what is kept, or what `measure` returns.

        Args:
            of: what the case depends on; its repr says all of it. A case that is kept of something else is measured
                anew. Code is not part of it: `again` is for that.
        """
        digest, title = sha256(repr(of).encode()).hexdigest()[:12], ", ".join(names)
        kept = _place(self._read(), names[:-1]).get(names[-1], {})
        if kept.get(MADE_FROM) == digest and names[0] not in self._again:
            print(f"{title}: kept", flush=True)
            return kept
        print(f"{title} ...", flush=True)
        found = {**measure(), MADE_FROM: digest}
        print(json.dumps(found), flush=True)
        self._keep(names, found)
        return found

    def _read(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _keep(self, names: Sequence[str], found: dict[str, Any]) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            content = {**self._read(), **self._about}
            _place(content, names[:-1])[names[-1]] = found
            draft = self._path.with_suffix(".part")
            draft.write_text(json.dumps(content, indent=1) + "\n")
            draft.replace(self._path)
            self._after(content)
        finally:
            os.close(folder)


def _place(content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What holds a case; made where it is not there."""
    for name in names:
        content = content.setdefault(name, {})
    return content
