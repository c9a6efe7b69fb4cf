"""pysmb as a client, run by check_smbprotocol.py: it offers `SMB 2.002` in an SMB1 NEGOTIATE and goes on in that dialect without another.

    pysmb_client.py PORT USER PASSWORD     on the share `dir`
"""
import io
import os
import sys

from smb.SMBConnection import SMBConnection
from smb.smb_structs import OperationFailure

failures = 0


def check(good, what):
    global failures
    failures += not good
    print(f"{'ok    ' if good else 'FAILED'} pysmb {what}")


def main():
    port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for kind, signing in (("signed where required", SMBConnection.SIGN_WHEN_REQUIRED), ("signed", SMBConnection.SIGN_WHEN_SUPPORTED)):
        client = SMBConnection(user, password, "client", "127.0.0.1", use_ntlm_v2=True, sign_options=signing, is_direct_tcp=True)
        check(client.connect("127.0.0.1", port, timeout=20) and client.isUsingSMB2, f"{kind}: login")
        check("dir" in {share.name for share in client.listShares()}, f"{kind}: the share is listed by srvsvc")
        data, folder = os.urandom(3_000_001), f"/pysmb {signing}"
        client.createDirectory("dir", folder)
        client.storeFile("dir", f"{folder}/ä", io.BytesIO(data))
        client.storeFileFromOffset("dir", f"{folder}/ä", io.BytesIO(b"new"), offset=5)
        back = io.BytesIO()
        client.retrieveFile("dir", f"{folder}/ä", back)
        check(back.getvalue() == data[:5] + b"new" + data[8:], f"{kind}: store, store at an offset, retrieve")
        client.rename("dir", f"{folder}/ä", f"{folder}/b")
        names = {entry.filename: entry.file_size for entry in client.listPath("dir", folder)}
        check(names.get("b") == len(data) and "ä" not in names, f"{kind}: rename and list")
        check(client.getSecurity("dir", f"{folder}/b").owner is not None, f"{kind}: security")
        check(client.echo(b"hello") == b"hello", f"{kind}: echo")
        client.deleteFiles("dir", f"{folder}/*")
        client.deleteDirectory("dir", folder)
        try:
            client.listPath("dir", folder)
            check(False, f"{kind}: what was deleted is gone")
        except OperationFailure:
            check(True, f"{kind}: what was deleted is gone")
        client.close()
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
