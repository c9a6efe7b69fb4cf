"""Copies within the server: smbclient's scopy (SRV_COPYCHUNK) on a directory share, and of an extent inside an import session."""
import os

import lab

SIZE = 5 * 1024 * 1024 + 512
HEAD = """version = "4"
vmname = "web"
vmuuid = "50133967-ae5a-052c-0140-e47ce07219ee"
servername = "local"
datacenter = ""
folder = ""
hostsystem = ""
resourcepool = ""
dsname = "datastore1"
directory = "web"
vmx-name = "web.vmx"
"""
DISK = """vmdk.{n}.name = "{name}.vmdk"
vmdk.{n}.extent-name = "{name}-flat.vmdk"
vmdk.{n}.dsname = "datastore1"
vmdk.{n}.directory = "web"
vmdk.{n}.size = {size}
vmdk.{n}.type = "thin"
"""


def main():
    lab.need("smbclient")
    where = lab.workdir("copies")
    server = lab.Importfs(where)
    disks = "".join(DISK.format(n=n, name=name, size=SIZE) for n, name in enumerate("ab"))
    (where / "web.cfg").write_text(HEAD + disks + 'on-conflict = "stop"\nregister-after-import = 0\naccess-time = 0\n')
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
