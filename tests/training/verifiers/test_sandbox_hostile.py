"""Code that cheats, breaks out or wrecks gets 0.0, leaves no process, and writes no file."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rewarden.errors import RewardenError
from rewarden.training.verifiers import unit_tests, verify_all
from rewarden.training.verifiers.sandbox import Limits, run_tests
from rewarden.training.verifiers.sandbox.confinement import LAYERS

TESTS = "assert add(1, 2) == 3\nassert add(20, 22) == 42\n"
WRONG = "def add(a, b):\n    return 0\n"
SHORT = Limits(seconds=1.5)

FORKS = {
    "fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n",
    "fork": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n" + WRONG,
    "fork in a function": "import os, time\ndef add(a, b):\n    if os.fork() == 0:\n        time.sleep(60)\n    return 0\n",
    "a program": "import subprocess\nsubprocess.Popen(['sleep', '60'])\n" + WRONG,
    "posix_spawn": "import os\nos.posix_spawn('/bin/sleep', ['sleep', '60'], {})\n" + WRONG,
    "execution": "import os\nos.execv('/bin/sleep', ['sleep', '60'])\n",
    "system": "import os\nos.system('sleep 60 &')\n" + WRONG,
    "multiprocessing": "import multiprocessing, time\nmultiprocessing.Process(target=time.sleep, args=(60,)).start()\n" + WRONG,
    "forking by number": "import ctypes, time\ncall = ctypes.CDLL(None).syscall\n"
                         "for number in (57, 58, 56, 435, 1079, 220):\n    if call(number, 17, 0, 0, 0, 0) == 0:\n"
                         "        time.sleep(60)\n" + WRONG,
    "thread bomb": "import threading, time\nwhile True:\n    try:\n"
                   "        threading.Thread(target=time.sleep, args=(60,)).start()\n    except Exception:\n        pass\n",
}
EXITS = {
    "sys.exit": "import sys\nsys.exit(0)\n",
    "os._exit": "import os\nos._exit(0)\n",
    "SystemExit": "raise SystemExit(0)\n",
    "sys.exit in a function": "import sys\ndef add(a, b):\n    sys.exit(0)\n",
    "os._exit in a function": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "KeyboardInterrupt in a function": "def add(a, b):\n    raise KeyboardInterrupt\n",
    "GeneratorExit": "raise GeneratorExit\n",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG,
    "abort": "import os\nos.abort()\n",
    "segmentation fault": "import ctypes\nctypes.string_at(0)\n",
    "stack overflow": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef add(a, b):\n    return add(a, b)\n",
    "kill the parent": "import os\nfor pid in (os.getppid(), -1, 0):\n    try:\n        os.kill(pid, 9)\n"
                       "    except OSError:\n        pass\n" + WRONG,
    "signal by descriptor": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 8, os.getppid())\nfcntl.fcntl(r, 10, 9)\n",
    "exit thread": "import threading, os\nthreading.Timer(0.05, os._exit, (0,)).start()\ndef add(a, b):\n"
                   "    while True:\n        pass\n",
    "BaseException": "class Quiet(BaseException):\n    pass\ndef add(a, b):\n    raise Quiet\n",
    "nothing": "",
    "null byte": "\0",
    "surrogate": "x = '\ud800'\n",
    "no Python": "I think the answer is 3.",
}
WASTE = {
    "memory bomb": "held = []\nwhile True:\n    held.append(bytearray(10 ** 8))\n",
    "memory bomb, caught": "held = []\nwhile True:\n    try:\n"
                           "        held.append(' ' * 10 ** 7)\n    except MemoryError:\n        pass\n",
    "power": "x = 9 ** 9 ** 9\n",
    "infinite loop": "while True:\n    pass\n",
    "infinite loop in a function": "def add(a, b):\n    while True:\n        pass\n",
    "sleep": "import time\ntime.sleep(1000)\n",
    "deaf": "import signal\nfor s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n"
            "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass\n",
    "prints without end": "import sys\nwhile True:\n    sys.stdout.write('x' * 10 ** 6)\n    sys.stderr.write('x' * 10 ** 6)\n",
    "large result": "def add(a, b):\n    return 'x' * 10 ** 8\n",
    "deep result": "def add(a, b):\n    x = 3\n    for _ in range(10 ** 5):\n        x = [x]\n    return x\n",
    "circular result": "def add(a, b):\n    x = []\n    x.append(x)\n    return x\n",
    "endless iterator": "import itertools\nadd = lambda a, b: itertools.count()\n",
    "compiler bomb": "x = " + "(" * 10 ** 5 + ")" * 10 ** 5 + "\n",
}
SENDS = """
import os
message = {message!r}
def add(a, b):
    for fd in range(3, 64):
        try:
            os.write(fd, len(message).to_bytes(4, 'big') + message)
        except OSError:
            pass
"""
FORGERY = {
    "writes to every descriptor": "import os\nfor fd in range(64):\n    try:\n"
                                  "        os.write(fd, b'{\"passed\": 2, \"total\": 2, \"detail\": \"\"}\\n')\n"
                                  "    except OSError:\n        pass\n" + WRONG,
    "a message of four gigabytes": "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'\\xff' * 65536)\n"
                                   "    except OSError:\n        pass\n" + WRONG,
    "malformed messages": "import os\ndef add(a, b):\n    for fd in range(3, 64):\n        try:\n"
                          "            os.write(fd, b'\\0\\0\\0\\x05[[[[[')\n        except OSError:\n            pass\n",
    "messages of other shapes": SENDS.format(message=b'{"value": {}}'),
    "a list as a message": SENDS.format(message=b'["ask", "value"]'),
    "a question to the judge": SENDS.format(message=b'{"ask": "get", "with": ["__builtins__", "eval"]}'),
    "a call into the judge": SENDS.format(message=b'{"ask": "call", "with": [["yours", 0], ["list"], ["dict"]]}'),
    "equal to everything": "class Any:\n    def __eq__(self, other):\n        return True\n    __req__ = __eq__\n"
                           "    def __ne__(self, other):\n        return False\n    __hash__ = None\n"
                           "def add(a, b):\n    return Any()\n",
    "an int that equals everything": "class Any(int):\n    def __eq__(self, other):\n        return True\n"
                                     "def add(a, b):\n    return Any()\n",
    "reads the other side of ==": "seen = []\nclass Spy:\n    def __eq__(self, other):\n        seen.append(other)\n"
                                  "        return True\ndef add(a, b):\n    return seen[0] if seen else Spy()\n",
    "every object": "import gc, re\n"
                    "def add(a, b):\n    text = ' '.join(map(repr, gc.get_objects()))\n"
                    "    found = re.search(rf'add\\({a}, {b}\\) == (\\d+)', text)\n"
                    "    return int(found.group(1)) if found else 0\n",
    "frames": "import inspect, re, sys\n"
              "def add(a, b):\n    text = ''\n    frame = sys._getframe()\n    while frame:\n"
              "        text += repr(frame.f_locals) + repr(list(frame.f_globals.values()))\n"
              "        try:\n            text += inspect.getsource(frame)\n"
              "        except (OSError, TypeError):\n            pass\n"
              "        frame = frame.f_back\n"
              "    found = re.search(rf'add\\({a}, {b}\\) == (\\d+)', text)\n"
              "    return int(found.group(1)) if found else 0\n",
    "own memory": "import re\ndef add(a, b):\n    text = open('/proc/self/mem', 'rb').read(10 ** 6)\n    return 3\n",
    "the parent's memory": "import os\ndef add(a, b):\n    open(f'/proc/{os.getppid()}/environ').read()\n    return a + b\n",
    "the parent's descriptors": "import os\ndef add(a, b):\n    os.listdir(f'/proc/{os.getppid()}/fd')\n    return a + b\n",
    "ptrace": "import ctypes, os\ncall = ctypes.CDLL(None).syscall\n"
              "assert call(101, 16, os.getppid(), 0, 0) == 0 or call(117, 16, os.getppid(), 0, 0) == 0\n"
              "def add(a, b):\n    return a + b\n",
    "builtins replaced": "import builtins\nbuiltins.AssertionError = type('Quiet', (BaseException,), {})\n"
                         "builtins.all = builtins.isinstance = builtins.abs = lambda *x: True\n" + WRONG,
    "tracing": "import sys\nsys.settrace(lambda *x: None)\nsys.setprofile(lambda *x: None)\n" + WRONG,
    "import of the runner": "from rewarden.training.verifiers.sandbox import judge\njudge._run = lambda *x: None\n" + WRONG,
    "modules replaced": "import sys\nsys.modules['json'] = sys.modules['unittest'] = None\n" + WRONG,
}
FILES = {
    "open": "open({path!r}, 'w').write('x')\n",
    "append": "open({old!r}, 'a').write('x')\n",
    "os.open": "import os\nos.write(os.open({path!r}, os.O_CREAT | os.O_RDWR), b'x')\n",
    "own folder": "open('written', 'w').write('x')\n",
    "folder": "import os\nos.mkdir({path!r})\n",
    "temporary file": "import tempfile\ntempfile.mkstemp(dir={folder!r})\n",
    "data base": "import sqlite3\nsqlite3.connect({path!r}).execute('create table t (x)')\n",
    "truncation": "import os\nos.truncate({old!r}, 0)\n",
    "removal": "import os\nos.unlink({old!r})\n",
    "renaming": "import os\nos.rename({old!r}, {path!r})\n",
    "link": "import os\nos.symlink({old!r}, {path!r})\n",
    "permissions": "import os\nos.chmod({old!r}, 0o777)\n",
    "by number": "import ctypes\nc = ctypes.CDLL(None)\nc.open({bytes!r}, 0o102, 0o777)\nc.creat({bytes!r}, 0o777)\n"
                 "c.syscall(437, -100, {bytes!r}, b'\\x42' + bytes(23), 24)\nc.mknod({bytes!r}, 0o100777, 0)\nc.umask(0)\n",
}


def sandboxed(parent: int | None = None) -> list[int]:
    """Processes that run the sandbox's program and belong to a process, by default to us or to nobody any more."""
    parents = (parent,) if parent else (os.getpid(), 1)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, status = (folder / "cmdline").read_bytes(), (folder / "stat").read_text()
        except OSError:
            continue
        if b"sandbox/start.py" in command and int(status.rpartition(")")[2].split()[1]) in parents:
            found.append(int(folder.name))
    return found


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """A folder anyone may write in, with one file; the sandbox's own temporary files are below it too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name in ("temporary", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "open" / "old").write_text("old")
    (tmp_path / "open" / "old").chmod(0o666)
    yield tmp_path / "open"
    assert sandboxed() == []
    assert os.listdir(tmp_path / "temporary") == []
    assert os.listdir(tmp_path / "open") == ["old"]
    assert (tmp_path / "open" / "old").read_text() == "old"
    assert (tmp_path / "open" / "old").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("code", [*FORKS.values(), *EXITS.values(), *FORGERY.values()],
                         ids=[*FORKS, *EXITS, *FORGERY])
def test_cheats_and_escapes_get_nothing(code, traces):
    assert unit_tests(limits=SHORT)(code, TESTS) == 0.0


def test_right_code_passes_under_the_same_limits(traces):
    assert unit_tests(limits=SHORT)("def add(a, b):\n    return a + b\n", TESTS) == 1.0


FOOLING = ["equal to everything", "an int that equals everything", "reads the other side of ==", "frames"]


@pytest.mark.parametrize("name", FOOLING)
def test_the_cheats_do_fool_a_shared_interpreter(name):
    """What the sandbox is for: run beside its tests, this code passes them."""
    namespace = {"source": TESTS}
    exec(FORGERY[name], namespace)  # noqa: S102 (harmless code of this file)
    if "seen" in namespace:
        exec("assert add(1, 2) == 3\nassert add(1, 2) == 3", namespace)  # noqa: S102 (the same)
    else:
        exec(TESTS, namespace)  # noqa: S102 (the same)


@pytest.mark.parametrize("code", WASTE.values(), ids=WASTE)
def test_waste_ends_in_time(code, traces):
    verdict = unit_tests(limits=SHORT).run(code, TESTS)
    assert (verdict.passed, verdict.total) == (0, 2)
    assert verdict.seconds < 20


@pytest.mark.parametrize("code", FILES.values(), ids=FILES)
@pytest.mark.parametrize("layers", [LAYERS, ("limits", "seccomp")], ids=["all", "seccomp"])
def test_no_file_is_written(code, layers, traces):
    path = traces / "written"
    harm = code.format(path=str(path), old=str(traces / "old"), folder=str(traces), bytes=bytes(path))
    assert unit_tests(limits=Limits(layers=layers, seconds=3))(harm + WRONG, TESTS) == 0.0


@pytest.mark.parametrize("layers", [LAYERS, ("limits", "seccomp")], ids=["all", "seccomp"])
def test_no_socket_reaches_anything(layers, traces, tmp_path):
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as local:
        server.bind(("127.0.0.1", 0))
        server.listen()
        path = str(tmp_path / "socket")
        local.bind(path)
        os.chmod(path, 0o777)
        local.listen()
        code = f"""
import ctypes, socket, struct
tried = []
def attempt(what):
    try:
        tried.append(what())
    except Exception:
        pass
def unix():
    s = socket.socket(socket.AF_UNIX); s.connect({path!r}); return s
def pair():
    a, b = socket.socketpair(); a.connect({path!r}); return a
def number():
    c = ctypes.CDLL(None); fd = c.socket(2, 1, 0)
    assert fd >= 0 and c.connect(fd, struct.pack('>xBH4B8x', 2, {server.getsockname()[1]}, 127, 0, 0, 1), 16) == 0
attempt(lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]})))
attempt(unix), attempt(pair), attempt(number)
def reached():
    return len(tried)
"""
        assert run_tests(code, ["assert reached() == 0"], limits=Limits(layers=layers)).all_passed
        for listener in (server, local):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_files_outside_the_interpreter_cannot_be_read(traces):
    secret = traces / "old"
    verdict = unit_tests().run(f"def read():\n    return open({str(secret)!r}).read()\n", "assert read() == 'old'")
    if "landlock" not in verdict.layers:
        pytest.skip("this kernel has no Landlock")
    assert not verdict.all_passed
    assert "PermissionError" in verdict.detail


def test_environment_is_empty(traces, monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    code = "import os\ndef names():\n    return sorted(os.environ)\n"
    assert unit_tests()(code, "assert set(names()) <= {'LC_CTYPE', 'LD_LIBRARY_PATH'}") == 1.0


def test_unittest_cannot_be_patched(traces):
    code = ("import unittest\nunittest.TestCase.assertEqual = lambda *x: None\nunittest.TestCase.run = lambda *x: None\n"
            "unittest.TestResult.wasSuccessful = lambda x: True\n" + WRONG)
    tests = "import unittest\nclass Adds(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n"
    assert unit_tests()(code, tests) == 0.0
    assert unit_tests()("def add(a, b): return a + b", tests) == 1.0


def test_builtins_of_tests_cannot_be_shadowed(traces):
    code = "def isinstance(*x):\n    return True\ndef all(x):\n    return True\ndef make():\n    return 'text'\n"
    assert unit_tests()(code, "assert isinstance(make(), int)") == 0.0
    assert unit_tests()(code, "assert all([make() == 3])") == 0.0


@pytest.mark.parametrize("end", ["import os; os._exit(0)", "raise SystemExit", "raise KeyboardInterrupt"])
def test_exit_is_no_expected_exception(end, traces):
    """A test that expects an exception is not passed by leaving."""
    code = f"def parse(text):\n    {end}\n"
    tests = "try:\n    parse('x')\nexcept ValueError:\n    pass\nexcept BaseException:\n    pass\nelse:\n    assert False\n"
    assert unit_tests()(code, tests) == 0.0
    assert unit_tests()("def parse(text):\n    raise ValueError(text)\n", tests) == 1.0


def test_import_error_of_the_candidate_is_its_own(traces):
    code = "def add(a, b):\n    import numpy\n    return numpy.add(a, b)\n"
    assert unit_tests()(code, ["import math\nassert add(1, 2) == 3"]) == 0.0


def test_isolation_is_said_and_demanded(traces):
    code = "def add(a, b):\n    return a + b\n"
    weak = run_tests(code, [TESTS], limits=Limits(layers=("limits",), require=()))
    assert (weak.passed, weak.layers) == (2, ("limits",))
    with pytest.raises(RewardenError, match="cannot close the sandbox") as caught:
        run_tests(code, [TESTS], limits=Limits(layers=("limits", "user")))
    assert "not in force: seccomp" in caught.value.why
    with pytest.raises(RewardenError, match="unknown layer 'secomp'"):
        Limits(require=("secomp",))


@pytest.mark.parametrize("code", ["import time\ntime.sleep(60)\n", "while True:\n    pass\n"], ids=["asleep", "busy"])
def test_nothing_outlives_a_killed_trainer(code, tmp_path):
    program = (f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n"
               "from rewarden.training.verifiers.sandbox import Limits, run_tests\nprint('go', flush=True)\n"
               f"run_tests({code!r}, ['assert f()'], limits=Limits(seconds=60, cpu_seconds=60))\n")
    trainer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert trainer.stdout.readline() == b"go\n"
    running = wait_for(lambda: sandboxed(trainer.pid), 2)
    time.sleep(0.5)  # let the code begin
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    wait_for(lambda: [pid for pid in running if Path(f"/proc/{pid}").exists()], 0)


def wait_for(look, count):
    """What `look` finds once it finds so many."""
    until = time.monotonic() + 20
    while len(found := look()) != count:
        assert time.monotonic() < until, f"{found} where {count} are expected"
        time.sleep(0.02)
    return found


def test_hostile_batch_leaves_the_good_ones_alone(traces):
    good = "def add(a, b):\n    return a + b\n"
    completions = [EXITS["os._exit"], good, FORKS["fork"], good, WASTE["power"], good, FORGERY["frames"], good]
    assert verify_all(unit_tests(limits=Limits(seconds=3)), completions, [TESTS] * 8).tolist() == [0, 1] * 4
