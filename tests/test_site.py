"""The documentation: its sources link to what is there, and the built site is whole and looks right in a browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import pytest

import softmax_ce as sce
from softmax_ce_bench import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/**/*.md"))
    if "generated" not in path.parts
)
RECORDS = sorted((DOCS / "measurements" / "machines").glob("*.json"))
NEEDED = ("sphinx", "numpydoc", "myst_parser", "pydata_sphinx_theme", "sphinx_click")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


# The sources, as GitHub shows them


def links(text: str) -> list[str]:
    """What a Markdown text links to; code is left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_links_to_what_is_there(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("https", "http"), link
            continue
        if "generated/" in parts.path:
            continue  # on the site alone; Sphinx checks it
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), link
        if parts.fragment:
            assert unquote(parts.fragment) in anchors(target.read_text(encoding="utf-8")), link


def commands(text: str) -> list[list[str]]:
    """The words of each `softmax-ce ...` that a text shows, in a block of code or within a sentence."""
    fences = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line for fence in fences for line in fence.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.match(r"(?:\$ |\.venv/bin/)?softmax-ce ([^#]+)", line) for line in lines]
    return [match[1].split() for match in found if match]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_shows_commands_that_there_are(path: Path) -> None:
    if path.name in ("CHANGELOG.md",):
        return  # of versions that are gone
    for words in commands(path.read_text(encoding="utf-8")):
        command: click.Command = cli.main
        rest = iter(words)
        while isinstance(command, click.Group) and (name := next(rest, None)) is not None:
            assert name in command.commands, words
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts if not is_hidden(parameter)}
        for word in rest:
            assert not word.startswith("--") or word.split("=")[0] in known, words


def is_hidden(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and parameter.hidden


@pytest.mark.parametrize("path", sorted((DOCS / "how-to").glob("*.md")), ids=lambda path: path.stem)
def test_a_guide_holds_no_dated_figure(path: Path) -> None:
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_of_a_machine_can_be_shown_and_names_no_folder(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    record = json.loads(text)
    done = subprocess.run(
        [sys.executable, "-m", "softmax_ce_bench", "show", str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert record["machine"]["cpu"] in done.stdout
    assert not re.search(r"/(home|root|tmp|Users)/", text)
    assert record["contaminated"] is False


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed; `make docs` installs them")
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(built)],
        capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return built


class Page(HTMLParser):
    """Links, anchors and headings of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.headings = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.headings += tag == "h1"
        self.ids.update(value for name, value in found.items() if name in ("id", "name") and value)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]


def test_every_link_within_the_site_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) > 40
    broken, checked = [], 0
    for path, page in pages.items():
        assert page.headings == 1, path
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                assert parts.scheme in ("https", "http", "mailto", "data"), link
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            checked += 1
            anchored = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
            if not target.exists() or not anchored:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert checked > 1000


def test_every_public_name_and_every_command_has_its_place(site: Path) -> None:
    generated = site / "reference" / "generated"
    for name in sce.__all__:
        assert name.startswith("__") or (generated / f"softmax_ce.{name}.html").is_file(), name
    commands = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    todo: list[tuple[str, click.Command]] = [("softmax-ce", cli.main)]
    for name, command in todo:
        assert f'id="{name}"' in commands
        for parameter in command.params:
            for option in parameter.opts:
                assert is_hidden(parameter) or option.lstrip("-") in commands, (name, option)
        if isinstance(command, click.Group):
            todo += [(f"{name}-{inner}", each) for inner, each in command.commands.items()]


def test_the_schemas_are_shown_field_by_field(site: Path) -> None:
    schemas = [*ROOT.glob("kernels/**/*.schema.json"), *ROOT.glob("bench/**/*.schema.json")]
    assert schemas
    for path in schemas:
        shown = (site / "reference" / "generated" / f"{path.name.split('.')[0]}-schema.html").read_text(
            encoding="utf-8"
        )
        for name in json.loads(path.read_text(encoding="utf-8"))["properties"]:
            assert f">{name}<" in shown, (path.name, name)


# In a browser

PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const body = getComputedStyle(document.body), ink = document.querySelector(".drawing .code");
  const found = {
    background: body.backgroundColor, text: body.color, ink: ink && getComputedStyle(ink).fill,
    overflow: document.documentElement.scrollWidth - innerWidth,
    drawings: [...document.querySelectorAll(".drawing svg")].map((svg) => svg.getBoundingClientRect().width),
    images: [...document.images].map((image) => image.naturalWidth),
    heading: document.querySelector("h1").getBoundingClientRect().height,
  };
  document.title = "probed " + btoa(unescape(encodeURIComponent(JSON.stringify(found))));
}, 500));
</script></body>"""


def probed(page: Path, profile: Path, width: int, dark: bool) -> tuple[dict[str, Any], list[str]]:
    """What a headless Chromium makes of a page, and what it complained about."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    copy = page.with_name(f"probed-{page.name}")  # beside it, so that its links hold
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--enable-logging=stderr", "--v=0", "--timeout=20000", "--virtual-time-budget=10000",
            f"--window-size={width},1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    copy.unlink()
    title = re.search(r"<title>probed ([^<]*)<", done.stdout)
    assert title, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(base64.b64decode(title[1])), [line for line in said if "[PST]" not in line]  # the theme's name


def brightness(colour: str) -> float:
    """Of a CSS colour, from 0 to 255."""
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (1300, True), (600, False)], ids=["wide", "dark", "narrow"])
@pytest.mark.parametrize(
    "name",
    [
        "index", "tutorial/from-probability-to-kernel", "explanation/architecture", "measurements/generated/machines",
        "reference/generated/softmax_ce.cross_entropy",
    ],
)  # fmt: skip
def test_chromium_shows_the_page(site: Path, tmp_path: Path, name: str, width: int, dark: bool) -> None:
    found, said = probed(site / f"{name}.html", tmp_path / "profile", width, dark)
    assert said == []
    background, text = brightness(found["background"]), brightness(found["text"])
    assert (background < 60 and text > 180) if dark else (background > 200 and text < 90)
    assert found["overflow"] <= 0  # wide tables scroll in their frames
    assert found["heading"] > 10
    assert all(width > 0 for width in found["images"])
    if name == "explanation/architecture":
        assert len(found["drawings"]) == 2
        assert min(found["drawings"]) > 500
        assert (brightness(found["ink"]) > 180) == dark
