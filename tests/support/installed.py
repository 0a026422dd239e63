"""The package as users have it: a wheel in a virtual environment of its own, far from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from .proxy import ROOT, clean_environment

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "proxy_cache")


def build_wheel(folder: Path) -> Path:
    """From a copy: a build leaves things behind in its folder."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    _pip(sys.executable, folder, "wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Into an environment that sees what else this one has: its packages, and mitmproxy's command as pip makes it.
    Returns the folder of its commands."""
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    commands = environment / "bin"
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder that a .pth names is searched, and its own .pth files are not: so not for the checkout.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _pip(sys.executable, folder, "--python", str(commands / "python"), "install", "--force-reinstall", str(wheel))
    script = (Path(sys.executable).parent / "mitmdump").read_text()
    (commands / "mitmdump").write_text(f"#!{commands / 'python'}\n{script.partition(chr(10))[2]}")
    (commands / "mitmdump").chmod(0o755)
    return commands


def _pip(python: str, folder: Path, *arguments: str) -> None:
    quiet = ("--isolated", "--disable-pip-version-check", "--no-input", "--quiet")
    offline = ("--no-deps", "--no-index", "--no-cache-dir")
    done = subprocess.run(
        [python, "-m", "pip", *quiet, *arguments, *offline],
        cwd=folder, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
