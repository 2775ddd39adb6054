"""The review page in a real browser, driven by its keys."""

from __future__ import annotations

import csv
import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from loupe.issues import Issue, write_issues
from loupe.masks import encode_rle
from loupe.recipe import Recipe
from loupe.reviewing import review
from loupe.runs import create_run
from loupe.table import Table

pytest.importorskip("starlette", reason="the extra 'review' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'review' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CAT, DOG, EVIL = "고양이", "dog & <b>puppy</b>", "<script>window.hit = 1</script>"
CLASSES = (CAT, DOG, EVIL)
SERVE = """
import sys
from loupe.reviewing import review
print(review(
    sys.argv[1], reviewer="ann", open_browser=False, tell=lambda text: print(text, flush=True)
))
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A server at work; in a process of its own where it is to be killed."""

    address: str
    process: subprocess.Popen[str] | None = None

    def url(self, path: str = "/") -> str:
        return self.address.split("/?")[0] + path


@contextmanager
def serve(issues: Path) -> Iterator[Session]:
    told: Queue[str] = Queue()
    options = {"reviewer": "ann", "open_browser": False, "tell": told.put}
    thread = Thread(target=review, args=(issues,), kwargs=options, daemon=True)
    thread.start()
    session = Session(told.get(timeout=20))
    yield session
    ask(session, "/finish", method="POST", **enter(session))
    thread.join(10)
    assert not thread.is_alive()


@contextmanager
def launch(issues: Path) -> Iterator[Session]:
    command = [sys.executable, "-c", SERVE, str(issues)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Session(process.stdout.readline().strip(), process)
        finally:
            process.kill()


def ask(session: Session, path: str, *, method: str = "GET", body: str = "", **headers: str) -> Any:
    place = urlsplit(session.address)
    connection = http.client.HTTPConnection("127.0.0.1", place.port or 0, timeout=10)
    connection.request(method, path, body=body or None, headers=headers)
    answer = connection.getresponse()
    answer.text = answer.read().decode("utf-8", errors="replace")  # type: ignore[attr-defined]
    connection.close()
    return answer


def enter(session: Session) -> dict[str, str]:
    """Return the header of who opened the address."""
    answer = ask(session, "/?" + urlsplit(session.address).query)
    return {"Cookie": answer.getheader("set-cookie").split(";")[0]}


def make_table(folder: Path, classes: tuple[str, ...] = CLASSES, rows: int = 12) -> Table:
    """Make small images of one colour a class, two rows a group."""
    folder.mkdir()
    for row in range(rows):
        pixels = np.full((32, 48, 3), 40, np.uint8)
        pixels[..., row % 3] = 120 + 10 * row
        Image.fromarray(pixels).save(folder / f"{row:02}.png")
    targets = np.eye(len(classes), dtype=np.float32)[np.arange(rows) % len(classes)]
    return Table(
        ids=tuple(f"{row:02}.png" for row in range(rows)),
        images=tuple(folder / f"{row:02}.png" for row in range(rows)),
        classes=classes,
        targets=targets,
        exclusive=True,
        # Rows 0 and 6 are a group, 1 and 7, and so on.
        groups=tuple(str(row % 6) for row in range(rows)),
        folds=(np.arange(rows) % 2).astype(np.int16),
    )


def make_issues(
    folder: Path, classes: tuple[str, ...] = CLASSES, rows: int = 6, table: Table | None = None
) -> Path:
    """Write a run with features, and issues about its first rows."""
    table = make_table(folder / "images", classes) if table is None else table
    recipe = Recipe.model_validate({"stages": [{"train": "head", "views": ["identity"]}]})
    run = create_run(folder / "run", table, {"head": recipe})
    # Rows stand on a quarter of a circle in their order: near numbers are near.
    angle = np.linspace(0, np.pi / 2, len(table))
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None]
    np.save(run.member("head").features, features.astype(np.float32))
    issues = [
        Issue(
            id=table.ids[row],
            given=classes[row % len(classes)],
            suggested=classes[(row + 1) % len(classes)] if row != 3 else "",
            quality=row / 10,
            rules=("confident",) if row % 2 else ("confident", "copies"),
            evidence=f"Evidence {row} with {EVIL}.",
        )
        for row in range(rows)
    ]
    path = folder / "issues.csv"
    origin = {"source": str(run.folder), "is_run": True, "exclusive": True, "segments": False}
    write_issues(path, issues, origin)
    return path


def read_decisions(issues: Path) -> list[tuple[str, str, str]]:
    path = issues.with_name("issues.reviews.csv")
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [(row["id"], row["decision"], row["label"]) for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def issues(tmp_path: Path) -> Path:
    return make_issues(tmp_path)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_page(session: Session, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: page.faults.append(line.text))
        page.foreign = []
        home = session.url()
        page.on(
            "request", lambda asked: asked.url.startswith(home) or page.foreign.append(asked.url)
        )
        page.goto(session.address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def press(page: Any, key: str) -> None:
    """Press a key that leads to another page."""
    with page.expect_navigation():
        page.keyboard.press(key)


def wait_until(check: Callable[[], bool]) -> None:
    """Wait in this process: the page's own policy lets nothing run text as code."""
    end = monotonic() + 10
    while not check():
        assert monotonic() < end
        sleep(0.02)


def shown(page: Any) -> str:
    return str(page.locator(".caption .id").inner_text())


def progress(page: Any) -> str:
    return " ".join(page.locator("#progress").inner_text().split())


def test_keys_decide_and_every_decision_is_in_the_file(issues: Path, open_page: Any) -> None:
    with launch(issues) as session:
        page = open_page(session)
        assert "token" not in page.url
        assert (shown(page), progress(page)) == ("00.png", "0 of 6 decided")
        press(page, "k")
        assert read_decisions(issues) == [("00.png", "keep", CAT)]
        press(page, "r")
        press(page, "d")
        assert shown(page) == "03.png"
        press(page, "u")
        assert (shown(page), progress(page)) == ("02.png", "2 of 6 decided")
        press(page, "s")
        assert progress(page) == "2 of 6 decided, 1 skipped"
        press(page, "2")  # another label, by its number
        press(page, "ArrowRight")
        assert (shown(page), progress(page)) == ("05.png", "3 of 6 decided, 1 skipped")
        press(page, "ArrowLeft")
        press(page, "2")  # its given label: kept
        press(page, "k")
        assert shown(page) == "02.png"  # what was skipped comes back
        press(page, "r")
        assert page.locator("h1").inner_text() == "All issues are decided"
        assert [each.inner_text() for each in page.locator(".counts dd").all()] == list("3300")
        page.get_by_role("button", name="Finish").last.click()
        assert page.locator("h1").inner_text() == "The review is closed"
        assert session.process is not None
        assert session.process.wait(timeout=10) == 0
        assert session.process.stdout is not None
        told = session.process.stdout.read()
        assert "kept=3, relabelled=3, dropped=0, skipped=0, made=9" in told
        assert page.faults == page.foreign == []
    assert read_decisions(issues) == [
        ("00.png", "keep", CAT),
        ("01.png", "relabel", EVIL),
        ("02.png", "drop", ""),
        ("02.png", "undo", ""),
        ("02.png", "skip", ""),
        ("03.png", "relabel", DOG),
        ("04.png", "keep", DOG),
        ("05.png", "keep", EVIL),
        ("02.png", "relabel", CAT),
    ]


def test_a_killed_server_loses_nothing_and_the_next_one_goes_on(
    issues: Path, open_page: Any
) -> None:
    with launch(issues) as session:
        page = open_page(session)
        press(page, "k")
        press(page, "d")
        assert session.process is not None
        session.process.send_signal(signal.SIGKILL)
        session.process.wait()
    with serve(issues) as session:
        page = open_page(session)
        assert (shown(page), progress(page)) == ("02.png", "2 of 6 decided")
        press(page, "u")  # decisions of before can be taken back
        assert shown(page) == "01.png"
    assert [line[1] for line in read_decisions(issues)] == ["keep", "drop", "undo"]


def test_ctrl_c_ends_a_review_like_its_button(issues: Path) -> None:
    with launch(issues) as session:
        assert session.process is not None
        assert session.process.stdout is not None
        form = {"Content-Type": "application/x-www-form-urlencoded", **enter(session)}
        answer = ask(session, "/issue/0", method="POST", body="decision=keep", **form)
        assert (answer.status, answer.getheader("location")) == (303, "/issue/1")
        session.process.send_signal(signal.SIGINT)
        assert session.process.wait(timeout=10) == 0
        assert "kept=1" in session.process.stdout.read()


def test_a_key_that_is_held_decides_once(issues: Path, open_page: Any) -> None:
    with serve(issues) as session:
        page = open_page(session)
        with page.expect_navigation():
            page.evaluate(
                "for (let n = 0; n < 4; n++) document.querySelector('[data-key=d]').click()"
            )
        page.keyboard.down("d")
        page.wait_for_url("**/issue/2")
        page.keyboard.down("d")
        page.wait_for_timeout(200)
    assert read_decisions(issues) == [("00.png", "drop", ""), ("01.png", "drop", "")]


def test_filters_choose_what_comes_next(issues: Path, open_page: Any) -> None:
    with serve(issues) as session:
        page = open_page(session)
        with page.expect_navigation():
            page.get_by_label("Rule", exact=True).select_option("copies")
        assert progress(page) == "0 of 3 decided · 0 of 6 in all"
        press(page, "k")
        assert shown(page) == "02.png"
        with page.expect_navigation():
            page.get_by_label("Class", exact=True).select_option(EVIL)
        assert (shown(page), progress(page)) == ("02.png", "0 of 2 decided · 1 of 6 in all")
        press(page, "k")
        press(page, "k")
        assert "3 issues are still open" in page.locator("main").inner_text()
        page.get_by_role("link", name="Show them").click()
        assert (shown(page), progress(page)) == ("01.png", "3 of 6 decided")


def test_text_of_a_table_is_never_run(issues: Path, open_page: Any) -> None:
    with serve(issues) as session:
        page = open_page(session)
        press(page, "ArrowRight")
        assert page.locator(".label.given b").inner_text() == DOG
        assert page.locator(".label.suggested b").inner_text() == EVIL
        assert EVIL in page.locator(".evidence").inner_text()
        assert page.evaluate("window.hit") is None
        assert page.faults == []


def test_neighbours_are_of_both_labels_and_never_of_the_same_group(
    issues: Path, open_page: Any
) -> None:
    with serve(issues) as session:
        page = open_page(session)
        strips = [
            (
                strip.locator("h2").inner_text(),
                [image.get_attribute("alt") for image in strip.locator("img").all()],
                [name.inner_text() for name in strip.locator(".name").all()],
            )
            for strip in page.locator(".strip").all()
        ]
        assert strips == [
            (f"Most alike, labelled {CAT}", ["03.png", "09.png"], [CAT] * 2),
            (f"Most alike, labelled {DOG}", ["01.png", "04.png", "07.png", "10.png"], [DOG] * 4),
            ("Same group", ["06.png"], [CAT]),
        ]
        assert "by features of the network" in page.locator(".basis").inner_text()
        # Rows 0 to 5 are flagged themselves.
        assert (
            page.locator("li", has=page.get_by_alt_text("03.png")).inner_text().endswith("flagged")
        )
        assert "flagged" not in page.locator("li", has=page.get_by_alt_text("09.png")).inner_text()
        sizes = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
        assert sizes == [48] * 8


def test_zoom_and_help_are_keys_that_decide_nothing(issues: Path, open_page: Any) -> None:
    large = np.zeros((1200, 2000, 3), np.uint8)
    Image.fromarray(large).save(issues.parent / "images" / "00.png")
    with serve(issues) as session:
        page = open_page(session)
        image = page.locator("#image")
        widths = "document.querySelector('#image').naturalWidth"
        assert page.evaluate(widths) == 1600
        with page.expect_response("**/image/0/full"):
            page.keyboard.press("z")
        wait_until(lambda: page.evaluate(widths) == 2000)
        assert image.bounding_box()["width"] >= 2000
        page.locator("#frame").click(position={"x": 200, "y": 100})
        wait_until(lambda: page.evaluate(widths) == 1600)
        assert image.bounding_box()["width"] < 1200
        page.keyboard.press("?")
        page.keyboard.press("k")
        page.keyboard.press("Escape")
        page.keyboard.press("z")
        wait_until(lambda: page.evaluate(widths) == 2000)
        page.keyboard.press("?")
        page.get_by_label("Use single keys").uncheck()
        page.get_by_role("button", name="Close").click()
        page.keyboard.press("k")
        page.wait_for_timeout(200)
        assert read_decisions(issues) == []
        page.get_by_role("button", name="Keep").click()
    assert read_decisions(issues) == [("00.png", "keep", CAT)]


def test_one_of_fifty_labels_is_found_by_typing(tmp_path: Path, open_page: Any) -> None:
    names = (*(f"class {n:02}" for n in range(48)), "Über 9", "猫")
    issues = make_issues(tmp_path, names)
    with serve(issues) as session:
        page = open_page(session)
        page.keyboard.press("l")
        page.keyboard.type("CLASS 4")
        assert page.locator("#found").inner_text() == "8 of 50 labels"
        page.keyboard.type("2")
        press(page, "Enter")
        page.keyboard.press("l")
        page.keyboard.type("k ü")  # keys of the list are text, not decisions
        page.keyboard.press("Control+a")
        page.keyboard.type("猫")
        press(page, "Enter")
        page.keyboard.press("l")
        page.keyboard.press("Escape")
        assert not page.locator("#find").is_visible()
        press(page, "d")
    assert read_decisions(issues) == [
        ("00.png", "relabel", "class 42"),
        ("01.png", "relabel", "猫"),
        ("02.png", "drop", ""),
    ]


def test_a_row_without_its_image_can_still_be_decided(issues: Path, open_page: Any) -> None:
    (issues.parent / "images" / "00.png").unlink()
    damaged = issues.parent / "images" / "01.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with serve(issues) as session:
        page = open_page(session)
        assert "there is no such file" in page.locator(".frame").inner_text()
        press(page, "k")
        assert "cannot be shown" in page.locator(".frame").inner_text()
        press(page, "d")
    assert [line[1] for line in read_decisions(issues)] == ["keep", "drop"]


def test_without_script_all_is_there(issues: Path, open_page: Any) -> None:
    with serve(issues) as session:
        page = open_page(session, java_script_enabled=False)
        page.get_by_role("button", name="Keep").click()
        page.get_by_role("button", name=CAT).last.click()
        page.get_by_role("button", name="Undo").click()
        assert shown(page) == "01.png"
        page.get_by_label("Rule", exact=True).select_option("copies")
        page.get_by_role("button", name="Show").click()
        assert shown(page) == "02.png"
    assert read_decisions(issues) == [
        ("00.png", "keep", CAT),
        ("01.png", "relabel", CAT),
        ("01.png", "undo", ""),
    ]


def test_a_phone_shows_all_without_scrolling_sideways(issues: Path, open_page: Any) -> None:
    with serve(issues) as session:
        page = open_page(
            session, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
        )
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        boxes = [each.bounding_box() for each in page.locator(".actions button").all()]
        assert len(boxes) == 5
        for box in boxes:
            assert box["height"] >= 44
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 740
        page.get_by_role("button", name="Drop").tap()
        page.wait_for_url("**/issue/1")
    assert read_decisions(issues) == [("00.png", "drop", "")]


def test_masks_are_drawn_and_hidden(tmp_path: Path, open_page: Any) -> None:
    table = make_table(tmp_path / "images", ("rust", "crack", "dent"))
    mask = np.zeros((32, 48), np.bool_)
    mask[8:24, 8:24] = True
    text = encode_rle(mask)
    masks = tuple(("", text, "") if row < 6 else ("", "", "") for row in range(12))
    targets = np.array([[bool(each) for each in row] for row in masks], np.float32)
    table = Table(
        ids=table.ids, images=table.images, classes=table.classes, targets=targets,
        exclusive=False, masks=masks, folds=table.folds,
    )  # fmt: skip
    path = make_issues(tmp_path, table.classes, table=table)
    issues = [
        Issue(id="00.png", class_name="crack", given="mask", suggested="no mask", quality=0.1),
        Issue(id="07.png", class_name="crack", given="no mask", suggested="mask", quality=0.2),
    ]
    origin = {"source": str(tmp_path / "run"), "is_run": True, "segments": True}
    write_issues(path, issues, origin)
    with serve(path) as session:
        page = open_page(session)
        image = page.locator("#image")
        assert image.get_attribute("src") == "/image/0/page?mask=crack"
        page.keyboard.press("m")
        assert image.get_attribute("src") == "/image/0/page"
        titles = [each.inner_text() for each in page.locator(".strip h2").all()]
        assert titles == [f"Most alike, labelled crack: {name}" for name in ("mask", "no mask")]
        press(page, "r")
        assert page.locator("[data-key=m]").count() == 0
        press(page, "k")
    assert read_decisions(path) == [("00.png", "relabel", "no mask"), ("07.png", "keep", "no mask")]


def test_only_who_knows_the_address_is_let_in(issues: Path) -> None:
    with serve(issues) as session:
        port = urlsplit(session.address).port
        token = urlsplit(session.address).query.removeprefix("token=")
        entry = ask(session, f"/?token={token}")
        cookie = entry.getheader("set-cookie") or ""
        assert re.fullmatch(r"loupe-\d+=\S+; HttpOnly; Path=/; SameSite=strict", cookie)
        own = {"Cookie": cookie.split(";")[0]}
        assert ask(session, "/issue/0", **own).status == 200

        for path in ("/", "/issue/0", "/image/0/page", "/review.css", "/nothing"):
            for headers in ({}, {"Cookie": f"loupe-{port}=guess"}):
                refused = ask(session, path, **headers)
                assert (refused.status, "review'" in refused.text) == (403, True)
        assert ask(session, "/?token=guess").status == 403
        post = "/issue/0"
        assert ask(session, post, method="POST").status == 403
        # Another page of this browser: its name may lead here, or it may send forms here.
        assert ask(session, "/issue/0", Host=f"evil.example:{port}", **own).status == 403
        foreign = {"Origin": "http://127.0.0.1:1", **own}
        assert ask(session, post, method="POST", **foreign).status == 403
        assert ask(session, "/undo", method="POST", Origin="null", **own).status == 403
    assert read_decisions(issues) == []


def test_pages_may_load_nothing_from_elsewhere_and_files_have_no_address(issues: Path) -> None:
    with serve(issues) as session:
        own = enter(session)
        page = ask(session, "/issue/0", **own)
        policy = page.getheader("content-security-policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy
        paths = (
            "/issue.html", "/..%2freviews.py", "/image/99/page", "/image/0/other", "/issue/6",
            "/image/..%2f0/page",
        )  # fmt: skip
        assert [ask(session, path, **own).status for path in paths] == [404] * len(paths)
        image = ask(session, "/image/0/thumb", **own)
        assert image.getheader("content-type") == "image/png"
        nonsense = {"Content-Type": "application/x-www-form-urlencoded", **own}
        assert ask(session, "/issue/0", method="POST", **nonsense).status == 400
    assert read_decisions(issues) == []


def test_a_decision_that_cannot_be_written_is_told_and_nothing_goes_on(issues: Path) -> None:
    issues.with_name("issues.reviews.csv").mkdir()
    with serve(issues) as session:
        own = enter(session)
        answer = ask(session, "/issue/0", method="POST", body="decision=keep", **own)
        assert answer.status == 500
        assert "That was not done" in answer.text
        assert "directory" in answer.text
        assert ask(session, "/", **own).getheader("location") == "/issue/0"


def test_nothing_but_the_reviews_file_is_written(issues: Path) -> None:
    def list_files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in issues.parent.rglob("*") if path.is_file()}

    before = list_files()
    with serve(issues) as session:
        own = enter(session)
        for path in ("/issue/0", "/image/0/page", "/image/1/thumb", "/end"):
            assert ask(session, path, **own).status == 200
        ask(session, "/issue/0", method="POST", body="decision=drop", **own)
    after = list_files()
    del after[issues.with_name("issues.reviews.csv")]
    assert after == before
