"""Every file, anchor, command, target and setting that a page names exists, and every file that a docstring names."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from streams.cli.main import app
from streams.config.sources import VARIABLES
from tests.support.docs.markdown import PAGES, ROOT, anchors, blocks, prose

FOLDERS = "streams|registry|workers|schemas|deploy|tests|docs"
# In a docstring: a file of Python, SQL or Markdown, by its path in the project or as a neighbour by its name.
NAMED_FILE = re.compile(r"(?<![\w/.<*$-])(\w[\w./-]*\.(?:py|sql|md))\b")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=IDS)
# Variables that are no settings: one names the env file, the others belong to Compose.
OTHER_VARIABLES = {
    "HEADRACE_ENV_FILE",
    *re.findall(r"HEADRACE_[A-Z_]+", (ROOT / "docker-compose.yml").read_text()),
}


@every_page
def test_named_files_exist(page: Path) -> None:
    """A path that begins with a folder of the project, in prose or in a picture."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/.:-])(?<!\]\()((?:{FOLDERS})/[\w./-]*\w)", text)
    assert [name for name in named if not (ROOT / name).exists() and name not in examples(page)] == []


def test_files_named_in_docstrings_exist() -> None:
    modules = [module for folder in FOLDERS.split("|") for module in (ROOT / folder).rglob("*.py")]
    missing = [
        f"{module.relative_to(ROOT)}: {name}"
        for module in modules
        for text in docstrings(module)
        for name in NAMED_FILE.findall(text)
        if not (ROOT / name).exists() and ("/" in name or not (module.parent / name).exists())
    ]
    assert modules
    assert missing == []


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    """Links within the project: the file exists, and has the heading."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@every_page
def test_commands_exist(page: Path) -> None:
    """Every verb of `headrace` with its options, in blocks and in prose."""
    for line in command_lines(page):
        if line[0] in examples(page) or line[0].isupper():
            continue
        command, words = verb(line)
        options = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= options | {"--help", "-h"}, line


@every_page
def test_targets_exist(page: Path) -> None:
    """Every `make TARGET`."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert set(named) <= targets


@every_page
def test_settings_exist(page: Path) -> None:
    """Every variable with our prefix; one that ends in an ellipsis stands for several."""
    named = set(re.findall(r"HEADRACE_[A-Z0-9_]*[A-Z0-9](?![A-Z0-9_]|…)", page.read_text(encoding="utf-8")))
    assert named <= {*VARIABLES, *OTHER_VARIABLES, *examples(page)}


@every_page
def test_programs_compile(page: Path) -> None:
    """As modules: an `await` or `async with` outside a function is an error."""
    for block in blocks(page, "python"):
        compile(block.text, str(page), "exec")


def test_help_lists_every_target() -> None:
    """`make help` shows the lines that have `##`."""
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    described = re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE)
    assert sorted(phony.replace("\\", "").split()) == sorted(described)


def test_the_index_lists_every_page() -> None:
    """docs/index.md links to each page below docs/."""
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+)\)", index.read_text())
    }
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {index} <= linked


def docstrings(module: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def examples(page: Path) -> set[str]:
    """Names of what a page shows how to add: listed in its comment `<!-- added by this page: NAME … -->`."""
    found = re.findall(r"<!-- added by this page: (.*) -->", page.read_text(encoding="utf-8"))
    return set(" ".join(found).split())


def verb(words: list[str]) -> tuple[Any, list[str]]:
    """The verb that a command line names, and the words after it."""
    command: Any = get_command(app)
    while verbs := getattr(command, "commands", None):
        name = next((word for word in words if not word.startswith("-")), "")
        if name not in verbs and (not name or command.invoke_without_command):
            break
        assert name in verbs, words
        command, words = verbs[name], words[words.index(name) + 1 :]
    return command, words


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command line of `headrace`, without the program."""
    lines = [
        line
        for block in blocks(page)
        if block.language in ("", "sh", "console")
        for line in block.text.splitlines()
    ]
    lines += [
        match
        for match in re.findall(r"`([^`\n]+)`", prose(page))
        if re.match(r"(\.venv/bin/)?headrace \S", match)
    ]
    for line in lines:
        for part in re.split(r" \| | && ", line.removeprefix("$ ")):
            found = re.match(
                r"(?:[A-Z_]+=\S+ )*(?:docker compose exec -T \w+ )?(?:\.venv/bin/)?headrace (.*)", part
            )
            if found:
                yield shlex.split(re.sub(r"[\[\]]|(?<!\S)>.*", "", found[1]), comments=True)


def test_the_layers_are_those_of_the_contracts() -> None:
    """docs/architecture.md draws each layers contract as import-linter holds it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if "containers" in contract:
            (name,) = contract["containers"]
            (drawn,) = re.findall(rf"<!-- layers of {name} -->\n```\n(.*?)```", text, re.DOTALL)
            assert [set(line.split()) for line in drawn.splitlines()] == [
                set(layer.split(" | ")) for layer in contract["layers"]
            ]
