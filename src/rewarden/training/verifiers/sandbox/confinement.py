"""What may this process still do? Locks it up for good, before it reads anything foreign.

In: limits and the layers that are asked for. Out: the layers that are in force. Ignorant of what will run. Standard library
only: it runs in the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable, Mapping

from rewarden.training.verifiers.sandbox import system_calls

LAYERS = ("limits", "namespaces", "user", "landlock", "seccomp")
"""limits: memory, CPU time, no file growth, no core dump, dies with its parent. namespaces: a network without interfaces.
user: nobody, or at least no capability. landlock: files can be read in the interpreter's folders only, none written.
seccomp: see `system_calls`."""

NEW_USER, NEW_NETWORK, NEW_IPC = 0x10000000, 0x40000000, 0x08000000
NOBODY = 65534
OPEN_FILES = 64


def confine(limits: Mapping[str, int], layers: Iterable[str], parent: int) -> list[str]:
    """Lock this process up: memory in bytes, CPU time in seconds, and the process it must not outlive.

    Returns:
        The layers in force; one that the kernel does not offer is left out, for the caller to judge.
    """
    asked = set(layers)
    if sys.platform != "linux":
        _limit(limits, processes=0)
        return ["limits"]
    library = ctypes.CDLL(None, use_errno=True)
    done = []
    if "namespaces" in asked:
        user = 0 if os.geteuid() == 0 else NEW_USER
        if library.unshare(user | NEW_NETWORK | NEW_IPC) == 0:
            done.append("namespaces")
    if "user" in asked and _drop_user(library):
        done.append("user")
    library.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    library.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no process of the same user may look inside
    library.prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG; changing user would have cleared it
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    if "landlock" in asked and _landlock(library, readable()):
        done.append("landlock")
    filtered = "seccomp" in asked and system_calls.supported()
    _limit(limits, processes=None if filtered else 0)
    done.insert(0, "limits")
    if filtered and system_calls.install(library):
        done.append("seccomp")
    return done


def readable() -> list[str]:
    """Files and folders that an interpreter imports from."""
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__), *(part for part in sys.path if part)}
    libraries = {sysconfig.get_config_var("LIBDIR") or "", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"}
    return [*folders, *libraries, "/etc/ld.so.cache", "/dev/null", "/dev/urandom"]


def _limit(limits: Mapping[str, int], processes: int | None) -> None:
    """Resource limits, soft and hard alike, so that they cannot be raised again."""
    chosen = {resource.RLIMIT_CPU: limits["cpu_seconds"], resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0,
              resource.RLIMIT_NOFILE: OPEN_FILES, resource.RLIMIT_AS: limits["memory"]}
    if processes is not None:
        chosen[resource.RLIMIT_NPROC] = processes
    for kind, value in chosen.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead of dumping core


def _drop_user(library: ctypes.CDLL) -> bool:
    """Become nobody where nobody can still import; else lose every capability."""
    if os.geteuid() == 0:
        for capability in range(64):
            library.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        os.setgroups([])
        if _open_to_all(os.__file__):
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    return library.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))) == 0


def _open_to_all(path: str) -> bool:
    """Whether any user can read a file: the bits of it and of every folder above."""
    path = os.path.realpath(path)
    if not os.stat(path).st_mode & stat.S_IROTH:
        return False
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
    return True


CREATE, ADD, RESTRICT = 444, 445, 446  # the numbers are the same on every processor
EXECUTE, READ_FILE, READ_FOLDER = 1 << 0, 1 << 2, 1 << 3


def _landlock(library: ctypes.CDLL, paths: Iterable[str]) -> bool:
    """Reading below `paths` only, writing nowhere, no TCP; False where the kernel has no Landlock."""
    version = library.syscall(CREATE, None, 0, 1)
    if version < 1:
        return False
    files = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    network = 0b11 if version >= 4 else 0  # bind and connect
    scoped = 0b11 if version >= 6 else 0  # abstract sockets and signals
    rules = struct.pack("=QQQ", files, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = library.syscall(CREATE, ctypes.c_char_p(rules), len(rules), 0)
    if ruleset < 0:
        return False
    try:
        for path in paths:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            allowed = EXECUTE | READ_FILE | (READ_FOLDER if os.path.isdir(path) else 0)
            library.syscall(ADD, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", allowed, place)), 0)
            os.close(place)
        return library.syscall(RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)
