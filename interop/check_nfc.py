"""Restores to a datastore that is mounted nowhere: whole machines by nfc, against govmomi's simulator over TLS.

Each upload is read back by qemu-img and libvmdk. Pushes are broken in every way: cut, refused, timed out, without a session, killed,
stopped, called off; each ends with a sentence, and with nothing half-made that `orphans list` does not show.
"""
import json
import os
import random
import shutil
import subprocess
import time

import lab
import vlab

SIZE = 6 << 20
UUID = "4e3193a0-698e20ea-f9ef-180373f1beff"
VM_UUID = "50133967-ae5a-052c-0140-e47ce07219ee"
LONG_MILLIS = 20_000


class Server(lab.Importfs):
    """importfs with one vSphere hypervisor, `vc`, whose datastore ds1 is not mounted here."""

    def __init__(self, where, sim, more="", smb=""):
        super().__init__(where, smb=smb, extra=vlab.hypervisor(sim) + f"""
[[hypervisor.datastore]]
name = "ds1"
[hypervisor.datastore.nfc]
retry-seconds = 30
threads = 2
{more}""")


def cfg(name, disks=1, **more):
    values = {"version": "4", "vmname": name, "vmuuid": VM_UUID, "servername": "vc", "datacenter": "DC0", "folder": "Restored",
              "hostsystem": "DC0_C0_H0", "resourcepool": "DC0_C0_RP1", "dsname": "ds1", "directory": name, "vmx-name": f"{name}.vmx"}
    for n in range(disks):
        values.update({f"vmdk.{n}.name": f"{name}_{n}.vmdk", f"vmdk.{n}.extent-name": f"{name}_{n}-flat.vmdk", f"vmdk.{n}.dsname": "ds1",
                       f"vmdk.{n}.directory": name, f"vmdk.{n}.size": SIZE, f"vmdk.{n}.type": "thin" if n == 0 else "thick"})
    values.update({"on-conflict": "stop", "register-after-import": 1})
    values.update({key.replace("_", "-"): value for key, value in more.items()})
    return "".join(f"{k} = {v}\n" if isinstance(v, int) else f'{k} = "{v}"\n' for k, v in values.items())


def vmx(name, disks=1):
    text = ('.encoding = "UTF-8"\ndisplayName = "old"\nguestOS = "otherlinux-64"\nmemSize = "512"\nfirmware = "efi"\nscsi0.present = "TRUE"\n'
            f'scsi0.virtualDev = "pvscsi"\nuuid.bios = "50 13 39 67 ae 5a 05 2c-01 40 e4 7c e0 72 19 ee"\nnvram = "{name}.nvram"\n')
    # The last disk is first on the bus: order must not decide.
    return text + "".join(f'scsi0:{disks - 1 - n}.present = "TRUE"\nscsi0:{disks - 1 - n}.fileName = "{name}_{n}.vmdk"\n' for n in range(disks))


class Restore:
    """One session, by smbclient."""

    def __init__(self, server, sim, source, name, disks=1):
        self.server, self.sim, self.source, self.name, self.disks = server, sim, source, name, disks
        self.datastore_path = f"[ds1] {name}/{name}.vmx"
        self.text = cfg(name, disks)

    def do(self, commands, wait=True):
        command = ["smbclient", "//127.0.0.1/import", "-p", str(self.server.port), "-U", f"{lab.USER}%{lab.PASSWORD}", "-t", "600", "-c", commands]
        if wait:
            return subprocess.run(command, cwd=self.source, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        process = subprocess.Popen(command, cwd=self.source, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lab.adopt(process)
        return process

    def cfg(self, text=None):
        (self.source / f"{self.name}.cfg").write_text(text or self.text)
        self.do(f"mkdir {self.name}")
        self.do(f"cd {self.name}; put {self.name}.cfg")
        return self.read(f"{self.name}.cfg.err")

    def extents(self):
        return self.do("; ".join([f"cd {self.name}"] + [f"put disk{n}.img {self.name}_{n}-flat.vmdk" for n in range(self.disks)]))

    def vmx(self, wait=True):
        (self.source / f"{self.name}.vmx").write_text(vmx(self.name, self.disks))
        return self.do(f"cd {self.name}; put {self.name}.vmx", wait)

    def read(self, name):
        (self.source / "got").unlink(missing_ok=True)
        self.do(f"cd {self.name}; get {name} got")
        got = self.source / "got"
        return got.read_text(errors="replace") if got.exists() else ""

    def begun(self):
        """All but the VMX is there."""
        lab.check(self.cfg() == "", f"{self.name}: cfg accepted")
        put = self.extents()
        lab.check("NT_STATUS" not in put.stdout, f"{self.name}: extents {put.stdout[-200:] if 'NT_STATUS' in put.stdout else ''}")
        return self

    def vms(self):
        return [vm for vm in self.sim.state()["vms"] if vm["Name"] == self.name]

    def uploads(self):
        """What came for its disks; another's that was cut may end late."""
        return [upload for upload in self.sim.state()["uploads"] or [] if f"-{self.name}_" in os.path.basename(upload["File"])]

    def orphans(self):
        listed = json.loads(self.server.run("orphans", "list", "--json").stdout)
        return [(one["state"], found["kind"], found["state"], found["path"]) for one in listed if one["path"] == f"/{self.name}" for found in one["objects"]]


def until(what, seconds=20):
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return what()


def clean(restore, what, machines, leases=0):
    """No lease is open, as many machines as there should be, nothing an orphan."""
    vms = restore.vms()
    lab.check(len(vms) == machines, f"{what}: {len(vms)} machines")
    held = [lease for lease in restore.sim.state()["leases"].values() if not lease["ended"]]
    lab.check(len(held) <= leases, f"{what}: no lease is open {held}")
    lab.check(restore.orphans() == [], f"{what}: no orphans {restore.orphans()}")
    if machines == 0:
        lab.check(not list(restore.sim.where.parent.glob(f"ds/*/{restore.name}")), f"{what}: no directory is left")


def same(restore, upload, image):
    """The upload holds what the disk held, by two readers."""
    name = os.path.basename(upload["File"])
    compared = subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", upload["File"], image], capture_output=True, text=True)
    lab.check(compared.returncode == 0, f"{restore.name}: qemu-img reads {name} as the disk {compared.stdout[-200:] if compared.returncode else ''}")
    if shutil.which("vmdkinfo"):
        info = subprocess.run(["vmdkinfo", upload["File"]], capture_output=True, text=True)
        lab.check(info.returncode == 0 and "Stream optimized" in info.stdout, f"{restore.name}: libvmdk reads {name}")


def whole(server, sim, source, store):
    """Two disks, thin and thick, a differential, nvram, VMX."""
    restore = Restore(server, sim, source, "web", 2).begun()
    changed = bytearray((source / "disk0.img").read_bytes())
    changed[1 << 20:(1 << 20) + 70_000] = random.Random(9).randbytes(70_000)
    changed[3 << 20:4 << 20] = bytes(1 << 20)
    (source / "new.img").write_bytes(changed)
    made = subprocess.run([lab.binary(), "pancbt", "create", "--base", source / "disk0.img", "--new", source / "new.img", "--output", source / "d.pancbt"],
                          capture_output=True, text=True)
    lab.check(made.returncode == 0, f"web: a differential is made {made.stderr}")
    nvram = random.Random(7).randbytes(8684)
    (source / "web.nvram").write_bytes(nvram)
    put = restore.do("cd web; put d.pancbt web_0-flat.pancbt; put web.nvram")
    lab.check("NT_STATUS" not in put.stdout, f"web: differential and nvram {put.stdout[-200:] if 'NT_STATUS' in put.stdout else ''}")
    sim.rule("PUT", "drop", Bytes=1000)
    done = restore.vmx()
    lab.check("NT_STATUS" not in done.stdout, f"web: VMX {done.stdout[-200:] if 'NT_STATUS' in done.stdout else ''}")
    vm = sim.vm(restore.datastore_path)
    lab.check(vm is not None and (vm["Name"], vm["Folder"], vm["Pool"], vm["Host"]) == ("web", "Restored", "DC0_C0_RP1", "DC0_C0_H0"),
              "web: under its name, folder, pool and host")
    lab.check(vm is not None and (vm["UUID"], vm["Firmware"], vm["MemoryMB"]) == (VM_UUID, "efi", 512), "web: its UUID, firmware, memory")
    disks = [device for device in (vm or {}).get("Devices", []) if device.startswith("VirtualDisk")]
    lab.check(sorted(disks) == [f"VirtualDisk 1000:0 {SIZE >> 10} KiB thin=false [ds1] web/web_1.vmdk",
                                f"VirtualDisk 1000:1 {SIZE >> 10} KiB thin=true [ds1] web/web_0.vmdk"], f"web: disks as the VMX has them: {disks}")
    for upload in restore.uploads():
        same(restore, upload, source / ("new.img" if upload["File"].endswith("web_0.vmdk") else "disk1.img"))
    lab.check(len(restore.uploads()) == 2, f"web: {len(restore.uploads())} uploads")
    lab.check((store / "web" / "web.nvram").read_bytes() == nvram, "web: nvram beside its VMX, put again after its connection broke")
    log = restore.read("import.log")
    for line in ('ds1 is written by "nfc": it is not mounted here', "importing /vmfs/volumes/ds1/web/web.vmx", "web_1.vmdk uploaded to", "web is vm-",
                 "[ds1] web/web.nvram uploaded", "done importing /vmfs/volumes/ds1/web/web.vmx"):
        lab.check(line in log, f"web: import.log says {line}")
    clean(restore, "web", 1)
    again = restore.vmx()
    lab.check("NT_STATUS" not in again.stdout and len(restore.uploads()) == 2, "web: the same VMX twice makes one machine")
    lab.check(not list((server.data / "sessions").glob("*/stage/*")), "web: the stage is empty")
    listed = restore.do("cd web; ls").stdout
    lab.check(listed.count(f" {SIZE} ") == 2, f"web: its extents are listed as ever {listed if listed.count(str(SIZE)) != 2 else ''}")
    restore.do("deltree web")
    lab.check("web" not in restore.do("ls").stdout and len(restore.vms()) == 1 and restore.orphans() == [], "web: deleting the session leaves the machine")


def apart(server, sim, source):
    """Nested directories, a disk in one of its own on another datastore, a datastore by its UUID."""
    sim.reset()
    restore = Restore(server, sim, source, "apart", 2)
    restore.text = cfg("apart", 2, dsname=UUID, directory="deep/er/apart",
                       **{"vmdk.0.directory": "deep/er/apart", "vmdk.1.directory": "own/disk", "vmdk.1.dsname": "other"})
    restore.datastore_path = "[ds1] deep/er/apart/apart.vmx"
    restore.begun()
    done = restore.vmx()
    lab.check("NT_STATUS" not in done.stdout, f"apart: VMX {done.stdout[-200:] if 'NT_STATUS' in done.stdout else ''}{restore.read('apart.cfg.err')}")
    vm = sim.vm(restore.datastore_path)
    disks = [device for device in (vm or {}).get("Devices", []) if device.startswith("VirtualDisk")]
    lab.check(any("[other] own/disk/apart_1.vmdk" in disk for disk in disks) and any("[ds1] deep/er/apart/apart_0.vmdk" in disk for disk in disks),
              f"apart: each disk in its place {disks}")
    clean(restore, "apart", 1)


def preflight(server, sim, source, store):
    restore = Restore(server, sim, source, "early")
    for change, part in [
        (dict(register_after_import=0), "register-after-import: its datastore takes whole virtual machines"),
        (dict(directory="web"), "directory: the directory [ds1] web exists already"),
        (dict(vmname="web"), "vmname: a virtual machine 'web' is in that folder already"),
    ]:
        errors = restore.cfg(cfg("early", **change))
        lab.check(part in errors, f"preflight: {part} {errors if part not in errors else ''}")
    for privilege, needed in [("VApp.Import", True), ("VirtualMachine.Inventory.Create", True), ("VirtualMachine.Inventory.Register", False)]:
        sim.change(Deny=privilege)
        errors = restore.cfg()
        lab.check((f"lacks {privilege}" in errors) == needed, f"preflight: {privilege} {'is' if needed else 'is not'} needed {errors}")
        sim.change(Allow=privilege)
    sim.change(Store="ds1", Free=1000)
    errors = restore.cfg(cfg("early", **{"vmdk.0.type": "thick"}))
    lab.check("thick disks need" in errors, f"preflight: full {errors}")
    sim.change(Store="ds1", Free=1 << 39)
    (source / "check.cfg").write_text(cfg("early"))
    checked = server.run("check", source / "check.cfg")
    lab.check(checked.returncode == 0 and f"stage: the disks wait here until they are complete, up to {SIZE} bytes" in checked.stdout
              and 'ds1 is written by "nfc"' in checked.stdout, f"check: {checked.stdout if checked.returncode else 'stage and writer'}")
    small = server.where / "small.toml"
    small.write_text(server.config.read_text() + f"[import]\nstage-max-bytes = {2 * SIZE - 1}\n")
    (source / "check.cfg").write_text(cfg("early", 2))
    checked = subprocess.run([lab.binary(), "check", source / "check.cfg", "--config", small], capture_output=True, text=True)
    lab.check(checked.returncode == 1 and "vmdk.1.size: the stage has" in checked.stdout, f"check: a stage that is too small {checked.stdout}{checked.stderr}")
    errors = restore.cfg(cfg("early", on_conflict="rename", directory="web", vmname="web"))
    vmcfg = restore.read("early.vmcfg")
    lab.check(errors == "" and 'directory = "web(1)"' in vmcfg and 'vmname = "web(1)"' in vmcfg, f"rename: {errors}{vmcfg[:200]}")
    restore.do("deltree early")


def retried(server, sim, source):
    """What may succeed later by itself does, while the client waits."""
    cases = [
        ("cut", [("NFC", "drop", dict(Bytes=100_000))], "was lost"),
        ("busy", [("NFC", "status", dict(Status=503))], "HTTP status 503"),
        ("lost", [("HttpNfcLeaseComplete", "drop-after", {})], "was lost"),
        ("made", [("ImportVApp", "drop-after", {})], "was lost"),
    ]
    for name, rules, part in cases:
        sim.reset()
        restore = Restore(server, sim, source, name).begun()
        for method, action, more in rules:
            sim.rule(method, action, **more)
        done = restore.vmx()
        log = restore.read("import.log")
        lab.check("NT_STATUS" not in done.stdout, f"{name}: the CLOSE waits until it is done {done.stdout[-300:] if 'NT_STATUS' in done.stdout else ''}")
        lab.check(part in log and "; begun again in 1 s" in log and "done importing" in log, f"{name}: import.log says so {log[-600:] if part not in log else ''}")
        # One whose name was lost with its answer ends by itself.
        clean(restore, name, 1, leases=1 if name == "made" else 0)
        same(restore, restore.uploads()[-1], source / "disk0.img")
    # Its session ends in the middle: the lease with it.
    sim.reset()
    restore = Restore(server, sim, source, "expired").begun()
    sim.rule("NFC", "wait", Millis=8000)
    put = restore.vmx(wait=False)
    until(lambda: sim.state()["calls"].get("NFC"))
    sim.expire()
    told, _ = put.communicate(timeout=60)
    lab.check("NT_STATUS" not in told and "the lease has ended" in restore.read("import.log"), f"expired: begun again {told[-200:]}")
    clean(restore, "expired", 1)


def refused(server, sim, source):
    """What needs somebody is told at once, and a second try succeeds."""
    cases = [
        ("full", [("NFC", "status", dict(Status=507))], "its datastore is full", "NT_STATUS_DISK_FULL"),
        ("nospace", [("ImportVApp", "fault", dict(Fault="NoDiskSpace", Fields={"datastore": "ds1"}))], "the datastore 'ds1' is full", "NT_STATUS_DISK_FULL"),
        ("pool", [("ImportVApp", "fault", dict(Fault="InsufficientResourcesFault"))], "no room for it", "NT_STATUS"),
        ("state", [("HttpNfcLeaseComplete", "fault", dict(Fault="InvalidState"))], "busy or in another state", "NT_STATUS"),
        ("away", [("NFC", "status", dict(Status=503, Times=100))], "HTTP status 503", "NT_STATUS"),
    ]
    for name, rules, part, status in cases:
        if name == "away":
            # For as long as the configuration says, here a second.
            server.stop()
            server.config.write_text(server.config.read_text().replace("retry-seconds = 30", "retry-seconds = 1"))
            server.start()
        sim.reset()
        restore = Restore(server, sim, source, name).begun()
        for method, action, more in rules:
            sim.rule(method, action, **more)
        done = restore.vmx()
        errors, log = restore.read(f"{name}.cfg.err"), restore.read("import.log")
        lab.check(status in done.stdout, f"{name}: the VMX is refused {done.stdout[-200:]}")
        lab.check(part in errors and f"/vmfs/volumes/ds1/{name}/{name}.vmx: " in errors and part in log and "done importing" not in log, f"{name}: told {errors}")
        clean(restore, name, 0)
        sim.reset()
        done = restore.vmx()
        lab.check("NT_STATUS" not in done.stdout and restore.read(f"{name}.cfg.err") == "", f"{name}: a second try succeeds {done.stdout[-200:]}")
        clean(restore, name, 1)


def hanging(server, sim, source, name):
    """A push that hangs in its upload."""
    sim.reset()
    restore = Restore(server, sim, source, name).begun()
    sim.rule("NFC", "wait", Millis=LONG_MILLIS)
    put = restore.vmx(wait=False)
    lab.check(until(lambda: sim.state()["calls"].get("NFC")), f"{name}: the upload hangs")
    return restore, put


def sealed(server, sim, source):
    """kill -9 while the nvram goes up: the machine is complete, and is taken as it is. And nothing is made of what comes again after it."""
    sim.reset()
    restore = Restore(server, sim, source, "sealed").begun()
    (source / "sealed.nvram").write_bytes(b"firmware")
    restore.do("cd sealed; put sealed.nvram")
    sim.rule("PUT", "wait", Millis=3000)
    put = restore.vmx(wait=False)
    lab.check(until(lambda: sim.state()["calls"].get("PUT")), "sealed: the nvram hangs")
    server.kill()
    put.communicate(timeout=60)
    sim.expire()
    server.start()
    lab.check(until(lambda: "done importing" in restore.read("import.log")), "sealed: it goes on by itself")
    calls = sim.state()["calls"]
    lab.check(calls.get("ImportVApp") == 1 and "Destroy_Task" not in calls and len(restore.vms()) == 1, f"sealed: made once {calls.get('ImportVApp')}")
    put = restore.extents()
    lab.check("NT_STATUS_MEDIA_WRITE_PROTECTED" in put.stdout and "is registered and may run" in restore.read("import.log"), f"sealed: its disk again is refused {put.stdout[-200:]!r}")
    lab.check("NT_STATUS" not in restore.vmx().stdout and sim.state()["calls"].get("ImportVApp") == 1, "sealed: the same VMX is no second machine")


def killed(server, sim, source):
    restore, put = hanging(server, sim, source, "killed")
    status = json.loads(server.run("status", "--json").stdout)
    states = [session["state"] for session in status["sessions"] if session["path"] == "/killed"]
    lab.check(states == ["pushing"], f"killed: status says so {states}")
    server.kill()
    put.communicate(timeout=60)
    left = restore.orphans()
    lab.check(left == [("open", "virtual machine", "there", "killed/killed.vmx")], f"killed: what is left is listed {left}")
    server.start()
    lab.check(until(lambda: "done importing" in restore.read("import.log")), "killed: it goes on by itself")
    lab.check("is taken up again" in restore.read("import.log"), "killed: import.log says so")
    clean(restore, "killed", 1)
    same(restore, restore.uploads()[-1], source / "disk0.img")


def stopped(server, sim, source):
    restore, put = hanging(server, sim, source, "stopped")
    sessions = sim.state()["sessions"]
    begun = time.monotonic()
    server.stop()
    took = time.monotonic() - begun
    told, _ = put.communicate(timeout=60)
    lab.check(took < 9, f"stopped: {took:.1f} s")
    clean(restore, "stopped", 0)
    lab.check(sim.state()["sessions"] == sessions - 1, f"stopped: logged out, {sessions} sessions before, {sim.state()['sessions']} after")
    server.start()
    lab.check(until(lambda: "done importing" in restore.read("import.log")), "stopped: it begins again by itself")
    log = restore.read("import.log")
    lab.check("the service ends; the upload begins again by itself" in log and restore.read("stopped.cfg.err") == "", f"stopped: told, and over {told[-200:]}")
    clean(restore, "stopped", 1)


def called_off(server, sim, source):
    restore, put = hanging(server, sim, source, "unwanted")
    begun = time.monotonic()
    removed = restore.do("deltree unwanted")
    told, _ = put.communicate(timeout=60)
    took = time.monotonic() - begun
    gone = "unwanted" not in restore.do("ls").stdout
    if not gone:
        removed = restore.do("deltree unwanted")
        gone = "unwanted" not in restore.do("ls").stdout
    lab.check(gone and took < 15 and "NT_STATUS" in told, f"unwanted: deleting the session ends its push, {took:.1f} s {removed.stdout[-300:] if not gone else ''}")
    clean(restore, "unwanted", 0)


def left_behind(server, sim, source):
    """What can't be undone is listed until it is."""
    def failed(name):
        sim.reset()
        restore = Restore(server, sim, source, name).begun()
        sim.rule("NFC", "status", Status=507)
        sim.rule("Destroy_Task", "task-fault", Fault="TaskInProgress", Times=2)
        done = restore.vmx()
        lab.check("NT_STATUS" in done.stdout and len(restore.vms()) == 1, f"{name}: a machine is left")
        lab.check(restore.orphans() == [("open", "virtual machine", "there", f"{name}/{name}.vmx")], f"{name}: and listed {restore.orphans()}")
        return restore

    restore = failed("again")
    sim.reset()
    done = restore.vmx()
    lab.check("NT_STATUS" not in done.stdout, f"again: a second try succeeds {done.stdout[-200:]}")
    clean(restore, "again", 1)
    restore = failed("cleaned")
    sim.reset()
    restore.do("deltree cleaned")
    lab.check(restore.orphans() == [("removed", "virtual machine", "there", "cleaned/cleaned.vmx")], f"cleaned: listed without its session {restore.orphans()}")
    run = server.run("orphans", "clean", "--yes")
    lab.check(run.returncode == 0 and "removed" in run.stdout, f"cleaned: {run.stdout}{run.stderr}")
    clean(restore, "cleaned", 0)
    restore = failed("undone")
    sim.reset()
    restore.do("deltree undone")
    server.kill()
    server.start()
    lab.check(until(lambda: not restore.vms()), "undone: at the next start")
    until(lambda: not restore.orphans())
    clean(restore, "undone", 0)
    # Somebody else's machine at that place is nobody's orphan.
    restore = failed("foreign")
    sim.reset()
    sim.change(Machine="foreign", Instance="11111111-2222-3333-4444-555555555555")
    restore.do("deltree foreign")
    server.run("orphans", "clean", "--yes")
    lab.check(len(restore.vms()) == 1 and restore.orphans() == [], "foreign: a machine with another instance UUID stays")


def timed_out(work, source):
    """Leases that end after a second; and a standalone host, which has no folders."""
    sim = vlab.Vcsim(work / "short", {"ds1": work / "short-ds" / UUID}, lease_timeout="1s")
    server = Server(work / "short-server", sim)
    restore = Restore(server, sim, source, "timed").begun()
    sim.rule("NFC", "wait", Millis=3000)
    done = restore.vmx()
    lab.check("NT_STATUS" not in done.stdout and "the lease has ended" in restore.read("import.log"), f"timed: begun again {done.stdout[-200:]}")
    clean(restore, "timed", 1)
    server.stop()
    sim = vlab.Vcsim(work / "esx", {"ds1": work / "esx-ds" / UUID}, esx=True)
    server = Server(work / "esx-server", sim)
    restore = Restore(server, sim, source, "lone")
    restore.text = cfg("lone", datacenter="", folder="", hostsystem="", resourcepool="")
    restore.begun()
    done = restore.vmx()
    lab.check("NT_STATUS" not in done.stdout and len(restore.vms()) == 1, f"lone: made on an ESXi host {done.stdout[-200:]}{restore.read('lone.cfg.err')}")
    same(restore, restore.uploads()[-1], source / "disk0.img")
    lab.check("panicked" not in server.log.read_text(errors="replace"), "lone: no panic in the log")
    server.stop()


def main():
    lab.need("smbclient", "qemu-img")
    work = lab.workdir("nfc")
    source = work / "source"
    source.mkdir()
    for n in range(2):
        r = random.Random(n + 1)
        (source / f"disk{n}.img").write_bytes(b"".join(bytes(1 << 16) if k % 3 == 0 else r.randbytes(1 << 16) for k in range(SIZE >> 16)))
    store = work / "ds" / UUID
    sim = vlab.Vcsim(work / "sim", {"ds1": store, "other": work / "other-ds" / "other"})
    server = Server(work / "server", sim, """[[hypervisor.datastore]]
name = "other"
""")
    whole(server, sim, source, store)
    apart(server, sim, source)
    preflight(server, sim, source, store)
    retried(server, sim, source)
    sealed(server, sim, source)
    killed(server, sim, source)
    stopped(server, sim, source)
    called_off(server, sim, source)
    left_behind(server, sim, source)
    refused(server, sim, source)
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    sessions = sim.state()["sessions"]
    server.stop()
    lab.check(sim.state()["sessions"] == sessions - 1, "a stop logs out")
    timed_out(work, source)
    lab.finish()


if __name__ == "__main__":
    main()
