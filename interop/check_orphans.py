"""What a half restore leaves on a datastore: listed, and removed when told so, and nothing else is.

A session with a half extent is deleted by smbclient; beside it a completed session, one that is still open, files of other programs
in the orphan's directory, and a path that was cleared by hand and used again. Then `importfs orphans list` and `clean`.
"""
import json

import check_restore
import lab

MIB = 1 << 20
BYTES = 8 * MIB


def tree(where):
    return {str(p.relative_to(where)) for p in where.rglob("*")}


def orphans(server, *arguments):
    return server.run("orphans", *arguments)


def listed(server):
    done = orphans(server, "list", "--json")
    lab.check(done.returncode == 0, f"list {done.stderr}")
    return {session["path"]: session for session in json.loads(done.stdout)}


def begin(server, source, name, half=True):
    (source / "x.cfg").write_text(check_restore.cfg(name, [(name, BYTES, "thin")]))
    (source / "x.vmx").write_text(check_restore.vmx(name, [(name, BYTES, "thin")]))
    extent = "half.img" if half else "whole.img"
    rest = "" if half else f"; put x.vmx {name}.vmx"
    said = lab.smbclient(server.port, "import", f"mkdir {name}; cd {name}; put x.cfg {name}.cfg; put {extent} {name}-flat.vmdk; put x.vmx {name}.nvram{rest}",
                         cwd=source).stdout
    lab.check("NT_STATUS" not in said, f"{name}: {'half' if half else 'whole'} restore {said[-200:] if 'NT_' in said else ''}")


def delete(server, name):
    said = lab.smbclient(server.port, "import", f"deltree {name}").stdout
    gone = lab.smbclient(server.port, "import", "ls").stdout
    lab.check(f" {name} " not in gone, f"{name}: the session is deleted {said[-200:]}")


def main():
    lab.need("smbclient")
    work = lab.workdir("orphans")
    source = work / "source"
    source.mkdir()
    check_restore.image(source / "whole.img", BYTES, 1, 0.5)
    (source / "half.img").write_bytes((source / "whole.img").read_bytes()[:BYTES // 2])
    server = lab.Importfs(work / "server")
    store = server.datastore
    lab.check(orphans(server, "list").stdout.startswith("No session"), "nothing at first")
    (store / "foreign").mkdir()
    (store / "foreign" / "foreign-flat.vmdk").write_bytes(b"not ours")
    before = tree(store)

    begin(server, source, "half")
    begin(server, source, "done", half=False)
    begin(server, source, "open")
    begin(server, source, "mixed")
    begin(server, source, "again")
    (store / "mixed" / "notes.txt").write_text("put here by somebody")
    for name in ("half", "done", "mixed", "again"):
        delete(server, name)
    lab.check({"half/half-flat.vmdk", "done/done-flat.vmdk", "done/done.vmx", "mixed/notes.txt"} <= tree(store), "deleting sessions removed nothing from the datastore")
    # 'again' is cleared by hand, and a whole restore takes its place.
    for path in (store / "again").iterdir():
        path.unlink()
    (store / "again").rmdir()
    begin(server, source, "again", half=False)
    delete(server, "again")

    server.kill()
    server.start()
    found = listed(server)
    lab.check(set(found) == {"/half", "/mixed", "/open", "/again"}, f"listed after a kill -9: {sorted(found)}")
    states = {path: (s["state"], sorted({o["state"] for o in s["objects"]})) for path, s in found.items()}
    lab.check(states.get("/half") == ("removed", ["there"]) and states.get("/open") == ("open", ["there"]), f"states {states}")
    lab.check(states.get("/again") == ("removed", ["changed"]), "a path used again is not taken for the orphan")
    kinds = sorted(o["kind"] for o in found["/half"]["objects"])
    lab.check(kinds == ["directory", "extent", "file"], f"kinds {kinds}")
    here = tree(store)
    refused = orphans(server, "clean")
    lab.check(refused.returncode == 2 and "--yes" in refused.stderr and tree(store) == here, "without --yes nothing is removed")
    cleaned = orphans(server, "clean", "--yes")
    left = tree(store)
    lab.check(cleaned.returncode == 1 and "kept" in cleaned.stdout and "did not make" in cleaned.stdout, f"clean says what it kept: {cleaned.stdout!r}")
    lab.check(here - left == {"half", "half/half-flat.vmdk", "half/half.nvram", "mixed/mixed-flat.vmdk", "mixed/mixed.nvram"}, f"removed: {sorted(here - left)}")
    lab.check(before <= left, "what was there before is there")
    lab.check(check_restore.same(source / "whole.img", store / "again" / "again-flat.vmdk") and check_restore.same(source / "whole.img", store / "done" / "done-flat.vmdk"),
              "completed restores are whole")
    (store / "mixed" / "notes.txt").unlink()
    second = orphans(server, "clean", "--yes")
    lab.check(second.returncode == 0 and not (store / "mixed").exists() and set(listed(server)) == {"/open"}, f"then the rest goes {second.stdout!r}")
    # The open session is still good for a whole restore, and a new one may take the cleaned name.
    said = lab.smbclient(server.port, "import", "cd open; put whole.img open-flat.vmdk; put x.vmx open.vmx", cwd=source).stdout
    lab.check("NT_STATUS" not in said and listed(server) == {}, f"the open session goes on to its end {said[-200:] if 'NT_' in said else ''}")
    begin(server, source, "half", half=False)
    lab.check(check_restore.same(source / "whole.img", store / "half" / "half-flat.vmdk"), "the cleaned name is free for a restore")
    lab.check("panicked" not in server.log.read_text(errors="replace"), "no panic")
    lab.finish()


if __name__ == "__main__":
    main()
