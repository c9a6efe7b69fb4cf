"""Restores by hotadd: disks attached to the appliance, written as block devices, detached. Against govmomi's simulator over TLS.

The simulator's appliance has a kernel of its own in a directory: for each disk that is attached a block device appears there a moment
later, which is the disk's flat file by another name (interop/vcsim/appliance.go). importfs finds it as it would below /sys and /dev.
"""
import json
import os
import subprocess
import threading
import time

import lab
import vlab

SIZE = 6 << 20
MIB = 1 << 20
APPLIANCE = "DC0_H0_VM0"


class Server(lab.Importfs):
    """importfs whose hypervisor `vc` has the datastore ds1 by hotadd, and `plain` mounted here."""

    def __init__(self, where, sim, plain, appliance=""):
        super().__init__(where, extra=config(sim, plain, appliance))


def config(sim, plain, appliance=""):
    return vlab.hypervisor(sim) + f"""{appliance}
[[hypervisor.datastore]]
name = "ds1"
writer = "hotadd"
[hypervisor.datastore.hotadd]
device-seconds = 3
[[hypervisor.datastore]]
name = "plain"
path = "{plain}"
"""


def cfg(name, **more):
    return vlab.cfg(name, hostsystem="", **{"vmdk.0.size": SIZE, "vmdk.0.type": "thin", **more})


def words(text):
    """A table without the width of its columns."""
    return " ".join(text.split())


class Session(vlab.Session):
    def extent(self, image="disk.img", name=None):
        return self.do(f"cd {self.name}; put {image} {name or self.name + '-flat.vmdk'}")


class Lab:
    """The simulator, what it shows of the appliance, and importfs before it."""

    def __init__(self, work):
        self.work, self.source, self.store, self.plain = work, work / "source", work / "ds" / "ds1", work / "ds" / "plain"
        self.source.mkdir()
        self.machine = work / "machine"
        self.sim = vlab.Vcsim(work / "sim", {"ds1": self.store, "plain": self.plain}, machine=self.machine)
        os.environ["IMPORTFS_MACHINE_ROOT"] = str(self.machine)
        self.server = Server(work / "server", self.sim, self.plain)
        self.image = bytes(MIB) + os.urandom(2 * MIB) + bytes(MIB) + bytes(range(256)) * (2 * MIB // 256)
        (self.source / "disk.img").write_bytes(self.image)

    def attached(self):
        """What of ds1 is attached to the appliance."""
        vm = next(vm for vm in self.sim.state()["vms"] if vm["Name"] == APPLIANCE)
        return [device for device in vm["Devices"] if "[ds1]" in device]

    def devices(self):
        return sorted(path.name for path in (self.machine / "dev").iterdir())

    def ledger(self):
        folder = self.server.data / "attachments"
        return [json.loads(path.read_text()) for path in folder.glob("*.json")] if folder.exists() else []

    def wait(self, what, condition, seconds=15):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return lab.check(False, f"{what}: not within {seconds} s")
            time.sleep(0.02)
        return lab.check(True, what)

    def clean(self, name):
        """Nothing is attached, nothing is written down as attached, and the kernel shows nothing."""
        self.wait(f"{name}: nothing is attached any more", lambda: not self.attached() and not self.ledger() and not self.devices())

    def begin(self, name, **more):
        session = Session(self.server, self.source, name)
        session.cfg(cfg(name, **more))
        errors = session.errors()
        lab.check(errors == "", f"{name}: cfg accepted {errors!r}")
        return session

    def finish(self, session, image=None):
        """The VMX, and whether all is as it should be."""
        name = session.name
        done = session.vmx()
        vm = self.sim.vm(f"[ds1] {name}/{name}.vmx")
        lab.check("NT_STATUS" not in done.stdout and vm is not None and vm["Name"] == name, f"{name}: registered {done.stdout[-200:]!r}")
        flat = self.store / name / f"{name}-flat.vmdk"
        lab.check(flat.exists() and flat.read_bytes() == (image or self.image), f"{name}: disk identical on the datastore")
        self.clean(name)
        return vm


def whole(l):
    session = l.begin("web", **{"vmdk.1.name": "data.vmdk", "vmdk.1.extent-name": "data-flat.vmdk", "vmdk.1.dsname": "ds1",
                                "vmdk.1.directory": "web/more", "vmdk.1.size": SIZE, "vmdk.1.type": "thick"})
    log = session.read("import.log")
    lab.check('ds1 is written by "hotadd": the configuration says so' in log, "import.log says which driver and why")
    lab.check((l.store / "web" / "more").is_dir(), "directories are made by the hypervisor")
    both = [threading.Thread(target=session.extent, args=("disk.img", name)) for name in ("web-flat.vmdk", "data-flat.vmdk")]
    [thread.start() for thread in both]
    [thread.join() for thread in both]
    l.clean("web, extents")
    requests = l.sim.state()["order"].count("ReconfigVM_Task")
    lab.check(2 <= requests <= 4, f"two disks: attached and detached once each, or both at once ({requests} reconfigurations)")
    text = ('scsi0:1.present = "TRUE"\nscsi0:1.fileName = "data.vmdk"\n')
    (l.source / "web.vmx").write_text(vlab.vmx("web") + text)
    session.do("cd web; put disk.img web.vmdk")  # no descriptor: refused, and nothing of the hypervisor's own is overwritten
    vm = l.finish(Named(session, vlab.vmx("web") + text))
    lab.check((vm["Folder"], vm["Pool"]) == ("Restored", "DC0_C0_RP1"), f"registered in its folder and pool: {vm['Folder']}, {vm['Pool']}")
    lab.check((l.store / "web" / "more" / "data-flat.vmdk").read_bytes() == l.image, "second disk identical, in its own directory")
    descriptor = (l.store / "web" / "web.vmdk").read_text()
    lab.check(descriptor.startswith("# Disk DescriptorFile\ncreateType") and "CID" not in descriptor, "the descriptor is the hypervisor's own")
    text = (l.store / "web" / "web.vmx").read_text()
    lab.check('displayName = "web"' in text and '"more/data.vmdk"' in text or "web/more/data.vmdk" in text, "the VMX came through /folder, rewritten")
    blocks = (l.store / "web" / "web-flat.vmdk").stat().st_blocks * 512
    lab.check(blocks < SIZE - MIB, f"zeros take no space on the thin disk: {blocks} of {SIZE} bytes")
    order = l.sim.state()["order"]
    lab.check(order.index("RegisterVM_Task") > len(order) - 1 - order[::-1].index("ReconfigVM_Task"), "registered after the last detach")


def together(l):
    """Disks that come and go together share a reconfiguration; what is in the way of one of them fails that one alone."""
    disks = 8
    more = {f"vmdk.{n}.{key}": value for n in range(1, disks) for key, value in
            (("name", f"d{n}.vmdk"), ("extent-name", f"d{n}-flat.vmdk"), ("dsname", "ds1"), ("directory", "many"), ("size", SIZE), ("type", "thin"))}
    names = ["many-flat.vmdk"] + [f"d{n}-flat.vmdk" for n in range(1, disks)]

    def all_at_once(session, slow):
        before = l.sim.state()["order"].count("ReconfigVM_Task")
        l.sim.rule("ReconfigVM_Task", "delay", Millis=slow, Times=2)
        said = []
        threads = [threading.Thread(target=lambda name=name: said.append(session.extent("disk.img", name).stdout)) for name in names]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return said, l.sim.state()["order"].count("ReconfigVM_Task") - before

    session = l.begin("many", **more)
    said, requests = all_at_once(session, 700)
    lab.check(not any("NT_STATUS" in text for text in said), f"together: all are written {[t[-100:] for t in said if 'NT_' in t]}")
    lab.check(2 <= requests < 2 * disks, f"together: {disks} disks attached and detached by {requests} reconfigurations")
    l.clean("together, extents")
    lab.check(all((l.store / "many" / name).read_bytes() == l.image for name in names), "together: all disks identical")
    l.finish(session)
    # One path is taken by somebody else's file: that disk alone is refused.
    session = l.begin("some", **{key: value.replace("many", "some") if isinstance(value, str) else value for key, value in more.items()})
    names[0] = "some-flat.vmdk"
    for name in ("d3.vmdk", "d3-flat.vmdk"):
        (l.store / "some" / name).write_bytes(b"somebody else's")
    said, requests = all_at_once(session, 700)
    lab.check(sum("NT_STATUS" in text for text in said) == 1, f"together: one refused ({requests} reconfigurations)")
    lab.check(all((l.store / "some" / name).read_bytes() == (b"somebody else's" if "d3" in name else l.image) for name in names),
              "together: the others identical, and what somebody else had is untouched")
    l.clean("together, one refused")
    # kill -9 while several are being attached by one task: what it attached all the same is detached at the next start.
    session = l.begin("cut", **{key: value.replace("many", "cut") if isinstance(value, str) else value for key, value in more.items()})
    names[0] = "cut-flat.vmdk"
    asked = l.sim.state()["calls"].get("ReconfigVM_Task", 0)
    l.sim.rule("ReconfigVM_Task", "delay", Millis=1200, Times=2)
    threads = [threading.Thread(target=session.extent, args=("disk.img", name)) for name in names]
    [thread.start() for thread in threads]
    l.wait("together: the second task is under way", lambda: l.sim.state()["calls"].get("ReconfigVM_Task", 0) > asked + 1)
    lab.check(len(l.ledger()) > 2, f"together: {len(l.ledger())} disks are written down before they are attached")
    l.server.kill()
    [thread.join() for thread in threads]
    l.wait("together: attached after the kill", lambda: len(l.attached()) > 2)
    l.server.start()
    l.clean("together, started again")
    said, requests = all_at_once(session, 300)
    lab.check(not any("NT_STATUS" in text for text in said), f"together: copied again after the kill {[t[-100:] for t in said if 'NT_' in t]}")
    l.finish(session)


class Named:
    """A session whose VMX has a text of its own."""

    def __init__(self, session, text):
        self.session, self.text, self.name = session, text, session.name

    def vmx(self):
        return self.session.vmx(self.text)


def requests(l):
    """What was asked of the hypervisor: made thin, persistent; detached without touching files."""
    session = l.begin("asked")
    l.sim.rule("ReconfigVM_Task", "delay", Millis=1)
    session.extent()
    asked = l.sim.state()["requests"]["ReconfigVM_Task"]
    lab.check("<operation>remove</operation>" in asked and "fileOperation" not in asked, "detached without a fileOperation")
    l.finish(session)
    session = l.begin("eager", **{"vmdk.0.type": "thick"})
    l.sim.rule("ReconfigVM_Task", "fault", Fault="NoDiskSpace", Fields={"datastore": "ds1"})
    session.extent()
    asked = l.sim.state()["requests"]["ReconfigVM_Task"]
    lab.check(all(part in asked for part in ("<operation>add</operation><fileOperation>create</fileOperation>", "<thinProvisioned>false",
                                             "<diskMode>persistent</diskMode>", f"<capacityInBytes>{SIZE}<", "[ds1] eager/eager.vmdk")),
              f"made persistent, of its size, thick {asked[-900:] if 'create' not in asked else ''}")


def adapters(l):
    """A descriptor that comes before its extent says which adapter the hypervisor's own is for; one that comes later is told."""
    text = f'# Disk DescriptorFile\nversion=1\ncreateType="vmfs"\nRW {SIZE // 512} VMFS "NAME-flat.vmdk"\nddb.adapterType = "ide"\n'
    for name, first in (("before", True), ("after", False)):
        (l.source / f"{name}.vmdk").write_text(text.replace("NAME", name))
        session = l.begin(name)
        puts = [f"put {name}.vmdk", f"put disk.img {name}-flat.vmdk"]
        said = session.do(f"cd {name}; " + "; ".join(puts if first else reversed(puts))).stdout
        lab.check("NT_STATUS" not in said, f"adapters: {name} {said[-200:] if 'NT_' in said else ''}")
        made, log = (l.store / name / f"{name}.vmdk").read_text(), session.read("import.log")
        lab.check(('ddb.adapterType = "ide"' in made) == first, f"adapters: {name}, the hypervisor's descriptor is for {made[-40:]!r}")
        lab.check(("its adapter is another" in log) != first, f"adapters: {name}, import.log says it where it is not what was asked for")
        l.finish(session)
    # Refused: nothing is left, and a second try succeeds.
    (l.source / "refused.vmdk").write_text(text.replace("NAME", "refused"))
    session = l.begin("refused")
    session.do("cd refused; put refused.vmdk")
    l.sim.rule("ReconfigVM_Task", "fault", Fault="NoPermission", Fields={"privilegeId": "VirtualMachine.Config.AddExistingDisk"})
    put = session.extent()
    lab.check("NT_STATUS" in put.stdout and not (l.store / "refused" / "refused.vmdk").exists(), "adapters: a disk that can't be attached is removed again")
    l.clean("adapters, refused")
    put = session.extent()
    lab.check("NT_STATUS" not in put.stdout and '"ide"' in (l.store / "refused" / "refused.vmdk").read_text(), f"adapters: the second try {put.stdout[-200:]!r}")
    l.finish(session)


def differential(l):
    """A differential after the extent was closed: the disk is attached again, merged into, detached."""
    session = l.begin("late")
    session.extent()
    l.clean("late, extent")
    new = bytearray(l.image)
    new[2 * MIB:2 * MIB + 65536] = os.urandom(65536)
    new[5 * MIB:5 * MIB + 65536] = bytes(65536)
    (l.source / "new.img").write_bytes(new)
    made = subprocess.run([lab.binary(), "pancbt", "create", "--base", l.source / "disk.img", "--new", l.source / "new.img", "--output",
                           l.source / "late.pancbt"], capture_output=True, text=True)
    lab.check(made.returncode == 0, f"pancbt create {made.stderr}")
    put = session.do("cd late; put late.pancbt late-flat.pancbt")
    lab.check("NT_STATUS" not in put.stdout, f"merged {put.stdout[-200:]!r}")
    l.finish(session, bytes(new))


def failures(l):
    """Each ends with a message, nothing attached, and a second try that succeeds."""
    def one(name, status, part, prepare, mend):
        session = l.begin(name)
        prepare()
        put = session.extent()
        log = session.read("import.log")
        lab.check(status in put.stdout and part in log, f"{name}: {status}, {part} {put.stdout[-200:] + log[-600:] if part not in log else ''}")
        l.clean(f"{name}, failed")
        lab.check(not (l.store / name / f"{name}.vmdk").exists(), f"{name}: no half-made disk is left")
        mend()
        put = session.extent()
        lab.check("NT_STATUS" not in put.stdout, f"{name}: the second try {put.stdout[-200:]!r}")
        l.finish(session)

    rule, change = l.sim.rule, l.sim.change
    one("full", "NT_STATUS_DISK_FULL", "the datastore 'ds1' is full",
        lambda: rule("ReconfigVM_Task", "task-fault", Fault="NoDiskSpace", Fields={"datastore": "ds1"}), lambda: None)
    one("denied", "NT_STATUS", "lacks the privilege VirtualMachine.Config.AddNewDisk",
        lambda: rule("ReconfigVM_Task", "fault", Fault="NoPermission", Fields={"privilegeId": "VirtualMachine.Config.AddNewDisk"}), lambda: None)
    one("never", "NT_STATUS", "3 seconds after it was attached", lambda: change(Devices="never"), lambda: change(Devices=""))
    one("short", "NT_STATUS", f"it has 4096 bytes, the disk {SIZE}", lambda: change(Devices="short"), lambda: change(Devices=""))
    # The answer to the attachment is lost: the devices tell.
    session = l.begin("lost")
    rule("ReconfigVM_Task", "drop-after")
    put = session.extent()
    lab.check("NT_STATUS" not in put.stdout, f"lost: an answer that was cut off {put.stdout[-200:]!r}")
    l.finish(session)
    # The appliance is busy with another task for a moment.
    session = l.begin("busy")
    rule("ReconfigVM_Task", "task-fault", Fault="TaskInProgress")
    put = session.extent()
    lab.check("NT_STATUS" not in put.stdout, f"busy: another task of the appliance {put.stdout[-200:]!r}")
    l.finish(session)
    session = l.begin("expired")
    l.sim.expire()
    session.extent()
    l.sim.expire()
    l.finish(session)


def detaching(l):
    """A disk that can't be detached is told, tried again, and in the way of the registration until it is."""
    session = l.begin("once")
    l.sim.rule("ReconfigVM_Task", "task-fault", Fault="InvalidState", Skip=1)
    put = session.extent()
    log = session.read("import.log")
    lab.check("NT_STATUS" not in put.stdout and "can't be detached from the appliance" in log, f"once: told in import.log {log[-300:]!r}")
    lab.check(len(l.attached()) == 1 and len(l.ledger()) == 1, "once: it is attached still, and written down")
    listed = l.server.run("orphans", "list")
    lab.check("attached attachment [ds1] once/once.vmdk" in words(listed.stdout), f"once: orphans list shows it {listed.stdout!r}")
    l.finish(session)
    session = l.begin("twice")
    l.sim.rule("ReconfigVM_Task", "task-fault", Fault="InvalidState", Skip=1, Times=2)
    session.extent()
    done = session.vmx()
    errors = session.errors()
    lab.check("NT_STATUS" in done.stdout and "can't be detached from the appliance" in errors and l.sim.vm("[ds1] twice/twice.vmx") is None,
              f"twice: the VMX is refused, not registered {errors!r}")
    l.finish(session)
    lab.check(session.errors() == "", "twice: and the error goes")
    # One that its session leaves attached, as it is deleted: by the service itself.
    session = l.begin("gone")
    l.sim.rule("ReconfigVM_Task", "task-fault", Fault="InvalidState", Skip=1, Times=2)
    session.extent()
    session.do("deltree gone")
    l.clean("gone")
    listed = l.server.run("orphans", "list")
    lab.check("there extent [ds1] gone/gone.vmdk" in words(listed.stdout),
              f"gone: its disk is known again {listed.stdout!r}")
    l.server.run("orphans", "clean", "--yes")
    lab.check(not (l.store / "gone" / "gone.vmdk").exists(), "gone: and orphans clean removes it")


def killed(l):
    """kill -9 while a disk is attached, or about to be."""
    big = bytes(os.urandom(MIB)) * 96
    (l.source / "big.img").write_bytes(big)
    session = l.begin("killed", **{"vmdk.0.size": len(big)})
    thread = threading.Thread(target=session.extent, args=("big.img",))
    thread.start()
    l.wait("killed: the device is there", lambda: l.devices())
    time.sleep(0.05)
    l.server.kill()
    thread.join()
    lab.check(len(l.attached()) == 1 and len(l.ledger()) == 1, "killed: the disk is attached and written down")
    listed = l.server.run("orphans", "list")
    lab.check("attached attachment [ds1] killed/killed.vmdk" in words(listed.stdout), f"killed: orphans list shows it {listed.stdout!r}")
    l.server.start()
    l.clean("killed, started again")
    put = session.extent("big.img")
    lab.check("NT_STATUS" not in put.stdout, f"killed: copied again {put.stdout[-200:]!r}")
    l.finish(session, big)
    # Before the task that attaches it has begun.
    session = l.begin("early")
    asked = l.sim.state()["calls"].get("ReconfigVM_Task", 0)
    l.sim.rule("ReconfigVM_Task", "delay", Millis=1500)
    thread = threading.Thread(target=session.extent)
    thread.start()
    l.wait("early: the request is under way", lambda: l.sim.state()["calls"].get("ReconfigVM_Task", 0) > asked)
    l.server.kill()
    thread.join()
    l.wait("early: attached after the kill", lambda: len(l.attached()) == 1)
    l.server.start()
    l.clean("early, started again")
    put = session.extent()
    lab.check("NT_STATUS" not in put.stdout, f"early: copied again {put.stdout[-200:]!r}")
    l.finish(session)


def replaced(l):
    """A disk that was put in the place of the session's while the service was down is attached, found out, and left alone."""
    session = l.begin("swapped")
    session.extent()
    l.clean("swapped, extent")
    l.server.stop()
    other = l.store / "swapped" / "swapped.vmdk.uuid"
    other.write_text("6000c29f-0000-4000-8000-000000000001\n")
    flat = l.store / "swapped" / "swapped-flat.vmdk"
    flat.write_bytes(bytes(SIZE))
    l.server.start()
    put = session.extent()
    log = session.read("import.log")
    lab.check("NT_STATUS" in put.stdout and "it is not the one that was made here" in log, f"replaced: refused {put.stdout[-200:]!r}")
    l.clean("replaced")
    lab.check(flat.read_bytes() == bytes(SIZE), "replaced: nothing was written to the other")
    other.unlink()
    put = session.extent()
    lab.check("NT_STATUS" not in put.stdout, f"replaced: its own is taken again {put.stdout[-200:]!r}")
    l.finish(session)


def snapshot(l):
    """on-conflict = "snapshot": into the disks that a machine has since a snapshot; what it was before stays."""
    session = l.begin("snap")
    session.extent()
    l.finish(session)
    l.sim.disk("snap", "[ds1] snap/snap.vmdk")
    own = (l.store / "snap" / "snap.vmx").read_bytes()
    new = bytearray(l.image)
    new[:MIB] = os.urandom(MIB)
    new[2 * MIB:3 * MIB] = bytes(MIB)
    (l.source / "newer.img").write_bytes(new)
    l.sim.reset()
    again = Session(l.server, l.source, "again")
    (l.source / "again.cfg").write_text(cfg("snap", on_conflict="snapshot"))
    again.do("mkdir again")
    again.do("cd again; put again.cfg")
    lab.check(again.errors() == "", f"snapshot: accepted {again.errors()!r}")
    l.sim.change(Deny="VirtualMachine.State.CreateSnapshot")
    lacking = Session(l.server, l.source, "lacking")
    (l.source / "lacking.cfg").write_text(cfg("snap", on_conflict="snapshot"))
    lacking.do("mkdir lacking")
    lacking.do("cd lacking; put lacking.cfg")
    lab.check("lacks VirtualMachine.State.CreateSnapshot on the virtual machine 'snap'" in lacking.errors(), f"snapshot: the privilege is asked for {lacking.errors()!r}")
    l.sim.change(Allow="VirtualMachine.State.CreateSnapshot")
    lacking.do("deltree lacking")
    listed = l.server.run("orphans", "list").stdout
    lab.check(listed.count("snapshot        [ds1] snap/snap.vmx") == 1, f"snapshot: in the ledger until it is complete {listed!r}")
    put = again.do("cd again; put newer.img snap-flat.vmdk")
    lab.check("NT_STATUS" not in put.stdout, f"snapshot: extent {put.stdout[-200:]!r}")
    (l.source / "snap.vmx").write_text(vlab.vmx("snap"))
    put = again.do("cd again; put snap.vmx")
    log = again.read("import.log")
    lab.check("NT_STATUS" not in put.stdout and "revert to that" in log and "keeps the VMX that it has" in log, f"snapshot: done {put.stdout[-200:]!r}")
    lab.check("snapshot  " not in l.server.run("orphans", "list").stdout, "snapshot: and no orphan then")
    put = again.do("cd again; put newer.img snap-flat.vmdk")
    lab.check("NT_STATUS_MEDIA_WRITE_PROTECTED" in put.stdout, f"snapshot: nothing more comes into the complete machine {put.stdout[-200:]!r}")
    l.clean("snapshot")
    lab.check((l.store / "snap" / "snap-000001-flat.vmdk").read_bytes() == new, "snapshot: its disk is what came, zeros over data too")
    lab.check((l.store / "snap" / "snap-flat.vmdk").read_bytes() == l.image, "snapshot: what is below it stays")
    lab.check((l.store / "snap" / "snap.vmx").read_bytes() == own, "snapshot: the VMX stays")
    calls = l.sim.state()["calls"]
    lab.check(calls.get("CreateSnapshot_Task") == 1 and "RegisterVM_Task" not in calls, f"snapshot: one, and nothing registered {calls.get('CreateSnapshot_Task')}")
    # One that nothing was restored behind goes with its session.
    third = Session(l.server, l.source, "third")
    (l.source / "third.cfg").write_text(cfg("snap", on_conflict="snapshot", **{"vmdk.0.name": "snap.vmdk"}))
    third.do("mkdir third")
    third.do("cd third; put third.cfg")
    lab.check(third.errors() == "", f"snapshot: a third time {third.errors()!r}")
    third.do("deltree third")
    cleaned = l.server.run("orphans", "clean", "--yes").stdout
    lab.check("removed  [ds1] snap/snap.vmx" in cleaned and l.sim.state()["calls"].get("RemoveSnapshot_Task") == 1, f"snapshot: clean removes it {cleaned!r}")
    # Where a driver can't, and where the machine runs.
    other = Session(l.server, l.source, "mounted")
    other.cfg(cfg("mounted", dsname="plain", on_conflict="snapshot", **{"vmdk.0.dsname": "plain"}))
    lab.check("on-conflict: \"snapshot\" is not to be had on [plain]: hotadd writes into the disks" in other.errors(), f"snapshot: which drivers can {other.errors()!r}")


def preflight(l):
    session = Session(l.server, l.source, "pre")
    for privilege in ("AddExistingDisk", "AddNewDisk", "RemoveDisk"):
        l.sim.change(Deny=f"VirtualMachine.Config.{privilege}")
    part = (f"the account lacks VirtualMachine.Config.AddExistingDisk, VirtualMachine.Config.AddNewDisk, VirtualMachine.Config.RemoveDisk "
            f"on the appliance '{APPLIANCE}'")
    session.cfg(cfg("pre"))
    lab.check(f"dsname: {part}" in session.errors(), f"privileges on the appliance {session.errors()!r}")
    checked = l.server.run("check", l.source / "pre.cfg")
    lab.check(checked.returncode == 1 and part in checked.stdout, f"importfs check says so too {checked.stdout[-300:]!r}")
    # Asked for only where hotadd is used.
    session.cfg(cfg("pre", dsname="plain", **{"vmdk.0.dsname": "plain"}))
    lab.check(session.errors() == "", f"and nobody asks for a datastore that is mounted {session.errors()!r}")
    for privilege in ("AddExistingDisk", "AddNewDisk", "RemoveDisk"):
        l.sim.change(Allow=f"VirtualMachine.Config.{privilege}")
    uuid = next(vm for vm in l.sim.state()["vms"] if vm["Name"] == APPLIANCE)["UUID"]
    (l.source / "who.cfg").write_text(cfg("who"))
    for text, part in ((APPLIANCE, None), (uuid, None), (f"/DC0/vm/{APPLIANCE}", None), ("this", None),
                       ("nobody", "has no virtual machine with the name 'nobody'"),
                       ("00000000-0000-0000-0000-000000000001", "has no virtual machine with the UUID 00000000")):
        where = l.work / "who.toml"
        where.write_text(l.server.config.read_text().replace('writer = "hotadd"', "").replace(
            f'thumbprint = "{l.sim.sha256}"', f'thumbprint = "{l.sim.sha256}"\nappliance = "{text}"'))
        run = subprocess.run([lab.binary(), "check", l.source / "who.cfg", "--config", where], capture_output=True, text=True)
        good = run.returncode == 0 and 'written by "hotadd"' in run.stdout if part is None else run.returncode == 1 and part in run.stdout
        lab.check(good, f"appliance = {text!r}: {part or 'found, and auto takes hotadd'} {'' if good else run.stdout + run.stderr}")
    session.cfg(cfg("web"))
    lab.check("the directory [ds1] web exists already" in session.errors(), f"a directory that is there {session.errors()!r}")


def main():
    lab.need("smbclient")
    l = Lab(lab.workdir("hotadd"))
    for part in (whole, together, requests, adapters, differential, failures, detaching, killed, replaced, snapshot, preflight):
        l.sim.reset()
        print(f"--- {part.__name__}", flush=True)
        part(l)
    before = l.sim.state()["sessions"]
    l.server.stop()
    lab.check("panicked" not in l.server.log.read_text(errors="replace"), "no panic in the log")
    left = l.sim.state()["sessions"]
    lab.check(left == before - 1, f"a stop logs out: {before} sessions before, {left} after")
    lab.finish()


if __name__ == "__main__":
    main()
