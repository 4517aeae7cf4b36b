"""Class lists of the project: seen and unseen classes, folds, and lists that break a rule."""

from __future__ import annotations

import pytest

from split_matching.configs import class_list as classes_module
from split_matching.configs.class_list import ClassEntry, load_shipped_classes
from split_matching.errors import ConfigError


def test_voc_classes():
    voc = load_shipped_classes("voc")
    assert voc.ids == tuple(range(1, 21)) and voc.ignore == (0, 255)
    assert [entry.name for entry in voc.unseen_entries] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert voc.seen()[0] == ClassEntry(1, "aeroplane") and len(voc.seen()) == 15


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
    ],
)
def test_broken_class_lists(tmp_path, monkeypatch, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(classes_module, "FOLDER", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_shipped_classes("mine")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["configs/classes/mine.yaml", *words]), str(caught.value)
