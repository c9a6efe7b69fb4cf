"""A virtual machine restored with smbclient, at every dialect and protection: bytes, thinness, log, statistics.

Two disks are copied in parallel (one thin, one thick, sizes that are no multiple of 1 MiB), a differential with changed and zeroed
blocks goes on top of one, then the VMX; qemu-img compares the result.
"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys

import lab

SEED = int(os.environ.get("SEED", "20120229"))
GRAIN = 64 << 10
THIN_BYTES, THICK_BYTES = 37 * (1 << 20) + 512 * 7, 21 * (1 << 20) + 512 * 129
DS = "4e3193a0-698e20ea-f9ef-180373f1beff"


def image(path, size, seed, density):
    """A disk image in which about `density` of the grains hold data."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for offset in range(0, size, GRAIN):
            if rng.random() < density:
                f.seek(offset)
                f.write(rng.randbytes(min(GRAIN, size - offset)))


def changed(base, new, seed):
    """A later state of `base`: some grains rewritten, some zeroed, some sectors within a grain changed."""
    rng = random.Random(seed)
    data = bytearray(pathlib.Path(base).read_bytes())
    for offset in range(0, len(data) - GRAIN, GRAIN):
        dice = rng.random()
        if dice < 0.05:
            data[offset:offset + GRAIN] = rng.randbytes(GRAIN)
        elif dice < 0.10:
            data[offset:offset + GRAIN] = bytes(GRAIN)
        elif dice < 0.15:
            data[offset + 512:offset + 1024] = rng.randbytes(512)
    pathlib.Path(new).write_bytes(data)


def cfg(name, disks, conflict="stop"):
    lines = ['# a comment', 'version = "4"', f'vmname = "{name}"', 'vmuuid = "50133967-ae5a-052c-0140-e47ce07219ee"',
             'servername = "local"', 'datacenter = ""', 'folder = ""', 'hostsystem = ""', 'resourcepool = ""',
             f'dsname = "{DS}"', f'directory = "{name}"', f'vmx-name = "{name}.vmx"']
    for n, (disk, size, kind) in enumerate(disks):
        lines += [f'vmdk.{n}.name = "{disk}.vmdk"', f'vmdk.{n}.extent-name = "{disk}-flat.vmdk"',
                  f'vmdk.{n}.dsname = "datastore1"', f'vmdk.{n}.directory = "{name}"',
                  f'vmdk.{n}.size = {size}', f'vmdk.{n}.type = "{kind}"']
    return "\n".join(lines + [f'on-conflict = "{conflict}"', 'register-after-import = 0', 'access-time = 1329951258', ''])


def vmx(name, disks):
    lines = ['.encoding = "UTF-8"', f'displayName = "old {name}"', 'guestOS = "otherlinux-64"']
    for n, (disk, _, _) in enumerate(disks):
        lines += [f'scsi0:{n}.present = "TRUE"', f'scsi0:{n}.fileName = "{disk}.vmdk"']
    return "\n".join(lines) + "\n"


def data_grains(path):
    data = pathlib.Path(path).read_bytes()
    return sum(1 for o in range(0, len(data), GRAIN) if any(data[o:o + GRAIN]))


def same(a, b):
    return subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", a, b], capture_output=True).returncode == 0


def restore(server, source, name, options):
    """One whole restore; each check is named after the options."""
    disks = [(f"{name}", THIN_BYTES, "thin"), (f"{name}_1", THICK_BYTES, "thick")]
    tag = f"{name}:"
    (source / f"{name}.cfg").write_text(cfg(name, disks))
    (source / f"{name}.vmx").write_text(vmx(name, disks))

    def put(*files, more=""):
        commands = f"cd {name}; " + "; ".join(f"put {local} {remote}" for local, remote in files) + more
        return lab.smbclient(server.port, "import", commands, *options, cwd=source)

    first = lab.smbclient(server.port, "import", f"mkdir {name}; cd {name}; put {name}.cfg; ls", *options, cwd=source)
    lab.check(first.returncode == 0 and ".cfg.err" not in first.stdout, f"{tag} cfg accepted: {first.stdout[-300:]!r}")
    early = put((f"{name}.vmx", f"{name}.vmx"))
    lab.check("NT_STATUS" in early.stdout, f"{tag} a VMX before its disks is refused")
    both = [subprocess.Popen(["smbclient", "//127.0.0.1/import", "-p", str(server.port), "-U",
                              f"{lab.USER}%{lab.PASSWORD}", *options, "-c", f"cd {name}; put {local} {disk}-flat.vmdk"],
                             cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for local, (disk, _, _) in zip(("thin.img", "thick.img"), disks)]
    output = [p.communicate(timeout=300)[0] for p in both]
    lab.check(all(p.returncode == 0 for p in both), f"{tag} two extents in parallel {output if any(p.returncode for p in both) else ''}")
    where = server.datastore / name
    thin, thick = where / f"{name}-flat.vmdk", where / f"{name}_1-flat.vmdk"
    lab.check(same(source / "thin.img", thin), f"{tag} thin extent identical")
    lab.check(same(source / "thick.img", thick), f"{tag} thick extent identical")
    lab.check(thin.exists() and thin.stat().st_blocks * 512 <= (data_grains(source / "thin.img")) * GRAIN + 8192, f"{tag} thin disk takes the non-zero grains only")
    lab.check(thick.exists() and thick.stat().st_blocks * 512 >= THICK_BYTES, f"{tag} thick disk has its space")
    done = put(("thin.pancbt", f"{name}-flat.pancbt"), (f"{name}.vmx", f"{name}.vmx"), more="; get import.log " + f"{name}.log")
    lab.check(done.returncode == 0 and "NT_STATUS" not in done.stdout, f"{tag} differential and VMX: {done.stdout[-300:]!r}")
    lab.check(same(source / "thin.new", thin), f"{tag} differential merged")
    result = (where / f"{name}.vmx").read_text() if (where / f"{name}.vmx").exists() else ""
    lab.check(f'displayName = "{name}"' in result and f'scsi0:1.fileName = "{name}_1.vmdk"' in result, f"{tag} VMX on the datastore")
    for disk, size, _ in disks:
        info = subprocess.run(["qemu-img", "info", "--output=json", where / f"{disk}.vmdk"], capture_output=True, text=True)
        good = info.returncode == 0 and json.loads(info.stdout)["virtual-size"] == size
        lab.check(good, f"{tag} qemu-img reads {disk}.vmdk {info.stderr[-200:]}")
    log = (source / f"{name}.log").read_text(errors="replace") if (source / f"{name}.log").exists() else ""
    stats = {m[1]: tuple(map(int, m.groups()[1:])) for m in re.finditer(
        r"stats: \S*/(\S+-flat\.vmdk) total (\d+) kb, write thru (\d+) kb, skipped (\d+) kb \(\d+ kb/s\), keep alive \d+, incoming avg write size \d+, outgoing avg write size \d+", log)}
    for disk, size, _ in disks:
        total, written, skipped = stats.get(f"{disk}-flat.vmdk", (0, 0, 0))
        lab.check(total == size // 1024 and 0 <= total - written - skipped <= 1, f"{tag} statistics of {disk} add up: {total} = {written} + {skipped}")
    lab.check("done importing" in log and "cannot be imported" not in log, f"{tag} import.log says done")


def main():
    lab.need("smbclient", "qemu-img")
    print(f"seed {SEED}")
    work = lab.workdir("restore")
    source = work / "source"
    source.mkdir()
    image(source / "thin.img", THIN_BYTES, SEED, 0.3)
    image(source / "thick.img", THICK_BYTES, SEED + 1, 0.5)
    changed(source / "thin.img", source / "thin.new", SEED + 2)
    made = subprocess.run([lab.binary(), "pancbt", "create", "--base", source / "thin.img", "--new", source / "thin.new",
                           "--output", source / "thin.pancbt"], capture_output=True, text=True)
    lab.check(made.returncode == 0, f"pancbt create {made.stderr}")
    server = lab.Importfs(work / "server")
    runs = [("d202", ["-m", "SMB2_02"]), ("d210", ["-m", "SMB2_10"]), ("d300", ["-m", "SMB3_00"]), ("d302", ["-m", "SMB3_02"]),
            ("d311", ["-m", "SMB3_11"]), ("sign", ["--client-protection=sign"]), ("encrypt", ["--client-protection=encrypt"]),
            ("encrypt300", ["-m", "SMB3_00", "--client-protection=encrypt"])]
    for name, options in runs:
        restore(server, source, name, options)
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


if __name__ == "__main__":
    main()
