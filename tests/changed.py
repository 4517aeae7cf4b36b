"""Prints the tests that belong to what was changed since main: `make quick` runs them.

For a file of the code these are the test files in the same folder of `tests/` that have its name or import it; if there
are none, all of that folder. The rules of the architecture are always among them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALWAYS = "tests/test_architecture.py"
PAGES = "tests/test_readme.py"
FOLDERS = ("cache", "configs", "model", "stages", "pipeline")
ELSEWHERE = {"benchmarks": "tests/test_benchmarks.py", "docs": PAGES, "split_matching": "tests/test_packaging.py"}
"""Folders at the top whose tests lie in one file."""


def git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files() -> list[str]:
    """Files that differ from the last commit that is also on main, and new ones; paths from the checkout."""
    base = next((found[0] for name in ("origin/main", "main") if (found := git("merge-base", "HEAD", name))), "HEAD")
    return [*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")]


def matching_tests(path: Path) -> list[str]:
    """Return the test files of a changed file, which need not exist any more; paths from the checkout."""
    if path.parts[0] == "tests":
        if path.name.startswith("test_"):
            return [str(path)] if (ROOT / path).is_file() else []
        return importers(path, (ROOT / "tests").rglob("test_*.py")) if path.suffix == ".py" else []
    if path.parts[0] in FOLDERS:
        folder = ROOT / "tests" / path.parent
        while not any(folder.rglob("test_*.py")):
            folder = folder.parent
        beside = sorted(folder.glob("test_*.py")) or sorted(folder.rglob("test_*.py"))
        own = [test for test in beside if test.stem == f"test_{path.stem}"]
        return importers(path, beside) + relative(own) or relative(beside)
    return [ELSEWHERE.get(path.parts[0], PAGES)]


def importers(path: Path, tests: Iterable[Path]) -> list[str]:
    """Return those of some test files that import a module."""
    package = "" if path.parts[0] == "tests" else "split_matching."
    parent, name = re.escape(package + ".".join(path.parent.parts)), re.escape(path.stem)
    importing = re.compile(rf"(?:import|from) {parent}\.{name}\b|from {parent} import .*\b{name}\b")
    return relative(test for test in tests if importing.search(test.read_text(encoding="utf-8")))


def relative(tests: Iterable[Path]) -> list[str]:
    return [str(test.relative_to(ROOT)) for test in tests]


if __name__ == "__main__":
    print(*sorted({ALWAYS, *(test for path in changed_files() for test in matching_tests(Path(path)))}))
