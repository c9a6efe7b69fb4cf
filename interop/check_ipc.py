"""IPC$ with real clients: smbclient -L, rpcclient, smbtorture's rpc suites. tests/smb_sessions.rs has WRITE with READ."""
import re
import subprocess

import lab

# What a standalone server answers of smbtorture's two suites; Samba 4.17 passes seven of these and no wkssvc test.
PASSING = {
    "rpc.srvsvc": """NetConnEnum NetFileEnum NetSessEnum NetShareEnumAll NetSrvGetInfo NetDiskEnum NetTransportEnum NetRemoteTOD
        NetShareEnum NetShareGetInfo NetNameValidate""".split(),
    "rpc.wkssvc": ["NetrGetJoinInformation"],
}


def run(*command):
    done = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120, errors="replace")
    return done.returncode, done.stdout


def rpc(server, command, options=()):
    return run("rpcclient", "127.0.0.1", "-p", server.port, "-U", f"{lab.USER}%{lab.PASSWORD}", *options, "-c", command)


def listing(server):
    for dialect in ("SMB2_02", "SMB2_10", "SMB3_00", "SMB3_11"):
        status, text = run("smbclient", "-L", "//127.0.0.1", "-p", server.port, "-m", dialect,
                           "-U", f"{lab.USER}%{lab.PASSWORD}")
        rows = re.findall(r"^\s+(\S+)\s+(Disk|IPC)", text, re.M)
        good = status == 0 and rows == [("import", "Disk"), ("dir", "Disk"), ("IPC$", "IPC")]
        lab.check(good, f"smbclient -L at {dialect} lists import, dir and IPC$" if good else f"-L {dialect}: {text}")
    status, text = run("smbclient", "-L", "//127.0.0.1", "-p", server.port, "-U", f"{lab.USER}%wrong-Word1")
    lab.check(status != 0 and "LOGON_FAILURE" in text, "nothing is listed with a wrong password")


def services(server):
    for level in (1, 2, 502):  # rpcclient prints no others; smbtorture asks for 0 and 501 too
        status, text = rpc(server, f"netshareenumall {level}")
        found = re.findall(r"netname: (\S+)", text)
        lab.check(status == 0 and found == ["import", "dir", "IPC$"], f"rpcclient netshareenumall {level}")
    status, text = rpc(server, "netsharegetinfo dir 2")
    lab.check(status == 0 and "netname: dir" in text, "rpcclient netsharegetinfo")
    status, text = rpc(server, "netsharegetinfo nothing 1")
    lab.check("NETNAMENOTFOUND" in text, "a share that is not there is not found")
    status, text = rpc(server, "srvinfo")
    lab.check(status == 0 and "IMPORTFS" in text and "10.0" in text, "rpcclient srvinfo")
    status, text = rpc(server, "netremotetod")
    lab.check(status == 0, "rpcclient netremotetod")
    status, text = rpc(server, "netshareenumall", ("--client-protection=encrypt",))
    lab.check(status == 0 and "netname: dir" in text, "the same encrypted")
    status, text = rpc(server, "lsaquery")
    lab.check("OBJECT_NAME_NOT_FOUND" in text, "a pipe that is not there is not found")


def not_a_directory(server):
    done = lab.smbclient(server.port, "IPC$", "ls")
    lab.check(done.returncode != 0 and "NT_STATUS" in done.stdout, "IPC$ can't be listed like a directory")


def torture(server):
    for suite, expected in PASSING.items():
        status, text = run("smbtorture", "ncacn_np:127.0.0.1[smb2]", "-p", server.port,
                           "-U", f"{lab.USER}%{lab.PASSWORD}", "--option=torture:progress=no", suite)
        passed = set(re.findall(r"^success: .*?\.(\w+)", text, re.M))
        for test in expected:
            lab.check(test in passed, f"smbtorture {suite}: {test}")


def main():
    lab.need("smbclient", "rpcclient", "smbtorture")
    server = lab.Importfs(lab.workdir("ipc"))
    listing(server)
    services(server)
    not_a_directory(server)
    torture(server)
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


if __name__ == "__main__":
    main()
