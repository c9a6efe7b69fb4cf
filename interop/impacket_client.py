"""impacket as a client, run by check_smbprotocol.py: put, get, list, rename, delete, share modes, in each dialect it speaks.

    impacket_client.py PORT USER PASSWORD     on the share `dir`
"""
import io
import os
import sys

from impacket.smb3structs import (FILE_OPEN, FILE_OPEN_IF, FILE_READ_DATA, FILE_SHARE_READ, FILE_WRITE_DATA, SMB2_DIALECT_002,
                                  SMB2_DIALECT_21, SMB2_DIALECT_30, SMB2_DIALECT_311)
from impacket.smbconnection import SessionError, SMBConnection

SHARING_VIOLATION, NAME_NOT_FOUND, LOGON_FAILURE = 0xC0000043, 0xC0000034, 0xC000006D
DIALECTS = {"2.0.2": SMB2_DIALECT_002, "2.1": SMB2_DIALECT_21, "3.0": SMB2_DIALECT_30, "3.1.1": SMB2_DIALECT_311}
failures = 0


def check(good, what):
    global failures
    failures += not good
    print(f"{'ok    ' if good else 'FAILED'} impacket {what}")


def refused(status, work):
    try:
        work()
    except SessionError as error:
        return error.getErrorCode() == status
    return False


def connect(port, dialect):
    return SMBConnection("127.0.0.1", "127.0.0.1", sess_port=port, preferredDialect=dialect)


def main():
    port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for name, dialect in DIALECTS.items():
        client = connect(port, dialect)
        check(client.getDialect() == dialect, f"{name}: dialect")
        client.login(user, password)
        check(any(share["shi1_netname"][:-1] == "dir" for share in client.listShares()), f"{name}: the share is listed by srvsvc")
        folder, data = f"impacket{name}", os.urandom(3_000_001)
        client.createDirectory("dir", folder)
        client.putFile("dir", f"{folder}\\a", io.BytesIO(data).read)
        back = io.BytesIO()
        client.getFile("dir", f"{folder}\\a", back.write)
        check(back.getvalue() == data, f"{name}: put and get")
        client.rename("dir", f"{folder}\\a", f"{folder}\\b ü")
        found = {entry.get_longname(): entry.get_filesize() for entry in client.listPath("dir", f"{folder}\\*")}
        check(found.get("b ü") == len(data) and "a" not in found and {".", ".."} <= set(found), f"{name}: rename and list")
        tree = client.connectTree("dir")
        held = client.openFile(tree, f"{folder}\\b ü", desiredAccess=FILE_READ_DATA | FILE_WRITE_DATA, shareMode=FILE_SHARE_READ,
                               creationDisposition=FILE_OPEN)
        check(refused(SHARING_VIOLATION, lambda: client.openFile(tree, f"{folder}\\b ü", desiredAccess=FILE_WRITE_DATA,
                                                                 creationDisposition=FILE_OPEN)), f"{name}: share modes hold")
        client.writeFile(tree, held, b"new", 5)
        check(client.readFile(tree, held, 4, 5) == data[4:5] + b"new" + data[8:9], f"{name}: write at an offset")
        client.closeFile(tree, held)
        info = client.queryInfo(tree, client.openFile(tree, f"{folder}\\b ü", creationDisposition=FILE_OPEN_IF))
        check(info["EndOfFile"] == len(data), f"{name}: FileStandardInformation")
        client.disconnectTree(tree)
        client.deleteFile("dir", f"{folder}\\b ü")
        check(refused(NAME_NOT_FOUND, lambda: client.deleteFile("dir", f"{folder}\\b ü")), f"{name}: deleted")
        client.deleteDirectory("dir", folder)
        client.logoff()
        client.close()
    check(refused(LOGON_FAILURE, lambda: connect(port, SMB2_DIALECT_311).login(user, "wrong")), "a wrong password")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
