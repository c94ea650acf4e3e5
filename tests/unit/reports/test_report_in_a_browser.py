"""The page as a real browser shows it: numbers and pictures are read off it, and nothing that a model wrote runs."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests.run_directories import make_run, write_whole_run

BROWSER = os.environ.get("GKD_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></script><!-- & 'x'"
SAMPLE = {
    "prompt": f"What is {EVIL}?",
    "before": "a sample",
    "after": "another sample",
    "reference": "the reference",
    "before_greedy": EVIL,
    "after_greedy": "x" * 5000,
    "teacher_greedy": "what the teacher says",
}
in_browser = pytest.mark.skipif(
    BROWSER is None, reason="no browser: neither chromium on PATH nor its path in GKD_CHROMIUM"
)
VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})


class Element:
    """One element of a page; `text` is that of everything in it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes, self.parts = tag, attributes, []

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        """Those inside with this tag and these attributes (`data_x` is `data-x`), in order."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            each
            for each in self
            if each.tag in (tag, tag or each.tag) and all(each.attributes.get(key) == wanted[key] for key in wanted)
        ]

    def __iter__(self) -> Iterator["Element"]:
        for part in self.parts:
            if isinstance(part, Element):
                yield part
                yield from part


class Page(HTMLParser):
    """What the browser holds after the script has run."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].parts.append(made)
        if tag not in VOID:
            self._open.append(made)

    def handle_endtag(self, tag: str) -> None:
        if any(each.tag == tag for each in self._open):
            while self._open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        self._open[-1].parts.append(data)

    def by_id(self, name: str) -> Element:
        (found,) = self.root.all(id=name)
        return found

    @property
    def title(self) -> str:
        return self.root.all("title")[0].text

    @property
    def tiles(self) -> dict[str, str]:
        return {each.all("dt")[0].text: each.all("dd")[0].text for each in self.by_id("numbers").all("div")}


def opened(file: Path, *options: str) -> Page:
    """The page in the browser."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
        f"--user-data-dir={file.parent / 'profile'}", *options, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return Page(done.stdout)


def report_of(tmp_path: Path, *runs: Path) -> Path:
    file = tmp_path / "page" / "report.html"
    assert main(["report", *map(str, runs), "-o", str(file)]) == 0
    return file


@in_browser
def test_numbers_and_curves_of_one_run(tmp_path: Path) -> None:
    page = opened(report_of(tmp_path, write_whole_run(tmp_path, samples=[SAMPLE])))
    assert page.tiles["state"] == "finished"
    assert page.tiles["loss, last step"] == "0.5"
    assert page.tiles["held out, forward KL (nats/token)"] == "1.25 \u2192 0.75"
    (loss,) = page.by_id("chart-loss").all("path", data_name="tiny-1")
    assert loss.attributes["data-points"] == "4"
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", loss.attributes["d"])]
    assert heights == sorted(heights)  # down the page: the loss falls
    # 2, 1, 2/3, 1/2: gaps of the picture are as those of the numbers, to the tenth of a pixel that paths have.
    assert (heights[1] - heights[0]) / (heights[3] - heights[0]) == pytest.approx(1 / 1.5, abs=0.005)
    roles = [each.attributes["data-name"] for each in page.by_id("chart-throughput").all("path")]
    assert roles == ["sampler", "teacher", "learner"]
    bars = {
        each.attributes["data-category"]: each for each in page.by_id("chart-staleness").all("rect", data_name="tiny-1")
    }
    assert {name: bar.attributes["data-value"] for name, bar in bars.items()} == {"0": "3", "1": "4", "2": "1"}
    assert float(bars["1"].attributes["height"]) == pytest.approx(4 * float(bars["2"].attributes["height"]), rel=0.01)


@in_browser
def test_the_timeline_has_states_deaths_and_scale(tmp_path: Path) -> None:
    page = opened(report_of(tmp_path, write_whole_run(tmp_path)))
    figure = page.by_id("timeline-0")
    assert {each.attributes["data-mark"] for each in figure.all("g") if "data-mark" in each.attributes} == {
        "attempt", "checkpoint", "replica", "scale", "stage",
    }  # fmt: skip
    words = page.by_id("events").all("tbody")[0].text
    assert "sampler: 1 \u2192 3 replicas, asked for" in words
    assert "sampler 0: healthy \u2192 dead (oom)" in words
    assert "checkpoint of step 4 written" in words


@in_browser
def test_the_time_of_a_step_is_drawn_by_role_as_wide_as_it_is_long(tmp_path: Path) -> None:
    figure = opened(report_of(tmp_path, write_whole_run(tmp_path))).by_id("step-0-0")
    bars = {
        (each.attributes["data-role"], each.attributes["data-part"]): each
        for each in figure.all("rect")
        if "data-role" in each.attributes
    }
    idle = [each for (_, part), each in bars.items() if part == "idle"]
    assert len(idle) == 3
    assert all("url(" in each.attributes["style"] for each in idle)  # hatched
    wide = {key: float(bar.attributes["width"]) for key, bar in bars.items()}
    second = wide["learner", "learning"]
    assert wide["sampler", "sampling"] == pytest.approx(second * 0.5, rel=1e-3)
    assert wide["sampler", "sampling: transport"] == pytest.approx(second * 0.125, rel=1e-3)
    assert wide["sampler", "idle"] == pytest.approx(second * 1.25, rel=1e-3)
    assert wide["learner", "learning: loss and head"] == pytest.approx(second * 0.25, rel=1e-3)
    (picture,) = figure.all("svg", role="img")
    assert "learning 1 s (of it forward 0.75 s, loss and head 0.25 s), idle 1 s" in picture.attributes["aria-label"]


@in_browser
def test_what_models_write_is_text_and_nothing_of_it_runs(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path, samples=[SAMPLE])
    (run / "attempts.jsonl").open("a").write(
        '{"attempt":2,"event":"started","at":"2026-01-01T00:00:00+00:00","host":"<script>1</script>","pid":1}\n'
    )
    page = opened(report_of(tmp_path, run))
    assert page.title == "tiny-1 - gkd report"
    samples = page.by_id("samples")
    assert samples.all("h3")[0].text == SAMPLE["prompt"]
    answers = {each.attributes["data-answer"]: each.text for each in samples.all() if "data-answer" in each.attributes}
    assert answers["before"] == EVIL
    assert answers["teacher"] == "what the teacher says"
    assert answers["reference"] == "the reference"
    assert answers["after"].endswith("[... 1000 more characters]")
    assert not page.root.all("img")
    assert len(page.root.all("script")) == 2  # the numbers, and the script of the page


@in_browser
def test_the_policy_of_the_page_runs_no_other_script(tmp_path: Path) -> None:
    """Even where something were not escaped."""
    file = report_of(tmp_path, write_whole_run(tmp_path))
    planted = file.read_text().replace("</main>", "<script>document.title = 'owned'</script></main>")
    file.write_text(planted)
    with pytest.raises(AssertionError, match="violates the following Content Security"):
        opened(file)
    file.write_text(re.sub("<meta http-equiv=[^>]*>", "", planted))
    assert opened(file).title == "owned"  # so it would have been seen


@in_browser
def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [
        write_whole_run(tmp_path, samples=[SAMPLE]),
        write_whole_run(tmp_path, "learner.batch_size=8", "objective.divergence=reverse_kl", factor=2.0),
    ]
    page = opened(report_of(tmp_path, *runs))
    rows = {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in page.by_id("numbers").all("tr")[1:]}
    assert rows["loss, last step"] == ["0.5", "1"]
    curves = page.by_id("chart-loss").all("path")
    assert [each.attributes["data-name"] for each in curves] == ["tiny-1", "tiny-2"]
    assert len({each.attributes["stroke-dasharray"] for each in curves}) == 2  # told apart without colours
    changed = page.by_id("differences").all("tbody")[0].all("tr")
    assert {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in changed} == {
        "objective.divergence": ["forward_kl", "reverse_kl"],
        "learner.batch_size": ["4", "8"],
    }


@in_browser
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_as_wide_as_the_window(tmp_path: Path, width: int) -> None:
    """Of a phone and of a desktop: pictures are drawn for the width they have. Headless windows are at least 500 wide,
    so the narrow one is a frame."""
    file = report_of(tmp_path, write_whole_run(tmp_path, samples=[SAMPLE]))
    source = file.read_text().replace("<body>", f'<body style="width: {width}px; min-width: 0">')
    file.write_text(source.replace("max-width: 84rem", "max-width: none"))
    page = opened(file, "--window-size=1600,900")
    widths = {float(each.attributes["viewbox"].split()[2]) for each in page.root.all("svg", role="img")}
    assert max(widths) <= width
    assert min(widths) > width * 0.35


def with_script(file: Path, script: str) -> None:
    """Let the page run `script` after all others, which its policy would not."""
    source = re.sub("<meta http-equiv=[^>]*>", "", file.read_text())
    file.write_text(source.replace("</body>", f"<script>{script}</script></body>"))


POINTER = """
const svg = document.querySelector('#chart-loss svg[role=img]');
const frame = svg.getBoundingClientRect();
const at = (share) => frame.left + 52 + share * (frame.width - 66);
const send = (type, share, buttons) => svg.dispatchEvent(new PointerEvent(type, {
  clientX: at(share), clientY: frame.top + 50, buttons, bubbles: true,
}));
"""


@in_browser
def test_pointing_at_a_curve_tells_its_numbers(tmp_path: Path) -> None:
    file = report_of(tmp_path, write_whole_run(tmp_path))
    with_script(file, POINTER + "send('pointermove', 0.36, 0);")
    (tip,) = opened(file).by_id("chart-loss").all("div", **{"class": "tip"})
    assert [line.text for line in tip.all("div")] == ["train step 1", "tiny-1: 1"]
    with_script(file, "svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));")
    (tip,) = opened(file).by_id("chart-loss").all("div", **{"class": "tip"})
    assert [line.text for line in tip.all("div")] == ["train step 2", "tiny-1: 0.6667"]


@in_browser
def test_dragging_looks_closer_and_a_double_click_goes_back(tmp_path: Path) -> None:
    file = report_of(tmp_path, write_whole_run(tmp_path))
    drag = POINTER + "send('pointerdown', 0.5, 1); send('pointermove', 1.02, 1); send('pointerup', 1.02, 0);"

    def steps() -> list[str]:
        texts = [
            each.text for each in opened(file).by_id("chart-loss").all("text") if "middle" in each.attributes.values()
        ]
        return [text for text in texts if text.isdecimal()]

    with_script(file, drag)
    assert steps() == ["2", "3"]
    with_script(file, "svg.dispatchEvent(new MouseEvent('dblclick'));")
    assert steps() == ["0", "1", "2", "3"]


@in_browser
def test_a_name_in_the_legend_hides_its_curve(tmp_path: Path) -> None:
    file = report_of(tmp_path, write_whole_run(tmp_path))
    with_script(file, "document.querySelector('#chart-throughput .legend button').click();")
    names = [each.attributes["data-name"] for each in opened(file).by_id("chart-throughput").all("path")]
    assert names == ["teacher", "learner"]


@in_browser
def test_a_run_that_has_nothing_yet_in_the_browser(tmp_path: Path) -> None:
    page = opened(report_of(tmp_path, make_run(tmp_path).path))
    assert page.tiles["state"] == "not started"
    assert "No train step has been done yet" in page.root.all("main")[0].text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    """No address that a browser would fetch, in whatever attribute, style or script."""
    source = report_of(tmp_path, write_whole_run(tmp_path)).read_text()
    assert not re.findall(
        r"<(?:link|img|iframe|object|embed|audio|video|source)\b|\bsrc=|@import|fetch\(|XMLHttpRequest", source
    )
    assert set(re.findall(r"https?://[^\s\"'<]+", source)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in source
    assert len(source) < 200_000
