"""A sheet of a validation image's prediction beside its truth."""

from __future__ import annotations

from split_matching.stages.data.image_ids import check_ids_exist
from split_matching.stages.data.images import read_image
from split_matching.stages.data.source import open_source
from split_matching.stages.ground.context import StageContext
from split_matching.stages.pages.class_scores import (
    colours_of,
    draw_classes,
    mark_unlabelled,
    mark_unseen,
    read_class_scores,
    read_truth,
)
from split_matching.stages.pages.overlays import NO_LABEL, scale_to_side
from split_matching.stages.pages.sheets.sheet import PANEL_SIDE, Sheet, SheetRow, format_area
from split_matching.stages.pages.sheets.sources import States, describe_sources


def build_prediction_sheet(ctx: StageContext, image_id: str, states: States) -> Sheet:
    """Truth and prediction of a validation image, with the IoU of every class in it."""
    predictions = ctx.inputs["evaluate"].shards("val")
    check_ids_exist([image_id], predictions.ids, "validation images")
    classes = read_class_scores(ctx.inputs["evaluate"].file("per_class.csv"))
    source = open_source(ctx.config.data, ctx.data_root)
    truth = read_truth(source, image_id, classes)
    predicted = mark_unlabelled(predictions.read(image_id, "labels"), classes)
    image = scale_to_side(read_image(source.image_path(image_id)), PANEL_SIDE)
    panels = [
        (name, draw_classes(image, labels, classes)) for name, labels in (("truth", truth), ("prediction", predicted))
    ]
    colours, unseen = colours_of(classes), mark_unseen(classes)
    labelled = truth != NO_LABEL
    rows = []
    for index, row in enumerate(classes):
        true, painted = truth == index, predicted == index
        here = painted & labelled
        union = int((true | here).sum())
        if union or painted.any():
            iou = f"{100 * (true & here).sum() / union:.1f}" if union else "-"
            cells = (row.name, row.group, format_area(true), format_area(painted), iou)
            rows.append((union, int(painted.sum()), SheetRow(cells, colours[index], hatched=bool(unseen[index]))))
    rows.sort(key=lambda found: (-found[0], -found[1]))
    right = f", {(truth == predicted)[labelled].mean():.0%} of the labelled pixels right" if labelled.any() else ""
    return Sheet(
        f"{image_id}: prediction{right}",
        (("image", image), *panels),
        ("class", "group", "truth", "prediction", "IoU"),
        tuple(row for *_, row in rows),
        (
            "hatched: unseen classes; pixels without a label have no truth and count for no IoU",
            *describe_sources(ctx.inputs, ("evaluate", "train", "features"), states),
        ),
    )
