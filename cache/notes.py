"""Names and notes that a user gives to results.

    artifacts/<dataset>/notes/<key16>.json

They lie beside the artifacts, not in them: they change no result, make nothing stale, and stay when what they are about
is removed. If that is made again, it has its name again. They may be edited by hand: they have no digest.
Source: choice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from split_matching.cache.disk_errors import explain_disk_errors, explain_read_error
from split_matching.cache.entry import KEY_LENGTH
from split_matching.cache.files import atomic_write, parse_json, read_regular
from split_matching.cache.locks import lock_file
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
    """Return the note of a result; an empty one if there is none. Signs that no terminal should get are replaced.

    Raises:
        CorruptError: it is no note.
        UserError: it cannot be read.
    """
    path = _place(root, dataset, key)
    try:
        fields = parse_json(read_regular(path))
        return Note(_shown(fields.get("name", "")), _shown(fields.get("text", ""), "\n"))
    except FileNotFoundError:
        return Note()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, OSError) and (explained := explain_read_error(error, path)):
            raise explained from None
        wanted = '{"name": "...", "text": "..."}'
        raise CorruptError(f"{path} is no note: expected {wanted}; correct it, or remove it") from None


def change_note(root: Path, dataset: str, key: str, **changes: str) -> Note:
    """Change the name or text of the note of a result, and return it; an empty note is removed.

    Args:
        root: of the cache.
        dataset: name of the folder below it.
        key: of the result, which need not be there yet.
        changes: `name`, `text`, or both.

    Raises:
        CorruptError: the note of before is none.
        UserError: the cache cannot be written.
    """
    path = _place(root, dataset, key)
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # another process may change the rest of the note at the same time
    with lock_file(path.with_name(".lock")), explain_disk_errors(path):
        note = replace(read_note(root, dataset, key), **changes)
        note = Note(_shown(note.name), _shown(note.text, "\n"))
        if note == Note():
            path.unlink(missing_ok=True)
        else:
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(asdict(note), indent=1, ensure_ascii=False), encoding="utf-8")
    return note


def _shown(text: str, more: str = "") -> str:
    """Return a text with all signs replaced that are not printable, but for some more."""
    return "".join(sign if sign.isprintable() or sign in more else "\ufffd" for sign in text)


def list_notes(root: Path) -> set[tuple[str, str]]:
    """Return the data set and the first digits of the key, as in the names of folders, of all results with a note."""
    return {(path.parts[-3], path.stem) for path in root.glob(f"*/{FOLDER}/*.json")}


def _place(root: Path, dataset: str, key: str) -> Path:
    return root / dataset / FOLDER / f"{key[:KEY_LENGTH]}.json"
