"""Masks: how many, in what structure, and the published functions as oracle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.masking import fixed_mask, mask_of_noise, n_groups, n_kept, random_mask


@given(
    n_tokens=st.integers(8, 252),
    group=st.integers(1, 7),
    ratio=st.floats(0.2, 0.85),
    seed=st.integers(0, 2**31),
)
def test_each_token_is_either_kept_or_masked_and_groups_stay_together(n_tokens, group, ratio, seed):
    mask = random_mask(3, n_tokens, ratio, group, torch.Generator().manual_seed(seed))
    assert mask.kept.shape[1] == int(n_tokens * (1 - ratio))
    for kept, masked in zip(*mask, strict=True):
        assert sorted([*kept.tolist(), *masked.tolist()]) == list(range(n_tokens))
        parts = [{place // group for place in places.tolist()} for places in (kept, masked)]
        assert len(parts[0] & parts[1]) <= 1, "the kept count may cut one group in two, not more"


@pytest.mark.parametrize("group", [1, 2, 5])
@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.8])
def test_masks_equal_the_published_functions(group, ratio):
    from dasheng.train.models import AudioTransformerMAE_Encoder as Published

    torch.manual_seed(0)
    places = torch.arange(250.0).expand(4, 250)[:, :, None]
    state = torch.get_rng_state()
    kept, is_masked, _ = Published.random_masking_group(None, places, ratio, group)
    torch.set_rng_state(state)
    mask = mask_of_noise(torch.rand(4, n_groups(250, group)), 250, ratio, group)
    assert torch.equal(mask.kept, kept[:, :, 0].long())
    assert torch.equal(mask.masked.sort()[0], is_masked.nonzero()[:, 1].view(4, -1))


def test_where_the_group_does_not_divide_the_length_the_last_group_is_short():
    noise = torch.tensor([[0.9, 0.1, 0.5]])  # 7 tokens in groups of 3: the last group is token 6 alone
    mask = mask_of_noise(noise, 7, 0.4, group=3)
    assert mask.kept.tolist() == [[3, 4, 5, 6]]
    assert mask.masked.tolist() == [[0, 1, 2]]


def test_the_published_function_fails_there():
    from dasheng.train.models import AudioTransformerMAE_Encoder as Published

    with pytest.raises(RuntimeError, match="shape"):
        Published.random_masking_group(None, torch.zeros(1, 7, 1), 0.4, 3)


def test_a_validation_clip_is_masked_alike_in_any_batch():
    alone = fixed_mask([7], 250, 0.75, 2)
    among = fixed_mask([3, 7, 9], 250, 0.75, 2)
    assert torch.equal(alone.kept[0], among.kept[1])
    assert not torch.equal(among.kept[0], among.kept[1])


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.9])
def test_a_ratio_that_keeps_none_or_all_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio {ratio} of 5 tokens"):
        n_kept(5, ratio)


def test_noise_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="need 125 random numbers, not 124"):
        mask_of_noise(torch.rand(1, 124), 250, 0.75, 2)
