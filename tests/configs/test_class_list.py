"""Class lists of the project: seen and unseen classes, folds, and lists that break a rule."""

from __future__ import annotations

import pytest

from split_matching.configs import class_list as classes_module
from split_matching.configs.class_list import ClassEntry, load_shipped_classes, prompts_of
from split_matching.configs.settings import TextConfig
from split_matching.errors import ConfigError


def test_voc_classes():
    voc = load_shipped_classes("voc")
    assert voc.ids == tuple(range(1, 21)) and voc.ignore == (0, 255)
    assert [entry.name for entry in voc.unseen_entries] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert voc.seen()[0] == ClassEntry(1, "aeroplane") and len(voc.seen()) == 15


LISTS = ("voc", "coco_stuff")


@pytest.mark.parametrize("name", LISTS)
def test_clip_reads_words(name):
    """No compound of a data set's own making is left to CLIP, and no two classes are the same to it."""
    entries = load_shipped_classes(name).entries
    words = [entry.prompts or (entry.name,) for entry in entries]
    assert not any("-" in word for some in words for word in some)
    assert not {"diningtable", "pottedplant", "tvmonitor", "playingfield", "waterdrops"} & {w for s in words for w in s}
    assert len(set(words)) == len(entries)


def test_names_are_labels_and_prompts_are_for_clip():
    by_name = {entry.name: entry for entry in load_shipped_classes("voc").entries}
    assert by_name["diningtable"] == ClassEntry(11, "diningtable", ("dining table",))
    assert by_name["dog"].prompts == ()
    assert prompts_of(by_name.values(), TextConfig()) == {
        "diningtable": ("dining table",),
        "pottedplant": ("potted plant",),
        "tvmonitor": ("television", "computer monitor"),
    }
    assert prompts_of(by_name.values(), TextConfig(prompts=False)) == {}


def test_folds_hide_every_seen_class_once():
    voc = load_shipped_classes("voc")
    hidden = [entry for fold in range(4) for entry in voc.hidden(fold, 4)]
    assert sorted(entry.id for entry in hidden) == [entry.id for entry in voc.seen()]
    assert voc.hidden(1, 4) == voc.seen()[1::4]
    assert set(voc.seen(1, 4)) == set(voc.seen()) - set(voc.hidden(1, 4))
    assert voc.hidden(None) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 1, name: b}]\nunseen: [1]\n", ["id 1 appears twice"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: a}]\nunseen: [1]\n", ["name a appears twice"]),
        ("ignore: [1]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1]\n", ["id 1", "`ignore`"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [3]\n", ["unseen id 3"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1, 2]\n", ["every class is unseen"]),
        ("ignore: [0]\nclasses: [{id: 1, name: ' '}, {id: 2, name: b}]\nunseen: [1]\n", ["classes.0.name"]),
        ("classes: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1]\n", ["ignore", "required"]),
        (
            "ignore: [0]\nclasses: [{id: 1, name: a, prompts: word}, {id: 2, name: b}]\nunseen: [1]\n",
            ["classes.0.prompts", "tuple", "'word'"],
        ),
        (
            "ignore: [0]\nclasses: [{id: 1, name: a, prompts: ['']}, {id: 2, name: b}]\nunseen: [1]\n",
            ["classes.0.prompts.0"],
        ),
        (
            "ignore: [0]\nclasses: [{id: 1, name: a, prompts: ['a {}']}, {id: 2, name: b}]\nunseen: [1]\n",
            ["'a {}' is a template"],
        ),
        (
            'ignore: [0]\nclasses: [{id: 1, name: a, prompts: ["x\\u202e"]}, {id: 2, name: b}]\nunseen: [1]\n',
            ["direction character"],
        ),
    ],
)
def test_broken_class_lists(tmp_path, monkeypatch, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(classes_module, "FOLDER", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_shipped_classes("mine")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["configs/classes/mine.yaml", *words]), str(caught.value)
