"""Names and notes that a user gives to results.

    artifacts/<dataset>/notes/<key16>.json

They lie beside the artifacts, not in them: they change no result, make nothing stale, and stay when `gc` removes what
they are about. If that is made again, it has its name again. Source: choice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.files import read_json, write_json

FOLDER = "notes"


@dataclass(frozen=True)
class Note:
    """What a user says of a result.

    Args:
        name: what it is called; "" for nothing.
        text: any remark.
    """

    name: str = ""
    text: str = ""


def read_note(root: Path, dataset: str, key: str) -> Note:
    """Return the note of a result; an empty one if there is none, or if it cannot be read."""
    value = read_json(_place(root, dataset, key))
    fields = value if isinstance(value, dict) else {}
    return Note(str(fields.get("name", "")), str(fields.get("text", "")))


def write_note(root: Path, dataset: str, key: str, note: Note) -> None:
    """Keep the note of a result, in place of an earlier one; an empty one is removed.

    Args:
        root: of the cache.
        dataset: name of the folder below it.
        key: of the result, which need not be there yet.
        note: what to keep.

    Raises:
        UserError: the cache cannot be written.
    """
    path = _place(root, dataset, key)
    with explain_disk_errors(path):
        if note == Note():
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(note))


def _place(root: Path, dataset: str, key: str) -> Path:
    return root / dataset / FOLDER / f"{key[:KEY_LENGTH]}.json"
