"""Whole restores with smbclient into nbdkit's exports, byte for byte; with errors, delays, a server that is killed and comes back, TLS.

Directories, VMX and descriptors go to the datastore's directory, disks to exports: nbdkit's file plugin gives one for each file of
a directory, by name.
"""
import os
import pathlib
import re
import socket
import subprocess
import time

import check_restore
import lab

SEED = int(os.environ.get("SEED", "20120229"))
MIB = 1 << 20
BYTES = 37 * MIB + 512 * 7


class Nbdkit:
    """nbdkit over a directory of export files, on a socket of its own."""

    def __init__(self, where, *options, plugin=None, port=None):
        self.port = port
        self.exports, self.socket, self.options = where / "exports", where / "nbd.sock", options
        self.exports.mkdir(parents=True, exist_ok=True)
        self.plugin = plugin or ["file", f"dir={self.exports}"]
        self.log = open(where / "nbdkit.log", "ab")
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        where = ["-i", "127.0.0.1", "-p", str(self.port)] if self.port else ["-U", self.socket]
        self.process = subprocess.Popen(["nbdkit", "-f", *where, *[o for o in self.options if o.startswith("--")],
                                         *self.plugin, *[o for o in self.options if not o.startswith("--")]], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + lab.START_SECONDS
        while not self.listens() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.02)

    def listens(self):
        if not self.port:
            return self.socket.exists()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def make(self, name, size):
        with open(self.exports / name, "wb") as f:
            f.truncate(size)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def kill(self):
        self.process.kill()
        self.process.wait()


def server(where, uri, retry=60, more=""):
    extra = f'[hypervisor.datastore.nbd]\nuri = "{uri}"\nretry-seconds = {retry}\n{more}'
    return lab.Importfs(where, extra=extra)


def put(server, source, name, *files, while_running=None):
    commands = f"cd {name}; " + "; ".join(f"put {local} {remote}" for local, remote in files)
    process = subprocess.Popen(["smbclient", "//127.0.0.1/import", "-p", str(server.port), "-U", f"{lab.USER}%{lab.PASSWORD}", "-t", "120",
                                "-c", commands], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if while_running:
        while_running(process)
    return process.communicate(timeout=300)[0]


def begin(server, source, name, size=BYTES, kind="thin"):
    (source / "x.cfg").write_text(check_restore.cfg(name, [(name, size, kind)]))
    (source / "x.vmx").write_text(check_restore.vmx(name, [(name, size, kind)]))
    said = lab.smbclient(server.port, "import", f"mkdir {name}; cd {name}; put x.cfg {name}.cfg; ls", cwd=source).stdout
    lab.check(".cfg.err" not in said and "NT_STATUS" not in said, f"{name}: CFG accepted {said[-200:] if 'NT_' in said else ''}")


def whole(server, nbd, source, name, while_running=None, image="thin.img", kind="thin", differential=True):
    """A whole restore; the export must end as the image with its differential."""
    nbd.make(f"{name}-flat.vmdk", BYTES)
    begin(server, source, name, kind=kind)
    said = put(server, source, name, (image, f"{name}-flat.vmdk"), while_running=while_running)
    lab.check("NT_STATUS" not in said, f"{name}: extent {said[-300:] if 'NT_' in said else ''}")
    export = nbd.exports / f"{name}-flat.vmdk"
    lab.check(check_restore.same(source / image, export), f"{name}: the export has the image's bytes")
    last = [("thin.pancbt", f"{name}-flat.pancbt")] if differential else []
    said = put(server, source, name, *last, ("x.vmx", f"{name}.vmx"))
    lab.check("NT_STATUS" not in said, f"{name}: differential and VMX {said[-300:] if 'NT_' in said else ''}")
    if differential:
        lab.check(check_restore.same(source / "thin.new", export), f"{name}: differential merged")
    where = server.datastore / name
    lab.check((where / f"{name}.vmx").exists() and (where / f"{name}.vmdk").exists() and not (where / f"{name}-flat.vmdk").exists(),
              f"{name}: VMX and descriptor in the directory, the extent in the export")
    return export


def stats(path):
    """nbdkit's stats filter: operations and bytes by kind."""
    found = {}
    for line in path.read_text().splitlines():
        match = re.match(r"(\w+): (\d+) ops, [\d.]+ s, ([\d.]+) (\w+)", line)
        if match:
            unit = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[match[4]]
            found[match[1]] = (int(match[2]), float(match[3]) * unit)
    return found


def check_plain(work, source):
    where = work / "plain"
    where.mkdir()
    nbd = Nbdkit(where, "--filter=stats", f"statsfile={where / 'stats'}")
    s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}")
    export = whole(s, nbd, source, "plain")
    data = check_restore.data_grains(source / "thin.img") * check_restore.GRAIN
    lab.check(export.stat().st_blocks * 512 <= BYTES * 0.5, f"plain: zeros are skipped ({export.stat().st_blocks * 512} of {BYTES} bytes)")
    whole(s, nbd, source, "plain2", differential=False, image="thick.img", kind="thick")
    # No export of that name, and one of another size.
    for name, size in (("absent", None), ("short", MIB)):
        if size:
            nbd.make(f"{name}-flat.vmdk", size)
        begin(s, source, name)
        said = put(s, source, name, ("thin.img", f"{name}-flat.vmdk"))
        lab.check("NT_STATUS" in said, f"{name}: refused")
        lab.smbclient(s.port, "import", f"cd {name}; get import.log {name}.log", cwd=source)
        text = (source / f"{name}.log").read_text(errors="replace")
        lab.check(f"{name}-flat.vmdk" in text and ("export" in text), f"{name}: import.log says why: {[l for l in text.splitlines() if 'ERROR' in l][-1:]}")
    lab.check("panicked" not in s.log.read_text(errors="replace"), "plain: no panic")
    s.stop()
    nbd.stop()
    counted = stats(where / "stats")
    wrote = counted.get("write", (0, 0))[1]
    image2 = check_restore.data_grains(source / "thick.img") * check_restore.GRAIN
    lab.check(wrote <= data * 1.6 + image2 + MIB, f"plain: {wrote:.0f} bytes written for {data} and {image2} of data and a differential")
    lab.check(counted.get("flush", (0, 0))[0] > 0 and counted.get("zero", (0, 0))[0] > 0, f"plain: flushed and zeroed {counted}")


def check_troubles(work, source):
    for name, options in (
        ("eio", ["--filter=error", "error=EIO", "error-pwrite-rate=10%", "error-pread-rate=5%", "error-zero-rate=5%"]),
        ("slow", ["--filter=delay", "delay-write=30ms", "delay-zero=20ms", "delay-open=100ms"]),
        ("blocks", ["--filter=blocksize-policy", "blocksize-minimum=512", "blocksize-error-policy=error"]),
        ("noextents", ["--filter=noextents", "--filter=nozero", "zeromode=notrim"]),
        ("single", ["--filter=multi-conn", "multi-conn-mode=disable"]),
    ):
        where = work / name
        where.mkdir()
        nbd = Nbdkit(where, *options)
        s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}")
        whole(s, nbd, source, name)
        s.stop()
        nbd.stop()


def check_late(work, source):
    """A server that takes longer to open an export than to answer anything else, as one that has to log in somewhere first."""
    where = work / "late"
    where.mkdir()
    nbd = Nbdkit(where, "--filter=delay", "delay-open=12")
    s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}")
    whole(s, nbd, source, "late", differential=False)
    s.stop()
    nbd.stop()


def check_killed(work, source):
    """nbdkit is killed in the middle and starts again: the client notices nothing but time."""
    where = work / "killed"
    where.mkdir()
    nbd = Nbdkit(where, "--filter=rate", "rate=12M")
    s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}")

    def kill_twice(process):
        for _ in range(2):
            time.sleep(0.8)
            lab.check(process.poll() is None, "killed: the copy still runs when nbdkit is killed")
            nbd.kill()
            time.sleep(1)
            nbd.start()

    whole(s, nbd, source, "killed", while_running=kill_twice)
    lab.check("lost" in s.log.read_text(errors="replace"), "killed: the log tells of the lost connection")
    s.stop()
    nbd.stop()
    # It never comes back: an error within the configured time, and the service lives.
    where = work / "gone"
    where.mkdir()
    nbd = Nbdkit(where, "--filter=rate", "rate=12M")
    s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}", retry=2)
    nbd.make("gone-flat.vmdk", BYTES)
    begin(s, source, "gone")
    begun = time.monotonic()
    said = put(s, source, "gone", ("thin.img", "gone-flat.vmdk"), while_running=lambda _: (time.sleep(0.8), nbd.kill()))
    lab.check("NT_STATUS" in said and time.monotonic() - begun < 60, f"gone: the client is told after {time.monotonic() - begun:.0f} s")
    nbd.start()
    said = put(s, source, "gone", ("thin.img", "gone-flat.vmdk"), ("x.vmx", "gone.vmx"))
    lab.check("NT_STATUS" not in said and check_restore.same(source / "thin.img", nbd.exports / "gone-flat.vmdk"), f"gone: copied again it is whole {said[-200:] if 'NT_' in said else ''}")
    s.stop()
    nbd.stop()


def check_restart(work, source):
    """importfs is killed in the middle; after a restart the extent is copied again."""
    where = work / "restart"
    where.mkdir()
    nbd = Nbdkit(where, "--filter=rate", "rate=12M")
    s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}")
    nbd.make("restart-flat.vmdk", BYTES)
    begin(s, source, "restart")
    put(s, source, "restart", ("thin.img", "restart-flat.vmdk"), while_running=lambda _: (time.sleep(1), s.kill()))
    s.start()
    said = put(s, source, "restart", ("x.vmx", "restart.vmx"))
    lab.check("NT_STATUS" in said, f"restart: the VMX is refused before the extent is whole {said[-200:]}")
    said = put(s, source, "restart", ("thin.img", "restart-flat.vmdk"), ("x.vmx", "restart.vmx"))
    lab.check("NT_STATUS" not in said and check_restore.same(source / "thin.img", nbd.exports / "restart-flat.vmdk"), f"restart: copied again it is whole {said[-200:] if 'NT_' in said else ''}")
    s.stop()
    nbd.stop()


def check_released(work, source):
    """Sessions whose extents are complete hold nothing open, before and after a restart, and go on when nbdkit has been another process since."""
    where = work / "released"
    where.mkdir()
    nbd = Nbdkit(where)
    s = server(where / "server", f"nbd+unix:///{{extent}}?socket={nbd.socket}")
    sessions = [f"many{n}" for n in range(6)]

    def descriptors():
        """How many the service has, once the clients' own are gone; and whether any is nbdkit's socket's other end."""
        least, deadline = None, time.monotonic() + 5
        while time.monotonic() < deadline:
            now = len(os.listdir(f"/proc/{s.process.pid}/fd"))
            least = now if least is None else min(least, now)
            time.sleep(0.1)
        connected = len([line for line in pathlib.Path("/proc/net/unix").read_text().splitlines() if line.endswith(str(nbd.socket))])
        return least, connected - (nbd.process.poll() is None)  # its own end that listens

    before, _ = descriptors()
    for name in sessions:
        nbd.make(f"{name}-flat.vmdk", BYTES)
        begin(s, source, name)
        said = put(s, source, name, ("thin.img", f"{name}-flat.vmdk"))
        lab.check("NT_STATUS" not in said, f"released: {name} {said[-200:] if 'NT_' in said else ''}")
    after, connected = descriptors()
    lab.check(connected == 0, f"released: nbdkit has no client any more ({connected})")
    lab.check(after - before <= 2 * len(sessions), f"released: {len(sessions)} sessions hold a journal and a log each ({before} descriptors, then {after})")
    s.kill()
    nbd.stop()  # a start connects to nothing
    s.start()
    again, connected = descriptors()
    lab.check(again - before <= 2 * len(sessions) and connected == 0, f"released: the same after a restart ({again})")
    nbd.start()
    said = put(s, source, sessions[2], ("thin.pancbt", f"{sessions[2]}-flat.pancbt"), ("x.vmx", f"{sessions[2]}.vmx"))
    lab.check("NT_STATUS" not in said and check_restore.same(source / "thin.new", nbd.exports / f"{sessions[2]}-flat.vmdk"),
              f"released: a differential into another nbdkit {said[-200:] if 'NT_' in said else ''}")
    s.stop()
    nbd.stop()


class Certificates:
    """An authority, a server's certificate for its name and 127.0.0.1, a client's, and another authority that vouches for nobody."""

    def __init__(self, where):
        self.server, self.where = where / "server", where
        self.server.mkdir(parents=True)
        for name in ("ca", "other"):
            self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                         "-keyout", where / f"{name}-key.pem", "-out", where / f"{name}.pem")
        self.signed("server", "nbd.example", "subjectAltName=DNS:nbd.example,IP:127.0.0.1")
        self.signed("client", "importfs", "extendedKeyUsage=clientAuth")
        for source, target in (("ca.pem", "ca-cert.pem"), ("server.pem", "server-cert.pem"), ("server-key.pem", "server-key.pem")):
            (self.server / target).write_bytes((where / source).read_bytes())
        shown = self.openssl("x509", "-in", where / "server.pem", "-noout", "-fingerprint", "-sha256")
        self.thumbprint = shown.strip().split("=")[1]

    def openssl(self, *arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"openssl {arguments[0]}: {done.stderr}")
        return done.stdout

    def signed(self, name, subject, extension):
        (self.where / f"{name}.ext").write_text(extension + "\n")
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}",
                     "-keyout", self.where / f"{name}-key.pem", "-out", self.where / f"{name}.csr")
        self.openssl("x509", "-req", "-in", self.where / f"{name}.csr", "-CA", self.where / "ca.pem", "-CAkey", self.where / "ca-key.pem",
                     "-CAcreateserial", "-days", "30", "-extfile", self.where / f"{name}.ext", "-out", self.where / f"{name}.pem")

    def authority(self, name="ca"):
        return f'ca-file = "{self.where / name}.pem"\n'

    def client(self):
        return f'client-certificate = "{self.where}/client.pem"\nclient-key = "{self.where}/client-key.pem"\n'


def check_tls(work, source):
    """By TLS, to servers with nothing else, over a socket and TCP; killed in the middle; and whoever is not the right one is refused."""
    certificates = Certificates(work / "certificates")
    require = ["--tls=require", f"--tls-certificates={certificates.server}"]
    named = certificates.authority() + 'server-name = "nbd.example"\n'
    pinned = f'thumbprint = "{certificates.thumbprint}"\n'

    def where(name):
        (work / name).mkdir()
        return work / name

    at = where("tls")
    nbd = Nbdkit(at, *require, "--filter=rate", "rate=12M")
    s = server(at / "server", f"nbds+unix:///{{extent}}?socket={nbd.socket}", more=named)

    def kill(process):
        time.sleep(1)
        lab.check(process.poll() is None, "tls: the copy still runs when nbdkit is killed")
        nbd.kill()
        time.sleep(1)
        nbd.start()

    whole(s, nbd, source, "tls", while_running=kill)
    lab.check("lost" in s.log.read_text(errors="replace"), "tls: the log tells of the lost connection")
    nbd.stop()
    s.stop()
    at = where("tcp")
    nbd = Nbdkit(at, *require, "--tls-verify-peer", port=lab.free_port())
    for name, more in (("byca", certificates.authority()), ("pinned", pinned)):
        s = server(at / name, f"nbds://127.0.0.1:{nbd.port}/{{extent}}", more=more + certificates.client())
        whole(s, nbd, source, name, kind="thick" if name == "pinned" else "thin", differential=name == "byca")
        s.stop()
    # Who is refused, and what import.log says of it.
    off = where("off")
    plain = Nbdkit(off, "--tls=off")
    tcp, unix = f"nbds://127.0.0.1:{nbd.port}/{{extent}}", f"nbds+unix:///{{extent}}?socket={plain.socket}"
    for name, uri, more, part in (
        ("anonymous", tcp, pinned, "perhaps it wants a client's certificate"),
        ("stranger", tcp, certificates.authority("other") + certificates.client(), "none of the authorities of ca-file has signed its certificate"),
        ("misnamed", tcp, certificates.authority() + 'server-name = "other.example"\n' + certificates.client(), "its certificate is another server's"),
        ("unpinned", tcp, f'thumbprint = "{certificates.thumbprint[:-2]}00"\n', "its certificate is not the configured one"),
        ("unsecured", tcp.replace("nbds", "nbd"), "", "the server wants TLS: use nbds://"),
        ("without", unix, pinned, "the server has no TLS, and nothing goes to it without"),
    ):
        s = server(at / name, uri, more=more, retry=3)
        for kit in (nbd, plain):
            kit.make(f"{name}-flat.vmdk", BYTES)
        begin(s, source, name)
        said = put(s, source, name, ("thin.img", f"{name}-flat.vmdk"))
        lab.smbclient(s.port, "import", f"cd {name}; get import.log {name}.log", cwd=source)
        text = (source / f"{name}.log").read_text(errors="replace")
        why = [line for line in text.splitlines() if "ERROR" in line][-1:]
        lab.check("NT_STATUS" in said and part in text, f"tls: {name} is refused {why}")
        lab.check(all(not any((kit.exports / f"{name}-flat.vmdk").read_bytes()) for kit in (nbd, plain)), f"tls: {name}, nothing was written")
        s.stop()
    nbd.stop()
    plain.stop()


def main():
    lab.need("smbclient", "qemu-img", "nbdkit", "openssl")
    print(f"seed {SEED}")
    work = lab.workdir("nbd")
    source = work / "source"
    source.mkdir()
    check_restore.image(source / "thin.img", BYTES, SEED, 0.3)
    check_restore.image(source / "thick.img", BYTES, SEED + 1, 0.5)
    check_restore.changed(source / "thin.img", source / "thin.new", SEED + 2)
    made = subprocess.run([lab.binary(), "pancbt", "create", "--base", source / "thin.img", "--new", source / "thin.new",
                           "--output", source / "thin.pancbt"], capture_output=True, text=True)
    lab.check(made.returncode == 0, f"pancbt create {made.stderr}")
    check_plain(work, source)
    check_troubles(work, source)
    check_late(work, source)
    check_killed(work, source)
    check_restart(work, source)
    check_released(work, source)
    check_tls(work, source)
    lab.finish()


if __name__ == "__main__":
    main()
