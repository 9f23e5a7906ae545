"""A key service as a real process: it takes the arguments of `vault` and of `aws kms`.

Sources: developer.hashicorp.com/vault/docs/commands/write (`-field` prints the field without a line
end, `name=-` reads the value from standard input), the API documentation of the transit engine
(plaintext is base64), and the AWS CLI's user guide (`fileb://` reads a file as it is, a blob is
printed in base64).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from attrs import define

from blink_oauth import Secret

__all__ = ["KeyService"]

PROGRAM = r"""
import base64, hashlib, hmac, json, os, signal, subprocess, sys, time
from pathlib import Path

folder = Path(__file__).parent
masters = (folder / "masters").read_text().split()
mode = (folder / "mode").read_text()
line = json.dumps({"argv": sys.argv, "environ": dict(os.environ), "pid": os.getpid()}) + "\n"
descriptor = os.open(folder / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(descriptor, line.encode())

def stream(master, nonce, length):
    blocks = (hashlib.sha256(f"{master}{count}".encode() + nonce).digest() for count in range(9))
    return b"".join(blocks)[:length]

def encrypt(plain):
    version, nonce = len(masters), os.urandom(12)
    master = masters[-1]
    sealed = bytes(a ^ b for a, b in zip(plain, stream(master, nonce, len(plain))))
    tag = hmac.digest(master.encode(), nonce + sealed, "sha256")
    return f"v{version}:" + base64.b64encode(nonce + tag + sealed).decode()

def decrypt(text):
    version, _, body = text.partition(":")
    master = masters[int(version[1:]) - 1]
    data = base64.b64decode(body, validate=True)
    nonce, tag, sealed = data[:12], data[12:44], data[44:]
    if not hmac.compare_digest(tag, hmac.digest(master.encode(), nonce + sealed, "sha256")):
        fail("cipher: message authentication failed")
    return bytes(a ^ b for a, b in zip(sealed, stream(master, nonce, len(sealed))))

def fail(why):
    print("Error writing data, fake-message:", why, file=sys.stderr)
    sys.exit(2)

def note_child(child):
    (folder / "child").write_text(str(child.pid))

SLEEP = ["sleep", "600"]
arguments = sys.argv[1:]
if mode == "fail":
    fail(sys.stdin.read())
elif mode == "fail with the key":
    print(base64.b64encode(decrypt(sys.stdin.read().removeprefix("vault:"))).decode())
    sys.exit(1)
elif mode == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_child(subprocess.Popen(SLEEP))
    time.sleep(600)
elif mode == "leave a child":
    note_child(subprocess.Popen(SLEEP, start_new_session=True))
    sys.exit(0)
elif mode == "close and hang":
    os.close(1)
    note_child(subprocess.Popen(SLEEP))
    time.sleep(600)
elif mode == "wait":
    while not (folder / "go").exists():
        time.sleep(0.005)
elif mode == "flood":
    while True:
        os.write(1, b"fake-output " * 1000)
elif mode == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
elif mode == "slow":
    time.sleep(0.1)
if mode.startswith("print "):
    print(mode.removeprefix("print "))
elif arguments[:3] == ["secrets", "enable", "transit"] or arguments[:2] == ["policy", "write"]:
    print("Success! Enabled the transit secrets engine at: transit/")
elif arguments[0] == "write" and "transit/keys/blink/rotate" in arguments:
    (folder / "masters").write_text("\n".join([*masters, "fake-master-2"]) + "\n")
elif arguments == ["write", "-f", "transit/keys/blink"]:
    print("Key    Value")
elif arguments[0] == "write":
    *flags, path = [each for each in arguments[1:] if not each.endswith("=-")]
    value = next((each for each in arguments if each.endswith("=-")), "")
    given = sys.stdin.read() if value else ""
    engine, action, *rest = path.split("/")
    if (engine, rest[-1]) != ("transit", "blink"):
        fail("no handler for route")
    if action in ("decrypt", "rewrap") and not given.startswith("vault:"):
        fail("invalid ciphertext: no prefix")
    if given.endswith("\n"):
        fail("invalid ciphertext: could not decode base64")
    text = given.removeprefix("vault:")
    fields = {}
    if action == "encrypt" and value == "plaintext=-":
        fields["ciphertext"] = "vault:" + encrypt(base64.b64decode(given, validate=True))
    elif action == "decrypt" and value == "ciphertext=-":
        fields["plaintext"] = base64.b64encode(decrypt(text)).decode()
    elif action == "rewrap" and value == "ciphertext=-":
        fields["ciphertext"] = "vault:" + encrypt(decrypt(text))
    elif action == "datakey" and rest[0] == "wrapped" and "-f" in flags:
        fields["ciphertext"] = "vault:" + encrypt(os.urandom(32))
    sys.stdout.write(fields[next(f for f in flags if f.startswith("-field=")).partition("=")[2]])
else:
    assert arguments[:1] == ["kms"], arguments
    options = dict(zip(arguments[2::2], arguments[3::2]))
    assert options["--output"] == "text"
    if arguments[1] == "generate-data-key-without-plaintext":
        assert options["--key-spec"] == "AES_256" and options["--query"] == "CiphertextBlob"
        print(base64.b64encode(encrypt(os.urandom(32)).encode()).decode())
    elif arguments[1] == "encrypt":
        prefix, _, name = options["--plaintext"].partition("://")
        assert prefix == "fileb" and options["--query"] == "CiphertextBlob"
        print(base64.b64encode(encrypt(Path(name).read_bytes()).encode()).decode())
    else:
        prefix, _, name = options["--ciphertext-blob"].partition("://")
        assert (prefix, options["--cli-binary-format"]) == ("file", "base64")
        blob = base64.b64decode(Path(name).read_text(), validate=True)
        assert options["--query"] == "Plaintext"
        print(base64.b64encode(decrypt(blob.decode())).decode())
"""


@define(eq=False)
class KeyService:
    """A key service in a folder: its program, its master keys and its calls.

    Args:
        folder: An empty folder.
    """

    folder: Path

    def __attrs_post_init__(self) -> None:
        """Write the program, and a first master key."""
        # Isolated and without packages, so that a call takes a few hundredths of a second.
        self.program.write_text(f"#!{sys.executable} -IS\n{PROGRAM}", "utf-8")
        self.program.chmod(0o700)
        self.mode("")
        (self.folder / "masters").write_text("fake-master-1\n", "utf-8")

    @property
    def program(self) -> Path:
        """The program."""
        return self.folder / "vault"

    @property
    def unwrap(self) -> list[str]:
        """The command that unwraps with Vault."""
        return self._vault("-field=plaintext", "transit/decrypt/blink", "ciphertext=-")

    @property
    def wrap(self) -> list[str]:
        """The command that wraps with Vault."""
        return self._vault("-field=ciphertext", "transit/encrypt/blink", "plaintext=-")

    @property
    def make(self) -> list[str]:
        """The command with which Vault makes a wrapped key itself."""
        return self._vault("-f", "-field=ciphertext", "transit/datakey/wrapped/blink")

    @property
    def rewrap(self) -> list[str]:
        """The command that wraps anew with the newest master key."""
        return self._vault("-field=ciphertext", "transit/rewrap/blink", "ciphertext=-")

    @property
    def kms_unwrap(self) -> list[str]:
        """The command that unwraps with AWS KMS."""
        binary = ["--cli-binary-format", "base64", "--ciphertext-blob", "file:///dev/stdin"]
        return [str(self.program), "kms", "decrypt", *binary, *self._kms("Plaintext")]

    @property
    def kms_make(self) -> list[str]:
        """The command with which AWS KMS makes a wrapped key itself."""
        key = ["--key-id", "alias/blink", "--key-spec", "AES_256"]
        words = ["kms", "generate-data-key-without-plaintext", *key]
        return [str(self.program), *words, *self._kms("CiphertextBlob")]

    @property
    def kms_wrap(self) -> list[str]:
        """The command that wraps with AWS KMS."""
        plain = ["--key-id", "alias/blink", "--plaintext", "fileb:///dev/stdin"]
        return [str(self.program), "kms", "encrypt", *plain, *self._kms("CiphertextBlob")]

    def _vault(self, *arguments: str) -> list[str]:
        return [str(self.program), "write", *arguments]

    def _kms(self, query: str) -> list[str]:
        return ["--output", "text", "--query", query]

    def mode(self, mode: str) -> None:
        """Set what the program does: nothing special, or a fault."""
        (self.folder / "mode").write_text(mode, "utf-8")

    def go(self) -> None:
        """End the wait of calls in the mode `wait`."""
        (self.folder / "go").touch()

    def rotate(self) -> None:
        """Add a new master key, which wraps from now on."""
        with (self.folder / "masters").open("a", encoding="utf-8") as file:
            file.write("fake-master-2\n")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The arguments, the environment and the process of each call."""
        file = self.folder / "calls"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def child(self) -> int:
        """The process that the program has started."""
        return int((self.folder / "child").read_text("utf-8"))

    def public(self) -> str:
        """Return what other users of the machine see of the calls."""
        return json.dumps(self.calls)


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text("ascii")
    except (OSError, ValueError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def spellings(*keys: Secret) -> list[str]:
    """Return the texts in which a key may be shown."""
    texts = [key.reveal() for key in keys]
    return [form for text in texts for form in (text, text.translate(str.maketrans("-_", "+/")))]
