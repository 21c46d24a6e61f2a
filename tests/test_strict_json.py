"""Strict JSON: what is refused, in one line that names the file, and what is read."""

import os

import pytest

from hear_dasheng.files.strict_json import JsonProblem, parse_json, read_json, read_json_object

REFUSED = {
    "duplicate key": (b'{"a.wav": ["x"], "b.wav": [], "a.wav": []}', "the key 'a.wav' occurs twice"),
    "duplicate key inside": (b'[{"k": {"a": 1, "a": 2}}]', "the key 'a' occurs twice"),
    "NaN": (b'{"mean": NaN}', "NaN is not a JSON number"),
    "infinity": (b"[-Infinity]", "-Infinity is not a JSON number"),
    "overflow": (b"[1e999]", "the number '1e999' is beyond the range of float64"),
    "huge integer": (b"[" + b"9" * 5000 + b"]", "has more than 64 bits"),
    "large integer": (b"[36893488147419103232]", "has more than 64 bits"),
    "lone surrogate": (rb'{"a\ud800": 1}', r"the string 'a\ud800' holds a lone surrogate"),
    "lone surrogate inside": (rb'[[{"a": "\udfff"}]]', "holds a lone surrogate"),
    "deep lists": (b"[" * 65 + b"]" * 65, "nested more than 64 levels deep"),
    "very deep lists": (b"[" * 200_000 + b"]" * 200_000, "nested more than 64 levels deep"),
    "very deep objects": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested more than 64 levels deep"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not UTF-8: byte 0 is 0xff"),
    "Latin-1": ('{"Köter": 1}'.encode("latin-1"), "is not UTF-8: byte 3 is 0xf6"),
    "cut short": (b'{"a": [1,', "line 1 column"),
    "empty": (b"", "line 1 column 1"),
    "two values": (b"{} {}", "Extra data"),
}
READ = {
    "object": (b'{"a": [1, -2.5, true, null, "x"]}', {"a": [1, -2.5, True, None, "x"]}),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    "pair of surrogates": (rb'["\ud83d\ude00"]', ["😀"]),
    "UTF-8": ('{"Köter": 1}'.encode(), {"Köter": 1}),
    "64 bits": (b"[18446744073709551615]", [2**64 - 1]),
    "64 levels": (b"[" * 63 + b"{}" + b"]" * 63, None),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_strict_json_is_refused_in_one_line_that_names_the_file(tmp_path, content, reason):
    path = tmp_path / "lists.json"
    path.write_bytes(content)
    with pytest.raises(JsonProblem) as raised:
        read_json(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert reason in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200
    message.encode()  # it can be printed


@pytest.mark.parametrize(("content", "value"), READ.values(), ids=READ)
def test_strict_json_is_read(tmp_path, content, value):
    path = tmp_path / "lists.json"
    path.write_bytes(content)
    found = read_json(path)
    assert value is None or found == value


def test_numbers_that_are_not_finite_are_read_where_they_are_allowed(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("[NaN, -Infinity, 1e999]")
    nan, minus, plus = read_json(path, allow_nan=True)
    assert nan != nan
    assert (minus, plus) == (-float("inf"), float("inf"))


def test_large_files_and_files_that_are_not_regular_are_not_read(tmp_path):
    large, fifo, zeros = tmp_path / "large.json", tmp_path / "fifo.json", tmp_path / "zeros.json"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(fifo)
    zeros.symlink_to("/dev/zero")
    with pytest.raises(JsonProblem, match=r"large\.json has 1099511627776 bytes; at most 67108864 are read"):
        read_json(large)
    for path in (fifo, zeros, tmp_path):
        with pytest.raises(JsonProblem, match="is not a regular file"):
            read_json(path)


def test_a_value_that_is_not_an_object_is_named(tmp_path):
    path = tmp_path / "fold00.json"
    path.write_text("[1]")
    with pytest.raises(JsonProblem, match=r"fold00\.json holds a list where a JSON object is expected"):
        read_json_object(path)


def test_options_are_refused_like_files():
    with pytest.raises(JsonProblem, match="--model-options is not strict JSON: the key 'a' occurs twice"):
        parse_json('{"a": 1, "a": 2}', "--model-options")
