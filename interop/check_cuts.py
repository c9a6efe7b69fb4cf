"""A restore whose TCP connection is cut again and again: with a durable handle (version 2) no write fails and every byte arrives.

A proxy between client and server cuts both ways after a random number of bytes: in the middle of frames, in logins, sometimes so
that the server learns of it later than the client. The client has its open back by DH2C and sends again what was not answered; a
status other than success is a failure. On the directory share and into an import session.

    check_cuts.py [MIB [SHARE]]      per share, default 64; SHARE dir or import, default both; SEED=… repeats a sequence of cuts
"""
import collections
import mmap
import os
import random
import select
import socket
import struct
import sys
import threading
import time
import uuid

import check_restore as vm
import lab
import smb2

MIB = int(sys.argv[1]) if len(sys.argv) > 1 else 64
SHARES = sys.argv[2:] or ["dir", "import"]
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
PIECE, DEPTH = 256 << 10, 8
# Bytes between two cuts: from within a login to a dozen writes.
CUT_MIN, CUT_MAX = 600, 4 << 20
LATE_SECONDS = 0.3
BACK_SECONDS = 60
BATCH, TIMEOUT_MS = 9, 60_000
NAME_NOT_FOUND = 0xC0000034


class Proxy:
    """Forwards connections to a port and cuts them."""

    def __init__(self, to, seed):
        self.to, self.rng, self.cuts, self.lock = to, random.Random(seed), 0, threading.Lock()
        self.enabled = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            with self.lock:
                left, late = int(CUT_MIN * (CUT_MAX / CUT_MIN) ** self.rng.random()), self.rng.random() < 0.3
            threading.Thread(target=self.forward, args=(client, left, late), daemon=True).start()

    def forward(self, client, left, late):
        server = socket.create_connection(("127.0.0.1", self.to))
        other = {client: server, server: client}
        cut = False
        try:
            while not cut:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if self.enabled and len(data) >= left:
                        data, cut = data[:left], True
                    left -= len(data)
                    other[ready].sendall(data)
                    if cut:
                        break
        except OSError:
            pass
        finally:
            if cut:
                with self.lock:
                    self.cuts += 1
            self.reset(client)
            if cut and late:
                time.sleep(LATE_SECONDS)
            self.reset(server)

    @staticmethod
    def reset(end):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


class Restore:
    """A client that writes a file through the proxy, whatever happens to its connection."""

    def __init__(self, port, share, path):
        self.port, self.share, self.path = port, share, path
        self.guid, self.create_guid = uuid.uuid4().bytes, uuid.uuid4().bytes
        self.session, self.id, self.client = 0, None, None
        self.reconnects, self.again = 0, 0

    def connect(self):
        """Connects, logs in, and opens the file or has it back; as often as it takes."""
        deadline = time.monotonic() + BACK_SECONDS
        while time.monotonic() < deadline:
            try:
                self.client = smb2.Client(self.port, self.share, lab.USER, lab.PASSWORD, 0x0300, self.guid, self.session)
                self.session = self.client.session
                if self.id is None:
                    context = (b"DH2Q", struct.pack("<II8x16s", TIMEOUT_MS, 0, self.create_guid))
                    self.file = self.client.create(self.path, smb2.OPEN_IF, oplock=BATCH, contexts=[context])
                    if b"DH2Q" not in self.file.contexts:
                        raise AssertionError("the server grants no durable handle")
                else:
                    context = (b"DH2C", struct.pack("<16s16sI", self.id, self.create_guid, 0))
                    self.file = self.client.create(self.path, smb2.OPEN, oplock=BATCH, contexts=[context])
                self.id = self.file.id
                return
            except OSError:
                self.reconnects += 1
        raise AssertionError(f"not back within {BACK_SECONDS} s")

    def write(self, data):
        """Writes all of `data`; a status other than success is an SmbError."""
        self.connect()
        waiting = collections.deque(range(0, len(data), PIECE))
        under_way = {}
        while waiting or under_way:
            try:
                while waiting and len(under_way) < DEPTH:
                    at = waiting.popleft()
                    part = data[at:at + PIECE]
                    under_way[self.client.message] = at
                    body = struct.pack("<HHIQ16sIIHHI", 49, 112, len(part), at, self.file.id, 0, 0, 0, 0, 0) + part
                    self.client.send(smb2.WRITE, body, (len(part) - 1) // 65536 + 1)
                message, status, _ = self.client.answer()
                if status != smb2.OK:
                    raise smb2.SmbError(status)
                del under_way[message]
            except OSError:
                waiting.extendleft(sorted(under_way.values(), reverse=True))
                self.again += len(under_way)
                self.reconnects += 1
                under_way = {}
                self.connect()

    def close(self):
        """Flushes and closes; a close whose answer was lost has closed."""
        sent = False
        while True:
            try:
                self.file.flush()
                sent = True
                self.file.close()
                return
            except OSError:
                try:
                    self.connect()
                except smb2.SmbError as error:
                    if sent and error.status == NAME_NOT_FOUND:
                        return
                    raise


def run(server, share, path, data, on_disk):
    """One restore through the proxy; `on_disk` gives what arrived."""
    proxy = Proxy(server.port, SEED)
    restore = Restore(proxy.port, share, path)
    begun = time.monotonic()
    try:
        restore.write(data)
        restore.close()
        failed = ""
    except (smb2.SmbError, AssertionError) as error:
        failed = str(error)
    seconds = time.monotonic() - begun
    lab.check(not failed, f"{share}: no write, reconnect or close failed {failed}")
    lab.check(proxy.cuts >= MIB // 4, f"{share}: {len(data) >> 20} MiB, {proxy.cuts} cuts, {restore.reconnects} connections tried again, "
              f"{restore.again} writes sent again, {seconds:.1f} s")
    lab.check(on_disk.exists() and same(on_disk, data), f"{share}: every byte has arrived")


def same(path, data):
    """Whether a file holds that, read by the megabyte."""
    with open(path, "rb") as f:
        return path.stat().st_size == len(data) and all(f.read(1 << 20) == data[at:at + (1 << 20)] for at in range(0, len(data), 1 << 20))


def source(path, rng):
    """A file of random megabytes, one in five of zeros, as memory that need not fit."""
    with open(path, "wb") as f:
        for _ in range(MIB):
            f.write(rng.randbytes(1 << 20) if rng.random() < 0.8 else bytes(1 << 20))
    with open(path, "rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


def main():
    print(f"seed {SEED}")
    work = lab.workdir("cuts")
    server = lab.Importfs(work / "server")
    rng = random.Random(SEED)
    data = source(work / "source", rng)
    if "dir" in SHARES:
        run(server, "dir", "file.bin", data, server.dir / "file.bin")
    if "import" in SHARES:
        restore(server, data)
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


def restore(server, data):
    """A whole import session; only its extent goes through the proxy."""
    name = "cut"
    disks = [(name, len(data), "thin")]
    client = smb2.Client(server.port, "import", lab.USER, lab.PASSWORD)
    client.create(name, smb2.MAKE, options=1).close()
    for kind, text in (("cfg", vm.cfg(name, disks)), ("extent", None), ("vmx", vm.vmx(name, disks))):
        if kind == "extent":
            run(server, "import", f"{name}/{name}-flat.vmdk", data, server.datastore / name / f"{name}-flat.vmdk")
            continue
        file = client.create(f"{name}/{name}.{kind}")
        file.write(0, text.encode())
        file.close()
    lab.check((server.datastore / name / f"{name}.vmx").exists(), "the VMX stands on the datastore")


if __name__ == "__main__":
    main()
