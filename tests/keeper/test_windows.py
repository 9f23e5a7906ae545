"""Every public module can be imported where Python has less than on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHOUT_UNIX = """
import importlib, os, pkgutil, select, signal, socket, sys, time
# The standard library adapts to the platform itself.
import asyncio, concurrent.futures, getpass, http.server, multiprocessing, shutil, ssl, subprocess
import tempfile, uuid, webbrowser
sys.dont_write_bytecode = True
for module, names in {
    os: "register_at_fork fork forkpty fchmod fchown chown chroot getuid geteuid getgid getegid "
        "getpgid getpgrp getsid getgroups setsid setuid setgid killpg mkfifo nice pread "
        "pwrite sendfile statvfs sysconf confstr sched_getaffinity sched_yield wait3 wait4 waitid "
        "uname ttyname openpty tcgetpgrp lockf fdatasync posix_spawn O_NOFOLLOW O_CLOEXEC "
        "O_NONBLOCK O_DIRECTORY WNOHANG",
    signal: "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT "
            "SIGTSTP SIGWINCH alarm setitimer pause pthread_kill pthread_sigmask sigwait",
    socket: "AF_UNIX SO_REUSEPORT MSG_NOSIGNAL MSG_DONTWAIT CMSG_LEN",
    select: "poll epoll kqueue",
    time: "clock_gettime clock_gettime_ns clock_getres CLOCK_BOOTTIME CLOCK_MONOTONIC tzset "
          "CLOCK_REALTIME pthread_getcpuclockid",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "grp", "pwd", "termios", "tty", "pty", "resource", "syslog", "readline"):
    sys.modules[name] = None
for package in ("blink_oauth", "blink_oauth_keeper", "blink_oauth_cli", "blink_oauth_testing"):
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, package + "."):
        parts = found.name.split(".")
        if not any(part.startswith("_") for part in parts):
            importlib.import_module(found.name)
            print(found.name)
    for name in getattr(root, "__all__", ()):
        getattr(root, name)
from blink_oauth import BlinkOAuth, Grant, Settings
from blink_oauth_keeper import MemoryTokenStore, SqlTokenStore, TokenManager, UnknownGrantError
file = SqlTokenStore(f"sqlite:///{sys.argv[1]}", keys=[SqlTokenStore.new_key()])
for store in (MemoryTokenStore(), file):
    settings = Settings(
        base_url="http://127.0.0.1:9", client_id="CIDX1", user_agent="a/1", allow_plain_http=True
    )
    with BlinkOAuth(settings) as blink, TokenManager(blink, store) as manager:
        try:
            manager.get(Grant("IIDX99999", "u-1"))
        except UnknownGrantError:
            print("used")
assert not hasattr(os, "register_at_fork")
"""


def test_every_public_module_can_be_imported_without_what_windows_lacks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_UNIX, str(tmp_path / "tokens.db")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    for module in ("keeper.manager", "keeper.store.sql", "cli.app", "testing.pytest_plugin"):
        assert f"blink_oauth_{module}" in imported
    assert imported.count("used") == 2
