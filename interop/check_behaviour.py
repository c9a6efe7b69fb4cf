"""What the import share does, rule by rule (docs/import-share.md), on the real binary: smbclient for what people type, a small
client of our own (smb2.py) for what agents do: end of file first, tails before middles, flushes without a close.

check_restore.py has the whole restores at every dialect, check_crash.py the kills. SEED=… chooses the data.
"""
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import tarfile
import time

import check_restore as vm
import lab
import smb2

SEED = int(os.environ.get("SEED", "20120229"))
SIZE = 3 * (1 << 20) + 512 * 5
GIB = 1 << 30
STATS = re.compile(r"stats: (\S+) total (\d+) kb, write thru (\d+) kb, skipped (\d+) kb \((\d+) kb/s\), keep alive (\d+), "
                   r"incoming avg write size (\d+), outgoing avg write size (\d+)")
rng = random.Random(SEED)


class Bench:
    """The server, a directory of local files, and both clients."""

    def __init__(self):
        self.work = lab.workdir("behaviour")
        self.source = self.work / "source"
        self.source.mkdir()
        self.server = lab.Importfs(self.work / "server")
        self.datastore = self.server.datastore
        self.raw = smb2.Client(self.server.port, "import", lab.USER, lab.PASSWORD)

    def smb(self, commands):
        """smbclient's output."""
        return lab.smbclient(self.server.port, "import", commands, cwd=self.source, timeout=60).stdout

    def local(self, name, data):
        (self.source / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return name

    def session(self, name, disks=None, text=None, **options):
        """A directory with a CFG that is clean; returns its disks."""
        disks = disks or [(name, SIZE, "thin")]
        self.local(f"{name}.cfg", text or vm.cfg(name, disks, **options))
        out = self.smb(f"mkdir {name}; cd {name}; put {name}.cfg; ls")
        lab.check("NT_STATUS" not in out and ".cfg.err" not in out, f"{name}: the CFG is accepted {out if '.cfg.err' in out else ''}")
        return disks

    def get(self, directory, name):
        """A file of a session as text; None where there is none."""
        path = self.source / "fetched"
        path.unlink(missing_ok=True)
        self.smb(f"cd {directory or '/'}; get {name} fetched")
        return path.read_bytes().decode(errors="replace") if path.exists() else None

    def log(self, directory):
        return self.get(directory, "import.log") or ""

    def put_raw(self, path, data):
        """Written by our own client; returns the first status that is none of success."""
        try:
            file = self.raw.create(path)
            try:
                file.write(0, data)
            finally:
                file.close()
        except smb2.SmbError as error:
            return error.status
        return smb2.OK

    def vmx(self, name, disks=None):
        return self.local(f"{name}.vmx", vm.vmx(name, disks or [(name, SIZE, "thin")]))

    def stored(self, name, file=None):
        path = self.datastore / name / (file or f"{name}-flat.vmdk")
        return path.read_bytes() if path.exists() else None


def image(size=SIZE, zeros=0.4):
    grains = (bytes(vm.GRAIN) if rng.random() < zeros else rng.randbytes(vm.GRAIN) for _ in range(size // vm.GRAIN + 1))
    return b"".join(grains)[:size]


def refused(out):
    """Files that smbclient could not put: it may complain twice about one."""
    return len(re.findall(r"NT_STATUS_\w+ (?:opening|closing) remote file", out))


def refusal(action):
    """The status with which it fails, or success."""
    try:
        action()
        return smb2.OK
    except smb2.SmbError as error:
        return error.status


def names_and_order(b):
    for name in (".x.cfg.swp", "4913", "x.cfg~", "desktop.ini", "Thumbs.db", "autorun.inf"):
        b.local(name, "x")
    out = b.smb("mkdir names; cd names; " + "; ".join(f"put {n}" for n in (".x.cfg.swp", "4913", "x.cfg~", "desktop.ini", "Thumbs.db", "autorun.inf")))
    lab.check(out.count("NT_STATUS_ACCESS_DENIED") == 6, f"names: six foreign files are refused: {out.count('NT_STATUS_ACCESS_DENIED')}")
    log = b.log("names")
    words = re.findall(r"ERROR \[thread:\d+, where:\w+\.rs:\d+, error:1\] Cannot create /names/(\S+) of unsupported file type", log)
    lab.check(len(words) == 6 and "Create file /names/4913" in log, f"names: in the sample's words {words}")
    for name, data in (("names-flat.vmdk", image()), ("names.vmx", "x = \"1\"\n"), ("names-flat.pancbt", "x")):
        b.local(name, data)
    out = b.smb("cd names; put names-flat.vmdk; put names.vmx; put names-flat.pancbt")
    lab.check(out.count("NT_STATUS_MEDIA_WRITE_PROTECTED") == 3, f"names: what comes before its CFG is refused {out}")
    lab.check("the CFG comes first" in b.log("names"), "names: and the log says why")
    b.session("names2")
    b.local("names2.vmx", vm.vmx("names2", [("names2", SIZE, "thin")]))
    b.local("second.cfg", "x")
    out = b.smb("cd names2; put second.cfg; put names2.vmx; put names-flat.pancbt names2-flat.pancbt; put names-flat.vmdk other-flat.vmdk")
    lab.check(out.count("NT_STATUS_ACCESS_DENIED") == 2 and out.count("NT_STATUS_MEDIA_WRITE_PROTECTED") == 2,
              f"names2: a second CFG, a VMX and a differential before the extent, another VM's disk {out}")
    log = b.log("names2")
    lab.check("Cannot create /names2/second.cfg: the session has its CFG already, names2.cfg" in log, "names2: the second CFG is logged")
    out = b.smb("cd names2; put names-flat.vmdk NAMES2-FLAT.VMDK; ls; put names2.vmx")
    lab.check("NT_STATUS" not in out and " names2-flat.vmdk " in out, f"names2: names in any case; a refused step lost nothing {out}")


def cfg_errors(b):
    text = vm.cfg("errors", [("errors", SIZE, "thin")]).replace("datastore1", "nowhere").replace("\"stop\"", "\"replace\"") + "colour = 1\n"
    b.local("errors.cfg", text.replace(f"{SIZE}", f"{SIZE + 1}"))
    out = b.smb("mkdir errors; cd errors; put errors.cfg; ls; put names-flat.vmdk errors-flat.vmdk")
    told = b.get("errors", "errors.cfg.err") or ""
    lab.check("errors.cfg.err" in out and "NT_STATUS_MEDIA_WRITE_PROTECTED" in out, f"errors: data is refused while there are errors {out}")
    for part in (f"line 17: vmdk.0.size: {SIZE + 1} is not a multiple", "vmdk.0.dsname: 'local' has no datastore 'nowhere'", "on-conflict: \"replace\" is not a mode"):
        lab.check(part in told, f"errors: all at once, with line and key: {part}: {told}")
    log = b.log("errors")
    lab.check("colour: unknown key, ignored" in log and "colour" not in told and "vmdk.0.size" in log, "errors: an unknown key is a warning")
    good = vm.cfg("errors", [("errors", SIZE, "thin")])
    # An editor truncates in place, flushes what it has, writes the rest, closes.
    file = b.raw.create("errors/errors.cfg", smb2.OVERWRITE)
    file.write(0, good[:100].encode())
    file.flush()
    lab.check(b.get("errors", "errors.cfg.err") == told, "errors: a flush takes half a CFG not up")
    file.write(100, good[100:].encode())
    file.close()
    lab.check(b.get("errors", "errors.cfg.err") is None, "errors: the file disappears when the CFG is clean")
    odd = b"\xef\xbb\xbf# caf\xe9 \x80 M\xfcller\r\n" + vm.cfg("odd", [("odd", SIZE, "thin")]).replace("\n", "\r\n").encode()
    b.session("odd", text=None)
    b.local("odd.cfg", odd)
    out = b.smb("cd odd; put odd.cfg; ls")
    lab.check("NT_STATUS" not in out and ".cfg.err" not in out, f"odd: CRLF, a BOM and Latin-1 in a comment {out}")


def own_files(b):
    b.session("own", conflict="rename")
    b.local("junk", "junk")
    out = b.smb("cd own; put junk import.log; put junk own.vmcfg; put junk own.cfg.err; del import.log; del own.vmcfg; ls; rename import.log x.log")
    lab.check(out.count("NT_STATUS_ACCESS_DENIED opening remote") == 3, f"own: the service's files are not writable {out}")
    lab.check(" import.log " in out and " own.vmcfg " in out and "NT_STATUS" in out.split("ls")[-1], "own: nor removed one by one, nor renamed")
    lab.check("junk" not in b.log("own").replace("junk import", ""), "own: and keep their contents")
    for path in ("own/own.cfg:Zone.Identifier", "own/import.log:x"):
        lab.check(refusal(lambda: b.raw.create(path)) == smb2.NAME_INVALID, f"own: a stream is refused cleanly: {path}")


def rewriting_with_data(b):
    data = image()
    b.session("moved", [("moved", SIZE, "thin"), ("moved_1", SIZE, "thin")])
    lab.check(b.put_raw("moved/moved-flat.vmdk", data) == smb2.OK, "moved: the first extent")
    b.local("elsewhere.cfg", (b.source / "moved.cfg").read_text().replace('directory = "moved"', 'directory = "elsewhere"'))
    out = b.smb("cd moved; put elsewhere.cfg moved.cfg; ls")
    told = b.get("moved", "moved.cfg.err") or ""
    lab.check("moved.cfg.err" in out and "vmdk.0.directory: data has arrived" in told, f"moved: a change of destination is an error {told}")
    lab.check(b.put_raw("moved/moved_1-flat.vmdk", data) == smb2.OK, "moved: and the session goes on with the old one")
    lab.check(b.stored("moved", "moved_1-flat.vmdk") == data and not (b.datastore / "elsewhere").exists(), "moved: to the old place")
    b.vmx("moved", [("moved", SIZE, "thin"), ("moved_1", SIZE, "thin")])
    out = b.smb("cd moved; put moved.cfg; ls; put moved.vmx")
    lab.check("NT_STATUS" not in out and ".cfg.err" not in out, f"moved: the old CFG again clears the error {out}")


def writes(b):
    data = image()
    b.session("writes")
    file = b.raw.create("writes/writes-flat.vmdk")
    file.set_end(SIZE)  # as Explorer does
    lab.check(refusal(lambda: file.set_end(SIZE + 1)) == smb2.DISK_FULL, "writes: no end of file past vmdk.0.size")
    lab.check(refusal(lambda: file.write(SIZE - 512, bytes([1]) * 1024)) == smb2.DISK_FULL, "writes: nor a write past it")
    lab.check(refusal(lambda: file.write(SIZE, b"x")) == smb2.DISK_FULL, "writes: nor one at its end")
    pieces = [(at, data[at:at + 100_003]) for at in range(0, SIZE, 100_003)]
    rng.shuffle(pieces)
    for at, piece in pieces:  # tails before middles, no piece at a sector's boundary
        file.write(at, piece)
    file.flush()
    lab.check(b.stored("writes") == data, "writes: shuffled and unaligned, durable at the flush")
    for times in ((0, 0, 0, 0), (-1, -1, -1, -1), (-2, -2, -2, -2), (119600064000000000,) * 4):
        lab.check(refusal(lambda: file.set_times(*times)) == smb2.OK, f"writes: times {times[0]}")
    # Zeros over data, then what SET_ZERO_DATA zeroes, then a rewrite of part of that.
    file.write(512, bytes(200_000))
    file.fsctl(smb2.SET_SPARSE, b"")
    file.fsctl(smb2.SET_ZERO_DATA, struct.pack("<QQ", 300_000, 500_001))
    file.write(400_000, b"again")
    want = bytearray(data)
    want[512:200_512], want[300_000:500_001], want[400_000:400_005] = bytes(200_000), bytes(200_001), b"again"
    lab.check(file.read(0, 1 << 20) == bytes(want[:1 << 20]), "writes: what is read back before the close")
    ranges = file.allocated(0, SIZE)
    lab.check(all(any(a <= at < a + n for a, n in ranges) for at in range(SIZE) if at % 4096 == 0 and want[at]), "writes: allocated ranges hold all data")
    lab.check(refusal(lambda: file.fsctl(0x9027C, b"")) == smb2.INVALID_DEVICE_REQUEST, "writes: an unknown FSCTL")
    file.close()
    lab.check(b.stored("writes") == bytes(want), "writes: zeros over data are never dropped")
    file = b.raw.create("writes/writes-flat.vmdk", smb2.OPEN)
    file.set_end(1 << 20)
    file.set_end(SIZE)
    file.close()
    lab.check(b.stored("writes") == bytes(want[:1 << 20]) + bytes(SIZE - (1 << 20)), "writes: cut and grown, the rest reads as zeros")


def truncated_and_resumed(b):
    data = image()
    b.session("short")
    b.vmx("short")
    b.local("half", data[:1 << 20])
    b.local("all", data)
    out = b.smb("cd short; put half short-flat.vmdk; put short.vmx")
    lab.check(out.count("NT_STATUS") == 1 and "NT_STATUS_MEDIA_WRITE_PROTECTED" in out, f"short: a truncated extent, and the VMX is refused {out}")
    lab.check(f"short-flat.vmdk is incomplete, {SIZE - (1 << 20)} bytes are missing from byte 1048576 on" in b.log("short"), "short: the log says what is missing")
    told = json.loads(b.server.run("status", "--json").stdout)
    disk = next(s for s in told["sessions"] if s["path"] == "/short")["disks"][0]
    lab.check((disk["stage"], disk["received"], disk["size"]) == ("receiving", 1 << 20, SIZE) and disk["written"] + disk["skipped"] == 1 << 20, f"short: status {disk}")
    # smbclient's `reput` (4.17, against any server) writes the rest at the start of the file: bytes are missing, so the VMX is refused.
    out = b.smb("cd short; reput all short-flat.vmdk; put short.vmx")
    lab.check(refused(out) == 1 and "short.vmx" in out.split("NT_STATUS")[1] or b.stored("short") == data, f"short: a reput that mixes the disk up completes nothing {out}")
    out = b.smb("cd short; put half short-flat.vmdk; put half short-flat.vmdk")
    file = b.raw.create("short/short-flat.vmdk", smb2.OPEN)  # resumed as it is meant
    file.write(1 << 20, data[1 << 20:])
    file.close()
    out = b.smb("cd short; put short.vmx")
    lab.check("NT_STATUS" not in out and b.stored("short") == data, f"short: resumed from the remote size, the VMX follows {out}")


def sparse(b):
    size = 100 * GIB
    b.session("sparse", [("sparse", size, "thin")])
    begun = time.monotonic()
    file = b.raw.create("sparse/sparse-flat.vmdk")
    file.set_end(size)
    file.write(50 * GIB + 5, b"middle")
    file.write(size - 4, b"tail")
    file.close()
    path = b.datastore / "sparse" / "sparse-flat.vmdk"
    lab.check(time.monotonic() - begun < 5, f"sparse: 100 GiB in {time.monotonic() - begun:.1f} s")
    lab.check(path.stat().st_size == size and path.stat().st_blocks * 512 <= 1 << 20, f"sparse: it takes {path.stat().st_blocks * 512} bytes")
    stats = {m[1]: tuple(map(int, m.groups()[1:])) for m in STATS.finditer(b.log("sparse"))}
    lab.check(stats.get("/sparse/sparse-flat.vmdk", (9, 9, 9))[:3] == (0, 0, 0), f"sparse: the end of file counts as nothing {stats}")
    b.vmx("sparse", [("sparse", size, "thin")])
    lab.check("NT_STATUS" not in b.smb("cd sparse; put sparse.vmx"), "sparse: it is complete")
    info = subprocess.run(["qemu-img", "info", "--output=json", path.with_name("sparse.vmdk")], capture_output=True, text=True)
    lab.check(info.returncode == 0 and json.loads(info.stdout)["virtual-size"] == size, f"sparse: qemu-img reads it {info.stderr}")
    with open(path, "rb") as f:
        f.seek(50 * GIB)
        lab.check(f.read(16) == bytes(5) + b"middle" + bytes(5), "sparse: its bytes")


def rsync(b):
    data = image()
    b.session("rsync")
    file = b.raw.create("rsync/.rsync-flat.vmdk.AbCdEf", access=0x0013019F)
    file.write(0, data)
    file.close()
    file = b.raw.create("rsync/.rsync-flat.vmdk.AbCdEf", smb2.OPEN, access=0x0013019F)
    file.rename("rsync/rsync-flat.vmdk")
    file.close()
    out = b.smb("cd rsync; ls")
    lab.check(b.stored("rsync") == data and " rsync-flat.vmdk " in out and ".AbCdEf" not in out, f"rsync: temporary name and rename {out}")
    lab.check(refusal(lambda: b.raw.create("rsync/.other.AbCdEf")) == smb2.ACCESS_DENIED, "rsync: but no foreign file")


def pancbt(b, *arguments):
    made = subprocess.run([lab.binary(), "pancbt", "create", *map(str, arguments)], capture_output=True, text=True)
    if made.returncode:
        lab.check(False, f"pancbt create {made.stderr}")


def differentials(b):
    states = [bytearray(image())]
    for value in (1, 2, 3):
        state = bytearray(states[-1])
        state[value * 65536:value * 65536 + 4096] = bytes([value]) * 4096
        state[value * 300_032:value * 300_032 + 65536] = bytes(65536)
        states.append(state)
    for n, state in enumerate(states):
        b.local(f"state{n}", bytes(state))
    for n in (1, 2, 3):
        (b.source / f"d{n}").unlink(missing_ok=True)
        pancbt(b, "--base", b.source / f"state{n - 1}", "--new", b.source / f"state{n}", "--output", b.source / f"d{n}",
               *(["--base-change-id", f"c{n - 1}"] if n > 1 else []), "--target-change-id", f"c{n}")
    b.local("wrong", bytes(SIZE + 512))
    pancbt(b, "--base", b.source / "wrong", "--new", b.source / "wrong", "--output", b.source / "of-another-disk")
    whole = (b.source / "d1").read_bytes()
    b.local("cut", whole[:-1])
    b.local("corrupt", whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    b.session("diff")
    b.vmx("diff")
    extent = "put state0 diff-flat.vmdk"
    out = b.smb(f"cd diff; {extent}; put of-another-disk diff-flat.pancbt; put diff.vmx")
    lab.check(refused(out) == 2 and b.stored("diff") == bytes(states[0]), f"diff: one of another disk is refused, changes nothing, and stops the VMX {out}")
    lab.check("nothing was merged" in (b.get("diff", "diff.cfg.err") or ""), "diff: .cfg.err says so")
    for bad, why in (("cut", "truncated"), ("corrupt", "corrupt")):
        out = b.smb(f"cd diff; {extent}; put {bad} diff-flat.pancbt; put d1 diff-flat.pancbt; put diff.vmx")
        told = b.get("diff", "diff.cfg.err") or ""
        lab.check(refused(out) == 3 and why in told and "copy diff-flat.vmdk again" in told, f"diff: a {why} one makes the extent needed again {out} {told}")
        lab.check(why in b.log("diff"), f"diff: and the log says {why}")
    out = b.smb(f"cd diff; {extent}; ls; put d1 diff-flat.pancbt; put d3 diff-flat.2.pancbt; put d2 diff-flat.1.pancbt; put d3 diff-flat.2.pancbt; put d1 diff-flat.pancbt; put diff.vmx")
    lab.check(refused(out) == 2 and ".cfg.err" not in out, f"diff: a chain; a link out of its place and one merged already are refused {out}")
    lab.check("it applies to change id c2, and the disk stands at c1" in b.log("diff"), "diff: a wrong base is named")
    lab.check(b.stored("diff") == bytes(states[3]), "diff: the disk is at the last state")
    # Back to front, as a client with many writes in flight may send it.
    b.session("back")
    lab.check(b.put_raw("back/back-flat.vmdk", bytes(states[0])) == smb2.OK, "back: the extent")
    file, step = b.raw.create("back/back-flat.pancbt"), 50_000
    for at in reversed(range(0, len(whole), step)):
        file.write(at, whole[at:at + step])
    file.close()
    lab.check(b.stored("back") == bytes(states[1]), "back: a differential that came back to front")


def vmx_twice(b):
    b.session("twice")
    b.vmx("twice")
    b.local("twice.img", image())
    b.local("twice.nvram", "nvram")
    b.local("twice.vmsd", "vmsd")
    b.local("twice.vmdk", f"# Disk DescriptorFile\nversion=1\nRW {SIZE // 512} VMFS \"twice-flat.vmdk\"\nddb.adapterType = \"buslogic\"\n")
    b.local("foreign.vmdk", f"# Disk DescriptorFile\nversion=1\nRW {SIZE // 512} VMFS \"../prod/prod-flat.vmdk\"\n")
    out = b.smb("cd twice; put foreign.vmdk twice.vmdk; put twice.vmdk; put twice.img twice-flat.vmdk; put twice.nvram; put twice.vmsd; put twice.vmx; put twice.vmx")
    lab.check(out.count("NT_STATUS") == 1, f"twice: a descriptor that leads elsewhere is refused, all else taken {out}")
    file = b.raw.create("twice/twice.vmx", smb2.OPEN)
    file.set_times(-2, 0, 119600064000000000, 0)
    file.close()
    lab.check(b.log("twice").count("done importing /vmfs/volumes/") == 1, "twice: a VMX closed three times is imported once")
    lab.check(b.stored("twice", "twice.nvram") == b"nvram" and b.stored("twice", "twice.vmsd") == b"vmsd", "twice: nvram and vmsd beside it")
    lab.check(b"buslogic" in (b.stored("twice", "twice.vmdk") or b""), "twice: the adapter of the backup's descriptor is kept")


def root_session(b):
    data = image()
    b.local("rootvm.cfg", vm.cfg("rootvm", [("rootvm", SIZE, "thick")]))
    b.local("root.img", data)
    b.vmx("rootvm")
    out = b.smb("put rootvm.cfg; ls; put root.img rootvm-flat.vmdk; put rootvm.vmx")
    lab.check("NT_STATUS" not in out and b.stored("rootvm") == data, f"root: a CFG in the share's root {out}")
    log = b.log("")
    lab.check("import_session: created /\n" in log and "Import Session /:" in log and "Create file /rootvm-flat.vmdk" in log, "root: as in the sample's log")
    out = b.smb("del rootvm.cfg; del rootvm-flat.vmdk; del rootvm.vmx; ls")
    lab.check("NT_STATUS" not in out and "rootvm.cfg" not in out and b.stored("rootvm") == data, f"root: cleared away, the datastore is untouched {out}")
    out = b.smb("put rootvm.cfg; ls")
    lab.check("rootvm.cfg.err" in out, f"root: the next CFG begins anew, and what was restored is in its way {out}")
    b.smb("del rootvm.cfg")


def conflicts(b):
    (b.datastore / "taken").mkdir()
    (b.datastore / "taken(1)").mkdir()
    text = vm.cfg("taken", [("taken", SIZE, "thin")], "rename")
    b.session("taken", text=text)
    vmcfg = b.get("taken", "taken.vmcfg") or ""
    log = b.log("taken")
    lab.check(log.count("import session redirecting recover from taken to taken(2)") == 2 and "mode         : 1" in log, "taken: redirected, once for the VMX and once for the disk")
    keys = [line.split(" = ")[0] for line in vmcfg.splitlines() if not line.startswith("#")]
    page = ["version", "vmname", "vmuuid", "servername", "datacenter", "folder", "hostsystem", "resourcepool", "dsname", "directory", "vmx-name", "vmx-rename",
            *(f"vmdk.0.{k}" for k in ("name", "rename", "extent-name", "extent-rename", "dsname", "directory", "size", "type")),
            "on-conflict", "register-after-import", "access-time"]
    lab.check(keys == page, f"taken: .vmcfg's keys in the page's order {keys}")
    lab.check('directory = "taken(2)"' in vmcfg and 'vmdk.0.extent-rename = "taken-flat.vmdk"' in vmcfg, "taken: .vmcfg has the new names")
    data = image()
    lab.check(b.put_raw("taken/taken-flat.vmdk", data) == smb2.OK and b.stored("taken(2)", "taken-flat.vmdk") == data, "taken: the disk goes there")
    b.local("stop.cfg", vm.cfg("taken", [("taken", SIZE, "thin")]))
    checked = b.server.run("check", b.source / "stop.cfg")
    b.smb("mkdir stopped; cd stopped; put stop.cfg")
    told = b.get("stopped", "stop.cfg.err") or ""
    errors = [line.split(": ", 2)[2] for line in checked.stdout.splitlines() if line.startswith("error: ")]
    lab.check(checked.returncode == 1 and errors == told.splitlines()[1:], f"stopped: `check` and the share say the same {errors} {told}")


def rdm(b):
    data = image()
    text = vm.cfg("raw", [("raw", SIZE, "thick")]).replace("raw-flat.vmdk", "raw-rdm.vmdk")
    b.session("raw", text=text)
    b.vmx("raw")
    b.local("raw.img", data)
    out = b.smb("cd raw; put raw.img raw-rdm.vmdk; put raw.vmx")
    lab.check("NT_STATUS" not in out and b.stored("raw") == data, f"raw: an RDM becomes a plain disk with its own flat name {out}")
    lab.check(b'VMFS "raw-flat.vmdk"' in (b.stored("raw", "raw.vmdk") or b"") and not (b.datastore / "raw" / "raw-rdm.vmdk").exists(), "raw: and its descriptor says so")


def tar(b):
    data = image()
    b.local("tarred.cfg", vm.cfg("tarred", [("tarred", SIZE, "thin")]))
    b.local("tarred.img", data)
    b.vmx("tarred")
    with tarfile.open(b.source / "vm.tar", "w") as archive:
        folder = tarfile.TarInfo("tarred")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for local, name in (("tarred.cfg", "tarred.cfg"), ("tarred.img", "tarred-flat.vmdk"), ("tarred.vmx", "tarred.vmx")):
            archive.add(b.source / local, f"tarred/{name}")
    out = b.smb("tar x vm.tar")
    lab.check("NT_STATUS" not in out and b.stored("tarred") == data, f"tarred: smbclient tar x {out}")
    lab.check("done importing" in b.log("tarred"), "tarred: to the end")


def deletion(b):
    data = b.stored("tarred")
    b.session("broken")
    b.local("half", bytes([1]) * 70000)
    b.smb("cd broken; put half broken-flat.vmdk")
    out = b.smb("deltree tarred; deltree broken; ls")
    lab.check("NT_STATUS" not in out and " tarred " not in out and " broken " not in out, f"deltree removes the sessions {out}")
    lab.check(data and b.stored("tarred") == data and (b.datastore / "tarred" / "tarred.vmx").exists(), "and nothing of a restored VM")
    lab.check((b.stored("broken") or b"")[:70000] == bytes([1]) * 70000, "nor of one that failed")
    b.session("failed")
    b.smb("cd failed; put half failed-flat.vmdk")
    out = b.smb("cd failed; del failed-flat.vmdk; ls")
    lab.check("NT_STATUS" not in out and "failed-flat" not in out, f"failed: a client deletes its own failed file {out}")


def renamed(b):
    data = image()
    b.local("renamed.cfg", vm.cfg("renamed", [("renamed", SIZE, "thin")]))
    b.vmx("renamed")
    b.local("renamed.img", data)
    out = b.smb('mkdir "New folder"; rename "New folder" web; cd web; put renamed.cfg; cd ..; rename web web1; cd web1; put renamed.img renamed-flat.vmdk; '
                "cd ..; rename web1 Web2; mkdir other; ls")
    lab.check("NT_STATUS" not in out and " Web2 " in out and "New folder" not in out, f"renamed: before the CFG, before the data, after it {out}")
    out = b.smb("rename Web2 OTHER; rename Web2 missing/x; cd Web2; ls")
    lab.check("NT_STATUS_OBJECT_NAME_COLLISION" in out and "NT_STATUS_OBJECT_PATH_NOT_FOUND" in out and "renamed-flat.vmdk" in out, f"renamed: not over another directory {out}")
    file = b.raw.create("Web2/renamed.nvram")
    out = b.smb("rename Web2 web3")
    lab.check("NT_STATUS_ACCESS_DENIED" in out, f"renamed: not while a file in it is open {out}")
    file.close()
    b.server.kill()
    b.server.start()
    b.raw = smb2.Client(b.server.port, "import", lab.USER, lab.PASSWORD)
    out = b.smb("cd Web2; put renamed.vmx; cd ..; rename Web2 other/web3; rename other others; cd others/web3; ls")
    lab.check("NT_STATUS" not in out and " renamed.vmx " in out and b.stored("renamed") == data, f"renamed: after a kill -9 too, with all below it {out}")
    log = b.log("others/web3")
    for line in ("Rename /New folder to /web", "Create file /web/renamed.cfg", "Create file /web1/renamed-flat.vmdk", "Create file /Web2/renamed.vmx"):
        lab.check(line in log, f"renamed: the log has the path of its time: {line}")


def running_status(b):
    b.session("live")
    file = b.raw.create("live/live-flat.vmdk")
    file.write(0, image(1 << 20, 0.5))
    time.sleep(0.1)
    disk = next(s for s in json.loads(b.server.run("status", "--json").stdout)["sessions"] if s["path"] == "/live")["disks"][0]
    lab.check(disk["received"] == 1 << 20 and disk["rate"] > 0 and disk["estimated_seconds"] is not None, f"live: received, rate, time left {disk}")
    lab.check("1 file open" in b.server.run("status").stdout, "live: for people too")
    file.flush()
    live = json.loads(b.server.run("status", "--json").stdout)
    b.server.kill()
    left = json.loads(b.server.run("status", "--json").stdout)
    lab.check(left["service"] is None and live["service"]["pid"] == b.server.process.pid, "live: after a kill -9 the journals answer")
    told = lambda report: [(s["path"], s["state"], [(d["extent"], d["received"], d["written"], d["skipped"]) for d in s["disks"]]) for s in report["sessions"]]
    lab.check(told(left) == told(live), "live: with the same numbers")
    b.server.start()
    again = subprocess.run([lab.binary(), "serve", "--config", b.server.config, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=20)
    lab.check(again.returncode == 2 and "serves this data directory" in again.stderr, f"live: a second service is refused {again.stderr[-300:]}")


def main():
    lab.need("smbclient", "qemu-img")
    print(f"seed {SEED}")
    begun = time.monotonic()
    bench = Bench()
    for part in (names_and_order, cfg_errors, own_files, rewriting_with_data, writes, truncated_and_resumed, sparse, rsync, differentials,
                 vmx_twice, root_session, conflicts, rdm, tar, deletion, renamed, running_status):
        part(bench)
    bench.raw.close()
    lab.check("panicked" not in bench.server.log.read_text(errors="replace"), "no panic in the log")
    print(f"{time.monotonic() - begun:.0f} s")
    lab.finish()


if __name__ == "__main__":
    main()
