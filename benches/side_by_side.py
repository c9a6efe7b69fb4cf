"""importfs beside Samba's smbd: the same client, the same tmpfs, alternating runs, medians and ratios.

    python3 benches/side_by_side.py [--mib 4096] [--runs 5] [--where /dev/shm] [--rows REGEX]

Rows: put (into a new file and over an existing one) and get on a directory share, plain, signed and encrypted, of random data
and of zeros; puts of both on the import share. For each: MB/s of both servers and their ratio, CPU seconds of each server and of
its client. Then eight clients that put at once, and the peak memory of each server. Needs three times the size free at --where.
"""
import argparse
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))
import check_restore  # noqa: E402
import lab  # noqa: E402

EIGHT = 8
TICKS = os.sysconf("SC_CLK_TCK")
MODES = {"plain": ["--client-protection=off"], "signed": ["--client-protection=sign"],
         "encrypted": ["--client-protection=encrypt"]}


def family(pid):
    """A process and its descendants."""
    found, queue = [], [pid]
    while queue:
        one = queue.pop()
        found.append(one)
        for task in pathlib.Path(f"/proc/{one}/task").glob("*/children"):
            try:
                queue += map(int, task.read_text().split())
            except OSError:
                pass
    return found


def cpu(pid):
    """CPU seconds that a server and its children used, ended children included."""
    total = 0
    for one in family(pid):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / TICKS
    return total


def peak_mib(pid):
    """The largest process's peak resident memory."""
    peaks = [0]
    for one in family(pid):
        try:
            for line in pathlib.Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    peaks.append(int(line.split()[1]) / 1024)
        except OSError:
            pass
    return max(peaks)


def resident_mib(pid):
    """Resident memory of a server and its children together now, pages shared among them counted once each (PSS)."""
    total = 0
    for one in family(pid):
        try:
            for line in pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) / 1024
        except OSError:
            pass
    return total


class Run:
    """One client command against one server."""

    def __init__(self, server, share, command, options, size, cwd):
        before, client = cpu(server.process.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        done = lab.smbclient(server.port, share, command, *options, cwd=cwd)
        self.seconds = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode or "NT_STATUS" in done.stdout:
            sys.exit(f"{command}: {done.stdout}")
        self.rate = size / 1e6 / self.seconds
        self.client = after.ru_utime + after.ru_stime - client.ru_utime - client.ru_stime
        time.sleep(0.2)  # the server's child has ended, and its time is its parent's
        self.server = cpu(server.process.pid) - before


def median(values):
    return statistics.median(values)


def row(name, ours, theirs):
    """A line of the table."""
    fast = median([a.rate / b.rate for a, b in zip(ours, theirs)])
    used = median([a.server for a in ours]) / max(median([b.server for b in theirs]), 1 / TICKS)
    print(f"| {name} | {median([r.rate for r in ours]):.0f} | {median([r.rate for r in theirs]):.0f} | {fast:.2f} "
          f"| {median([r.server for r in ours]):.2f} | {median([r.server for r in theirs]):.2f} | {used:.2f} "
          f"| {median([r.client for r in ours]):.2f} | {median([r.client for r in theirs]):.2f} |", flush=True)


def at_once(ours, theirs, work, size):
    """Eight clients put a file each, at once: the time until all have ended."""
    with open(work / "eighth", "wb") as f:
        f.write(os.urandom(size))
    rates = []
    for server in (ours, theirs):
        begun, used = time.monotonic(), cpu(server.process.pid)
        clients = [subprocess.Popen(["smbclient", "//127.0.0.1/dir", "-p", str(server.port), "-U", f"{lab.USER}%{lab.PASSWORD}",
                                     "-c", f"put eighth x{n}"], cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
                   for n in range(EIGHT)]
        peak = 0
        while any(client.poll() is None for client in clients):
            peak = max(peak, resident_mib(server.process.pid))
            time.sleep(0.02)
        if any(client.returncode for client in clients):
            sys.exit("a put failed")
        rates.append((EIGHT * size / 1e6 / (time.monotonic() - begun), cpu(server.process.pid) - used, peak))
        for path in server.dir.iterdir():
            path.unlink()
    (rate, used, peak), (rate_b, used_b, peak_b) = rates
    print(f"\neight clients at once: {rate:.0f} MB/s, Samba {rate_b:.0f}, ratio {rate / rate_b:.2f}; CPU {used:.2f} s, Samba {used_b:.2f}; "
          f"memory of all processes at most {peak:.0f} MiB, Samba {peak_b:.0f} MiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--where", default="/dev/shm")
    parser.add_argument("--rows", default="", help="only rows whose name this expression is found in")
    arguments = parser.parse_args()
    lab.need("smbclient", "smbd")
    size = arguments.mib << 20
    work = lab.workdir("bench", arguments.where)
    with open(work / "random", "wb") as f:
        block = os.urandom(64 << 20)
        for _ in range(0, size, len(block)):
            f.write(block)
        f.truncate(size)
    with open(work / "zeros", "wb") as f:
        f.truncate(size)
    ours, theirs = lab.Importfs(work / "ours"), lab.Samba(work / "samba")
    print(f"{arguments.mib} MiB, {arguments.runs} alternating runs, medians; smbclient, one connection\n")
    print("| row | importfs MB/s | Samba MB/s | ratio | importfs CPU s | Samba CPU s | ratio | client CPU s | with Samba |")
    print("|---|---|---|---|---|---|---|---|---|")

    def pair(name, command, options, share="dir", prepare=lambda turn: None, clean=lambda: None):
        if not re.search(arguments.rows, name):
            return
        a, b = [], []
        for turn in range(arguments.runs + 1):
            prepare(turn)
            first = Run(ours, share, command(turn) if callable(command) else command, options, size, work)
            clean()
            second = Run(theirs, "dir", command if isinstance(command, str) else f"put {command.source} x", options, size, work)
            clean()
            if turn:  # the first pair warms up
                a.append(first)
                b.append(second)
        row(name, a, b)

    def clean():
        for server in (ours, theirs):
            for path in server.dir.iterdir():
                path.unlink()

    for mode, options in MODES.items():
        for kind in ("random", "zeros"):
            pair(f"put {kind}, new file, {mode}", f"put {kind} x", options, clean=clean)
        pair(f"put random, over a file, {mode}", "put random x", options)
        if re.search(arguments.rows, f"get random, {mode}"):
            for server in (ours, theirs):
                Run(server, "dir", "put random x", options, size, work)
        pair(f"get random, {mode}", "get x /dev/null", options)
        clean()

    class Import:
        """The command that makes a session and puts the extent into it, named anew in each turn."""

        def __init__(self, source):
            self.source = source

        def __call__(self, turn):
            return f"cd {self.source}{turn}; put {self.source} bench-flat.vmdk"

    for kind in ("random", "zeros"):
        def prepare(turn, kind=kind):
            name = f"{kind}{turn}"
            (work / "bench.cfg").write_text(check_restore.cfg(name, [("bench", size, "thin")], "rename"))
            made = lab.smbclient(ours.port, "import", f"mkdir {name}; cd {name}; put bench.cfg", cwd=work)
            if "NT_STATUS" in made.stdout:
                sys.exit(made.stdout)

        def clean_import(kind=kind):
            clean()
            # The sessions first: one that is open holds its disks, and their space.
            lab.smbclient(ours.port, "import", f"deltree {kind}*", cwd=work)
            for path in ours.datastore.glob("*/*-flat.vmdk"):
                path.unlink()

        pair(f"put {kind}, import share, plain", Import(kind), MODES["plain"], "import", prepare, clean_import)
    clean()
    at_once(ours, theirs, work, size // EIGHT)
    print(f"\npeak memory: importfs {peak_mib(ours.process.pid):.0f} MiB, Samba's largest process {peak_mib(theirs.process.pid):.0f} MiB")


if __name__ == "__main__":
    main()
