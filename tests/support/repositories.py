"""Small repositories, one for each kind of client: what a server has to answer for a package named ``sample``.

Each function gives targets and their replies. ``base`` is the address that the repository believes to be its own: some
have it in their indexes.
"""

from __future__ import annotations

import base64
import bz2
import email.utils
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from .content import content
from .origin import Origin, Reply
from .tools import need, run

YEAR = 365 * 86400
Replies = dict[str, Reply]


class Repository(Origin):
    """An origin that has only what it was given: 404 for the rest. A target that ends in ``?*`` is for any query, and a
    ``%d`` in a Location becomes another number each time."""

    def __init__(self, replies: Callable[[str], Replies], **options: Any) -> None:
        super().__init__(**options)
        self._make = replies
        self._signatures = 0
        self.default = Reply(status=404, body=b"", headers=())

    def open(self, base: str) -> None:
        """Serve, as the server that is known as ``base``."""
        for target, reply in self._make(base).items():
            self.serve(target, reply)

    def asked(self) -> list[str]:
        """Method and target of each request so far."""
        return [f"{one.method} {one.target}" for one in self.seen()]

    def _reply_for(self, target: str) -> Reply:
        path, _, query = target.partition("?")
        reply = super()._reply_for(f"{path}?*" if query and f"{path}?*" in self._replies else target)
        if (location := reply.header("Location")) is None:
            return reply
        self._signatures += 1
        rest = tuple(field for field in reply.headers if field[0] != "Location")
        return replace(reply, headers=(("Location", location.replace("%d", str(self._signatures))), *rest))


def index(body: bytes, media: str = "application/json", *more: tuple[str, str]) -> Reply:
    """What changes now and then: good for ten minutes, with a validator."""
    return Reply(body=body, headers=(("Cache-Control", "max-age=600"), *_about(body, media), *more))


def for_good(body: bytes, media: str = "application/octet-stream", *more: tuple[str, str]) -> Reply:
    """What never changes: a released file."""
    headers = (("Cache-Control", f"max-age={YEAR}, immutable"), ("Accept-Ranges", "bytes"), *_about(body, media))
    return Reply(body=body, headers=(*headers, *more))


def silent(body: bytes, media: str = "application/octet-stream") -> Reply:
    """As a plain file server has it: it says when the file was changed, and nothing of caching."""
    changed = email.utils.formatdate(time.time() - YEAR, usegmt=True)
    return Reply(body=body, headers=(("Last-Modified", changed), ("Accept-Ranges", "bytes"), *_about(body, media)))


def _about(body: bytes, media: str) -> tuple[tuple[str, str], ...]:
    return ("ETag", f'"{hashlib.sha256(body).hexdigest()[:16]}"'), ("Content-Type", media)


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def python(base: str) -> Replies:
    """A "simple" index and a wheel."""
    data = {
        "sample/__init__.py": b"",
        "sample/data.bin": content("wheel", 100_000),
        "sample-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n",
        "sample-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(one).digest()).rstrip(b'=').decode()},{len(one)}\n"
        for name, one in data.items()
    ]
    wheel = zipped(
        {**data, "sample-1.0.dist-info/RECORD": "".join([*lines, "sample-1.0.dist-info/RECORD,,\n"]).encode()}
    )
    name = "sample-1.0-py3-none-any.whl"
    link = f'<a href="../../files/{name}#sha256={hashlib.sha256(wheel).hexdigest()}">{name}</a>'
    page = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()
    return {
        "/simple/sample/": index(page, "text/html", ("Vary", "Accept")),
        f"/files/{name}": for_good(wheel),
    }


def npm(base: str) -> Replies:
    package = {"name": "sample", "version": "1.0.0", "main": "index.js"}
    files = {
        "package/package.json": json.dumps(package).encode(),
        "package/index.js": b"module.exports = 1\n",
        "package/data.bin": content("npm", 100_000),
    }
    archive = gzip.compress(tarred(files), mtime=0)
    dist = {
        "tarball": f"{base}/sample/-/sample-1.0.0.tgz",
        "shasum": hashlib.sha1(archive).hexdigest(),
        "integrity": "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode(),
    }
    document = {
        "name": "sample", "dist-tags": {"latest": "1.0.0"}, "modified": "2024-01-01T00:00:00.000Z",
        "time": {"1.0.0": "2024-01-01T00:00:00.000Z"}, "versions": {"1.0.0": {**package, "dist": dist}},
    }  # fmt: skip
    return {
        "/sample": index(json.dumps(document).encode(), "application/json", ("Vary", "Accept-Encoding, Accept")),
        "/sample/-/sample-1.0.0.tgz": for_good(archive),
    }


def cargo(base: str) -> Replies:
    """A sparse index and a crate."""
    files = {
        "sample-1.0.0/Cargo.toml": b'[package]\nname = "sample"\nversion = "1.0.0"\nedition = "2021"\n',
        "sample-1.0.0/src/lib.rs": b"",
        "sample-1.0.0/data.bin": content("crate", 100_000),
    }
    crate = gzip.compress(tarred(files), mtime=0)
    line = {
        "name": "sample", "vers": "1.0.0", "deps": [], "cksum": hashlib.sha256(crate).hexdigest(),
        "features": {}, "yanked": False,
    }  # fmt: skip
    config = {"dl": f"{base}/crates/{{crate}}/{{version}}/download", "api": None}
    return {
        "/index/config.json": index(json.dumps(config).encode()),
        "/index/sa/mp/sample": index(json.dumps(line).encode() + b"\n", "text/plain"),
        "/crates/sample/1.0.0/download": for_good(crate),
    }


def apt(base: str) -> Replies:
    """A package, and indexes that may be had by their digests, all as a plain file server has them."""
    builder = need("dpkg-deb")
    control = "Package: sample\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(control + "Description: a sample\n")
        (tree / "data").write_bytes(content("deb", 200_000))
        for path in (tree, tree / "DEBIAN"):
            path.chmod(0o755)
        file = Path(name) / "sample_1.0_all.deb"
        done = run([builder, "--root-owner-group", "--build", str(tree), str(file)])
        assert done.returncode == 0, done.stderr
        package = file.read_bytes()
    packages = (
        f"{control}Filename: pool/sample_1.0_all.deb\nSize: {len(package)}\n"
        f"SHA256: {hashlib.sha256(package).hexdigest()}\nDescription: a sample\n\n"
    ).encode()
    digest = hashlib.sha256(packages).hexdigest()
    release = (
        "Suite: stable\nCodename: stable\nArchitectures: all\nComponents: main\nAcquire-By-Hash: yes\n"
        f"Date: {email.utils.formatdate(usegmt=True)}\nSHA256:\n {digest} {len(packages)} main/binary-all/Packages\n"
    ).encode()
    return {
        "/debian/dists/stable/Release": silent(release),
        "/debian/dists/stable/main/binary-all/Packages": silent(packages),
        f"/debian/dists/stable/main/binary-all/by-hash/SHA256/{digest}": silent(packages),
        "/debian/pool/sample_1.0_all.deb": silent(package),
    }


def maven(base: str) -> Replies:
    """A parent POM, and an extension with its JAR: Maven fetches both before it runs any plugin."""
    head = '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'

    def pom(artifact: str, packaging: str) -> bytes:
        return (
            f"{head}<groupId>org.example</groupId><artifactId>{artifact}</artifactId><version>1.0</version>"
            f"<packaging>{packaging}</packaging></project>"
        ).encode()

    jar = zipped({"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\n\n", "data.bin": content("jar", 100_000)})
    files = {
        "org/example/parent/1.0/parent-1.0.pom": pom("parent", "pom"),
        "org/example/sample/1.0/sample-1.0.pom": pom("sample", "jar"),
        "org/example/sample/1.0/sample-1.0.jar": jar,
        # Maven gives it to each extension that doesn't ask for a version of its own.
        "org/codehaus/plexus/plexus-utils/1.1/plexus-utils-1.1.jar": jar,
    }
    replies = {f"/maven2/{name}": silent(data) for name, data in files.items()}
    for name, data in files.items():
        replies[f"/maven2/{name}.sha1"] = silent(hashlib.sha1(data).hexdigest().encode(), "text/plain")
    return replies


def go(base: str) -> Replies:
    """A module proxy."""
    module = b"module example.com/sample\n\ngo 1.19\n"
    files = {"go.mod": module, "sample.go": b"package sample\n", "data.bin": content("go", 100_000)}
    archive = zipped({f"example.com/sample@v1.0.0/{name}": data for name, data in files.items()})
    at = "/goproxy/example.com/sample/@v"
    return {
        f"{at}/list": index(b"v1.0.0\n", "text/plain"),
        f"{at}/v1.0.0.info": for_good(b'{"Version":"v1.0.0","Time":"2024-01-01T00:00:00Z"}', "application/json"),
        f"{at}/v1.0.0.mod": for_good(module, "text/plain"),
        f"{at}/v1.0.0.zip": for_good(archive, "application/zip"),
    }


def conda(base: str) -> Replies:
    """A channel with one package that is for all platforms."""
    about = {
        "name": "sample", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "noarch": "generic",
        "subdir": "noarch", "arch": None, "platform": None,
    }  # fmt: skip
    data = content("conda", 100_000)
    paths = {
        "paths_version": 1,
        "paths": [
            {"_path": "share/sample/data.bin", "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest(),
             "size_in_bytes": len(data)},
        ],
    }  # fmt: skip
    package = bz2.compress(
        tarred(
            {
                "info/index.json": json.dumps(about).encode(),
                "info/paths.json": json.dumps(paths).encode(),
                "info/files": b"share/sample/data.bin\n",
                "share/sample/data.bin": data,
            }
        )
    )
    name = "sample-1.0-0.tar.bz2"
    told = {
        **about, "md5": hashlib.md5(package).hexdigest(), "sha256": hashlib.sha256(package).hexdigest(),
        "size": len(package),
    }  # fmt: skip
    replies = {f"/channel/noarch/{name}": for_good(package)}
    for subdir, packages in (("noarch", {name: told}), ("linux-64", {})):
        document = {
            "info": {"subdir": subdir}, "packages": packages, "packages.conda": {}, "removed": [],
            "repodata_version": 1,
        }  # fmt: skip
        plain = json.dumps(document).encode()
        replies[f"/channel/{subdir}/repodata.json"] = index(plain)
        replies[f"/channel/{subdir}/repodata.json.zst"] = index(zstandard.compress(plain), "application/zstd")
    return replies


def docker(base: str) -> Replies:
    """A registry that wants a token of everybody, and sends those who ask for a layer to an object store, with a new
    signature each time."""
    media = "application/vnd.docker.distribution.manifest.v2+json"
    layer = gzip.compress(tarred({"data.bin": content("layer", 200_000)}), mtime=0)
    told = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(gzip.decompress(layer)).hexdigest()]},
    }  # fmt: skip
    config = json.dumps(told).encode()

    def digest(data: bytes) -> str:
        return "sha256:" + hashlib.sha256(data).hexdigest()

    manifest = json.dumps(
        {
            "schemaVersion": 2, "mediaType": media,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config),
                       "digest": digest(config)},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": len(layer),
                        "digest": digest(layer)}],
        }
    ).encode()  # fmt: skip
    realm = f'Bearer realm="{base}/token",service="registry"'
    named = ("Docker-Content-Digest", digest(manifest))
    page = Reply(body=manifest, headers=(("Content-Type", media), named, ("ETag", f'"{digest(manifest)}"')))
    return {
        "/v2/": Reply(status=401, body=b"{}", headers=(("WWW-Authenticate", realm),)),
        "/v2/library/sample/manifests/1.0": page,
        f"/v2/library/sample/manifests/{digest(manifest)}": page,
        f"/v2/library/sample/blobs/{digest(config)}": silent(config),
        f"/v2/library/sample/blobs/{digest(layer)}": signed("/store/layer"),
        "/store/layer?*": silent(layer),
        "/token?*": Reply(
            body=b'{"token": "abc", "access_token": "abc", "expires_in": 300}',
            headers=(("Content-Type", "application/json"), ("Cache-Control", "no-store")),
        ),
    }


def signed(target: str) -> Reply:
    """Sent on, to a URL that is good for a while; the origin puts a signature of its own into each."""
    return Reply(status=307, body=b"", headers=(("Location", f"{target}?X-Amz-Expires=60&X-Amz-Signature=%d"),))


def models(base: str) -> Replies:
    """A store of models: names on the hub, contents in an object store behind redirects with signatures."""
    weights = content("weights", 300_000)
    commit = "a" * 40
    about = (
        ("X-Repo-Commit", commit),
        ("X-Linked-Etag", f'"{hashlib.sha256(weights).hexdigest()}"'),
        ("X-Linked-Size", str(len(weights))),
        ("Cache-Control", "no-cache"),
    )
    sent_on = signed(f"{base}/store/weights")
    return {
        "/acme/model/resolve/main/weights.bin": Reply(
            status=302, body=b"", headers=(*sent_on.headers, *about, ("ETag", f'"{commit}"'))
        ),
        "/store/weights?*": silent(weights),
        "/api/agent-harnesses": index(b"{}"),
    }
