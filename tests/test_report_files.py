"""The report's files: HTML that is sound, safe and legible, Markdown, pictures."""

import base64
import hashlib
import html.parser
import io
import re
from itertools import pairwise

import matplotlib.image
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY, run_command
from report_cases import scored_benchmark, scored_task

from eval_recipes.report import build_report, report, report_files, write_report

TEMPLATES = REPOSITORY / "eval_recipes/reporting/templates"
CSS, SCRIPT = (TEMPLATES / "page.css").read_text(), (TEMPLATES / "page.js").read_text()
VOID = {"meta", "wbr", "br", "input", "link", "img"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|`$x$&amp;"
EVIL_FOLDER = EVIL.replace("/", "∕")
NAMES = ["index.html", "report.md", "scores.csv", "domain_means.csv", "domains.png", "radar.png", "tasks.png"]


class Page(html.parser.HTMLParser):
    """A strict reader: every element is closed in its order, no attribute comes twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    one = scored_benchmark(folder / "hear_dasheng.dasheng_base", 0)
    two = scored_benchmark(folder / "another", 1, without=("esc50-v2.0.0-full",), seeds_std=0.004)
    return build_report([one, two], leaderboard=["wav2vec2"])


@pytest.fixture(scope="module")
def files(full_report):
    return report_files(full_report)


@pytest.fixture(scope="module")
def page(files):
    return Page(files["index.html"].decode())


def test_the_page_is_well_formed_and_its_references_hold(page, files):
    assert files["index.html"].startswith(b'<!doctype html>\n<html lang="en">')
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in page.elements:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids


def test_the_page_needs_nothing_else(page, files):
    assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _, _ in page.elements}
    assert not [attributes for _, attributes, _ in page.elements if "src" in attributes]
    assert {tag for tag, attributes, _ in page.elements if "href" in attributes} == {"a"}
    assert not re.search(r"@import|url\(|https?:", CSS + SCRIPT)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "".join(page.texts["script"]) == SCRIPT


def test_tables_and_figures_can_be_heard(page):
    captions = {attributes["id"] for attributes in page.all("p") if attributes.get("class") == "caption"}
    assert len(captions) == 2
    assert {table["aria-labelledby"] for table in page.all("table")} == captions
    assert all("scope" in attributes for attributes in page.all("th"))
    regions = [attributes for attributes in page.all("div") if attributes.get("role") == "region"]
    assert len(regions) == 2
    assert all(region["tabindex"] == "0" and region["aria-labelledby"] for region in regions)
    pictures = page.all("svg")
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in pictures)
    assert sum(svg.get("role") == "img" for svg in pictures) == 1
    assert page.texts["desc"]
    headings = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_page_shows_what_it_must(page, files):
    text = files["index.html"].decode()
    assert "incomplete: 3 of 4" in text
    assert "± 0.4 over 3 seeds" in text
    assert "over 5 folds" in text
    assert "Dasheng-1.2B (read off a figure)" in text
    assert "~85.3" in text
    assert "Dasheng-0.6B (paper)" in text.replace("<wbr />", "")
    assert "HEAR leaderboard, HEAR 2021" in text
    assert "https://arxiv.org/abs/2406.06992" in text


@pytest.fixture(scope="module")
def evil_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evil") / EVIL_FOLDER
    for number in range(3):
        options = {"options": {EVIL: EVIL}, "module": EVIL, "protocol": {"scorer": EVIL, EVIL: EVIL}}
        scored_task(folder / f"{EVIL_FOLDER}{number}", "top1_acc", [0.5, 0.6], **options)
    scored_task(folder / "other", EVIL, [0.5], checkpoint=EVIL)
    return report_files(build_report([folder, folder / "other"], [EVIL, EVIL]))


def test_names_are_text_never_markup(evil_files):
    page = Page(evil_files["index.html"].decode())
    assert not {"img", "iframe"} & {tag for tag, _, _ in page.elements}
    assert len(page.all("script")) == 1
    assert "".join(page.texts["script"]) == SCRIPT
    assert not [name for _, attributes, _ in page.elements for name in attributes if name.startswith("on")]
    assert EVIL in "".join(page.texts["b"]).replace("\n", "")


def test_names_are_text_in_markdown_too(evil_files):
    text = evil_files["report.md"].decode()
    assert "<script" not in text
    assert "<img" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) == 1


def test_markdown_has_all_rows(files, full_report):
    text = files["report.md"].decode()
    for row in full_report.rows:
        assert f"| {row.title} |" in text
    assert "incomplete: 3 of 4" in text
    assert "~~" not in text


def test_pictures_open(files, evil_files):
    for name, content in [*files.items(), *evil_files.items()]:
        if name.endswith(".png"):
            height, width, channels = matplotlib.image.imread(io.BytesIO(content)).shape
            assert min(height, width) > 150
            assert channels == 4


def test_the_same_scores_give_the_same_bytes(files, full_report):
    assert report_files(full_report) == files


def test_an_earlier_reports_files_do_not_stay(tmp_path, full_report):
    write_report(full_report, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)
    scored_task(tmp_path / "model" / "mine", "top1_acc", [0.5, 0.6])
    small = build_report([tmp_path / "model"])
    written = write_report(small, tmp_path / "out")
    assert {path.name for path in written} == {"index.html", "report.md", "scores.csv", "tasks.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in written}


def test_a_score_without_a_ceiling_has_no_bar_and_no_percent(tmp_path):
    scored_task(tmp_path / "model" / "mine", "d_prime", [1.25])
    contents = report_files(build_report([tmp_path / "model"]))
    assert set(contents) == {"index.html", "report.md", "scores.csv"}
    assert "1.250" in contents["index.html"].decode()


def test_the_command(tmp_path):
    scored_benchmark(tmp_path / "model", 0)
    runner = CliRunner()
    arguments = [
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "out"),
        "--leaderboard",
        "openl3",
        "--no-paper",
    ]
    result = runner.invoke(report, arguments)
    assert result.exit_code == 0, result.output
    assert [line.rpartition("/")[2] for line in result.stdout.splitlines()] == NAMES
    assert "OpenL3" in (tmp_path / "out/report.md").read_text()
    assert "(paper)" not in (tmp_path / "out/report.md").read_text()
    wrong = runner.invoke(report, [str(tmp_path / "model"), "--leaderboard", "OpenL4"])
    assert wrong.exit_code == 2
    assert "the nearest: OpenL3" in wrong.output


def test_the_command_is_registered(tmp_path):
    result = run_command("report", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--leaderboard NAME" in result.stdout
