"""The vSphere lab: interop/vcsim on loopback ports, its control address, and how it is built.

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
