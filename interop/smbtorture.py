"""Runs smbtorture's smb2 suites against the directory share and prints our results beside Samba's.

    python3 interop/smbtorture.py [SUITE …]            the suites named, or all of SUITES
    python3 interop/smbtorture.py --update [SUITE …]   also writes what passes now into reference/importfs.tsv
    python3 interop/smbtorture.py --beside [SUITE …]   runs them against this machine's smbd as well, instead of the reference

reference/samba417.tsv is Samba 4.17.12 on a plain directory, test by test. reference/importfs.tsv is what we passed last:
a test in it that fails now makes the run fail, so that conformance never falls back. Suites run beside each other, each
against a server of its own, and where this runs as root in a network of its own: tests that cut connections do so with
iptables there, and those that know no port but 445 find us. Most of their time they wait.
"""
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import time

import lab

REFERENCE = pathlib.Path(__file__).parent / "reference"
SUITE_SECONDS = 420
AT_ONCE = 6
# The longest first: they decide how long it all takes.
SUITES = """multichannel lease replay oplock bench secleak maxfid timestamps create durable-v2-delay compound_find compound_async
session notify connect read rw dir getinfo setinfo compound credits lock sharemode deny mkdir tcon session-id scan rename
delete-on-close-perms openattr fileid maximum_allowed ioctl acls sdread winattr charset mangle async_dosmode check-sharemode
durable-open durable-open-disconnect durable-v2-open streams ioctl-on-stream""".split()
# What only passes in a network of its own.
NOT_HERE = "not run: needs root, ip and iptables"
CUTTING = re.compile(r"smb2\.(multichannel\.|replay\.dhv2-pending3)")
FAILED = ("failure", "error", "fail", "died")
RESULT = re.compile(r"^(success|failure|error|skip): (.*?)(?: \[)?$")


# Samba as its manual has it for clients that cache and come back: streams, extended attributes, access lists, several channels.
SAMBA = """  ea support = yes
  store dos attributes = yes
  map archive = no
  posix locking = no
  kernel share modes = no
  vfs objects = acl_xattr streams_xattr
[global]
  server multi channel support = yes
  kernel oplocks = no
[noperm]
  path = {where}/noperm
  read only = no
"""


def importfs(where, port):
    noperm = f'[[share]]\nname = "noperm"\nkind = "directory"\npath = "{where}/noperm"\n'  # ioctl.bug14788 wants one
    return lab.Importfs(where, extra=noperm, port=port)


def samba(where, port):
    """smbd, whose user is nobody in particular: access lists do not bind root."""
    return lab.Samba(where, extra=SAMBA.format(where=where), port=port, account="nobody")


def run(suite, known, serve=importfs, below=None):
    """One suite, some of its tests' names known, against a server whose files lie below a directory: ({test: result}, seconds,
    log). A suite that hangs is stopped; what it had not said counts as timeout."""
    private = lab.own_network() and shutil.which("iptables")
    where = lab.workdir("torture", below)
    if private and suite == "multichannel":
        lab.acknowledge_at_once()
    (where / "noperm").mkdir()
    server = serve(where, 445 if private else None)
    begun = time.monotonic()
    command = ["smbtorture", "//127.0.0.1/dir", "-p", str(server.port), "-U", f"{lab.USER}%{lab.PASSWORD}",
               "--option=torture:progress=no", f"smb2.{suite}"]
    if private:
        command += ["--option=torture:use_iptables=yes", "--option=torture:iptables_command=iptables"]
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SUITE_SECONDS).stdout
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"") + f"\nerror: smb2.{suite}.TIMEOUT\n".encode()
    results = {}
    for line in output.decode(errors="replace").splitlines():
        if match := RESULT.match(line):
            # A suite of one test names the test like itself; so do lock.lock and scan.scan.
            test = f"smb2.{suite}.{match[2]}"
            if match[2] == suite and test not in known:
                test = f"smb2.{suite}"
            results[match[2] if match[2].startswith("smb2.") else test] = match[1]
    if not private:
        cutting = {test for test in known | set(results) if CUTTING.match(test) and test.startswith(f"smb2.{suite}.")}
        results.update(dict.fromkeys(cutting, NOT_HERE))
    seconds = time.monotonic() - begun
    server.stop()
    return results, seconds, server.log.read_text(errors="replace")


def reference(name):
    """{(suite, test): result} of a table in reference/."""
    path = REFERENCE / name
    if not path.exists():
        return {}
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return {(row[0], row[1]): row[2] for row in rows}


def samba_seconds():
    """{suite: seconds that Samba's tests took}; a test that was stopped counts as long as it was let run."""
    taken = {}
    for row in (REFERENCE / "samba417.tsv").read_text().splitlines()[1:]:
        suite, _, _, seconds = row.split("\t")[:4]
        taken[suite] = taken.get(suite, 0) + float(seconds or 0)
    return taken


def count(values, *kinds):
    return sum(v in kinds for v in values)


def figures(results):
    return " | ".join(str(count(results.values(), *kinds)) for kinds in [("success",), FAILED, ("skip",)])


def main(arguments):
    lab.need("smbtorture", *(["smbd"] if "--beside" in arguments else []))
    update, beside = "--update" in arguments, "--beside" in arguments
    suites = [a for a in arguments if not a.startswith("-")] or SUITES
    listed, ours = reference("samba417.tsv"), reference("importfs.tsv")
    now, lost, panics = dict(ours), [], []
    known = {test for _, test in listed}
    listed_took, totals = samba_seconds(), [0] * 4
    print("| suite | importfs: passed | failed | skipped | seconds | Samba: passed | failed | skipped | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        # On tmpfs: several tests look at what is allocated, to which ext4 counts a block of Samba's extended attributes.
        below = "/dev/shm" if beside else None
        runs = {suite: (pool.submit(run, suite, known, importfs, below),
                        pool.submit(run, suite, known, samba, below) if beside else None)
                for suite in suites}
        for suite, (mine, other) in runs.items():
            results, seconds, log = mine.result()
            if other:
                theirs, took, _ = other.result()
            else:
                theirs = {test: result for (of, test), result in listed.items() if of == f"smb2.{suite}"}
                took = listed_took.get(f"smb2.{suite}", 0)
            print(f"| {suite} | {figures(results)} | {seconds:.1f} | {figures(theirs)} | {took:.1f} |", flush=True)
            row = (count(results.values(), "success"), seconds, count(theirs.values(), "success"), took)
            totals = [total + one for total, one in zip(totals, row)]
            for test, result in sorted(results.items()):
                if result != NOT_HERE:
                    now[(f"smb2.{suite}", test)] = result
            for test, result in theirs.items():
                if result == "success" and results.get(test) != "success":
                    print(f"    short of Samba: {test}: {results.get(test, 'not run')}")
            for (of, test), result in ours.items():
                if of == f"smb2.{suite}" and result == "success" and results.get(test) not in ("success", NOT_HERE):
                    lost.append((suite, test))
            if "panicked" in log:
                panics.append(suite)
    print(f"in all: importfs {totals[0]} passed, {totals[1]:.0f} s; Samba {totals[2]} passed, {totals[3]:.0f} s"
          f"{' in the same run' if beside else ', its tests alone, as listed'}")
    if update:
        rows = [f"{suite}\t{test}\t{result}" for (suite, test), result in sorted(now.items())]
        (REFERENCE / "importfs.tsv").write_text("\n".join(["suite\ttest\tresult", *rows]) + "\n")
        print(f"wrote {REFERENCE / 'importfs.tsv'}")
        return
    # Many tests measure time, and six suites share the machine: what failed has a second chance alone, and is named.
    for suite in sorted({suite for suite, _ in lost}):
        again, _, log = run(suite, known)
        if "panicked" in log:
            panics.append(suite)
        for test in (test for of, test in lost if of == suite):
            print(f"failed beside other suites: {test}")
            lab.check(again.get(test) == "success", f"{test} passed before and passes alone")
    lab.check(not panics, f"no panic in a log {' '.join(panics)}")
    lab.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
