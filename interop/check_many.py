"""Many clients: 1,000 connections that are logged in and hold 10 opens each, and what of the server's memory one of them takes while
it is idle; then 64 clients that restore a disk each at the same time, every byte compared.

    check_many.py [CONNECTIONS [CLIENTS [MIB]]]
"""
import hashlib
import pathlib
import random
import resource
import sys
import threading
import time

import check_restore as vm
import lab
import smb2

CONNECTIONS, CLIENTS, MIB = (int(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((1, 1000), (2, 64), (3, 4)))
OPENS = 10
# What an idle connection with its opens may take, in KiB.
IDLE_KIB_MAX = 100
SEED = 20120229


def resident_kib(pid):
    """Memory of the process, pages shared with others counted in part (PSS)."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def idle(server):
    """Connections that hold opens and say nothing."""
    # The first hundred bring in what all share: threads, tables, the allocator's arenas.
    clients = []

    def connect(count):
        for _ in range(count):
            n = len(clients)
            client = smb2.Client(server.port, "dir", lab.USER, lab.PASSWORD, timeout=60)
            clients.append((client, [client.create(f"f{n}-{m}") for m in range(OPENS)]))

    warm = CONNECTIONS // 10
    connect(warm)
    time.sleep(0.5)
    before, begun = resident_kib(server.process.pid), time.monotonic()
    connect(CONNECTIONS - warm)
    seconds = time.monotonic() - begun
    time.sleep(0.5)
    after = resident_kib(server.process.pid)
    each = (after - before) / (CONNECTIONS - warm)
    lab.check(each < IDLE_KIB_MAX, f"{CONNECTIONS} connections with {OPENS} opens each: {each:.1f} KiB for each of them "
              f"(at most {IDLE_KIB_MAX}); {after >> 10} MiB in all; {(CONNECTIONS - warm) / seconds:.0f} logins with their opens a second")
    good = True
    for client, files in clients[:: max(1, CONNECTIONS // 50)]:
        files[0].write(0, b"still here")
        good &= files[0].read(0, 10) == b"still here"
    lab.check(good, "they still answer")
    for client, _ in clients:
        client.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir())) > 60:
        time.sleep(0.1)
    lab.check(time.monotonic() < deadline, "their descriptors are given back once they have gone")


def restores(server):
    """Clients that restore at the same time."""
    rng = random.Random(SEED)
    pool = rng.randbytes(1 << 20)
    failed = []

    def data_of(n):
        for m in range(MIB):
            at = (n * 7919 + m * 104729) % (1 << 20)
            yield pool[at:] + pool[:at] if (n + m) % 3 else bytes(1 << 20)

    def restore(n):
        try:
            name = f"vm{n}"
            disks = [(name, MIB << 20, "thin")]
            client = smb2.Client(server.port, "import", lab.USER, lab.PASSWORD, timeout=120)
            client.create(name, smb2.MAKE, options=1).close()
            for kind in ("cfg", "extent", "vmx"):
                file = client.create(f"{name}/{name}-flat.vmdk" if kind == "extent" else f"{name}/{name}.{kind}")
                if kind == "extent":
                    file.set_end(MIB << 20)
                    for m, piece in enumerate(data_of(n)):
                        file.write(m << 20, piece)
                else:
                    file.write(0, (vm.cfg if kind == "cfg" else vm.vmx)(name, disks).encode())
                file.close()
            client.close()
        except Exception as error:
            failed.append(f"{n}: {error!r}")

    begun = time.monotonic()
    threads = [threading.Thread(target=restore, args=(n,)) for n in range(CLIENTS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    seconds = time.monotonic() - begun
    lab.check(not failed, f"{CLIENTS} clients restored {MIB} MiB each at once: {CLIENTS * MIB * 1.048576 / seconds:.0f} MB/s in all, "
              f"{resident_kib(server.process.pid) >> 10} MiB of memory {failed[:3] or ''}")
    wrong = []
    for n in range(CLIENTS):
        expected = hashlib.sha256(b"".join(data_of(n))).digest()
        path = server.datastore / f"vm{n}" / f"vm{n}-flat.vmdk"
        if not path.exists() or hashlib.sha256(path.read_bytes()).digest() != expected or not path.with_name(f"vm{n}.vmx").exists():
            wrong.append(n)
    lab.check(not wrong, f"every disk is right and has its VMX {wrong[:5] or ''}")


def main():
    wanted = CONNECTIONS * 2 + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        lab.skip(f"the limit of descriptors is {hard}, {wanted} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    server = lab.Importfs(lab.workdir("many"), extra="")
    idle(server)
    restores(server)
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


if __name__ == "__main__":
    main()
