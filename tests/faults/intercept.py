"""System calls of a process and its children that fail, or are its last: seen through seccomp's user notification.

The process installs a filter that hands some calls to a listener in another process, which lets each continue, answers
with an error, or kills. So calls of C and Rust libraries are reached as well. Source: seccomp(2), seccomp_unotify(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

NUMBERS = {  # of system calls; those that a machine lacks are left out
    "x86_64": {
        **{"write": 1, "pwrite64": 18, "writev": 20, "fsync": 74, "fdatasync": 75, "ftruncate": 77},
        **{"rename": 82, "renameat": 264, "renameat2": 316},
    },
    "aarch64": {
        **{"write": 64, "pwrite64": 68, "writev": 66, "fsync": 82, "fdatasync": 83, "ftruncate": 46},
        **{"renameat": 38, "renameat2": 276},
    },
}
GROUPS = {
    "write": ("write", "pwrite64", "writev"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "renameat", "renameat2"),
}
SECCOMP = {"x86_64": 317, "aarch64": 277}
MODE_FILTER, NEW_LISTENER, NO_NEW_PRIVS = 1, 8, 38
RECEIVE, SEND, CONTINUE = 0xC0502100, 0xC0182101, 1
LOAD, EQUAL, RETURN, NOTIFY, ALLOW = 0x20, 0x15, 0x06, 0x7FC00000, 0x7FFF0000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("then", ctypes.c_ubyte), ("other", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


@dataclass(frozen=True)
class Fault:
    """What happens at one system call.

    Args:
        root: only calls on files below this folder count; a rename counts wherever it is.
        group: "write", "fsync" or "rename".
        number: the call that it happens at, from 1; 0 to count only.
        what: an error number, or 0 to kill the process group.
        lasting: whether all later calls fail as well, as on a full disk.
        log: a byte is added to this file for each call that counts, and "!" for each fault.
    """

    root: Path
    group: str
    number: int
    what: int
    lasting: bool
    log: Path


def intercept(fault: Fault) -> None:
    """Let a fault happen to this process or a child of it; leaves the process with 71 if that cannot be done."""
    here, there = socket.socketpair()
    numbers = [NUMBERS[platform.machine()][n] for n in GROUPS[fault.group] if n in NUMBERS[platform.machine()]]
    if os.fork() == 0:
        try:
            here.close()
            _, [listener], _, _ = socket.recv_fds(there, 1, 1)
            _listen(listener, fault)
        finally:
            os._exit(0)
    there.close()
    listener = _install(numbers)
    socket.send_fds(here, [b"."], [listener])
    os.close(listener)
    here.close()


def _install(numbers: list[int]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    count = len(numbers)
    tests = [_Instruction(EQUAL, count - index, 0, number) for index, number in enumerate(numbers)]
    lines = [_Instruction(LOAD, 0, 0, 0), *tests, _Instruction(RETURN, 0, 0, ALLOW), _Instruction(RETURN, 0, 0, NOTIFY)]
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(SECCOMP[platform.machine()], MODE_FILTER, NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        os._exit(71)
    return int(listener)


def _listen(listener: int, fault: Fault) -> None:
    log = os.open(fault.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0
    while True:
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, RECEIVE, request)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT):
                continue
            return
        number, pid = struct.unpack_from("<QI", request)
        argument = struct.unpack_from("<Q", request, 32)[0]
        counts = fault.group == "rename" or _is_below(fault.root, pid, argument)
        count += counts
        strikes = counts and (count == fault.number or (fault.lasting and 0 < fault.number <= count))
        if counts:
            os.write(log, b"!" if strikes else b".")
        if strikes and not fault.what:
            os.killpg(0, signal.SIGKILL)
        reply = struct.pack("<QqiI", number, 0, -fault.what, 0) if strikes else struct.pack("<QqiI", number, 0, 0, 1)
        with contextlib.suppress(OSError):  # the process has ended
            fcntl.ioctl(listener, SEND, reply)


def _is_below(root: Path, pid: int, handle: int) -> bool:
    try:
        return Path(f"/proc/{pid}/fd/{handle}").readlink().is_relative_to(root)
    except OSError:
        return False
