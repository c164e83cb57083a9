"""What a training run shows and writes down while it runs."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medseg.atomic import write_text


class EpochLog(Callback):
    """One row an epoch: in a CSV file and, where asked, on stderr, as a bar with the time left or as plain lines.

    The rows are part of the checkpoints, so the file of a resumed run is that of an uninterrupted one, but for times.
    """

    def __init__(self, path: Path, *, show: bool) -> None:
        self._path = path
        self._rows: list[dict[str, float]] = []
        self._console = Console(stderr=True)
        self._bar = _bar(self._console) if show and self._console.is_terminal else None
        self._print_lines = show and self._bar is None
        self._epoch_began = self._batch_ended = self._cpu_began = 0.0
        self._loading_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of a checkpoint."""
        self._rows = list(state_dict["rows"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks and open the bar."""
        self._start_clocks()
        if not trainer.is_global_zero:
            self._bar, self._print_lines = None, False
        if self._bar is not None:
            total = int(trainer.estimated_stepping_batches)
            self._bar.start()
            self._bar.add_task(_summary(self._rows), total=total, completed=trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """What passed since the last batch ended was spent on waiting for this one."""
        self._loading_seconds += time.monotonic() - self._batch_ended

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Advance the bar."""
        self._batch_ended = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row; this comes before the checkpoint is saved, so the checkpoint holds it."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        validated = (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0
        row = {"epoch": trainer.current_epoch + 1, "steps": trainer.global_step, "loss": metrics["loss"]}
        row |= {name: value for name, value in metrics.items() if name.startswith("dice") and validated}
        row |= {"seconds": time.monotonic() - self._epoch_began, "cpu_seconds": time.process_time() - self._cpu_began}
        row |= {"loading_seconds": self._loading_seconds}
        self._rows.append(row)
        if not trainer.is_global_zero:
            return
        write_text(self._path, as_csv(self._rows))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=_summary(self._rows))
        elif self._print_lines:
            left = (trainer.max_epochs - trainer.current_epoch - 1) * row["seconds"] / 60
            print(
                f"{_summary(self._rows)}, {row['seconds']:.1f} s, about {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )

        self._start_clocks()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, however training ended."""
        if self._bar is not None:
            self._bar.stop()

    def _start_clocks(self) -> None:
        # Not in on_train_epoch_start, which Lightning leaves out in the first epoch after a resumption.
        self._epoch_began = self._batch_ended = time.monotonic()
        self._cpu_began = time.process_time()
        self._loading_seconds = 0.0


@contextmanager
def counter(what: str, *, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for countable work; yields a function of (done, total)."""
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield lambda done, total: None
        return
    with _bar(console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def training_seconds(log: Path, column: str = "seconds") -> float:
    """Time that all epochs of a log took together, across interruptions; "cpu_seconds" are those of the process."""
    with log.open(newline="", encoding="utf-8") as file:
        return math.fsum(float(row[column]) for row in csv.DictReader(file))


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)


def _summary(rows: list[dict[str, float]]) -> str:
    if not rows:
        return "epoch 1"
    text = f"epoch {rows[-1]['epoch']:.0f}: loss {rows[-1]['loss']:.4f}"
    validated = [row for row in rows if "dice" in row]
    return f"{text}, Dice {validated[-1]['dice']:.4f}" if validated else text


def as_csv(rows: list[dict[str, float]]) -> str:
    """Rows as they stand in `log.csv`."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: name.endswith("seconds"))  # stable: times last
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: round(value, 6) for name, value in row.items()} for row in rows)
    return text.getvalue()
