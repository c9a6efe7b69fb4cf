"""Restores into a vSphere, against govmomi's simulator over TLS: preflight, registration, and each way in which they fail.

The datastore is mounted here, as NFS would be: a directory that both importfs and the simulator use.
"""
import socket
import struct
import subprocess
import threading
import time

import lab
import smb2
import vlab
from vlab import SIZE, Session, cfg, vmx

UUID = "4e3193a0-698e20ea-f9ef-180373f1beff"


class Server(lab.Importfs):
    """importfs with one vSphere hypervisor, `vc`, whose datastore ds1 is mounted here."""

    def __init__(self, where, sim, store, trust, retry=30):
        self.extra = vlab.hypervisor(sim, trust) + f"""
[[hypervisor.datastore]]
name = "ds1"
path = "{store}"
[import]
register-retry-seconds = {retry}
"""
        super().__init__(where, extra=self.extra)


def restore(server, source, sim, store, name, **more):
    """A whole restore; the registered machine."""
    session = Session(server, source, name)
    session.cfg(cfg(name, **more))
    errors = session.errors()
    lab.check(errors == "", f"{name}: cfg accepted {errors!r}")
    put = session.extent()
    lab.check("NT_STATUS" not in put.stdout, f"{name}: extent {put.stdout[-200:]!r}")
    done = session.vmx()
    lab.check("NT_STATUS" not in done.stdout, f"{name}: VMX {done.stdout[-200:]!r}")
    return session, sim.vm(f"[ds1] {name}/{name}.vmx")


def whole(server, source, sim, store):
    session, vm = restore(server, source, sim, store, "web")
    lab.check(vm is not None and (vm["Name"], vm["Folder"], vm["Pool"], vm["Host"]) == ("web", "Restored", "DC0_C0_RP1", "DC0_C0_H0"),
              f"registered under its name, folder, pool and host: {vm and {k: vm[k] for k in ('Name', 'Folder', 'Pool', 'Host')}}")
    lab.check((store / "web" / "web-flat.vmdk").read_bytes() == (source / "disk.img").read_bytes(), "disk identical on the datastore")
    log = session.read("import.log")
    order = [log.find(text) for text in ("importing /vmfs/volumes/ds1/web/web.vmx", "redirecting disk from web.vmdk to web.vmdk",
                                         "registered as", "done importing /vmfs/volumes/ds1/web/web.vmx")]
    lab.check(-1 not in order and order == sorted(order), f"log lines in order: {order}")
    text = (store / "web" / "web.vmx").read_text()
    lab.check('displayName = "web"' in text and 'uuid.action = "keep"' in text, "VMX rewritten, its identity kept")
    before = len(sim.state()["vms"])
    again = session.vmx()
    lab.check("NT_STATUS" not in again.stdout and len(sim.state()["vms"]) == before
              and sim.state()["calls"].get("RegisterVM_Task") == 1, "closing the VMX twice registers once")
    # The whole restore once more, as a client does that retries: nothing of the machine changes.
    flat = store / "web" / "web-flat.vmdk"
    kept, moment = flat.read_bytes(), flat.stat().st_mtime_ns
    (source / "again.img").write_bytes(kept[::-1])
    (source / "web.nvram").write_text("another")
    (store / "web" / "web.nvram").write_text("its own")
    for what in ("at once", "after a restart"):
        put = session.do("cd web; put web.cfg; put again.img web-flat.vmdk; put web.nvram; put web.vmx")
        lab.check(put.stdout.count("NT_STATUS_MEDIA_WRITE_PROTECTED") == 2 and flat.read_bytes() == kept and flat.stat().st_mtime_ns == moment
                  and (store / "web" / "web.nvram").read_text() == "its own", f"{what}: a registered machine's disk and nvram stay {put.stdout[-400:]!r}")
        lab.check("Cannot change /web/web-flat.vmdk: the restore is complete, and the virtual machine 'web' ([ds1] web/web.vmx) is registered" in session.read("import.log"),
                  f"{what}: and import.log says what stands in the way")
        put = session.do("cd web; del web-flat.vmdk; put again.img web-flat.vmdk")
        lab.check("NT_STATUS_MEDIA_WRITE_PROTECTED" in put.stdout and flat.read_bytes() == kept, f"{what}: nor when it was deleted from the session")
        server.stop()
        server.start()
    lab.check(sim.state()["calls"].get("RegisterVM_Task") == 1, "registered once")
    # A datastore by its UUID, a name that the inventory escapes, a nested folder, host and pool left to the hypervisor.
    sim.reset()
    session, vm = restore(server, source, sim, store, "uuid", vmname="a/b%c", dsname=UUID, folder="Restored", hostsystem="",
                          resourcepool="", **{"vmdk.0.dsname": UUID.upper()})
    lab.check(vm is not None and vm["Name"] == "a%2fb%25c" and vm["Folder"] == "Restored", f"by UUID, escaped: {vm and vm['Name']}")
    lab.check("is taken of" in session.read("import.log"), "which cluster was taken stands in the log")


def preflight(server, source, sim):
    """Every error in .cfg.err, with its key and line; all at once."""
    name = "pre"
    session = Session(server, source, name)
    cases = [
        ("datacenter", dict(datacenter="DC9"), "has no datacenter 'DC9'; it has: DC0"),
        ("folder", dict(folder="Restored/No"), "'Restored' has no folder 'No' for virtual machines; its folders: In/ner"),
        ("hostsystem", dict(hostsystem="H9"), "datacenter 'DC0' has no host 'H9'; it has: DC0_C0_H0, DC0_C0_H1, DC0_H0"),
        ("resourcepool", dict(resourcepool="none"), "there is no resource pool 'none'; there are: DC0_C0/Resources, "),
        ("resourcepool", dict(hostsystem="DC0_H0"), "'DC0_C0_RP1' is not one of that host's"),
        ("dsname", dict(dsname="ds9"), "datacenter 'DC0' has no datastore 'ds9'; it has: "),
        ("dsname", dict(dsname="other"), "the datastore 'other' of 'vc' is not in the configuration; add it there, with its path where it is mounted here"),
        ("vmname", dict(vmname="web", directory="elsewhere"), "a virtual machine 'web' is in that folder already"),
        ("vmname", dict(vmname="%" * 30), "longer than 80 characters"),
        ("directory", dict(directory="web"), "the directory [ds1] web exists already"),
    ]
    for key, change, part in cases:
        text = cfg(name, **change)
        session.cfg(text)
        errors = session.errors()
        line = next(n for n, l in enumerate(text.splitlines(), 1) if l.startswith(key + " "))
        lab.check(f"line {line}: {key}: " in errors and part in errors, f"preflight {key}: {part} {errors if part not in errors else ''}")
    session.cfg(cfg(name, datacenter="DC0", folder="nowhere", hostsystem="H9", dsname="ds1", vmname="x", **{"access-time": "never"}))
    errors = session.errors()
    lab.check(all(f": {key}: " in errors for key in ("folder", "hostsystem", "access-time")), f"all at once: {errors!r}")
    states = [
        (dict(Store="ds1", Free=100), dict(Store="ds1", Free=1 << 39), "vmdk.0.size: thick disks need"),
        (dict(Store="ds1", Accessible=False), dict(Store="ds1", Accessible=True), "dsname: no host reaches the datastore 'ds1'"),
        (dict(Store="ds1", Maintenance="inMaintenance"), dict(Store="ds1", Maintenance="normal"), "dsname: the datastore 'ds1' is in maintenance"),
        (dict(Store="ds1", Access="readOnly"), dict(Store="ds1", Access="readWrite"), "dsname: the host 'DC0_C0_H0' can't write to the datastore"),
        (dict(Host="DC0_C0_H0", State="notResponding"), dict(Host="DC0_C0_H0", State="connected"), "hostsystem: the host 'DC0_C0_H0' is notResponding"),
        (dict(Host="DC0_C0_H0", InMaintenance=True), dict(Host="DC0_C0_H0", InMaintenance=False), "hostsystem: the host 'DC0_C0_H0' is in maintenance"),
        (dict(Deny="Resource.AssignVMToPool"), dict(Allow="Resource.AssignVMToPool"), "resourcepool: the account 'user' lacks Resource.AssignVMToPool"),
        (dict(Deny="Datastore.AllocateSpace"), dict(Allow="Datastore.AllocateSpace"), "dsname: the account 'user' lacks Datastore.AllocateSpace on the datastore 'ds1'"),
        (dict(Deny="VirtualMachine.Inventory.Register"), dict(Allow="VirtualMachine.Inventory.Register"), "folder: the account 'user' lacks VirtualMachine.Inventory.Register"),
    ]
    for broken, mended, part in states:
        sim.change(**broken)
        session.cfg(cfg(name))
        errors = session.errors()
        lab.check(part in errors, f"preflight {part} {errors if part not in errors else ''}")
        checked = server.run("check", source / f"{name}.cfg")
        lab.check(checked.returncode == 1 and part.split(": ", 1)[1] in checked.stdout, f"importfs check says so too {checked.stdout[-200:] if checked.returncode != 1 else ''}")
        sim.change(**mended)
    session.cfg(cfg(name))
    lab.check(session.errors() == "", "and nothing when all is mended")
    before = sim.state()
    checked = server.run("check", source / f"{name}.cfg")
    lab.check("exists already" in checked.stdout or checked.returncode == 0, "importfs check of a clean CFG")
    after = sim.state()
    lab.check(after["sessions"] == before["sessions"] and after["logouts"] == before["logouts"] + 1, "importfs check logs out")
    lab.check(after["calls"].get("RegisterVM_Task", 0) == before["calls"].get("RegisterVM_Task", 0), "importfs check registers nothing")


def conflicts(server, source, sim, store):
    session, vm = restore(server, source, sim, store, "twice")
    other = Session(server, source, "again")
    text = cfg("twice", on_conflict="rename")
    (source / "again.cfg").write_text(text)
    other.do("mkdir again")
    other.do("cd again; put again.cfg")
    lab.check(other.errors() == "", f"rename: {other.errors()!r}")
    kept = other.read("again.vmcfg")
    lab.check('vmname = "twice(1)"' in kept and 'directory = "twice(1)"' in kept, "vmcfg has the new VM name and directory")
    other.do("cd again; put disk.img twice-flat.vmdk")
    (source / "twice.vmx").write_text(vmx("twice", vm["UUID"]))
    other.do("cd again; put twice.vmx")
    made = sim.vm("[ds1] twice(1)/twice.vmx")
    lab.check(made is not None and made["Name"] == "twice(1)", f"registered beside the old one: {made and made['Name']}")
    text = (store / "twice(1)" / "twice.vmx").read_text()
    lab.check('uuid.action = "create"' in text, "the copy of a machine that is there gets its own identity")


def failures(server, source, sim, store):
    faults = [
        ("DuplicateName", {"name": "web"}, "the name 'web' is taken in that folder"),
        ("AlreadyExists", {"name": "x"}, "'x' exists in the inventory already"),
        ("InvalidDatastore", {"name": "ds1"}, "the datastore 'ds1' is not one that the host can use"),
        ("NotFound", {}, "check that `path` in the configuration"),
        ("FileNotFound", {"file": "[ds1] a"}, "[ds1] a is not on the datastore"),
        ("FileAlreadyExists", {"file": "[ds1] a"}, "[ds1] a exists already"),
        ("InvalidName", {"name": "n"}, "'n' is not a name that the hypervisor takes"),
        ("InvalidArgument", {"invalidProperty": "pool"}, "does not take the value of pool"),
        ("VmConfigFault", {}, "does not take the VMX"),
        ("FileFault", {"file": "[ds1] a"}, "[ds1] a can't be used by the host"),
        ("InsufficientResourcesFault", {}, "the resource pool has no room for it"),
        ("InvalidState", {}, "busy or in another state"),
        ("NoDiskSpace", {"datastore": "ds1"}, "the datastore 'ds1' is full"),
        ("RestrictedVersion", {}, "a free ESXi"),
        ("ManagedObjectNotFound", {}, "is gone from the inventory"),
        ("NoPermission", {"privilegeId": "VirtualMachine.Inventory.Register"}, "lacks the privilege VirtualMachine.Inventory.Register"),
    ]
    session = Session(server, source, "fails")
    session.cfg(cfg("fails"))
    session.extent()
    for number, (fault, fields, part) in enumerate(faults):
        action = "task-fault" if number % 2 and fault not in ("ManagedObjectNotFound",) else "fault"
        sim.rule("RegisterVM_Task", action, Fault=fault, Fields=fields)
        put = session.vmx()
        errors = session.errors()
        lab.check("NT_STATUS_IO_DEVICE_ERROR" in put.stdout and part in errors and "the virtual machine 'fails' can't be registered" in errors,
                  f"{action} {fault}: CLOSE fails, {part} {errors if part not in errors else ''}")
    lab.check(sim.vm("[ds1] fails/fails.vmx") is None, "nothing is half registered")
    lab.check((store / "fails" / "fails-flat.vmdk").read_bytes() == (source / "disk.img").read_bytes(), "the data stays")
    lab.check("done importing" not in session.read("import.log"), "the log does not say done")
    put = session.vmx()
    lab.check("NT_STATUS" not in put.stdout and sim.vm("[ds1] fails/fails.vmx") and session.errors() == "", "the same VMX again registers")


def described(server, source, sim):
    """A CFG of a machine that exists restores another beside it."""
    lab.check(server.run("cfg", "new", "--vm", "nobody", "--hypervisor", "vc").stderr.count("has no virtual machine 'nobody'; it has: ") == 1, "an unknown name lists others")
    said = server.run("cfg", "new", "--vm", "web", "--hypervisor", "local").stderr
    lab.check("has datastores only" in said, f"a hypervisor without an inventory {said!r}")
    made = server.run("cfg", "new", "--vm", "Restored/web", "--hypervisor", "vc", "--register", "--on-conflict", "rename")
    text = made.stdout
    for line in ('vmname = "web"', 'servername = "vc"', 'datacenter = "DC0"', 'folder = "Restored"', 'hostsystem = "DC0_C0_H0"',
                 'resourcepool = "DC0_C0/Resources/DC0_C0_RP1"', 'dsname = "ds1"', 'directory = "web"', 'vmx-name = "web.vmx"'):
        lab.check(f"\n{line}\n" in text, f"cfg new --vm: {line} {made.stderr}")
    lab.check(server.run("cfg", "new", "--vm", "web", "--hypervisor", "VC").stdout.startswith("#\n# Virtual Machine 'web'"), "by its name alone")
    # The simulator parses no VMX: its machine has no disks. One that it made itself has.
    (source / "of-vm.cfg").write_text(text)
    checked = server.run("check", source / "of-vm.cfg")
    lab.check(checked.returncode == 0, f"importfs check takes it {checked.stdout[-300:]!r}")
    own = server.run("cfg", "new", "--vm", "DC0_H0_VM0", "--hypervisor", "vc").stdout
    lab.check('vmdk.0.name = "disk1.vmdk"' in own and 'vmdk.0.extent-name = "disk1-flat.vmdk"' in own and "vmdk.0.size = " in own
              and 'vmdk.0.directory = "DC0_H0_VM0"' in own, f"its disks, datastores and directories {own[-1200:]!r}")


def retries(work, server, source, sim):
    """What may pass by itself is tried again while the CLOSE is held; what stays is an error in the end."""
    session = Session(server, source, "retried")
    session.cfg(cfg("retried"))
    session.extent()
    sim.rule("RegisterVM_Task", "fault", Fault="HostNotConnected", Fields={})
    sim.rule("RegisterVM_Task", "drop", Times=4)
    begun = time.monotonic()
    put = session.vmx()
    log = session.read("import.log")
    lab.check("NT_STATUS" not in put.stdout and sim.vm("[ds1] retried/retried.vmx") is not None,
              f"three tries fail, the fourth registers: {time.monotonic() - begun:.1f} s {put.stdout[-200:]!r}")
    lab.check("the host does not answer its vCenter" in log and log.count("it is tried again in") == 3,
              f"each try stands in the log: {log.count('it is tried again in')}")
    lab.check(session.errors() == "", "and nothing in .cfg.err")
    server = Server(work / "impatient", sim, work / "ds" / UUID, f'thumbprint = "{sim.sha256}"', retry=2)
    session = Session(server, source, "givenup")
    session.cfg(cfg("givenup"))
    session.extent()
    sim.rule("RegisterVM_Task", "drop", Times=1000)
    begun = time.monotonic()
    put = session.vmx()
    took = time.monotonic() - begun
    lab.check("NT_STATUS_IO_DEVICE_ERROR" in put.stdout and 2 <= took < 12 and "was lost" in session.errors(),
              f"an error when time is up: {took:.1f} s {session.errors()!r}")
    sim.reset()
    # It is complete, whatever its client sends again before it clears the session away: no orphan.
    lab.check("NT_STATUS" not in session.vmx().stdout, "and the same VMX registers")
    session.do("cd givenup; put givenup.cfg givenup-flat.vmdk")
    session.do("deltree givenup")
    listed = server.run("orphans", "list").stdout
    cleaned = server.run("orphans", "clean", "--yes")
    lab.check("givenup" not in listed and cleaned.returncode == 0 and sim.vm("[ds1] givenup/givenup.vmx") is not None
              and (work / "ds" / UUID / "givenup" / "givenup-flat.vmdk").exists(), f"clean leaves it alone {listed!r} {cleaned.stdout!r}")
    server.stop()


def interruptions(server, source, sim, store):
    def one(name, expect, prepare):
        sim.reset()
        session = Session(server, source, name)
        session.cfg(cfg(name))
        lab.check(session.errors() == "", f"{name}: cfg {session.errors()!r}")
        session.extent()
        prepare()
        put = session.vmx()
        vm = sim.vm(f"[ds1] {name}/{name}.vmx")
        lab.check("NT_STATUS" not in put.stdout and vm is not None, f"{expect} {put.stdout[-200:] if vm is None else ''}")
        lab.check(sum(v["Path"] == f"[ds1] {name}/{name}.vmx" for v in sim.state()["vms"]) == 1, f"{name}: registered once")
        return session

    one("expired", "a session that has ended is opened again", sim.expire)
    one("cutbefore", "a connection cut before the request arrives", lambda: sim.rule("RegisterVM_Task", "drop"))
    one("cutafter", "a connection cut after the request arrived", lambda: sim.rule("RegisterVM_Task", "drop-after"))
    one("slow", "a task that takes 4 seconds", lambda: sim.rule("RegisterVM_Task", "task-wait", Millis=4000))
    calls = sim.state()["calls"]
    lab.check(calls.get("WaitForUpdatesEx", 0) <= 5, f"waited, not polled: {calls.get('WaitForUpdatesEx')} WaitForUpdatesEx")

    def lose():
        sim.rule("RegisterVM_Task", "task-wait", Millis=3000)
        sim.rule("WaitForUpdatesEx", "drop")
        threading.Timer(1.5, sim.expire).start()
    one("lossy", "connection and session lost while a task runs", lose)
    # A read that breaks in preflight.
    sim.rule("RetrievePropertiesEx", "drop")
    sim.rule("CreateContainerView", "drop-after")
    session = Session(server, source, "reads")
    session.cfg(cfg("reads"))
    lab.check(session.errors() == "", f"broken reads are tried again {session.errors()!r}")
    # kill -9 while the task runs: the next start and the same VMX end with one machine.
    session = Session(server, source, "killed")
    session.cfg(cfg("killed"))
    session.extent()
    sim.rule("RegisterVM_Task", "task-wait", Millis=2000)
    asked = sim.state()["calls"].get("RegisterVM_Task", 0)
    thread = threading.Thread(target=session.vmx)
    thread.start()
    deadline = time.monotonic() + 10
    while sim.state()["calls"].get("RegisterVM_Task", 0) == asked and time.monotonic() < deadline:
        time.sleep(0.02)
    server.kill()
    thread.join()
    time.sleep(2.5)
    server.start()
    put = session.vmx()
    machines = [vm for vm in sim.state()["vms"] if vm["Path"] == "[ds1] killed/killed.vmx"]
    lab.check("NT_STATUS" not in put.stdout and len(machines) == 1, f"kill -9 while registering: {len(machines)} machine {put.stdout[-200:]!r}")
    lab.check("was registered already" in session.read("import.log"), "and the log says that it was there")
    # Listing the session while its machine is being registered.
    session = Session(server, source, "busy")
    session.cfg(cfg("busy"))
    session.extent()
    sim.rule("RegisterVM_Task", "task-wait", Millis=4000)
    thread = threading.Thread(target=session.vmx)
    thread.start()
    time.sleep(1.5)
    begun = time.monotonic()
    listing = session.do("cd busy; ls", timeout=60)
    took = time.monotonic() - begun
    thread.join()
    lab.check("import.log" in listing.stdout and took < 2, f"the session can be listed meanwhile ({took:.1f} s)")


def patience(server, source, sim):
    """A registration that outlasts the client: the service goes on, the VMX again is answered when it is done."""
    session = Session(server, source, "patient")
    session.cfg(cfg("patient"))
    session.extent()
    sim.rule("RegisterVM_Task", "task-wait", Millis=26000)
    begun = time.monotonic()
    first = session.vmx()
    lab.check("NT_STATUS_IO_TIMEOUT" in first.stdout, f"smbclient gives up after {time.monotonic() - begun:.0f} s")
    again = session.vmx()
    took = time.monotonic() - begun
    lab.check("NT_STATUS" not in again.stdout and 25 < took < 35, f"the VMX again is answered when it is done: {took:.0f} s {again.stdout[-200:]!r}")
    machines = [vm for vm in sim.state()["vms"] if vm["Path"] == "[ds1] patient/patient.vmx"]
    log = session.read("import.log")
    lab.check(len(machines) == 1 and log.count("done importing") == 1, f"registered once: {len(machines)}, {log.count('done importing')}")


def told(server, source, sim):
    """A client that waits for its CLOSE is told within seconds that it is being worked on (MS-SMB2 3.3.4.2), and answered when it is done."""
    session = Session(server, source, "told")
    session.cfg(cfg("told"))
    session.extent()
    sim.rule("RegisterVM_Task", "task-wait", Millis=4000)
    client = smb2.Client(server.port, "import", lab.USER, lab.PASSWORD)
    opened = client.create("told/told.vmx")
    opened.write(0, vmx("told").encode())
    before, begun = client.interim, time.monotonic()
    opened.close()
    took = time.monotonic() - begun
    client.close()
    lab.check(client.interim - before == 1 and took > 3.5, f"an interim response comes before the answer after {took:.1f} s: {client.interim - before}")


def sealed(server, sim, store):
    """Every way in which a client could change the disk of the registered machine `web`, by its handles."""
    flat = store / "web" / "web-flat.vmdk"
    kept = flat.read_bytes()
    client = smb2.Client(server.port, "import", lab.USER, lab.PASSWORD)
    path, protected, maximum = "web/web-flat.vmdk", 0xC00000A2, 0x02000000

    def refused(what, action):
        try:
            action()
            status = 0
        except smb2.SmbError as error:
            status = error.status
        lab.check(status == protected and flat.read_bytes() == kept, f"sealed: {what} is refused {status:#010x}")

    for disposition, what in [(0, "superseding"), (1, "opening for writing"), (3, "opening if"), (4, "overwriting"), (5, "overwriting if")]:
        refused(what, lambda disposition=disposition: client.create(path, disposition))
    refused("a differential", lambda: client.create("web/web-flat.pancbt", 5))
    handle = client.create(path, 1, maximum)
    handle.set_times(0, 0, 0x01D0000000000000, 0)
    lab.check(handle.read(0, 512) == kept[:512], "sealed: whoever asks for all that is allowed reads, and sets times")
    refused("writing by that", lambda: handle.write(0, bytes(512)))
    refused("cutting", lambda: handle.set_end(0))
    refused("allocation", lambda: handle.set_info(19, struct.pack("<Q", 0)))
    refused("FSCTL_SET_ZERO_DATA", lambda: handle.fsctl(0x000980C8, struct.pack("<QQ", 0, 65536)))
    key = handle.fsctl(0x00140078, b"")[:24]
    refused("FSCTL_SRV_COPYCHUNK", lambda: handle.fsctl(0x001440F2, key + struct.pack("<II", 1, 0) + struct.pack("<QQII", 65536, 0, 65536, 0)))
    handle.close()
    client.close()


def misled(work, source, sim):
    """The configuration's path leads elsewhere than the datastore."""
    wrong = work / "not-the-datastore"
    wrong.mkdir()
    server = Server(work / "misled", sim, wrong, f'thumbprint = "{sim.sha256}"')
    session = Session(server, source, "lost")
    session.cfg(cfg("lost"))
    lab.check("vc does not see the directory [ds1] lost that was just made" in session.errors(), f"a wrong path is told at once {session.errors()!r}")
    session.extent()
    put = session.vmx()
    errors = session.errors()
    lab.check("NT_STATUS_IO_DEVICE_ERROR" in put.stdout and "check that `path` in the configuration" in errors, f"and the registration says so too {errors!r}")
    server.stop()


def trust(work, source, sim, store):
    """Whom importfs trusts, and what it says of others."""
    wrong = "AB:" * 31 + "AB"
    cases = [
        ("sha1", f'thumbprint = "{sim.sha1}"', "", None),
        ("lower", f'thumbprint = "{sim.sha256.replace(":", "").lower()}"', "", None),
        ("ca", f'ca-file = "{sim.ca}"', "", None),
        ("wrong", f'thumbprint = "{wrong}"', f"its certificate is not the configured one: the SHA-256 thumbprint is {sim.sha256}", None),
        ("password", f'thumbprint = "{sim.sha256}"', "'user' can't log in at 127.0.0.1:", "not this"),
        ("missing", f'thumbprint = "{sim.sha256}"', "the password file", ""),
    ]
    for name, line, part, password in cases:
        where = work / name
        where.mkdir()
        text = f"""[server]
listen = ["127.0.0.1:1"]
data-dir = "{where}/data"
[[share]]
name = "import"
kind = "import"
[[hypervisor]]
name = "vc"
kind = "vsphere"
url = "{sim.url}"
username = "user"
password-file = "{where}/password"
{line}
[[hypervisor.datastore]]
name = "ds1"
path = "{store}"
"""
        (where / "importfs.toml").write_text(text)
        if password != "":
            (where / "password").write_text((password or vlab.PASSWORD) + "\n")
        (where / "x.cfg").write_text(cfg("trusted"))
        run = subprocess.run([lab.binary(), "check", where / "x.cfg", "--config", where / "importfs.toml"], capture_output=True, text=True)
        good = run.returncode == 0 if not part else run.returncode == 1 and part in run.stdout and "servername" in run.stdout
        lab.check(good, f"trust {name}: {part or 'accepted'} {'' if good else run.stdout + run.stderr}")
    # One that takes the connection and says nothing: told before smbclient's 20 seconds are over.
    mute = socket.create_server(("127.0.0.1", 0))
    (work / "sha1" / "mute.toml").write_text(
        (work / "sha1" / "importfs.toml").read_text().replace(sim.url, f"https://127.0.0.1:{mute.getsockname()[1]}/sdk"))
    begun = time.monotonic()
    run = subprocess.run([lab.binary(), "check", work / "sha1" / "x.cfg", "--config", work / "sha1" / "mute.toml"], capture_output=True, text=True)
    took = time.monotonic() - begun
    lab.check(run.returncode == 1 and "can't be reached" in run.stdout and took < 18, f"a server without a word: {took:.0f} s {run.stdout[-300:]!r}")
    mute.close()
    port = lab.free_port()
    dead = (work / "sha1" / "importfs.toml").read_text().replace(sim.url, f"https://127.0.0.1:{port}/sdk")
    (work / "sha1" / "dead.toml").write_text(dead)
    run = subprocess.run([lab.binary(), "check", work / "sha1" / "x.cfg", "--config", work / "sha1" / "dead.toml"], capture_output=True, text=True)
    lab.check(run.returncode == 1 and f"127.0.0.1:{port} can't be reached" in run.stdout, f"nobody answers: {run.stdout[-300:]!r}")


def standalone(work, source):
    """A standalone ESXi host: no folders, one datacenter whose name nobody knows."""
    store = work / "esx-ds" / UUID
    sim = vlab.Vcsim(work / "esx", {"ds1": store}, esx=True)
    server = Server(work / "esx-server", sim, store, f'thumbprint = "{sim.sha256}"')
    _, vm = restore(server, source, sim, store, "lone", datacenter="", folder="", hostsystem="", resourcepool="")
    lab.check(vm is not None and vm["Name"] == "lone", f"ESXi: registered {vm and vm['Pool']}")
    _, vm = restore(server, source, sim, store, "named", datacenter="ha-datacenter", folder="", hostsystem="localhost.localdomain", resourcepool="Resources")
    lab.check(vm is not None, "ESXi: with everything named")
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    server.stop()


def main():
    lab.need("smbclient")
    work = lab.workdir("vsphere")
    source = work / "source"
    source.mkdir()
    (source / "disk.img").write_bytes(bytes(1 << 20) + bytes(range(256)) * ((SIZE - (1 << 20)) // 256))
    store, other = work / "ds" / UUID, work / "ds" / "other"
    sim = vlab.Vcsim(work / "sim", {"ds1": store, "other": other})
    server = Server(work / "server", sim, store, f'thumbprint = "{sim.sha256}"')
    whole(server, source, sim, store)
    sealed(server, sim, store)
    preflight(server, source, sim)
    conflicts(server, source, sim, store)
    failures(server, source, sim, store)
    described(server, source, sim)
    retries(work, server, source, sim)
    interruptions(server, source, sim, store)
    patience(server, source, sim)
    told(server, source, sim)
    misled(work, source, sim)
    trust(work, source, sim, store)
    sessions = sim.state()["sessions"]
    server.stop()
    left = sim.state()
    lab.check(left["sessions"] == sessions - 1, f"a stop logs out: {sessions} sessions before, {left['sessions']} after")
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    standalone(work, source)
    lab.finish()


if __name__ == "__main__":
    main()
