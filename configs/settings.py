"""Every setting but those of the data, defined once: its type, its range, its default and what it does.

A field marked `RUNTIME` says where or how fast something runs, never what comes out: it enters no cache key, so that
changing it reruns nothing. All other fields are semantic and enter the key of each stage that reads them. A field that
you add is marked `added(neutral=...)`, so that earlier results keep their keys: see `configs.section`.

Sources: "paper" is arXiv 2505.05023; "choice" is ours, because the paper's text was not at hand.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from split_matching.configs.clusterings import find_clustering
from split_matching.configs.section import DECODER_IDENTITY, IDENTITY, RUNTIME, Section, added

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class ClipConfig(Section):
    """The frozen CLIP: an open_clip architecture and its weights."""

    model: str = Field("ViT-B-16", description="open_clip name, or the name of a JSON file in configs/clip/.")
    weights: str = Field(
        "openai",
        description="An open_clip pretrained tag, a local file, `bundled`, `pretrain` (the PretrainClip stage's "
        "result) or `random` (plumbing only: results mean nothing).",
        json_schema_extra=IDENTITY,
    )
    quick_gelu: bool | Literal["auto"] = Field(
        "auto",
        description="Activation that the weights were trained with: auto knows tags, OpenAI's files and architectures "
        "with one activation only, and asks otherwise.",
    )
    seed: NonNegative = Field(0, description="Seed of `weights: random`.", json_schema_extra=IDENTITY)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of the image tower's products; sums, norms and results stay float32. bfloat16 is for GPUs that "
        "multiply faster in it; features of `shapes` then differ by 0.3 % of their length (median, on a CPU).",
    )


class TextConfig(Section):
    """Prompts: one template, or an ensemble whose embeddings are averaged and normalised again."""

    templates: tuple[str, ...] = Field(("a photo of a {}.",), min_length=1, description="`{}` takes the class name.")
    prompts: bool = Field(
        True,
        description="Embed a class by the `prompts` that the class list has for it; false: by its name, as peers do.",
        json_schema_extra=added(neutral=True),
    )

    @model_validator(mode="after")
    def _has_slot(self) -> TextConfig:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} needs exactly one {{}} for the class name")
        return self


class FeaturesConfig(Section):
    """Dense CLIP features (choice: variant, block and size)."""

    size: Annotated[int, Field(ge=16)] = Field(512, description="Target length of the side named by `resize`, pixels.")
    resize: Literal["short", "long"] = Field(
        "long", description="Which side gets `size`; both are then rounded to whole patches, nothing is padded."
    )
    variant: Literal["value", "maskclip", "qq", "kk", "naclip", "sclip", "last"] = Field(
        "value",
        description="What takes the place of the last block: its values alone, MaskCLIP, self-self attention (qq is "
        "ClearCLIP), NACLIP, SCLIP, or nothing: see model/dense_variants.py. SigLIP has value only.",
    )
    decoder_blocks: tuple[NonNegative, ...] = Field(
        (3, 6, 9, 12), min_length=1, description="Blocks whose tokens the decoder reads; 1 is the first block."
    )
    shifts: Annotated[int, Field(ge=1, le=4)] = Field(
        1,
        description="For clustering: forward passes along each axis, at sub-token offsets that are stitched into one "
        "grid; 2 makes clusters twice as fine for 4 more passes an image and 4 times the features to keep.",
    )
    persist: bool = Field(
        True,
        description="Keep the features of training images. false: pseudo masks and regions are made of them on the "
        "fly, for data whose features would not fit on the disk; needs train.features online.",
    )


class PseudoMasksConfig(Section):
    """Pseudo masks: clustering the dense features of one image (paper: cluster; choice: how)."""

    method: str = Field(
        "multiscale",
        description="multiscale: seeds from sliding windows (after CLIP-ZSS); kmeans: plain k-means; or your own, see "
        "configs/clusterings.py.",
    )
    block: Positive | None = Field(
        None,
        description="Cluster the tokens of this block (one of features.decoder_blocks) instead of the dense features.",
    )
    engine: str = Field(
        "faiss",
        description="What runs the method. faiss: on the CPU, an image a thread; torch: on runtime.device, many images "
        "at once. Both give the same assignments except for ties and last bits; which is faster on a GPU was not "
        "measured.",
    )
    smooth: Fraction = Field(
        0.5, description="Weight of a cell's 3x3 neighbourhood mean against the cell itself, before clustering."
    )
    windows: tuple[Positive, ...] = Field((4, 8, 16), min_length=1, description="Window sizes of the seeds, in cells.")
    k: Annotated[int, Field(ge=1, le=250)] = Field(8, description="Clusters for `kmeans`.")
    iterations: Positive = Field(15, description="k-means iterations.")
    merge: Fraction = Field(
        0.85,
        description="lambda: clusters become one while their squared distance is at most 1 - lambda of the largest one "
        "in the image; 0 leaves hardly any, 1 merges nothing.",
    )
    tokens: Literal["all", "unannotated"] = Field(
        "all",
        description="What is clustered: all cells, from which annotated ones are taken out afterwards, or only those "
        "that are not annotated (CLIP-to-Seg).",
        json_schema_extra=added(neutral="all"),
    )
    max_annotated: Fraction = Field(
        0.5,
        description="Clusters of which a larger share is annotated are dropped, with tokens all: what is left of them "
        "are slivers of a seen thing. 1 drops none.",
        json_schema_extra=added(neutral=1.0),
    )
    min_area: Fraction = Field(0.005, description="Regions smaller than this share of the image are dropped.")
    scale: Positive = Field(2, description="Label map resolution: this many cells per side of a clustered cell.")
    seed: NonNegative = Field(0, description="Seed of plain k-means.")

    @model_validator(mode="after")
    def _clustering_exists(self) -> PseudoMasksConfig:
        find_clustering(self.method, self.engine)
        return self


class RegionsConfig(Section):
    """One CLIP embedding a region (paper: CLS tokens; choice: how)."""

    method: Literal["crop", "attention", "mean"] = Field(
        "crop",
        description="CLS of the masked crop, CLS that attends to the region only, or mean dense feature (ablation).",
    )
    expand: Annotated[float, Field(ge=1.0)] = Field(1.1, description="Crop box side over region box side.")
    blocks: Positive = Field(
        3,
        description="For `attention`: how many last blocks see only the region. If the block before them is one of "
        "features.decoder_blocks, its cached tokens save the blocks up to it (9 of ViT-B/16's 12).",
    )


class DecoderConfig(Section):
    """The query decoder (paper: queries, decoder, MFE; choice: sizes)."""

    dim: Positive = Field(256, description="Width d of the decoder.")
    layers: Positive = Field(3, description="Decoder layers.")
    heads: Positive = Field(8, description="Attention heads.")
    ffn: Positive = Field(1024, description="Hidden width of the feed-forward layers.")
    seen_queries: Positive = Field(40, description="Queries matched to annotated seen classes.")
    candidate_queries: NonNegative = Field(60, description="Queries matched to pseudo masks.")
    mfe: Literal["none", "tokens", "pixels", "layers"] = Field(
        "tokens",
        description="Multi-scale feature enhancement: of the token map before the decoder, of the finer pixel features "
        "that masks are made of, or of the token map before every decoder layer.",
    )
    mfe_scales: tuple[Positive, ...] = Field(
        (1, 2, 4),
        min_length=1,
        description="Sizes of the cells that it averages over.",
        json_schema_extra=added(neutral=[1, 2, 4]),
    )
    upsample: Positive = Field(2, description="Mask resolution over token resolution: a power of two.")
    masked_attention: bool = Field(True, description="Cross-attention looks only where the last mask was positive.")
    temperature: Annotated[float, Field(ge=1)] = Field(
        30.0, description="tau: logit scale of the seen group's class scores; larger is sharper."
    )
    prompts: NonNegative = Field(
        0,
        description="Learnt tokens in every block of the frozen CLIP (peers: 10 or 100); needs train.features online.",
    )

    def seen_group(self, matching: str) -> int:
        """Queries that learn the seen classes and "no object": single matching has this group alone."""
        return self.seen_queries + (self.candidate_queries if matching == "single" else 0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> DecoderConfig:
        if self.dim % self.heads:
            raise ValueError(f"decoder.dim {self.dim} is not a multiple of decoder.heads {self.heads}")
        if self.upsample & (self.upsample - 1):
            raise ValueError(f"decoder.upsample {self.upsample} is not a power of two")
        return self


class TrainConfig(Section):
    """Matching, losses and schedule."""

    matching: Literal["split", "single"] = Field(
        "split", description="Split matching (paper), or ordinary Hungarian matching with no-object (baseline)."
    )
    steps: Positive = Field(20000, description="Optimiser steps.")
    batch: Positive = Field(16, description="Images a step, over all processes.")
    lr: Annotated[float, Field(gt=0)] = Field(1e-4, description="Peak learning rate (AdamW).")
    min_lr: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Learning rate at the end of the decay (peers: 1e-6).", json_schema_extra=added(neutral=0.0)
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.05, description="AdamW weight decay.")
    warmup: NonNegative = Field(500, description="Linear warm-up steps.")
    poly: Annotated[float, Field(ge=0)] = Field(0.9, description="Power of the poly decay.")
    clip_grad: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest gradient norm.")
    flip: bool = Field(
        True,
        description="Mirror at random: images in the loop, or cached token maps, which a mirrored image "
        "would not quite have.",
    )
    features: Literal["cached", "online"] = Field(
        "cached", description="Token maps from the cache, or computed in the loop from augmented images."
    )
    scale_range: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.5, 2.0), description="Online: image scale over that of `features`, drawn at random; then a crop."
    )
    cat_max_ratio: Fraction = Field(
        0.75, description="Online: largest share of one seen class among the annotated pixels of a crop."
    )
    photometric: bool = Field(True, description="Online: change brightness, contrast, saturation and hue at random.")
    cost_class: Annotated[float, Field(ge=0)] = Field(2.0, description="Matching cost of the seen group's class term.")
    cost_cosine: Annotated[float, Field(ge=0)] = Field(
        2.0, description="Matching cost of the candidates' class term.", json_schema_extra=added(neutral=2.0)
    )
    cost_mask: Annotated[float, Field(ge=0)] = Field(5.0, description="Matching cost of the mask BCE.")
    cost_dice: Annotated[float, Field(ge=0)] = Field(5.0, description="Matching cost of dice.")
    cost_candidate_mask: Annotated[float, Field(ge=0)] | None = Field(
        None, description="cost_mask of the candidates; null: the same.", json_schema_extra=added(neutral=None)
    )
    cost_candidate_dice: Annotated[float, Field(ge=0)] | None = Field(
        None, description="cost_dice of the candidates; null: the same.", json_schema_extra=added(neutral=None)
    )
    loss_class: Annotated[float, Field(ge=0)] = Field(2.0, description="Weight of the seen cross entropy.")
    loss_mask: Annotated[float, Field(ge=0)] = Field(5.0, description="Weight of the mask BCE.")
    loss_dice: Annotated[float, Field(ge=0)] = Field(5.0, description="Weight of dice.")
    loss_cosine: Annotated[float, Field(ge=0)] = Field(2.0, description="Weight of 1 - cos to the region embedding.")
    loss_nce: Annotated[float, Field(ge=0)] = Field(0.5, description="Weight of InfoNCE to the region embeddings.")
    loss_quality: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="Weight of the error of the IoU that a matched candidate expects of its mask.",
        json_schema_extra=added(neutral=0.0),
    )
    nce_temperature: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Temperature of InfoNCE; null: that of CLIP, one over its logit scale."
    )
    nce_alike: Fraction = Field(
        0.85,
        description="Regions that are closer than this are not negatives of each other in InfoNCE: up to 1 - nce_alike "
        "of the largest squared distance in the batch.",
    )
    no_object: Annotated[float, Field(ge=0)] = Field(0.1, description="Weight of no-object for unmatched seen queries.")
    candidate_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of all candidate losses.")
    deep_supervision: bool = Field(True, description="Losses at every decoder layer.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the decoder's products, here and in Evaluate; losses stay float32. auto: float32 on a CPU, "
        "bfloat16 on a GPU that has it, else float16 with scaled losses. CLIP's own is clip.precision.",
        json_schema_extra=added(neutral="auto"),
    )
    checkpoint_every: Positive = Field(500, description="Steps between checkpoints.", json_schema_extra=RUNTIME)
    log_every: Positive = Field(20, description="Steps between metric lines.", json_schema_extra=RUNTIME)
    validate_every: NonNegative = Field(
        0,
        description="Steps between measurements of the seen classes on training images that are held out, after which "
        "the best weights are kept beside the last ones; 0 holds none out. See evaluate.checkpoint.",
        json_schema_extra=added(neutral=0),
    )
    validate_images: Positive = Field(
        100, description="Training images that are held out for it.", json_schema_extra=added(neutral=100)
    )
    seed: NonNegative = Field(0, description="Seed of initial weights, order, flips and augmentation.")

    @model_validator(mode="after")
    def _scales_in_order(self) -> TrainConfig:
        low, high = self.scale_range
        if low > high:
            raise ValueError(f"train.scale_range [{low}, {high}] is empty: expected the smaller scale first")
        return self

    @model_validator(mode="after")
    def _rate_decays(self) -> TrainConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"train.min_lr {self.min_lr} is above train.lr {self.lr}: expected at most as much")
        return self


class EvaluateConfig(Section):
    """Inference and metrics."""

    mode: Literal["whole", "slide"] = Field("whole", description="Whole image, or average over sliding windows.")
    window: Annotated[int, Field(ge=16)] = Field(512, description="Slide: window side, pixels of the resized image.")
    stride: Positive = Field(426, description="Slide: pixels from window to window (peers: 426).")
    short_side: Annotated[int, Field(ge=16)] | None = Field(
        None, description="Slide: short side of the resized image, pixels (peers: 512); null: resized as `features`."
    )
    checkpoint: Literal["last", "best"] = Field(
        "last",
        description="Weights of the trained decoder: after the last step, or the best of train.validate_every.",
        json_schema_extra=added(neutral="last"),
    )
    gamma: float = Field(0.0, description="Subtracted from the scores of seen classes (calibrated stacking).")
    gamma_sweep: tuple[float, ...] = Field(
        (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3), description="Other values of gamma to report beside it."
    )
    predictor: Literal["decoder", "dense", "regions"] = Field(
        "decoder",
        description="The trained decoder, or training-free CLIP: dense features or named clusters (baselines).",
    )
    trained_on: str = Field(
        "",
        description="An exported decoder, of another data set, to evaluate in place of one that is trained; "
        "--trained-on sets it with the settings of that decoder.",
        json_schema_extra=DECODER_IDENTITY,
    )
    fusion: Fraction = Field(
        0.0, description="Weight of the frozen CLIP's score of each predicted region (ZegFormer); 0 does without."
    )
    fusion_method: Literal["crop", "attention", "mean"] = Field(
        "crop",
        description="How predicted regions are embedded for fusion; as regions.method, but chosen apart from it.",
    )
    fusion_floor: Fraction = Field(0.05, description="Queries with a smaller total vote are not shown to CLIP.")
    candidate_weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Weight of the candidate group's votes against the seen group's."
    )
    candidate_temperature: Annotated[float, Field(ge=1)] | None = Field(
        None,
        description="Logit scale of the candidates' class scores, larger is sharper; null: that of CLIP, whose "
        "embeddings they learn.",
    )
    confidence: Literal["none", "mask", "quality", "both"] = Field(
        "both",
        description="Weight of a candidate's vote: 1, how sure its mask is where it is positive, the IoU that it "
        "expects (see train.loss_quality), or both.",
        json_schema_extra=added(neutral="none"),
    )

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> EvaluateConfig:
        if self.stride > self.window:
            raise ValueError(f"evaluate.stride {self.stride} leaves gaps: evaluate.window is {self.window}")
        return self


class ReportConfig(Section):
    """What the page shows."""

    examples: NonNegative = Field(12, description="Validation images in the grid.")
    worst: NonNegative = Field(12, description="Validation images with the lowest mean IoU, in a grid of their own.")
    quality_images: NonNegative = Field(
        300, description="Training images, evenly spread, on which pseudo masks are compared with the truth; 0: none."
    )
