"""smbclient's `notify` on both shares: it sees what another client does, and on the import share what the service does itself.
Extended attributes and streams with smbclient's own commands."""
import subprocess
import time

import lab

CFG = 'version = "4"\nvmname = 7\n'
WAIT_SECONDS = 10


class Watcher:
    """smbclient that watches a directory; its lines as they come."""

    def __init__(self, server, share, directory, where):
        self.output = where / f"notify-{share}"
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "smbclient", f"//127.0.0.1/{share}", "-p", str(server.port), "-U",
             f"{lab.USER}%{lab.PASSWORD}", "-c", f"notify {directory}"],
            stdout=open(self.output, "wb"), stderr=subprocess.STDOUT)
        time.sleep(1)  # nothing tells that the watch has begun

    def sees(self, line):
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if line in self.output.read_text(errors="replace").splitlines():
                return True
            time.sleep(0.05)
        return False

    def stop(self):
        self.process.kill()
        self.process.wait()


def check(server, share, directory, where, commands, lines):
    lab.smbclient(server.port, share, f"mkdir {directory}")
    watcher = Watcher(server, share, directory, where)
    try:
        for command in commands:
            lab.smbclient(server.port, share, command, cwd=where)
        for line in lines:
            seen = watcher.sees(line)
            lab.check(seen, f"{share}: {line}" if seen else f"{share}: {line} of {watcher.output.read_text()}")
    finally:
        watcher.stop()


def main():
    lab.need("smbclient", "stdbuf")
    where = lab.workdir("notify")
    server = lab.Importfs(where)
    (where / "vm.cfg").write_text(CFG)
    (where / "file").write_bytes(b"some data")
    # smbclient prints the action's number (MS-FSCC 2.7.1) and the name.
    check(server, "dir", "d", where, ["cd d; put file", "cd d; rename file other", "cd d; del other"],
          ["0001 file", "0003 file", "0004 file", "0005 other", "0002 other"])
    check(server, "import", "vm", where, ["cd vm; put vm.cfg"],
          ["0001 vm.cfg", "0001 vm.cfg.err", "0003 import.log"])
    done = lab.smbclient(server.port, "dir", "put file f; setea f one 1; setea f Two 22; geteas f", cwd=where).stdout
    lab.check("ONE (0) =" in done and "TWO (0) =" in done, "setea and geteas")
    done = lab.smbclient(server.port, "dir", "put file f:side; allinfo f; get f:side back", cwd=where).stdout
    good = "stream: [:side:$DATA], 9 bytes" in done and (where / "back").read_bytes() == b"some data"
    lab.check(good, "a stream is put, listed and had back" if good else done)
    lab.finish()


if __name__ == "__main__":
    main()
