"""A classifier behind audio of any length: probabilities of a clip, and along it.

Source of the AudioSet classifier: README of the package `dasheng` 0.0.9; its file is
on Zenodo, record 13315686.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hear_dasheng.audio import check_audio, check_lengths
from hear_dasheng.audio_stream import audio_blocks
from hear_dasheng.audioset import N_CLASSES
from hear_dasheng.classifier import Classifier
from hear_dasheng.classifier_checkpoint import load_classifier
from hear_dasheng.download import locate
from hear_dasheng.hear_model import HearModel
from hear_dasheng.mel import SAMPLE_RATE_HZ
from hear_dasheng.mel_stream import Blocks, MelStream
from hear_dasheng.options import Options
from hear_dasheng.windows import centre_ms

Progress = Callable[[float, float], Any]
"""Is told how many seconds are done, and how many there are."""

DEFAULT_TAGGER = "dasheng_audioset"
FIXED_OPTIONS = ("layers", "pooling")
"""The head was trained on the mean of the last layer's tokens."""


@dataclass(frozen=True)
class Tags:
    """Probabilities of a clip's classes.

    Attributes:
        seconds: length of the clip.
        whole: of the clip, (classes,).
        steps: of its steps, (steps, classes).
        edges_s: where the steps begin and the last one ends, in seconds, (steps + 1,).
    """

    seconds: float
    whole: Float[np.ndarray, " classes"]
    steps: Float[np.ndarray, "steps classes"]
    edges_s: Float[np.ndarray, " edges"]


class Tagger(nn.Module):
    """A classifier for audio of any length.

    Audio longer than one of the encoder's windows is cut as `HearModel` cuts it; a
    clip's probabilities are those of the mean of all its tokens, a step's those of the
    mean of the tokens whose centre lies in it. In training the head has seen the mean of
    a whole clip (in the published recipe 10 s): the shorter a step, the further from that.

    Args:
        classifier: see `load_classifier`.
        options: see `Options`; `layers` and `pooling` stay as they are.

    Attributes:
        class_names: what each probability is of.
    """

    def __init__(self, classifier: Classifier, options: Options | None = None) -> None:
        super().__init__()
        options = options or Options()
        for name in FIXED_OPTIONS:
            if getattr(options, name) != getattr(Options, name):
                raise ValueError(
                    f"option {name}={getattr(options, name)!r}: a classifier takes the mean of the last "
                    f"layer's tokens; leave {name} out"
                )
        self.model = HearModel(classifier.encoder, options)
        self.classifier = classifier.requires_grad_(False)
        self.class_names = classifier.class_names
        config = classifier.encoder.config
        self.token_s = (centre_ms(config, 1) - centre_ms(config, 0)) / 1000
        self.shortest_step_s = max(self.token_s, centre_ms(config, 0) / 1000)
        self.window_s = config.window_moments * self.token_s
        self.eval()

    def train(self, mode: bool = True) -> Tagger:
        """Stay in evaluation mode: this is for inference."""
        return super().train(False)

    @no_type_check  # it checks by hand, with messages for people
    def forward(
        self, audio: Tensor, lengths: Sequence[int] | Tensor | None = None
    ) -> Float[Tensor, "sounds classes"]:
        """Probabilities of whole clips, each on its own.

        Args:
            audio: float32 (n_sounds, n_samples) in [-1, 1] at 16 kHz, on the tagger's device.
            lengths: valid samples of each sound; what follows them is ignored. None: all.

        Raises:
            TypeError, ValueError: audio or lengths are not as above.
        """
        check_audio(audio, self.model.device)
        clips = [clip[:length] for clip, length in zip(audio, check_lengths(lengths, audio), strict=True)]
        with torch.no_grad():
            return self._head(self.model.scene_embeddings(clips))

    @no_type_check
    def tag(
        self,
        audio: Tensor,
        step_s: float | None = None,
        progress: Progress | None = None,
    ) -> Tags:
        """Probabilities of a clip and along it.

        Args:
            audio: float32 (n_samples,) in [-1, 1] at 16 kHz.
            step_s: length of a step; None: that of the encoder's windows, released: 10.08 s.
            progress: told how many seconds are done, and how many there are.

        Raises:
            TypeError, ValueError: audio is not as above, or a step too short to hold a token.
        """
        check_audio(audio[None], audio.device)
        samples = audio.cpu().numpy()
        return self._tag(lambda: iter([samples]), step_s, progress)

    @no_type_check  # a step of 3 is one of 3.0
    def tag_file(
        self,
        path: str | Path,
        step_s: float | None = None,
        progress: Progress | None = None,
    ) -> Tags:
        """`tag` for an audio file of any format, rate and channel count that soundfile reads.

        Memory does not grow with the file's length, but for the probabilities themselves.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be decoded, or holds no audio.
        """
        return self._tag(lambda: audio_blocks(path), step_s, progress)

    @no_type_check
    def check_step(self, step_s: float | None) -> None:
        """Raise a ValueError unless steps of this length hold a token each."""
        if step_s is not None and not self.shortest_step_s <= step_s < float("inf"):
            raise ValueError(
                f"steps of {step_s:g} s are not possible; give {self.shortest_step_s:g} s or more, "
                "so that a token lies in each"
            )

    @no_type_check
    @torch.no_grad()
    def _tag(self, blocks: Blocks, step_s: float | None, progress: Progress | None) -> Tags:
        config = self.classifier.encoder.config
        self.check_step(step_s)
        step_s = self.window_s if step_s is None else step_s
        stream = MelStream(self.model.log_mel, config, blocks, self.model.options.tail)
        seconds = stream.n_samples / SAMPLE_RATE_HZ
        centres_s = np.array([centre_ms(config, moment) / 1000 for moment in range(stream.moments)])
        step_of = (centres_s / step_s + 1e-9).astype(np.int64)
        sums = np.zeros((step_of[-1] + 1, config.dim))
        done = 0
        for mels in _batches(stream.windows(), self.model.batch_windows):
            for tokens in self.model.encode_mels(mels):
                np.add.at(sums, step_of[done : done + len(tokens)], tokens.cpu().numpy())
                done += len(tokens)
            if progress is not None:
                progress(min(self.token_s * done, seconds), seconds)
        counts = np.bincount(step_of, minlength=len(sums))
        edges_s = np.minimum(step_s * np.arange(len(sums) + 1), seconds)
        return Tags(
            seconds=seconds,
            whole=self._probabilities(sums.sum(0) / done),
            steps=self._probabilities(sums / counts[:, None]),
            edges_s=edges_s,
        )

    def _probabilities(self, means: Float[np.ndarray, "*steps dim"]) -> Float[np.ndarray, "*steps classes"]:
        """Probabilities of tokens' means."""
        return self._head(torch.from_numpy(means).float().to(self.model.device)).cpu().numpy()

    def _head(self, means: Float[Tensor, "*clips dim"]) -> Float[Tensor, "*clips classes"]:
        return self.classifier.probabilities(self.classifier.logits(means))


class AudioSetTagger(Tagger):
    """The tagger of AudioSet's 527 classes, as published (49.7 mAP for the base size).

    Args:
        path: a checkpoint file or folder with the classifier's head, the published name
            `dasheng_audioset`, or a URL.
        **options: see `Options`; `layers` and `pooling` stay as they are.

    Raises:
        ValueError: an option is impossible, or the checkpoint is damaged, foreign, unsafe
            or of other classes.
        FileNotFoundError: there is no such checkpoint.
        DownloadError: it has to be fetched and cannot be.
    """

    def __init__(self, path: str | Path = DEFAULT_TAGGER, **options: Any) -> None:
        chosen = Options.from_kwargs(options)
        classifier = load_classifier(locate(path), chosen.num_heads)
        if len(classifier.class_names) != N_CLASSES:
            raise ValueError(
                f"{path} tells {len(classifier.class_names)} classes apart, AudioSet has {N_CLASSES}; "
                "use load_tagger, which takes any classes"
            )
        super().__init__(classifier, chosen)
        _move(self, chosen.device)


def load_tagger(path: str | Path = DEFAULT_TAGGER, **options: Any) -> Tagger:
    """Load a checkpoint with a classifier of any classes; arguments and errors are `AudioSetTagger`'s."""
    chosen = Options.from_kwargs(options)
    return _move(Tagger(load_classifier(locate(path), chosen.num_heads), chosen), chosen.device)


def _move(tagger: Tagger, device: str | None) -> Tagger:
    if device is None:
        return tagger
    try:
        return tagger.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"option device={device!r} is not available here: {reason}") from error


def _batches(windows: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    while batch := list(islice(windows, size)):
        yield batch
