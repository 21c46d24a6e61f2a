"""Embeddings kept on disk: clip by clip, never under another's name, whenever a run is killed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from eval_recipes.neighbours import stored_embeddings as store
from eval_recipes.neighbours.embedded_parts import StoredProblem
from eval_recipes.neighbours.stored_embeddings import stored_embeddings, stored_keys


class Embedder:
    """Embeds files as their names' numbers (and an offset), and is stopped after some of them."""

    def __init__(self, stops_after: int | None = None, offset: float = 0) -> None:
        self.asked: list[str] = []
        self.stops_after, self.offset = stops_after, offset

    def __call__(self, paths):
        for n, path in reversed(list(enumerate(paths))):
            if self.stops_after is not None and len(self.asked) == self.stops_after:
                raise KeyboardInterrupt
            self.asked.append(path.name)
            yield [n], np.full((1, 3), self.offset + float(path.name), np.float32)


def clips(*numbers: int) -> dict[str, Path]:
    return {f"{number}\t8": Path(str(number)) for number in numbers}


def expected(*numbers: int, offset: float = 0) -> np.ndarray:
    return (np.array(numbers) + offset)[:, None] * np.ones(3)


def vectors_in(folder: Path) -> Path:
    (found,) = folder.glob("embeddings-*.npy")
    return found


def test_a_stopped_run_goes_on(tmp_path):
    folder, identity, told = tmp_path / "out", {"module": "m"}, []
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(folder, clips(*range(10)), Embedder(4), identity)
    assert not list(folder.glob("embeddings-*"))
    assert len(stored_keys(folder, identity)) == 4
    others = Embedder()
    found = stored_embeddings(folder, clips(*range(10)), others, identity, tell=told.append)
    assert sorted(others.asked) == [str(n) for n in range(6)]
    np.testing.assert_array_equal(found, expected(*range(10)))
    assert told == [
        "4 of 10 clips were embedded before; going on with the others",
        f"6 clips embedded, into {vectors_in(folder)}",
    ]
    assert not (folder / "embeddings.parts").exists()
    unused = Embedder()
    again = stored_embeddings(folder, clips(*range(10)), unused, identity)
    assert not unused.asked
    assert isinstance(again, np.memmap)
    found[0] = 7
    assert np.load(vectors_in(folder))[0, 0] == 0


def test_a_clip_that_comes_or_goes_leaves_the_others_embedded(tmp_path):
    folder, identity = tmp_path / "out", {"module": "m"}
    stored_embeddings(folder, clips(1, 2, 3), Embedder(), identity)
    one_more, fewer, changed = Embedder(), Embedder(), Embedder()
    found = stored_embeddings(folder, clips(1, 5, 2, 3), one_more, identity)
    np.testing.assert_array_equal(found, expected(1, 5, 2, 3))
    assert one_more.asked == ["5"]
    found = stored_embeddings(folder, clips(3, 1), fewer, identity)
    np.testing.assert_array_equal(found, expected(3, 1))
    assert not fewer.asked
    longer = {"1\t8": Path("1"), "2\t9": Path("2")}
    np.testing.assert_array_equal(
        stored_embeddings(folder, longer, Embedder(offset=100), identity), [[1] * 3, [102] * 3]
    )
    np.testing.assert_array_equal(stored_embeddings(folder, clips(2, 5), changed, identity), expected(2, 5))
    assert not changed.asked
    assert len(list(folder.glob("embeddings-*"))) == 2


def test_a_clip_comes_between_two_halves_of_a_run(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(folder, clips(1, 2, 3), Embedder(2), {})
    rest = Embedder()
    found = stored_embeddings(folder, clips(0, 1, 2, 4), rest, {})
    np.testing.assert_array_equal(found, expected(0, 1, 2, 4))
    assert sorted(rest.asked) == ["0", "1", "4"]


def test_embeddings_of_something_else_are_never_used(tmp_path):
    three = clips(0, 1, 2)
    stored_embeddings(tmp_path / "out", three, Embedder(), {"checkpoint": "a"})
    with pytest.raises(StoredProblem, match="something else \\(checkpoint was 'a', now 'b'\\); --redo"):
        stored_embeddings(tmp_path / "out", three, Embedder(), {"checkpoint": "b"})
    anew = Embedder()
    stored_embeddings(tmp_path / "out", three, anew, {"checkpoint": "b"}, redo=True)
    assert len(anew.asked) == 3
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(tmp_path / "two", three, Embedder(1), {"checkpoint": "a"})
    with pytest.raises(StoredProblem, match="something else"):
        stored_embeddings(tmp_path / "two", three, Embedder(), {"checkpoint": "b"})
    np.testing.assert_array_equal(
        stored_embeddings(tmp_path / "two", three, Embedder(offset=50), {"checkpoint": "b"}, redo=True),
        expected(0, 1, 2, offset=50),
    )


class Killed(BaseException):
    """Stands for the death of the process."""


class Deadly:
    """Lets some changes of the disk happen, and dies instead of the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lets: int) -> None:
        self.left = lets
        for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, self._or_die(getattr(owner, name)))

    def _or_die(self, change):
        def changed(*arguments, **options):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return change(*arguments, **options)

        return changed


@pytest.mark.parametrize("checkpoints", ["ab", "aa"], ids=["other weights", "the same weights"])
def test_a_kill_at_any_moment_never_pairs_vectors_with_a_wrong_record(tmp_path, monkeypatch, checkpoints):
    """Whatever a redo left, each identity finds its own vectors, refuses others', or embeds."""
    monkeypatch.setattr(store, "PART_CLIPS", 1)
    offsets = {"a": 100.0, "b": 200.0}
    refused: list[str] = []
    before, after = checkpoints
    for lets in range(60):
        folder, numbers = tmp_path / str(lets), (3, 1, 2)
        stored_embeddings(folder, clips(1, 2), Embedder(offset=offsets[before]), {"checkpoint": before})
        with monkeypatch.context() as patch:
            deadly = Deadly(patch, lets)
            try:
                redone = Embedder(offset=offsets[after])
                stored_embeddings(folder, clips(*numbers), redone, {"checkpoint": after}, redo=True)
            except Killed:
                pass
        for checkpoint in (after, before):
            embed = Embedder(offset=offsets[checkpoint])
            try:
                found = stored_embeddings(folder, clips(*numbers), embed, {"checkpoint": checkpoint})
            except StoredProblem as problem:
                refused.append(str(problem))
                continue
            np.testing.assert_array_equal(found, expected(*numbers, offset=offsets[checkpoint]))
        if deadly.left:
            break
    else:
        pytest.fail("the run was killed each time")
    assert lets > 8
    assert all("holds embeddings of something else" in said for said in refused)
    assert bool(refused) == (before != after)


def test_vectors_without_their_record_are_refused(tmp_path):
    stored_embeddings(tmp_path, clips(1, 2), Embedder(), {})
    record = vectors_in(tmp_path).with_suffix(".json")
    whole = record.read_text()
    record.write_text(whole.replace('"1\\t8"', '"7\\t8"'))
    with pytest.raises(StoredProblem, match="is not the record of .*--redo embeds anew"):
        stored_embeddings(tmp_path, clips(7, 2), Embedder(), {})
    record.unlink()
    with pytest.raises(StoredProblem, match="has no record of what it is made from"):
        stored_embeddings(tmp_path, clips(1, 2), Embedder(), {})
    record.write_text(whole)
    np.testing.assert_array_equal(stored_embeddings(tmp_path, clips(1, 2), Embedder(), {}), expected(1, 2))


def test_a_damaged_part_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(tmp_path, clips(1, 2), Embedder(1), {})
    (tmp_path / "embeddings.parts/part-000000.npz").write_bytes(b"PK")
    with pytest.raises(StoredProblem, match=r"part-000000\.npz is damaged .*; delete it"):
        stored_embeddings(tmp_path, clips(1, 2), Embedder(), {})


def test_bad_embeddings_and_a_second_run_are_refused(tmp_path):
    def embed(paths):
        yield [0, 1], np.array([[1.0], [np.inf]], np.float32)

    def forgets(paths):
        yield [0], np.ones((1, 2), np.float32)

    files = {"a": tmp_path / "fine.wav", "b": tmp_path / "loud.wav"}
    with pytest.raises(StoredProblem, match=r"embedding of .*loud\.wav is not finite"):
        stored_embeddings(tmp_path / "out", files, embed, {})
    with pytest.raises(StoredProblem, match=r"no embedding of .*loud\.wav"):
        stored_embeddings(tmp_path / "out", files, forgets, {})
    with FileLock(tmp_path / "out/.embeddings.lock"), pytest.raises(StoredProblem, match="another run"):
        stored_embeddings(tmp_path / "out", files, Embedder(), {})
