"""What a terminal and a log show of the stages that run, on a small terminal made by hand."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import pytest

from split_matching.pipeline.run import progress
from split_matching.pipeline.run.progress import ProgressDisplay
from split_matching.pipeline.run.progress_line import describe_line

TRAINING = {"images/s": 98.3, "lr": 0.001072, "loss": 4.312, "seen": 2.204, "pseudo": 2.108, "seen_class": 0.3012}


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and the screen that one would show."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError  # so that rich asks COLUMNS

    def screen(self, columns: int = 80) -> list[str]:
        rows, y, x = [""], 0, 0
        for arguments, command, sign in re.findall(r"\x1b\[([\d;]*)([A-Za-z])|([^\x1b])", self.getvalue()):
            if command == "A":
                y -= int(arguments or 1)
            elif command == "J":
                rows = [*rows[:y], rows[y][:x]]
            elif sign == "\r":
                x = 0
            elif sign == "\n":
                y, x = y + 1, 0
                rows += [""] * (y + 1 - len(rows))
            elif sign:
                assert x < columns, "a line is wider than the terminal"
                rows[y] = rows[y][:x].ljust(x) + sign + rows[y][x + 1 :]
                x += 1
            else:
                assert command == "m", command
        return [row.rstrip() for row in rows]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    return Terminal()


def display_on(stream: io.StringIO, quiet: bool = False) -> ProgressDisplay:
    return ProgressDisplay(["Cluster", "EmbedText", "TrainDecoder"], ["images", "classes", "steps"], stream, quiet)


def test_stages_at_the_same_time_have_a_line_each(terminal: Terminal) -> None:
    display = display_on(terminal)
    display.start("Cluster", 200, 100, slots=2)
    display.start("EmbedText")
    first, second, text = display.counter("Cluster", 0), display.counter("Cluster", 1), display.counter("EmbedText")
    first(20, 50)
    second(30, 50)
    text(1, 4)
    lines = terminal.screen()
    assert lines[:2] == ["Cluster: 200 images, 100 done before, stage 1 of 3", "EmbedText: started, stage 2 of 3"]
    assert re.fullmatch(r"Cluster   ━{22}─{8} 75% \S+ left \d+ img/s", lines[2])
    assert re.fullmatch(r"EmbedText ━{7}─{23} 25% \S+ left \d+ classes/s", lines[3]) and len(lines) == 4
    display.end("Cluster")
    lines = terminal.screen()
    assert re.fullmatch(r"Cluster: 200 images in \d\.\d+ s", lines[2])
    assert lines[3].startswith("EmbedText ") and len(lines) == 4
    display.end("EmbedText")
    assert terminal.screen()[4:] == [""] and terminal.screen()[3].startswith("EmbedText: 4 classes in ")


def test_other_processes_draw_what_all_do(terminal: Terminal) -> None:
    display = display_on(terminal)
    display.start("Cluster", 100, slots=2)
    for slot in range(2):
        pid = os.fork()
        if not pid:
            display.counter("Cluster", slot)(20, 50)
            os._exit(0)
        os.waitpid(pid, 0)
    display.counter("Cluster", 0)(20, 50)
    assert " 40% " in terminal.screen()[-1]


@pytest.mark.parametrize(
    ("columns", "shown"), [("80", "pseudo 2.11"), ("120", "seen_class 0.301"), ("60", "loss 4.31")]
)
def test_training_is_one_line_of_any_terminal(
    terminal: Terminal, columns: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    display = display_on(terminal)
    display.start("TrainDecoder", 2400)
    display.note("TrainDecoder", 619, TRAINING)
    display.counter("TrainDecoder")(620, 2400)
    [_, line] = terminal.screen(int(columns))
    assert len(line) < int(columns) and shown in line
    if columns == "80":
        assert re.fullmatch(r"TrainDecoder 25% \S+ left 98 img/s lr 0\.0011 loss 4\.31 seen 2\.2 pseudo 2\.11", line)


def test_one_run_of_several_writes_labelled_lines_a_minute_apart(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**9]
    monkeypatch.setattr(progress.time, "monotonic_ns", lambda: now[0])
    display = ProgressDisplay(["TrainDecoder"], ["steps"], terminal, label="single, seed 1")
    display.start("TrainDecoder", 100)
    count = display.counter("TrainDecoder")
    for second in range(1, 100):
        now[0] = (1 + second) * 10**9
        count(second, 100)
    assert terminal.getvalue().splitlines() == [
        "single, seed 1: TrainDecoder: 100 steps",
        "single, seed 1: TrainDecoder: 60/100 (60 %), 1 steps/s, 40.0 s left",
    ]


def test_a_resumed_training_has_the_rate_of_this_run(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**9]
    monkeypatch.setattr(progress.time, "monotonic_ns", lambda: now[0])
    display = ProgressDisplay(["TrainDecoder"], ["steps"], terminal, label="single")
    display.start("TrainDecoder", 1000)
    for second in range(1, 61):
        now[0] = (1 + second) * 10**9
        display.counter("TrainDecoder")(500 + second, 1000)
    last = terminal.getvalue().splitlines()[-1]
    assert last == "single: TrainDecoder: 560/1000 (56 %), 1 steps/s, 7 min 20 s left"


def test_what_stays_is_above_what_moves(terminal: Terminal) -> None:
    display = display_on(terminal)
    display.start("TrainDecoder", 10)
    display.counter("TrainDecoder")(4, 10)
    display.note("TrainDecoder", 4, {"held_out_mIoU": 61.2345})
    lines = terminal.screen()
    assert lines[1] == "TrainDecoder: step 4, held_out_mIoU 61.23" and " 40% " in lines[2]
    display.clear()
    assert terminal.screen()[2:] == [""]


def test_colour_is_left_out_on_request(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> set[str]:
        display = display_on(terminal)
        display.start("Cluster", 10)
        display.counter("Cluster")(4, 10)
        return set(re.findall(r"\x1b\[[\d;]*3\d[\d;]*m", terminal.getvalue()))

    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()
    monkeypatch.delenv("NO_COLOR")
    assert colours()


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_elsewhere_a_line_now_and_then(
    kind: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO() if kind == "pipe" else terminal
    clock = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock[0] + 1)
    display = display_on(stream)
    display.start("TrainDecoder", 100)
    display.note("TrainDecoder", 0, TRAINING)
    for step in range(1, 26):
        clock[0] += 1_000_000_000
        display.counter("TrainDecoder")(step, 100)
    counts = ("10/100 (10 %), 98 images/s, 1 min 30 s left", "20/100 (20 %), 98 images/s, 1 min 20 s left")
    shown = [f"TrainDecoder: {count}, lr 0.001072, loss 4.312, seen 2.204, pseudo 2.108" for count in counts]
    assert stream.getvalue().splitlines() == ["TrainDecoder: 100 steps, stage 3 of 3", *shown]
    assert caplog.messages[1:] == [f"{line}, seen_class 0.3012" for line in shown]  # the log file has all numbers


def test_quiet_shows_nothing_and_the_log_has_all(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress.LOGGER, "info", lines.append)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    display = display_on(terminal, quiet=True)
    display.start("Cluster", 10)
    display.counter("Cluster")(4, 10)
    display.end("Cluster")
    assert terminal.getvalue() == ""
    assert [line.split(",")[0] for line in lines][:2] == ["Cluster: 10 images", "Cluster: 4/10 (40 %)"]


def test_a_line_in_words() -> None:
    assert describe_line("A", "images", 5, 0, 2.0, {}) == "A: 5/0, 2 images/s"
    assert describe_line("A", "images", 5, 10, 0.5, {}) == "A: 5/10 (50 %), 0.5 images/s, 10.0 s left"


def test_one_is_singular() -> None:
    stream = io.StringIO()
    display = display_on(stream)
    for name, total in (("Cluster", 1), ("EmbedText", 1), ("TrainDecoder", 2)):
        display.start(name, total)
    assert [line.split(": ")[1].split(",")[0] for line in stream.getvalue().splitlines()] == [
        "1 image",
        "1 class",
        "2 steps",
    ]


def test_the_lock_is_closed_with_its_display() -> None:
    """With -W error::ResourceWarning the interpreter complains otherwise."""
    display = ProgressDisplay(["TrainDecoder"], ["steps"], io.StringIO())
    display.say("a line")
    handle = display._lock
    assert "progress" in str(Path(f"/proc/self/fd/{handle}").readlink())
    del display
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
