"""Fetching one large blob: skep beside nginx + curl + b3sum, the disk, and BLAKE3 alone.

Usage: swarm_side_by_side.py TRANSFER_EXAMPLE [--mebibytes 1024] [--runs 3] [--json]

TRANSFER_EXAMPLE is the built example `transfer` of skep-swarm: two nodes in one process, one
importing a blob of random bytes, the other fetching, verifying and storing it over loopback. The
other side serves a file of the same size from nginx on loopback, fetches it with curl, and hashes
what arrived with b3sum. Runs alternate; the figures are medians, in MB/s (10^6 bytes).

Needs nginx, curl and b3sum (Debian packages of these names).
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(command: list[str], **options) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - begin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nginx:
    """nginx in the foreground on a loopback port, serving one folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        scratch = folder / "nginx"
        scratch.mkdir()
        configuration = scratch / "nginx.conf"
        temporary = "\n".join(
            f"    {kind}_temp_path {scratch}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration.write_text(
            f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {scratch}/nginx.pid;
error_log {scratch}/error.log;
events {{}}
http {{
    access_log off;
    sendfile on;
{temporary}
    server {{
        listen 127.0.0.1:{self.port};
        root {folder};
    }}
}}
"""
        )
        self.process = subprocess.Popen(["nginx", "-c", str(configuration)], stderr=subprocess.DEVNULL)
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"nginx ended at once: {(scratch / 'error.log').read_text()}")
                time.sleep(0.01)
        sys.exit("nginx did not answer")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("transfer", type=Path)
    arguments.add_argument("--mebibytes", type=int, default=1024)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    for program in ("nginx", "curl", "b3sum"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; on Debian: apt-get install {program}")

    size = options.mebibytes * 1024 * 1024
    figures: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        figures.setdefault(name, []).append(size / seconds / 1e6)

    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(options.mebibytes):
                file.write(os.urandom(1024 * 1024))
        nginx = Nginx(folder)
        try:
            for _ in range(options.runs):
                target = folder / "target"
                seconds = timed(["curl", "--silent", "--fail", "-o", str(target), f"http://127.0.0.1:{nginx.port}/source"])
                note("curl from nginx", seconds)
                hashing = timed(["b3sum", "--num-threads", "1", str(target)])
                note("BLAKE3, one thread (b3sum)", hashing)
                note("curl from nginx, then b3sum", seconds + hashing)
                target.unlink()
                written = folder / "written"
                seconds = timed(
                    ["dd", f"if={source}", f"of={written}", "bs=1M", "conv=fdatasync"],
                    stderr=subprocess.DEVNULL,
                )
                note("disk write (dd, fdatasync)", seconds)
                written.unlink()
                printed = subprocess.run(
                    [str(options.transfer), "--mib", str(options.mebibytes), "--dir", str(folder)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                result = json.loads(printed.splitlines()[-1])
                for key, label in (("import", "skep import"), ("fetch", "skep fetch, verified and stored")):
                    figures.setdefault(label, []).append(result[key]["median"])
        finally:
            nginx.stop()
    medians = {name: statistics.median(values) for name, values in figures.items()}
    peer = medians["curl from nginx, then b3sum"]
    medians["ratio of fetch to curl + b3sum"] = medians["skep fetch, verified and stored"] / peer
    if options.json:
        print(json.dumps({"mebibytes": options.mebibytes, "medians": medians, "runs": figures}))
        return
    for name, value in medians.items():
        print(f"{name:<36} {value:>10.2f}{'' if 'ratio' in name else ' MB/s'}")


if __name__ == "__main__":
    main()
