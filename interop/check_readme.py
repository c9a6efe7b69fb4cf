"""README's 'A restore in five minutes', pasted into a fresh directory beside a service without configuration; only the port is another."""
import os
import re
import subprocess

import lab


def main():
    lab.need("smbclient")
    text = (lab.ROOT / "README.md").read_text()
    block = re.search(r"## A restore in five minutes.*?\n```\n(.*?)```", text, re.S)[1]
    work, port = lab.workdir("readme"), lab.free_port()
    (work / "target" / "release").mkdir(parents=True)
    (work / "target" / "release" / "importfs").symlink_to(os.path.abspath(lab.binary()))
    lab.start([os.path.abspath(lab.binary()), "serve", "--listen", f"127.0.0.1:{port}"], port, work / "serve.log", cwd=work)
    block = block.replace("-p 4450", f"-p {port}")
    run = subprocess.run(["bash", "-e"], input=block, text=True, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    lab.check(run.returncode == 0 and "NT_STATUS" not in run.stdout, f"readme: every line works {run.stdout[-1500:]}")
    lab.check(".cfg.err" not in run.stdout and "imported" in run.stdout, f"readme: the machine is imported {run.stdout[-1500:]}")
    store = work / "importfs-data" / "datastore1" / "web"
    lab.check({p.name for p in store.iterdir()} == {"web-flat.vmdk", "web.vmdk", "web.vmx"}, "readme: its files are on the datastore")
    lab.check((store / "web-flat.vmdk").stat().st_blocks * 512 < 40 << 20, "readme: thin")
    lab.check("done importing" in (work / "backup" / "import.log").read_text(), "readme: import.log was fetched")
    lab.finish()


if __name__ == "__main__":
    main()
