"""The seccomp program decides as it should on both processors, by an interpreter of its instructions."""

from __future__ import annotations

import errno
import os
import platform
import struct

import pytest

from rewarden.training.verifiers.sandbox import system_calls

ALLOWED = "allowed"


def decide(machine: str, number: int, *arguments: int, audit: int | None = None) -> object:
    """What the program says about a call: allowed, killed or the errno."""
    audit = system_calls.AUDIT[machine] if audit is None else audit
    data = struct.pack("<IIQ6Q", number, audit, 0, *[value % 2 ** 64 for value in (*arguments, *[0] * 6)[:6]])
    code = list(struct.iter_unpack("<HBBI", system_calls.program()))
    place, held = 0, 0
    while True:
        kind, yes, no, value = code[place]
        if kind == 0x06:
            return {0x7FFF: ALLOWED, 0x8000: "killed"}.get(value >> 16, value & 0xFFFF)
        if kind == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
            place += 1
            continue
        holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[kind]
        place += 1 + (yes if holds else no)


NUMBERS = {
    "x86_64": {"read": 0, "openat": 257, "open": 2, "socket": 41, "connect": 42, "execve": 59, "execveat": 322, "fork": 57,
               "vfork": 58, "clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "ptrace": 101, "unlink": 87, "mkdir": 83,
               "process_vm_writev": 311, "bpf": 321, "io_uring_setup": 425, "memfd_create": 319, "prctl": 157, "fcntl": 72,
               "sendto": 44, "sendmsg": 46, "socketpair": 53, "unshare": 272, "prlimit64": 302, "pidfd_open": 434, "ioctl": 16},
    "aarch64": {"read": 63, "openat": 56, "socket": 198, "connect": 203, "execve": 221, "execveat": 281, "clone": 220,
                "clone3": 435, "kill": 129, "tgkill": 131, "ptrace": 117, "unlinkat": 35, "mkdirat": 34,
                "process_vm_writev": 271, "bpf": 280, "io_uring_setup": 425, "memfd_create": 279,
                "prctl": 167, "fcntl": 25, "sendto": 206,
                "sendmsg": 211, "socketpair": 199, "unshare": 97, "prlimit64": 261, "pidfd_open": 434, "ioctl": 29},
}
"""From the kernel's own tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h)."""


@pytest.fixture(params=sorted(NUMBERS))
def machine(request, monkeypatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return request.param


def test_decisions(machine):
    number = NUMBERS[machine]
    refused = sorted(set(number) - {"read", "openat", "open", "clone", "clone3", "fcntl", "sendto", "socketpair", "ioctl"})
    assert {name: decide(machine, number[name]) for name in refused} == dict.fromkeys(refused, errno.EPERM)
    assert decide(machine, number["read"]) == ALLOWED
    assert decide(machine, number["clone3"]) == errno.ENOSYS
    for flags, verdict in ((os.O_RDONLY | os.O_CLOEXEC, ALLOWED), (os.O_WRONLY, errno.EACCES), (os.O_RDWR, errno.EACCES),
                           (os.O_CREAT, errno.EACCES), (os.O_TRUNC, errno.EACCES), (0o20200000 | os.O_RDWR, errno.EACCES)):
        assert decide(machine, number["openat"], -100, 1, flags) == verdict
        if "open" in number:
            assert decide(machine, number["open"], 1, flags) == verdict
    assert decide(machine, number["clone"], 0x3D0F00) == ALLOWED  # what pthread_create passes
    assert decide(machine, number["clone"], 17) == errno.EPERM  # SIGCHLD: a fork
    assert decide(machine, number["clone"], 0x4111) == errno.EPERM  # vfork
    fine, bad = [ALLOWED], [errno.EPERM]
    assert [decide(machine, number["fcntl"], 3, command) for command in (1, 1030, 8, 10, 15)] == fine * 2 + bad * 3
    assert [decide(machine, number["ioctl"], 0, command) for command in (0x5401, 0x5412, 0x8901)] == fine + bad * 2
    assert [decide(machine, number["socketpair"], family) for family in (1, 2, 16)] == fine + bad * 2
    assert [decide(machine, number["sendto"], 3, 1, 1, 0, address) for address in (0, 1, 1 << 32)] == fine + bad * 2


def test_other_numberings_are_killed(machine):
    assert decide(machine, 0, audit=0x40000003) == "killed"  # 32 bits on x86
    if machine == "x86_64":
        assert decide(machine, 0x40000000 + 59) == "killed"  # x32
