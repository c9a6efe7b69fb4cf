"""Datastore drivers beside the raw tools that one would use instead: the same image, the same tmpfs, alternating, medians and ratios.

    python3 benches/drivers.py [--mib 1024] [--runs 5] [--where /dev/shm] [--only NAME]

Images: random data, zeros that are allocated, and a disk that is 20 % full of half compressible data. A row has MB/s of the disk's
size for both sides and the median of the runs' ratios (above 1: ours is faster), then CPU seconds of both.
"""
import argparse
import filecmp
import os
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))
import lab  # noqa: E402
import vlab  # noqa: E402

MIB, GRAIN = 1 << 20, 64 << 10


def images(where, mib):
    """The three images: name, path."""
    r = random.Random(1)
    words = [r.randbytes(8) for _ in range(4096)]
    kinds = {"random": lambda: r.randbytes(GRAIN), "zeros": lambda: bytes(GRAIN),
             "20 % full": lambda: None if r.random() >= 0.2 else r.randbytes(GRAIN) if r.random() < 0.5 else b"".join(r.choices(words, k=GRAIN // 8))}
    for name, grain in kinds.items():
        path = where / f"{name[:2].strip()}.img"
        with open(path, "wb") as f:
            f.truncate(mib * MIB)
            for offset in range(0, mib * MIB, GRAIN):
                data = grain()
                if data is not None:
                    f.seek(offset)
                    f.write(data)
        yield name, path


class Run:
    """One command, or several that one after the other are one side's way; wall and CPU time."""

    def __init__(self, *commands):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        for command in commands:
            done = subprocess.run([*map(str, command)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{command}: {done.stdout}{done.stderr}")
        self.seconds = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name, size, ours, theirs, extra=""):
    median = statistics.median
    print(f"| {name} | {size / 1e6 / median([r.seconds for r in ours]):.0f} | {size / 1e6 / median([r.seconds for r in theirs]):.0f} "
          f"| {median([b.seconds / a.seconds for a, b in zip(ours, theirs)]):.2f} | {median([r.cpu for r in ours]):.2f} "
          f"| {median([r.cpu for r in theirs]):.2f} | {extra} |", flush=True)


def stream_optimized(tool, image, name, work, runs):
    size = os.path.getsize(image)
    for level in (1, 6):
        ours, theirs, bytes_made = [], [], []
        for _ in range(runs):
            a, b = work / "ours.vmdk", work / "theirs.vmdk"
            ours.append(Run((tool, "stream-optimized", image, a, level)))
            theirs.append(Run(("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", image, b)))
            bytes_made = [path.stat().st_size for path in (a, b)]
            a.unlink(), b.unlink()
        row(f"stream-optimized level {level}, {name}, qemu-img convert", size, ours, theirs,
            f"{bytes_made[0] / MIB:.0f} and {bytes_made[1] / MIB:.0f} MiB")


def nbd(tool, image, name, work, runs):
    """Into nbdkit's file plugin. Both sides' CPU is the client's; nbdkit does the same for both."""
    if not (shutil.which("nbdkit") and shutil.which("nbdcopy")):
        print("left out: nbd (nbdkit, nbdcopy)")
        return
    size, socket, export = os.path.getsize(image), work / "nbd.sock", work / "export.img"
    ours, theirs = [], []

    def run(*command):
        export.unlink(missing_ok=True)
        socket.unlink(missing_ok=True)
        with open(export, "wb") as f:
            f.truncate(size)
        server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "file", export])
        while not socket.exists():
            time.sleep(0.01)
        try:
            return Run(command)
        finally:
            server.terminate()
            server.wait()
            if not filecmp.cmp(image, export, shallow=False):
                sys.exit(f"{command}: the export differs")

    for _ in range(runs):
        ours.append(run(tool, "nbd", image, f"nbd+unix:///?socket={socket}"))
        theirs.append(run("nbdcopy", "--flush", image, f"nbd+unix:///?socket={socket}"))
    export.unlink()
    row(f"nbd, {name}, nbdcopy", size, ours, theirs)


def directory(tool, image, name, work, runs):
    """Into a file on the same tmpfs, beside cp."""
    size, target = os.path.getsize(image), work / "target-flat.vmdk"
    ours, theirs = [], []
    for _ in range(runs):
        for side, command in ((ours, (tool, "directory", image, target)), (theirs, ("cp", "--sparse=always", image, target))):
            target.unlink(missing_ok=True)
            side.append(Run(command))
            if not filecmp.cmp(image, target, shallow=False):
                sys.exit(f"{command}: the copy differs")
    target.unlink()
    row(f"directory, {name}, cp --sparse=always", size, ours, theirs)


def device(tool, image, name, work, runs):
    """hotadd's write path into a loop device, a plain file where there is none, beside dd with O_DIRECT that leaves zeros out, too."""
    size, backing = os.path.getsize(image), work / "device.img"
    sides = ([], [])
    commands = ((tool, "device", image), ("dd", f"if={image}", "bs=1M", "oflag=direct", "conv=sparse,notrunc,fsync", "status=none"))
    where = "loop"
    for _ in range(runs):
        for side, command in zip(sides, commands):
            with open(backing, "wb") as f:
                f.truncate(size)
            made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True)
            path = made.stdout.strip() if made.returncode == 0 else str(backing)
            where = "loop" if made.returncode == 0 else "file"
            try:
                side.append(Run((*command, f"of={path}" if command[0] == "dd" else path)))
            finally:
                if made.returncode == 0:
                    subprocess.run(["losetup", "-d", path], check=True)
            if not filecmp.cmp(image, backing, shallow=False):
                sys.exit(f"{command}: the device differs")
            backing.unlink()
    row(f"hotadd's device ({where}), {name}, dd oflag=direct conv=sparse", size, *sides)


def nfc(tool, image, name, work, runs):
    """Over TLS to the lab's HTTPS server. A stream that is made already, beside curl; and the whole way from the image, beside qemu-img and
    curl one after the other. The server does the same for both sides; its CPU is not counted."""
    if not (shutil.which("go") and vlab.GOVMOMI.is_dir() and shutil.which("curl")):
        print("left out: nfc (golang-go, golang-github-vmware-govmomi-dev, curl)")
        return
    size, made = os.path.getsize(image), work / "made.vmdk"
    subprocess.run([tool, "stream-optimized", image, made, "1"], check=True)
    sim = vlab.Vcsim(work / "sim", {"ds1": work / "sim" / "ds1"})
    url, kept = sim.lease("bench"), sim.uploaded("bench")

    def curl(file):
        return ("curl", "-sS", "--fail", "--cacert", sim.ca, "-X", "POST", "-H", "Content-Type: application/x-vnd.vmware-streamVmdk",
                "-H", "Expect:", "-T", file, url)

    def both(ours, theirs, check):
        sides = ([], [])
        for _ in range(runs):
            for side, commands in zip(sides, (ours, theirs)):
                kept.unlink(missing_ok=True)
                side.append(Run(*commands))
                check(commands)
        return sides

    def same_file(commands):
        if not filecmp.cmp(made, kept, shallow=False):
            sys.exit(f"{commands}: what was uploaded differs")

    def same_disk(commands):
        if subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", image, kept], capture_output=True).returncode:
            sys.exit(f"{commands}: the uploaded disk differs")

    try:
        if name != "zeros":  # a stream of zeros is a few kilobytes
            row(f"nfc, the same stream of {name}, curl -T", made.stat().st_size,
                *both([(tool, "upload", made, url, sim.sha256)], [curl(made)], same_file))
        for level in (1, 6):
            theirs = work / "theirs.vmdk"
            convert = ("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", image, theirs)
            row(f"nfc level {level}, {name}, qemu-img convert and curl -T", size,
                *both([(tool, "nfc", image, url, sim.sha256, level)], [convert, curl(theirs)], same_disk))
    finally:
        sim.process.terminate()
        sim.process.wait()
        for path in (made, work / "theirs.vmdk", kept):
            path.unlink(missing_ok=True)


BENCHES = {"stream-optimized": stream_optimized, "nfc": nfc, "nbd": nbd, "directory": directory, "device": device}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--where", default="/dev/shm")
    parser.add_argument("--only", choices=BENCHES)
    arguments = parser.parse_args()
    lab.need("qemu-img")
    tool = lab.binary().parent / "examples" / "drivers"
    if not tool.exists():
        sys.exit(f"{tool} is missing: cargo build --release --examples")
    work = lab.workdir("bench-drivers", arguments.where)
    print("| driver, image, beside | ours MB/s | theirs MB/s | ratio | our CPU s | their CPU s | notes |\n|---|---|---|---|---|---|---|")
    try:
        for name, image in images(work, arguments.mib):
            for bench in [arguments.only] if arguments.only else BENCHES:
                BENCHES[bench](tool, image, name, work, arguments.runs)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
