"""What is wrong with several rows of one file, told together (floor F2)."""

_SHOWN = 3


class Faults:
    """The first few, one line each, and how many there are; no more is kept, whatever the number of rows."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._number = 0

    def add(self, fault: str) -> None:
        """One more; it begins with its place."""
        self._number += 1
        if self._number <= _SHOWN:
            self._shown.append(fault)

    def __len__(self) -> int:
        return self._number

    def __str__(self) -> str:
        if self._number <= _SHOWN:
            return "\n".join(self._shown)
        return "\n".join([*self._shown, f"{self._number - _SHOWN} more rows are refused too, {self._number} in all"])
