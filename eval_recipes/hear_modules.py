"""A HEAR module's name -> the module; a name that is none is told the nearest one that is."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from eval_recipes.modules.guard import quoted

PACKAGES = ("hear_dasheng", "eval_recipes.baselines")
"""Where the modules are that a user may have meant; those in the working directory count, too."""
NAME = re.compile(r"[^\W\d-][\w-]*(\.[^\W\d-][\w-]*)*")
LONGEST_NAME = 128
"""In bytes: a folder is named after the module, its checkpoint and its options, and takes 255."""
OFFERS_A_MODEL = re.compile(r"^def load_model\(|^__all__ = .*\"load_model\"", re.MULTILINE)


def import_hear_module(name: str) -> ModuleType:
    """Import a module.

    Raises:
        ModuleNotFoundError: there is none of that name; the message names the nearest.
        ImportError: the name is none, or the module is there, and what it imports is not.
    """
    check_name(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise
        raise ModuleNotFoundError(f"{error}{_suggestion(name)}", name=missing) from error


def check_name(name: str) -> None:
    """Check that a text can be the name of a HEAR module, and of its folder of embeddings.

    Raises:
        ImportError: it cannot.
    """
    if not NAME.fullmatch(name) or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise ImportError(
            f"{quoted(name)} is no name of a module of at most {LONGEST_NAME} bytes; write it as Python "
            "imports it, such as eval_recipes.baselines.log_mel"
        )


def _suggestion(name: str) -> str:
    known = set(_known_modules())
    meant = {own.rpartition(".")[2].lower(): own for own in sorted(known, reverse=True)}
    meant |= {own.lower(): own for own in known}
    near = difflib.get_close_matches(name.lower(), meant, n=1)
    near = near or difflib.get_close_matches(name.lower().rpartition(".")[2], meant, n=1)
    return f"; did you mean {meant[near[0]]}?" if near else ""


def _known_modules() -> Iterator[str]:
    """Modules whose source says that they have `load_model`; nothing is imported but the packages above."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found = {package: Path(folder, "__init__.py")}
            for module in pkgutil.iter_modules([folder]):
                found[f"{package}.{module.name}"] = Path(folder, f"{module.name}.py")
            yield from (name for name, file in found.items() if _offers_a_model(file))
    yield from (file.stem for file in Path.cwd().glob("*.py") if _offers_a_model(file))


def _offers_a_model(file: Path) -> bool:
    return (
        file.is_file()
        and os.access(file, os.R_OK)
        and bool(OFFERS_A_MODEL.search(file.read_text(encoding="utf-8", errors="replace")))
    )
