"""What a person sees of a run: the bar, the log, metrics as JSON lines and in trackers."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretrain.training.run_folder import RunFolderError, latest_state, written

logger = logging.getLogger(__name__)

FILE_INTERVAL_S = 10.0
"""Between two states of the bar in a file, where each is a line's worth."""

METRICS_FILE = "metrics.jsonl"
FORMAT = "[%(levelname)s %(asctime)s] %(message)s"


def start_logging(logfile: Path | None) -> None:
    """Log to the terminal and to a file; without a file, as on processes but the first, warnings alone.

    Raises:
        RunFolderError: the file cannot be opened.
    """
    root = logging.getLogger("pretrain")
    root.handlers.clear()
    root.propagate = False
    root.setLevel(logging.INFO if logfile else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if logfile:
        try:
            logfile.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(logfile, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise RunFolderError(
                f"cannot write the log {logfile}: {error.strerror}; make room, or give another logfile"
            ) from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
        root.addHandler(handler)


class _LogFile(logging.FileHandler):
    """A log file that goes silent, with one warning on the terminal, when it cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Stop writing to the file."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger("pretrain").removeHandler(self)
        with suppress(OSError):  # closing flushes once more
            self.close()
        logger.warning("Could not write the log %s: %s; the log goes on here alone", self.baseFilename, error)


@contextmanager
def threads_warn() -> Iterator[None]:
    """Log a warning, instead of a traceback, when a thread of a tracker cannot write inside the block."""
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            before(failure)
            return
        name = failure.thread.name if failure.thread else "a thread"
        logger.warning("A tracker cannot write (%s): %s", name, failure.exc_value)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def stop_logging() -> None:
    """Close the log file."""
    root = logging.getLogger("pretrain")
    for handler in root.handlers[:]:
        with suppress(OSError):  # the disk is full, which has been reported
            handler.close()
        root.removeHandler(handler)
    root.propagate = True


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics, in order."""
    path = run_dir / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Journal:
    """Writes a run's metrics; processes but the first write nothing.

    Args:
        run_dir: the run's folder.
        accelerator: its trackers get every number as well.
        iteration: where the run begins or resumes.
        total: iterations of the whole run, None if unknown.
        name: of what the run does.
        is_to_come: whether a line of an interrupted run is of work that was lost and is being done again;
            such lines are removed.

    Raises:
        RunFolderError: the metrics so far are damaged, or cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        accelerator: Accelerator,
        iteration: int,
        total: int | None,
        name: str,
        is_to_come: Callable[[dict[str, Any]], bool] = lambda line: False,
    ) -> None:
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.run_dir, self.path = run_dir, run_dir / METRICS_FILE
        self._has_trackers = True
        if self.is_main:
            kept = [
                line for line in _complete_lines(self.path) if not is_to_come(_values_of(line, self.path))
            ]
            with written(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))
        self.bar = tqdm(
            total=total,
            initial=iteration,
            unit="it",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.1 if sys.stderr.isatty() else FILE_INTERVAL_S,
            disable=not self.is_main,
            desc=name,
        )
        self._redirection = logging_redirect_tqdm([logging.getLogger("pretrain")])
        self._redirection.__enter__()

    def step(self, loss: float, lr: float, audio_s: float) -> None:
        """Move the bar on by an iteration, on `audio_s` seconds of audio; the speed is told once measured."""
        shown = f"loss {loss:.4f}, lr {lr:.2e}"
        if iterations_per_s := self._iterations_per_s():
            speed = iterations_per_s * audio_s
            shown += f", {speed:,.{0 if speed >= 10 else 1}f} s of audio/s"
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update()

    def _iterations_per_s(self) -> float | None:
        """What the bar shows: the moving rate, until there is one that since the start; None: unknown."""
        state = self.bar.format_dict
        if state["rate"] or not state["elapsed"]:
            return state["rate"]
        return (state["n"] - state["initial"]) / state["elapsed"]

    def write(self, iteration: int, **values: Any) -> None:
        """Add a line of metrics.

        Raises:
            RunFolderError: it cannot be written.
        """
        if not self.is_main:
            return
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        except OSError as error:
            kept = latest_state(self.run_dir)
            raise RunFolderError(
                f"could not write {self.path}: {error.strerror or error}; "
                f"{'there is no state yet' if kept is None else f'{kept} is intact'}. Make room, then "
                "continue with --resume"
            ) from error
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        if self._has_trackers:
            self._track(numbers, iteration)

    def _track(self, numbers: dict[str, float], iteration: int) -> None:
        """Give numbers to the trackers; one that fails ends none but itself and its like."""
        try:
            self.accelerator.log(numbers, step=iteration)
        except Exception as error:  # whatever a tracker's library raises
            self._has_trackers = False
            logger.warning(
                "The trackers %s failed and get no more numbers (%s stays complete): %s",
                ", ".join(tracker.name for tracker in self.accelerator.trackers),
                self.path,
                error,
            )

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._redirection.__exit__(None, None, None)
        self.bar.close()


def _values_of(line: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(line)
        values["iteration"], values["epoch"] = int(values["iteration"]), int(values["epoch"])
    except (ValueError, TypeError, KeyError) as error:
        raise RunFolderError(
            f"{path} is damaged, its line {line[:80]!r} holds no metrics; remove the line, or the file"
        ) from error
    return values


def _complete_lines(path: Path) -> list[str]:
    """Lines of a file that ends, if a process was killed, in the middle of one."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()
