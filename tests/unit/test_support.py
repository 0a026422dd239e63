"""What the tests lean on: looks at what changes, and ports that are nobody else's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.looks import files_below, is_open_still, open_files
from tests.support.origin import bind_new_port
from tests.support.tools import free_port, nobody_listens


def meanwhile(change: Callable[[], None], look: Callable[[], object]) -> None:
    """Look some hundred times while another thread goes on changing what is looked at."""
    end = threading.Event()

    def go_on() -> None:
        while not end.is_set():
            change()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for _ in range(300):
            look()
    finally:
        end.set()
        thread.join()


def test_descriptors_that_are_closed_between_the_listing_and_the_look(tmp_path: Path) -> None:
    def change() -> None:
        for fd in [os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR) for _ in range(50)]:
            os.close(fd)

    with (tmp_path / "stays").open("w"):
        meanwhile(change, lambda: open_files().index(str(tmp_path / "stays")))


def test_files_that_are_gone_between_the_listing_and_the_look(tmp_path: Path) -> None:
    stays = tmp_path / "stays" / "here"
    stays.parent.mkdir()
    stays.write_bytes(b"x")

    def change() -> None:
        folder = tmp_path / "goes"
        folder.mkdir()
        for number in range(50):
            (folder / str(number)).touch()
        for number in range(50):
            (folder / str(number)).unlink()
        folder.rmdir()

    meanwhile(change, lambda: dict(files_below(tmp_path))[stays].st_size)


def test_a_descriptor_that_is_another_files_by_now(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "one", os.O_CREAT | os.O_RDWR)
    before = os.fstat(fd)
    assert is_open_still(fd, before)
    other = os.open(tmp_path / "two", os.O_CREAT | os.O_RDWR)
    os.dup2(other, fd)
    assert not is_open_still(fd, before)
    os.close(fd)
    os.close(other)
    assert not is_open_still(fd, before)


def test_no_two_origins_have_had_one_port() -> None:
    """Of 3,000 that are bound one after the other the kernel gives some hundred a port that another one had."""
    ports = []
    for _ in range(3000):
        with bind_new_port() as sock:
            ports.append(sock.getsockname()[1])
    assert len(set(ports)) == 3000


def test_a_port_where_nobody_listens_is_nobody_elses() -> None:
    with nobody_listens() as netloc:
        host, port = netloc.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((host, int(port)))


def test_a_port_for_a_program_is_for_it_alone() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)) as program, socket.create_connection(("127.0.0.1", port)):
        program.accept()[0].close()
