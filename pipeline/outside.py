"""What a plan depends on that no stage makes: raw files and weights. Each is looked at once, when it is asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from split_matching.cache.keys import digest, file_sha256
from split_matching.configs.schema import Config
from split_matching.errors import DataError

if TYPE_CHECKING:
    from split_matching.stages.data.raw_files import Fingerprint
    from split_matching.stages.data.source import Source


class Outside:
    """The raw files and weights of one config.

    Args:
        config: the resolved config.
    """

    def __init__(self, config: Config) -> None:
        self._config = config

    @cached_property
    def source(self) -> Source:
        """The raw files."""
        from split_matching.stages.data.source import open_source

        return open_source(self._config.data, self._config.data.root)

    @cached_property
    def raw_ids(self) -> str:
        """A digest of the ids of all images."""
        return digest([self.source.ids("train"), self.source.ids("val")])

    @cached_property
    def raw_fingerprint(self) -> Fingerprint:
        """Sizes and times of the raw files."""
        return self.source.fingerprint()

    @cached_property
    def clip_identity(self) -> str:
        """Which weights CLIP has, whatever they are called; not for weights that a stage makes."""
        from split_matching.model.weights_identity import weights_identity

        return weights_identity(self._config.clip)

    @cached_property
    def decoder_identity(self) -> str:
        """SHA-256 of the exported decoder of `evaluate.trained_on`.

        Raises:
            DataError: there is no such file.
        """
        path = Path(self._config.evaluate.trained_on)
        if not path.is_file():
            raise DataError(f"evaluate.trained_on: {path}: no such file; expected an exported decoder: see `export`")
        return file_sha256(path)
