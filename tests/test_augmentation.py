"""Shifts, masks and mixtures: known answers."""

import pytest
import torch
from finetuning_data import finetune_config

from pretrain.augmentation import Augmentation, draw_shift, draw_spans, draw_weights, masked, mixed, shifted
from pretrain.reading.clip_labels import ClipLabels, LabelColumn
from pretrain.training.classification import Classification


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(frames: list[list[int]], mels: list[list[int]]) -> Augmentation:
    """Of one clip."""
    zero = torch.zeros(1)
    return Augmentation(zero.long(), torch.tensor([frames]), torch.tensor([mels]), zero)


def test_masks_cover_their_places_and_nothing_else():
    mel = torch.randn(1, 6, 9)
    out = masked(mel, masks([[1, 3], [3, 4]], [[0, 0], [5, 6]]), level_db=7.0)
    expected = mel.clone()
    expected[:, :, 1:4] = 7.0
    expected[:, 5] = 7.0
    assert torch.equal(out, expected)


def test_masks_without_a_level_put_in_the_clips_own_mean():
    mel = torch.stack([torch.full((4, 5), 3.0), torch.randn(4, 5)])
    both = Augmentation(*(choice.repeat(2, *[1] * (choice.ndim - 1)) for choice in masks([[0, 5]], [[0, 0]])))
    out = masked(mel, both, level_db=None)
    assert torch.equal(out[0], mel[0])
    torch.testing.assert_close(out[1], mel[1].mean().expand(4, 5))


@pytest.mark.parametrize(("widest", "length"), [(10, 50), (192, 1001), (60, 50)])
def test_masks_have_every_width_below_the_widest_and_lie_inside(widest, length):
    spans = draw_spans(5_000, 2, widest, length, random())
    widths = spans[..., 1] - spans[..., 0]
    assert sorted(widths.unique().tolist()) == list(range(min(widest, length)))
    assert spans[..., 0].min() == 0
    assert spans[..., 1].max() == length
    assert widths.float().mean() == pytest.approx((min(widest, length) - 1) / 2, rel=0.05)
    assert not torch.equal(spans[:, 0], spans[:, 1])


def test_no_masks_are_drawn_of_width_0():
    assert draw_spans(3, 1, 0, 50, random()).diff(dim=-1).abs().max() == 0


def test_mixtures_and_their_targets_are_made_alike():
    mel, targets = torch.randn(4, 3, 5), torch.eye(4)
    weight = torch.tensor([0.0, 0.25, 0.5, 1.0])
    mixture, target = mixed(mel, weight), mixed(targets, weight)
    assert torch.equal(mixture[0], mel[0])
    torch.testing.assert_close(mixture[1], 0.75 * mel[1] + 0.25 * mel[2])
    torch.testing.assert_close(mixture[3], mel[0])
    assert target[1].tolist() == [0, 0.75, 0.25, 0]
    assert target[3].tolist() == [1, 0, 0, 0]
    assert torch.equal(target.sum(1), torch.ones(4))


def test_mixing_weights_have_the_beta_distribution():
    weights = draw_weights(20_000, 0.5, random()).numpy()
    assert weights.mean() == pytest.approx(0.5, abs=0.01)
    assert weights.var() == pytest.approx(1 / 8, rel=0.02)  # of Beta(a, a): 1 / (4 (2 a + 1))
    assert not draw_weights(5, None, random()).any()


def test_shifts_reach_both_ways_and_lose_nothing():
    shift = draw_shift(2_000, 1_000, 0.3, random())
    assert shift.min() >= -300
    assert shift.max() <= 300
    assert shift.float().std() == pytest.approx(600 / 12**0.5, rel=0.05)
    clips = torch.randn(2_000, 50)
    expected = torch.stack([torch.roll(clip, by.item()) for clip, by in zip(clips, shift, strict=True)])
    assert torch.equal(shifted(clips, shift), expected)


def objective(**changes) -> Classification:
    labels = ClipLabels(LabelColumn("label", None), ("a", "b", "c"))
    return Classification(finetune_config("a.tar", "b.tar", **changes), labels)


def test_all_choices_come_from_the_given_random_numbers():
    every = {"mixup": 0.5, "time_mask": 20, "frequency_mask": 8, "n_masks": 2, "time_shift": 0.5}
    first, again, other = (objective(**every).draw_augmentation(4, random(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert [tuple(choice.shape) for choice in first] == [(4,), (4, 2, 2), (4, 2, 2), (4,)]


def test_what_is_not_asked_for_is_not_done():
    assert objective().draw_augmentation(4, random()) is None
    only_masks = objective(time_mask=20).draw_augmentation(4, random())
    assert only_masks.frames.diff(dim=-1).any()
    for nothing in (only_masks.shift, only_masks.mels.diff(dim=-1), only_masks.weight):
        assert not nothing.any()


def test_the_gradient_is_that_of_a_plain_torch_step(one_thread):
    """Everything at once, against the same written out with torch's own functions."""
    from torch.nn import functional as F

    from hear_dasheng.mel import LogMel

    subject = objective(mixup=0.5, time_mask=20, frequency_mask=8, time_shift=0.2, label_smoothing=0.1)
    model = subject.new_model().train()
    batch = subject.silence()
    batch.keys, batch.waveforms = ["x"] * 4, 0.1 * torch.randn(4, 8_000, generator=random())
    batch.targets = torch.eye(3)[[0, 2, 1, 1]]
    subject.losses(model, batch, random(7)).mean().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    drawn = subject.draw_augmentation(4, random(7))
    clips = torch.stack([torch.roll(c, s.item()) for c, s in zip(batch.waveforms, drawn.shift, strict=True)])
    mel = LogMel()(clips)
    for clip, frames, mels in zip(mel, drawn.frames[:, 0], drawn.mels[:, 0], strict=True):
        level = clip.mean()
        clip[:, frames[0] : frames[1]] = level
        clip[mels[0] : mels[1]] = level
    lam = drawn.weight[:, None, None]
    tokens = model.encoder((1 - lam) * mel + lam * mel.flip(0))
    layer_norm, linear = model.classifier.outputlayer
    logits = linear(layer_norm(tokens.mean(1)))
    hard = batch.targets.argmax(1)
    losses = [F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1) for y in (hard, hard.flip(0))]
    ((1 - drawn.weight) * losses[0] + drawn.weight * losses[1]).mean().backward()
    largest = max(p.grad.norm() for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert (ours[name] - parameter.grad).norm() <= 1e-5 * largest, name
