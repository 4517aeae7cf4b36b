"""The report: one self-contained HTML page about one run.

The page loads nothing (images are `data:` URIs, styles are inline, there is no script, and a content security policy
forbids the rest), reads on a phone, and is a function of its inputs: times come from the manifests of the upstream
artifacts, so equal inputs give equal bytes. Names from files go through the template's autoescape only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from split_matching.cache.store import Artifact
from split_matching.errors import CorruptError
from split_matching.stages.data.layouts import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages import figures
from split_matching.stages.pages import report_analysis as analysis
from split_matching.stages.pages.class_rows import ClassRow, read_per_class

PANEL_SIDE = 320
"""Longer side of an example picture, pixels (choice: sharp on a phone, about 25 kB each)."""

CURVE_POINTS = 1000
"""Most points drawn of a curve; longer logs are thinned evenly."""
MAP_COLUMNS = 60
"""Most columns of the map of matched queries; what was logged between them is averaged."""

UNDEFINED = "\N{EN DASH}"
"""Shown in place of a number that is not defined."""

_NOWHERE = -1  # label of pixels without a class, in the signed maps used here
_MIN_SHARE = 0.005  # predicted classes under this share of an image's labelled pixels get no chip

_LOSS_NAMES = {
    "seen": {"seen_class": "class", "seen_mask": "mask", "seen_dice": "dice"},
    "candidate": {
        "candidate_cosine": "cosine",
        "candidate_nce": "InfoNCE",
        "candidate_mask": "mask",
        "candidate_dice": "dice",
    },
}
_SWEEP_NAMES = {"mIoU_seen": "mIoU seen", "mIoU_unseen": "mIoU unseen", "hIoU": "hIoU"}


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Write `report.html`.

    Reads from the config: `report`, `pseudo_masks`, `data`, `clip.weights`. Classes, their names and groups come with
    the evaluation's `per_class.csv`, in the order that the predictions count in.

    Args:
        ctx: inputs `dataset`, `features`, `pseudo_masks`, `train`, `evaluate`, and any other upstream artifact whose
            provenance should be shown.

    Returns:
        Size of the page in bytes and number of examples.

    Raises:
        CorruptError: an upstream file cannot be read as what it should be.
    """
    evaluate = ctx.inputs["evaluate"]
    metrics = evaluate.json("metrics.json")
    rows = read_per_class(evaluate.file("per_class.csv"))
    unseen = [row.id for row in rows if row.group == "unseen"]
    images = ctx.inputs["dataset"].json("val.json")["images"]
    examples = _examples(ctx, rows, choose_examples(images, unseen, ctx.config.report.examples))
    worst = analysis.worst_images(evaluate.file("per_image.csv"), ctx.config.report.worst)
    banners = _banners(ctx, rows)
    source = open_source(ctx.config.data, ctx.data_root)
    page = {
        "dataset": evaluate.manifest.get("dataset") or ctx.config.data.classes,
        "banners": banners,
        "facts": _facts(ctx, metrics, rows),
        "headline": _headline(metrics),
        "groups": _groups(metrics, rows),
        "rows": rows,
        "curves": _loss_curves(ctx.inputs["train"].file("metrics.jsonl")),
        "matching": _matching(ctx.inputs["train"].file("matching.jsonl")),
        "sweep": _sweep(metrics.get("extra", {})),
        "published": analysis.published(ctx, metrics, any(banner["kind"] in ("red", "amber") for banner in banners)),
        "confused": analysis.unseen_confusion(np.load(evaluate.file("confusion.npy"), allow_pickle=False), rows),
        "examples": examples,
        "worst": [
            {**example, "iou": iou}
            for example, (_, iou) in zip(_examples(ctx, rows, [name for name, _ in worst]), worst, strict=True)
        ],
        "quality": analysis.mask_quality(ctx, rows, source),
        "cost": analysis.cost(metrics),
        "summaries": _summaries(ctx.inputs, ("pseudo_masks", "regions")),
        "stages": _stages(ctx.inputs),
        "versions": _versions(ctx.inputs),
    }
    html = page_template("report.html.j2").render(page).encode("utf-8")
    (ctx.out / "report.html").write_bytes(html)
    return {"bytes": len(html), "examples": len(examples)}


def page_template(name: str) -> jinja2.Template:
    """Return a template of this folder: everything is escaped, and a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["percent"] = format_percent
    environment.filters["duration"] = format_duration
    return environment.get_template(name)


def format_number(value: Any) -> str:
    """Return a value for a table: 12,345 or 0.1235 (four digits); a dash for None and NaN; anything else as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return UNDEFINED
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_percent(value: float | None) -> str:
    """Return a percentage with one decimal, or a dash where it is undefined."""
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.1f}"


def format_duration(seconds: float | None) -> str:
    """Return seconds as `0.42 s`, `12.3 s`, `4 min 05 s` or `2 h 03 min`, or a dash when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return UNDEFINED
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


# --- numbers ----------------------------------------------------------------------------------------------------------


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "hIoU", "value": metrics["hIoU"], "note": "harmonic mean of seen and unseen", "kind": "main"},
        {"name": "mIoU seen", "value": metrics["mIoU_seen"], "note": "classes with training masks", "kind": "seen"},
        {"name": "mIoU unseen", "value": metrics["mIoU_unseen"], "note": "never annotated", "kind": "unseen"},
        {"name": "pAcc", "value": metrics["pAcc"], "note": "correct / labelled pixels", "kind": "plain"},
    ]


def _groups(metrics: Mapping[str, Any], rows: Sequence[ClassRow]) -> list[dict[str, Any]]:
    """Return the classes of each group, best first and absent ones last."""
    groups = []
    for group, mean in (("seen", metrics["mIoU_seen"]), ("unseen", metrics["mIoU_unseen"]), ("excluded", None)):
        members = [row for row in rows if row.group == group]
        members.sort(key=lambda row: (math.isnan(row.iou), -row.iou if not math.isnan(row.iou) else 0.0, row.id))
        if members:
            groups.append({"name": group, "mean": mean, "rows": members})
    return groups


def _banners(ctx: StageContext, rows: Sequence[ClassRow]) -> list[dict[str, str]]:
    banners = []
    if ctx.config.clip.weights == "random":
        text = "Random CLIP weights: the numbers on this page mean nothing. They show only that every stage ran."
        banners.append({"kind": "red", "title": "Plumbing only", "text": text})
    if ctx.config.data.fold is not None:
        hidden = sum(row.group == "unseen" for row in rows)
        text = (
            f"Fold {ctx.config.data.fold} of {ctx.config.data.folds}: “unseen” means {hidden} seen classes that were "
            "hidden to choose settings. The truly unseen classes are not scored here."
        )
        banners.append({"kind": "blue", "title": "Tuning run", "text": text})
    if ctx.config.data.layout == "shapes":
        text = "Rendered scenes made for this project. The numbers do not compare with any published data set."
        banners.append({"kind": "amber", "title": "Embedded data set", "text": text})
    banners.extend(_subset_banner(ctx))
    return banners


def _subset_banner(ctx: StageContext) -> Iterable[dict[str, str]]:
    """Say that the run saw a part of the published splits, or was a trial on some images of any data set."""
    data = ctx.config.data
    parts = [
        f"{have:,} of {whole:,} {word} images"
        for split, word, whole in (("train", "training", data.expected_train), ("val", "validation", data.expected_val))
        if whole and (have := len(ctx.inputs["dataset"].json(f"{split}.json")["images"])) != whole
    ]
    if parts:
        text = f"This run used {' and '.join(parts)} of the published protocol; do not compare with published numbers."
        yield {"kind": "amber", "title": "Not the full data set", "text": text}
    elif trial := ctx.inputs["dataset"].manifest.get("config", {}).get("data", {}).get("images"):
        text = f"A trial on {len(trial):,} images that were named with --images; do not compare it with other runs."
        yield {"kind": "amber", "title": "Not the full data set", "text": text}


def _facts(ctx: StageContext, metrics: Mapping[str, Any], rows: Sequence[ClassRow]) -> list[tuple[str, str]]:
    """Return the short facts of the page's head as (name, value)."""
    groups = ", ".join(
        f"{number} {group}"
        for group in ("seen", "unseen", "excluded")
        if (number := sum(r.group == group for r in rows))
    )
    created = format_time(ctx.inputs["evaluate"].manifest.get("created"))
    return [
        ("Classes", groups),
        ("Training images", format_number(len(ctx.inputs["dataset"].json("train.json")["images"]))),
        ("Validation images", format_number(metrics.get("images"))),
        ("Labelled pixels", format_number(metrics.get("pixels"))),
        ("CLIP weights", str(ctx.config.clip.weights)),
        *([("Evaluated", created)] if created else []),
    ]


def format_time(value: Any) -> str:
    """Return a manifest's time (ISO 8601 or seconds since 1970) in UTC; other text as it is, nothing for None."""
    if value is None:
        return ""
    try:
        moment = datetime.fromtimestamp(value, UTC) if not isinstance(value, str) else datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return str(value)
    if moment.tzinfo is None:
        return moment.strftime("%Y-%m-%d %H:%M:%S")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- curves -----------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, one object a line.

    Args:
        path: the file.

    Returns:
        The objects in order.

    Raises:
        CorruptError: a line is not a JSON object with a `step`.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            float(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptError(
                f"{path} line {number} is not a JSON object with a step: rerun TrainDecoder with --force"
            ) from error
        records.append(record)
    return records


def _loss_curves(path: Path) -> list[dict[str, str]]:
    """Draw what the training log holds: total, seen group, candidate group, learning rate, gradient norm."""
    records = read_log(path)
    stride = -(-len(records) // CURVE_POINTS) or 1
    records = records[::stride]
    plans: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
        ("Total loss", {"loss": "loss"}, (figures.NEUTRAL_COLOUR,)),
        ("Seen group", _LOSS_NAMES["seen"], figures.CURVE_COLOURS),
        ("Candidate group", _LOSS_NAMES["candidate"], figures.CURVE_COLOURS),
        ("Learning rate", {"lr": "lr"}, (figures.NEUTRAL_COLOUR,)),
        ("Gradient norm", {"grad_norm": "norm"}, (figures.NEUTRAL_COLOUR,)),
    ]
    drawn = []
    for title, names, colours in plans:
        lines = {label: line for key, label in names.items() if (line := _series(records, key))[0]}
        if lines:
            smooth = title != "Learning rate"
            uri = figures.curves(lines, title=title, xlabel="step", smooth=smooth, colours=colours)
            drawn.append({"uri": uri, "alt": f"{title} over training steps: {', '.join(lines)}"})
    return drawn


def _matching(path: Path) -> dict[str, Any] | None:
    """Draw how the queries of both groups were matched over training."""
    records = read_log(path)
    maps: dict[str, tuple[list[float], npt.NDArray[np.float64]]] = {}
    for group in ("seen", "candidate"):
        counted = [record for record in records if f"{group}_queries" in record]
        if len(counted) < 2:
            continue
        counts = np.array([record[f"{group}_queries"] for record in counted], np.float64)
        counts /= np.array([[record["images"]] for record in counted], np.float64)
        columns = np.array_split(np.arange(len(counts)), min(len(counts), MAP_COLUMNS))
        steps = [float(counted[column[0]]["step"]) for column in columns[:-1]] + [float(counted[-1]["step"])]
        maps[f"{counts.shape[1]} {group} queries"] = (steps, np.stack([counts[c].mean(0) for c in columns]))
    if not maps:
        return None
    plans = {
        "IoU of matched masks": {"seen_iou": "seen", "candidate_iou": "candidate"},
        "Class score of the matched": {"seen_score": "seen: probability", "candidate_score": "candidate: cosine"},
    }
    drawn = []
    for title, names in plans.items():
        lines = {label: line for key, label in names.items() if (line := _series(records, key))[0]}
        drawn.append({"uri": figures.curves(lines, title=title, xlabel="step", smooth=True), "alt": title})
    return {"map": figures.query_maps(maps, title="Which queries are matched"), "curves": drawn}


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of the records that have `key`; null is a gap."""
    points = [(float(r["step"]), math.nan if r[key] is None else float(r[key])) for r in records if key in r]
    return [step for step, _ in points], [value for _, value in points]


def _sweep(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw the calibration sweep, when the evaluation tried more than one gamma."""
    points = extra.get("gamma_sweep") or ()
    if len(points) < 2:
        return None
    ordered = sorted(points, key=lambda point: float(point["gamma"]))
    gammas = [float(point["gamma"]) for point in ordered]
    values = {
        label: [math.nan if point[key] is None else float(point[key]) for point in ordered]
        for key, label in _SWEEP_NAMES.items()
    }
    colours = (figures.SEEN_COLOUR, figures.UNSEEN_COLOUR, "#2c8c6b")
    lines = {label: (gammas, series) for label, series in values.items()}
    return {
        "uri": figures.curves(lines, title="Percent over gamma", xlabel="gamma", markers=True, colours=colours),
        "names": list(values),
        "rows": [(gamma, [values[label][index] for label in values]) for index, gamma in enumerate(gammas)],
        "used": extra.get("gamma"),
    }


# --- examples ---------------------------------------------------------------------------------------------------------


def choose_examples(images: Sequence[Mapping[str, Any]], unseen: Iterable[int], count: int) -> list[str]:
    """Choose validation images to show: deterministic, spread out, every unseen class first.

    While an unseen class is not shown yet, the image with the most such classes is taken; then images with unseen
    classes, then the others. Among equals the one farthest from all chosen ones in sorted order wins (choice).

    Args:
        images: entries of `val.json`, each with `id` and `classes` (raw ids).
        unseen: raw ids that count as unseen.
        count: how many to choose; fewer when there are not as many.

    Returns:
        Ids in sorted order.
    """
    entries = sorted(images, key=lambda entry: str(entry["id"]))
    members = [set(entry["classes"]) & set(unseen) for entry in entries]
    missing = set().union(*members)
    distance = np.full(len(entries), float(len(entries)))
    free = set(range(len(entries)))
    while free and len(entries) - len(free) < count:
        best = max(free, key=lambda i: (len(members[i] & missing), bool(members[i]), distance[i], -i))
        free.remove(best)
        missing -= members[best]
        distance = np.minimum(distance, np.abs(np.arange(len(entries)) - best))
    return [str(entry["id"]) for index, entry in enumerate(entries) if index not in free]


def _examples(ctx: StageContext, rows: Sequence[ClassRow], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Draw validation images, in the given order."""
    source = open_source(ctx.config.data, ctx.data_root)
    examples = []
    for done, image_id in enumerate(chosen):
        ctx.progress(done, len(chosen))
        examples.append(_example(ctx, source, image_id, rows))
    ctx.progress(len(chosen), len(chosen))
    return examples


def _example(ctx: StageContext, source: Any, image_id: str, rows: Sequence[ClassRow]) -> dict[str, Any]:
    """Draw the four pictures of one validation image and count its pixels."""
    from split_matching.stages.candidates.pseudo_masks import cluster, clustered_field
    from split_matching.stages.data.images import read_all_labels, read_image

    ids = [row.id for row in rows]
    image = read_image(source.image_path(image_id))
    truth = _signed(read_all_labels(source, image_id, ids), len(ids))
    prediction = _signed(ctx.inputs["evaluate"].shards("val").read(image_id, "labels"), len(ids))
    features = ctx.inputs["features"].shards("val")
    points = features.read(image_id, clustered_field(features.fields, ctx.config.pseudo_masks)).astype(np.float32)
    regions = np.asarray(cluster(points, ctx.config.pseudo_masks)).astype(np.int32) - 1  # 0 is none -> -1

    small = figures.resize_image(image, PANEL_SIDE)
    colours = figures.palette(len(ids))
    hatched = np.array([row.group == "unseen" for row in rows])
    faded = np.where(truth == _NOWHERE, 0.35, 1.0)
    number = int(regions.max()) + 1
    pictures = [
        ("image", small),
        ("pseudo mask", figures.overlay(small, regions, figures.palette(number, muted=True), alpha=0.5, none=_NOWHERE)),
        ("truth", figures.overlay(small, truth, colours, none=_NOWHERE, hatched=hatched)),
        ("prediction", figures.overlay(small, prediction, colours, none=_NOWHERE, hatched=hatched, weight=faded)),
    ]
    labelled = truth != _NOWHERE
    correct = float((truth == prediction)[labelled].mean()) if labelled.any() else math.nan
    notes = {"pseudo mask": f"{number} region{'' if number == 1 else 's'}"}
    if labelled.any():
        notes["prediction"] = f"{100 * correct:.0f} % right"
    return {
        "id": image_id,
        "width": small.shape[1],
        "height": small.shape[0],
        "pictures": [
            {"name": name, "uri": figures.jpeg_data_uri(picture), "note": notes.get(name, "")}
            for name, picture in pictures
        ],
        "chips": _chips(truth, prediction, rows),
    }


def _signed(labels: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int32]:
    """Return a label map as int32 with -1 wherever it holds no class index."""
    wide = labels.astype(np.int32)
    wide[wide >= classes] = _NOWHERE
    return wide


def _chips(
    truth: npt.NDArray[np.int32], prediction: npt.NDArray[np.int32], rows: Sequence[ClassRow]
) -> list[dict[str, Any]]:
    """Return the classes of one image with their IoU in it, those of the truth first, then wrongly predicted ones."""
    labelled = truth != _NOWHERE
    true, predicted = truth[labelled], prediction[labelled]
    chips = []
    for index, row in enumerate(rows):
        in_truth, in_prediction = true == index, predicted == index
        present = bool(in_truth.any())
        if present or in_prediction.sum() > _MIN_SHARE * max(1, len(true)):
            union = int((in_truth | in_prediction).sum())
            iou = 100.0 * int((in_truth & in_prediction).sum()) / union
            chips.append({"row": row, "present": present, "iou": iou, "pixels": union})
    return sorted(chips, key=lambda chip: (not chip["present"], -chip["pixels"], chip["row"].id))


# --- provenance -------------------------------------------------------------------------------------------------------


def _summaries(inputs: Mapping[str, Artifact], slugs: Sequence[str]) -> list[dict[str, Any]]:
    """Return what some stages found out, where their manifests say more than how much was done."""
    found = []
    for slug in slugs:
        summary = inputs[slug].manifest.get("summary") or {} if slug in inputs else {}
        if set(summary) - {"images", "shards"}:
            found.append({"name": slug.replace("_", " "), "values": _words(summary)})
    return found


def _words(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(str(key).replace("_", " "), value) for key, value in values.items()]


def _stages(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return key, time, config and summary of every upstream artifact, in order of creation where that is known."""
    ordered = sorted(
        inputs.values(), key=lambda artifact: (format_time(artifact.manifest.get("created")), artifact.slug)
    )
    seconds = [float(artifact.manifest.get("seconds") or 0.0) for artifact in ordered]
    longest = max(seconds, default=0.0) or 1.0
    return [
        {
            "name": artifact.manifest.get("stage", artifact.slug),
            "slug": artifact.slug,
            "key": str(artifact.manifest.get("key", artifact.key)),
            "seconds": spent,
            "share": 100 * spent / longest,
            "created": format_time(artifact.manifest.get("created")),
            "summary": _words(artifact.manifest.get("summary") or {}),
            "config": json.dumps(artifact.manifest.get("config") or {}, indent=1, sort_keys=True, ensure_ascii=False),
        }
        for artifact, spent in zip(ordered, seconds, strict=True)
    ]


def _versions(inputs: Mapping[str, Artifact]) -> list[tuple[str, str]]:
    """Return every package version that the manifests name; several values where stages ran under different ones."""
    found: dict[str, set[str]] = {}
    for artifact in inputs.values():
        for name, version in (artifact.manifest.get("versions") or {}).items():
            found.setdefault(str(name), set()).add(str(version))
    return [(name, ", ".join(sorted(versions))) for name, versions in sorted(found.items())]
