"""The vSphere lab: interop/vcsim on loopback ports, its control address, and how it is built; a machine's CFG and VMX, and a session with them.

Built from Debian's packages golang-go and golang-github-vmware-govmomi-dev, nothing downloaded, into target/vcsim. Where
they are missing, a script that needs it is skipped by name.
"""
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.request

import lab

SOURCE = lab.ROOT / "interop" / "vcsim"
GOVMOMI = pathlib.Path("/usr/share/gocode/src/github.com/vmware/govmomi/simulator")
USER, PASSWORD = "user", "pass"
SIZE = 3 * (1 << 20) + 512
VM_UUID = "50133967-ae5a-052c-0140-e47ce07219ee"


def build():
    """The lab's binary, built anew where its source has changed."""
    if not shutil.which("go") or not GOVMOMI.is_dir():
        lab.skip("golang-go or golang-github-vmware-govmomi-dev is not installed")
    out = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", lab.ROOT / "target")) / "vcsim"
    newest = max(path.stat().st_mtime for path in SOURCE.glob("*.go"))
    if out.exists() and out.stat().st_mtime >= newest:
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, GO111MODULE="off", GOFLAGS="", GOPATH="/usr/share/gocode",
                       GOCACHE=str(out.parent / "vcsim-cache"))
    done = subprocess.run(["go", "build", "-o", str(out), "."], cwd=SOURCE, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lab.skip(f"the vSphere lab does not build here: {done.stderr[-500:]}")
    return out


def hypervisor(sim, trust=None):
    """The head of the hypervisor `vc` in a configuration, and its account; datastores follow."""
    return f"""
[[hypervisor]]
name = "vc"
kind = "vsphere"
url = "{sim.url}"
username = "{USER}"
password-file = "{sim.password}"
{trust or f'thumbprint = "{sim.sha256}"'}
"""


class Vcsim:
    """One vCenter, or with esx=True one ESXi host; datastores are directories: {name: path}."""

    def __init__(self, where, stores, esx=False, lease_timeout="5m", machine=None):
        self.where = pathlib.Path(where)
        self.where.mkdir(parents=True, exist_ok=True)
        ready = self.where / "ready.json"
        ready.unlink(missing_ok=True)
        command = [str(build()), "-dir", str(self.where), "-lease-timeout", lease_timeout]
        for name, path in stores.items():
            pathlib.Path(path).mkdir(parents=True, exist_ok=True)
            command += ["-datastore", f"{name}={path}"]
        if machine:
            command += ["-machine", str(machine)]
        log = open(self.where / "vcsim.log", "ab")
        self.process = subprocess.Popen(command + (["-esx"] if esx else []), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        lab.adopt(self.process)
        deadline = time.monotonic() + lab.START_SECONDS * 4
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("vcsim did not start:\n" + (self.where / "vcsim.log").read_text()[-2000:])
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        self.url, self.controls, self.sha256, self.sha1 = told["url"], told["control"], told["sha256"], told["sha1"]
        self.ca = self.where / "ca.pem"
        self.password = self.where / "password"
        self.password.write_text(PASSWORD + "\n")

    def _post(self, path, body=None):
        request = urllib.request.Request(self.controls + path, json.dumps(body or {}).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def state(self):
        with urllib.request.urlopen(self.controls + "/state", timeout=10) as answer:
            return json.load(answer)

    def rule(self, method, action, **more):
        """What happens to the next call of a method; see interop/vcsim/lab.go."""
        self._post("/rule", {"Method": method, "Action": action, **more})

    def change(self, **what):
        self._post("/change", what)

    def disk(self, vm, file):
        """Gives a registered virtual machine a disk of its VMX, which the simulator does not read."""
        self._post("/disk", {"VM": vm, "File": file})

    def lease(self, name):
        """Opens a lease without a machine; the address that disks can be uploaded to."""
        self._post("/lease", {"ID": name})
        return f"{self.url.split('/sdk')[0].rstrip('/')}/nfc/{name}/disk-0.vmdk"

    def uploaded(self, name):
        """Where the lab keeps what was uploaded to such a lease."""
        return self.where / f"{name}-disk-0.vmdk"

    def expire(self):
        """Ends every session, as a restart of the server does."""
        self._post("/expire")

    def reset(self):
        self._post("/reset")

    def vm(self, path):
        """The registered virtual machine with that VMX."""
        return next((vm for vm in self.state()["vms"] if vm["Path"] == path), None)


def cfg(name, **more):
    values = {"version": "4", "vmname": name, "vmuuid": VM_UUID, "servername": "vc", "datacenter": "DC0", "folder": "Restored",
              "hostsystem": "DC0_C0_H0", "resourcepool": "DC0_C0_RP1", "dsname": "ds1", "directory": name, "vmx-name": f"{name}.vmx",
              "vmdk.0.name": f"{name}.vmdk", "vmdk.0.extent-name": f"{name}-flat.vmdk", "vmdk.0.dsname": "ds1",
              "vmdk.0.directory": name, "vmdk.0.size": SIZE, "vmdk.0.type": "thick", "on-conflict": "stop",
              "register-after-import": 1}
    values.update({key.replace("_", "-"): value for key, value in more.items()})
    return "".join(f"{k} = {v}\n" if isinstance(v, int) else f'{k} = "{v}"\n' for k, v in values.items())


def vmx(name, uuid=VM_UUID):
    flat = uuid.replace("-", "")
    spaced = " ".join(flat[n:n + 2] for n in range(0, 16, 2)) + "-" + " ".join(flat[n:n + 2] for n in range(16, 32, 2))
    return (f'.encoding = "UTF-8"\ndisplayName = "old"\nguestOS = "otherlinux-64"\nscsi0.present = "TRUE"\n'
            f'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "{name}.vmdk"\nuuid.bios = "{spaced}"\nvc.uuid = "{spaced}"\n')


class Session:
    """One import session, by smbclient."""

    def __init__(self, server, source, name):
        self.server, self.source, self.name = server, source, name

    def do(self, commands, timeout=600):
        return lab.smbclient(self.server.port, "import", commands, cwd=self.source, timeout=timeout)

    def cfg(self, text):
        (self.source / f"{self.name}.cfg").write_text(text)
        self.do(f"mkdir {self.name}")
        return self.do(f"cd {self.name}; put {self.name}.cfg")

    def read(self, name):
        (self.source / "got").unlink(missing_ok=True)
        self.do(f"cd {self.name}; get {name} got")
        got = self.source / "got"
        return got.read_text(errors="replace") if got.exists() else ""

    def errors(self):
        return self.read(f"{self.name}.cfg.err")

    def extent(self):
        return self.do(f"cd {self.name}; put disk.img {self.name}-flat.vmdk")

    def vmx(self, text=None):
        (self.source / f"{self.name}.vmx").write_text(text or vmx(self.name))
        return self.do(f"cd {self.name}; put {self.name}.vmx")
