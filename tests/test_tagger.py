"""Taggers: equal to the published recipe, for audio of any length, in bounded memory."""

import weakref

import numpy as np
import pytest
import torch
from conftest import noise, oracle_of
from tagging_cases import flat_state, recipe, write

from hear_dasheng.audio import read_audio
from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.export import new_encoder
from hear_dasheng.mel import MelConfig
from hear_dasheng.options import Options
from hear_dasheng.tagger import AudioSetTagger, Tagger, load_tagger

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def state(tiny_oracle):
    return flat_state(tiny_oracle)


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("tagger") / "mAP497.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def tagger(checkpoint):
    return AudioSetTagger(checkpoint)


@pytest.mark.parametrize("seconds", [0.03, 0.5, 4, 10, 10.08, 10.3, 25, 61.234])
def test_a_clip_is_what_the_published_recipe_gives(tagger, tiny_oracle, state, seconds):
    clip = noise(1, seconds, seed=7)
    expected = recipe(tiny_oracle, state, clip)
    assert expected.std() > 0.1
    assert (tagger(clip) - expected).abs().max() <= 1e-5
    assert np.abs(tagger.tag(clip[0]).whole - expected[0].numpy()).max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 10, 30])
def test_a_clip_is_what_the_published_recipe_gives_at_the_released_size(tmp_path_factory, seconds):
    oracle = oracle_of(768, 12, 12)
    weights = flat_state(oracle, seed=5)
    path = tmp_path_factory.mktemp("base") / "mAP497.pt"
    torch.save(weights, path)
    clip = noise(1, seconds, seed=8)
    assert (AudioSetTagger(path)(clip) - recipe(oracle, weights, clip)).abs().max() <= 1e-5
    path.unlink()


def test_clips_in_a_batch_are_tagged_each_alone(tagger, tiny_oracle, state):
    clips = noise(3, 12, seed=2)
    clips[1] *= 1e-4  # under the floor of the loud ones, if it were shared
    lengths = [192_000, 150_000, 40_000]
    for clip, length, ours in zip(clips, lengths, tagger(clips, lengths), strict=True):
        assert (ours - recipe(tiny_oracle, state, clip[None, :length])[0]).abs().max() <= 1e-5


def test_a_step_of_a_window_is_the_recipe_on_that_window(tagger, tiny_oracle, state):
    """The windows' spectrograms see over their edges, so that theirs are cut out of the clip's."""
    clip = noise(1, 24, seed=3)
    tags = tagger.tag(clip[0])
    assert tags.edges_s == pytest.approx([0, 10.08, 20.16, 24])
    tokens = tiny_oracle(clip)[0]
    head = torch.nn.Sequential(torch.nn.LayerNorm(192), torch.nn.Linear(192, 527))
    head.load_state_dict({k[12:]: v for k, v in state.items() if k.startswith("outputlayer")})
    for row, part in zip(tags.steps, tokens.split(252), strict=True):
        assert np.abs(row - head(part.mean(0)).sigmoid().detach().numpy()).max() <= 1e-5


def test_steps_hold_the_tokens_whose_centres_lie_in_them(tagger, tiny_oracle, state):
    clip = noise(1, 12.5, seed=4)
    tokens = tiny_oracle(clip)[0]
    head = torch.nn.Sequential(torch.nn.LayerNorm(192), torch.nn.Linear(192, 527))
    head.load_state_dict({k[12:]: v for k, v in state.items() if k.startswith("outputlayer")})
    tags = tagger.tag(clip[0], step_s=0.5)
    assert tags.steps.shape == (25, 527)
    assert tags.edges_s == pytest.approx(np.arange(26) / 2)
    centres_s = 0.040 * np.arange(len(tokens)) + 0.015
    for step in range(25):
        is_in = (centres_s >= step * 0.5) & (centres_s < (step + 1) * 0.5)
        expected = head(tokens[is_in].mean(0)).sigmoid().detach().numpy()
        assert np.abs(tags.steps[step] - expected).max() <= 1e-5


@pytest.mark.parametrize("step_s", [0.04, 0.05, 1 / 3, 7, 1e6])
def test_every_step_has_probabilities(tagger, step_s):
    tags = tagger.tag(noise(1, 2.2)[0], step_s=step_s)
    assert np.isfinite(tags.steps).all()
    assert (np.diff(tags.edges_s) > 0).all()
    assert tags.edges_s[-1] <= tags.seconds + 1e-9
    assert len(tags.steps) == len(tags.edges_s) - 1


@pytest.mark.parametrize("step_s", [0.039, 0, -1, float("nan"), float("inf")])
def test_impossible_steps_are_refused(tagger, step_s):
    with pytest.raises(ValueError, match=r"are not possible; give 0\.04 s or more"):
        tagger.tag(noise(1, 1)[0], step_s=step_s)


def test_a_file_is_tagged_like_its_samples(tmp_path, tagger):
    path = write(tmp_path / "a.flac", 0.1 * noise(2, 75.3, seed=5).T.numpy(), 44_100)
    told = []
    ours = tagger.tag_file(path, step_s=3, progress=lambda *times: told.append(times))
    expected = tagger.tag(torch.from_numpy(read_audio(path)), step_s=3)
    assert np.abs(ours.whole - expected.whole).max() <= 1e-6
    assert np.abs(ours.steps - expected.steps).max() <= 1e-6
    assert ours.edges_s == pytest.approx(expected.edges_s)
    assert told == sorted(told)
    assert told[-1] == (pytest.approx(ours.seconds, abs=0.05), ours.seconds)


def test_a_long_clip_is_never_in_memory_as_a_whole(monkeypatch):
    monkeypatch.setattr("hear_dasheng.mel_stream.KEPT_FRAMES", 3_000)
    config = EncoderConfig(8, 1, 1, mel=MelConfig(n_mels=8), patch_mels=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tagger = Tagger(new_classifier(Encoder(config).eval(), ("a", "b")), Options(batch_windows=2))
    read, most_alive, read_before_encoding = [], 0, []

    def blocks():
        nonlocal most_alive
        generator = np.random.default_rng(0)
        for _ in range(40):
            block = 0.1 * generator.standard_normal(160_000).astype(np.float32)
            read.append(weakref.ref(block))
            most_alive = max(most_alive, sum(reference() is not None for reference in read))
            yield block

    encode_mels = tagger.model.encode_mels

    def counted(mels):
        read_before_encoding.append(len(read))
        return encode_mels(mels)

    monkeypatch.setattr(tagger.model, "encode_mels", counted)
    monkeypatch.setattr("hear_dasheng.tagger.audio_blocks", lambda path: blocks())
    tags = tagger.tag_file("400 s")
    assert len(tags.steps) == 40
    assert len(read) == 80  # twice, since the log-mel is not kept either
    assert most_alive <= 3  # of 40
    assert len(read_before_encoding) == 20
    expected = [40 + 2 * (number + 1) for number in range(20)]  # a first pass; two windows a batch
    assert all(n <= limit + 3 for n, limit in zip(read_before_encoding, expected, strict=True))


def test_any_classes_one_among_all(tmp_path):
    classifier = new_classifier(new_encoder("tiny"), ("dog", "cat", "rain"), is_multi_label=False)
    folder = export_classifier(classifier, tmp_path / "new")
    tagger = load_tagger(folder)
    assert tagger.class_names == ("dog", "cat", "rain")
    tags = tagger.tag(noise(1, 3)[0], step_s=1)
    assert tags.whole.sum() == pytest.approx(1)
    assert tags.steps.sum(1) == pytest.approx([1, 1, 1])
    with pytest.raises(ValueError, match=r"tells 3 classes apart, AudioSet has 527; use load_tagger"):
        AudioSetTagger(folder)


def test_precision_of_the_encoder_is_an_option(checkpoint, tagger):
    clip = noise(1, 3)
    rough = AudioSetTagger(checkpoint, precision="bf16", tail="pad")
    difference = (rough(clip) - tagger(clip)).abs().max()
    assert 1e-5 < difference < 0.1


@pytest.mark.parametrize("option", [{"layers": [0, 1]}, {"pooling": "max"}])
def test_options_that_the_head_does_not_fit_are_refused(option):
    with pytest.raises(ValueError, match="a classifier takes the mean of the last layer's tokens"):
        Tagger(new_classifier(new_encoder("tiny"), ("a",)), Options(**option))


def test_bad_options_and_devices(checkpoint):
    with pytest.raises(ValueError, match="did you mean 'precision'"):
        load_tagger(checkpoint, precisoin="bf16")
    with pytest.raises(ValueError, match=r"device='cuda:99' is not available here"):
        load_tagger(checkpoint, device="cuda:99")


def test_it_stays_in_evaluation_mode(tagger):
    assert not any(module.training for module in tagger.train().modules())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: path.write_bytes(b"no audio at all"), "cannot decode"),
        (lambda path: write(path, np.zeros(0)), "holds no samples"),
        (lambda path: write(path, np.full(99, np.nan), subtype="FLOAT"), "not finite in the 30 s from 0 s"),
        (lambda path: write(path, np.full(99, 3e4), subtype="FLOAT"), r"reaches 30000 but must lie in \[-1"),
    ],
)
def test_bad_files_are_named(tmp_path, tagger, content, message):
    path = tmp_path / "bad.wav"
    content(path)
    with pytest.raises(ValueError, match=rf"bad\.wav.*{message}|{message}.*bad\.wav"):
        tagger.tag_file(path)


def test_a_flac_that_breaks_off_is_named(tmp_path, tagger):
    whole = write(tmp_path / "whole.flac", noise(1, 90)[0].numpy())
    (tmp_path / "half.flac").write_bytes(whole.read_bytes()[:2_000_000])
    with pytest.raises(ValueError, match=r"cannot decode .*half\.flac after \d+ s"):
        tagger.tag_file(tmp_path / "half.flac")
    with pytest.raises(FileNotFoundError, match="no audio file at gone"):
        tagger.tag_file("gone.wav")
