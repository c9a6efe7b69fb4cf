"""rclone, whose SMB client is written in Go and shares nothing with the others: a tree copied by sixteen transfers at once, compared,
moved, synchronised, purged on the directory share; a restore into the import share, and one that is refused.
"""
import os
import random
import subprocess

import check_restore as vm
import lab

FILES, TRANSFERS = 400, "16"
SIZE = (8 << 20) + 512 * 7
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))


def tree(root):
    """Names as rclone maps them: umlauts, blanks, and what no SMB name may hold."""
    rng = random.Random(SEED)
    for n in range(FILES):
        folder = root / f"Ordner {n % 7}" / ("tief" if n % 5 == 0 else "")
        folder.mkdir(parents=True, exist_ok=True)
        name = {0: f"größe {n}.txt", 1: f'q?{n}:x|<>*"', 2: f"UPPER{n}.TXT", 3: f"blank{n}. "}.get(n % 9, f"f{n}")
        (folder / name).write_bytes(rng.randbytes(rng.randrange(300_000 if n % 50 == 0 else 6_000)))


class Rclone:
    """rclone with this server as its remote, and no configuration of the user's."""

    def __init__(self, port):
        word = subprocess.run(["rclone", "obscure", lab.PASSWORD], capture_output=True, text=True, check=True).stdout.strip()
        self.remote = f":smb,host=127.0.0.1,port={port},user={lab.USER},pass={word}:"

    def __call__(self, *arguments):
        """Paths that begin with the name of a share are the remote's."""
        places = [self.remote + a if a.startswith(("dir/", "import/")) else a for a in map(str, arguments)]
        return subprocess.run(["rclone", "--config", os.devnull, "--retries", "1", *places], capture_output=True, text=True, timeout=300)


def directory(server, rclone, work):
    source = work / "tree"
    tree(source)
    copied = rclone("copy", "--transfers", TRANSFERS, source, "dir/t")
    lab.check(copied.returncode == 0, f"copy of {FILES} files, {TRANSFERS} at once {copied.stderr[-300:]}")
    same = rclone("check", "--download", "--checkers", TRANSFERS, source, "dir/t")
    lab.check(same.returncode == 0 and f"{FILES} matching files" in same.stderr, f"what was copied is the same {same.stderr[-300:]}")
    moved = rclone("moveto", "dir/t/Ordner 1", "dir/t/neu")
    lab.check(moved.returncode == 0 and (server.dir / "t/neu/tief/f85").exists(), f"a directory is moved {moved.stderr[-300:]}")
    rclone("sync", "--transfers", TRANSFERS, source, "dir/t")
    same = rclone("check", "--download", source, "dir/t")
    lab.check(same.returncode == 0 and not (server.dir / "t/neu").exists(), f"sync makes it the same again {same.stderr[-300:]}")
    purged = rclone("purge", "dir/t")
    lab.check(purged.returncode == 0 and not any(server.dir.iterdir()), f"purge leaves nothing {purged.stderr[-300:]}")


def restore(server, rclone, work):
    disks, source = [("web", SIZE, "thin")], work / "web"
    source.mkdir()
    (source / "web.cfg").write_text(vm.cfg("web", disks))
    (source / "web.vmx").write_text(vm.vmx("web", disks))
    vm.image(source / "web-flat.vmdk", SIZE, SEED, 0.4)
    for name in ("web.cfg", "web-flat.vmdk", "web.vmx"):
        put = rclone("copyto", source / name, f"import/web/{name}")
        lab.check(put.returncode == 0, f"restore: {name} {put.stderr[-300:]}")
    lab.check(vm.same(source / "web-flat.vmdk", server.datastore / "web/web-flat.vmdk"), "restore: the disk on the datastore is identical")
    lab.check((server.datastore / "web/web.vmx").exists(), "restore: the VMX stands on the datastore")
    told = rclone("cat", "import/web/import.log")
    lab.check("done importing" in told.stdout, f"restore: import.log can be read {told.stderr[-300:]}")
    # The same once more: its directory is taken, and all that follows the CFG is refused.
    again = rclone("copy", "--transfers", "1", "--order-by", "name", source, "import/again")
    lab.check(again.returncode != 0, "restore: a second one into the same directory is an error")
    told = rclone("cat", "import/again/web.cfg.err")
    lab.check("directory" in told.stdout, f"restore: and web.cfg.err says which {told.stdout[-300:]}{told.stderr[-300:]}")


def main():
    lab.need("rclone", "qemu-img")
    print(f"seed {SEED}")
    work = lab.workdir("rclone")
    server = lab.Importfs(work)
    rclone = Rclone(server.port)
    directory(server, rclone, work)
    restore(server, rclone, work)
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


if __name__ == "__main__":
    main()
