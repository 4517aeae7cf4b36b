"""PretrainClip: train a small CLIP on rendered scenes and their captions, as CLIP was trained on images of the web.

Captions name all classes, seen and unseen alike: CLIP knows the words of all classes, and no mask of any. The result is
a plain file of open_clip weights, and is loaded as OpenAI's weights are. Scenes are rendered fresh at every step, so no
scene is seen twice. Source: choice (the pipeline must run without a download).
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from split_matching.configs.data_settings import PretrainConfig
from split_matching.configs.settings import ClipConfig
from split_matching.model.clip import FrozenClip
from split_matching.model.clip_weights import create_open_clip
from split_matching.stages.data.shapes import COLOURS, PATTERNS, Scene, Thing, render_scene, scene_rng
from split_matching.stages.ground.context import StageContext
from split_matching.stages.ground.tensor_files import write_tensors
from split_matching.stages.training.checkpoint import Checkpoints, Stateful, restore_checkpoint

CROPS = 2  # of a rendered scene: rendering costs as much as a training step's forward pass
LEADS = ("a photo of {}.", "{}.", "a picture of {}.", "an image with {}.")
LOG = "log.jsonl"
CHECKPOINT_EVERY = 100
PROBE_TEMPLATE = "a photo of a {} object."


def caption(things: list[Thing], rng: np.random.Generator) -> str:
    """Describe objects in random order, e.g. "a photo of a red striped star and a blue dotted object."."""
    parts = []
    for index in rng.permutation(len(things)):
        thing = things[index]
        noun = thing.outline if rng.random() < 0.5 else "object"
        parts.append(f"a {thing.colour} {thing.pattern} {noun}")
    text = " and ".join(parts) if rng.random() < 0.5 else ", ".join(parts)
    return LEADS[int(rng.integers(len(LEADS)))].format(text or "an empty ground")


def crop_scene(scene: Scene, native: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
    """Crop a random window, resize it to the native size, and caption what is visible in it.

    An object counts as visible when a third of it, or a tenth of the window, shows: nobody captions a sliver.
    """
    size = scene.image.shape[0]
    for _ in range(20):
        side = int(np.exp(rng.uniform(np.log(0.2 * size), np.log(size + 1))))
        y, x = rng.integers(0, size - side + 1, 2)
        window = scene.owner[y : y + side, x : x + side]
        inside = np.bincount(window.ravel() + 1, minlength=len(scene.things) + 1)[1:]
        whole = np.bincount(scene.owner.ravel() + 1, minlength=len(scene.things) + 1)[1:]
        shown = [t for t, n, m in zip(scene.things, inside, whole, strict=True) if n > m / 3 or n > 0.1 * side * side]
        if shown:
            break
    crop = Image.fromarray(scene.image[y : y + side, x : x + side]).resize((native, native), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop), caption(shown, rng)


def render_batch(job: tuple[PretrainConfig, int, int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Render one step's images and captions: a function of (config, native size, step) alone. (B, S, S, 3), uint8."""
    config, native, step = job
    images, captions = [], []
    for index in range(math.ceil(config.batch / CROPS)):
        rng = scene_rng(config.seed, "pretrain", step * config.batch + index)
        if rng.random() < config.single_fraction:
            scene = render_scene(rng, count=(1, 1), radius=(0.1, 0.45), plain_ground=True)
        else:
            scene = render_scene(rng)
        for _ in range(CROPS):
            image, text = crop_scene(scene, native, rng)
            images.append(image)
            captions.append(text)
    return np.stack(images[: config.batch]), captions[: config.batch]


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """CLIP's symmetric cross entropy; equal captions in a batch are positives of each other, not negatives.

    Args:
        image: unit length. Shape: (B, D).
        text: unit length. Shape: (B, D).
        scale: logit scale, a scalar.
        captions: the B captions.
    """
    logits = scale * image @ text.T
    order = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    label = torch.tensor([order[text] for text in captions])
    target = (label[:, None] == label[None]).float()
    target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _batches(config: PretrainConfig, native: int, start: int) -> Iterator[tuple[NDArray[np.uint8], list[str]]]:
    """Batches in order, rendered a few steps ahead by one spawned process."""
    ahead = 4
    ignoring = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and this one ends with its parent
    with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, ignoring) as pool:
        jobs = [pool.submit(render_batch, (config, native, s)) for s in range(start, min(start + ahead, config.steps))]
        for step in range(start, config.steps):
            batch = jobs.pop(0).result()
            if step + ahead < config.steps:
                jobs.append(pool.submit(render_batch, (config, native, step + ahead)))
            yield batch


def probe(clip: FrozenClip, scenes: int, seed: int = 0) -> float:
    """Zero-shot top-1 accuracy on fresh scenes of the data set's size with one object, resized as CLIP resizes.

    Args:
        clip: model to probe.
        scenes: how many scenes of fresh seeds to render.
        seed: seed of the scenes.

    Returns:
        Accuracy in 0..1, over all 24 names, on scenes of all classes.
    """
    names = [f"{colour} {pattern}" for colour in COLOURS for pattern in PATTERNS]
    text = clip.encode_classes(names, [PROBE_TEMPLATE])
    hits = 0
    for index in range(scenes):
        scene = render_scene(scene_rng(seed, "probe", index), count=(1, 1), radius=(0.2, 0.45))
        image = clip.preprocess(scene.image, clip.native, clip.native)[None]
        hits += int((clip.encode_image(image).cpu() @ text.T).argmax()) == scene.things[0].kind
    return hits / scenes


def run(ctx: StageContext) -> dict[str, float | int | str]:
    """Train and write `clip.safetensors` (float16) and `log.jsonl`."""
    config: PretrainConfig = ctx.config.pretrain
    clip = ClipConfig(model=ctx.config.clip.model, weights="random", seed=config.seed)
    frozen = FrozenClip(clip)  # for tokenizer and preprocessing constants
    model = create_open_clip(clip).train()
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=config.lr,
        betas=(0.9, 0.98),
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (frozen.mean, frozen.std))
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer}
    start = restore_checkpoint(ctx.out, parts, "cpu", ctx.say)
    checkpoints = Checkpoints(ctx.out, parts, CHECKPOINT_EVERY, config.steps)
    with (ctx.out / LOG).open("a", encoding="utf-8") as log, checkpoints:
        for step, (images, captions) in enumerate(_batches(config, frozen.native, start), start):
            rate = config.lr * min(1, (step + 1) / max(1, config.warmup))
            rate *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
            image = F.normalize(model.encode_image(pixels), dim=-1)
            text = F.normalize(model.encode_text(frozen.tokenizer(captions)), dim=-1)
            loss = contrastive_loss(image, text, model.logit_scale.exp(), captions)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.logit_scale.data.clamp_(0, math.log(100))
            if step % 50 == 0 or step == config.steps - 1:
                numbers = {"loss": round(loss.item(), 5), "lr": rate}
                log.write(json.dumps({"step": step, **numbers}) + "\n")
                log.flush()
                ctx.report(step, numbers)
            checkpoints.step_done(step + 1)
            ctx.progress(step + 1, config.steps)
    state = {name: value.half() for name, value in model.state_dict().items()}
    write_tensors(ctx.out / "clip.safetensors", state)
    return {"zero_shot_top1": probe(FrozenClip(clip, weights=ctx.out / "clip.safetensors"), 480)}
