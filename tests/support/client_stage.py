"""Agents, and what is behind the proxy, for the recipes of docs/clients.md: each agent is a machine of its own, as far
as its client can see, and the packages are in a small repository that speaks the client's protocol."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self

import pytest

from . import repositories
from .certificates import self_signed, server_context
from .git_server import GitServer
from .proxy import SCRIPT, Proxy, clean_environment
from .recipes import Recipe
from .repositories import Repository
from .tools import SHORT_JAVA, free_port, need, run

NAMES = Path(__file__).parent / "names"
PATIENCE = 100.0
"""Seconds for one run of a client on a busy machine."""
HOST = "packages.test"
"""packages.example here: a name that clients don't take for their own machine, which many ask without the proxy."""
OBJECT_STORE = "s3-and-duckdb"

REPOSITORIES: dict[str, Callable[[str], repositories.Replies]] = {
    "pip": repositories.python,
    "uv": repositories.python,
    "npm": repositories.npm,
    "yarn": repositories.npm,
    "cargo": repositories.cargo,
    "apt": repositories.apt,
    "maven": repositories.maven,
    "gradle": repositories.maven,
    "go": repositories.go,
    "conda": repositories.conda,
    "curl-and-wget": repositories.python,
    "docker": repositories.docker,
    "hugging-face-like-stores": repositories.models,
}
MIRRORED = {"cargo", "docker", "yarn"}
"""Their indexes have to name the mirror, or agents go past it."""
PROGRAMS = {
    "apt": ("apt-get", "dpkg-deb"),
    "conda": (),
    "hugging-face-like-stores": (),
    "curl-and-wget": ("curl", "wget"),
    "docker": ("skopeo",),
    "maven": ("mvn",),
    "s3-and-duckdb": (),
    "yarn": ("npm",),
}
MODULES = {"s3-and-duckdb": ("duckdb", "duckdb_extension_httpfs", "boto3", "moto")}
FETCHED = {
    "yarn-classic": ("npm", "yarn@1.22.22"),
    "yarn-berry": ("npm", "@yarnpkg/cli-dist@4.18.1"),
    "conda-rattler": ("pip", "py-rattler==0.28.0"),
    "hugging-face-like-stores-environment": ("pip", "huggingface-hub==2.4.0"),
}
"""Clients that are no programs of a machine: from whatever registry it is set up for, into a folder of their own."""
OWN = ("pip_", "uv_", "npm_", "yarn_", "cargo_", "go", "hf_", "conda_", "maven_", "git_", "aws_", "virtual_env", "xdg_")
"""Variables that say how clients reach their registries on this machine."""
SQL = """
import pathlib, sys, duckdb, duckdb_extension_httpfs
extension = next(pathlib.Path(duckdb_extension_httpfs.__path__[0]).rglob("httpfs.duckdb_extension"))
with duckdb.connect() as database:
    database.execute(f"LOAD '{extension}'")
    print(database.execute(pathlib.Path(sys.argv[1]).read_text()).fetchall())
"""


class Upstream(Protocol):
    """What is behind the proxy."""

    port: int

    def asked(self) -> list[str]:
        """Method and target of each request so far."""
        ...


class ObjectStore:
    """An S3 API with one object in it."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        import duckdb

        from tests.test_duckdb import BUCKET, S3

        file = folder / "events.parquet"
        duckdb.execute(f"COPY (SELECT i AS id, hash(i) AS a FROM range(50000) t(i)) TO '{file}' (FORMAT parquet)")
        self._server = stack.enter_context(S3())
        self.port = int(self._server.netloc.rpartition(":")[2])
        self._server.client.upload_file(str(file), BUCKET, "events.parquet")
        self._server.counted.figures()

    def asked(self) -> list[str]:
        return [f"GET {target} {span}".rstrip() for target, span in self._server.counted.gets]


@cache
def client_folder(recipe: Recipe) -> str:
    """The folder that the recipe's client was fetched into, if it had to be. The test is skipped if there is none."""
    for module in MODULES.get(recipe.client, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    for program in PROGRAMS.get(recipe.client, (recipe.client,)):
        if not (Path(sys.executable).parent / program).exists():
            need(program)
    if str(recipe) not in FETCHED:
        return ""
    kind, package = FETCHED[str(recipe)]
    folder = None if kind in _unreachable else _fetched(kind, package)
    if folder is None:
        _unreachable.add(kind)
        pytest.skip(f"{kind} gets nothing from outside of this machine, so there is no {package}")
    return folder


_unreachable: set[str] = set()
"""Registries that have failed once: nobody waits for them again."""


@cache
def _fetched(kind: str, package: str) -> str | None:
    """A folder with the package, or None."""
    folder = tempfile.mkdtemp(prefix="client-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if kind == "npm":
        command = [need("npm"), "install", "--silent", "--no-save", "--prefix", folder, package]
    else:
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, package]
    try:
        return folder if run(command, PATIENCE).returncode == 0 else None
    except subprocess.TimeoutExpired:
        return None


class Agent:
    """A machine of its own, as far as the client can see: home, temporary files, and what would be in /etc."""

    def __init__(self, folder: Path, recipe: Recipe, translate: Callable[[str], str]) -> None:
        self.root = folder
        self.home = folder / "home"
        self.work = folder / "work"
        self.recipe = recipe
        self.translate = translate
        self.fetched = client_folder(recipe)
        for name in (
            "home", "work", "tmp", "lists/partial", "cache/archives/partial", "etc/apt/apt.conf.d",
            "etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d",
        ):  # fmt: skip
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(
            f'Dir::Etc "{folder}/etc/apt"; Dir::State::lists "{folder}/lists"; Dir::State::status "{folder}/status"; '
            f'Dir::Cache "{folder}/cache"; APT::Sandbox::User "root"; Acquire::Languages "none";\n'
        )
        for name, text in recipe.files:
            file = self.home / name[2:] if name.startswith("~/") else folder / name.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(translate(text))

    def environment(self) -> dict[str, str]:
        """That of this process, without what says how clients reach their registries here."""
        clean = {name: value for name, value in clean_environment().items() if not name.lower().startswith(OWN)}
        fetched = [f"{self.fetched}/bin", f"{self.fetched}/node_modules/.bin"] if self.fetched else []
        path = [*fetched, str(Path(sys.executable).parent), clean["PATH"]]
        return {
            **clean,
            "HOME": str(self.home),
            "TMPDIR": str(self.root / "tmp"),
            "PATH": ":".join(path),
            "PYTHONPATH": ":".join(filter(None, (self.fetched, str(NAMES)))),
            "XDG_CONFIG_DIRS": str(self.root / "etc" / "xdg"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": "",
            "APT_CONFIG": str(self.root / "apt.conf"),
            "JAVA_TOOL_OPTIONS": " ".join([f"-Duser.home={self.home}", *SHORT_JAVA]),  # Java doesn't look at HOME
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path("~/.rustup").expanduser())),
            "NPM_CONFIG_UPDATE_NOTIFIER": "false",
            "YARN_CACHE_FOLDER": str(self.home / ".cache" / "yarn"),  # elsewhere, for root
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def start(self) -> Running:
        """Begin to do what the document says."""
        script = self.root / "commands"
        script.write_text(self.translate(self.recipe.commands))
        interpreters = {"python": [sys.executable], "sql": [sys.executable, "-c", SQL], "sh": [need("bash"), "-eux"]}
        return Running([*interpreters[self.recipe.language], str(script)], self.work, self.environment())

    def run(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Do it, to its end. Its exit status, and all that was printed."""
        with self.start() as running:
            return running.end(timeout)


class Running:
    """A client at work, in a process group of its own: what it has started ends with it."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with this object
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT, cwd=folder,
            env=environment, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def end(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Wait for the end: the exit status, and all that was printed."""
        status = self._process.wait(timeout)
        self._output.seek(0)
        return status, self._output.read()


class Stage:
    """What is behind the proxy, in plain and over TLS, and a proxy that is started as a client's recipes have it. Those
    whose client isn't there are left out; the test is skipped if none is left."""

    def __init__(self, folder: Path, recipes: Sequence[Recipe], **options: Any) -> None:
        self.folder = folder
        self.recipes = []
        for recipe in recipes:
            try:
                client_folder(recipe)
                self.recipes.append(recipe)
            except pytest.skip.Exception:
                if recipe is recipes[-1] and not self.recipes:
                    raise
        self.client = recipes[0].client
        (self.arguments,) = {recipe.proxy for recipe in recipes}
        self.options = options
        self.origins: list[Upstream] = []
        self._agents = 0
        self._ports = free_port(), free_port()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            certificate = self_signed(self.folder / "origin.pem", HOST)
            self.origins = self._upstream(stack, certificate)
            self.proxy = Proxy(
                self.folder, arguments=self._arguments(), script=NAMES / "sitecustomize.py", scripts=[SCRIPT],
                ssl_verify_upstream_trusted_ca=certificate, origin_retries=0, **self.options,
            )  # fmt: skip
            stack.callback(self.proxy.close)
            self.proxy.start()
            for port in self._ports:
                if any(f"@{port}" in one for one in self.proxy.arguments):
                    self.proxy.wait_for_log(rf"listening at \S+:{port}\b")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stack.close()
        if kind is None:
            self.proxy.check_log()

    def _upstream(self, stack: contextlib.ExitStack, certificate: Path) -> list[Upstream]:
        """What answers to http://packages.example, and to https://packages.example."""
        tls = server_context(certificate)
        client = self.client
        if client == OBJECT_STORE:
            return [ObjectStore(stack, self.folder)]
        if client == "git":
            plain = stack.enter_context(GitServer(self.folder / "plain"))
            return [plain, stack.enter_context(GitServer(self.folder / "secure", tls))]
        make = REPOSITORIES[client]
        origins = [stack.enter_context(Repository(make)), stack.enter_context(Repository(make, tls=tls))]
        known = ["http://packages.example", "https://packages.example"]
        if client in MIRRORED:
            known[1] = "http://cache.example:8081"
        elif client == "hugging-face-like-stores":
            known[1] = known[0]  # the contents are elsewhere
        for origin, base in zip(origins, known, strict=True):
            origin.open(self._translate(base, origins))
        return list(origins)

    def _arguments(self) -> list[str]:
        arguments = [self.translate(one) for one in self.arguments]
        if "--mode" not in arguments:
            arguments = ["--mode", "regular", *arguments]
        return [f"regular@{self._ports[0]}" if one == "regular" else one for one in arguments]

    def translate(self, text: str) -> str:
        """The document's names and ports, replaced by those of this test."""
        return self._translate(text, self.origins)

    def _translate(self, text: str, origins: Sequence[Upstream]) -> str:
        # pip trusts its own machine without being told to: so it is given a name.
        own = "cache.test" if self.client == "pip" else "127.0.0.1"
        host = "127.0.0.1" if self.client == OBJECT_STORE else HOST  # in a name it would find a bucket's
        for old, new in (
            ("https://packages.example", f"https://{host}:{origins[-1].port}"),
            ("http://packages.example", f"http://{host}:{origins[0].port}"),
            ("'packages.example'", f"'{host}:{origins[0].port}'"),
            ("packages.example", host),
            ("cache.example", own),
        ):
            text = text.replace(old, new)
        for old_port, port in zip(("8080", "8081"), self._ports, strict=True):
            text = re.sub(rf"\b{old_port}\b", str(port), text)
        return text

    def agent(self, recipe: Recipe) -> Agent:
        """A new one, with nothing on its disk."""
        self._agents += 1
        return Agent(self.folder / f"agent{self._agents}", recipe, self.translate)

    def asked(self, before: Sequence[int] = (0, 0)) -> list[str]:
        """What has reached the origins, since each of them had been asked so often."""
        return [one for origin, count in zip(self.origins, before, strict=False) for one in origin.asked()[count:]]

    def counts(self) -> list[int]:
        """How often each origin has been asked."""
        return [len(origin.asked()) for origin in self.origins]


DONE_WITH = {"conda": "prefix/conda-meta/sample-*.json"}
"""Clients whose exit status counts for nothing if they have made this and complain of nothing. py-rattler, a library
with threads of its own under the interpreter, was seen to end with another status than 0 after all of its work, without
a word, twice and beside a load."""


def second_run(stage: Stage, recipe: Recipe) -> tuple[int, list[str], str]:
    """Hits of the second of two agents, what it has the origin asked for, and all of that in words."""
    for turn in range(2):
        before, counts = stage.proxy.settled(), stage.counts()
        agent = stage.agent(recipe)
        status, printed = agent.run()
        made = DONE_WITH.get(recipe.client)
        if made is not None and not printed and list(agent.work.glob(made)):
            status = 0
        assert status == 0, f"{recipe} ended with {status}: {printed}\n{stage.proxy.text()}"
        if turn == 0:
            first = stage.asked(counts)
    hits = int((stage.proxy.settled() - before).value("hits_total"))
    new = stage.asked(counts)
    return hits, new, f"{hits} hits, and the origin was asked for {new}; for the first agent, for {first}"
