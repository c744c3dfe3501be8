"""What happened, in words: kept while a seed runs and printed when an invariant breaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Violation(AssertionError):
    """An invariant is broken. `messages`: the numbers of those it is about."""

    def __init__(self, text: str, messages: Iterable[int] = ()) -> None:
        super().__init__(text)
        self.text = text
        self.messages = sorted(messages)


class History:
    """The last lines, formatted only when somebody reads them."""

    def __init__(self, lines: int | None) -> None:
        self._lines: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=lines)

    def add(self, now: float, text: str, *values: object) -> None:
        """One line; `values` are formatted later, so they must not change."""
        self._lines.append((now, text, values))

    def text(self) -> list[str]:
        """All lines kept, oldest first."""
        return [f"{now:9.3f} s  {text % values}" for now, text, values in self._lines]


def spans(numbers: Iterable[int]) -> str:
    """Message numbers in short: `0-3 7 9-10`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number <= runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs) or "none"


class Spans:
    """Message numbers that are put into words only when somebody reads them."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)

    def __str__(self) -> str:
        """As `spans`."""
        return spans(self._numbers)
