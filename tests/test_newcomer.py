"""The tool that works through the tutorial, on small pages that install nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import newcomer
from newcomer import BLOCK, PAGE, PageError, filled_in, real
from transcripts import normalized

WHEEL = Path("/wheels/blink_oauth-1.2.0-py3-none-any.whl")
PINS = Path("/pins.txt")


def work_through(page: str, *, write: bool = False) -> tuple[str, int]:
    return newcomer.work_through(page, str, write=write)


def console(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```\n"])


RIGHT = "\n".join(
    [
        console("$ mkdir folder && cd folder", "$ echo one; echo two >&2", "one", "two"),
        "Save this as `sum.py`:\n",
        "```python\n# sum.py\nprint(1 + 1)\n```\n",
        console("$ python3 sum.py", "2", "$ cat \\", "    sum.py", "# sum.py", "print(1 + 1)"),
        console("$ false", "$ echo $?", "1"),
    ]
)


def test_a_page_is_right_if_it_shows_what_is_printed() -> None:
    assert work_through(RIGHT) == (RIGHT, 4)


def test_what_is_printed_can_be_written_into_the_page() -> None:
    wrong = RIGHT.replace("\n2\n", "\n3\n").replace("\none\ntwo\n", "\n")
    assert work_through(wrong, write=True) == (RIGHT, 4)


@pytest.mark.parametrize(
    ("right", "wrong", "line", "reason"),
    [
        ("\none\n", "\none or two\n", 2, "-one or two\n+one"),
        ("\none\ntwo\n", "\n", 2, "+one\n+two"),
        ("print(1 + 1)\n```", "print(1 + 1\n```", 16, "SyntaxError"),
        ("# sum.py\nprint", "print", 11, "The first line names no file"),
        ("python3 sum.py", "python3 plus.py", 16, "No such file"),
        ("$ false\n$ echo $?\n1", "$ false", 25, "The exit status is 1."),
        ("```python", "```ruby", 11, "Nothing executes ruby."),
        ("$ mkdir folder && cd folder\n$ echo one; echo two >&2\n", "", 2, "has no command"),
        ("$ false", "$ exit 0", 25, "The shell has ended"),
    ],
)
def test_a_page_that_is_wrong_is_refused_with_line_and_reason(
    right: str, wrong: str, line: int, reason: str
) -> None:
    assert right in RIGHT
    page = RIGHT.replace(right, wrong)
    with pytest.raises(PageError, match=re.escape(reason)) as failure:
        work_through(page)
    assert str(failure.value).startswith(f"Line {line}:\n")


@pytest.mark.parametrize(
    ("then", "seconds"), [("false", newcomer.SECONDS), ("wait", 2.0)], ids=["wrong", "hangs"]
)
def test_no_process_is_left_when_a_page_is_wrong_or_hangs(
    then: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomer, "SECONDS", seconds)
    monkeypatch.setattr(newcomer, "GRACE", 0.2)
    files = [tmp_path / "obedient", tmp_path / "stubborn"]
    start = "sleep 600 & echo $! >"
    with pytest.raises(PageError, match=r"exit status is 1|No end within 2\.0 s"):
        work_through(
            console(f"$ {start} {files[0]}", "$ trap '' TERM", f"$ {start} {files[1]}", f"$ {then}")
        )
    for file in files:
        state = Path("/proc", file.read_text("ascii").strip(), "stat")
        # Without an init process that waits for it, it stays as a zombie.
        assert not state.exists() or state.read_text("utf-8").split()[2] == "Z"


@pytest.mark.parametrize("clone", ["'../blink-oauth[cli,sql]'", "'blink-oauth[cli,sql]'"])
def test_the_wheel_stands_for_the_clone_and_for_the_name_on_the_index(clone: str) -> None:
    wheel = f"'{WHEEL}[cli,sql]'"
    with_pip = real(f"pip install {clone}", WHEEL, PINS)
    assert with_pip == f"env PIP_CONSTRAINT=/pins.txt pip install {wheel}"
    with_uv = real(f"pip install {clone}", WHEEL, PINS, "/bin/uv")
    assert with_uv.startswith("env HOME=")
    assert with_uv.endswith(f" UV_CONSTRAINT=/pins.txt /bin/uv pip install {wheel}")


def test_uv_stands_for_venv() -> None:
    command = real("python3 -m venv .venv && . .venv/bin/activate", WHEEL, PINS, "/bin/uv")
    assert re.fullmatch(
        r"env HOME=\S* \S+ /bin/uv venv --quiet --python \S+ \.venv && \. \.venv/bin/activate",
        command,
    )


def test_other_commands_are_executed_as_the_page_has_them() -> None:
    command = 'eval "$(blink-oauth sandbox --env)"'
    assert real(command, WHEEL, PINS, "/bin/uv") == command


def test_a_form_is_sent_with_its_hidden_fields_and_its_first_button() -> None:
    page = """<form method="post"><input type="hidden" name="session" value="fake">
<input type="text" id="shown"><input type="password" name="password">
<input type="checkbox" name="account" value="1">
<button name="decision" value="approve">A</button><button name="decision" value="refuse">R</button>
</form>"""
    body = b"session=fake&password=fake-password&account=1&decision=approve"
    assert filled_in(page) == body


def test_what_differs_from_run_to_run_is_replaced() -> None:
    ids: dict[str, str] = {}
    first, second = (f"{n}b9bb3ac-fa17-446d-a9e0-b9bb0f5c6c0c" for n in (1, 2))
    text = f"{second} {first} {second} 127.0.0.1:46089 2027-11-26 /x/blink-sandbox-az3twc5f/ca.pem"
    assert normalized(text, ids) == (
        "00000000-0000-4000-8000-000000000001 00000000-0000-4000-8000-000000000002"
        " 00000000-0000-4000-8000-000000000001 127.0.0.1:8080 2026-01-01 /tmp/blink-sandbox/ca.pem"
    )
    assert normalized(first, ids) == "00000000-0000-4000-8000-000000000002"


def test_the_tutorial_ends_with_the_account_list() -> None:
    *_, (_, last), (_, stop) = BLOCK.findall(PAGE.read_text("utf-8"))
    assert last.splitlines()[-1] == "CH0000000000000000002 EUR Fake savings account"
    assert stop.startswith("^C")
