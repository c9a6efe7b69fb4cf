"""Large directories on importfs and on Samba's smbd: names made, found and listed, where others already lie there.

    python3 benches/big_directory.py [--sizes 1000,10000,100000] [--count 300] [--runs 3] [--where /dev/shm]

The directory is filled on the disk; then one client, one request at a time, over loopback: makes COUNT files, opens COUNT by their
name, COUNT by their name in another case, COUNT that are not there, lists all. Medians of runs that alternate; in operations
(for lists: names) a second, and ours by theirs.
"""
import argparse
import pathlib
import random
import statistics
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))
import lab  # noqa: E402
import smb2  # noqa: E402

QUERY_DIRECTORY = 14
ID_BOTH_DIRECTORY = 37  # FileIdBothDirectoryInformation, as Explorer asks
NO_MORE_FILES, NOT_FOUND = 0x80000006, 0xC0000034
READ_ATTRIBUTES = 0x80
LIST = 0x1


def fill(directory, size):
    directory.mkdir()
    for number in range(size):
        (directory / f"Disk-{number:06}.Vmdk").touch()


def make(client, names):
    for name in names:
        client.create(f"big\\{name}", smb2.MAKE).close()


def find(client, names):
    for name in names:
        client.create(f"big\\{name}", smb2.OPEN, READ_ATTRIBUTES).close()


def miss(client, names):
    for name in names:
        try:
            client.create(f"big\\{name}", smb2.OPEN, READ_ATTRIBUTES).close()
        except smb2.SmbError as error:
            if error.status != NOT_FOUND:
                raise
        else:
            sys.exit(f"{name} is there")


def listed(client):
    """How many names a full scan gives, `.` and `..` included."""
    directory, count = client.create("big", smb2.OPEN, LIST, 1), 0
    pattern = "*".encode("utf-16le")
    while True:
        body = struct.pack("<HBBI16sHHI", 33, ID_BOTH_DIRECTORY, 0, 0, directory.id, 96, len(pattern), 65536) + pattern
        status, reply = client.exchange(QUERY_DIRECTORY, body)
        if status == NO_MORE_FILES:
            directory.close()
            return count
        if status != smb2.OK:
            raise smb2.SmbError(status)
        offset, length = struct.unpack("<HI", reply[2:8])
        entries, at = reply[offset - 64:offset - 64 + length], 0
        while True:
            count += 1
            step, = struct.unpack("<I", entries[at:at + 4])
            if not step:
                break
            at += step


def measure(server, size, count, run, rng):
    """{operation: rate} of one run; the files that it made are gone afterwards."""
    client = smb2.Client(server.port, "dir", lab.USER, lab.PASSWORD)
    known = [f"Disk-{rng.randrange(size):06}.Vmdk" for _ in range(count)]
    made = [f"Made-{run}-{number}" for number in range(count)]
    rates = {}

    def timed(operation, amount, work):
        begun = time.perf_counter()
        result = work()
        rates[operation] = amount / (time.perf_counter() - begun)
        return result

    timed("create", count, lambda: make(client, made))
    timed("open", count, lambda: find(client, known))
    timed("open, other case", count, lambda: find(client, [name.swapcase() for name in known]))
    timed("not there", count, lambda: miss(client, [f"missing-{number}" for number in range(count)]))
    names = timed("list", size + count + 2, lambda: listed(client))
    if names != size + count + 2:
        sys.exit(f"{type(server).__name__} lists {names} names of {size + count + 2}")
    client.close()
    for name in made:
        (server.dir / "big" / name).unlink()
    return rates


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--where")
    args = parser.parse_args()
    print("files in it | operation | importfs /s | Samba /s | ratio")
    for size in map(int, args.sizes.split(",")):
        servers = [server(lab.workdir("big", args.where)) for server in (lab.Importfs, lab.Samba)]
        for server in servers:
            fill(server.dir / "big", size)
        time.sleep(0.1)  # past the grain of the file system's stamps
        runs = {server: [] for server in servers}
        for run in range(args.runs):
            for server in servers:
                runs[server].append(measure(server, size, args.count, run, random.Random(run)))
        for operation in runs[servers[0]][0]:
            ours, theirs = (statistics.median(r[operation] for r in runs[server]) for server in servers)
            print(f"{size} | {operation} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
