"""Class lists of the project: seen and unseen classes, folds, and lists that break a rule."""

from __future__ import annotations

import unicodedata

import pytest

from split_matching.configs import class_list as classes_module
from split_matching.configs.class_list import ClassEntry, load_classes, load_shipped_classes
from split_matching.configs.class_names import prompts_of, same_classes
from split_matching.configs.data_settings import DataConfig
from split_matching.configs.load import load_config
from split_matching.configs.settings import TextConfig
from split_matching.configs.slices import build_slice
from split_matching.errors import ConfigError
from tests.error_lines import check_error


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
    assert [entry.id for entry in voc.hidden(1, 4)] == [2, 7, 12, 13]  # the 2nd, 3rd, 4th, 1st of four in a row
    assert set(voc.seen(1, 4)) == set(voc.seen()) - set(voc.hidden(1, 4))
    assert voc.hidden(None) == ()


def test_a_fold_of_shapes_is_like_its_unseen_classes_one_of_each_colour_and_no_pattern_as_a_whole():
    shapes = load_shipped_classes("shapes")
    for hidden, left in [
        (shapes.unseen_entries, shapes.seen()),
        *((shapes.hidden(f), shapes.seen(f)) for f in range(3)),
    ]:
        colours, patterns = zip(*(entry.name.split() for entry in hidden), strict=True)
        assert sorted(colours) == ["blue", "green", "purple", "red", "white", "yellow"]
        remaining = [entry.name.split()[1] for entry in left]
        assert all(remaining.count(pattern) >= 2 for pattern in ("plain", "striped", "dotted", "checked")), patterns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 1, name: b}]\nunseen: [1]\n", ["id 1 appears twice"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: a}]\nunseen: [1]\n", ["name a appears twice"]),
        ("ignore: [1]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1]\n", ["id 1", "`ignore`"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [3]\n", ["unseen id 3"]),
        ("ignore: [0]\nclasses: [{id: 1, name: a}, {id: 2, name: b}]\nunseen: [1, 2]\n", ["every class is unseen"]),
        ("ignore: [0]\nclasses: [{id: 1, name: ' '}, {id: 2, name: b}]\nunseen: [1]\n", ["classes.0.name"]),
        ("unseen: [1]\n", ["no list `classes`", "expected `classes: [NAME, NAME]`"]),
        ("classes: [cat, no, dog]\nunseen: [cat]\n", ["class 2 is no, off or false", "quote it"]),
        ("classes: [cat, 7]\nunseen: [cat]\n", ["class 2 is the number 7", "quote it"]),
        ("classes: [{id: 1, name: yes}, {id: 2, name: b}]\nunseen: [2]\n", ["class 1 is yes, on or true"]),
        ("classes: [{id: yes, name: a}, {id: 2, name: b}]\nunseen: [2]\n", ["class 1 is {'id': True", "id: NUMBER"]),
        ("classes: [{id: 1, name: a}]\nunseen: [1]\n", ["the list should have at least 2 items"]),
        ("ignore: 255\nclasses: [a, b]\nunseen: [b]\n", ["ignore: input should be a list, such as [a, b], got 255"]),
        ("classes: [a, {id: 2, name: b}]\nunseen: [a]\n", ["class 2 is {'id': 2", "all plain names"]),
        (
            f"classes: [{', '.join(f'n{i}' for i in range(256))}]\nignore: []\nunseen: [n1]\n",
            ["256 classes", "at most 255"],
        ),
        (
            f"classes: [{', '.join(f'n{i}' for i in range(256))}]\nunseen: [n1]\n",
            ["'n255' has id 255", "data.ignore=[255]"],
        ),
        ("classes: [Red Plain, red  plain]\nunseen: [Red Plain]\n", ["'Red Plain' and 'red  plain'", "same text"]),
        ('classes: [red plain, "red\\_plain"]\nunseen: [red plain]\n', ["same text"]),
        ("classes: [a&amp;b, a&b, c]\nunseen: [a&b]\n", ["same text"]),
        ("classes: [{id: 1, name: x, prompts: [b]}, {id: 2, name: B}]\nunseen: [2]\n", ["'x' and 'B'", "same text"]),
        (f"classes: [{'red ' * 80}a, {'red ' * 80}b]\nunseen: [{'red ' * 80}b]\n", ["same text"]),
        (
            "ignore: [0]\nclasses: [{id: 1, name: a, prompts: word}, {id: 2, name: b}]\nunseen: [1]\n",
            ["classes.0.prompts", "a list", "'word'"],
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


def test_ignore_is_255_where_nobody_says(tmp_path):
    def read(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return load_classes(DataConfig(classes=str(tmp_path / name), unseen=("b",)))

    assert read("classes: [a, b]\n").ignore == (255,)
    assert read("classes: [{id: 0, name: a}, {id: 2, name: b}]\n").ignore == (255,)
    assert read("classes: [{id: 0, name: a}, {id: 255, name: b}]\n").ignore == ()
    two = read("0: a\n255: b\n", "mine.TXT")
    assert two.ids == (0, 255) and two.ignore == ()


@pytest.mark.parametrize(
    "text",
    ["# my classes\na\nb\nc\n", "a\n  # the rest\nb\n\t#\nc", "#mine\r\na\r\nb\r\nc\r\n", "a\nb\n# end\nc\n\n\n"],
)
def test_comments_are_no_classes(tmp_path, text):
    (tmp_path / "c.txt").write_bytes(text.encode())
    found = load_classes(DataConfig(classes=str(tmp_path / "c.txt"), unseen=("c",)))
    assert [(entry.id, entry.name) for entry in found.entries] == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((f"a\nred{sign}plain\nc\n", "control or direction character") for sign in "\x0b\x0c\x1c\x85\u2028\u2029"),
        ("0: a\n1: b\nc\n", "line 3: 'c'; expected `ID: NAME` as on other lines"),
        ("0 a\n1 b\n2 c\n", "line 1: '0 a'; expected numbers as `ID: NAME`"),
        ("0,a\n1,b\n2,c\n", "expected numbers as `ID: NAME`"),
        ("a,\nb,\nc\n", "line 1: ends with a comma"),
        ("0: a\n1: b,\n2: c\n", "line 2: ends with a comma"),
        ("id,name\n0,a\n1,c\n", "line 2: '0,a'; expected numbers as `ID: NAME`"),
        ("a\tA\nc\tC\n", "these are columns of a table"),
        ("a;#090909\nc;#080808\n", "these are columns of a table"),
        ("a: 0\nb: 1\nc: 2\n", "line 1: 'a: 0'; expected numbers in front, as `ID: NAME`"),
        ("a,0\nb,1\nc,2\n", "expected numbers in front, as `ID: NAME`"),
        ('"a"\n"b"\n"c"\n', "without quotes"),
        ("- a\n- b\n- c\n", "without marks in front"),
        ('["a", "b", "c"]\n', "without brackets"),
        ("a\nb # bees\nc\n", "line 2: 'b # bees'; expected a comment on a line of its own"),
        ("0: a # first\n1: c\n", "line 1: '0: a # first'; expected a comment on a line of its own"),
        ("C #\nb\nc\n", "or give a .yaml list"),
        ("grade:1\ngrade:2\ngrade:3\n", "or names alone, or give a .yaml list"),
        (
            "person, human\ncat, kitten\n",
            "these are columns of a table; expected names alone, one a line, or give a .yaml",
        ),
        ("0: 'a'\n1: 'b'\n2: 'c'\n", "line 1: \"0: 'a'\"; expected names alone, one a line, without quotes"),
        ("road 7\nsky 11\nc 13\n", "line 1: 'road 7'; expected numbers in front, as `ID: NAME`"),
        ("name id\nroad 7\nc 13\n", "line 2: 'road 7'; expected numbers in front"),
        ("road 128 64 128\nsky 70 130 180\nc 0 0 142\n", "expected numbers in front"),
        ("name\nroad\nsky\n", "line 1: 'name'; the head of a table, no class"),
        ("Class Names\nroad\nsky\n", "line 1: 'Class Names'; the head of a table, no class"),
        ("0\nroad\nsky\n", "line 1: '0'; the head of a table, no class"),
        ("__ignore__\nroad\nsky\n", "line 1: '__ignore__'; the head of a table"),
        ("class_name\nroad\nsky\n", "line 1: 'class_name'; the head of a table"),
        ("label index\nroad\nsky\n", "line 1: 'label index'; the head of a table"),
        ("classes:\n- road\n- sky\n", "line 2: '- road'; expected names alone"),
        ("id name\n0 road\n1 sky\n", "line 2: '0 road'; expected numbers as `ID: NAME`"),
        ('["road"\n,"sky"\n]\n', "line 1: '[\"road\"'; expected names alone, one a line, without brackets"),
        ("0|road\n1|sky\n", "line 1: '0|road'; expected numbers as `ID: NAME`"),
        ("0\uff1aroad\n1\uff1asky\n", "expected numbers as `ID: NAME`"),
        ("road:1,2,3::\nsky:4,5,6\n", "line 2: 'sky:4,5,6'; expected `NAME:RED,GREEN,BLUE::`"),
        ("0\n1\n2\n", "line 1: '0'; expected names, or `ID: NAME`, not numbers alone"),
        ("// my classes\na\nc\n", "line 1: '// my classes'; expected # in front of a comment"),
        ("# nothing\n\n", "holds no class"),
        ("caf\u00e9\ncafe\u0301\nc\n", "name caf\u00e9 appears twice"),
    ],
)
def test_text_lists_that_would_shift_ids_are_errors(tmp_path, text, words):
    (tmp_path / "c.txt").write_bytes(text.encode())
    check_error(
        lambda: load_classes(DataConfig(classes=str(tmp_path / "c.txt"), unseen=("c",))), words, kind=ConfigError
    )


def test_numbered_names_are_names(tmp_path):
    (tmp_path / "c.txt").write_text("organ 1\norgan 2\norgan 3\n")
    found = load_classes(DataConfig(classes=str(tmp_path / "c.txt"), unseen=("organ 3",)))
    assert [(entry.id, entry.name) for entry in found.entries] == [(0, "organ 1"), (1, "organ 2"), (2, "organ 3")]


def test_yaml_lists_take_names_that_text_does_not(tmp_path):
    names = ["person, human", "C #", "grade:1", "a,"]
    (tmp_path / "c.yaml").write_text(f"classes: {names}\n")
    found = load_classes(DataConfig(classes=str(tmp_path / "c.yaml"), unseen=("grade:1",)))
    assert [entry.name for entry in found.entries] == names


@pytest.mark.parametrize(
    "names",
    [
        ("background", "wall, brick", "floor, tiled"),
        ("other", "2 door car", "4 door car"),
        ("road", "zone 30", "lane 50"),
        ("object 1", "object 2"),
        ("class room", "wall"),
    ],
)
def test_unusual_names_make_no_table(tmp_path, names):
    (tmp_path / "c.txt").write_text("\n".join(names))
    found = load_classes(DataConfig(classes=str(tmp_path / "c.txt"), unseen=(names[0],)))
    assert tuple(entry.name for entry in found.entries) == names


def test_an_unseen_id_may_have_zeros_in_front(tmp_path):
    (tmp_path / "c.yaml").write_text("classes: [{id: 7, name: a}, {id: 08, name: b}]\nunseen: [08]\n")
    found = load_classes(DataConfig(classes=str(tmp_path / "c.yaml")))
    assert found.ids == (7, 8) and found.unseen_ids == {8}


def test_a_date_among_names_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("classes: [wall, 2024-05-01]\n")
    check = DataConfig(classes=str(tmp_path / "c.yaml"), unseen=("wall",))
    with pytest.raises(ConfigError, match="class 2 is the date 2024-05-01, which YAML does not take as text"):
        load_classes(check)


def test_names_alike_to_clip_are_known(tmp_path):
    (tmp_path / "c.txt").write_text("red plain\nRed Plain\nred\u00a0\u00a0plain\nblue\n", encoding="utf-8")
    found = load_classes(DataConfig(classes=str(tmp_path / "c.txt"), unseen=("blue",)))
    assert found.alike == [("red plain", "Red Plain"), ("red plain", "red\u00a0\u00a0plain")]


def test_a_share_of_the_classes_is_seen():
    def seen(share, seed=0):
        found = load_classes(DataConfig(classes="voc", seen_share=share, seen_seed=seed))
        assert len(found.entries) == 20 and found.unseen_ids <= set(found.ids)
        return {entry.id for entry in found.seen()}

    quarter, half = seen(0.25), seen(0.5)
    assert len(quarter) == 5 and len(half) == 10 and quarter < half
    assert half == {1, 2, 4, 5, 6, 7, 10, 12, 14, 17}  # by sha256sum of "0 1" to "0 20"
    assert len({frozenset(seen(0.25, seed)) for seed in range(5)}) == 5
    assert len(seen(0.001)) == 1 and len(seen(0.999)) == 19
    with pytest.raises(ValueError, match="both data"):
        DataConfig(classes="voc", seen_share=0.5, unseen=("dog",))


def test_training_knows_the_drawn_classes_alone_and_keys_stay():
    whole, half = load_config("voc"), load_config("voc", overrides=["data.seen_share=0.5", "data.seen_seed=3"])
    expected = tuple(e.id for e in load_classes(half.data).seen())
    assert build_slice(half, ("classes.seen_ids",)).classes.seen_ids == expected and len(expected) == 10
    assert {e.id for e in build_slice(half, ("classes.seen",)).classes.seen} == set(expected)
    assert build_slice(half, ("classes.published",)).classes.published == ()
    assert not {"seen_share", "seen_seed"} & set(build_slice(whole, ("data",)).key_values()["data"])
    assert {"seen_share", "seen_seed"} <= set(build_slice(half, ("data",)).key_values()["data"])


@pytest.mark.parametrize(
    ("classes", "share"),
    [
        ("[{id: [1], name: a}, {id: 2, name: b}]", None),
        ("[{id: 1, name: [a]}, {id: 2, name: b}]", None),
        ("[[a], [b]]", 0.5),
    ],
)
def test_an_entry_that_is_no_class_is_refused(tmp_path, classes, share):
    path = tmp_path / "c.yaml"
    path.write_text(f"classes: {classes}\n")
    data = DataConfig(classes=str(path), seen_share=share, unseen=() if share else ("b",))
    check_error(lambda: load_classes(data), "class 1 is", "expected a name", kind=ConfigError)


def test_a_labelmap_gives_its_own_ids(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nwall:1,2,3::\ncar:4,5,6::\ndog:7,8,9::\n")
    assert load_classes(DataConfig(classes=str(path), unseen=("dog",))).ids == (0, 1, 2)
    data = DataConfig(classes=str(path), unseen=("dog",), first_id=1)
    check_error(lambda: load_classes(data), "data.first_id is 1", "leave data.first_id out", kind=ConfigError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layout": "folder", "train_split": "."}, "not the root itself"),
        ({"layout": "folder", "val_split": "./."}, "not the root itself"),
        ({"layout": "folder", "mask_suffix": ""}, "such as .png"),
        ({"layout": "folder", "mask_suffix": "png"}, "such as .png"),
        ({"layout": "folder", "image_suffix": "jpg"}, "such as .png"),
        ({"layout": "voc", "download": "pascal_context"}, "is for data.layout folder"),
    ],
)
def test_settings_that_name_no_file_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        DataConfig(**values)


def test_synonyms_join_people_and_motorcycles():
    assert same_classes([("pedestrian",), ("minibike",), ("bicycle",)], ["person", "motorbike"]) == [True, True, False]


NAMES = "wall\ntv,monitor\ncaf\u00e9\ndog\n"


@pytest.mark.parametrize(
    ("unseen", "words"),
    [
        (
            ["tv", "monitor"],
            "'tv' is not in the list; a comma ends a name, so quote tv,monitor: --set 'data.unseen=[\"",
        ),
        (["Dog"], "did you mean dog?"),
        ([3], "'3' is not in the list; expected a name: id 3 is dog"),
        (["wall"], "'wall' is not in the list; its id, 0, is one of `ignore`"),
        (["horse"], "expected one of: tv,monitor, caf\u00e9, dog"),
    ],
)
def test_unseen_classes_that_are_not_in_the_list(tmp_path, unseen, words):
    (tmp_path / "c.txt").write_text(NAMES, encoding="utf-8")
    data = DataConfig(classes=str(tmp_path / "c.txt"), unseen=unseen, ignore=(0, 255))
    check_error(lambda: load_classes(data), words, kind=ConfigError)


@pytest.mark.parametrize("unseen", [["tv,monitor"], [" tv,monitor "], ["cafe\u0301"], ["caf\u00e9"]])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unseen_classes_are_found_however_accents_are_written(tmp_path, unseen, form):
    (tmp_path / "c.txt").write_text(unicodedata.normalize(form, NAMES), encoding="utf-8")
    found = load_classes(DataConfig(classes=str(tmp_path / "c.txt"), unseen=unseen))
    assert [entry.id for entry in found.unseen_entries] == [1 if "tv" in unseen[0] else 2]
    assert found.names == ("wall", "tv,monitor", "caf\u00e9", "dog")


@pytest.mark.parametrize("first", [0, 1, 250])
def test_a_name_that_falls_on_255_is_never_dropped_in_silence(tmp_path, first):
    """Whatever is counted from, the class of id 255 is an error, unless the config says what is ignored."""
    names = "".join(f"n{place}\n" for place in range(first, 256))
    (tmp_path / "c.txt").write_text(names)
    data = DataConfig(classes=str(tmp_path / "c.txt"), unseen=(f"n{first}",), first_id=first)
    check_error(lambda: load_classes(data), "'n255' has id 255, which is ignored unless told", kind=ConfigError)
    told = load_classes(data.model_copy(update={"ignore": (255,)}))
    assert told.ids == tuple(range(first, 255)) and told.ignored_names == {255: "n255"}
    if first:
        kept = load_classes(data.model_copy(update={"ignore": ()}))
        assert kept.ids == tuple(range(first, 256)) and kept.ignore == ()
