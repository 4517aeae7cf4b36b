"""Rows of config files and settings that cannot be meant."""

from tests.pipeline.bad_input.place import Row

INSIDE = "expected a name inside the data set, without leading / and without ..; change it or leave it out"
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIGS = [
    Row(
        "unknown key", lambda p: p.set("train.stepz=3"), 2, "--set: unknown key train.stepz; did you mean train.steps?"
    ),
    Row("unknown section", lambda p: p.set("trian.steps=3"), 2, "unknown key trian.steps; did you mean train.steps?"),
    Row(
        "unknown key in a file",
        lambda p: p.set_file("decoder:\n  layer: 2\n"),
        2,
        "{extra}: unknown key decoder.layer; did you mean decoder.layers?",
    ),
    Row(
        "word for a number",
        lambda p: p.set("train.steps=many"),
        2,
        "--set: train.steps is many: input should be a valid integer",
    ),
    Row(
        "truth for a number",
        lambda p: p.set("train.steps=yes"),
        2,
        "train.steps is true: expected a number; quote the word if meant so",
    ),
    Row(
        "fraction for a count",
        lambda p: p.set("train.steps=1.5"),
        2,
        "train.steps is 1.5: input should be a valid integer",
    ),
    Row(
        "nothing for a number",
        lambda p: p.set("train.steps=null"),
        2,
        "train.steps is null: input should be a valid integer",
    ),
    Row(
        "value for a section",
        lambda p: p.set("train=3"),
        2,
        "train is 3; expected keys below it, such as train.matching",
    ),
    Row("NaN", lambda p: p.set("train.lr=.nan"), 2, "train.lr is .nan: input should be a finite number"),
    Row(
        "below the range",
        lambda p: p.set("train.steps=0"),
        2,
        "train.steps is 0: input should be greater than or equal to 1",
    ),
    Row(
        "above the range",
        lambda p: p.set("evaluate.fusion=2"),
        2,
        "evaluate.fusion is 2: input should be less than or equal to 1",
    ),
    Row(
        "unknown choice",
        lambda p: p.set("features.variant=best"),
        2,
        "features.variant is best: input should be 'value', 'maskclip', 'qq', 'kk', 'naclip', ",
    ),
    Row(
        "empty list",
        lambda p: p.set("pseudo_masks.windows=[]"),
        2,
        "pseudo_masks.windows is []: the list should have at least 1 item",
    ),
    Row(
        "endless value",
        lambda p: p.set(f"train.steps={'x' * 9999}"),
        2,
        "train.steps is " + "x" * 97 + "...: input should be a valid integer",
    ),
    Row(
        "control signs",
        lambda p: p.set('train.steps="a\\nb\\e[31m"'),
        2,
        'train.steps is "a\\nb\\e[31m": input should be a valid integer',
    ),
    Row(
        "contradiction in a section",
        lambda p: p.set("decoder.dim=16", "decoder.heads=3"),
        2,
        "--set: decoder.dim 16 is not a multiple of decoder.heads 3; change one of them",
    ),
    Row(
        "contradiction between sections",
        lambda p: p.set("pseudo_masks.block=3"),
        2,
        "--set: pseudo_masks.block 3 is not cached: features.decoder_blocks is [2, 4]; change one of them",
    ),
    Row(
        "windows with gaps",
        lambda p: p.set("evaluate.stride=600"),
        2,
        "evaluate.stride 600 leaves gaps: evaluate.window is 512",
    ),
    Row("fold that is not there", lambda p: p.set("data.fold=3"), 2, "fold 3 does not exist: data.folds is 3, so 0..2"),
    Row(
        "prompts without images",
        lambda p: p.set("decoder.prompts=2"),
        2,
        "decoder.prompts 2 needs train.features online",
    ),
    Row(
        "unknown classes",
        lambda p: p.set("data.classes=coco"),
        2,
        "data.classes: no class list 'coco'; expected one of: ade20k, camvid, cityscapes, coco_stuff, ",
    ),
    Row(
        "path for classes",
        lambda p: p.set("data.classes=../voc"),
        2,
        "data.classes: no class list '../voc'; expected one of: ade20k, camvid, cityscapes, ",
    ),
    Row("path for a split", lambda p: p.set("data.val_split=../../x"), 2, f"data.val_split is ../../x: {INSIDE}"),
    Row("absolute mask folder", lambda p: p.set("data.mask_folder=/etc"), 2, f"data.mask_folder is /etc: {INSIDE}"),
    Row(
        "unknown data set",
        lambda p: setattr(p, "dataset", "vok"),
        2,
        "unknown data set 'vok'; expected one of: ade20k, camvid, cityscapes, coco_stuff, ",
    ),
    Row("broken YAML", lambda p: p.set_file("train: {steps: 1\n"), 2, "{extra}: broken YAML: "),
    Row(
        "a key twice", lambda p: p.set_file("train: {lr: 1}\ntrain: {lr: 2}\n"), 2, "key 'train' appears twice (line 2)"
    ),
    Row("a list of keys", lambda p: p.set_file("- train\n"), 2, "{extra}: holds a list; expected `key: value` lines"),
    Row(
        "a YAML tag",
        lambda p: p.set_file("a: !!python/object/apply:os.getcwd []\n"),
        2,
        "could not determine a constructor",
    ),
    Row(
        "billion laughs",
        lambda p: p.set_file(LAUGHS),
        2,
        "{extra}: broken YAML: alias *a is not allowed: write the value itself",
    ),
    Row("endless nesting", lambda p: p.set_file("[" * 9999), 2, "{extra}: nested too deeply"),
    Row("not text", lambda p: p.set_file(b"train: \xff\xfe"), 2, "{extra}: not UTF-8 text; save the file as UTF-8"),
    Row(
        "absent file",
        lambda p: p.arguments.extend(["--set-file", "/no.yaml"]),
        2,
        "/no.yaml: no such file; check the path",
    ),
    Row(
        "a folder",
        lambda p: p.arguments.extend(["--set-file", "/"]),
        2,
        "/: cannot be read (Is a directory); expected a YAML file",
    ),
    Row(
        "no value",
        lambda p: p.set("train.steps"),
        2,
        "--set 'train.steps': expected section.key=value, such as train.steps=1000",
    ),
    Row(
        "unknown option",
        lambda p: p.arguments.append("--wrokers=2"),
        2,
        "unrecognized arguments: --wrokers=2; did you mean --workers? see python run_pipeline.py PrepareDataset --help",
    ),
    Row(
        "no workers",
        lambda p: p.arguments.append("--workers=0"),
        2,
        "argument --workers: '0': expected a whole number from 1",
    ),
    Row(
        "unknown image of a trial",
        lambda p: p.arguments.append("--images=t0,t9"),
        3,
        "no image 't9' among the 3 images: did you mean t",
    ),
]
