"""What a person sees of a run: the bar, the log, metrics as JSON lines and in trackers."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretrain.training.run_folder import written_whole

FILE_INTERVAL_S = 10.0
"""Between two states of the bar in a file, where each is a line's worth."""

METRICS_FILE = "metrics.jsonl"
FORMAT = "[%(levelname)s %(asctime)s] %(message)s"


def start_logging(logfile: Path | None) -> None:
    """Log to the terminal and to a file; without a file, as on processes but the first, warnings alone."""
    root = logging.getLogger("pretrain")
    root.handlers.clear()
    root.propagate = False
    root.setLevel(logging.INFO if logfile else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if logfile:
        logfile.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(logfile))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
        root.addHandler(handler)


def stop_logging() -> None:
    """Close the log file."""
    root = logging.getLogger("pretrain")
    for handler in root.handlers[:]:
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
        iteration: where the run begins or goes on; lines after it are of work that
            was lost and is being done again, so they are removed.
        total: iterations of the whole run, None if unknown.
        name: of what the run does.
    """

    def __init__(
        self, run_dir: Path, accelerator: Accelerator, iteration: int, total: int | None, name: str
    ) -> None:
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.path = run_dir / METRICS_FILE
        if self.is_main:
            kept = [line for line in _complete_lines(self.path) if json.loads(line)["iteration"] <= iteration]
            with written_whole(self.path) as partial:
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
        """Add a line of metrics."""
        if not self.is_main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=iteration)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._redirection.__exit__(None, None, None)
        self.bar.close()


def _complete_lines(path: Path) -> list[str]:
    """Lines of a file that ends, if a process was killed, in the middle of one."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()
