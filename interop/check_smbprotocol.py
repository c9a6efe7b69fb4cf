"""smbprotocol's own test suite (PyPI) against our server beside Samba's; impacket as a client in every dialect, and pysmb.

    check_smbprotocol.py              ours; a test that passed before and fails now fails the run
    check_smbprotocol.py --update     records what passes now in reference/smbprotocol.tsv
    check_smbprotocol.py --samba      runs Samba's smbd instead and records what passes there

The Python packages go into a virtual environment below target/, at the versions named here.
"""
import os
import pathlib
import subprocess
import sys
import tarfile
import xml.etree.ElementTree

import lab

PACKAGES = ["smbprotocol==1.17.0", "pytest==9.2.0", "pytest-mock==3.17.0", "impacket==0.13.1", "pysmb==1.2.15"]
TABLE = pathlib.Path(__file__).parent / "reference/smbprotocol.tsv"
PYTEST_SECONDS = 400
# They want two times to differ that may fall into one tick of this machine's clock, local file and served file being on it both.
ONE_CLOCK = {"test_smbclient_shutil.test_copy_from_local"}
# About the client's own referral tables, with data that the source package leaves out; no server takes part.
LEFT_OUT = ["tests/test_dfs.py", "tests/test_smbclient_pool.py"]
HERE = pathlib.Path(__file__).parent


def environment():
    """The Python of an environment with PACKAGES, and the sources of smbprotocol's tests."""
    where = lab.ROOT / "target/interop-python"
    python, stamp = where / "bin/python", where / "packages"
    if not stamp.exists() or stamp.read_text().split() != PACKAGES:
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", where], capture_output=True, text=True)
        if made.returncode:
            lab.skip(f"no virtual environment for Python packages: {made.stdout[-300:]} (Debian: python3-venv)")
        for arguments in (["install", *PACKAGES], ["download", "--no-deps", "--no-binary", "smbprotocol", "-d", where, PACKAGES[0]]):
            got = subprocess.run([python, "-m", "pip", "-q", *arguments], capture_output=True, text=True)
            if got.returncode:
                lab.skip(f"pip {arguments[0]} {' '.join(PACKAGES)}: {got.stderr[-300:]}")
        stamp.write_text("\n".join(PACKAGES))
    return python, next(where.glob("smbprotocol-*.tar.gz"))


def run_suite(python, sources, work, port):
    """{test: passed | failed | skipped} of smbprotocol's suite."""
    with tarfile.open(sources) as archive:
        archive.extractall(work / "suite", filter="data")
    folder = next((work / "suite").iterdir())
    (folder / "tests/conftest.py").write_text((HERE / "smbprotocol_conftest.py").read_text())
    report = work / "report.xml"
    variables = {**os.environ, "SMB_USER": lab.USER, "SMB_PASSWORD": lab.PASSWORD, "SMB_PORT": str(port), "SMB_SHARE": "dir"}
    run = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}", "tests",
                          *(f"--ignore={name}" for name in LEFT_OUT)],
                         cwd=folder, env=variables, timeout=PYTEST_SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (work / "pytest.log").write_text(run.stdout)
    results, details = {}, {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname').removeprefix('tests.')}.{case.get('name')}"
        bad = [*case.findall("failure"), *case.findall("error")]
        results[test] = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        details[test] = (bad[0].get("message") or "").split("\n")[0] if bad else ""
    return results, details


def table():
    """{test: [Samba's result, ours]}"""
    if not TABLE.exists():
        return {}
    return {test: results for test, *results in (line.split("\t") for line in TABLE.read_text().splitlines()[1:])}


def record(column, results):
    rows = table()
    for test, result in results.items():
        rows.setdefault(test, ["", ""])[column] = result
    TABLE.write_text("\n".join(["test\tsamba417\timportfs", *("\t".join([t, *r]) for t, r in sorted(rows.items()))]) + "\n")
    print(f"wrote {TABLE}")


def count(results, kind):
    return sum(result == kind for result in results)


def main():
    work = lab.workdir("smbprotocol")
    python, sources = environment()
    samba = "--samba" in sys.argv
    if samba:
        (work / "locked").mkdir()
        server = lab.Samba(work / "server", extra=f"[dir-encrypted]\n  path = {work}/locked\n  read only = no\n  smb encrypt = required\n")
    else:
        locked = work / "locked"
        locked.mkdir()
        server = lab.Importfs(work / "server", extra=f'[[share]]\nname = "dir-encrypted"\nkind = "directory"\npath = "{locked}"\nencryption = "required"\n')
    results, details = run_suite(python, sources, work, server.port)
    if samba or "--update" in sys.argv:
        record(0 if samba else 1, results)
    known = table()
    print("smbprotocol 1.17.0      passed failed skipped")
    for name, column in (("ours now", list(results.values())), ("ours recorded", [r[1] for r in known.values()]),
                         ("Samba 4.17 recorded", [r[0] for r in known.values()])):
        print(f"{name:22} {count(column, 'passed'):7} {count(column, 'failed'):6} {count(column, 'skipped'):7}")
    for test, result in sorted(results.items()):
        theirs = known.get(test, ["", ""])[0]
        if result == "failed" or theirs == "passed" != result:
            print(f"    {test}: {result}, Samba {theirs or 'not recorded'}: {details[test]}")
    if not samba:
        lab.check(bool(results), "the suite ran")
        for test, (_, before) in known.items():
            if before == "passed" and test not in ONE_CLOCK and results.get(test) != "passed":
                lab.check(False, f"{test} passed before: {details.get(test, 'not run')}")
        for client in ("impacket", "pysmb"):
            done = subprocess.run([python, HERE / f"{client}_client.py", str(server.port), lab.USER, lab.PASSWORD], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200)
            print(done.stdout, end="")
            lab.check(done.returncode == 0, f"{client} as a client")
        lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic in the log")
    lab.finish()


if __name__ == "__main__":
    main()
