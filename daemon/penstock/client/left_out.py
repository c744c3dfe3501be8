"""Batches that plans went without."""

from __future__ import annotations


class LeftOut:
    """Batches that some plan left out, each with its epoch: no commit may acknowledge them, whatever becomes of them.

    `gone`: how many there have been, for people.
    """

    def __init__(self) -> None:
        self.gone = 0
        self._epochs: dict[str, int] = {}

    def __contains__(self, batch: str) -> bool:
        """Whether a batch is left out for good."""
        return batch in self._epochs

    def add(self, batch: str, epoch: int) -> None:
        """A plan of that epoch goes without it."""
        self._epochs[batch] = epoch

    def learn(self, epochs: dict[str, int] | None) -> None:
        """What an offset tells."""
        self._epochs |= epochs or {}

    def forget(self, through: int) -> None:
        """Of those epochs no commit is pending any more."""
        self._epochs = {batch: epoch for batch, epoch in self._epochs.items() if epoch > through}

    @property
    def batches(self) -> tuple[str, ...]:
        """Their IDs, for commits."""
        return tuple(self._epochs)

    @property
    def by_batch(self) -> dict[str, int] | None:
        """For the next offset; None when there are none."""
        return dict(self._epochs) or None
