"""importfs beside Samba's smbd under a pipelined client (benches/load.rs): large transfers and small operations.

    python3 benches/load.py [--mib 1024] [--runs 5] [--where /dev/shm]

Both servers serve a directory on the same tmpfs and take turns. Each row: the medians of both, the ratio (the median of the
ratios of the pairs), and CPU seconds of each server for the same work. Put into a new file measures the page allocator, over an
existing one the server.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import side_by_side
from side_by_side import lab

CONNECTIONS = (1, 4)
DEPTH = 8


def client():
    """Builds the client; its path."""
    built = subprocess.run(["cargo", "bench", "--bench", "load", "--no-run", "--message-format=json"], cwd=lab.ROOT,
                           check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "load" and message.get("executable"):
            return message["executable"]
    sys.exit("cargo names no executable for the bench `load`")


def run(program, server, arguments):
    """One run: what the client says, and the server's CPU seconds."""
    before = side_by_side.cpu(server.process.pid)
    command = [program, "--address", f"127.0.0.1:{server.port}", "--user", lab.USER, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "IMPORTFS_PASSWORD": lab.PASSWORD}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    result = json.loads(done.stdout)
    time.sleep(0.2)  # the server's child has ended, and its time is its parent's
    result["server_cpu_seconds"] = side_by_side.cpu(server.process.pid) - before
    return result


def row(program, servers, runs, name, figure, arguments, clean):
    """Alternating runs; prints a line of the table."""
    results = ([], [])
    for turn in range(runs + 1):
        for server, found in zip(servers, results):
            result = run(program, server, arguments)
            if clean:
                for path in server.dir.iterdir():
                    path.unlink()
            if turn:  # the first pair warms up
                found.append(result)
    middle = lambda key, side: statistics.median(r[key] for r in results[side])
    ratio = statistics.median(a[figure] / b[figure] for a, b in zip(*results))
    cpu = [middle("server_cpu_seconds", side) for side in (0, 1)]
    print(f"| {name} | {middle(figure, 0):,.0f} | {middle(figure, 1):,.0f} | {ratio:.2f} | {cpu[0]:.2f} | {cpu[1]:.2f} "
          f"| {cpu[0] / max(cpu[1], 0.01):.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024, help="of all connections together")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--where", default="/dev/shm")
    options = parser.parse_args()
    lab.need("smbd")
    program = client()
    work = lab.workdir("load", options.where)
    servers = lab.Importfs(work / "ours"), lab.Samba(work / "samba")
    print(f"{options.mib} MiB, {options.runs} alternating runs, depth {DEPTH}, 1 MiB pieces\n")
    print("| row | importfs | Samba | ratio | importfs CPU s | Samba CPU s | ratio |\n|---|---|---|---|---|---|---|")
    for connections in CONNECTIONS:
        common = ["--connections", connections, "--depth", DEPTH, "--mib", options.mib // connections]
        tail = f"{connections} connection{'s' if connections > 1 else ''}"
        for protection in ("plain", "signed", "encrypted"):
            moving = [*common, "--protection", protection]
            table = lambda name, work, clean: row(program, servers, options.runs, f"{name}, {protection}, {tail}: MB/s",
                                                  "mb_per_second", [*moving, "--work", work], clean)
            table("put, new file", "put", True)
            for server in servers:
                run(program, server, [*moving, "--work", "put"])
            table("put, over a file", "over", False)
            table("get", "get", False)
            for server in servers:
                for path in server.dir.iterdir():
                    path.unlink()
        for name, work, operations in (("create, write 4 KiB, close", "small", 4000), ("open, query, close", "stat", 20000),
                                       ("echo", "echo", 50000)):
            for server in servers:
                for n in range(connections):
                    (server.dir / f"load{n}").touch()
                    os.chmod(server.dir / f"load{n}", 0o666)
            row(program, servers, options.runs, f"{name}, {tail}: per second", "operations_per_second",
                [*common, "--work", work, "--operations", operations // connections], False)
            for server in servers:
                for path in server.dir.iterdir():
                    path.unlink()


if __name__ == "__main__":
    main()
