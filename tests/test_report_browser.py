"""The report in a real browser, where there is one: sorting, a narrow screen, light and dark."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_cases import scored_benchmark

from eval_recipes.report import build_report, report_files

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium, to see the page as a reader does")

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("scored")
    one = scored_benchmark(folder / "hear_dasheng.dasheng_base-precision=bf16-layers=5-1", 0)
    two = scored_benchmark(folder / "another", 1, without=("esc50-v2.0.0-full",), seeds_std=0.004)
    report = build_report([one, two], leaderboard=["wav2vec2", "CVSSP PANNS"])
    return report_files(report)["index.html"].decode()


@pytest.fixture
def browse(tmp_path):
    """The page's document after its scripts ran, as text."""

    def run(content: str, *flags: str) -> str:
        (tmp_path / "page.html").write_text(content)
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        command += [*flags, "--dump-dom", (tmp_path / "page.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return run


def probe(browse, page: str, expression: str, *flags: str):
    """The value of a JavaScript expression in the page, which a second script evaluates."""
    script = f"""<pre id="probe"></pre><script>
    document.getElementById("probe").textContent = JSON.stringify({expression});</script></body>"""
    content = POLICY.sub("", page).replace("</body>", script)
    (found,) = re.findall(r'<pre id="probe">(.*?)</pre>', browse(content, *flags), flags=re.S)
    return json.loads(html.unescape(found))


def test_the_script_runs_under_the_pages_own_policy(browse, page):
    document = browse(page)
    assert len(re.findall(r'<th scope="col"[^>]*><button type="button">', document)) == 6 + 7
    assert len(re.findall(r'<input type="checkbox">', document)) == 5
    assert "<button" not in page


SORTED = """(() => {
  const [domains, tasks] = document.querySelectorAll("table.sortable");
  const cells = (place) => Array.from(tasks.tBodies[0].rows).map((row) => row.cells[place]);
  const values = (place) => cells(place).map((cell) => cell.dataset.value ?? null);
  const heads = tasks.tHead.rows[0].cells;
  const sorted = () => Array.from(heads).map((head) => head.getAttribute("aria-sort"));
  const press = (place) => { const button = heads[place].querySelector("button"); button.focus();
    if (document.activeElement !== button) throw new Error("cannot be focused"); button.click(); };
  const steps = [];
  for (const place of [2, 2, 3]) { press(place); steps.push([values(place), sorted()]); }
  press(0);
  steps.push([cells(0).map((cell) => cell.textContent), sorted()]);
  return steps;
})()"""


def as_a_reader_sorts(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name.casefold())
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def test_columns_sort_both_ways_and_say_so_with_gaps_last(browse, page):
    one_way, other_way, another_column, names = probe(browse, page, SORTED)
    for (values, heads), place, order in (
        (one_way, 2, "descending"),
        (other_way, 2, "ascending"),
        (another_column, 3, "descending"),
    ):
        numbers = [float(value) for value in values if value is not None]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert values[len(numbers) :] == [None] * (20 - len(numbers))
        assert heads == [order if number == place else None for number in range(len(heads))]
    assert len([value for value in one_way[0] if value is None]) == 0
    assert len([value for value in another_column[0] if value is None]) == 1
    assert names[0] == sorted(names[0], key=as_a_reader_sorts)
    assert names[1][0] == "ascending"


HIDDEN = """(() => {
  const box = document.querySelector("[data-legend='1'] input");
  const line = document.querySelector("[data-line='1']");
  const seen = () => getComputedStyle(line).display !== "none";
  const steps = [seen()];
  box.click(); steps.push(seen());
  box.click(); steps.push(seen());
  return steps;
})()"""


def test_the_legend_hides_lines(browse, page):
    assert probe(browse, page, HIDDEN) == [True, False, True]


LOOKS = """(() => {
  const styles = Array.from(document.querySelectorAll(".track .whisker")).map((line) => {
    const own = getComputedStyle(line);
    return [line.classList[1], own.backgroundImage.split("(")[0], own.borderLeftWidth, own.borderRightWidth];
  });
  const tracks = Array.from(document.querySelectorAll(".track"));
  const over = tracks.filter((track) => {
    const [line, value] = [track.querySelector(".whisker"), track.nextElementSibling];
    const number = document.createRange();
    number.selectNodeContents(value);
    return line && line.getBoundingClientRect().right > number.getBoundingClientRect().left;
  });
  return [[...new Set(styles.map((one) => one.join(" ")))].sort(), over.length];
})()"""


@pytest.mark.parametrize("width", [390, 1400])
def test_lines_over_folds_and_seeds_look_different_and_cover_no_number(browse, page, width):
    styles, n_covering = probe(browse, page, LOOKS, f"--window-size={width},900")
    assert styles == ["folds repeating-linear-gradient 2px 2px", "seeds linear-gradient 2px 2px"]
    assert n_covering == 0


CAPTIONS = """Array.from(document.querySelectorAll("table")).map((table) => {
  const caption = document.getElementById(table.getAttribute("aria-labelledby"));
  const [box, scroll] = [caption, table.parentElement].map((one) => one.getBoundingClientRect());
  return box.bottom <= scroll.top && !caption.closest(".scroll") && box.right <= innerWidth;
})"""


@pytest.mark.parametrize("width", [390, 1400])
def test_captions_stand_above_what_scrolls(browse, page, width):
    assert probe(browse, page, CAPTIONS, f"--window-size={width},900") == [True, True]


LAYOUT = """(() => ({
  width: innerWidth,
  page: document.documentElement.scrollWidth,
  scrolls: Array.from(document.querySelectorAll(".scroll")).map((box) => box.scrollWidth > box.clientWidth),
  outside: Array.from(document.querySelectorAll("main *")).filter((element) =>
    !element.closest(".scroll, svg") && element.getBoundingClientRect().right > innerWidth + 1).length,
}))()"""


@pytest.mark.parametrize("width", [390, 768, 1400])
def test_nothing_sticks_out_of_the_screen(browse, page, width):
    found = probe(browse, page, LAYOUT, f"--window-size={width},900")
    assert found["page"] <= found["width"]
    assert found["outside"] == 0
    if found["width"] <= 500:
        assert found["scrolls"] == [True, True]


@pytest.mark.parametrize(("scheme", "background"), [(1, "rgb(255, 255, 255)"), (0, "rgb(20, 23, 28)")])
def test_light_and_dark(browse, page, scheme, background):
    expression = "getComputedStyle(document.body).backgroundColor"
    setting = f"--blink-settings=preferredColorScheme={scheme}"
    assert probe(browse, page, expression, setting) == background
