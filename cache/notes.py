"""Names and notes that a user gives to results.

    artifacts/<dataset>/notes/<key16>.json

They lie beside the artifacts, not in them: they change no result, make nothing stale, and stay when what they are about
is removed. If that is made again, it has its name again. They may be edited by hand: they have no digest.
Source: choice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from split_matching.cache.disk_errors import explain_disk_errors
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.files import atomic_write, parse_json
from split_matching.errors import CorruptError

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
    """Return the note of a result; an empty one if there is none.

    Raises:
        CorruptError: it cannot be read.
    """
    path = _place(root, dataset, key)
    with explain_disk_errors(path):
        try:
            fields = parse_json(path.read_bytes())
            return Note(str(fields.get("name", "")), str(fields.get("text", "")))
        except FileNotFoundError:
            return Note()
        except (ValueError, AttributeError):
            wanted = '{"name": "...", "text": "..."}'
            raise CorruptError(f"{path} is no note: expected {wanted}; correct it, or remove it") from None


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
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(note), indent=1, ensure_ascii=False), encoding="utf-8")


def list_notes(root: Path) -> set[tuple[str, str]]:
    """Return the data set and the first digits of the key, as in the names of folders, of all results with a note."""
    return {(path.parts[-3], path.stem) for path in root.glob(f"*/{FOLDER}/*.json")}


def _place(root: Path, dataset: str, key: str) -> Path:
    return root / dataset / FOLDER / f"{key[:KEY_LENGTH]}.json"
