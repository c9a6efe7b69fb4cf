"""Clients as they are, on the real binary: what Explorer, robocopy, NetBackup and TSM send for one restore, request by request
(smb2.py), each in a test of its name; and what all of them ask along the way.

SEED=… chooses the data.
"""
import os
import random
import re
import struct
import time

import check_restore as vm
import lab
import smb2
from check_behaviour import SEED, SIZE, STATS, Bench, image, refusal

NOT_FOUND_SECONDS_MAX = 2.0
MIB = 1 << 20
DELETE, WRITE_DAC, WRITE_OWNER = 0x10000, 0x40000, 0x80000
READ_WRITE = 0x0012019F
DIRECTORY = 1  # FILE_DIRECTORY_FILE
# FileInformationClass (MS-FSCC 2.4) and FsInformationClass (2.5)
BASIC, STANDARD, EA, RENAME, ALLOCATION, STREAM, COMPRESSION, NETWORK_OPEN, ATTRIBUTE_TAG = 4, 5, 7, 10, 19, 22, 28, 34, 35
FS_VOLUME, FS_SIZE, FS_DEVICE, FS_ATTRIBUTE, FS_FULL_SIZE, FS_SECTOR_SIZE = 1, 3, 4, 5, 7, 11
PERSISTENT_ACLS, NAMED_STREAMS = 0x8, 0x40000
# Statuses that a copy program may hope to get past by trying again (sharing, locks, the network, memory).
RETRYABLE = {0xC0000043, 0xC0000054, 0xC00000B5, 0xC000009A, 0xC000020C, 0xC00000BF, 0xC0000203, 0x103}
LEASE_KEY = bytes(range(16))
# FSCTLs that clients try on any share and must be able to do without.
UNSUPPORTED = {"FILE_LEVEL_TRIM": 0x98208, "QUERY_FILE_REGIONS": 0x90284, "GET_INTEGRITY_INFORMATION": 0x9027C, "DUPLICATE_EXTENTS_TO_FILE": 0x98344,
               "OFFLOAD_READ": 0x94264, "OFFLOAD_WRITE": 0x98268, "READ_FILE_USN_DATA": 0x900EB}
GET_REPARSE_POINT, NOT_A_REPARSE_POINT = 0x900A8, 0xC0000275
GET_COMPRESSION, CREATE_OR_GET_OBJECT_ID = 0x9003C, 0x900C0


def filetime(seconds):
    return (seconds + 11644473600) * 10_000_000


def fresh(b, dialect=0x0300):
    return smb2.Client(b.server.port, "import", lab.USER, lab.PASSWORD, dialect)


def explorers_contexts(lease_state=7):
    durable = struct.pack("<IIQ16s", 0, 0, 0, os.urandom(16))
    lease = struct.pack("<16sIIQ", LEASE_KEY, lease_state, 0, 0) + bytes(20)  # v2, with a parent key of zeros
    return ((b"DH2Q", durable), (b"MxAc", b""), (b"QFid", b""), (b"RqLs", lease))


def explorer(b):
    client, data = fresh(b), image()
    root = client.create("", smb2.OPEN, 0x100081, DIRECTORY, ((b"MxAc", b""), (b"QFid", b"")))
    lab.check(root.contexts[b"MxAc"][:4] == bytes(4) and len(root.contexts[b"QFid"]) == 32, "explorer: the root, with what it may do there and its id")
    label = root.query(FS_VOLUME, 2)
    lab.check("import".encode("utf-16le") in label, "explorer: the volume's label")
    total, caller, free, sectors, bytes_ = struct.unpack("<QQQII", root.query(FS_FULL_SIZE, 2))
    there = os.statvfs(b.datastore)
    unit = sectors * bytes_
    lab.check(abs(caller * unit - there.f_bavail * there.f_frsize) < 1 << 30 and total >= free >= caller > 0, "explorer: free space is the datastore's")
    attributes, name_max = struct.unpack("<II", root.query(FS_ATTRIBUTE, 2)[:8])
    lab.check(not attributes & NAMED_STREAMS and attributes & PERSISTENT_ACLS and name_max >= 200, f"explorer: no streams, but ACLs {attributes:#x}")
    lab.check(len(root.query(FS_SIZE, 2)) == 24 and len(root.query(FS_DEVICE, 2)) == 8 and len(root.query(FS_SECTOR_SIZE, 2)) == 28, "explorer: sizes and device")
    # 'New folder' and its name.
    folder = client.create("New folder", smb2.MAKE, 0x110081, DIRECTORY, ((b"MxAc", b""), (b"QFid", b"")))
    folder.rename("explorer", replace=False)
    folder.close()
    lab.check(refusal(lambda: client.create("explorer", smb2.MAKE, 0x100081, DIRECTORY)) == 0xC0000035, "explorer: a folder of that name is there")
    client.create("explorer", smb2.OPEN_IF, 0x100081, DIRECTORY).close()
    b.local("explorer.cfg", vm.cfg("explorer", [("explorer", SIZE, "thin")]))
    for name, content in (("explorer.cfg", (b.source / "explorer.cfg").read_bytes()), ("explorer-flat.vmdk", data)):
        explorer_copies(client, f"explorer/{name}", content, f"explorer: {name}:")
    lab.check(b.stored("explorer") == data, "explorer: the disk, byte for byte")
    b.vmx("explorer")
    explorer_copies(client, "explorer/explorer.vmx", (b.source / "explorer.vmx").read_bytes(), "explorer: explorer.vmx:")
    log = b.log("explorer")
    lab.check("done importing" in log and "ERROR" not in log, f"explorer: imported, nothing refused {re.findall('ERROR.*', log)}")
    root.close()
    client.close()


def explorer_copies(client, path, content, tag):
    """CopyFile2 as it looks on the wire: everything is announced first, then written in parallel and out of order."""
    stamp = filetime(1330530859)
    file = client.create(path, smb2.OVERWRITE_IF, READ_WRITE | DELETE, 0x44, explorers_contexts())
    lab.check({b"MxAc", b"QFid"} <= set(file.contexts), f"{tag} the contexts are answered {sorted(file.contexts)}")
    lease = file.contexts.get(b"RqLs")
    if path.endswith(".vmdk"):
        lab.check(lease is not None and lease[:16] == LEASE_KEY and struct.unpack("<I", lease[16:20])[0] & 1, f"{tag} a lease to read ahead and write behind {lease}")
        lab.check(b"DH2Q" in file.contexts, f"{tag} durable, for a connection that drops")
    else:
        # What is cached is closed late: the CFG and the VMX act when they are closed.
        lab.check(lease is None or struct.unpack("<I", lease[16:20])[0] == 0, f"{tag} not cached {lease}")
    lab.check(len(file.query(NETWORK_OPEN)) == 56, f"{tag} NetworkOpen")
    file.set_end(len(content))
    file.set_info(ALLOCATION, struct.pack("<Q", len(content)))
    pieces = [(at, content[at:at + MIB // 4]) for at in range(0, len(content), MIB // 4)]
    random.Random(SEED).shuffle(pieces)
    most = file.write_parallel(pieces)
    lab.check(len(pieces) < 4 or most >= 4, f"{tag} {most} writes at once")
    file.set_info(BASIC, struct.pack("<4qII", stamp, -1, stamp, 0, 0x20, 0))
    streams = file.query(STREAM)
    lab.check("::$DATA".encode("utf-16le") in streams and struct.unpack("<I", streams[:4])[0] == 0, f"{tag} the one stream")
    created, _, written, _, allocated, end, attributes = file.close(post_query=True)
    lab.check((created, written, end) == (stamp, stamp, len(content)) and attributes & 0x20, f"{tag} the CLOSE tells times and size")
    lab.check(allocated % 512 == 0, f"{tag} and what it takes")
    for stream in (":Zone.Identifier", ":Zone.Identifier:$DATA"):
        lab.check(refusal(lambda: client.create(path + stream, smb2.OVERWRITE_IF)) == smb2.NAME_INVALID, f"{tag} {stream} fails cleanly")


def probes(b):
    """What Explorer, indexers and scanners look for in every directory, again and again: absent, at once, and in nobody's log."""
    b.session("probed")
    client, before = fresh(b), b.log("probed")
    begun, tries = time.monotonic(), 0
    for _ in range(50):
        for directory in ("", "probed/"):
            for name in ("desktop.ini", "Thumbs.db", "autorun.inf", "folder.jpg", "ehthumbs.db", ".DS_Store"):
                status = refusal(lambda: client.create(directory + name, smb2.OPEN, 0x80 | 0x1))
                if status != smb2.NAME_NOT_FOUND:
                    lab.check(False, f"probes: {directory}{name}: {status:#x}")
                tries += 1
    seconds = time.monotonic() - begun
    lab.check(seconds < NOT_FOUND_SECONDS_MAX, f"probes: {tries} in {seconds:.2f} s")
    after = b.log("probed")
    lab.check(not re.search("desktop.ini|Thumbs.db|autorun.inf", after[len(before):]), "probes: nothing of them in import.log")
    client.close()


def fsctls(b):
    b.session("fsctls")
    file = b.raw.create("fsctls/fsctls-flat.vmdk")
    file.write(0, b"x" * 70000)
    answers = {name: refusal(lambda: file.fsctl(code, b"")) for name, code in UNSUPPORTED.items()}
    wrong = {name: f"{status:#x}" for name, status in answers.items() if status != smb2.INVALID_DEVICE_REQUEST}
    lab.check(not wrong, f"fsctls: what is not supported says so {wrong}")
    lab.check(refusal(lambda: file.fsctl(GET_REPARSE_POINT, b"")) == NOT_A_REPARSE_POINT, "fsctls: no reparse point")
    lab.check(file.fsctl(GET_COMPRESSION, b"") == b"\0\0" and len(file.fsctl(CREATE_OR_GET_OBJECT_ID, b"")) == 64, "fsctls: not compressed; an object id")
    file.fsctl(smb2.SET_SPARSE, b"\1")
    file.fsctl(smb2.SET_SPARSE, b"")
    lab.check(len(file.query(EA)) == 4 and len(file.query(STANDARD)) == 24 and len(file.query(ATTRIBUTE_TAG)) == 8, "fsctls: queries that must never fail")
    file.close()


def robocopy(b):
    client, data = fresh(b, 0x0210), image()
    b.local("robocopy.cfg", vm.cfg("robocopy", [("robocopy", SIZE, "thin")]))
    b.vmx("robocopy")
    folder = client.create("robocopy", smb2.OPEN_IF, 0x100187, DIRECTORY)
    stamp, first = filetime(1330530859), filetime(315532800)  # 1980-01-01 marks a file that is not whole yet
    files = {"robocopy.cfg": (b.source / "robocopy.cfg").read_bytes(), "robocopy-flat.vmdk": data, "robocopy.vmx": (b.source / "robocopy.vmx").read_bytes()}
    for name, content in files.items():
        file = client.create(f"robocopy/{name}", smb2.OVERWRITE_IF, READ_WRITE | DELETE | WRITE_DAC)
        file.set_end(len(content))
        file.set_times(first, -1, first, -1)
        for at in range(0, len(content), 65536):
            file.write(at, content[at:at + 65536])
        file.set_times(stamp, stamp, stamp, 0)
        created, _, written, _, _, end, _ = file.close(post_query=True)
        lab.check((created, written, end) == (stamp, stamp, len(content)), f"robocopy: {name} has its last times")
        again = client.create(f"robocopy/{name}", smb2.OPEN, 0x100180)
        again.set_times(stamp, stamp, stamp, 0)
        again.close()
    folder.set_times(stamp, stamp, stamp, 0)
    folder.close()
    lab.check(b.stored("robocopy") == data and b.log("robocopy").count("done importing") == 1, "robocopy: the disk, and the VMX imported once")
    # Its default is a million retries, 30 s apart: what can't succeed must not look as if it might.
    b.session("robocopy2")
    extent = client.create("robocopy2/robocopy2-flat.vmdk", smb2.OVERWRITE_IF, READ_WRITE | DELETE)
    permanent = {
        "a foreign file": lambda: client.create("robocopy2/readme.txt"),
        "a second CFG": lambda: client.create("robocopy2/other.cfg"),
        "a VMX too early": lambda: client.create("robocopy2/robocopy2.vmx"),
        "another VM's disk": lambda: client.create("robocopy2/other-flat.vmdk"),
        "the service's log": lambda: client.create("robocopy2/import.log"),
        "a stream": lambda: client.create("robocopy2/robocopy2.cfg:AFP_AfpInfo"),
        "a size past the disk's": lambda: extent.set_end(SIZE + 512),
        "a write past the disk's end": lambda: extent.write(SIZE, b"x" * 512),
        "a path that is missing": lambda: client.create("nowhere/x.cfg"),
    }
    for what, action in permanent.items():
        status = refusal(action)
        lab.check(status != smb2.OK and status not in RETRYABLE, f"robocopy: {what} is refused for good: {status:#x}")
    extent.close()
    client.close()


def sid(authority, *parts):
    return struct.pack(">BBHI", 1, len(parts), 0, authority) + struct.pack(f"<{len(parts)}I", *parts)


def descriptor(owner, group, *aces):
    """A self-relative security descriptor (MS-DTYP 2.4.6) with a DACL that grants."""
    body = b"".join(struct.pack("<BBHI", 0, 0, 8 + len(who), mask) + who for mask, who in aces)
    dacl = struct.pack("<BBHHH", 2, 0, 8 + len(body), len(aces), 0) + body
    return struct.pack("<BBHIIII", 1, 0, 0x8004, 20 + len(dacl), 20 + len(dacl) + len(owner), 0, 20) + dacl + owner + group


def parts_of(raw):
    control, owner, group, _, dacl = struct.unpack("<xxHIIII", raw[:20])
    sid_at = lambda at: raw[at:at + 8 + 4 * raw[at + 1]] if at else None
    return sid_at(owner), sid_at(group), raw[dacl:dacl + struct.unpack("<H", raw[dacl + 2:dacl + 4])[0]] if dacl else None


def netbackup(b):
    client, data = fresh(b, 0x0210), image()
    b.local("netbackup.cfg", vm.cfg("netbackup", [("netbackup", SIZE, "thick")]))
    b.vmx("netbackup")
    written = descriptor(sid(5, 32, 544), sid(5, 21, 1, 2, 3, 513), (0x1F01FF, sid(5, 18)), (0x1200A9, sid(5, 32, 545)))
    folder = client.create("netbackup", smb2.OPEN_IF, 0x1F01FF, DIRECTORY)
    folder.set_info(0, written, 3, 7)
    lab.check(parts_of(folder.query(0, 3, 7)) == parts_of(written), "netbackup: the directory's descriptor is shown again")
    folder.close()
    for name, content in (("netbackup.cfg", (b.source / "netbackup.cfg").read_bytes()), ("netbackup-flat.vmdk", data), ("netbackup.vmx", (b.source / "netbackup.vmx").read_bytes())):
        file = client.create(f"netbackup/{name}", smb2.SUPERSEDE, READ_WRITE | DELETE | WRITE_DAC | WRITE_OWNER, 0x4000)  # with backup intent
        for at in range(0, len(content), 262_144):
            file.write(at, content[at:at + 262_144])
        file.set_info(0, written, 3, 7)
        file.set_info(BASIC, struct.pack("<4qII", *[filetime(1330530859)] * 4, 0x2020, 0))
        file.flush()
        lab.check(parts_of(file.query(0, 3, 7)) == parts_of(written), f"netbackup: {name}: its descriptor is shown again")
        lab.check(parts_of(file.query(0, 3, 1))[1:] == (None, None), f"netbackup: {name}: only the part asked for")
        file.close()
        file = client.create(f"netbackup/{name}", smb2.OPEN, 0x120089)
        lab.check(parts_of(file.query(0, 3, 7)) == parts_of(written), f"netbackup: {name}: at the next open too")
        file.close()
    lab.check(b.stored("netbackup") == data and "done importing" in b.log("netbackup"), "netbackup: restored")
    client.close()


def tsm(b):
    """A sparse restore: only what holds data comes, in writes with gaps between, and the end of file last."""
    client, data = fresh(b, 0x0210), bytearray(image(zeros=0.7))
    data[-vm.GRAIN:] = bytes(vm.GRAIN)  # it ends in a hole
    b.session("tsm")
    b.vmx("tsm")
    file = client.create("tsm/tsm-flat.vmdk", smb2.OVERWRITE_IF, READ_WRITE | DELETE)
    file.fsctl(smb2.SET_SPARSE, b"\1")
    sent = 0
    for at in range(0, SIZE, vm.GRAIN):
        piece = bytes(data[at:at + vm.GRAIN])
        if any(piece):
            file.write(at, piece)
            sent += len(piece)
    lab.check(refusal(lambda: client.create("tsm/tsm.vmx")) == smb2.WRITE_PROTECTED, "tsm: not whole before its size is known")
    file.set_end(SIZE)
    file.close()
    lab.check(b.stored("tsm") == bytes(data), "tsm: gaps read as zeros")
    stats = {m[1]: tuple(map(int, m.groups()[1:])) for m in STATS.finditer(b.log("tsm"))}["/tsm/tsm-flat.vmdk"]
    lab.check(stats[0] == sent // 1024 and stats[2] == 0, f"tsm: gaps are neither total nor skipped {stats}")
    blocks = (b.datastore / "tsm" / "tsm-flat.vmdk").stat().st_blocks * 512
    lab.check(blocks <= sent + 65536, f"tsm: the disk stays thin, {blocks} bytes for {sent}")
    out = b.smb("cd tsm; put tsm.vmx")
    lab.check("NT_STATUS" not in out, f"tsm: then the VMX {out}")
    client.close()


def own_failed_file(b):
    """A copy program that gives up deletes what it began, by the handle that it has or by a new one, and starts over."""
    client, data = fresh(b), image()
    b.session("failed2")
    file = client.create("failed2/failed2-flat.vmdk", smb2.MAKE, READ_WRITE | DELETE)
    file.write(0, bytes([1]) * 70000)
    lab.check(refusal(lambda: file.write(SIZE, b"x")) == smb2.DISK_FULL, "failed: something went wrong")
    file.delete()
    file.close()
    lab.check(refusal(lambda: client.create("failed2/failed2-flat.vmdk", smb2.OPEN)) == smb2.NAME_NOT_FOUND, "failed: it is gone from the share")
    file = client.create("failed2/failed2-flat.vmdk", smb2.MAKE, READ_WRITE | DELETE, 0x1000)  # delete on close, until it is whole
    file.write(0, data[:100])
    file.close()
    lab.check(refusal(lambda: client.create("failed2/failed2-flat.vmdk", smb2.OPEN)) == smb2.NAME_NOT_FOUND, "failed: delete on close")
    file = client.create("failed2/failed2-flat.vmdk", smb2.MAKE, READ_WRITE | DELETE)
    file.write(0, data)
    file.close()
    lab.check(b.stored("failed2") == data, "failed: and again from the start")
    client.close()


def leases(b):
    """Import files may be cached by whoever writes them; the service's own, which change by themselves, by nobody."""
    b.session("leases")
    client, other = fresh(b), fresh(b)
    file = client.create("leases/leases-flat.vmdk", smb2.OVERWRITE_IF, READ_WRITE, 0, explorers_contexts())
    state, = struct.unpack("<I", file.contexts[b"RqLs"][16:20])
    lab.check(state == 7, f"leases: the only opener of an extent has all of it: {state}")
    log = other.create("leases/import.log", smb2.OPEN, 0x120089, 0, explorers_contexts(1))
    told = log.contexts.get(b"RqLs")
    lab.check(told is None or struct.unpack("<I", told[16:20])[0] == 0, f"leases: nobody caches import.log {told}")
    size = struct.unpack("<Q", log.query(STANDARD)[8:16])[0]
    file.write(0, b"x" * 65536)
    file.close()
    lab.check(struct.unpack("<Q", log.query(STANDARD)[8:16])[0] > size, "leases: which grows while it is open")
    log.close()
    client.close()
    other.close()


def keep_alive(b):
    """A long run of zeros at a client's pace: nothing goes out, so the datastore is kept alive, and the statistics count it."""
    b.server.stop()
    b.server.config.write_text(b.server.config.read_text() + "\n[import]\nkeep-alive-seconds = 1\n")
    b.server.start()
    b.raw = smb2.Client(b.server.port, "import", lab.USER, lab.PASSWORD)
    b.session("alive")
    file = b.raw.create("alive/alive-flat.vmdk")
    begun, piece = time.monotonic(), bytes(131072)
    for at in range(0, SIZE, len(piece)):
        file.write(at, piece[:SIZE - at])
        time.sleep(0.11)
    seconds = time.monotonic() - begun
    file.close()
    stats = {m[1]: tuple(map(int, m.groups()[1:])) for m in STATS.finditer(b.log("alive"))}["/alive/alive-flat.vmdk"]
    lab.check(stats[:3] == (SIZE // 1024, 0, SIZE // 1024), f"alive: all of it skipped {stats}")
    lab.check(1 <= stats[4] <= seconds, f"alive: {stats[4]} keep-alives in {seconds:.1f} s at one a second")


def main():
    lab.need("smbclient", "qemu-img")
    print(f"seed {SEED}")
    begun = time.monotonic()
    bench = Bench()
    for part in (explorer, probes, fsctls, robocopy, netbackup, tsm, own_failed_file, leases, keep_alive):
        part(bench)
    bench.raw.close()
    lab.check("panicked" not in bench.server.log.read_text(errors="replace"), "no panic in the log")
    print(f"{time.monotonic() - begun:.0f} s")
    lab.finish()


if __name__ == "__main__":
    main()
