"""on-conflict = "overwrite": a restored machine takes the place of the one that was there, on a plain directory and on a vSphere
(govmomi's simulator); what refuses that, what a failed registration leads to, and a kill -9 in the middle of it.
"""
import threading
import time

import check_restore
import check_vsphere
import lab
import vlab

MIB = 1 << 20
BYTES = 4 * MIB


def overwrite(text):
    return text.replace('on-conflict = "stop"', 'on-conflict = "overwrite"')


def plain(work, source):
    """Without anybody to ask: the directory of an old restore is replaced, files of nobody's are kept."""
    server = lab.Importfs(work / "plain")
    store = server.datastore
    for number, (name, image) in enumerate([("first", "old.img"), ("second", "disk.img")]):
        session = f"s{number}"
        text = check_restore.cfg("web", [("web", BYTES, "thin")])
        (source / "x.cfg").write_text(overwrite(text) if number else text)
        (source / "x.vmx").write_text(check_restore.vmx("web", [("web", BYTES, "thin")]))
        if number:
            (store / "web" / "notes.txt").write_text("somebody's")
            (store / "web" / "web-1.vswp").write_text("")
            lab.smbclient(server.port, "import", f"mkdir {session}; cd {session}; put x.cfg web.cfg; get web.cfg.err err", cwd=source)
            lab.check("looks like that of a running virtual machine (web-1.vswp)" in (source / "err").read_text(), "a running machine is not replaced")
            (store / "web" / "web-1.vswp").unlink()
        said = lab.smbclient(server.port, "import", f"mkdir {session}; cd {session}; put x.cfg web.cfg; put {image} web-flat.vmdk", cwd=source).stdout
        lab.check(not any(line.startswith("NT_STATUS") and "COLLISION" not in line for line in said.splitlines()), f"{name}: data {said[-200:]!r}")
        if number:
            lab.check((store / "web" / "web-flat.vmdk").read_bytes() == (source / "old.img").read_bytes(), "the old disk is untouched until the VMX")
        said = lab.smbclient(server.port, "import", f"cd {session}; put x.vmx web.vmx; get import.log log", cwd=source).stdout
        lab.check("NT_STATUS" not in said, f"{name}: VMX {said[-200:]!r}")
    lab.check((store / "web" / "web-flat.vmdk").read_bytes() == (source / "disk.img").read_bytes(), "then it is the new one")
    left = sorted(str(path.relative_to(store)) for path in store.rglob("*"))
    left = [path for path in left if "importfs" in path]
    lab.check(len(left) == 2 and left[1].endswith("/notes.txt"), f"of the old one only what was somebody's is left: {left}")
    lab.check("is kept: what is in it was not the replaced virtual machine's: notes.txt" in (source / "log").read_text(), "and import.log says so")
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic")
    server.stop()


class Site:
    """A simulator with one machine `web` that an earlier session restored."""

    def __init__(self, work, source):
        self.source, self.store = source, work / "ds" / check_vsphere.UUID
        self.sim = vlab.Vcsim(work / "sim", {"ds1": self.store, "other": work / "ds" / "other"})
        self.server = check_vsphere.Server(work / "server", self.sim, self.store, f'thumbprint = "{self.sim.sha256}"', retry=2)
        check_vsphere.restore(self.server, source, self.sim, self.store, "web")
        self.old = (self.store / "web" / "web-flat.vmdk").read_bytes()
        (source / "disk.img").write_bytes(self.old[::-1])

    def session(self, name):
        session = vlab.Session(self.server, self.source, name)
        (self.source / f"{name}.cfg").write_text(overwrite(vlab.cfg("web")))
        session.do(f"mkdir {name}; cd {name}; put {name}.cfg")
        return session

    def vmx(self, session):
        (self.source / "web.vmx").write_text(vlab.vmx("web"))
        return session.do(f"cd {session.name}; put web.vmx")

    def machines(self):
        return [vm for vm in self.sim.state()["vms"] if vm["Path"].startswith("[ds1] web/")]

    def disk(self):
        return (self.store / "web" / "web-flat.vmdk").read_bytes()

    def beside(self):
        return sorted(path.name for path in self.store.iterdir() if "importfs" in path.name)


def registered(site):
    site.sim.change(VM="web", Power="poweredOn")
    session = site.session("one")
    lab.check("on-conflict: the virtual machine 'web' ([ds1] web/web.vmx) is not powered off" in session.errors(), f"powered on: told at the CFG {session.errors()!r}")
    site.sim.change(VM="web", Power="poweredOff")
    site.sim.change(Deny="VirtualMachine.Inventory.Unregister")
    session.do("cd one; put one.cfg")
    lab.check("lacks VirtualMachine.Inventory.Unregister on the folder" in session.errors(), f"the privilege is asked for {session.errors()!r}")
    site.sim.change(Allow="VirtualMachine.Inventory.Unregister")
    session.do("cd one; put one.cfg")
    lab.check(session.errors() == "", f"and then nothing is in the way {session.errors()!r}")
    session.do("cd one; put disk.img web-flat.vmdk")
    lab.check(site.disk() == site.old and len(site.machines()) == 1, "the old machine is there and registered while data arrives")
    site.sim.change(VM="web", Power="poweredOn")
    put = site.vmx(session)
    lab.check("NT_STATUS" in put.stdout and "is not powered off" in session.errors() and site.disk() == site.old, f"powered on meanwhile: refused {put.stdout[-200:]!r}")
    site.sim.change(VM="web", Power="poweredOff")
    site.sim.rule("RegisterVM_Task", "task-fault", Fault="NoDiskSpace", Fields={"datastore": "ds1"})
    put = site.vmx(session)
    errors = session.errors()
    lab.check("NT_STATUS" in put.stdout and "what was there before is back in its place" in errors, f"a failed registration is told {errors!r}")
    lab.check(site.disk() == site.old and len(site.machines()) == 1, f"and the old machine is back, registered: {len(site.machines())}")
    lab.check(len(site.beside()) == 1, f"the restored data stays beside: {site.beside()}")
    put = site.vmx(session)
    lab.check("NT_STATUS" not in put.stdout and session.errors() == "", f"the VMX again replaces it {put.stdout[-200:]!r} {session.errors()!r}")
    lab.check(site.disk() == site.old[::-1] and len(site.machines()) == 1 and site.beside() == [], f"one machine, the new disk, nothing beside: {site.beside()}")


def killed(site):
    """kill -9 while the new machine is being registered, in the place of the old one: the next start ends it by itself."""
    (site.source / "disk.img").write_bytes(site.old)
    session = site.session("two")
    lab.check(session.errors() == "", f"killed: cfg {session.errors()!r}")
    session.do("cd two; put disk.img web-flat.vmdk")
    site.sim.reset()
    site.sim.rule("RegisterVM_Task", "fault", Fault="HostNotConnected", Fields={}, Millis=3000, Times=3)
    thread = threading.Thread(target=site.vmx, args=(session,))
    thread.start()
    deadline = time.monotonic() + 10
    while site.sim.state()["calls"].get("RegisterVM_Task", 0) == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    site.server.kill()
    thread.join()
    lab.check(site.machines() == [] and site.disk() == site.old and len(site.beside()) == 1, f"at the kill the new one is in place, the old one beside: {site.beside()}")
    site.sim.reset()
    site.server.start()
    deadline = time.monotonic() + 20
    while (len(site.machines()) != 1 or site.beside()) and time.monotonic() < deadline:
        time.sleep(0.1)
    lab.check(len(site.machines()) == 1 and site.disk() == site.old and site.beside() == [], f"after a start the swap ends by itself: {site.beside()}")
    put = site.vmx(session)
    lab.check("NT_STATUS" not in put.stdout and len(site.machines()) == 1, "and the VMX again changes nothing")
    lab.check("panicked" not in site.server.log.read_text(errors="replace"), "no panic")


def main():
    lab.need("smbclient")
    work = lab.workdir("overwrite")
    source = work / "source"
    source.mkdir()
    check_restore.image(source / "old.img", BYTES, 1, 0.5)
    check_restore.image(source / "disk.img", BYTES, 2, 0.5)
    plain(work, source)
    (source / "disk.img").write_bytes(bytes(1 << 20) + bytes(range(256)) * ((vlab.SIZE - (1 << 20)) // 256))
    site = Site(work, source)
    registered(site)
    killed(site)
    site.server.stop()
    lab.finish()


if __name__ == "__main__":
    main()
