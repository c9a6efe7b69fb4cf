"""Fixtures for smbprotocol's own tests, which its source package leaves out; copied beside them by check_smbprotocol.py."""
import ntpath
import os
import uuid

import pytest
import smbclient
import smbclient.shutil
from smbclient import _pool

# The tests name no port: 445 is a default of the functions that connect.
for function in (_pool.register_session, _pool.get_smb_tree, _pool.delete_session):
    function.__defaults__ = tuple(int(os.environ["SMB_PORT"]) if value == 445 else value for value in function.__defaults__)


@pytest.fixture(scope="session")
def smb_real():
    """(user, password, server, port, share, share that requires encryption)"""
    server, share = "127.0.0.1", os.environ["SMB_SHARE"]
    return (os.environ["SMB_USER"], os.environ["SMB_PASSWORD"], server, int(os.environ["SMB_PORT"]),
            rf"\\{server}\{share}", rf"\\{server}\{share}-encrypted")


@pytest.fixture
def smb_share(smb_real):
    """A directory of the test's own, with a name that is no ASCII; its connection is pooled and closed."""
    user, password, server, port, share, _ = smb_real
    smbclient.register_session(server, username=user, password=password, port=port)
    path = ntpath.join(share, f"pröbe-{uuid.uuid4()}")
    smbclient.mkdir(path)
    try:
        yield path
    finally:
        smbclient.ClientConfig(username=user, password=password)
        smbclient.reset_connection_cache(fail_on_error=False)
        smbclient.register_session(server, username=user, password=password, port=port)
        smbclient.shutil.rmtree(path, ignore_errors=True)
        smbclient.reset_connection_cache(fail_on_error=False)


@pytest.fixture
def smb_dfs_share():
    pytest.skip("no DFS namespace")


@pytest.fixture
def stub_scandir_gen():
    """Makes what stands for a directory's listing, fails at its first entry and notes that it was closed."""

    class Listing:
        def __init__(self, closes, error):
            self.closes, self.error = closes, error

        def __iter__(self):
            return self

        def __next__(self):
            raise self.error

        def close(self):
            self.closes.append(True)

    return Listing
