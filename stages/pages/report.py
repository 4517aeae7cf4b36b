"""Report: one self-contained HTML page about one run.

The page loads nothing (images are `data:` URIs, styles and the one script are inline, and a content security policy
forbids the rest), and reads on a phone and without script. Its numbers, pictures and times come from the upstream
artifacts and their manifests. Beside them it says the name and note of the run, its commands, and what differed
from the data set's config at that time: these are in no key, so two pages of equal results may differ in them. Names
from files go through the template's autoescape only; the script sees them as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from split_matching.cache.artifact import Artifact
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages import analysis
from split_matching.stages.pages.about import About, ReportContext
from split_matching.stages.pages.banners import is_foreign, list_banners
from split_matching.stages.pages.class_scores import ClassScores, read_class_scores
from split_matching.stages.pages.class_table import table_forms
from split_matching.stages.pages.confusion import build_matrix, largest_confusions, read_confused
from split_matching.stages.pages.curves import draw_matching, draw_sweep, draw_training, draw_validation
from split_matching.stages.pages.examples import choose_examples, draw_examples
from split_matching.stages.pages.formats import format_number, format_time, page_template, read_script
from split_matching.stages.pages.mask_quality import summarise_mask_quality
from split_matching.stages.pages.provenance import list_stages, list_summaries, list_versions

VALIDATION = "validation.jsonl"


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Write `report.html`.

    Reads from the config: `report`, `pseudo_masks`, `data`, `clip.weights`. Classes, their names and groups come with
    the evaluation's `per_class.csv`, in the order that the predictions count in.

    Args:
        ctx: inputs `dataset`, `features`, `pseudo_masks`, `evaluate`, `train` where a decoder is trained, and any other
            upstream artifact whose provenance should be shown.

    Returns:
        Size of the page in bytes and number of examples.

    Raises:
        CorruptError: an upstream file cannot be read as what it should be.
    """
    page = _collect(ctx)
    script, script_hash = read_script("sortable.js", "report.js")
    html = page_template("report.html.j2").render(page, script=script, script_hash=script_hash).encode("utf-8")
    (ctx.out / "report.html").write_bytes(html)
    return {"bytes": len(html), "examples": len(page["examples"])}


def _collect(ctx: StageContext) -> dict[str, Any]:
    """Return what the template shows, by its names there."""
    evaluate, train = ctx.inputs["evaluate"], ctx.inputs.get("train")
    metrics = evaluate.json("metrics.json")
    rows = read_class_scores(evaluate.file("per_class.csv"))
    unseen = [row.id for row in rows if row.group == "unseen"]
    images = ctx.inputs["dataset"].json("val.json")["images"]
    worst = analysis.find_worst_images(evaluate.file("per_image.csv"), ctx.config.report.worst)
    counts = np.load(evaluate.file("confusion.npy"), allow_pickle=False)
    confused = read_confused(evaluate.file("confused.csv"))
    chosen = choose_examples(images, unseen, ctx.config.report.examples)
    drawn = _draw_images(ctx, rows, chosen, dict(worst), largest_confusions(counts, confused))
    anchors = {example["id"]: example["anchor"] for group in reversed(drawn.values()) for example in group}
    banners = list_banners(ctx, metrics, len(unseen))
    doubtful = any(banner["kind"] in ("red", "amber") for banner in banners)
    return {
        "dataset": evaluate.manifest.get("dataset") or ctx.config.data.classes,
        "banners": banners,
        "about": ctx.about if isinstance(ctx, ReportContext) else About(),
        "made": _list_origin(evaluate.manifest),
        "command": evaluate.manifest.get("command"),
        "facts": _list_facts(ctx, metrics, rows),
        "headline": _headline(metrics),
        "groups": _group_classes(metrics, rows),
        "rows": rows,
        "boundary": metrics.get("boundary"),
        "forms": table_forms(rows),
        "curves": _draw_curves(train) if train else [],
        "matching": draw_matching(train.file("matching.jsonl")) if train else None,
        "sweep": draw_sweep(metrics.get("extra", {})),
        # published numbers are of training on this data set
        "published": None if is_foreign(metrics) else analysis.compare_with_published(ctx, metrics, doubtful),
        "confused": analysis.list_confusions(counts, rows),
        "matrix": build_matrix(counts, rows, confused, anchors),
        **drawn,
        "quality": summarise_mask_quality(ctx, rows, open_source(ctx.config.data, ctx.data_root)),
        "cost": analysis.list_costs(metrics),
        "summaries": list_summaries(ctx.inputs, ("pseudo_masks", "regions")),
        "stages": list_stages(ctx.inputs),
        "versions": list_versions(ctx.inputs),
    }


def _draw_curves(train: Artifact) -> list[dict[str, str]]:
    """Draw what the training logged, and how it was validated if it was."""
    validated = VALIDATION in train.manifest.get("files", {})
    validation = draw_validation(train.file(VALIDATION)) if validated else []
    return [*draw_training(train.file("metrics.jsonl")), *validation]


def _draw_images(
    ctx: StageContext,
    rows: Sequence[ClassScores],
    examples: Sequence[str],
    worst: Mapping[str, float],
    mistaken: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Draw images: chosen ones, the worst, and those of the largest confusions that are not among them.

    Args:
        ctx: see `run`.
        rows: the classes.
        examples: ids of the chosen ones.
        worst: mean IoU in percent of the worst ones, by id.
        mistaken: ids of those of the largest confusions.

    Returns:
        What the template shows of each, by the name of the section.
    """
    ids = [*examples, *worst, *(image_id for image_id in mistaken if image_id not in {*examples, *worst})]
    drawn = [{**example, "anchor": f"image-{place}"} for place, example in enumerate(draw_examples(ctx, rows, ids), 1)]
    first, last = len(examples), len(examples) + len(worst)
    low = [{**example, "iou": worst[example["id"]]} for example in drawn[first:last]]
    return {"examples": drawn[:first], "worst": low, "mistaken": drawn[last:]}


def _list_origin(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return key, time and commit of the evaluation as (name, value); what is not known is left out."""
    values = {
        "Key": str(manifest["key"])[:16],
        "Evaluated": format_time(manifest.get("created")),
        "Commit": str(manifest.get("commit") or "")[:12],
    }
    if str(manifest.get("commit")).endswith("-dirty"):
        values["Commit"] += ", with edits"
    return [(name, value) for name, value in values.items() if value]


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "hIoU", "value": metrics["hIoU"], "note": "harmonic mean of seen and unseen", "kind": "main"},
        {"name": "mIoU seen", "value": metrics["mIoU_seen"], "note": "classes with training masks", "kind": "seen"},
        {"name": "mIoU unseen", "value": metrics["mIoU_unseen"], "note": "never annotated", "kind": "unseen"},
        {"name": "pAcc", "value": metrics["pAcc"], "note": "correct / labelled pixels", "kind": "plain"},
    ]


def _group_classes(metrics: Mapping[str, Any], rows: Sequence[ClassScores]) -> list[dict[str, Any]]:
    """Return the classes of each group, best first and absent ones last."""
    groups = []
    for group, mean in (("seen", metrics["mIoU_seen"]), ("unseen", metrics["mIoU_unseen"])):
        members = [row for row in rows if row.group == group]
        members.sort(key=lambda row: (math.isnan(row.iou), -row.iou if not math.isnan(row.iou) else 0.0, row.id))
        if members:
            groups.append({"name": group, "mean": mean, "rows": members})
    return groups


def _list_facts(ctx: StageContext, metrics: Mapping[str, Any], rows: Sequence[ClassScores]) -> list[tuple[str, str]]:
    """Return the short facts of the page's head as (name, value)."""
    groups = ", ".join(
        f"{number} {group}" for group in ("seen", "unseen") if (number := sum(row.group == group for row in rows))
    )
    return [
        ("Classes", groups),
        ("Training images", format_number(len(ctx.inputs["dataset"].json("train.json")["images"]))),
        ("Validation images", format_number(metrics.get("images"))),
        ("Labelled pixels", format_number(metrics.get("pixels"))),
        ("CLIP weights", str(ctx.config.clip.weights)),
    ]
