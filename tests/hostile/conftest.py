"""The stage of the campaign, built once."""

import pytest

from hostile.stage import build


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """Inputs of all commands; no test changes them."""
    return build(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def place(tmp_path):
    """A working directory and an empty folder for what commands write."""
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "work", tmp_path / "out"


def pytest_collection_modifyitems(items):
    """Mark the campaign as slow."""
    for item in items:
        if "hostile" in item.path.parts:
            item.add_marker(pytest.mark.slow)
