"""Configs: the published files as they are, and errors that name key, value and remedy."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from pretrain.training.build import EncoderStart
from pretrain.training.config import MODELS, PretrainConfig
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.read_config import ConfigError, config_of, read_config

PUBLISHED_YAML = """
outputpath: experiments/
num_workers: 8
batch_size: 256
train_data:
    - data/acav100m/shards_{0000..1823}.tar
    - data/audioset/balanced_{0000..0190}.tar
cv_data: ["data/vggsound/test_{0..9}.tar"]
chunk_length: 10
epochs: 100
epoch_length: 15000
decay_frac: 0.1
mask_ratio: 0.75
warmup_epochs: 3
warmup_iters: null
model: dasheng_base
model_args:
    target_length: 1008
    group_masking: True
optimizer: AdamW8bit
optimizer_args:
    lr: 3e-4
    weight_decay: 0.01
"""
"""The published file's keys and values; only the folders are made up."""

MINIMAL = {"train_data": ["a.tar"], "cv_data": ["b.tar"]}


def test_the_published_yaml_reads_unchanged(tmp_path):
    path = tmp_path / "dasheng_base.yaml"
    path.write_text(PUBLISHED_YAML)
    config = read_config(path)
    assert config.optimizer_args == {"lr": 3e-4, "weight_decay": 0.01}
    assert (config.size, config.mask_group, config.chunk_samples) == ("base", 2, 160_000)
    assert config.epochs * config.epoch_length == 1_500_000


def test_the_defaults_are_the_published_trainers():
    import ast
    import importlib.util

    source = Path(importlib.util.find_spec("dasheng").origin).parent / "train" / "utils.py"
    body = next(
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "MAEConfig"
    ).body
    published = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            try:
                published[node.target.id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # built by a call
    config = config_of(MINIMAL)
    del published["config_file"]
    assert len(published) >= 18
    assert {key: getattr(config, key) for key in published} == published
    assert config.optimizer_args == {"lr": 0.0003, "weight_decay": 0.01}


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "pretrain/configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_configs_that_ship_are_valid_and_say_what_they_are(path):
    is_finetuning = path.stem.startswith("finetune")
    config = read_config(path, kind=FinetuneConfig if is_finetuning else PretrainConfig)
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for word in ("Command", "Hardware", "Time", "Expect"):
        assert f"# {word}:" in header, f"{path.name} lacks {word}"
    assert is_finetuning or EncoderStart(config).config


def test_a_config_exists_for_each_size():
    names = {path.stem for path in (REPOSITORY / "pretrain/configs").glob("*.yaml")}
    assert {*MODELS, "demo"} <= names


@pytest.mark.parametrize("model", MODELS)
def test_the_sizes_are_the_released_ones(model):
    from hear_dasheng.sizes import SIZES

    config = EncoderStart(config_of(MINIMAL | {"model": model})).config
    size = SIZES[MODELS[model]]
    assert (config.dim, config.depth, config.heads) == (size.dim, size.depth, size.heads)


def test_model_args_pass_any_encoder_option():
    options = {"embed_dim": 96, "num_heads": 4, "depth": 3, "n_mels": 32, "patch_size": [16, 4]}
    options |= {"patch_stride": [16, 4], "drop_rate": 0.1, "init_values": 1e-2, "target_length": 504}
    model = MaskedModelling(config_of(MINIMAL | {"model_args": options, "chunk_length": 2.0})).new_model()
    config = model.encoder.config
    assert (config.dim, config.heads, config.depth, config.bands, config.window_tokens) == (96, 4, 3, 2, 252)
    assert model.decoder.outputlayer.out_features == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 3}, "no key 'batchsize'; the nearest is 'batch_size'"),
        ({"batch_size": 0}, "batch_size is 0: it must be greater than or equal to 1"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0: it must be less than 1"),
        ({"sample_rate": 44100}, "sample_rate is 44100"),
        ({"model": "dasheng_huge"}, "model is 'dasheng_huge': it must be 'dasheng_tiny', 'dasheng_base'"),
        ({"train_data": []}, "train_data is empty"),
        ({"optimizer": "AdmW"}, "optimizer is 'AdmW', which torch.optim lacks; the nearest is 'AdamW'"),
        (
            {"optimizer_args": {"lr": 1e-4, "weigth_decay": 0}},
            "'weigth_decay'; the nearest is 'weight_decay'",
        ),
        ({"optimizer_args": {"lr": 0}}, "optimizer_args.lr is 0: it must be a number above 0"),
        ({"optimizer_args": {}}, "optimizer_args.lr is None"),
        ({"epoch_length": None}, "epoch_length is null, but resampled data never end"),
        ({"model_args": {"group_masking": 0}}, "group_masking is 0"),
        ({"model_args": {"group_masking": "2"}}, "group_masking is '2'"),
        ({"score_function": ["kNN", 1.0]}, "score_function is kNN, but knn_data names no folder"),
        ({"score_function": ["mAP", 1.0]}, "score_function is 'mAP'"),
        ({"optimizer_args": {"lr": float("inf")}}, "optimizer_args.lr is inf: it must be a number above 0"),
        (
            {"optimizer": "LBFGS", "optimizer_args": {"lr": 1}},
            "optimizer is 'LBFGS', which cannot train here",
        ),
        ({"optimizer": "SparseAdam", "optimizer_args": {"lr": 1}}, "'SparseAdam', which cannot train here"),
        ({"chunk_length": float("inf")}, "chunk_length is inf: it must be a finite number"),
        ({"chunk_length": 1e-9}, "chunk_length is 1e-09 s: that is less than a sample"),
        ({"seed": 10**30}, "it must be less than 9223372036854775808"),
        ({"batch_size": 10**30}, "it must be less than or equal to 1000000000"),
        ({"model_args": "hello"}, "model_args is 'hello': it must be a valid dictionary"),
        ({"model_args": {"group_masking": 10**30}}, "it must be true, false or a number from 1 to 10000"),
        ({"score_function": ["Loss", float("nan")]}, "score_function is nan: it must be a finite number"),
        ({"logfile": "../train.log"}, "logfile is '../train.log': it must be a name in the run folder"),
        ({"logfile": "/tmp/train.log"}, "logfile is '/tmp/train.log': it must be a name in the run folder"),
        ({"logfile": "metrics.jsonl"}, "that nothing else there has"),
        ({"run_dir": "a\0b"}, "holds a NUL character"),
        ({"model": "x" * 300}, "x...: it must be 'dasheng_tiny'"),
        ({"precision": "fp8"}, "precision is 'fp8': it must be 'fp32', 'tf32', 'bf16' or 'fp16'"),
    ],
)
def test_impossible_values_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError) as error:
        config_of(MINIMAL | changes, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_args": {"embed_dims": 3}}, "'embed_dims'; did you mean 'embed_dim'"),
        ({"model_args": {"num_heads": 5}}, "num_heads"),
        ({"model_args": {"num_heads": 0}}, "model_args: num_heads=0: must be a whole number above 0"),
        ({"chunk_length": 11.0}, "chunk_length 11.0 s gives 275 tokens, but the model has positions for 252"),
        ({"chunk_length": 0.05, "mask_ratio": 0.75}, "mask_ratio 0.75 of 1 tokens keeps 0"),
        (
            {"model_args": {"embed_dim": 10**10, "num_heads": 1}},
            "are more than any device holds; lower embed",
        ),
        ({"model_args": {"depth": 10**7, "embed_dim": 768}}, "are more than any device holds; lower embed"),
        ({"model_args": {"target_length": 10**13}}, "are more than any device holds; lower embed_dim, depth"),
        ({"model_args": {"target_length": 4 * 10**9}}, "GiB that are free; lower embed_dim, depth, mlp_rat"),
        ({"model_args": {"mlp_ratio": 1e308}}, "mlp_ratio=1e+308: times the width of"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError) as error:
        MaskedModelling(config_of(MINIMAL | {"model": "dasheng_tiny"} | changes)).new_model()
    assert message in str(error.value)


def test_a_config_that_ships_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert (read_config("dasheng_base").batch_size, read_config("demo").batch_size) == (256, 32)
    write = tmp_path / "dasheng_base"
    write.write_text(yaml.safe_dump(MINIMAL))
    assert read_config("dasheng_base").batch_size == 32, "one's own file comes first"


def test_options_override_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"optimizer_args": {"lr": 0.1, "weight_decay": 0.5}}))
    options = ["--batch-size", "7", "--optimizer_args.lr=1e-4", "--train_data", "[x.tar, y.tar]"]
    config = read_config(path, [*options, "--cv_data", "v_{0..3}.tar"])
    assert (config.batch_size, config.train_data) == (7, ["x.tar", "y.tar"])
    assert config.cv_data == ["v_{0..3}.tar"]
    assert config.optimizer_args == {"lr": 1e-4, "weight_decay": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_siez", "7"], "no key 'batch_siez'; the nearest is 'batch_size'"),
        (["--batch_size"], "--batch_size has no value"),
        (["--batch_size", "two"], "command line's options: batch_size is 'two': it must be a valid integer$"),
        (["--optimizer_args", "{lr: 1, lr: 2}"], "--optimizer_args .*the key 'lr' is there twice"),
        (["--epochs", "2026-13-45"], "--epochs '2026-13-45': not YAML: month must be in 1..12"),
        (["--" + "k" * 300, "1"], r"there is no key 'k+\.\.\.; the nearest"),
        (["batch_size=7"], "is not an option; write --key value"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match=message):
        read_config(path, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- a\n- b", "must hold `key: value` lines"),
        (b"a: [", r"not YAML: .* \(line 1\)"),
        (None, "cannot read"),
        ("outputpath: f\u00fcr".encode("latin-1"), "is not UTF-8 text .* at byte 13"),
        (b"a: " + b"[" * 5_000, "nested too deeply"),
        (b"seed: 1\nbatch_size: 2\nseed: 3", r"the key 'seed' is there twice \(line 3\)"),
        (b"epochs: !!int ''", "not YAML"),
    ],
    ids=["list", "open", "gone", "latin-1", "deep", "twice", "no number"],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_with_a_name_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="cannot read the config a+: File name too long"):
        read_config("a" * 300)


def test_every_key_is_explained():
    source = (REPOSITORY / "pretrain/training/config.py").read_text().splitlines()
    for field in dataclasses.fields(PretrainConfig):
        line = next(i for i, text in enumerate(source) if text.startswith(f"    {field.name}:"))
        assert source[line + 1].strip().startswith('"""'), f"{field.name} is not explained"
