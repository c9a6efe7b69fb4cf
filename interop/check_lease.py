"""Machines made from HttpNfcLease against the simulator, each upload compared; and small files through /folder.

Drives tests/vsphere_lab.rs: the sink and the small files alone, each failure seen once (check_nfc.py has whole restores). The lab keeps what is uploaded; qemu-img and libvmdk
read it.
"""
import os
import re
import shutil
import subprocess

import lab
import vlab


def run(sim, test, expect=""):
    environment = dict(os.environ, IMPORTFS_VCSIM=str(sim.where / "ready.json"), IMPORTFS_EXPECT=expect)
    return subprocess.run(["cargo", "test", "--quiet", "--test", "vsphere_lab", "--", "--ignored", "--exact", test],
                          cwd=lab.ROOT, env=environment, capture_output=True, text=True, timeout=1800)


def compare(sim, upload, name):
    """The upload holds what the disk held, by two readers."""
    file = upload["File"]
    number = re.search(r"_(\d)\.vmdk$", file)[1]
    image = sim.where / "expected" / f"{name}_{number}.img"
    same = subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", file, image], capture_output=True, text=True)
    lab.check(same.returncode == 0, f"{name}_{number}: qemu-img reads the upload as the disk {same.stdout[-200:]}{same.stderr[-200:]}")
    if shutil.which("vmdkinfo"):
        info = subprocess.run(["vmdkinfo", file], capture_output=True, text=True)
        lab.check(info.returncode == 0 and "Stream optimized" in info.stdout, f"{name}_{number}: libvmdk reads it {info.stdout[-300:] if info.returncode else ''}")
    lab.check(upload["Method"] == "POST" and upload["Type"] == "application/x-vnd.vmware-streamVmdk" and upload["Bytes"] < 5 << 20,
              f"{name}_{number}: sent as a stream, compressed: {upload['Bytes']} bytes")


def whole(sim):
    done = run(sim, "a_machine_is_made_from_a_lease")
    lab.check(done.returncode == 0, f"a machine from a lease {done.stdout[-1500:] if done.returncode else ''}")
    state = sim.state()
    vm = next((vm for vm in state["vms"] if vm["Name"] == "lease"), None)
    lab.check(vm is not None and (vm["Folder"], vm["Pool"], vm["Host"]) == ("Restored", "DC0_C0_RP1", "DC0_C0_H0"), "in its folder, pool and host")
    lab.check(vm is not None and (vm["GuestID"], vm["Firmware"], vm["MemoryMB"], vm["CPUs"]) == ("centos7_64Guest", "efi", 512, 2),
              f"guest, firmware, memory, processors: {vm and (vm['GuestID'], vm['Firmware'], vm['MemoryMB'], vm['CPUs'])}")
    disks = [device for device in (vm or {}).get("Devices", []) if device.startswith("VirtualDisk")]
    lab.check(disks == ["VirtualDisk 1000:1 5121 KiB thin=true [ds1] lease/lease_0.vmdk", "VirtualDisk 1000:0 5121 KiB thin=false [ds1] lease/lease_1.vmdk"],
              f"disks as the VMX has them: {disks}")
    lab.check(any(device.startswith("ParaVirtualSCSIController") for device in (vm or {}).get("Devices", [])), "its controller")
    uploads = state["uploads"] or []
    lab.check(len(uploads) == 2, f"two uploads: {len(uploads)}")
    for upload in uploads:
        compare(sim, upload, "lease")
    ends = [lease["ended"] for lease in state["leases"].values()]
    lab.check(ends == ["complete"], f"the lease is complete: {ends}")


def broken(sim, what, expect, *rules):
    sim.reset()
    for method, action, more in rules:
        sim.rule(method, action, **more)
    done = run(sim, "a_push_that_the_lab_breaks", expect)
    state = sim.state()
    lab.check(done.returncode == 0, f"{what}: the error says so {done.stdout[-1500:] if done.returncode else ''}")
    lab.check(not any(vm["Name"] == "broken" for vm in state["vms"]), f"{what}: no machine is left")
    open_leases = [lease for lease in state["leases"].values() if not lease["ended"]]
    lab.check(not open_leases, f"{what}: no lease is left open")
    lab.check(state["sessions"] == 0, f"{what}: logged out")


def main():
    lab.need("qemu-img", "cargo")
    work = lab.workdir("lease")
    sim = vlab.Vcsim(work / "sim", {"ds1": work / "ds" / "4e3193a0-698e20ea-f9ef-180373f1beff"})
    built = subprocess.run(["cargo", "test", "--quiet", "--test", "vsphere_lab", "--no-run"], cwd=lab.ROOT, capture_output=True, text=True)
    if built.returncode != 0:
        lab.check(False, f"cargo test --no-run: {built.stderr[-1000:]}")
        lab.finish()
    whole(sim)
    files = run(sim, "small_files_through_folder")
    lab.check(files.returncode == 0, f"small files through /folder {files.stdout[-1500:] if files.returncode else ''}")
    written = work / "ds" / "4e3193a0-698e20ea-f9ef-180373f1beff" / "a dir" / "50%" / "x #1.nvram"
    lab.check(written.exists() and written.read_bytes() == bytes(n & 255 for n in range(300000)), "and on the datastore")
    sim.reset()
    (written.parent / written.name).unlink(missing_ok=True)
    shutil.rmtree(written.parent.parent)
    sim.rule("PUT", "drop", Bytes=100000)
    sim.rule("PUT", "status", Status=401)
    sim.rule("PUT", "status", Status=503)
    files = run(sim, "small_files_through_folder")
    lab.check(files.returncode == 0, f"a PUT that breaks, loses its session, meets a busy server {files.stdout[-1500:] if files.returncode else ''}")
    lab.check(written.exists() and written.stat().st_size == 300000 and sim.state()["calls"].get("PUT") == 4, f"is done again: {sim.state()['calls'].get('PUT')} PUTs")
    broken(sim, "upload cut", "was lost", ("NFC", "drop", dict(Bytes=100000)))
    broken(sim, "upload refused", "HTTP status 503", ("NFC", "status", dict(Status=503)))
    broken(sim, "datastore full", "the datastore 'ds1' is full", ("ImportVApp", "fault", dict(Fault="NoDiskSpace", Fields={"datastore": "ds1"})))
    broken(sim, "no room in the pool", "no room for it", ("ImportVApp", "fault", dict(Fault="InsufficientResourcesFault")))
    broken(sim, "not completed", "busy or in another state", ("HttpNfcLeaseComplete", "fault", dict(Fault="InvalidState")))
    short = vlab.Vcsim(work / "short", {"ds1": work / "ds2" / "4e3193a0-698e20ea-f9ef-180373f1beff"}, lease_timeout="1s")
    broken(short, "lease timed out", "the lease has ended", ("NFC", "wait", dict(Millis=3000)))
    lab.finish()


if __name__ == "__main__":
    main()
