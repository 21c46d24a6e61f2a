"""Events and their metrics equal heareval's, which are sed_eval's, on the same predictions."""

import numpy as np
import pytest
import torch
from heareval_oracle import heareval_module, hearevals_metric
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter

from eval_recipes.scoring.event_metrics import EVENT_METRICS, MINIMIZED
from eval_recipes.scoring.events import DEFAULT_GRID, Events, FrameTimeline, true_events

LABELS = ["dog", "2", "siren"]
INDEX = {label: index for index, label in enumerate(LABELS)}


@pytest.fixture(scope="module")
def kit():
    """heareval's prediction module."""
    return heareval_module("predictions.task_predictions")


def as_dict(found: Events, files: list[str]) -> dict[str, list[dict]]:
    """Our events as heareval has them."""
    listed: dict[str, list[dict]] = {file: [] for file in files}
    for file, label, start_s, end_s in zip(found.file, found.label, found.start_s, found.end_s, strict=True):
        listed[files[file]].append({"label": LABELS[label], "start": 1000 * start_s, "end": 1000 * end_s})
    return listed


def in_order(listed: dict[str, list[dict]]) -> dict[str, list[tuple]]:
    return {
        file: sorted((event["label"], event["start"], event["end"]) for event in events)
        for file, events in listed.items()
    }


@st.composite
def frame_predictions(draw):
    """Frames of some files: unequal lengths and steps, out of order, times that occur twice."""
    frames = []
    for number in range(draw(st.integers(1, 3))):
        step_ms = draw(st.sampled_from([20.0, 40.0, 50.0, 333.3]))
        times = [step_ms * index for index in range(draw(st.integers(7, 30)))]
        frames += [(f"folder/{number}.wav", time) for time in times]
        if draw(st.booleans()):
            frames.append((f"folder/{number}.wav", times[-1]))
    if draw(st.booleans()):
        frames = draw(st.permutations(frames))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    smooth = np.repeat(rng.random((len(frames), len(LABELS))), draw(st.integers(1, 6)), axis=0)[: len(frames)]
    return frames, smooth.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    predicted=frame_predictions(),
    filter_ms=st.sampled_from([0, 30, 100, 250, 1000]),
    shortest=st.integers(0, 200),
)
def test_events_are_hearevals(kit, predicted, filter_ms, shortest):
    frames, probabilities = predicted
    choice = (("median_filter_ms", filter_ms), ("min_duration", shortest))
    theirs = kit.get_events_for_all_files(
        torch.from_numpy(probabilities),
        [file for file, _ in frames],
        torch.tensor([time for _, time in frames], dtype=torch.float64),
        dict(enumerate(LABELS)),
        {},
        choice,
    )[choice]
    timeline = FrameTimeline([(file.split("/")[1], time) for file, time in frames])
    assert timeline.files == list(theirs)
    ours = as_dict(timeline.events(probabilities, **dict(choice)), timeline.files)
    assert in_order(ours).keys() == in_order(theirs).keys()
    for file, events in in_order(theirs).items():
        assert [e[0] for e in in_order(ours)[file]] == [e[0] for e in events]
        ours_ms = [e[1:] for e in in_order(ours)[file]]
        np.testing.assert_allclose(ours_ms, [e[1:] for e in events], rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(2, 30), times_as_wide=st.floats(0, 7.5), seed=st.integers(0, 1000))
def test_median_filter_is_scipys_where_it_crosses_the_threshold(frames, times_as_wide, seed):
    width = max(1, int(frames * times_as_wide))  # from 8 times on, scipy 1.17's results are no medians
    values = np.random.default_rng(seed).random((frames, 3)).astype(np.float32)
    timeline = FrameTimeline([("a", 10.0 * index) for index in range(frames)])
    expected = median_filter(values, size=(width, 1)) > 0.5
    np.testing.assert_array_equal(timeline._median(values > 0.5, 10.0 * width), expected)


def listed_events(files: int):
    """Events of files, close together, often at exactly a collar's distance."""
    event = st.builds(
        lambda label, start, length: {"label": label, "start": start, "end": start + length},
        st.sampled_from(LABELS),
        st.one_of(st.integers(0, 60).map(lambda v: 50.0 * v), st.floats(0, 3000)),
        st.one_of(st.integers(0, 20).map(lambda v: 50.0 * v), st.floats(0, 2000)),
    )
    return st.fixed_dictionaries({f"{n}.wav": st.lists(event, max_size=12) for n in range(files)})


@pytest.mark.parametrize("name", EVENT_METRICS)
@settings(max_examples=60, deadline=None)
@given(found=listed_events(2), true=listed_events(3))
def test_metrics_are_sed_evals(name, found, true):
    metric = hearevals_metric(name, INDEX)
    theirs = metric(found, true)
    files = list(found)
    ours = EVENT_METRICS[name](true_events(found, files, INDEX), true_events(true, files, INDEX))
    assert [part for part, _ in ours] == [part for part, _ in theirs]
    for (_, value), (_, expected) in zip(ours, theirs, strict=True):
        assert isinstance(value, float)
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
    assert (name in MINIMIZED) != metric.maximize


def test_a_dense_cluster_is_matched_optimally():
    """Greedy matching by closeness finds one pair here, the best matching two."""
    true = {"a": [{"label": "dog", "start": s, "end": s + 100} for s in (0.0, 190.0)]}
    found = {"a": [{"label": "dog", "start": s, "end": s + 100} for s in (180.0, 380.0)]}
    events = [true_events(listed, ["a"], INDEX) for listed in (found, true)]
    assert EVENT_METRICS["event_onset_200ms_fms"](*events)[0] == ("f_measure", 1.0)


def test_a_label_outside_the_vocabulary_is_never_found_and_has_no_segments():
    true = true_events({"a": [{"label": "cat", "start": 0.0, "end": 1.0}]}, ["a"], INDEX)
    found = true_events({"a": [{"label": "siren", "start": 0.0, "end": 1.0}]}, ["a"], INDEX)
    assert EVENT_METRICS["event_onset_50ms_fms"](found, true)[0] == ("f_measure", 0.0)
    with pytest.raises(ValueError, match=r"not in labelvocabulary\.csv"):
        EVENT_METRICS["segment_1s_er"](found, true)


def test_postprocessing_grid_is_hearevals(kit):
    assert kit.EVENT_POSTPROCESSING_GRID == DEFAULT_GRID


def test_one_frame_is_an_event_of_no_length():
    timeline = FrameTimeline([("a", 5.0)])
    assert len(timeline.events(np.ones((1, 3)), min_duration=0)) == 3
    assert len(timeline.events(np.ones((1, 3)), min_duration=1)) == 0
