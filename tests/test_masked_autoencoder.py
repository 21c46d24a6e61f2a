"""The objective against the published training code: same weights, same audio, same mask."""

import pytest
import torch
from conftest import noise

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.sizes import SIZES
from pretrain.masked_autoencoder import MaskedAutoencoder, new_masked_autoencoder
from pretrain.masking import Mask, n_groups, n_kept

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


def published_autoencoder(size: str, group: int | bool = False, seed: int = 0):
    """The published classes with weights that exercise every parameter, in evaluation mode."""
    from dasheng.train import models

    shape = SIZES[size]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = models.AudioTransformerMAE_Encoder(
            embed_dim=shape.dim, depth=shape.depth, num_heads=shape.heads, group_masking=group
        )
        decoder = models.AudioTransformerMAE_Decoder(
            input_dim=shape.dim,
            outputdim=256,
            embed_dim=shape.decoder_dim,
            depth=shape.decoder_depth,
            num_heads=shape.decoder_heads,
            num_patches=encoder.num_patches,
        )
        model = models.AudioTransformerMAE(encoder, decoder).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith(("bias", "pos_embed")) or "init_bn" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            encoder.init_bn[1].running_mean.normal_(-30, 10)
            encoder.init_bn[1].running_var.uniform_(50, 300)
    # The same values in another memory layout: with the front end's own strides, torch 2.14's BatchNorm2d
    # computes a wrong gradient of its weight and bias on a CPU (finite differences agree with ours).
    encoder.front_end.register_forward_hook(lambda module, inputs, output: output.contiguous())
    return model


def our_autoencoder(published, size: str) -> MaskedAutoencoder:
    """Ours, with the published one's weights."""
    model = new_masked_autoencoder(Encoder(EncoderConfig.of_size(size)), size)
    weights = {
        name.replace("init_bn.1.", "init_bn."): value for name, value in published.state_dict().items()
    }
    front_end = {name for name in weights if "front_end" in name}
    model.load_state_dict({name: value for name, value in weights.items() if name not in front_end})
    return model.train(published.training)


def published_mask(published, n_clips: int, n_tokens: int, ratio: float) -> Mask:
    """The mask that the published function draws from the global random numbers as they are."""
    state = torch.get_rng_state()
    _, is_masked, restore = published.encoder.masking_func(torch.zeros(n_clips, n_tokens, 1), ratio)
    torch.set_rng_state(state)
    shuffled = restore.argsort(dim=1)
    kept = int((is_masked[0] == 0).sum())
    return Mask(shuffled[:, :kept], shuffled[:, kept:])


def losses_and_gradients(published, ours, audio, ratio=0.75):
    """Both models' loss and gradient on the same mask; gradients by our parameter names."""
    n_tokens = ours.n_tokens(audio.shape[1])
    mask = published_mask(published, len(audio), n_tokens, ratio)
    their_loss = published(audio, mask_ratio=ratio, return_loss=True)
    their_loss.backward()
    theirs = {name.replace("init_bn.1.", "init_bn."): p.grad for name, p in published.named_parameters()}
    for parameter in published.parameters():
        parameter.data = torch.empty(0)  # 1.2 billion weights twice, with gradients, would not fit
    our_loss = ours(audio, mask).mean()
    our_loss.backward()
    return our_loss.item(), their_loss.item(), {n: p.grad for n, p in ours.named_parameters()}, theirs


@pytest.mark.parametrize("is_training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("group", [False, True, 5])
def test_loss_and_gradients_equal_the_published_ones(group, is_training):
    published = published_autoencoder("tiny", group).train(is_training)
    ours = our_autoencoder(published, "tiny")
    torch.manual_seed(1)
    our_loss, their_loss, our_gradients, their_gradients = losses_and_gradients(
        published, ours, noise(3, 10.0)
    )
    assert our_loss == pytest.approx(their_loss, rel=LOSS_TOLERANCE)
    assert our_gradients.keys() == their_gradients.keys()
    for name, theirs in their_gradients.items():
        error = (our_gradients[name] - theirs).norm() / theirs.norm()
        assert error <= GRADIENT_TOLERANCE, name


@pytest.mark.slow
@pytest.mark.parametrize("size", ["base", "0.6B", "1.2B"])
def test_the_released_sizes_equal_the_published_ones(size):
    published = published_autoencoder(size, True)
    ours = our_autoencoder(published, size)
    our_loss, their_loss, ours_by_name, theirs_by_name = losses_and_gradients(published, ours, noise(1, 10.0))
    assert our_loss == pytest.approx(their_loss, rel=LOSS_TOLERANCE)
    for name, theirs in theirs_by_name.items():
        assert (ours_by_name[name] - theirs).norm() <= GRADIENT_TOLERANCE * theirs.norm(), name


def test_the_published_floor_is_the_batchs_and_ours_is_each_clips():
    loud = torch.sin(2 * torch.pi * 440 / 16_000 * torch.arange(64_000.0))[None]
    quiet = 2e-6 * torch.randn(1, 64_000, generator=torch.Generator().manual_seed(0))
    published = published_autoencoder("tiny")
    ours = our_autoencoder(published, "tiny")
    together = torch.cat([loud, quiet])
    mask = published_mask(published, 2, ours.n_tokens(64_000), 0.75)
    alone = [ours(together[i : i + 1], Mask(*(p[i : i + 1] for p in mask))).item() for i in range(2)]
    torch.testing.assert_close(ours(together, mask).tolist(), alone, rtol=1e-5, atol=0)
    theirs = published(together, return_loss=True)
    assert abs(theirs.item() - sum(alone) / 2) > 1e-3


def test_initial_weights_have_the_published_distributions():
    from dasheng.train import models

    torch.manual_seed(0)
    published = models.dasheng_base()
    ours = new_masked_autoencoder(Encoder(EncoderConfig.of_size("base")), "base")
    theirs = {name.replace("init_bn.1.", "init_bn."): p for name, p in published.named_parameters()}
    assert theirs.keys() == dict(ours.named_parameters()).keys()
    for name, our in ours.named_parameters():
        their = theirs[name]
        assert our.shape == their.shape, name
        allowed = 6 * max(their.std().item(), 1e-9) / their.numel() ** 0.5 if their.numel() > 1 else 0.0
        assert abs(our.mean() - their.mean()) <= allowed + 1e-12, name
        assert our.std().item() == pytest.approx(their.std().item(), rel=0.15, abs=1e-9), name
        assert our.abs().max().item() == pytest.approx(their.abs().max().item(), rel=0.35, abs=1e-9), name


def test_the_encoder_sees_nothing_of_the_masked_tokens():
    ours = new_masked_autoencoder(Encoder(EncoderConfig.of_size("tiny")), "tiny").eval()
    mel = torch.randn(1, 64, 40)
    kept = torch.tensor([[7, 2]])
    changed = torch.randn_like(mel)
    for place in kept[0].tolist():
        changed[:, :, 4 * place : 4 * place + 4] = mel[:, :, 4 * place : 4 * place + 4]
    torch.testing.assert_close(ours.encoder(mel, kept=kept), ours.encoder(changed, kept=kept))


def test_kept_tokens_keep_their_positions_and_order():
    encoder = Encoder(EncoderConfig.of_size("tiny")).eval()
    mel = torch.randn(2, 64, 40)
    order = torch.stack([torch.randperm(10), torch.randperm(10)])
    everything = encoder(mel).gather(1, order[:, :, None].expand(-1, -1, 192))
    torch.testing.assert_close(encoder(mel, kept=order), everything, atol=1e-4, rtol=1e-4)


def test_the_loss_of_a_constant_patch_is_finite():
    ours = new_masked_autoencoder(Encoder(EncoderConfig.of_size("tiny")), "tiny")
    n_tokens = ours.n_tokens(16_000)
    places = torch.arange(n_tokens)[None]
    kept = n_kept(n_tokens, 0.75)
    loss = ours(torch.zeros(1, 16_000), Mask(places[:, :kept], places[:, kept:])).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ours.parameters())
    assert n_groups(n_tokens, 2) == 13
