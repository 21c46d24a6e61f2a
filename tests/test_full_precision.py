"""float32 products are full ones whatever a process chose, and what it chose comes back."""

import numpy as np
import pytest
import torch

from eval_recipes.baselines import peer
from eval_recipes.full_precision import full_precision
from eval_recipes.neighbours import search

BACKENDS = torch.backends
SWITCHES = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv)


def read() -> list[str]:
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture(params=["each library's switch", "the switch for all"])
def chosen(request):
    """Switches as a user may have set them: by library, after which torch refuses to read the one for all."""
    before = read()
    if request.param == "the switch for all":
        torch.set_float32_matmul_precision("high")
    else:
        for switch, value in zip(SWITCHES, ("tf32", "tf32", "bf16", "tf32"), strict=True):
            switch.fp32_precision = value
    yield read()
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


def test_switches_are_set_and_put_back_also_after_an_error(chosen):
    assert chosen != ["ieee"] * 4
    with full_precision():
        assert read() == ["ieee"] * 4
    assert read() == chosen
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert read() == chosen


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

    model = peer.Peer(Encoder(1, 1))
    peer.get_scene_embeddings(torch.ones(1, 9), model)
    assert seen == [["ieee"] * 4] * 2
    assert read() == chosen
