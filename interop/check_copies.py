"""Copies within the server: smbclient's scopy (SRV_COPYCHUNK) on a directory share, and of an extent inside an import session."""
import os

import check_restore
import lab

SIZE = 5 * 1024 * 1024 + 512


def main():
    lab.need("smbclient")
    where = lab.workdir("copies")
    server = lab.Importfs(where)
    (where / "web.cfg").write_text(check_restore.cfg("web", [(disk, SIZE, "thin") for disk in "ab"]))
    data = bytearray(os.urandom(SIZE))
    data[1 << 20:3 << 20] = bytes(2 << 20)
    (where / "a-flat.vmdk").write_bytes(data)
    lab.smbclient(server.port, "dir", "put a-flat.vmdk; scopy a-flat.vmdk copy", cwd=where)
    lab.check((server.dir / "copy").read_bytes() == data, "scopy on a directory share")
    lab.smbclient(server.port, "import", "mkdir web; cd web; put web.cfg; put a-flat.vmdk; scopy a-flat.vmdk b-flat.vmdk",
                  cwd=where)
    copied = server.datastore / "web" / "b-flat.vmdk"
    lab.check(copied.exists() and copied.read_bytes() == data, "scopy of an extent to another disk of the session")
    blocks = copied.stat().st_blocks * 512 if copied.exists() else 0
    lab.check(blocks < SIZE - (1 << 20), f"zeros are skipped in it: {blocks} bytes of {SIZE}")
    lab.finish()


if __name__ == "__main__":
    main()
