"""The Python examples of README and docs run as they stand, and the commands in them exist.

A block that begins with ```python runs here, one after the other for each page. ```python file=name.py is a module that the Elixir
examples of the page call: elixir_client/test/docs_test.exs runs those. ```sh is for commands.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bridge_adapter.codec import named

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
KINDS = {"elixir", "python", "sh", "text", "toml", "json", "html"}


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a page whose info string is `kind` and nothing else."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_the_python_examples_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType(f"example_of_{page.stem}".replace("-", "_"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    # What an example registers is forgotten afterwards.
    monkeypatch.setattr(named, "BY_TAG", dict(named.BY_TAG))
    monkeypatch.setattr(named, "BY_CLASS", dict(named.BY_CLASS))
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), module.__dict__)  # the pages are ours


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_a_page_says_what_it_is(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.M)
    assert len(fences) % 2 == 0, "a fence is not closed"
    for info in fences[::2]:
        assert info.split(" ")[0] in KINDS, f"```{info}: say what it is; it is run accordingly"
        assert re.fullmatch(r"\w+( file=[\w.]+)?", info), f"```{info}"


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for text in block.splitlines():
                line = re.sub(r"\s#.*", "", re.sub(r"^\s*([A-Z_]+=\S+ )*", "", text)).strip()
                if line and not line.startswith("#"):
                    found.append((name(page), line))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_of_the_docs_exists(page: str, command: str) -> None:
    program, *rest = command.split()
    match program, rest:
        case "make", [target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        case "mix", [task, *_]:
            file = ROOT / "elixir_client/lib/mix/tasks" / f"{task}.ex"
            assert task in {"run", "test", "deps.get", "compile", "phx.server", "new", "format"} or file.exists()
        case "python" | ".venv/bin/python", ["-m", "bench", what, *_]:
            from bench.__main__ import SUITES

            assert what in {*SUITES, "all"} or "|" in what
        case "python" | ".venv/bin/python", ["-m", module, *_]:
            import importlib.util

            assert importlib.util.find_spec(module)
        case (("python" | ".venv/bin/python"), [script, *_]):
            assert script.startswith("...") or (ROOT / script).exists()
        case "pip" | ".venv/bin/pip", ["install", *_]:
            pass
        case (("bridge-adapter" | "bridge-adapter-python"), _):
            assert shutil.which(program, path=str(Path(sys.executable).parent))
        case (("elixir" | "cd" | "git" | "mkdir" | "export" | "openssl" | "chmod"), _):
            pass
        case _:
            pytest.fail(f"{page}: {command}: this test does not know {program}; teach it what to look for")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs/tour.livemd"], ids=name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
