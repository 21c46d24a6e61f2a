"""float32 products are full ones whatever a process chose, and what it chose comes back."""

import numpy as np
import pytest
import torch

from eval_recipes.baselines import peer
from eval_recipes.neighbours import search
from hear_dasheng.compute.precision import fp32_arithmetic

BACKENDS = torch.backends
SWITCHES = (
    BACKENDS.cuda.matmul,
    BACKENDS.cudnn.conv,
    BACKENDS.cudnn.rnn,
    BACKENDS.mkldnn.matmul,
    BACKENDS.mkldnn.conv,
    BACKENDS.mkldnn.rnn,
)
FULL = ["ieee"] * len(SWITCHES)


def read() -> list[str]:
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture(params=["each library's switch", "the switch for all"])
def chosen(request):
    """Switches as a user may have set them: by library, after which torch refuses to read the one for all."""
    before = read()
    if request.param == "the switch for all":
        torch.set_float32_matmul_precision("high")
    else:
        for switch, value in zip(SWITCHES, ("tf32", "tf32", "none", "bf16", "tf32", "none"), strict=True):
            switch.fp32_precision = value
    yield read()
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


def test_switches_are_set_and_put_back_also_after_an_error(chosen):
    assert chosen != FULL
    with fp32_arithmetic():
        assert read() == FULL
    assert read() == chosen
    with pytest.raises(KeyError), fp32_arithmetic():
        raise KeyError
    assert read() == chosen


@pytest.mark.parametrize("allow_tf32", [False, True])
@pytest.mark.parametrize("before", ["highest", "high"])
def test_legacy_switches_can_be_read_inside_and_agree(allow_tf32, before):
    chosen = read(), BACKENDS.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        outside = read(), BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32
        with fp32_arithmetic(allow_tf32=allow_tf32):
            assert BACKENDS.cudnn.allow_tf32 is allow_tf32
            assert BACKENDS.cuda.matmul.allow_tf32 is allow_tf32
            assert torch.get_float32_matmul_precision() == ("high" if allow_tf32 else "highest")
            assert read() == (["tf32"] * 3 + ["ieee"] * 3 if allow_tf32 else FULL)
        assert (read(), BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32) == outside
    finally:
        BACKENDS.cudnn.allow_tf32 = chosen[1]
        torch.set_float32_matmul_precision(chosen[2])
        for switch, value in zip(SWITCHES, chosen[0], strict=True):
            switch.fp32_precision = value


def test_the_search_and_the_peers_use_it(chosen, monkeypatch):
    seen = []
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    scores = search.Geometry.scores

    def looked_at(self, *arguments):
        seen.append(read())
        return scores(self, *arguments)

    monkeypatch.setattr(search.Geometry, "scores", looked_at)
    search.nearest(vectors, None, 3)

    class Encoder(torch.nn.Linear):
        features = 1

        def tokens(self, clips):
            seen.append(read())
            return [clip[:, None] for clip in clips]

        def finish(self, embeddings):
            return embeddings

    model = peer.Peer(Encoder(1, 1), "")
    peer.get_scene_embeddings(torch.ones(1, 9), model)
    assert seen == [FULL] * 2
    assert read() == chosen
