"""Names from files of other people: what is refused, and what HEAR's and people's clips are called."""

import pytest

from hear_dasheng.files.names import UnsafeName, check_name, check_relative_path

REFUSED = {
    "traversal": "../../../../victim/good.wav",
    "absolute": "/tmp/good.wav",
    "folder": "fold00/good.wav",
    "backslashes": "..\\..\\good.wav",
    "drive": "C:good.wav",
    "empty": "",
    "dot": ".",
    "two dots": "..",
    "NUL": "good\0.wav",
    "line feed": "good\n.wav",
    "escape": "\x1b[31mgood.wav",
    "C1 control": "good\x9b.wav",
    "line separator": "good\u2028.wav",
    "surrogate": "good\udcff.wav",
    "256 bytes": "ä" * 126 + ".wav",
    "number": 1,
    "null": None,
    "list": ["good.wav"],
}
HEAR_NAMES = [
    # One clip of each form: hearpreprocess slugifies the published names, and keeps the ending.
    "100032.wav",
    "1-100032-a-0.wav",
    "0a7c2a8d-nohash-0.wav",
    "bass-electronic-018-022-075.wav",
    "maps-isol-no-f-s0-m22-akpnbcht-0.wav",
    "1091_ITS_HAP_XX.wav",
    "dev_1_ebr_6_nec_2_poly_0.wav",
    "cash_$_and_$_.flac",
    "Hund (groß), 12:30 Uhr.wav",
    "雷.wav",
    "..wav",
    "a" * 251 + ".wav",
]


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED)
def test_what_is_not_a_name_is_refused_in_one_printable_line_that_names_the_file(name):
    with pytest.raises(UnsafeName) as raised:
        check_name(name, "tasks/mine/fold00.json")
    message = str(raised.value)
    assert message.startswith("tasks/mine/fold00.json: ")
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize("name", HEAR_NAMES)
def test_names_of_clips_pass_as_they_are(name):
    assert check_name(name, "fold00.json") == name
    assert str(check_relative_path(f"fold00/{name}", "meta.csv")) == f"fold00/{name}"


@pytest.mark.parametrize("name", [name for key, name in REFUSED.items() if key not in ("folder", "dot")])
def test_relative_paths_are_of_names(name):
    with pytest.raises(UnsafeName):
        check_relative_path(name, "meta.csv")
    if isinstance(name, str) and name not in ("", "/tmp/good.wav"):
        with pytest.raises(UnsafeName):
            check_relative_path(f"fold00/{name}", "meta.csv")


def test_names_leave_room_for_the_endings_that_are_added():
    assert check_name("a" * 200, "fold00.json", longest_bytes=200)
    with pytest.raises(UnsafeName, match="has 201 bytes; at most 200 are allowed"):
        check_name("a" * 201, "fold00.json", longest_bytes=200)
