"""Bilinear resampling of maps, some rows of the result at a time.

`F.interpolate` makes whole maps: 33 GB for the scores of 171 classes at 6000 x 8000 pixels. A strip of rows stays in
the processor's cache, and has the same values whatever the number of threads: to the last bit those of `F.interpolate`
on x86 processors, if that has two threads or more, and height and width are together more than 128. Else torch has
another kernel, which rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Height and width."""

Strip = Callable[[Tensor], Tensor]
"""From whole maps (N, h, w) to some rows of the resampled ones, (N, rows, W)."""


class Resampling:
    """Bilinear resampling between two sizes, with half-pixel centres.

    Args:
        have: of the maps.
        want: of the result.
        device: of the maps.
    """

    def __init__(self, have: Size, want: Size, device: torch.device) -> None:
        self.have, self.want = have, want
        # what each row of the result takes of each row of the map; torch says it, so that both round alike
        shares = F.interpolate(torch.eye(have[0])[None], want[0], mode="linear", align_corners=False)[0].T
        upper = (shares != 0).to(torch.uint8).argmax(1)
        lower = (upper + 1).clamp(max=have[0] - 1)
        self.rows = (upper.tolist(), lower.tolist())
        self.upper, self.lower = upper.to(device), lower.to(device)
        self.upper_share = shares.gather(1, upper[:, None]).to(device)
        self.lower_share = (shares.gather(1, lower[:, None]) * (lower > upper)[:, None]).to(device)

    def strips(self, pixels: int) -> Iterator[tuple[slice, Strip]]:
        """Cut the result into strips of whole rows.

        Args:
            pixels: most in a strip of more than one row. Changes no value.

        Yields:
            Which rows, and the function that makes them.
        """
        rows = max(1, pixels // self.want[1])
        for first in range(0, self.want[0], rows):
            part = slice(first, min(first + rows, self.want[0]))
            yield part, self._strip(part)

    def _strip(self, part: slice) -> Strip:
        if self.have[0] == self.want[0]:
            return lambda maps: self._along_rows(maps[:, part])
        first, last = self.rows[0][part.start], self.rows[1][part.stop - 1]
        upper, lower = self.upper[part] - first, self.lower[part] - first
        upper_share, lower_share = self.upper_share[part], self.lower_share[part]

        def make(maps: Tensor) -> Tensor:
            wide = self._along_rows(maps[:, first : last + 1])
            # the second product is rounded and the first is not, as in torch's own kernel
            return wide.index_select(1, lower).mul_(lower_share).addcmul_(wide.index_select(1, upper), upper_share)

        return make

    def _along_rows(self, maps: Tensor) -> Tensor:
        """Resample rows to the wanted width. (N, rows, w) -> (N, rows, W)."""
        if self.have[1] == self.want[1]:
            return maps
        return F.interpolate(maps, self.want[1], mode="linear", align_corners=False)
