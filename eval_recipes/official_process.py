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
from importlib.machinery import ModuleSpec
from types import ModuleType

from eval_recipes.hear_modules import import_hear_module
from eval_recipes.model_arguments import refuse_weights_among_options

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
    """Load a HEAR model once and tell what running heareval on it takes for granted."""
    module = import_hear_module(module_name)
    refuse_weights_among_options(module.load_model, options)
    model = module.load_model(model_path, **options) if model_path else module.load_model(**options)
    weights = getattr(model, "parameters", tuple)()
    return {
        "sample_rate": model.sample_rate,
        "is_training": bool(getattr(model, "training", False)),
        "has_weights": next(iter(weights), None) is not None,
        "checkpoint_path": found
        if isinstance(found := getattr(model, "checkpoint_path", None), str)
        else None,
    }


def fill_in_model(module_name: str, model: str) -> None:
    """Give a module's `load_model` a checkpoint's name, where a tool takes only paths that exist."""
    module = importlib.import_module(module_name)
    module.load_model = functools.partial(module.load_model, model)


def with_options(module_name: str, options: dict[str, object]) -> str:
    """Register a module whose load_model has options filled in, and return its name.

    The validator, unlike heareval, has no way to pass options.
    """
    module = import_hear_module(module_name)
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
    what = chosen.module
    try:
        module = import_hear_module(chosen.module)
        if hasattr(module, "load_model"):
            what = f"{chosen.module}.load_model({chosen.model!r})"
            model = module.load_model(chosen.model) if chosen.model else module.load_model()
            if chosen.device:
                model.to(chosen.device)
    except Exception as error:  # whatever a foreign module raises becomes one line for its user
        return f"{what}: {type(error).__name__}: {error}"
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
    problems = []
    if getattr(model, "training", False):
        problems.append("load_model returns a model in training mode, and heareval never calls eval()")
    model = model.to(chosen.device)
    samples = 2 * model.sample_rate
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, samples, generator=generator).mul(2).sub(1)
    for name, audio in {
        "noise": noise,
        "silence": torch.zeros(2, samples),
        "quiet noise": noise * 1e-4,
    }.items():
        audio = audio.to(chosen.device)
        with torch.no_grad():
            scene = module.get_scene_embeddings(audio, model)
            tokens, _ = module.get_timestamp_embeddings(audio, model)
            again = module.get_scene_embeddings(audio, model)
        for kind, embeddings in {"scene": scene, "timestamp": tokens}.items():
            bad = int((~embeddings.isfinite()).sum())
            if bad:
                problems.append(
                    f"{bad} of {embeddings.numel()} values of the {kind} embeddings of {name} are not finite"
                )
        if scene.isfinite().all() and not torch.allclose(scene, again, rtol=1e-4, atol=1e-5):
            problems.append(f"two calls on the same {name} give different scene embeddings")
    return problems


def main() -> int:
    """Run one tool; returns the process's exit code."""
    tool, *arguments = sys.argv[1:]
    stand_in_for_tensorflow()
    if tool == "describe":
        module_name, model_path, options = arguments
        print(json.dumps(describe(module_name, model_path or None, json.loads(options))))
        return 0
    if tool == "embeddings":
        model, *arguments = arguments
        if model:
            fill_in_model(arguments[0], model)
    if tool == "predictions":
        let_tools_load_their_own_checkpoints()
    if tool == "validate":
        options, module_name, *rest = arguments
        arguments = [
            with_options(module_name, json.loads(options)) if options != "{}" else module_name,
            *rest,
        ]
    if tool == "validate" and (problem := problem_loading(arguments)):
        print(f"Error: {problem}", file=sys.stderr)
        return 1
    sys.argv = [TOOLS[tool], *arguments]
    try:
        runpy.run_module(TOOLS[tool], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    except BaseException as error:
        if type(error).__name__ != "ModelError":  # the validator's own verdict
            raise
        print(f"hear-validator refuses the module: {error}", file=sys.stderr)
        return 1
    if tool == "validate":
        if problems := check_beyond_validator(arguments):
            print("\nhearvalidator is content, but:", *problems, sep="\n  - ", file=sys.stderr)
            return 1
        print("Also finite and repeatable on noise, quiet noise and silence, and in evaluation mode.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
