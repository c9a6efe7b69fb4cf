"""streamOptimized VMDKs of our writer read by two readers that others wrote: qemu-img, and libvmdk's vmdkinfo and vmdkmount.

Disks: empty, a single sector, random, compressible, sparse over many grain tables, sizes that are no multiple of a grain; levels 0, 1
and 6, one thread and several. vmdkmount needs FUSE; without it that reader is left out by name.
"""
import filecmp
import os
import pathlib
import random
import subprocess
import time

import lab

SEED = int(os.environ.get("SEED", "20120229"))
MIB, GRAIN = 1 << 20, 64 << 10
MOUNT_SECONDS = 20


def fill(path, size, pieces):
    with open(path, "wb") as f:
        f.truncate(size)
        for offset, data in pieces:
            f.seek(offset)
            f.write(data[:size - offset])


def images(where):
    """Name and path of each test disk."""
    r = random.Random(SEED)
    text = lambda n: b"".join(r.choices([r.randbytes(16) for _ in range(64)], k=n // 16))  # noqa: E731
    made = {
        "empty": (3 * MIB, []),
        "sector": (512, [(0, b"x" * 512)]),
        "random": (24 * MIB, [(0, r.randbytes(24 * MIB))]),
        "text": (24 * MIB, [(0, text(24 * MIB))]),
        "odd": (5 * MIB + 512 * 77, [(0, text(MIB)), (5 * MIB, r.randbytes(512 * 77))]),
        # 20 % full, over 600 grain tables of which some are empty.
        "sparse": (600 * 32 * MIB + 512, [(r.randrange(600 * 512) * GRAIN, r.choice([r.randbytes, text])(GRAIN)) for _ in range(900)]),
        "byte": (70 * MIB, [(69 * MIB + 5, b"\1")]),
    }
    for name, (size, pieces) in made.items():
        fill(where / f"{name}.img", size, pieces)
        yield name, where / f"{name}.img"


def quiet(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def mounted(vmdk, image, where):
    """Whether libvmdk gives the image's bytes; None where FUSE is not to be had."""
    where.mkdir()
    process = subprocess.Popen(["vmdkmount", vmdk, where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not (where / "vmdk1").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return (where / "vmdk1").exists() and filecmp.cmp(where / "vmdk1", image, shallow=False)
    finally:
        subprocess.run(["umount", where], capture_output=True)
        process.wait(10)
        where.rmdir()


def main():
    lab.need("qemu-img", "vmdkinfo")
    tool = lab.binary().parent / "examples" / "drivers"
    if not tool.exists():
        lab.skip(f"{tool} is missing: cargo build --release --examples")
    fuse = os.access("/dev/fuse", os.R_OK | os.W_OK) and quiet("vmdkmount", "-V")[0]
    if not fuse:
        print("left out: vmdkmount (no FUSE)")
    print(f"seed {SEED}")
    work = lab.workdir("stream")
    for name, image in images(work):
        for level, threads in ((0, 1), (1, 1), (1, 4), (6, 3)):
            tag = f"{name}, level {level}, {threads} threads:"
            vmdk = work / "out.vmdk"
            good, said = quiet(tool, "stream-optimized", image, vmdk, level, threads)
            if not lab.check(good, f"{tag} made {said}"):
                continue
            for reader in (("qemu-img", "check", vmdk), ("qemu-img", "compare", "-f", "raw", "-F", "vmdk", image, vmdk)):
                good, said = quiet(*reader)
                lab.check(good and "mismatch" not in said, f"{tag} {reader[0]} {reader[1]} {said if not good else ''}")
            good, said = quiet("vmdkinfo", vmdk)
            lab.check(good and "Stream optimized" in said and f"({os.path.getsize(image)} bytes)" in said, f"{tag} vmdkinfo")
            # libvmdk wants whole grains; a smaller disk is qemu's alone to judge.
            if fuse and (level, threads) == (1, 4) and os.path.getsize(image) >= GRAIN:
                lab.check(mounted(vmdk, image, work / "mount"), f"{tag} vmdkmount gives the image's bytes")
    lab.finish()


if __name__ == "__main__":
    main()
