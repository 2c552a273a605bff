"""Which system calls may a confined interpreter still make?

Out: the seccomp program of this processor. What is not in the tables fails with EPERM: no process can be started, no program
executed, no file opened for writing, no socket made that reaches anything, no signal sent, no other process read. Ignorant of
Python. Standard library only: it runs in the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

FREE = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, close 3 57,
fstat 5 80, newfstatat 262 79, stat 4 -, lstat 6 -, statx 332 291, lseek 8 62, fstatfs 138 44,
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, brk 12 214, madvise 28 233, mincore 27 232,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, access 21 -, faccessat 269 48,
faccessat2 439 439, readlink 89 -, readlinkat 267 78, getcwd 79 17, getdents64 217 61, dup 32 23, dup2 33 -, dup3 292 24,
pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create1 291 20, epoll_ctl 233 21,
epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, recvfrom 45 207, futex 202 98, sched_yield 24 124,
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -,
times 100 153, getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getresuid 118 148, getresgid 120 150, getpgrp 111 -, getpgid 121 155, getsid 124 156, uname 63 160,
sysinfo 99 179, getrusage 98 165, getrlimit 97 163, sched_getaffinity 204 123, getcpu 309 168, getrandom 318 278,
set_robust_list 273 99, get_robust_list 274 100, rseq 334 293, set_tid_address 218 96, arch_prctl 158 -,
membarrier 324 283, setitimer 38 103, getitimer 36 102, alarm 37 -, pause 34 -, restart_syscall 219 128,
exit 60 93, exit_group 231 94
"""
"""Name, number on x86_64, number on aarch64 ("-": not there); allowed whatever the arguments."""

WRITING = 0o3 | 0o100 | 0o1000  # O_ACCMODE, O_CREAT, O_TRUNC
THREAD = 0x10000  # CLONE_THREAD: a thread dies with its process, a child may not
TERMINAL = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX
DESCRIPTOR = (0, 1, 2, 3, 4, 1030)  # duplicate, get and set flags; not F_SETOWN and F_SETSIG, which send signals
UNIX = (1,)  # AF_UNIX pairs (asyncio wakes itself with one); connect and bind stay refused

GUARDED = (
    ("open", 2, None, 1, "without", WRITING),
    ("openat", 257, 56, 2, "without", WRITING),
    ("clone", 56, 220, 0, "with", THREAD),
    ("ioctl", 16, 29, 1, "among", TERMINAL),
    ("fcntl", 72, 25, 1, "among", DESCRIPTOR),
    ("socketpair", 53, 199, 0, "among", UNIX),
    ("sendto", 44, 206, 4, "among", (0,)),  # a null address
)
"""Name, numbers, which argument, and how it is checked against what."""

CLONE3 = 435  # its flags are behind a pointer; "not there" makes the C library use clone

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_FROM, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def supported() -> bool:
    """Whether there is a table for this machine."""
    return platform.system() == "Linux" and platform.machine() in AUDIT and struct.calcsize("P") == 8


def program() -> bytes:
    """The filter as instructions of classic BPF: code, two jumps and a value, eight bytes each.

    Example:
        >>> len(program()) % 8 if supported() else 0
        0
    """
    machine = platform.machine()
    column = 1 if machine == "x86_64" else 2
    refuse = (RETURN, 0, 0, _errno(errno.EPERM))
    lines = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, AUDIT[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if machine == "x86_64":
        lines += [(JUMP_FROM, 0, 1, 0x40000000), (RETURN, 0, 0, KILL)]  # the x32 numbering
    numbers = [entry.split()[column] for entry in FREE.replace("\n", " ").split(",")]
    for number in numbers:
        if number != "-":
            lines += [(JUMP_EQUAL, 0, 1, int(number)), (RETURN, 0, 0, ALLOW)]
    lines += [(JUMP_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, _errno(errno.ENOSYS))]
    for _, *both, argument, how, what in GUARDED:
        number = both[column - 1]
        if number is not None:
            body = _check(argument, how, what)
            lines += [(JUMP_EQUAL, 0, len(body), number), *body]
    return b"".join(struct.pack("<HBBI", *line) for line in [*lines, refuse])


def _check(argument: int, how: str, what) -> list[tuple[int, int, int, int]]:
    """Instructions that allow or refuse by the low half of an argument; for a null pointer by both halves."""
    low = 16 + 8 * argument
    refuse = (RETURN, 0, 0, _errno(errno.EACCES if how == "without" else errno.EPERM))
    if what == (0,):
        return [(LOAD, 0, 0, low), (JUMP_EQUAL, 0, 3, 0), (LOAD, 0, 0, low + 4), (JUMP_EQUAL, 0, 1, 0),
                (RETURN, 0, 0, ALLOW), refuse]
    if how == "among":
        tries = [line for value in what for line in ((JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]
        return [(LOAD, 0, 0, low), *tries, refuse]
    skip, stay = (1, 0) if how == "without" else (0, 1)
    return [(LOAD, 0, 0, low), (JUMP_SET, skip, stay, what), (RETURN, 0, 0, ALLOW), refuse]


def _errno(number: int) -> int:
    return 0x00050000 | number


def install(library: ctypes.CDLL) -> bool:
    """Put this process under the filter, for good; False where the kernel has none. Needs no_new_privs."""
    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return library.prctl(22, 2, ctypes.c_char_p(header), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
