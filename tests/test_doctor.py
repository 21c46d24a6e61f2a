"""`hear-dasheng doctor`: what it compares, measures and reports, and how it fails."""

import json
import stat
import sys
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

import pytest
import soundfile
import torch
from click.testing import CliRunner

from eval_recipes.diagnosis import ProbeCheck
from eval_recipes.scoring.products import Products
from hear_dasheng import cpu_training, hear_model
from hear_dasheng.blocks import Linear
from hear_dasheng.compute import measure
from hear_dasheng.compute.checks import BOUNDS, Parity, Request, Skip, Throughput, plan_clips
from hear_dasheng.diagnosis import audio_formats, devices, examination, layout
from hear_dasheng.diagnosis.embedding import EmbeddingCheck
from hear_dasheng.doctor import doctor
from pretrain.diagnosis import TrainingCheck

CPU = torch.device("cpu")
REQUEST = Request(CPU, ("tiny",), ("fp32",), 0.05, 8 << 30)
COMPARED = {
    ("embedding", "log-mel", "fp32"),
    *(
        (check, quantity, precision)
        for precision in ("fp32", "bf16")
        for check, quantities in {
            "embedding": ("tokens", "scenes"),
            "training step": ("loss", "gradients", "worst gradient"),
            "probe scoring": ("gradients", "losses", "trained outputs", "accuracy"),
        }.items()
        for quantity in quantities
    ),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def strict_json(text: str) -> dict:
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def run(*arguments: str):
    return CliRunner().invoke(doctor, ["--device", "cpu", *arguments])


@pytest.fixture(scope="module")
def healthy(one_thread, tmp_path_factory):
    """The result of a whole run with the tiny size, as text and as a record."""
    path = tmp_path_factory.mktemp("doctor") / "record.json"
    result = run("--quick", "--seconds", "0.05", "--json", str(path))
    return result, strict_json(path.read_text())


def test_a_healthy_machine_passes_every_comparison(healthy):
    result, record = healthy
    assert result.exit_code == 0, result.output
    assert record["verdict"] == "PASS"
    rows = {(row["check"], row["quantity"], row["precision"]): row for row in record["parity"]}
    compared = {name: row for name, row in rows.items() if row["status"] != "SKIPPED"}
    assert set(compared) == COMPARED
    for name, row in compared.items():
        assert row["status"] == "PASS", name
        assert row["error"] <= row["bound"], name
    assert {row["reason"] for row in rows.values() if row["status"] == "SKIPPED"} == {
        "NVIDIA GPUs alone have it"
    }


def test_the_fp32_comparison_on_a_cpu_is_of_two_computations(healthy):
    errors = {
        (r["check"], r["quantity"]): r["error"] for r in healthy[1]["parity"] if r["precision"] == "fp32"
    }
    for name in (("embedding", "tokens"), ("training step", "gradients"), ("probe scoring", "gradients")):
        assert 0 < errors[name] < 1e-5, name


def test_bounds_tell_a_precision_from_the_next_coarser_one(healthy):
    """A device that computes fp32 in bfloat16 breaks the bound of fp32, and even that of TF32."""
    errors = {
        (r["check"], r["quantity"]): r["error"] for r in healthy[1]["parity"] if r["precision"] == "bf16"
    }
    for name in (("embedding", "tokens"), ("training step", "gradients"), ("probe scoring", "gradients")):
        assert errors[name] > BOUNDS["tf32"] > BOUNDS["fp32"], name


def test_throughput_and_memory_are_measured(healthy):
    _, record = healthy
    rows = {(row["check"], row["precision"]): row for row in record["throughput"]}
    assert set(rows) == {
        (check, p) for check in ("embedding", "training step") for p in ("fp32", "tf32", "bf16")
    }
    assert record["matrix_peak_flops"]["fp32"] > 0
    for row in rows.values():
        assert row["status"] == ("SKIPPED" if row["rate"] is None else "PASS")
        assert bool(row["reason"]) == (row["rate"] is None)
        if row["rate"] is not None:
            assert row["rate"] > 0
            assert row["flop"] > 1e9
            expected = row["flop"] / row["seconds"] / record["matrix_peak_flops"][row["precision"]]
            assert row["share_of_peak"] == pytest.approx(expected)
            assert sys.platform != "linux" or row["peak_memory_bytes"] > 1e8


def test_a_measured_row_has_the_rate_that_its_time_gives():
    generous = replace(REQUEST, seconds=600.0, free_bytes=64 << 30)
    for check, per_clip in ((EmbeddingCheck, 10 / 3600), (TrainingCheck, 1)):
        # A peak so low that one clip takes half of the time which a measurement may take.
        row = check(replace(generous, seconds=0.01)).throughput("tiny", "fp32", 1e12)
        assert row.clips == 1
        assert row.rate == pytest.approx(per_clip * row.clips / row.seconds)


def test_the_record_has_its_documented_fields(healthy):
    from hear_dasheng.diagnosis.record import new_record

    _, record = healthy
    for name in record:
        assert f"{name}:" in new_record.__doc__ or f"{name}," in new_record.__doc__, name
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["machine"]["torch_threads"] >= 1
    assert [row["name"] for row in record["audio"]["formats"]] == ["WAV", "FLAC", "OGG", "MP3"]
    assert record["onednn_operators"]["training, fp32"] is cpu_training.is_onednn_usable()


def test_the_text_is_at_most_100_columns_and_has_every_number(healthy):
    result, record = healthy
    assert max(map(len, result.stdout.splitlines())) <= 100
    for row in record["parity"]:
        if row["error"] is not None:
            assert f"{row['error']:.1e}" in result.stdout
    for title in (
        "Versions",
        "Machine",
        "Libraries",
        "Devices",
        "Audio files",
        "Parity of cpu",
        "Throughput",
    ):
        assert f"\n{title}" in f"\n{result.stdout}"
    assert result.stdout.splitlines()[-1].startswith("PASS: ")


@pytest.mark.parametrize("factor", [1.0003, float("nan")])
def test_a_broken_bound_ends_in_exit_code_1(factor, monkeypatch, tmp_path):
    encode = hear_model.encode_clips
    monkeypatch.setattr(hear_model, "encode_clips", lambda *a: [clip * factor for clip in encode(*a)])
    path = tmp_path / "record.json"
    result = run("--sizes", "tiny", "--precision", "fp32", "--no-throughput", "--json", str(path))
    assert result.exit_code == 1
    record = strict_json(path.read_text())
    failed = {(row["check"], row["quantity"]) for row in record["parity"] if row["status"] == "FAIL"}
    assert failed == {("embedding", "tokens"), ("embedding", "scenes")}
    assert record["verdict"] == "FAIL"
    assert "FAIL: 8 of 10 comparisons are within their bounds" in result.stdout
    assert "embedding, tokens, fp32: " in result.stdout
    if factor != factor:
        assert [row["error"] for row in record["parity"] if row["quantity"] == "tokens"] == [None]


def test_wrong_gradients_of_a_training_step_fail(monkeypatch):
    attend = cpu_training.attend

    def leaking(q, k, v, is_valid, dropout):
        return attend(q, k, v * 1.01, is_valid, dropout)

    assert {row.status for row in TrainingCheck(REQUEST).parity("fp32")} == {"PASS"}
    monkeypatch.setattr(cpu_training, "attend", leaking)
    assert {row.status for row in TrainingCheck(REQUEST).parity("fp32")} >= {"FAIL"}


def test_one_wrong_parameter_shows_even_if_its_gradient_is_small(monkeypatch):
    from pretrain import diagnosis

    gradients_of, calls = diagnosis._gradients, []

    def one_is_wrong(*arguments):
        loss, gradients = gradients_of(*arguments)
        calls.append(arguments)
        if len(calls) == 2:  # the reference
            return loss, gradients
        smallest = min(gradients, key=lambda name: gradients[name].norm())
        calls[0] = smallest
        return loss, gradients | {smallest: 1.001 * gradients[smallest]}

    monkeypatch.setattr(diagnosis, "_gradients", one_is_wrong)
    rows = {row.quantity: row for row in TrainingCheck(REQUEST).parity("fp32")}
    assert rows["gradients"].status == "PASS"
    assert rows["worst gradient"].status == "FAIL"
    assert rows["worst gradient"].reason == calls[0]


def test_wrong_gradients_of_a_probe_fail(monkeypatch):
    of_weight = Products.of_weight

    def too_large(self, gradient, x, out):
        of_weight(self, gradient, x, out)
        out *= 1.01

    monkeypatch.setattr(Products, "of_weight", too_large)
    rows = {row.quantity: row.status for row in ProbeCheck(REQUEST).parity("fp32")}
    assert rows["gradients"] == "FAIL"


def test_an_error_of_the_device_is_a_failed_row_and_the_others_go_on():
    class Broken:
        name, measures_speed = "broken", True

        def __init__(self, request):
            pass

        def operators(self):
            return {}

        def parity(self, precision):
            raise RuntimeError("CUDA error: misaligned address\nfurther lines")

        def throughput(self, size, precision, peak_flops):
            raise RuntimeError("CUDA out of memory. Tried to allocate")

    class Sound(Broken):
        name = "sound"

        def parity(self, precision):
            return [Parity.of("sound", "sum", precision, 0.0, 1.0, "1")]

        def throughput(self, size, precision, peak_flops):
            return Throughput("sound", size, precision, "PASS", rate=1.0)

    examiner = examination.Examiner([Broken, Sound], REQUEST, {}, True)
    for _, step in examiner.steps():
        step()
    broken, sound = examiner.found.parity
    assert (broken.status, broken.reason) == ("FAIL", "RuntimeError: CUDA error: misaligned address")
    assert sound.status == "PASS"
    assert not examiner.found.has_passed
    too_large, measured = examiner.found.throughput
    assert too_large.status == "SKIPPED"
    assert "out of memory" in too_large.reason
    assert measured.rate == 1.0


def test_a_precision_that_does_not_work_is_skipped_with_its_reason():
    examiner = examination.Examiner([EmbeddingCheck], REQUEST, {"fp32": "no such units"}, True)
    for _, step in examiner.steps():
        step()
    assert [row.reason for row in examiner.found.parity] == ["no such units"]
    assert [row.reason for row in examiner.found.throughput] == ["no such units"]
    assert not examiner.found.has_passed  # nothing was compared


def test_checks_of_a_missing_extra_say_which_it_is(monkeypatch):
    def without_the_probe(group):
        return [entry for entry in entry_points(group=group) if entry.name != "scoring"]

    monkeypatch.setattr(examination, "entry_points", without_the_probe)
    monkeypatch.setitem(sys.modules, "pretrain.diagnosis", None)
    result = run("--sizes", "tiny", "--precision", "fp32", "--no-throughput")
    assert result.exit_code == 0, result.output
    lines = " ".join(result.stdout.split())
    assert "training: SKIPPED, needs the package pretrain.diagnosis (in the checkout: pip install" in lines
    assert "'.[pretraining]')" in lines
    assert "scoring: SKIPPED, no installed package registers it (in the checkout: pip install" in lines
    assert "'.[evaluation]')" in lines
    assert "PASS: 3 of 3 comparisons are within their bounds, 2 checks not available" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "--device 'gpu' is unknown; choose auto, cpu, cuda, cuda:1 or mps"),
        (["--device", ""], "--device '' is unknown"),
        (["--device", "meta"], "--device 'meta' is unknown"),
        (["--sizes", "tiny,huge"], "--sizes: 'huge' is none of tiny, base, 0.6B"),
        (["--sizes", ""], "--sizes: '' is none of tiny"),
        (
            ["--precision", "int8"],
            "--precision: 'int8' is none of fp32, tf32, bf16; separate several by commas",
        ),
        (["--seconds", "nan"], "'--seconds': nan is not a finite number"),
        (["--seconds", "0"], "'--seconds': 0.0 is not in the range 0<x"),
        (["--json", "gone/record.json"], "--json: the folder of 'gone/record.json' is not there; create it"),
        (["--json", "."], "--json: '.' is a folder; name a file"),
    ],
)
def test_bad_options_end_in_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert not any(tmp_path.iterdir())


def test_a_missing_gpu_is_named_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(devices.DeviceError, match="is built without CUDA; install a CUDA build"):
        devices.choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        devices.DeviceError, match="CUDA is not available; no NVIDIA driver answers; install it"
    ):
        devices.choose_device("cuda:1")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100, 535.1, 81559 MiB'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(devices.DeviceError, match=r"nvidia-smi shows NVIDIA H100, 535\.1.*CUDA 13\.0"):
        devices.choose_device("cuda")
    assert devices.choose_device("auto") == CPU or torch.backends.mps.is_available()
    result = CliRunner().invoke(doctor, ["--device", "cuda"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --device 'cuda': CUDA is not available")
    assert len(result.stderr.splitlines()) == 1


def test_a_gpu_number_beyond_the_last_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(devices.DeviceError, match=r"there is no such GPU; choose one of cuda:0, cuda:1$"):
        devices.choose_device("cuda:2")


def test_precisions_are_tried_not_guessed(monkeypatch):
    works = {trial.precision: trial.works for trial in devices.try_precisions(CPU)}
    assert works["fp32"]
    assert not works["tf32"]
    monkeypatch.setitem(devices.DTYPES, "fp32", torch.bfloat16)
    (trial,) = devices.try_precisions(CPU, ["fp32"])
    assert not trial.works
    assert trial.error > 1e-3
    assert trial.reason == "more than 1e-05"


def test_a_size_that_needs_too_much_memory_or_time_is_skipped_with_the_reason():
    plan = {
        "fixed_bytes": 1 << 30,
        "bytes_per_clip": 1 << 28,
        "flop_per_clip": 10**9,
        "peak_flops": 1e12,
        "most": 64,
    }
    request = replace(REQUEST, seconds=1.0, free_bytes=4 << 30)
    assert plan_clips(request, **plan) == 8  # 12 fit the memory, 250 the time
    assert plan_clips(request, **plan | {"bytes_per_clip": 1}) == 64
    assert plan_clips(request, **plan | {"flop_per_clip": 6 * 10**10}) == 4  # of 0.12 s each
    with pytest.raises(Skip, match=r"needs about 1\.2 GiB; 1\.0 GiB are free"):
        plan_clips(replace(request, free_bytes=1 << 30), **plan)
    with pytest.raises(Skip, match=r"a clip takes about 2 s; --seconds 2 measures it"):
        plan_clips(request, **plan | {"flop_per_clip": 10**12})
    with pytest.raises(Skip, match="needs about"):
        TrainingCheck(request).throughput("1.2B", "fp32", 1e12)


def test_the_cost_of_a_layer_is_its_products_and_its_input():
    with torch.device("meta"):
        layer = torch.nn.Linear(24, 40)

    def forward_and_back(apply):
        apply(torch.empty(5, 24, requires_grad=True)).sum().backward()

    flop, kept_bytes = measure.cost(layer, forward_and_back)
    assert flop == 3 * 2 * 5 * 24 * 40
    assert kept_bytes == 4 * 5 * 24


def test_plain_operators_are_torchs_own():
    layer, x = Linear(24, 40), torch.randn(3, 24)
    with cpu_training.plain_operators():
        assert "OneDnnLinear" not in type(layer(x).grad_fn).__name__
    assert not cpu_training.are_operators_plain()
    if cpu_training.is_onednn_usable():
        assert "OneDnnLinear" in type(layer(x).grad_fn).__name__


def test_an_audio_format_that_fails_is_named_with_a_remedy(monkeypatch):
    write = soundfile.write

    def without_mp3(file, data, rate_hz, format):
        if format == "MP3":
            raise ValueError("Unknown format: 'MP3'")
        write(file, data, rate_hz, format=format)

    monkeypatch.setattr(soundfile, "write", without_mp3)
    *others, mp3 = audio_formats.audio_formats()
    assert all(row.works for row in others)
    assert not mp3.works
    assert mp3.reason.startswith("Unknown format: 'MP3'; pip install -U soundfile")


def test_a_gpus_report_fits_100_columns(healthy):
    gpu = {
        "device": "cuda:0",
        "name": "NVIDIA H100 80GB HBM3 with a long name of its own",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "memory_bytes": 80 << 30,
        "free_memory_bytes": 79 << 30,
    }
    record = healthy[1] | {
        "devices": [gpu],
        "cuda": healthy[1]["cuda"] | {"cudnn": 92400, "is_available": True, "nvidia_smi": ["H100, 580.1"]},
        "verdict": "FAIL",
    }
    worst = dict(check="training step", quantity="worst gradient", precision="bf16", status="FAIL")
    record["parity"] = [
        worst | dict(error=0.5, bound=0.1, unit="its norm", reason="encoder.blocks.39.mlp.fc1.weight"),
        worst | dict(error=None, bound=None, unit="", reason="RuntimeError: " + "a long story " * 20),
    ]
    text = layout.as_text(record)
    assert max(map(len, text.splitlines())) <= 100
    assert "79.0 of 80.0 GiB free" in text
    assert "the error 5.0e-01 of its norm (encoder.blocks.39.mlp.fc1.weight) is above" in " ".join(
        text.split()
    )


@dataclass
class Clock:
    """Seconds that pass only in calls."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_time_of_a_call_is_the_median_without_the_first(monkeypatch):
    clock, durations = Clock(), [9.0, 1.0, 3.0, 2.0, 50.0]
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    remaining = iter(durations)

    def work():
        clock.now_s += next(remaining)

    assert measure.seconds_per_call(work, CPU, 14.5) == 2.0
