"""What a training changes, and how: the decoder, the criterion and the optimizer.

Source: AdamW, clipped gradients and mixed precision as Mask2Former has them; the rest is choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from split_matching.configs.settings import TrainConfig
from split_matching.model.criterion import SplitCriterion, Targets
from split_matching.model.match_statistics import match_statistics
from split_matching.model.precision import decoder_dtype, in_dtype
from split_matching.model.process_group import ProcessGroup
from split_matching.model.query_decoder import LayerOutputs, QueryDecoder
from split_matching.stages.training.batches import Batch
from split_matching.stages.training.checkpoint import Stateful

Encoder = Callable[[Tensor, Tensor, Tensor | None, Sequence[tuple[int, int]]], list[Tensor]]
"""Token maps of a batch from its patches, validity, prompts and grids, see TokenEncoder; cached features need none."""


class Learner:
    """A decoder that learns from batches, by the split criterion.

    Args:
        config: the whole config; `decoder`, `features` and `train` are read.
        width: channels of every token map.
        text: text embeddings of the seen classes, unit length. Shape: (C, D).
        scale: CLIP's logit scale.
        group: processes that share every batch.
        device: "cpu" or "cuda".
        encoder: makes the token maps of a batch from its images' patches; None: batches hold token maps.

    Attributes:
        model: the decoder; its initial weights depend on `train.seed` alone.
        criterion: matches its outputs and gives the loss.
        parts: what a checkpoint keeps, by name.
    """

    def __init__(
        self,
        config: Any,
        width: int,
        text: Tensor,
        scale: float,
        group: ProcessGroup,
        device: str,
        encoder: Encoder | None,
    ) -> None:
        train: TrainConfig = config.train
        self.model = build_decoder(config, width, text.shape[1]).to(device)
        self.criterion = SplitCriterion(train, config.decoder, text, scale, group).to(device)
        self._optimizer = torch.optim.AdamW(_parameter_groups(self.model, train), lr=train.lr, fused=True)
        self._dtype = decoder_dtype(train.precision, device)
        self._scaler = torch.amp.GradScaler(device, enabled=self._dtype == torch.float16)
        self._group, self._encoder, self._clip_grad = group, encoder, train.clip_grad
        self.parts: dict[str, Stateful] = {"model": self.model, "optimizer": self._optimizer, "scaler": self._scaler}

    def predict(self, batch: Batch) -> LayerOutputs:
        """Predictions of every layer in float32, whatever the precision of the decoder's products.

        The encoder has CLIP's own precision.
        """
        maps = batch.tokens
        if self._encoder:
            maps = self._encoder(batch.tokens[0].float(), batch.valid, self.model.prompts, batch.grids)
        with in_dtype(self._dtype, batch.valid.device.type):
            outputs: LayerOutputs = self.model(maps, batch.valid)
            return outputs.float32()

    def update(self, loss: Tensor, rate: float) -> Tensor:
        """Take one step of the optimizer.

        Args:
            loss: of this process's share of the batch, a scalar.
            rate: the learning rate.

        Returns:
            The norm of all gradients before they are clipped, a scalar.
        """
        for parameter_group in self._optimizer.param_groups:
            parameter_group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._group.sum_gradients(self.model.parameters())
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_grad)
        self._scaler.step(self._optimizer)  # in float16 a step that overflows is left out, and the scale is lowered
        self._scaler.update()
        return norm

    @torch.no_grad()
    def describe_matching(self, outputs: LayerOutputs, targets: Targets) -> dict[str, float | list[int]]:
        """How the last layer was matched, see match_statistics."""
        last = outputs.last()
        return match_statistics(self.criterion.match(last, targets), last, targets)


def build_decoder(config: Any, width: int, dim: int) -> QueryDecoder:
    """Make a decoder whose initial weights depend on `train.seed` alone; see QueryDecoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return QueryDecoder(config.decoder, config.features.decoder_blocks, width, dim)


def _parameter_groups(model: QueryDecoder, config: TrainConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on biases, norms, queries and prompts."""
    free = {"queries", "query_positions", "prompts"}
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if p.ndim > 1 and n not in free], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if p.ndim <= 1 or n in free], "weight_decay": 0.0},
    ]
