"""The process in which one of HEAR's official tools runs, unmodified, on a modern Python.

`python -m eval_recipes.official_process TOOL ARGUMENT...` supplies what the tool
takes for granted and hands it the arguments as they are. `eval_recipes.official`
starts it; what is changed here for the tool's sake ends with the process.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import runpy
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from eval_recipes.hear_modules import import_hear_module
from eval_recipes.model_arguments import refuse_weights_among_options
from eval_recipes.modules.checks import (
    FUNCTIONS,
    check_functions,
    check_scenes,
    check_timestamp_embeddings,
    is_left_in_training,
    model_attributes,
)
from eval_recipes.modules.guard import ModuleProblem, module_code, quoted, shown_name, told

TOOLS = {
    "validate": "hearvalidator.validate",
    "embeddings": "heareval.embeddings.runner",
    "predictions": "heareval.predictions.runner",
}


def stand_in_for_tensorflow() -> None:
    """Let `import tensorflow` succeed where it is not installed.

    The tools import it for isinstance checks that no torch model meets. einops
    looks for Tensor and Variable, transformers for a real `__spec__`.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        return
    tensorflow = ModuleType("tensorflow", "Stands in for TensorFlow, which is not installed.")
    tensorflow.__spec__ = ModuleSpec("tensorflow", loader=None)
    tensorflow.__version__ = "2.0.0"
    tensorflow.float32 = "float32"
    for name in ("Module", "Tensor", "Variable"):
        setattr(tensorflow, name, type(name, (), {}))
    tensorflow.test = ModuleType("tensorflow.test")
    tensorflow.test.is_gpu_available = lambda **_: True  # else heareval refuses a GPU that torch has
    sys.modules["tensorflow"] = tensorflow


def let_tools_load_their_own_checkpoints() -> None:
    """heareval and Lightning reload checkpoints they wrote minutes ago, with pickled classes in them."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def describe(module_name: str, model_path: str | None, options: dict[str, object]) -> dict[str, object]:
    """Load a HEAR model once and return what running heareval on it takes for granted."""
    with module_code(module_name, "its import", leave=(Exception,)):
        module = import_hear_module(module_name)
        check_functions(module_name, module)
    refuse_weights_among_options(module.load_model, options)
    with module_code(module_name, "load_model", leave=(Exception,)):
        model = module.load_model(model_path, **options) if model_path else module.load_model(**options)
    attributes = model_attributes(module_name, model)
    return {
        "sample_rate": attributes["sample_rate"],
        "is_training": isinstance(model, _torch_module()) and is_left_in_training(module_name, module, model),
        "checkpoint_path": found
        if isinstance(found := getattr(model, "checkpoint_path", None), str)
        else None,
    }


def write_description(module_name: str, model_path: str, options: str, answer: str) -> None:
    """Write `describe`'s result to the file `answer` as JSON, or why there is none as `problem`."""
    try:
        found = describe(module_name, model_path or None, json.loads(options))
    except Exception as error:  # whatever a foreign module raises becomes one line for its user
        found = {"problem": told(error)}
    Path(answer).write_text(json.dumps(found))


def import_guarded(module_name: str, *, check: bool = False) -> None:
    """Import a HEAR module whose functions, from then on in this process, run as `module_code`.

    Args:
        module_name: as Python imports it.
        check: also check what the functions give for a torch model, which heareval does not.

    Raises:
        ImportError: there is no such module.
        ModuleProblem: importing it raises no Exception, but SystemExit, say.
    """
    with module_code(module_name, "its import", leave=(Exception,)):
        module = import_hear_module(module_name)
    for name in FUNCTIONS:
        if callable(function := getattr(module, name, None)):
            setattr(module, name, _guarded(module_name, name, function, check))


def _guarded(module_name: str, name: str, function: Callable[..., Any], check: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        with module_code(module_name, name, leave=(Exception,) if name == "load_model" else ()):
            found = function(*given, **named)
        if check and name != "load_model" and isinstance(model := given[1], _torch_module()):
            n_clips, attributes = len(given[0]), model_attributes(module_name, model)
            if name == "get_scene_embeddings":
                check_scenes(module_name, found, n_clips, attributes["scene_embedding_size"])
            else:
                size = attributes["timestamp_embedding_size"]
                check_timestamp_embeddings(module_name, found, n_clips, size)
        return found

    return run


def _torch_module() -> type:
    import torch

    return torch.nn.Module


def fill_in_model(module_name: str, model: str) -> None:
    """Give a module's `load_model` a checkpoint's name, where a tool takes only paths that exist."""
    module = importlib.import_module(module_name)
    module.load_model = functools.partial(module.load_model, model)


def with_options(module_name: str, options: dict[str, object]) -> str:
    """Register a module whose load_model has options filled in, and return its name; it is imported already.

    The validator, unlike heareval, has no way to pass options.
    """
    module = sys.modules[module_name]
    name = f"{module_name}.with_options"
    wrapper = ModuleType(name)
    wrapper.__getattr__ = functools.partial(getattr, module)
    wrapper.load_model = functools.partial(module.load_model, **options)
    sys.modules[name] = wrapper
    return name


def validator_arguments(arguments: list[str]) -> argparse.Namespace:
    """The validator's command line, read as it reads it."""
    parser = argparse.ArgumentParser(prog="hear-dasheng validate")
    parser.add_argument("module")
    parser.add_argument("--model", "-m", default="")
    parser.add_argument("--device", "-d")
    return parser.parse_args(arguments)


def problem_loading(arguments: list[str]) -> str:
    """Why the module or its model cannot be loaded, in a line; empty if they can."""
    chosen = validator_arguments(arguments)
    what = shown_name(chosen.module)
    try:
        with module_code(chosen.module, "its import", leave=(Exception,)):
            module = import_hear_module(chosen.module)
        if hasattr(module, "load_model"):
            what = f"{what}.load_model({quoted(chosen.model)})"
            with module_code(chosen.module, "load_model", leave=(Exception,)):
                model = module.load_model(chosen.model) if chosen.model else module.load_model()
                if chosen.device and hasattr(model, "to"):
                    model.to(chosen.device)
    except ModuleProblem as problem:
        return str(problem)
    except Exception as error:  # whatever a foreign module raises becomes one line for its user
        return f"{what}: {told(error, always_with_type=True)}"
    return ""


def check_beyond_validator(arguments: list[str]) -> list[str]:
    """Look for what the validator does not: not finite, not repeatable, still in training mode.

    Args:
        arguments: the validator's own command line.

    Returns:
        What is wrong, a sentence each.
    """
    import torch

    chosen = validator_arguments(arguments)
    chosen.device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    module = importlib.import_module(chosen.module)
    model = module.load_model(chosen.model) if chosen.model else module.load_model()
    if not isinstance(model, torch.nn.Module):
        print("The model is not torch's: whether embeddings are finite and repeatable is not checked.")
        return []
    attributes = model_attributes(chosen.module, model)
    problems = []
    if is_left_in_training(chosen.module, module, model):
        problems.append("load_model returns a model in training mode, and heareval never calls eval()")
    model = model.to(chosen.device)
    samples = 2 * attributes["sample_rate"]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, samples, generator=generator, dtype=torch.float32).mul(2).sub(1)
    for name, audio in {
        "noise": noise,
        "silence": torch.zeros_like(noise),
        "quiet noise": noise * 1e-4,
    }.items():
        audio = audio.to(chosen.device)
        with torch.no_grad():
            scene = module.get_scene_embeddings(audio, model)
            over_time = module.get_timestamp_embeddings(audio, model)
            again = module.get_scene_embeddings(audio, model)
        for found in (scene, again):
            check_scenes(chosen.module, found, 2, attributes["scene_embedding_size"])
        size = attributes["timestamp_embedding_size"]
        tokens, _ = check_timestamp_embeddings(chosen.module, over_time, 2, size)
        for kind, embeddings in {"scene": scene, "timestamp": tokens}.items():
            bad = int((~embeddings.isfinite()).sum())
            if bad:
                problems.append(
                    f"{bad} of {embeddings.numel()} values of the {kind} embeddings of {name} are not finite"
                )
        if scene.isfinite().all() and not torch.allclose(scene, again, rtol=1e-4, atol=1e-5):
            problems.append(f"two calls on the same {name} give different scene embeddings")
    return problems


def prepare(tool: str, arguments: list[str]) -> list[str]:
    """Import the tool's HEAR module guarded, fill in what the tool cannot pass on, and return its arguments.

    Raises:
        Exception: the module cannot be imported or its model cannot be loaded.
    """
    if tool == "predictions":
        let_tools_load_their_own_checkpoints()
    elif tool == "embeddings":
        model, *arguments = arguments
        import_guarded(arguments[0], check=True)
        if model:
            fill_in_model(arguments[0], model)
    else:
        options, module_name, *rest = arguments
        try:
            import_guarded(module_name)
        except ModuleProblem:
            raise
        except Exception as error:  # whatever a foreign module raises becomes one line for its user
            raise ModuleProblem(f"{shown_name(module_name)}: {told(error, always_with_type=True)}") from error
        is_with_options = options != "{}" and hasattr(sys.modules[module_name], "load_model")
        name = with_options(module_name, json.loads(options)) if is_with_options else module_name
        arguments = [name, *rest]
        if problem := problem_loading(arguments):
            raise ModuleProblem(problem)
    return arguments


def main() -> int:
    """Run one tool; returns the process's exit code."""
    tool, *arguments = sys.argv[1:]
    stand_in_for_tensorflow()
    if tool == "describe":
        write_description(*arguments)
        return 0
    try:
        arguments = prepare(tool, arguments)
        sys.argv = [TOOLS[tool], *arguments]
        _run(tool)
        problems = check_beyond_validator(arguments) if tool == "validate" else []
    except ModuleProblem as problem:
        print(f"Error: {problem}", file=sys.stderr)
        return 1
    except Exception as error:
        if tool != "validate":
            raise  # heareval's own; its output is kept in a log
        print(f"Error: hear-validator fails on the module: {told(error)}", file=sys.stderr)
        return 1
    except BaseException as error:
        if type(error).__name__ != "ModelError":  # the validator's own verdict
            raise
        print(f"hear-validator refuses the module: {error}", file=sys.stderr)
        return 1
    if problems:
        print("\nhearvalidator is content, but:", *problems, sep="\n  - ", file=sys.stderr)
        return 1
    if tool == "validate":
        print("Also finite and repeatable on noise, quiet noise and silence, and in evaluation mode.")
    return 0


def _run(tool: str) -> None:
    """Run a tool's main module; an exit with code 0 is its normal end."""
    try:
        runpy.run_module(TOOLS[tool], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    sys.exit(main())
