"""Braces in shard names: counted exactly, and bounded before they are expanded."""

import pytest
from braceexpand import braceexpand

from pretrain.reading.braces import MOST_NAMES, count_names, expand_braces
from pretrain.reading.sources import parse_sources

PATTERNS = (
    "plain.tar",
    "a_{0..9}.tar",
    "a_{000..009..3}{x,y}",
    "{a_{0..4},b_{0..2},c}.tar",
    "{{1,2}{3,4},5}{6..8}",
    "{a..e..2}{9..0}{-2..2}",
    "{literal}_{1,2}",
    "{,x}{a,}",
    r"\\{1,2}_{3,4}",
    "a,b_{1,2}",
    "{x{0..3}y}",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_count_is_that_of_the_names(pattern):
    names = list(braceexpand(pattern))
    assert count_names(pattern) == len(names)
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "pattern", ["x_{0..99999999}.tar", "{0..999}{0..999}", "{a,b}" * 60, "{1..%s}" % (10**40)]
)
def test_too_many_names_are_refused_before_they_are_made(pattern, monkeypatch):
    monkeypatch.setattr("pretrain.reading.braces.braceexpand", None)
    with pytest.raises(ValueError, match=f"shards, more than {MOST_NAMES:,}: correct its braces") as error:
        parse_sources([pattern])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("pattern", ["{a,b", "{" * 5_000, "{" * 5_000 + "}" * 5_000])
def test_braces_that_do_not_match_are_refused(pattern):
    with pytest.raises(ValueError, match="braces in .* do not match"):
        expand_braces(pattern)
