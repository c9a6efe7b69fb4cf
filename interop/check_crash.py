"""kill -9 at random points of whole restores over real SMB, with the real binary: bytes, sessions, log and statistics afterwards.

A restore is a CFG, two extents in parallel, a differential, the VMX. Each round starts one, kills the server somewhere in it,
starts it again, checks that what was acknowledged is there, and recovers as an administrator would: copies everything again,
resumes with `reput`, or deletes the session and begins anew; sometimes it is killed again meanwhile. The disks on the datastore
must be right in the end, every time, and those of earlier rounds must stay so.

    check_crash.py [SECONDS [KILLS]]      SEED=… repeats a sequence of decisions; default 60 seconds
"""
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

import check_restore as vm
import lab

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 60
KILLS_MAX = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
THIN_BYTES, THICK_BYTES = 21 * (1 << 20) + 512 * 7, 13 * (1 << 20) + 512 * 129
RECOVERIES = ("again", "again", "reput", "anew")
STEPS_MAX = 12
STATS = re.compile(r"stats: (\S+) total (\d+) kb, write thru (\d+) kb, skipped (\d+) kb \(\d+ kb/s\), keep alive \d+, "
                   r"incoming avg write size \d+, outgoing avg write size \d+")
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: ")


class Restore:
    """One virtual machine's restore, as often as it takes; `acked` holds what a client was told had been taken."""

    def __init__(self, server, source, name, rng):
        self.server, self.source, self.name, self.rng = server, source, name, rng
        self.disks = [(name, THIN_BYTES, "thin"), (f"{name}_1", THICK_BYTES, "thick")]
        self.target = server.datastore / name
        self.acked, self.failed = set(), []
        self.deleting = False  # a kill may have come in the middle of that
        self.write_sources("stop")

    def write_sources(self, conflict):
        (self.source / f"{self.name}.cfg").write_text(vm.cfg(self.name, self.disks, conflict))
        (self.source / f"{self.name}.vmx").write_text(vm.vmx(self.name, self.disks))

    def client(self, commands):
        return lab.smbclient(self.server.port, "import", commands, cwd=self.source, timeout=120)

    def step(self, name, commands):
        """Runs one step; it was acknowledged if smbclient finished without an error."""
        run = self.client(commands)
        good = run.returncode == 0 and "NT_STATUS" not in run.stdout
        if good:
            self.acked.add(name)
        else:
            self.failed.append((name, run.stdout[-200:]))
        return good

    def extents(self, verb):
        local = ("thin.img", "thick.img")
        names = [f"{disk}-flat.vmdk" for disk, _, _ in self.disks]
        if "pancbt" in self.acked:
            self.acked.discard("pancbt")
        self.acked -= {"extent0", "extent1"}
        good = [False, False]

        def one(n):
            good[n] = self.step(f"extent{n}", f"cd {self.name}; {verb} {local[n]} {names[n]}")
        threads = [threading.Thread(target=one, args=(n,)) for n in (0, 1)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        return all(good)

    def run(self, verb="put"):
        """The whole restore; stops at the first step that fails."""
        name = self.name
        self.failed = []
        make = "" if "dir" in self.acked else f"mkdir {name}; "
        return (self.step("cfg", f"{make}cd {name}; put {name}.cfg")
                and self.extents(verb)
                and self.step("pancbt", f"cd {name}; put thin.pancbt {name}-flat.pancbt")
                and self.step("vmx", f"cd {name}; put {name}.vmx"))

    def listing(self):
        return self.client(f"cd {self.name}; ls").stdout

    def log(self):
        path = self.source / f"{self.name}.log"
        path.unlink(missing_ok=True)
        self.client(f"cd {self.name}; get import.log {self.name}.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def recover(self, how):
        """Brings the restore to its end the way `how` says; returns whether it got there."""
        if self.deleting and "done importing" in self.log():
            how = "anew"  # its virtual machine is complete and would be in the way of another: the delete has to end first
        if how == "anew":
            self.acked, self.deleting = set(), True  # nothing is promised of a session that is being deleted
            self.client(f"deltree {self.name}")
        listed = lab.smbclient(self.server.port, "import", "ls")
        if listed.returncode != 0 or "blocks available" not in listed.stdout:
            return False  # killed meanwhile
        present = re.search(rf"^  {self.name} ", listed.stdout, re.M)
        if how == "anew" and not lab.check(not present, f"{self.name} a session can be deleted {listed.stdout}"):
            return False
        self.acked.discard("dir")
        if not present or how == "anew":
            self.deleting = False
        if present:
            self.acked.add("dir")
        elif self.target.exists():  # a deleted session removes nothing from a datastore
            self.write_sources("rename")
            number = 1
            while (self.server.datastore / f"{self.name}({number})").exists():
                number += 1
            self.target = self.server.datastore / f"{self.name}({number})"
        if how == "reput" and self.run("reput"):
            return True
        return self.run("put")

    def extent(self, n):
        return self.target / f"{self.disks[n][0]}-flat.vmdk"

    def check_acked(self, tag):
        """After a restart: what was acknowledged before the kill is there."""
        acked, listed = self.acked, self.listing() if self.acked else ""
        if "cfg" in acked:
            lab.check(f"{self.name}.cfg " in listed, f"{tag} the CFG that was acknowledged is listed")
            lab.check(".cfg.err" not in listed or "extent0" not in acked, f"{tag} no .cfg.err appeared by itself")
        for n, image in ((0, "thin.img"), (1, "thick.img")):
            if f"extent{n}" in acked and not (n == 0 and self.merge_begun):
                lab.check(self.extent(n).name + " " in listed, f"{tag} extent {n} is listed")
                lab.check(vm.same(self.source / image, self.extent(n)), f"{tag} extent {n}, closed before the kill, is whole")
        if "pancbt" in acked:
            lab.check(vm.same(self.source / "thin.new", self.extent(0)), f"{tag} the differential that was closed is merged")
        if "vmx" in acked:
            lab.check((self.target / f"{self.name}.vmx").exists(), f"{tag} the VMX that was closed is on the datastore")

    @property
    def merge_begun(self):
        return {"extent0", "extent1"} <= self.acked

    def whole(self):
        return (vm.same(self.source / "thin.new", self.extent(0)) and vm.same(self.source / "thick.img", self.extent(1))
                and (self.target / f"{self.name}.vmx").exists())

    def check_end(self, tag):
        lab.check(self.whole(), f"{tag} the virtual machine is on the datastore, byte for byte")
        log = self.log()
        torn = [line for line in log.split("\n") if line and not LINE.match(line) and not line.startswith((" ", "\t"))]
        lab.check(not torn, f"{tag} import.log has whole lines only {torn[:2]}")
        wrong = [m[0] for m in STATS.finditer(log) if not 0 <= int(m[2]) - int(m[3]) - int(m[4]) <= 1]
        lab.check(not wrong, f"{tag} statistics add up {wrong[:2]}")
        lab.check("done importing" in log, f"{tag} import.log says done")
        left = [p.name for p in self.target.iterdir() if p.name.startswith(".")]
        lab.check(not left, f"{tag} nothing half-written is left on the datastore {left}")


def main():
    lab.need("smbclient", "qemu-img")
    print(f"seed {SEED}", flush=True)
    rng = random.Random(SEED)
    work = lab.workdir("crash", os.environ.get("CRASH_DIR"))
    source = work / "source"
    source.mkdir()
    vm.image(source / "thin.img", THIN_BYTES, SEED, 0.4)
    vm.image(source / "thick.img", THICK_BYTES, SEED + 1, 0.6)
    vm.changed(source / "thin.img", source / "thin.new", SEED + 2)
    subprocess.run([lab.binary(), "pancbt", "create", "--base", source / "thin.img", "--new", source / "thin.new",
                    "--output", source / "thin.pancbt"], check=True)
    server = lab.Importfs(work / "server")
    calm = Restore(server, source, "calm", rng)
    begun = time.monotonic()
    lab.check(calm.run(), f"a restore that nothing disturbs {calm.failed}")
    calm.check_end("calm:")
    length = time.monotonic() - begun
    finished, kills, rounds, begun = [calm], 0, 0, time.monotonic()
    while time.monotonic() - begun < SECONDS and kills < KILLS_MAX and not lab.failures:
        rounds += 1
        restore = Restore(server, source, f"vm{rounds}", rng)
        how = "first"
        for attempt in range(STEPS_MAX):
            kill = attempt == 0 or (attempt < 4 and rng.random() < 0.4)
            tag = f"{restore.name} {how}:"
            worker = threading.Thread(target=restore.recover, args=(how,)) if attempt else threading.Thread(target=restore.run)
            worker.start()
            if kill:
                # Usually anywhere in the restore; now and then within the first moments of a step.
                time.sleep(rng.random() * length * 1.05 if rng.random() < 0.8 else rng.random() * 0.08)
                server.kill()
                kills += 1
            worker.join()
            if kill:
                server.start()
                restore.check_acked(tag)
            if restore.acked >= {"cfg", "extent0", "extent1", "pancbt", "vmx"}:
                break
            if not kill and attempt > 0:
                lab.check(False, f"{tag} recovery did not get to its end: {restore.failed} {restore.listing()[-400:]}")
                break
            how = rng.choice(RECOVERIES)
        restore.check_end(f"{restore.name} {how}:")
        finished.append(restore)
        old = rng.choice(finished)
        lab.check(old.whole() and f"{old.name}.vmx " in old.listing(), f"{old.name}: completed before, still listed and whole")
        if len(finished) > 30:  # sessions and space are bounded here
            gone = finished.pop(1)
            gone.client(f"deltree {gone.name}")
            for path in gone.target.iterdir():
                path.unlink()
            gone.target.rmdir()
    log = server.log.read_text(errors="replace")
    lab.check("panicked" not in log, "no panic in the service's log")
    lab.check("can't be taken up" not in log, "every session was taken up")
    print(f"seed {SEED}: {kills} kills in {rounds} restores, {time.monotonic() - begun:.0f} s", flush=True)
    if lab.failures:
        print(log[-3000:])
    lab.finish()


if __name__ == "__main__":
    main()
