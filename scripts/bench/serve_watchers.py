#!/usr/bin/env python3
"""Measures what `ddpm serve` costs while pages watch a run, and nothing else happens on it.

    .venv/bin/python scripts/bench/serve_watchers.py [--clients 50] [--seconds 60] [--jobs] [--ddpm target/release/ddpm]

A run is made up in a temporary folder, whose metrics.jsonl gets a line twenty times a second, as of a run that is
trained. So many clients listen to the server's events over connections of their own. Printed are the seconds of
processor time that the server took from the first client to the last (/proc/PID/stat), and how many events each
client got. With --jobs a client also asks for images all the time; their computation is then counted, too.

Fails above --limit seconds (2 for 50 clients in a minute), or if a client got fewer than an event every two seconds.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--clients", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--limit", type=float, default=2.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--jobs", action="store_true", help="ask for images all the time, too")
    return parser.parse_args()


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """A server of a run, ready to be asked."""

    def __init__(self, ddpm: Path, run: Path):
        command = [ddpm, "serve", run, "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address, self.token = self.process.stdout.readline().strip().removeprefix("http://").split("/?token=")
        host, port = address.rsplit(":", 1)
        self.address, self.host = (host, int(port)), address

    def ask(self, line: str, body: bytes = b"") -> socket.socket:
        """Sends a request; the answer is to be read."""
        connection = socket.create_connection(self.address)
        head = f"{line} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.token}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection


def listen(connection: socket.socket, stop: threading.Event, events: list[int], place: int) -> None:
    """Counts events until the end."""
    connection.settimeout(0.5)
    while not stop.is_set():
        try:
            received = connection.recv(65536)
        except TimeoutError:
            continue
        if not received:
            break
        events[place] += received.count(b"event: ")


def train(run: Path, stop: threading.Event) -> None:
    """Appends to the metrics of a run as training does."""
    step = 4
    with (run / "metrics.jsonl").open("a") as metrics:
        while not stop.wait(0.05):
            step += 1
            line = {"step": step, "loss": 0.1, "lr": 1e-4, "grad_norm": 1.0, "images_per_sec": 20.0, "secs": step / 20}
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()


def ask_for_jobs(server: Server, stop: threading.Event) -> None:
    wish = {"network": 0, "sampler": "ddim", "steps": 4, "seed": 1, "number": 4, "task": "sample"}
    while not stop.wait(1.0):
        server.ask("POST /api/jobs", json.dumps(wish).encode()).close()


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(ROOT / "tests" / "runs" / "format-2" / "stopped", run)
        server, stop = Server(args.ddpm, run), threading.Event()
        try:
            events = [0] * args.clients
            before, begun = processor_seconds(server.process.pid), time.monotonic()
            connections = [server.ask("GET /api/events") for _ in range(args.clients)]
            work = [(listen, (connection, stop, events, place)) for place, connection in enumerate(connections)]
            work.append((train, (run, stop)))
            if args.jobs:
                work.append((ask_for_jobs, (server, stop)))
            threads = [threading.Thread(target=target, args=given) for target, given in work]
            for thread in threads:
                thread.start()
            time.sleep(args.seconds)
            took, secs = processor_seconds(server.process.pid) - before, time.monotonic() - begun
            stop.set()
            for thread in threads:
                thread.join()
        finally:
            server.process.terminate()
            server.process.wait()
    print(f"{args.clients} clients for {secs:.0f} s: {took:.2f} s of processor time, {min(events)} to {max(events)} events each")
    if took > args.limit:
        print(f"more than {args.limit} s")
    if min(events) < args.seconds / 2:
        print("too few events")
    return int(took > args.limit or min(events) < args.seconds / 2)


if __name__ == "__main__":
    sys.exit(main())
