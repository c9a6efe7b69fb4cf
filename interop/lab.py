"""What the interop scripts share: a server of ours or Samba's on a loopback port, clients, and checks.

Everything started here is stopped by process id when the script ends. Exit status 77 means skipped.
"""
import atexit
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
USER, PASSWORD = "import", "pass-Word1"
START_SECONDS = 15
_running = []
failures = []


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def need(*programs):
    """Skips the whole script, by name, where a program is missing."""
    for program in programs:
        if not shutil.which(program):
            skip(f"{program} is not installed")


def check(good, what):
    """Notes one check; the script goes on so that one run shows all that is wrong."""
    print(f"{'ok    ' if good else 'FAILED'} {what}")
    if not good:
        failures.append(what)
    return good


def finish():
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def own_network():
    """Gives this thread, and what it starts from now on, a network of its own that has nothing but a loopback: every port is
    free there, and packet filters disturb nobody else. False where that takes rights or programs that are not there."""
    clone_newnet = 0x40000000
    if not shutil.which("ip") or ctypes.CDLL(None).unshare(clone_newnet) != 0:
        return False
    return subprocess.run(["ip", "link", "set", "lo", "up"]).returncode == 0


def acknowledge_at_once():
    """In a network of its own, once `own_network` has made it: TCP acknowledges what it receives without the usual delay of 40 ms,
    so that a connection that is cut between two requests is cut when nothing is under way."""
    subprocess.run(["ip", "route", "change", "local", "127.0.0.1", "dev", "lo", "table", "local", "quickack", "1"], check=True)


def workdir(tag, where=None):
    """A scratch directory that is removed at exit unless KEEP is set."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"importfs-{tag}-", dir=where))
    if not os.environ.get("KEEP"):
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def binary():
    """The release binary that is tested; IMPORTFS names another."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(os.environ.get("IMPORTFS", target / "release" / "importfs"))
    if not path.exists():
        sys.exit(f"{path} does not exist: cargo build --release")
    return path


def _stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def adopt(process):
    """Sees to it that the process is stopped when the script ends."""
    _running.append(process)
    if len(_running) == 1:
        atexit.register(lambda: [_stop(p) for p in _running])


def start(command, port, log, **options):
    """Starts a server and waits until its port answers."""
    out = open(log, "ab")
    process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **options)
    adopt(process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{command[0]} did not start:\n" + pathlib.Path(log).read_text(errors="replace")[-4000:])


class Importfs:
    """A server of ours: shares `import` and `dir`, one user, one datastore."""

    def __init__(self, where, signing="enabled", extra="", smb="", port=None):
        if subprocess.run([binary(), "serve", "--help"], capture_output=True).returncode != 0:
            skip("this build has no `importfs serve`")
        self.where, self.port = pathlib.Path(where), port or free_port()
        self.data, self.datastore, self.dir = (self.where / n for n in ("data", "datastore1", "dir"))
        for path in (self.data, self.datastore, self.dir):
            path.mkdir(parents=True, exist_ok=True)
        self.config = self.where / "importfs.toml"
        self.log = self.where / "importfs.log"
        self.config.write_text(f"""
[server]
listen = ["127.0.0.1:{self.port}"]
data-dir = "{self.data}"
[smb]
signing = "{signing}"
{smb}
[[share]]
name = "import"
kind = "import"
[[share]]
name = "dir"
kind = "directory"
path = "{self.dir}"
[[hypervisor]]
name = "local"
kind = "directory"
[[hypervisor.datastore]]
name = "datastore1"
uuid = "4e3193a0-698e20ea-f9ef-180373f1beff"
path = "{self.datastore}"
{extra}""")
        run = subprocess.run([binary(), "user", "add", USER, "--config", self.config],
                             input=f"{PASSWORD}\n{PASSWORD}\n", text=True, capture_output=True)
        if run.returncode != 0 and "exists" not in run.stderr:
            sys.exit(f"user add: {run.stdout}{run.stderr}")
        self.process = None
        self.start()

    def start(self):
        self.process = start([binary(), "serve", "--config", str(self.config)], self.port, self.log)

    def stop(self):
        _stop(self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def run(self, *arguments, **options):
        """One of our own commands with this configuration."""
        return subprocess.run([binary(), *map(str, arguments), "--config", self.config], text=True,
                              capture_output=True, timeout=600, **options)


class Samba:
    """Debian's smbd with a configuration of its own on a loopback port: share `dir`. Who logs in is `account` of this machine there."""

    def __init__(self, where, extra="", port=None, account="root"):
        need("smbd", "smbpasswd")
        self.where, self.port = pathlib.Path(where), port or free_port()
        self.dir, self.log = self.where / "dir", self.where / "smbd.log"
        state = self.where / "state"
        for path in (self.dir, state, state / "ncalrpc"):
            path.mkdir(parents=True, exist_ok=True)
        if account != "root":
            self.where.chmod(0o755)
            shutil.chown(self.dir, account)
        self.config = self.where / "smb.conf"
        self.config.write_text(f"""[global]
  server role = standalone server
  interfaces = 127.0.0.1
  bind interfaces only = yes
  smb ports = {self.port}
  disable netbios = yes
  load printers = no
  passdb backend = smbpasswd:{state}/smbpasswd
  private dir = {state}
  lock directory = {state}
  state directory = {state}
  cache directory = {state}
  pid directory = {state}
  ncalrpc dir = {state}/ncalrpc
  username map = {state}/users.map
  log file = {state}/log.%m
[dir]
  path = {self.dir}
  read only = no
{extra}""")
        (state / "users.map").write_text(f"{account} = {USER}\n")
        subprocess.run(["smbpasswd", "-c", str(self.config), "-a", "-s", account], check=True,
                       input=f"{PASSWORD}\n{PASSWORD}\n", text=True, capture_output=True)
        self.process = start(["smbd", "-F", "-s", str(self.config)], self.port, self.log)

    def stop(self):
        _stop(self.process)


def smbclient(port, share, commands, *options, cwd=None, timeout=600, user=USER, password=PASSWORD):
    """Runs smbclient's commands; returns the finished process with its output as text."""
    return subprocess.run(["smbclient", f"//127.0.0.1/{share}", "-p", str(port), "-U", f"{user}%{password}",
                           *options, "-c", commands], text=True, cwd=cwd, timeout=timeout,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
