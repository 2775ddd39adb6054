"""The report page in a real browser: names are text, nothing is loaded, all can be reached."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loupe.reportparts import (
    Block,
    Chart,
    Commands,
    Facts,
    Gallery,
    Grid,
    Picture,
    Section,
    Text,
)

pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from loupe.figures import BLUE, add_axes, drawing, finish_figure  # noqa: E402
from loupe.reportpages import TONES, Heading, write_page  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
EVIL = "<script>window.hit = 1</script>"
ODD = (
    EVIL, "고양이 발톱 자국이 난 표면", "划痕", "猫", "<img src=x onerror=window.hit=1>",
    '$x^2$ & "y"', "javascript:window.hit=1", "a very long name " * 12,
)  # fmt: skip
FIFTY = (*ODD, *(f"class {number:02}" for number in range(50 - len(ODD))))


def draw_picture(colour: str, size: tuple[int, int] = (160, 120)) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, "JPEG")
    return held.getvalue()


def make_sections(classes: tuple[str, ...]) -> tuple[Section, ...]:
    """Make a block of every kind, full of the names."""
    rows = tuple((name, str(at), f"0.{at} (0.1 to 0.9)") for at, name in enumerate(classes))
    header = ("class", "rows", "share")
    red, blue, green = (draw_picture(name) for name in ("red", "blue", "green"))
    pictures = tuple(
        Picture(data=red, alt=name, lines=(f"{name}.jpg", name), beside=blue)
        for name in classes[:6]
    )
    large = Picture(data=draw_picture("green", (900, 300)), alt="Sheet")
    plain = Picture(data=green, alt="", lines=("a/b_c-d.png",))
    tones: list[Block] = [Text(text=f"It is {EVIL}", tone=tone) for tone in TONES]
    cells = tuple((name, *classes) for name in classes[:9])
    data = (
        Facts(pairs=tuple((name, name) for name in classes)),
        draw_chart(classes, header, rows),
        Grid(title=EVIL, header=("class", *classes), rows=cells),
        Gallery(title=EVIL, pictures=(*pictures, plain, large)),
    )
    more = (
        Grid(title="Many rows", header=header, rows=rows * 3, name="many", wide=True),
        Commands(lines=("line\n" * 30,)),
    )
    first: tuple[Block, ...] = (*tones, Commands(lines=(f"echo '{EVIL}'",)))
    return (
        Section(key="verdict", title="Verdict", blocks=first),
        Section(key="data", title=f"Data of {EVIL}", blocks=data),
        Section(key="more", title="More", blocks=more),
        Section(key="empty", title="Nothing", blocks=()),
    )


def draw_chart(classes: tuple[str, ...], header: tuple[str, ...], rows: Any) -> Chart:
    with drawing(0.3 * len(classes) + 1) as figure:
        (axes,) = add_axes(figure)
        axes.barh(range(len(classes)), range(len(classes)), color=BLUE)
        axes.set_yticks(range(len(classes)), [name[:30] for name in classes])
        return finish_figure(figure, name="bars", title=EVIL, alt=EVIL, header=header, rows=rows)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Pages of 2 and of 50 classes; by the number of classes."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for classes in (ODD[:2], FIFTY):
        heading = Heading(title=EVIL, lines=(EVIL, "today"), figures="figures")
        path = folder / f"{len(classes)}.html"
        path.write_text(write_page(heading, make_sections(classes)), encoding="utf-8")
        found[len(classes)] = path
    return found


@pytest.fixture(scope="module")
def browser() -> Any:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Any:
    """Open a file; the page keeps what it asked for, and what went wrong."""
    contexts = []

    def open_file(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.asked, page.faults = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda fault: page.faults.append(str(fault)))
        page.on(
            "console",
            lambda said: said.type in {"error", "warning"} and page.faults.append(said.text),
        )
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()


@pytest.mark.parametrize("count", [2, 50])
def test_names_are_text_and_nothing_is_loaded(
    pages: dict[int, Path], open_page: Any, count: int
) -> None:
    page = open_page(pages[count])
    page.wait_for_timeout(100)
    outside = [url for url in page.asked if not url.startswith("data:")]
    assert outside == [pages[count].as_uri()]
    assert page.faults == []
    assert page.evaluate("window.hit") is None
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator("script").count() == 1
    assert page.locator("#data svg text", has_text="<script>").count() >= 1
    assert page.title() == f"{EVIL} · Loupe report"
    broken = "[...document.images].filter((image) => !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    if count > len(ODD):
        assert "고양이" in page.locator("#data svg").inner_html()


def test_headings_landmarks_and_ids_are_in_order(pages: dict[int, Path], open_page: Any) -> None:
    page = open_page(pages[50])
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("#empty").count() == 0
    links = page.locator("#contents a")
    assert [link.get_attribute("href") for link in links.all()] == ["#verdict", "#data", "#more"]
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator(".drawn[role=img][aria-label]").count() == 1


def test_the_page_works_by_keys(pages: dict[int, Path], open_page: Any) -> None:
    page = open_page(pages[50])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.locator("#more summary").first.press("Enter")
    assert page.locator("#more table").is_visible()
    # What is wider than the page is scrolled by keys; what is not has no stop.
    assert page.locator("#data figure.sheet .scroll").get_attribute("tabindex") == "0"
    assert page.locator("#more .scroll").first.get_attribute("tabindex") is None


def test_light_and_dark_follow_the_reader_and_the_button(
    pages: dict[int, Path], open_page: Any
) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = open_page(pages[2], color_scheme="light")
    dark = open_page(pages[2], color_scheme="dark")
    assert light.evaluate(paper) == "rgb(254, 254, 254)"
    assert dark.evaluate(paper) == "rgb(23, 24, 26)"
    button = dark.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert dark.evaluate(paper) == "rgb(254, 254, 254)"
    dark.reload()
    assert dark.evaluate(paper) == "rgb(254, 254, 254)"
    light.get_by_role("button", name="Dark").click()
    light.emulate_media(media="print")
    assert light.evaluate(paper) == "rgb(254, 254, 254)"


def test_without_script_all_is_there(pages: dict[int, Path], open_page: Any) -> None:
    page = open_page(pages[50], java_script_enabled=False)
    assert page.locator("#contents a").first.is_visible()
    assert not page.locator("#mode").is_visible()
    assert not page.locator(".copy").first.is_visible()
    page.locator("#more summary").first.click()
    assert page.locator("#more table").is_visible()
    assert "120" not in page.locator("#more .quiet").first.inner_text()
    assert "90 more rows" in page.locator("#more").inner_text()


def test_a_phone_scrolls_wide_things_and_never_the_page(
    pages: dict[int, Path], open_page: Any
) -> None:
    page = open_page(
        pages[50], viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.locator("#contents a").first.is_visible()
    page.locator("#contents summary").tap()
    assert page.locator("#contents a").first.is_visible()
    assert page.locator(".drawn").bounding_box()["width"] == 540


def test_paper_shows_what_is_folded(pages: dict[int, Path], open_page: Any) -> None:
    page = open_page(pages[50])
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#more table").is_visible()
    assert not page.locator("nav").is_visible()
    assert not page.locator(".numbers").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#more details[open]").count() == 0
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
