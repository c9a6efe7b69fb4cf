"""The Linux kernel's own client (fs/smb/client), in a virtual machine without hardware support, against the directory and import shares.

For each way to mount (dialects, signed, sealed, several channels): a tree copied, compared, renamed, deleted, and random operations
on a file compared with a model (guest/fsx.rs). Then whole restores through the mount: cp, dd, dd with oflag=direct, rsync --inplace.

    check_kernel.py [--full] [NAME …]      only these of MOUNTS and WAYS; --full: 10,000 files in the tree, 5,000 random
                                           operations, extents of 256 MiB

Needs Debian's qemu-system-x86, busybox-static, cpio, and a kernel image of its archive, which is only unpacked.
"""
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import check_restore as vm
import lab

FULL = "--full" in sys.argv[1:]
FILES, FOLDERS = (10_000, 100) if FULL else (150, 5)
OPERATIONS = 5_000 if FULL else 150
EXTENT_BYTES = 512 * 7 + ((256 if FULL else 4) << 20)
BOOT_SECONDS = 3_600 if FULL else 240
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
# Where the virtual machine sees this host's loopback, and an address that stands for another card of this server.
HOST, CARD = "10.0.2.2", "10.0.2.100"
MOUNTS = {
    "2.1": "vers=2.1", "3.0": "vers=3.0", "3.1.1": "vers=3.1.1", "sign": "vers=3.1.1,sign", "2.1-sign": "vers=2.1,sign",
    "seal": "vers=3.1.1,seal", "3.0-seal": "vers=3.0,seal", "uncached": "vers=3.1.1,cache=none",
    "channels": "vers=3.1.1,multichannel,max_channels=3",
}
WAYS = {
    "cp": "cp /source.img $to",
    "dd": "dd if=/source.img of=$to bs=1M conv=fsync",
    "direct": "dd if=/source.img of=$to bs=1M oflag=direct,seek_bytes conv=notrunc,fsync",
    "rsync": "rsync --inplace --whole-file /source.img $to",
}
if ONLY := {a for a in sys.argv[1:] if not a.startswith("-")}:
    MOUNTS, WAYS = ({tag: what for tag, what in table.items() if tag in ONLY} for table in (MOUNTS, WAYS))
# Modules and all that they need: the rest of a kernel would only take time to unpack.
ROOTS = re.compile(r"kernel/(crypto|lib/crypto|arch/x86/crypto)/[^/]+\.ko|.*/(virtio_pci|virtio_net|cifs|nls_utf8)\.ko")


def kernel(work):
    """Debian's newest 6.1 image for virtual machines, unpacked: (the kernel, its modules' directory)."""
    if os.getuid() == 0 and not list(pathlib.Path("/var/lib/apt/lists").glob("*Packages*")):
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
    names = subprocess.run(["apt-cache", "search", "--names-only", r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$"],
                           capture_output=True, text=True).stdout.split("\n")
    names = sorted((n.split(" ")[0] for n in names if n), key=lambda n: int(n.split("-")[3]))
    if not names:
        lab.skip("the package lists name no linux-image-6.1.0-…-cloud-amd64 (apt-get update)")
    for name in reversed(names):
        got = subprocess.run(["apt-get", "download", "-q", name], cwd=work, capture_output=True, text=True)
        if got.returncode == 0:
            break
    else:
        lab.skip(f"apt-get download {name}: {got.stderr.strip().splitlines()[-1:]}")
    package = next(work.glob("linux-image-*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, work / "kernel"], check=True)
    return next((work / "kernel/boot").glob("vmlinuz-*")), next((work / "kernel/lib/modules").iterdir())


def modules(tree, root):
    """Copies the modules of ROOTS with what they depend on."""
    target = root / "lib/modules" / tree.name
    target.mkdir(parents=True)
    subprocess.run(["busybox", "depmod", "-b", tree.parents[2], tree.name], check=True)
    needs = dict(line.split(":", 1) for line in (tree / "modules.dep").read_text().splitlines())
    wanted, queue = set(), [name for name in needs if ROOTS.fullmatch(name)]
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += needs[name].split()
    for name in wanted:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / name, target / name)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(tree / name, target / name)
    subprocess.run(["busybox", "depmod", "-b", root, tree.name], check=True)


def program(root, path):
    """A program of this machine with the libraries it needs; whether it is there."""
    found = shutil.which(path)
    if not found:
        return False
    shutil.copy(found, root / "bin")
    for library in re.findall(r"(/\S+)", subprocess.run(["ldd", found], capture_output=True, text=True).stdout):
        target = root / library[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    return True


def tree_of_files(root):
    """Small files, a few large ones, names with blanks, umlauts and length."""
    rng = random.Random(SEED)
    for n in range(FILES):
        folder = root / f"Ordner {n % FOLDERS}" / ("tief" if n % 7 == 0 else "")
        folder.mkdir(parents=True, exist_ok=True)
        name = {0: f"größe {n}.txt", 1: f"{'lang' * 50}{n}", 2: f"UPPER{n}.TXT"}.get(n % 11, f"f{n}")
        size = rng.randrange(500_000) if n % 50 == 0 else rng.randrange(9_000)
        (folder / name).write_bytes(rng.randbytes(size))


def script(port, has_rsync):
    """What the virtual machine does, and the names of its checks."""
    lines, names = [], []
    moved = f"Ordner {26 % FOLDERS}/f26"

    def ok(name, command):
        names.append(name)
        lines.append(f"ok {name} sh -c '{command}'")

    def mount(name, share, options):
        host = CARD if "multichannel" in options else HOST
        where = f"port={port}," if host == HOST else ""
        ok(f"{name}:mount", f"mount -t cifs -o ip={host},{where}user={lab.USER},pass={lab.PASSWORD},{options} //{host}/{share} /mnt")

    for tag, options in MOUNTS.items():
        mount(tag, "dir", options)
        ok(f"{tag}:copy", f"mkdir /mnt/{tag} && cp -r /tree /mnt/{tag}/a")
        ok(f"{tag}:compare", f"diff -r /tree /mnt/{tag}/a")
        ok(f"{tag}:rename", f"cd /mnt/{tag} && mv a b && mv \"b/Ordner 0\" b/0 && mv \"b/{moved}\" b/0/F26 && test ! -e a && test -e b/0/F26")
        ok(f"{tag}:again", f"umount /mnt && mount -t cifs -o ip={HOST},port={port},user={lab.USER},pass={lab.PASSWORD},vers=3.1.1 "
                           f"//{HOST}/dir /mnt && cd /mnt/{tag}/b && mv 0/F26 \"{moved}\" && mv 0 \"Ordner 0\" && cd / && "
                           f"diff -r /tree /mnt/{tag}/b && umount /mnt")
        mount(f"{tag}-2", "dir", options)
        ok(f"{tag}:fsx", f"fsx /mnt/{tag}/fsx {OPERATIONS} {SEED % 1_000_000}")
        if "multichannel" in options:
            ok(f"{tag}:count", "grep -A99 \"Extra Channels: 2\" /proc/fs/cifs/DebugData || { cat /proc/fs/cifs/DebugData; false; }")
        ok(f"{tag}:delete", f"rm -r /mnt/{tag} && test ! -e /mnt/{tag} && umount /mnt")
    for tag, command in WAYS.items():
        if tag == "rsync" and not has_rsync:
            print("skipped: rsync is not installed")
            continue
        mount(tag, "import", "vers=3.1.1")
        ok(f"{tag}:cfg", f"mkdir /mnt/{tag} && cp /{tag}.cfg /mnt/{tag} && test ! -e /mnt/{tag}/{tag}.cfg.err")
        ok(f"{tag}:extent", f"to=/mnt/{tag}/{tag}-flat.vmdk; {command}")
        ok(f"{tag}:vmx", f"cp /{tag}.vmx /mnt/{tag} && tail -n 1 /mnt/{tag}/import.log && umount /mnt")
    return "\n".join(lines) + "\n", names


def initramfs(work, tree, server):
    root = work / "root"
    for name in ("bin", "sbin", "tree"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin")
    (root / "bin/sh").symlink_to("busybox")
    (root / "sbin/modprobe").symlink_to("../bin/busybox")
    guest = pathlib.Path(__file__).parent / "guest"
    subprocess.run(["rustc", "-O", "-C", "target-feature=+crt-static", "-o", root / "bin/fsx", guest / "fsx.rs"], check=True)
    shutil.copy(guest / "init.sh", root / "init")
    (root / "init").chmod(0o755)
    modules(tree, root)
    work_script, names = script(server.port, program(root, "rsync"))
    (root / "work.sh").write_text(work_script)
    tree_of_files(root / "tree")
    vm.image(root / "source.img", EXTENT_BYTES, SEED, 0.4)
    for tag in WAYS:
        disks = [(tag, EXTENT_BYTES, "thin")]
        (root / f"{tag}.cfg").write_text(vm.cfg(tag, disks))
        (root / f"{tag}.vmx").write_text(vm.vmx(tag, disks))
    with open(work / "initrd", "wb") as out:
        found = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
        packed = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=root, input=found, stdout=subprocess.PIPE, check=True)
        subprocess.run(["gzip", "-1"], input=packed.stdout, stdout=out, check=True)
    return names


def boot(work, image, port):
    """Runs the virtual machine to its end; what its console showed."""
    card = f"guestfwd=tcp:{CARD}:445-cmd:busybox nc 127.0.0.1 {port}"
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-smp", "2",
               "-m", "4096" if FULL else "1024", "-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio",
               "-kernel", image, "-initrd", work / "initrd", "-append", "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on",
               "-netdev", f"user,id=n0,{card}", "-device", "virtio-net-pci,netdev=n0"]
    log = work / "console.log"
    with open(log, "wb") as out:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        machine.wait(timeout=BOOT_SECONDS)
    except subprocess.TimeoutExpired:
        machine.kill()
        machine.wait()
        lab.check(False, f"the virtual machine was done within {BOOT_SECONDS} s")
    return log.read_text(errors="replace").replace("\r", "")


def main():
    lab.need("qemu-system-x86_64", "busybox", "cpio", "gzip", "rustc", "apt-get", "dpkg-deb", "qemu-img")
    print(f"seed {SEED}")
    work = lab.workdir("kernel")
    image, tree = kernel(work)
    server = lab.Importfs(work / "server", extra="", smb=f'channel-addresses = ["{CARD}"]')
    names = initramfs(work, tree, server)
    console = boot(work, image, server.port)
    good = {m[1] for m in re.finditer(r"^@ok (\S+)", console, re.M)}
    bad = {m[1]: m[2] for m in re.finditer(r"^@bad (\S+?): (.*)$", console, re.M)}
    for name in names:
        lab.check(name in good, f"{name} {bad.get(name, '' if name in good else 'not reached')}")
    if lab.failures:
        print(console[-6000:])
    for tag in WAYS:
        if f"{tag}:extent" in names:
            where = server.datastore / tag
            lab.check(vm.same(work / "root/source.img", where / f"{tag}-flat.vmdk"), f"{tag}: the disk on the datastore is identical")
            lab.check((where / f"{tag}.vmx").exists(), f"{tag}: the VMX stands on the datastore")
    lab.check(not any(server.dir.iterdir()), "nothing is left in the directory")
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


if __name__ == "__main__":
    main()
