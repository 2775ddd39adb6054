"""Report pages: what is in the text of a page, without a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re

import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="the extra 'report' is not installed")

from loupe.reportpages import MOST_ROWS, TONES, Heading, write_page
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

EVIL = '<script>alert("1")</script>'
SAFE = "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;"


def write(*blocks: Block, figures: str = "") -> str:
    section = Section(key="part", title="Part", blocks=blocks)
    return write_page(Heading(title="Run", figures=figures), [section])


def make_picture(kind: str, size: tuple[int, int] = (20, 10)) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", size).save(held, kind)
    return held.getvalue()


def make_chart(rows: int) -> Chart:
    return Chart(
        name="bars",
        title=EVIL,
        alt=EVIL,
        svg="<svg><text>as it is</text></svg>",
        header=("class", "rows"),
        rows=tuple((f"c{number}", str(number)) for number in range(rows)),
        png=b"",
    )


def test_only_our_script_may_run_and_nothing_may_be_loaded() -> None:
    page = write(Text(text="Hello."))
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Policy" content="([^"]*)"', page)
    assert policy is not None
    said = policy.group(1).replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in said
    assert said.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize(
    "block",
    [
        Text(text=EVIL, tone="bad"),
        Facts(pairs=((EVIL, EVIL),)),
        Grid(title=EVIL, header=(EVIL,), rows=((EVIL,),)),
        Grid(title=EVIL, header=(EVIL,), rows=((EVIL,),), wide=True),
        Gallery(title=EVIL, pictures=(Picture(data=make_picture("PNG"), alt=EVIL, lines=(EVIL,)),)),
        Commands(lines=(EVIL,)),
        make_chart(1),
    ],
)
def test_names_are_text_in_every_block(block: Block) -> None:
    page = write(block)
    assert page.count("<script") == 1
    assert SAFE.split("/", maxsplit=1)[0] in page  # a long name may break after its slash


def test_a_heading_and_a_title_are_text() -> None:
    section = Section(key="part", title=EVIL, blocks=(Text(text="Hello."),))
    page = write_page(Heading(title=EVIL, lines=(EVIL,)), [section])
    assert page.count("<script") == 1
    assert page.count(SAFE) == 5  # title, heading, line, contents, section


def test_a_tone_is_said_by_a_word() -> None:
    for tone, (sign, word) in TONES.items():
        page = write(Text(text="Hello.", tone=tone))
        assert (f"> {word}</b>" in page) == bool(word)
        assert not sign or f'<span aria-hidden="true">{sign}</span>' in page


def test_numbers_stand_at_the_right_and_names_at_the_left() -> None:
    rows = (("a", "1,234", "0.9 (0.8 to 1.0)", "7 of hearts?", ""), ("b", "–", "12 %", "x", "-3"))  # noqa: RUF001
    page = write(Grid(title="T", header=("name", "n", "share", "card", "d"), rows=rows))
    heads = re.findall(r'<th scope="col"( class="number")?>', page)
    assert [bool(head) for head in heads] == [False, True, True, False, True]


def test_long_tables_end_with_the_name_of_their_file() -> None:
    rows = tuple((str(number), "x") for number in range(MOST_ROWS + 5))
    grid = Grid(title="T", header=("n", "x"), rows=rows, name="long")
    page = write(grid, figures="figures")
    assert page.count("<tr>") == MOST_ROWS + 1
    assert "5 more rows" in page
    assert 'href="figures/long.csv"' in page
    nameless = write(Grid(title="T", header=("n", "x"), rows=rows))
    assert nameless.count("<tr>") == len(rows) + 1


def test_a_chart_brings_its_numbers_and_files() -> None:
    page = write(make_chart(3), figures="my figures")
    assert "<text>as it is</text>" in page
    for end in ("csv", "svg", "png"):
        assert f'href="my%20figures/bars.{end}"' in page
    assert page.count("<tr>") == 4
    assert "href=" not in write(make_chart(3)).split("<main")[1]
    assert "<tr>" not in write(make_chart(0))


def test_pictures_are_in_the_page_with_their_size() -> None:
    small = Picture(data=make_picture("JPEG"), alt="x", beside=make_picture("PNG"))
    large = Picture(data=make_picture("PNG", (900, 20)), alt="y")
    page = write(Gallery(title="G", pictures=(small, large)))
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("data:image/png;base64,") == 2
    assert page.count('width="20" height="10"') == 2
    assert re.findall(r'<li class="(\w+)">', page) == ["pair", "large"]


def test_sections_without_blocks_are_left_out() -> None:
    full = Section(key="full", title="Full", blocks=(Text(text="Hello."),))
    page = write_page(Heading(title="Run"), [Section(key="no", title="No", blocks=()), full])
    assert re.findall(r'<section id="(\w+)"', page) == ["full"]
    assert 'href="#no"' not in page


def test_many_lines_to_type_are_folded() -> None:
    assert "Show 30 lines" in write(Commands(lines=tuple("abc" for _ in range(30))))
    assert "<details class=" not in write(Commands(lines=("a", "b"))).split("<main")[1]
