"""What an engine tells the grid while it works."""

from __future__ import annotations

from typing import Protocol

from embedcal.grids.jobs import Job, Record


class Report(Protocol):
    """Called by an engine, always in the grid's own process and thread."""

    def started(self, running: int) -> None:
        """So many runs are being done at this moment."""

    def ended(self, job: Job, record: Record | None) -> None:
        """A job is done or has failed; None where another process holds it."""
