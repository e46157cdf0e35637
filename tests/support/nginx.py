"""Debian's nginx as a reverse proxy, as an operator would put one in front."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = Path("/usr/sbin/nginx")
START_TIMEOUT_S = 15
CONNECTIONS = 2048


@contextmanager
def running_nginx(folder: Path, port: int, server: str) -> Iterator[None]:
    """Serve by the lines `server` of a server's block, which has it listen on a port of 127.0.0.1;
    the test is skipped where nginx is not installed."""
    if not PROGRAM.exists():
        pytest.skip("nginx is not installed")
    config = folder / "nginx.conf"
    # Whose folder it is: a body that is larger than nginx's buffer goes there.
    user = "user root root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"""
{user} daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;
events {{ worker_connections {CONNECTIONS}; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ {server} }}
}}
"""
    )
    with (folder / "nginx.log").open("w") as log:
        process = subprocess.Popen([PROGRAM, "-p", folder, "-c", config], stderr=log)
    try:
        end_s = time.monotonic() + START_TIMEOUT_S
        while True:
            said = (folder / "nginx.log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < end_s, said
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()
