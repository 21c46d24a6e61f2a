"""Pictures and the probe: known answers."""

import numpy as np
import pytest
import torch

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.patches import patchify
from pretrain.masked_autoencoder import new_masked_autoencoder, normalised
from pretrain.masking import random_mask
from pretrain.training.knn_probe import labelled_files, leave_one_out_accuracy
from pretrain.training.pictures import reconstruct, unpatchify
from pretrain.training.read_config import ConfigError


@pytest.mark.parametrize("patch_size", [(64, 4), (16, 4), (16, 16)])
def test_unpatchify_puts_back_what_patchify_cut(patch_size):
    mel = torch.randn(2, 64, 50)
    frames = 50 - 50 % patch_size[1]
    assert torch.equal(unpatchify(patchify(mel, *patch_size), patch_size, 64), mel[:, :, :frames])


def test_a_reconstruction_keeps_what_was_seen_and_a_perfect_decoder_gives_the_original():
    torch.manual_seed(0)
    model = new_masked_autoencoder(Encoder(EncoderConfig.of_size("tiny")), "tiny").eval()
    audio = 0.1 * torch.randn(1, 16_000)
    mask = random_mask(1, 25, 0.75, 2)
    pictures = reconstruct(model, audio, mask)
    original, seen, predicted = pictures.values()
    is_hidden = seen.isnan()
    assert is_hidden.float().mean() == pytest.approx(19 / 25)
    assert torch.equal(seen[~is_hidden], original[~is_hidden])
    assert torch.equal(predicted[~is_hidden], original[~is_hidden])
    assert not torch.allclose(predicted[is_hidden], original[is_hidden], atol=1.0)
    truth = normalised(patchify(original))
    model.decoder.forward = lambda latents, mask: truth.gather(1, mask.masked[:, :, None].expand(-1, -1, 256))
    torch.testing.assert_close(reconstruct(model, audio, mask)["reconstruction"], original, rtol=0, atol=1e-3)


def test_the_probe_knows_neighbours_from_strangers():
    generator = np.random.default_rng(0)
    directions = np.repeat(np.eye(3, 16), 20, axis=0)
    labels = np.repeat(["a", "b", "c"], 20)
    near = directions + 0.1 * generator.standard_normal((60, 16))
    scales = generator.uniform(0.1, 10, (60, 1))
    assert leave_one_out_accuracy(near * scales, labels) == 1.0
    assert leave_one_out_accuracy(generator.standard_normal((60, 16)), labels) < 0.6


def test_a_probe_without_two_classes_is_refused(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.wav").touch()
    with pytest.raises(ConfigError, match=r"must hold two folders .* it holds \{'only': 1\}"):
        labelled_files(tmp_path)
