"""A checkpoint is right if its model gives what the published one gives."""

from conftest import noise, scaled_error

from hear_dasheng import get_timestamp_embeddings, load_model

CLIP = noise(1, 3)


def assert_equals_oracle(path, oracle, **options):
    ours = get_timestamp_embeddings(CLIP, load_model(path, **options))[0]
    assert scaled_error(ours, oracle(CLIP)) <= 1e-4


def without_front_end(state):
    return {name: value for name, value in state.items() if not name.startswith("front_end")}
