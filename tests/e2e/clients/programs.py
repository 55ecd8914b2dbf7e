"""The programs that show what clients can do, one for each: which there are, how they are built and started.

Owns the clients' names and, from the files beside it, their pinned versions. A program takes everything from its
environment (runs.py) and prints a line for each check: `ok NAME`, `FAILED NAME: why` or `not offered NAME`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cache import call, kept
from tests.e2e.go_programs import Go, built

_FOLDER = Path(__file__).parent

CHECKS = (
    "RESP2",
    "RESP3",
    "TLS",
    "ACL user",
    "database 3",
    "pipeline",
    "transaction",
    "pub/sub",
    "blocking pop",
    "script",
    "client-side caching",
    "reconnect",
)


@dataclass(frozen=True)
class Client:
    """One client. `package` is its name where it comes from, `program` its file's or folder's name here."""

    name: str
    language: str
    package: str
    program: str

    @property
    def version(self) -> str:
        """The pinned version."""
        file, pattern = _PINS[self.language]
        text = (_FOLDER / file).read_text(encoding="utf-8")
        match = re.search(pattern.format(re.escape(self.package)), text, re.MULTILINE)
        assert match, f"{file} does not name {self.package}"
        return match[1].removeprefix("v").removesuffix(".RELEASE")


_PINS = {
    "Go": ("go/go.mod", r"^\t{} (\S+)$"),
    "Java": ("java/pom.xml", r"<artifactId>{}</artifactId>\s*<version>(\S+)</version>"),
    "Node": ("node/package.json", r'"{}": "(\S+)"'),
    "Python": ("python/requirements.txt", r"^{}==(\S+)"),
}

CLIENTS = (
    Client("valkey-go", "Go", "github.com/valkey-io/valkey-go", "valkey-go"),
    Client("go-redis", "Go", "github.com/redis/go-redis/v9", "go-redis"),
    Client("Lettuce", "Java", "lettuce-core", "LettuceProgram"),
    Client("Jedis", "Java", "jedis", "JedisProgram"),
    Client("Valkey GLIDE for Java", "Java", "valkey-glide", "GlideProgram"),
    Client("iovalkey", "Node", "iovalkey", "iovalkey"),
    Client("node-redis", "Node", "redis", "node-redis"),
    Client("Valkey GLIDE for Node", "Node", "@valkey/valkey-glide", "glide"),
    Client("valkey-py", "Python", "valkey", "valkey_py"),
    Client("redis-py", "Python", "redis", "redis_py"),
    Client("Valkey GLIDE for Python", "Python", "valkey-glide", "glide_py"),
    Client("coredis", "Python", "coredis", "coredis_py"),
)


def build(language: str) -> Path:
    """A folder with the language's programs and their packages; made now if it is not in the cache."""
    sources = _FOLDER / language.lower()
    made_from = hashlib.sha256()
    for path in sorted(sources.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            made_from.update(f"{path.relative_to(sources)}\n".encode() + path.read_bytes())
    if language == "Go":
        return built("clients-go", made_from.digest(), lambda folder, go: _make_go(sources, folder, go))
    make = {"Java": _make_java, "Node": _make_node, "Python": _make_python}[language]
    return kept(f"clients-{language.lower()}", made_from.digest(), lambda folder: make(sources, folder))


def command(client: Client, folder: Path) -> list[str]:
    """How the program is started, `folder` being what `build` gave."""
    if client.language == "Go":
        return [str(folder / client.program)]
    if client.language == "Java":
        options = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx128m"]
        return [_found("java", "Debian: default-jdk-headless"), *options, "-cp", f"{folder}/*:{folder}", client.program]
    if client.language == "Node":
        return [_found("node", "Debian: nodejs"), str(folder / f"{client.program}.js")]
    return [sys.executable, "-S", str(folder / f"{client.program}.py")]


def _make_go(sources: Path, folder: Path, go: Go) -> Path:
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    (folder / "out").mkdir()
    go("build", "-ldflags=-s -w", "-o", "out/", "./...")
    return folder / "out"


def _make_java(sources: Path, folder: Path) -> Path:
    """The jars, each with the hash in jars.sha256, and the classes."""
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    maven = [_found("mvn", "Debian: maven"), "--batch-mode", "--quiet", "--strict-checksums"]
    call("Java clients", [*maven, "dependency:copy-dependencies", "-DoutputDirectory=jars"], folder)
    jars = sorted((folder / "jars").iterdir())
    found = [f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}" for jar in jars]
    locked = (sources / "jars.sha256").read_text().splitlines()
    assert found == locked, "these are not the jars of jars.sha256:\n" + "\n".join(sorted({*found} ^ {*locked}))
    javac = [_found("javac", "Debian: default-jdk-headless"), "-nowarn", "-cp", "jars/*", "-d", "jars"]
    call("Java programs", [*javac, *(path.name for path in sources.glob("*.java"))], folder)
    return folder / "jars"


def _make_node(sources: Path, folder: Path) -> Path:
    """npm checks each package against its hash in package-lock.json."""
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    npm = [_found("npm", "Debian: npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    call("Node clients", npm, folder)
    return folder


def _make_python(sources: Path, folder: Path) -> Path:
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", "install"]
    call("Python clients", [*pip, "--no-deps", "--require-hashes", "-r", "requirements.txt", "-t", "."], folder)
    return folder


def _found(program: str, advice: str) -> str:
    path = shutil.which(program)
    assert path, f"{program} is missing: clients' programs need it ({advice})"
    return path
