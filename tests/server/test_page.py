"""The page's files: built from the sources that are there, clean under the policy, alone, licensed, readable."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "eftlite" / "server" / "page"
STATIC = PAGE / "static"
FILES = ("app.css", "app.js", "favicon.svg", "index.html", "licences.txt")
MAX_SCRIPT_BYTES = 300_000
MAX_LINES = 250
# Names of XML's kinds of elements, and what libraries say in their messages; nothing that is fetched.
SAID = ("http://www.w3.org/", "https://github.com/highlightjs/", "https://github.com/markedjs/")
SOURCES = sorted(path for path in (PAGE / "src").rglob("*") if path.is_file())
RECORD = json.loads((STATIC / "build.json").read_text(encoding="utf-8"))
PACKAGES = json.loads((PAGE / "package.json").read_text(encoding="utf-8"))
LOCK = json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def text_of(path: Path) -> bytes:
    """A file's text with the line ends that git gives it elsewhere."""
    return path.read_bytes().replace(b"\r\n", b"\n")


# ---- built


def test_the_build_is_of_these_sources() -> None:
    """What build.mjs writes down: one hash of the lines "path hash" of all that it depends on."""
    names = [path.relative_to(PAGE).as_posix() for path in SOURCES]
    names += ["build.mjs", "package.json", "package-lock.json", "tsconfig.json"]
    lines = [f"{name} {sha256(text_of(PAGE / name))}\n" for name in sorted(names)]
    assert RECORD["sources"] == sha256("".join(lines).encode()), "npm ci && npm run build in eftlite/server/page"


def test_the_built_files_are_what_was_built() -> None:
    assert sorted(path.name for path in STATIC.iterdir()) == sorted((*FILES, "build.json"))
    assert {name: sha256((STATIC / name).read_bytes()) for name in FILES} == RECORD["files"]


def test_the_script_is_small() -> None:
    assert (STATIC / "app.js").stat().st_size <= MAX_SCRIPT_BYTES


# ---- clean and alone


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether there is text inside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.inline += data.strip()


@pytest.mark.parametrize("name", ["index.html", "favicon.svg"])
def test_markup_is_allowed_by_the_policy(name: str) -> None:
    """Scripts and styles in files of their own, which are there."""
    elements = Elements()
    elements.feed((STATIC / name).read_text(encoding="utf-8"))
    assert not elements.inline
    assert "style" not in [tag for tag, _ in elements.found]
    for tag, attributes in elements.found:
        assert not [attribute for attribute in attributes if attribute == "style" or attribute.startswith("on")], tag
        for attribute in ("src", "href"):
            if attribute in attributes:
                assert (STATIC / attributes[attribute]).is_file(), f"{tag} {attribute}={attributes[attribute]}"


@pytest.mark.parametrize("name", ["app.css", "app.js", "favicon.svg", "index.html"])
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    addresses = re.findall(r"(?:https?:)?//[\w-]+(?:\.[\w-]+)+[^\s\"'`)]*", text)
    assert not [address for address in addresses if not address.startswith(SAID)]
    if name == "app.css":
        assert not re.search(r"url\(|@import|@font-face", text)


def test_the_script_compiles_no_text() -> None:
    assert not re.search(r"\beval\(|new Function\b", (STATIC / "app.js").read_text(encoding="utf-8"))


def test_html_enters_the_page_only_through_the_sanitizer() -> None:
    ways = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|parseFromString|createContextualFragment"
    )
    users = {path.name for path in SOURCES if ways.search(path.read_text(encoding="utf-8"))}
    assert not users
    sanitizing = {path.name for path in SOURCES if "dompurify" in path.read_text(encoding="utf-8")}
    assert sanitizing == {"sanitize.ts"}


# ---- licensed


def test_every_package_in_the_script_has_its_licence() -> None:
    text = (STATIC / "licences.txt").read_text(encoding="utf-8")
    for name in PACKAGES["dependencies"]:
        version = LOCK["packages"][f"node_modules/{name}"]["version"]
        assert re.search(rf"^{re.escape(name)} {re.escape(version)} \(", text, re.MULTILINE), name
    assert text.count("Copyright") + text.count("copyright") >= len(PACKAGES["dependencies"])
    for name in PACKAGES["devDependencies"]:
        assert not re.search(rf"^{re.escape(name)} ", text, re.MULTILINE), f"{name} is no part of the page"


def test_the_lock_names_hashes_and_no_odd_hosts() -> None:
    packages = {name: package for name, package in LOCK["packages"].items() if name}
    assert all(package.get("integrity", "").startswith("sha512-") for package in packages.values())
    hosts = {package["resolved"].split("/")[2] for package in packages.values() if "resolved" in package}
    assert hosts <= {"registry.npmjs.org"}


# ---- readable


def test_sources_are_short_and_say_what_they_are() -> None:
    for path in (path for path in SOURCES if path.suffix in {".ts", ".tsx", ".css"}):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= MAX_LINES, f"{path.name} has {len(lines)} lines"
        assert lines[0].startswith(("/** ", "/**", "/* ", "@import")), f"{path.name} does not say what it is"


# ---- colours: WCAG's contrast of text on every surface, in light and in dark

RGB = tuple[float, float, float]
COLOURS = (PAGE / "src" / "css" / "colours.css").read_text(encoding="utf-8")
TEXTS = ("ink", "ink-soft", "ink-faint", "red-ink")
SURFACES = ("paper", "paper-side", "paper-raised", "paper-sunk")
LEVELS = [f"s{i}" for i in range(1, 11)]


def colour(name: str, dark: bool) -> RGB:
    """A colour of colours.css in linear sRGB."""
    found = re.search(rf"--{name}: light-dark\(((?:[^()]|\([^()]*\))+)\);", COLOURS)
    assert found, name
    text = re.split(r",\s*(?![^(]*\))", found[1])[dark].strip()
    if text.startswith("oklch("):
        lightness, chroma, hue = map(float, text[6:-1].split())
        return from_oklch(lightness, chroma, math.radians(hue))
    digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def from_oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """Linear sRGB of an OKLCH colour, cut to what a screen can show."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return min(max(red, 0), 1), min(max(green, 0), 1), min(max(blue, 0), 1)


def luminance(rgb: RGB) -> float:
    red, green, blue = rgb
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: RGB, other: RGB) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(dark: bool) -> None:
    pairs = [*itertools.product(TEXTS, SURFACES), *(("ink", name) for name in LEVELS), ("on-red", "red")]
    too_weak = {
        pair: round(found, 2)
        for pair in pairs
        if (found := contrast(colour(pair[0], dark), colour(pair[1], dark))) < 4.5
    }
    assert not too_weak


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_scale_of_the_shift_goes_one_way(dark: bool) -> None:
    """Evenly enough for eyes that see no hue: each step differs from the last by a similar part."""
    steps = [luminance(colour(name, dark)) for name in ("paper", *LEVELS)]
    ratios = [(b + 0.05) / (a + 0.05) if dark else (a + 0.05) / (b + 0.05) for a, b in itertools.pairwise(steps)]
    assert all(ratio > 1.03 for ratio in ratios), [round(ratio, 3) for ratio in ratios]
    assert max(ratios) < 1.35
