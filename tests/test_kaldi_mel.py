"""Kaldi's filter banks against torchaudio's, and against Kaldi's own."""

import pytest
import torch
from conftest import noise
from peer_cases import close, torchaudio_fbank

from eval_recipes.baselines.kaldi_mel import kaldi_mel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("n_samples", [400, 559, 560, 160_000])
@pytest.mark.parametrize("level", [1.0, 1e-4])
def test_kaldi_filter_banks_are_torchaudios(n_samples, level):
    clip = level * noise(1, 10)[0, :n_samples]
    ours, theirs = kaldi_mel(clip, 128), torchaudio_fbank(clip, 128)
    assert ours.shape == theirs.shape == (1 + (n_samples - 400) // 160, 128)
    assert close(ours, theirs, 1e-3)
    assert close(kaldi_mel(0 * clip, 128), torchaudio_fbank(0 * clip, 128), 1e-3)


@pytest.mark.parametrize("n_mels", [23, 80, 126])
def test_they_are_kaldis_as_long_as_it_takes_so_many_bands(n_mels):
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = n_mels
    computer = kaldi_native_fbank.OnlineFbank(options)
    clip = noise(1, 1)[0]
    computer.accept_waveform(16_000, clip.numpy())
    computer.input_finished()
    frames = [torch.from_numpy(computer.get_frame(i).copy()) for i in range(computer.num_frames_ready)]
    assert close(kaldi_mel(clip, n_mels), torch.stack(frames), 1e-3)
