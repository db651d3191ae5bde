"""The house: layers, who may import what, sizes, docstrings, packaging; most of it read from the source."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "eftlite"
PAGE = PACKAGE / "server" / "page"

# A file imports only from files above it in this list. A folder is one entry; inside it files may import each other.
LAYERS = (
    "errors",
    "settings",
    "overrides",
    "events",
    "places",
    "plugins",
    # computation, no models
    "kernels",
    "noise",
    "composite",
    "verify",
    "text",
    "gguf_types",
    "gguf_reader",
    "gguf_header",
    "gguf_rules",
    "gguf",
    "gguf_adapter",
    # one model; the proof that vocabularies agree needs token texts, not models
    "vocab",
    "amx",
    "rpc",
    "ggml",
    "remote",
    "llama",
    "adapter",
    "member",
    "sampling",
    "chat_formats",
    "template",
    # the method
    "ensemble",
    "scoring",
    "lookup",
    "drafting",
    "drafters",
    "costs",
    "pace",
    "timing",
    "generate",
    "speculative",
    "answer",
    # around it; what EFT is put together from stands before it
    "hub",
    "family",
    "arguments",
    "facts",
    "presets",
    "available",
    "layers",
    "buffers",
    "memory",
    "placement",
    "loading",
    "companions",
    "llama_cpp_plugins",
    "planning",
    "responses",
    "calls",
    "compat",
    "eft",
    "history",
    "inspection",
    "verification",
    "blocks",
    "shapes",
    "contest",
    "bench",
    "demo",
    "doctor",
    "server",
    "cli",
    "__main__",
)
# Who may import what outside the package, and only they.
LLAMA_C = {"amx", "ggml", "llama", "adapter", "member", "remote", "sampling", "llama_cpp_plugins"}
LLAMA_PURE = ("llama_cpp.llama_grammar.", "llama_cpp.llama_types.")  # Python only: no C function is called
NUMBA_AT_TOP = {"kernels"}
CLICK = {"cli"}
WEB = {"server"}
WEB_FRAMEWORKS = {"starlette", "uvicorn", "sse_starlette", "fastapi"}
# What `eftlite --help` must not pay for.
HEAVY = (
    *("numba", "llvmlite", "llama_cpp", "jinja2", "numpy", "huggingface_hub", "prompt_toolkit", "psutil", "sqlite3"),
    *("starlette", "uvicorn", "pydantic"),
)

MAX_FILE = 400
MAX_FUNCTION = 80
MAX_MEDIAN = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def sources(folder: Path = PACKAGE) -> list[Path]:
    """Python files of a folder."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


PRODUCT = [*sources(), *sources(ROOT / "quantize"), *sources(ROOT / "plugins")]
product_files = pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.relative_to(ROOT).as_posix())
package_files = pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())


def layer(path: Path) -> str:
    """The entry of LAYERS a file belongs to: its folder below eftlite/, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(node: ast.AST, path: Path) -> list[str]:
    """Dotted names a node imports, relative ones resolved; ``from eftlite import x`` gives eftlite.x."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if node.level:
        parts = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
        module = ".".join((*parts, *([module] if module else [])))
    return [f"{module}.{alias.name}" for alias in node.names]


def all_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file with its line, inside functions and for type checking too."""
    for node in ast.walk(tree(path)):
        for name in imported(node, path):
            yield getattr(node, "lineno", 0), name


def top_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Imports that run when the file is imported."""
    for node in at_import(tree(path).body):
        for name in imported(node, path):
            yield getattr(node, "lineno", 0), name


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import: the module's own, those of its classes and of its conditions."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        yield node
        if isinstance(node, Function):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import(handler.body)


def functions(node: ast.AST) -> Iterator[Function]:
    """Every function below a node."""
    return (child for child in ast.walk(node) if isinstance(child, Function))


def length(node: Function) -> int:
    """Lines of a function, its docstring counted, its decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def where(path: Path, line: int) -> str:
    """path:line as editors open it."""
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


# --- imports ---


@package_files
def test_imports_go_one_way(path: Path) -> None:
    own = layer(path)
    if own == "__init__":
        return  # the public face hands out names of any layer; that it does so lazily is tested below
    assert own in LAYERS, f"{own} is new: give it its place in LAYERS"
    allowed = set(LAYERS[: LAYERS.index(own) + 1])
    if path.parent == PACKAGE:
        allowed.discard(own)
    # `eftlite.__version__` and the like come from the public face itself, not from a layer.
    wrong = [
        f"{where(path, line)}: {own} imports {name}"
        for line, name in all_imports(path)
        if name.startswith("eftlite.") and (target := name.split(".")[1]) in LAYERS and target not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@package_files
def test_only_their_owners_import_the_libraries(path: Path) -> None:
    own = layer(path)
    wrong = []
    for line, name in all_imports(path):
        root = name.partition(".")[0]
        owners = {"llama_cpp": LLAMA_C, "click": CLICK, **dict.fromkeys(WEB_FRAMEWORKS, WEB)}.get(root)
        if owners is not None and own not in owners and not name.startswith(LLAMA_PURE):
            wrong.append(f"{where(path, line)}: only {', '.join(sorted(owners))} may import {root}")
        if root in {"eftlite_quantize", "lab", "plugins", "tests", "torch"}:
            wrong.append(f"{where(path, line)}: eftlite must not import {root}")
    wrong += [
        f"{where(path, line)}: only {', '.join(NUMBA_AT_TOP)} imports numba when it is imported"
        for line, name in top_imports(path)
        if name.partition(".")[0] in {"numba", "llvmlite"} and own not in NUMBA_AT_TOP
    ]
    assert not wrong, "\n".join(wrong)


def test_layers_name_only_what_exists() -> None:
    """Milestones to come are listed already; anything else in the list is a leftover."""
    to_come = {"hub", "memory", "history", "doctor", "server"}
    there = {layer(path) for path in sources()}
    assert set(LAYERS) - there <= to_come


# --- nothing happens at import ---

FORBIDDEN_CALLS = re.compile(
    r"^(open|print|exec|eval|input|os\.(environ|getenv|makedirs|mkdir|system)|subprocess\.|logging\.(basicConfig|config)|"
    r"platformdirs\.|user_\w+_(dir|path)|time\.|shutil\.|socket\.|signal\.|atexit\.|warnings\.(simple)?filter|"
    r"Path\.(cwd|home)|json\.load|tomllib\.load|llama_\w*(init|load)\w*)"
)
READS = {"read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "open", "touch", "unlink", "iterdir", "glob"}


def silences_log(node: ast.Expr) -> bool:
    """Whether a statement is what the standard library asks of a package that logs."""
    return ast.unparse(node).endswith(".addHandler(logging.NullHandler())")


def import_time_work(path: Path) -> Iterator[str]:
    """Statements that do something when a file is imported."""
    for node in at_import(tree(path).body):
        if isinstance(node, ast.For | ast.While | ast.With):
            yield f"{where(path, node.lineno)}: a loop or with-block runs at import"
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant) and not silences_log(node):
            yield f"{where(path, node.lineno)}: {ast.unparse(node)} runs at import"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for call in ast.walk(node):
                text = ast.unparse(call) if isinstance(call, ast.Call | ast.Attribute) else ""
                method = call.func.attr if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else ""
                if FORBIDDEN_CALLS.match(text) or method in READS:
                    yield f"{where(path, node.lineno)}: {text} runs at import"


@product_files
def test_no_work_at_import(path: Path) -> None:
    if path.name == "__main__.py":
        return  # it is there to be run
    found = list(import_time_work(path))
    assert not found, "\n".join(found)


# Runs in a fresh interpreter: imports every module and reports what it did to the world.
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import click, numba, llama_cpp, jinja2, numpy, rich.console, psutil, platformdirs
done = []
def hook(event, args):
    if "__pycache__" in repr(args):
        pass  # numba looks whether it may keep its kernels there
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        done.append(f"opened {args[0]} for writing")
    elif event.startswith(("socket.", "subprocess.", "os.mkdir", "os.remove", "os.rename", "os.system", "os.putenv")):
        done.append(f"{event} {args!r}")
sys.addaudithook(hook)
import eftlite
for module in pkgutil.walk_packages(eftlite.__path__, "eftlite."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("\\n".join(done))
"""


def test_importing_leaves_no_trace() -> None:
    """No file is written, no process started, nothing sent."""
    command = [sys.executable, "-B", "-c", IMPORT_EVERYTHING]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip(), result.stdout


HELP = """
import sys
sys.argv = ["eftlite", "--help"]
from eftlite.cli import main
try:
    main()
except SystemExit as end:
    print("exit code", end.code or 0)
print("loaded", *(name for name in {heavy!r} if name in sys.modules))
"""


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", HELP.format(heavy=HEAVY)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    *_, code, loaded = result.stdout.strip().splitlines()
    assert (code, loaded) == ("exit code 0", "loaded"), f"{code}; --help loads {loaded.removeprefix('loaded ')}"


# --- sizes ---


@product_files
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    too_long = [function for function in functions(tree(path)) if length(function) > MAX_FUNCTION]
    assert lines <= MAX_FILE, f"{where(path, 1)} has {lines} lines; split it at {MAX_FILE}"
    assert not too_long, [f"{where(path, function.lineno)}: {length(function)} lines" for function in too_long]


def test_functions_are_short_on_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = sorted(length(function) for path in PRODUCT for function in functions(tree(path)))
    median, p90 = statistics.median(lengths), statistics.quantiles(lengths, n=10)[-1]
    with capsys.disabled():
        print(f"\n{len(lengths)} functions: median {median:g} lines, p90 {p90:g}, longest {lengths[-1]}")
    assert median <= MAX_MEDIAN


# --- words ---


def public_without_docstring(path: Path) -> Iterator[str]:
    """Public modules, classes, functions and methods that lack a docstring."""
    module = tree(path)
    if module.body and not ast.get_docstring(module):
        yield f"{where(path, 1)}: the module"
    holders: list[ast.Module | ast.ClassDef] = [module]
    while holders:
        for node in holders.pop().body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                holders.append(node)
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if not ast.get_docstring(node) and not decorators & {"overload", "override", "setter"}:
                yield f"{where(path, node.lineno)}: {node.name}"


@product_files
def test_public_names_have_docstrings(path: Path) -> None:
    missing = list(public_without_docstring(path))
    assert not missing, "no docstring:\n" + "\n".join(missing)


UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X{3}|NotImplemented" + r"Error)\b")


@product_files
def test_nothing_is_unfinished(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    found = [f"{where(path, number)}: {line.strip()}" for number, line in lines if UNFINISHED.search(line)]
    assert not found, "\n".join(found)


EXEMPTION = re.compile(r"#\s*(noqa|type:\s*ignore|pragma|nosec)\b(?P<rest>.*)")
RULES = re.compile(r"\[[^\]]*\]|\b[A-Z]+\d+\b")


@pytest.mark.parametrize("folder", ["eftlite", "quantize", "tests", "lab", "benchmarks"])
def test_exemptions_give_their_reason(folder: str) -> None:
    """A word at least follows the names of the rules on the same line."""
    found = []
    for path in sources(ROOT / folder):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = EXEMPTION.search(line)
            if match and path != Path(__file__) and not re.search("[A-Za-z]{3}", RULES.sub("", match["rest"])):
                found.append(f"{where(path, number)}: {line.strip()}")
    assert not found, "an exemption without its reason on the line:\n" + "\n".join(found)


# Folders that exist on one machine only. Written so that this line does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.~])(/(home|Users|root|work|workspace|mnt)/\w|[A-Z]:\\(Users|home)\\)")


def project_files() -> list[Path]:
    """What git knows or would add; without git (in an unpacked archive) every file outside caches."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, cwd=ROOT, check=True).stdout.decode().split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def test_no_file_names_a_machine() -> None:
    found = []
    for path in project_files():
        data = path.read_bytes()
        if path == Path(__file__) or b"\0" in data[:4096]:
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{where(path, number)}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


# --- packaging ---


def pyproject() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_folder_is_packaged() -> None:
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in sources() if path.name == "__init__.py"}
    assert set(pyproject()["tool"]["setuptools"]["packages"]) == folders | {"eftlite_quantize"}


def test_every_data_file_is_packaged() -> None:
    """A file beside the modules that no pattern names would be missing from the wheel."""
    patterns: dict[str, list[str]] = pyproject()["tool"]["setuptools"]["package-data"]
    packaged = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    data = {path for path in project_files() if PACKAGE in path.parents and path.suffix != ".py"}
    # The page's sources stay in the repository; what is built from them is shipped.
    data = {path for path in data if PAGE not in path.parents or PAGE / "static" in path.parents}
    assert data <= packaged, sorted(path.relative_to(ROOT).as_posix() for path in data - packaged)
    assert PACKAGE / "py.typed" in packaged


def test_versions_agree() -> None:
    version = pyproject()["project"]["version"]
    heading = re.search(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading, "CHANGELOG.md has no release"
    assert heading[1] in {version, "Unreleased"}
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_workflow_runs_what_the_makefile_runs() -> None:
    """CI's Windows lines are `make ci` written out."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    recipes = re.findall(r"-m (ruff check \.|ruff format --check \.|mypy|pytest)", makefile)
    assert re.findall(r"-m (ruff check \.|ruff format --check \.|mypy|pytest)", workflow) == sorted(
        recipes, key=lambda recipe: recipe == "pytest"
    )
    assert "make ci" in workflow
    assert re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE) == [
        "lint",
        "test",
    ]
