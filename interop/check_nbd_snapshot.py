"""on-conflict = "snapshot" by nbd: into exports whose server finds a disk by its name, against govmomi's simulator over TLS.

The server is packaging/nbd-by-name as systemd would start it, one process for each connection; where VDDK would open a descriptor on its
datastore, nbdkit's file plugin opens the flat file beside it.
"""
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

import lab
import vlab

MIB = 1 << 20
SIZE = 12 * MIB
BY_NAME = lab.ROOT / "packaging" / "nbd-by-name"
URI = "nbd+unix:///{vm}/{datastore}/{directory}/{descriptor}?socket=SOCKET"
# What is refused, read-only or slow is said by files in a directory.
SERVE = """
echo "$2 $3" >> "$1/asked"
[ -e "$1/base-only" ] && case "$3" in *-00000*) exit 1;; esac
options=""; [ -e "$1/read-only" ] && options="-r"
rate="1G"; [ -e "$1/slow" ] && rate="40M"
exec nbdkit --single --log=stderr $options --filter=log --filter=rate file "$4/${3%.vmdk}-flat.vmdk" rate=$rate logfile="$1/log" logappend=true
"""


class ByName:
    """Listens, and hands each connection to a process of its own."""

    def __init__(self, where, store):
        self.where, self.path, self.store = where, where / "by-name.sock", store
        where.mkdir()
        self.listener = None

    def start(self):
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        log = open(self.where / "by-name.log", "ab")
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            lab.adopt(subprocess.Popen([BY_NAME, "sh", "-c", SERVE, "-", self.where, "{vm}", "{path}", self.store],
                                       stdin=connection, stdout=log, stderr=log))
            connection.close()

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink()

    def flag(self, name, there=True):
        (self.where / name).touch() if there else (self.where / name).unlink()

    def asked(self):
        path = self.where / "asked"
        return path.read_text().splitlines() if path.exists() else []


def datastore(store, uri, more="existing-disks = true\nretry-seconds = 20\n"):
    return f'\n[[hypervisor.datastore]]\nname = "ds1"\npath = "{store}"\n[hypervisor.datastore.nbd]\nuri = "{uri}"\n{more}'


def cfg(**more):
    return vlab.cfg("snap", hostsystem="", **{"vmdk.0.size": SIZE, "vmdk.0.type": "thin", "on_conflict": "snapshot", **more})


class Lab:
    def __init__(self, work):
        self.work, self.source, self.store = work, work / "source", work / "ds" / "ds1"
        self.source.mkdir()
        self.sim = vlab.Vcsim(work / "sim", {"ds1": self.store})
        self.image = os.urandom(SIZE)
        (self.source / "disk.img").write_bytes(self.image)
        new = bytearray(self.image)
        new[:MIB] = os.urandom(MIB)
        new[2 * MIB:5 * MIB] = bytes(3 * MIB)
        self.new = bytes(new)
        (self.source / "newer.img").write_bytes(self.new)
        self.by_name = ByName(work / "by-name", self.store)
        self.machine()
        self.uri = URI.replace("SOCKET", str(self.by_name.path))
        self.server = lab.Importfs(work / "server", extra=vlab.hypervisor(self.sim) + datastore(self.store, self.uri))

    def machine(self):
        """The virtual machine `snap`, restored by the directory driver, with its disk."""
        server = lab.Importfs(self.work / "first", extra=vlab.hypervisor(self.sim) + f'\n[[hypervisor.datastore]]\nname = "ds1"\npath = "{self.store}"\n')
        session = vlab.Session(server, self.source, "snap")
        session.cfg(cfg(on_conflict="stop"))
        session.extent()
        done = session.vmx()
        self.vm = self.sim.vm("[ds1] snap/snap.vmx")
        lab.check("NT_STATUS" not in done.stdout and self.vm is not None, f"the machine is there {session.errors()!r}{done.stdout[-200:]!r}")
        server.stop()
        self.sim.disk("snap", "[ds1] snap/snap.vmdk")
        self.own = (self.store / "snap" / "snap.vmx").read_bytes()
        self.descriptor = (self.store / "snap" / "snap.vmdk").read_bytes()
        self.sim.reset()

    def session(self, name, text=None):
        session = vlab.Session(self.server, self.source, name)
        session.cfg(text or cfg())
        return session

    def snapshots(self):
        return self.sim.state()["calls"].get("CreateSnapshot_Task", 0)

    def flat(self, name="snap-000001"):
        return self.store / "snap" / f"{name}-flat.vmdk"


def refused(l):
    """All that can be known is told before there is a snapshot."""
    def told(what, part, text=None):
        session = l.session("early", text)
        errors = session.errors()
        lab.check(part in errors and l.snapshots() == 0, f"{what}: {part} {'' if part in errors else repr(errors)}")
        checked = l.server.run("check", l.source / "early.cfg")
        lab.check(checked.returncode == 1 and part in checked.stdout, f"{what}: importfs check says so too")
        session.do("deltree early")

    told("no server", "vmdk.0.name: [ds1] snap/snap.vmdk can't be written: nbd+unix:///")
    l.by_name.start()
    l.by_name.flag("read-only")
    told("read-only", "the export is read-only")
    l.by_name.flag("read-only", False)
    with open(l.flat("snap"), "ab") as flat:
        flat.truncate(SIZE - 512)
    told("another size", f"the export has {SIZE - 512} bytes, the disk {SIZE}")
    l.flat("snap").write_bytes(l.image)
    told("a new disk", "on-conflict: [ds1] takes no new disks, only those of a virtual machine that exists",
         vlab.cfg("brandnew", hostsystem="", **{"vmdk.0.size": SIZE}))
    lab.check(not (l.store / "brandnew").exists(), "a new disk: nothing is made")
    # Without the setting, and with addresses that would lead elsewhere.
    config = l.work / "other.toml"
    text = l.server.config.read_text()
    (l.source / "early.cfg").write_text(cfg())
    for change, code, part in ((("existing-disks = true\n", ""), 1, "nbd where existing-disks = true says that an address follows"),
                               (("{directory}/{descriptor}", "{descriptor}"), 2, "existing-disks needs {directory} and one of"),
                               (("existing-disks = true\n", ""), 2, "{vm} is known of disks that a virtual machine has")):
        changed = text.replace(*change)
        config.write_text(changed.replace("{vm}/", "") if code == 1 else changed)
        run = subprocess.run([lab.binary(), "check", l.source / "early.cfg", "--config", config], capture_output=True, text=True)
        lab.check(run.returncode != 0 and part in run.stdout + run.stderr, f"configuration: {part} {run.returncode} {(run.stdout + run.stderr)[-300:] if part not in run.stdout + run.stderr else ''}")


def snapshot_unserved(l):
    """A server that does not find the snapshot's disk: the snapshot stays, and is the one that is used later, or goes with its session."""
    l.by_name.flag("base-only")
    session = l.session("unserved")
    errors = session.errors()
    lab.check("[ds1] snap/snap-000001.vmdk can't be written" in errors and "there is no export of that name" in errors and "nothing is restored yet, and the snapshot 'importfs " in errors,
              f"unserved: told, and what becomes of the snapshot {errors!r}")
    put = session.do("cd unserved; put newer.img snap-flat.vmdk")
    lab.check("NT_STATUS" in put.stdout, "unserved: no data is taken")
    lab.check("snapshot        [ds1] snap/snap.vmx" in l.server.run("orphans", "list").stdout, "unserved: the snapshot is in the ledger")
    l.by_name.flag("base-only", False)
    session.do("cd unserved; put unserved.cfg")
    lab.check(session.errors() == "" and l.snapshots() == 1, f"unserved: copied again there is one snapshot {session.errors()!r}")
    session.do("deltree unserved")
    cleaned = l.server.run("orphans", "clean", "--yes").stdout
    lab.check("removed  [ds1] snap/snap.vmx" in cleaned and l.sim.state()["calls"].get("RemoveSnapshot_Task") == 1, f"unserved: clean removes it {cleaned!r}")


def whole(l):
    """Into the snapshot's disk, with a kill -9 in the middle."""
    (l.by_name.where / "log").unlink(missing_ok=True)
    l.sim.reset()
    session = l.session("again")
    lab.check(session.errors() == "", f"whole: accepted {session.errors()!r}")
    asked = l.by_name.asked()[-1]
    current = asked.split()[1]
    lab.check(re.fullmatch(r"vm-\d+ snap/snap-00000\d.vmdk", asked) is not None,
              f"whole: the server is asked for the snapshot's disk of the machine ({asked})")
    flat = l.flat(pathlib.Path(current).stem)
    below = l.flat("snap")
    l.by_name.flag("slow")
    thread = threading.Thread(target=session.do, args=("cd again; put newer.img snap-flat.vmdk",))
    thread.start()
    deadline = time.monotonic() + 20
    while "Write" not in ((l.by_name.where / "log").read_text() if (l.by_name.where / "log").exists() else "") and time.monotonic() < deadline:
        time.sleep(0.02)
    l.server.kill()
    thread.join()
    lab.check(flat.read_bytes() != l.new, "whole: killed in the middle")
    l.by_name.flag("slow", False)
    l.server.start()
    lab.check("half of a restore is in the disks of 'snap'" in l.server.run("orphans", "list").stdout, "whole: what is half done is listed")
    (l.source / "snap.vmx").write_text(vlab.vmx("snap"))
    put = session.do("cd again; put snap.vmx")
    lab.check("NT_STATUS" in put.stdout, "whole: the VMX is refused before the extent is whole")
    (l.source / "snap.vmdk").write_bytes(l.descriptor)
    put = session.do("cd again; put snap.vmdk; put newer.img snap-flat.vmdk; put snap.vmx")
    lab.check("NT_STATUS" not in put.stdout, f"whole: copied again {put.stdout[-300:]!r}")
    lab.check(flat.read_bytes() == l.new, "whole: the export has what came, zeros over data too")
    lab.check(below.read_bytes() == l.image, "whole: what is below the snapshot stays")
    folder = l.store / "snap"
    lab.check((folder / "snap.vmx").read_bytes() == l.own and (folder / "snap.vmdk").read_bytes() == l.descriptor
              and b"vmfsSparse" in (folder / current.split("/")[1]).read_bytes(), "whole: VMX and descriptors stay the machine's own")
    log = (l.by_name.where / "log").read_text()
    lab.check(" Trim " not in log and "may_trim=1" not in log and " Write " in log, "whole: nothing is trimmed")
    lab.check(flat.stat().st_blocks * 512 >= SIZE, f"whole: zeros are written, no holes ({flat.stat().st_blocks * 512} of {SIZE} bytes)")
    calls = l.sim.state()["calls"]
    lab.check(calls.get("CreateSnapshot_Task") == 1 and "RegisterVM_Task" not in calls, f"whole: one snapshot, nothing registered {calls}")
    lab.check(len([vm for vm in l.sim.state()["vms"] if vm["Path"] == "[ds1] snap/snap.vmx"]) == 1, "whole: the machine is there once")
    lab.check("snapshot  " not in l.server.run("orphans", "list").stdout, "whole: no orphan")
    put = session.do("cd again; put newer.img snap-flat.vmdk")
    lab.check("NT_STATUS_MEDIA_WRITE_PROTECTED" in put.stdout, "whole: nothing more comes into the complete machine")


def main():
    lab.need("smbclient", "nbdkit")
    l = Lab(lab.workdir("nbd-snapshot"))
    for part in (refused, snapshot_unserved, whole):
        print(f"--- {part.__name__}", flush=True)
        part(l)
    l.server.stop()
    lab.check("panicked" not in l.server.log.read_text(errors="replace"), "no panic in the log")
    l.by_name.stop()
    lab.finish()


if __name__ == "__main__":
    main()
