"""Downloads against a local server that cuts, corrupts, changes and refuses; the Hub's cache offline."""

import hashlib
import re
import shutil
import subprocess
import sys

import pytest
from file_server import running_server

from hear_dasheng import download, load_model
from hear_dasheng.download import PUBLISHED, DownloadError, fetch, locate
from safe_download import http_file, patience


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(patience, "wait_s", lambda seconds: None)
    with running_server() as server:
        server.content = bytes(range(256)) * 4_000
        yield server


def test_a_url_goes_to_torch_hubs_folder_and_is_fetched_once(server, tmp_path):
    path = fetch(f"{server.url}/some/model.pt?download=1")
    assert path.parent == tmp_path / "torch_home" / "hub" / "checkpoints"
    assert re.fullmatch(r"model-[0-9a-f]{16}\.pt", path.name)
    assert path.read_bytes() == server.content
    assert fetch(f"{server.url}/some/model.pt?download=1") == path
    assert len(server.requests) == 1
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, f"{path.name}.part.lock"}


def test_interrupted_downloads_resume(server):
    server.cut_after = [300_000, 200_000]
    assert fetch(f"{server.url}/model.pt").read_bytes() == server.content
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_killed_process_leaves_a_beginning_that_the_next_one_continues(server):
    server.content *= 3
    server.cut_after = [300_000] + [0] * patience.ATTEMPTS
    with pytest.raises(DownloadError, match="goes on from there"):
        fetch(f"{server.url}/model.pt")
    server.cut_after = []
    assert fetch(f"{server.url}/model.pt").read_bytes() == server.content
    assert server.requests[-1][1] == "bytes=300000-"


def test_a_file_that_changed_meanwhile_is_not_spliced(server):
    server.cut_after = [300_000] + [0] * patience.ATTEMPTS
    server.ranges = False
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/model.pt")
    server.cut_after, server.ranges = [], True
    server.content, server.etag = bytes(len(server.content)), '"two"'
    assert fetch(f"{server.url}/model.pt").read_bytes() == server.content


def test_a_shorter_file_than_the_beginning_starts_anew(server):
    server.cut_after = [300_000] + [0] * patience.ATTEMPTS
    server.ranges = False
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/model.pt")
    server.cut_after, server.ranges, server.content = [], True, b"short"
    assert fetch(f"{server.url}/model.pt").read_bytes() == b"short"


def test_checksums_of_zenodo_records_are_verified(server):
    url = f"{server.url}/records/7/files/model.pt?download=1"
    server.files = {"model.pt": server.content}
    server.checksums = {"model.pt": "md5:" + "0" * 32}
    with pytest.raises(DownloadError, match="arrived damaged: its md5 is not 0000.*try again"):
        fetch(url)
    assert not list(download.cache_folder().glob("model*part"))
    server.checksums = {}
    assert fetch(url).read_bytes() == server.content


def test_a_files_absence_from_its_record_is_told(server):
    with pytest.raises(DownloadError, match="record 7 lists no file other.pt"):
        fetch(f"{server.url}/records/7/files/other.pt")


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_checksums_in_the_url(server, algorithm):
    right = hashlib.new(algorithm, server.content).hexdigest()
    with pytest.raises(DownloadError, match="damaged"):
        fetch(f"{server.url}/model.pt#{algorithm}={'0' * len(right)}")
    assert fetch(f"{server.url}/model.pt#{algorithm}={right}").read_bytes() == server.content


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (500, patience.ATTEMPTS), (429, patience.ATTEMPTS)])
def test_refusals_say_which_file_to_put_where(server, status, tries):
    server.status = status
    with pytest.raises(DownloadError, match=rf"{status}.*put the file at .*checkpoints/model-[0-9a-f]+.pt"):
        fetch(f"{server.url}/model.pt")
    assert len(server.requests) == tries


def test_published_names_offline_name_url_and_place(server, monkeypatch):
    monkeypatch.setattr(patience, "ATTEMPTS", 1)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    assert set(PUBLISHED) == {"dasheng_base", "dasheng_06B", "dasheng_12B", "dasheng_audioset"}
    with pytest.raises(
        DownloadError,
        match=r"zenodo.org/records/11511780/files/dasheng_06b.pt.*put the file at .*dasheng_06b.pt",
    ):
        load_model("dasheng_06B")
    with pytest.raises(DownloadError, match="dasheng_base.pt"):
        load_model()


@pytest.fixture
def published(server, tiny_pt, monkeypatch):
    """Where a published file is kept, which a stand-in for Zenodo's record lists."""
    server.content = tiny_pt.read_bytes()
    server.files = {"dasheng_12b.pt": server.content}
    monkeypatch.setitem(PUBLISHED, "dasheng_12B", f"{server.url}/records/7/files/dasheng_12b.pt?download=1")
    target = download.cache_folder() / "dasheng_12b.pt"
    target.parent.mkdir(parents=True)
    return target


def test_a_published_file_put_there_is_verified_once(server, published, tiny_pt):
    shutil.copy(tiny_pt, published)
    assert locate("dasheng_12B") == published
    n_requests = len(server.requests)
    assert not server.file_requests  # the record alone was read
    assert load_model("dasheng_12B").scene_embedding_size == 192
    assert len(server.requests) == n_requests
    published.write_bytes(tiny_pt.read_bytes()[:-1])
    with pytest.raises(DownloadError, match=r"dasheng_12b\.pt is not http.*; move it away"):
        locate("dasheng_12B")


def test_another_file_of_a_published_name_is_refused_and_kept(server, published):
    published.write_bytes(b"x" * len(server.content))  # even of the right size
    with pytest.raises(DownloadError, match=r"dasheng_12b\.pt is not http.*or another content; move it away"):
        locate("dasheng_12B")
    assert published.read_bytes() == b"x" * len(server.content)


def test_a_published_file_is_used_with_a_warning_where_its_record_cannot_be_read(
    server, published, tiny_pt, caplog, monkeypatch
):
    shutil.copy(tiny_pt, published)
    monkeypatch.setitem(PUBLISHED, "dasheng_12B", "http://127.0.0.1:9/records/7/files/dasheng_12b.pt")
    monkeypatch.delattr(http_file, "persist")  # no retries: the file is there
    assert locate("dasheng_12B") == published
    assert "cannot be verified" in caplog.text


def test_two_urls_with_one_last_component_are_two_files(server):
    server.content = b"first"
    first = fetch(f"{server.url}/a/model.pt")
    server.content = b"second"
    second = fetch(f"{server.url}/b/model.pt")
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert fetch(f"{server.url}/a/model.pt") == first
    query = fetch(f"{server.url}/a/model.pt?revision=2")
    assert query.read_bytes() == b"second"


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_cached_file_is_verified_by_the_urls_checksum(server, algorithm):
    url = f"{server.url}/model.pt#{algorithm}={hashlib.new(algorithm, server.content).hexdigest()}"
    path = fetch(url)
    path.write_bytes(b"damaged")
    assert fetch(url).read_bytes() == server.content
    wrong = "0" * (32 if algorithm == "md5" else 64)
    with pytest.raises(DownloadError, match="damaged"):
        fetch(f"{server.url}/model.pt#{algorithm}={wrong}")
    assert fetch(url) == path
    with pytest.raises(DownloadError, match="unknown checksum 'sha257:0'"):
        fetch(f"{server.url}/model.pt#sha257=0")


def test_what_earlier_versions_cached_is_used_only_if_a_checksum_proves_it(server):
    earlier = download.cache_folder() / "model.pt"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"of another URL")
    assert fetch(f"{server.url}/model.pt").read_bytes() == server.content
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert fetch(f"{server.url}/model.pt#sha256={sha256}") != earlier
    n_requests = len(server.requests)
    earlier.write_bytes(server.content)
    assert fetch(f"{server.url}/x/model.pt#sha256={sha256}") == earlier
    assert len(server.requests) == n_requests


def test_names_in_urls_reach_no_other_folder(server):
    folder = download.cache_folder()
    for last in ("..%2F..%2Fevil.pt", "..", "a%00b.pt", "x" * 300 + ".pt", "%2Fetc%2Fevil.pt"):
        assert fetch(f"{server.url}/x/{last}").parent == folder


def test_a_checkpoint_loads_from_a_url(server, tiny_pt):
    server.content = tiny_pt.read_bytes()
    assert load_model(f"{server.url}/x/tiny.pt").timestamp_embedding_size == 192


def test_processes_that_download_together_fetch_once(server, tmp_path):
    script = f"from hear_dasheng.download import fetch; fetch('{server.url}/model.pt')"
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(server.requests) == 1


def hub_cache(folder, checkpoint):
    """What huggingface_hub leaves in its cache after a download."""
    repository = folder / "hub" / "models--mispeech--dasheng-tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(checkpoint, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)


def test_hub_ids_use_the_hubs_cache_and_say_what_is_missing_offline(tmp_path, tiny_folder):
    hub_cache(tmp_path, tiny_folder)
    script = (
        "from hear_dasheng import load_model\n"
        "print(load_model('mispeech/dasheng-tiny').scene_embedding_size)\n"
        "load_model('mispeech/dasheng-base')\n"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "192"
    assert "DownloadError" in result.stderr
    assert "config.json and model.safetensors of mispeech/dasheng-base" in result.stderr
    assert str(tmp_path / "hub") in result.stderr


@pytest.mark.parametrize("name", ["dasheng_large", "no/such/deep/path", "missing/file.pt"])
def test_what_is_nothing_lists_what_could_be(name):
    with pytest.raises(FileNotFoundError, match="dasheng_base, dasheng_06B, dasheng_12B"):
        locate(name)
