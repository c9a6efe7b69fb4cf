"""Who is let in and how, with smbclient: signing, encryption, dialects, share access lists, failed logins, the audit log."""
import subprocess
import time

import lab

OTHER = "other"


def server(tag, smb="", extra=""):
    """A server whose [smb] has more lines; the share `private` is for the user `other` only, `sealed` encrypted only."""
    where = lab.workdir(tag)
    for name in ("private", "sealed"):
        (where / name).mkdir()
    made = lab.Importfs(where, extra=f"""
[[share]]
name = "private"
kind = "directory"
path = "{where}/private"
users = ["{OTHER}"]
[[share]]
name = "sealed"
kind = "directory"
path = "{where}/sealed"
encryption = "required"
{extra}""")
    made.run("user", "add", OTHER, input=f"{lab.PASSWORD}\n{lab.PASSWORD}\n")
    if smb:
        made.stop()
        made.config.write_text(made.config.read_text().replace("[smb]\n", f"[smb]\n{smb}\n"))
        made.start()
    return made


def works(made, what, *options, share="dir", user=lab.USER):
    done = lab.smbclient(made.port, share, "ls", *options, user=user)
    lab.check(done.returncode == 0, what if done.returncode == 0 else f"{what}: {done.stdout.strip()[-200:]}")


def refused(made, what, *options, share="dir", user=lab.USER, password=lab.PASSWORD, status=""):
    done = lab.smbclient(made.port, share, "ls", *options, user=user, password=password)
    good = done.returncode != 0 and status in done.stdout
    lab.check(good, what if good else f"{what}: {done.stdout.strip()[-200:]}")


def shares():
    made = server("shares")
    works(made, "a share without a list admits every account")
    works(made, "a share's list admits who is on it", share="private", user=OTHER)
    refused(made, "and nobody else", share="private", status="ACCESS_DENIED")
    works(made, "an encrypted share, encrypted", "--client-protection=encrypt", share="sealed")
    refused(made, "an encrypted share can't be reached at SMB 2.1", "-m", "SMB2_10", share="sealed", status="ACCESS_DENIED")
    works(made, "the same client reaches the others", "-m", "SMB2_10")
    refused(made, "a guest is refused", "-N", user="guest", status="LOGON_FAILURE")
    log = made.log.read_text(errors="replace")
    for event in ('event="login"', 'event="share"', 'event="share-refused"', 'event="login-refused"'):
        lab.check(event in log, f"the audit log has {event}")
    lab.smbclient(made.port, "dir", f"put {made.config} victim; put {made.config} victim; rename victim goner; del goner")
    log = made.log.read_text(errors="replace")
    lab.check('event="rename"' in log and 'event="delete"' in log and "goner" in log, "renames and deletions are in the audit log")
    overwritten = [line for line in log.splitlines() if 'event="overwrite"' in line]
    lab.check(len(overwritten) == 1 and "victim" in overwritten[0], "an overwritten file is in the audit log, a new one is not")
    lab.check("panicked" not in log, "no panic in the log")


def policies():
    made = server("required", 'encryption = "required"')
    works(made, "encryption required: a client of SMB 3.1.1 gets in")
    refused(made, "encryption required: none of SMB 2.1", "-m", "SMB2_10", status="ACCESS_DENIED")
    made = server("off", 'encryption = "off"')
    refused(made, "encryption off: a client that insists fails", "--client-protection=encrypt")
    works(made, "encryption off: others get in")
    made = server("old", 'min-dialect = "3.0"\nmax-dialect = "3.0.2"')
    works(made, "dialects 3.0 to 3.0.2: 3.0", "-m", "SMB3_00")
    works(made, "dialects 3.0 to 3.0.2: a newer client speaks 3.0.2")
    refused(made, "dialects 3.0 to 3.0.2: none of 2.1", "-m", "SMB2_10")
    made = server("new", 'min-dialect = "3.1.1"')
    refused(made, "dialect 3.1.1: none of 3.0.2", "-m", "SMB3_02")
    works(made, "dialect 3.1.1: 3.1.1")


def signing():
    where = lab.workdir("signing")
    made = lab.Importfs(where, signing="required")
    for dialect in ("SMB2_02", "SMB2_10", "SMB3_00", "SMB3_11"):
        works(made, f"signing required: {dialect} signs", "-m", dialect, "--client-protection=sign")
        works(made, f"signing required: {dialect} signs where nothing was said", "-m", dialect)
    works(made, "signing required: a client whose own protection is off signs", "--client-protection=off")
    torture = subprocess.run(["smbtorture", "//127.0.0.1/dir", "-p", str(made.port), "-U", f"{lab.USER}%{lab.PASSWORD}",
                              "smb2.session-require-signing"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lab.check("success: bug15397" in torture.stdout, "smbtorture smb2.session-require-signing")


def guessing():
    made = server("guessing")
    times = []
    for _ in range(5):
        begun = time.monotonic()
        refused(made, "a wrong password", password="wrong-Word1", status="LOGON_FAILURE")
        times.append(time.monotonic() - begun)
    lab.check(times[0] >= 1.9, f"a failed login takes 2 s ({times[0]:.1f} s)")
    lab.check(times[4] >= times[0] + 1.5, f"the fifth takes longer ({times[4]:.1f} s)")
    begun = time.monotonic()
    works(made, "the right password is never refused")
    lab.check(time.monotonic() - begun < 1.5, "nor held back")


def main():
    lab.need("smbclient", "smbtorture")
    shares()
    policies()
    signing()
    guessing()
    lab.finish()


if __name__ == "__main__":
    main()
