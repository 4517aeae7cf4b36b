"""What a hostile file, name or id must not do: run code, leave its folder, become markup, or reach the network.

The bad-input table holds refusals of such input; here is what is done with input that is taken, and what the code may
not hold. One run of every stage is watched from inside for unpickling, connections, and files written elsewhere.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from split_matching.cache.folders import walk_folders
from split_matching.configs import class_list as classes_module
from split_matching.configs.strict_yaml import _StrictLoader
from split_matching.pipeline.cli import main
from split_matching.stages.ground.csv_cells import read_cell
from split_matching.stages.pages.formats import page_template
from split_matching.stages.training import checkpoint
from tests.conftest import VocTree, blocks
from tests.pipeline.bad_input.weights import Evil
from tests.pipeline.test_command_line import TINY
from tests.test_architecture import modules, place, tree

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "aeroplane": "<script>alert(1)</script>",
    "bicycle": '"><img src=http://evil.example/x onerror=alert(1)>',
    "bird": "../../../escaped",
    "boat": "' onmouseover='alert(1)",
    "bottle": "{{ 7 * 7 }}{% raw %}",
    "bus": "</style></title><b>bold",
    "sheep": "<svg onload=alert(1)>",
    "sofa": "=cmd|' /C calc'!A0,\"quoted\"",
    "train": "javascript:alert(1)",
}
LOADS = ("src", "href", "srcset", "data", "action", "poster", "background", "formaction", "xlink:href", "ping")


LOADING = re.compile(r"https?://|//cdn|fetch\(|XMLHttpRequest|import\s*\(|eval\(|innerHTML|document\.write")


# ---- the code ----


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the project: where, what is called, and the call."""
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                yield f"{place(path)}:{node.lineno}", ast.unparse(node.func), node


def given(call: ast.Call, name: str) -> str:
    return next((ast.unparse(key.value) for key in call.keywords if key.arg == name), "")


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Imports of pickle and the like, and torch.load, are held by tests/test_architecture.py."""
    banned = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}
    banned |= {"torch.jit.load", "torch.package.PackageImporter", "np.fromregex"}
    loads = ("np.load", "numpy.load")
    wrong = [
        (where, name)
        for where, name, call in calls()
        if name in banned
        or name.endswith("read_pickle")
        or (name in loads and given(call, "allow_pickle") != "False")
        or given(call, "allow_pickle") == "True"
        or given(call, "shell") == "True"
    ]
    assert not wrong


def test_yaml_is_read_by_the_strict_loader_only() -> None:
    readers = [(where, call) for where, name, call in calls() if name in ("yaml.load", "yaml.load_all")]
    assert readers and all(given(call, "Loader") == "_StrictLoader" for _, call in readers)
    assert issubclass(_StrictLoader, yaml.SafeLoader)
    # a loader that learnt to build Python objects would show here; the two of its own accept less
    constructors = yaml.SafeLoader.yaml_constructors
    own = {tag for tag, function in _StrictLoader.yaml_constructors.items() if function != constructors.get(tag)}
    assert _StrictLoader.yaml_constructors.keys() == constructors.keys()
    assert own == {"tag:yaml.org,2002:int", "tag:yaml.org,2002:str"}
    assert _StrictLoader.yaml_multi_constructors == yaml.SafeLoader.yaml_multi_constructors


def test_templates_escape_everything_but_their_script() -> None:
    marked = {}
    for path in (ROOT / "stages/pages/templates").glob("*.j2"):
        text = path.read_text(encoding="utf-8")
        marked[path.name] = re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}|autoescape|Markup", text)
        assert "default-src 'none'" in text or "<html" not in text, path.name  # the rest is part of a page
    found = {name: marks for name, marks in marked.items() if marks}
    assert found == {name: ["{{ script | safe }}"] for name in ("gallery.html.j2", "report.html.j2", "runs.html.j2")}
    assert page_template("gallery.html.j2").environment.autoescape is True


# ---- a damaged checkpoint ----


def test_a_pickle_for_a_checkpoint_is_set_aside_and_not_run(tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "pwned"), "optimizer": {}, "step": 5}, tmp_path / checkpoint.CHECKPOINT)
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    assert checkpoint.restore_checkpoint(tmp_path, parts, "cpu", lambda line: None) == 0
    assert not (tmp_path / "pwned").exists()
    assert (tmp_path / f"{checkpoint.CHECKPOINT}.damaged").exists() and torch.equal(model.weight, before)


# ---- hostile names, through every page ----


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def write_tree(folder: Path) -> VocTree:
    made = VocTree(folder / "data")
    train = {f"t{i}": blocks(0, 1 + i, 16 + i, 255) for i in range(4)}
    for name, masks in (("trainaug", train), ("val", {"v0": blocks(0, 1, 17), "v1": blocks(2, 16)})):
        made.write_list(name, list(masks))
        for image_id, mask in masks.items():
            made.write_image(image_id, (24, 32))
            made.write_mask(image_id, mask)
    return made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A finished run whose classes have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    text = (classes_module.FOLDER / "voc.yaml").read_text(encoding="utf-8")
    listed = yaml.safe_load(text)
    for entry in listed["classes"]:
        entry["name"] = HOSTILE.get(entry["name"], entry["name"])
    (folder / "classes").mkdir()
    (folder / "classes/voc.yaml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    cache = folder / "deep" / "er" / "cache"
    settings = [*TINY, "pseudo_masks.merge=0.999", f"data.root={write_tree(folder).root}"]
    arguments = ["--dataset", "voc_cached", "--artifacts", str(cache), "--set", *settings]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes_module, "FOLDER", folder / "classes")
        assert main(["Report", *arguments]) == 0
        for kind in ("pseudo_masks", "regions", "features", "matches"):
            assert main(["inspect", kind, "--image", "t0", *arguments]) == 0
        assert main(["inspect", "predictions", "--image", "v0", *arguments]) == 0
        assert main(["inspect", "pseudo_masks", *arguments]) == 0
        yield SimpleNamespace(folder=folder, cache=cache, arguments=arguments)


def pages(hostile: SimpleNamespace) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in hostile.cache.rglob("*.html")}


@pytest.mark.slow
def test_hostile_class_names_are_text_on_every_page(hostile: SimpleNamespace) -> None:
    found = pages(hostile)
    assert found.keys() == {"report.html", "pseudo_masks.html"}
    for name, text in found.items():
        tags = Page(text).tags
        assert [attrs for tag, attrs in tags if tag == "script"] == [{}], name
        assert not {"svg", "iframe", "object", "embed", "base"} & {tag for tag, _ in tags}
        assert not [tag for tag, attrs in tags for key in attrs if key.startswith("on")]
        assert "49" not in re.findall(r"(?<=>)49(?=<)", text)  # {{ 7 * 7 }}
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


NEIGHBOURS = ("../../../runs.html", "../../inspect/pseudo_masks.html")
"""Pages of the cache that a reader may follow links to."""


def test_pages_load_nothing(hostile: SimpleNamespace) -> None:
    """No address in any attribute that loads."""
    for name, text in pages(hostile).items():
        for tag, attrs in Page(text).tags:
            for key, value in attrs.items():
                if tag == "a" and value in NEIGHBOURS:
                    continue
                assert key not in LOADS or str(value).startswith(("data:", "#")), (name, tag, key, str(value)[:60])
                assert "url(" not in str(value), (name, tag, key)
        style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
        assert "url(" not in style and "@import" not in style
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
        assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
        assert "unsafe-eval" not in policy and "http" not in policy


def test_hostile_class_names_reach_no_path(hostile: SimpleNamespace) -> None:
    outside = [path for path in hostile.folder.rglob("*") if "escaped" in path.name or "script" in path.name]
    assert outside == []
    allowed = {"data", "classes", "deep"}
    assert {path.name for path in hostile.folder.iterdir()} == allowed
    assert [path.name for path in hostile.cache.rglob("*") if not re.fullmatch(r"[\w.,=\-]+", path.name)] == []


def test_hostile_class_names_survive_json_and_csv(hostile: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    import csv

    (table,) = hostile.cache.glob("voc_cached/evaluate/*/per_class.csv")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {read_cell(row["name"]) for row in rows} >= set(HOSTILE.values()) and len(rows) == 20
    assert not any(row["name"].startswith(("=", "+", "-", "@")) for row in rows)  # formulas to a spreadsheet
    manifests = [json.loads(path.read_text()) for path in hostile.cache.rglob("manifest.json")]
    assert any(HOSTILE["aeroplane"] in json.dumps(manifest) for manifest in manifests)
    assert len(list(walk_folders(hostile.cache))) == len(manifests)


@pytest.mark.parametrize("image_id", ["../../../escaped", "/etc/passwd", "<script>alert(1)</script>", "t0\x1b[31m", ""])
def test_hostile_image_ids_are_refused_by_inspect(
    image_id: str, hostile: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["inspect", "pseudo_masks", f"--image={image_id}", *hostile.arguments]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no image " in error and error[:-1].isprintable()
    assert not list(hostile.folder.rglob("*escaped*"))


# ---- one run, watched ----

WATCHED = """
import os, sys
allowed = [os.path.realpath(path) for path in sys.argv[1].split(os.pathsep)]
seen = []
def watch(event, arguments):
    if event in ("pickle.find_class", "socket.connect", "socket.getaddrinfo", "os.system"):
        seen.append((event, [str(a)[:80] for a in arguments]))
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            real = os.path.realpath(os.fsdecode(path))
            if not real.startswith(tuple(allowed)) and not real.startswith(("/dev/", "/proc/")):
                seen.append((event, real))
sys.addaudithook(watch)
from split_matching.pipeline.cli import main
arguments = sys.argv[2:]
for words in (["Report"], ["EmbedRegions", "--force"], ["verify"], ["inspect", "matches", "--image", "t0"],
              ["inspect", "pseudo_masks"], ["gc", "--yes"]):
    code = main([*words, *arguments])
    assert code == 0, (words, code)
print("SEEN", seen)
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_run_of_every_stage_unpickles_nothing_connects_nowhere_and_writes_into_the_cache_only(tmp_path: Path) -> None:
    """Weights come from a file, the data from a folder: nothing else is to be touched but the cache and /tmp."""
    (tmp_path / "tmp").mkdir()
    settings = [*TINY, "clip.weights=bundled", f"data.root={write_tree(tmp_path).root}"]
    arguments = ["--dataset", "voc_cached", "--artifacts", str(tmp_path / "cache"), "--set", *settings]
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path / "tmp"),
        "MPLCONFIGDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
    }
    allowed = os.pathsep.join([str(tmp_path / "cache"), str(tmp_path / "tmp")])
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, allowed, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "SEEN []"
    assert {path.name for path in tmp_path.iterdir()} == {"tmp", "cache", "data"}


def test_the_watch_sees_what_it_is_to_see(tmp_path: Path) -> None:
    code = WATCHED.partition("from split_matching.pipeline")[0] + (
        "import pickle, collections\n"
        "pickle.loads(pickle.dumps(collections.OrderedDict()))\n"
        "open(sys.argv[2], 'w')\n"
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 9), 0.1)\n"
        "except OSError: pass\n"
        "print(sorted({event for event, _ in seen}))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(tmp_path / "elsewhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['open', 'pickle.find_class', 'socket.connect', 'socket.getaddrinfo']"


def test_no_page_of_the_repository_names_an_address_to_load() -> None:
    for path in (ROOT / "stages/pages/templates").iterdir():
        text = path.read_text(encoding="utf-8")
        assert not LOADING.search(text), path
