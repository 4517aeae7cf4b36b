"""A real Slurm of one node on loopback: its own munge, controller and node, in a folder, by this user."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
STOP_SECONDS = 20.0

CONF = """
ClusterName=one
SlurmctldHost={node}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={munge}/socket
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,requeue_delay=1
NodeName={node} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    """What Debian's slurm-wlm and munge have, and this machine has not."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=places) is None]


@contextlib.contextmanager
def one_node(folder: Path) -> Iterator[None]:
    """Run a Slurm during the block; its commands find it through the environment.

    Args:
        folder: a new one; of a short path, as that of a socket may have 107 characters only.
    """
    munge = folder / "munge"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    key = munge / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(
        CONF.format(
            node=platform.node().partition(".")[0],
            folder=folder,
            munge=munge,
            user=getpass.getuser(),
            ports=_free_ports(2),
            cores=len(os.sched_getaffinity(0)),
        )
    )
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")}
    names = {"key-file": key, "socket": munge / "socket", "pid-file": munge / "pid"}
    names |= {"log-file": munge / "log", "seed-file": munge / "seed"}
    before = dict(os.environ)
    with contextlib.ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in names.items())],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            log = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            stack.callback(_stop, process)
            _wait_for_start(command[0], environment, folder)
        os.environ.update(environment)
        try:
            yield
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, timeout=60, check=False)
            os.environ.clear()
            os.environ.update(before)


def _wait_for_start(program: str, environment: dict[str, str], folder: Path) -> None:
    """Wait until a daemon answers."""
    ready = {
        "munged": lambda: (folder / "munge" / "socket").exists(),
        "slurmctld": lambda: _output(["scontrol", "ping"], environment).count("UP") > 0,
        "slurmd": lambda: _output(["sinfo", "--noheader", "--format=%T"], environment).strip() == "idle",
    }[program]
    end = time.monotonic() + 30
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(
                f"{program} does not start: {(folder / f'{program}.log').read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.2)


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False).stdout


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]
