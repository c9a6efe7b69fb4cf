//! Named streams and extended attributes of a directory share, as clients see them.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Open};
use smb_proto::Status;
use smb_proto::fscc::ea::{self, Ea};
use smb_proto::fscc::info::class;
use smb_proto::fscc::stream;
use smb_proto::msg::FileId;
use smb_proto::msg::create::{disposition, options, share_access};
use smb_proto::msg::query_info;

const DELETE: u32 = 0x0001_0000;
const READ_WRITE: u32 = 0x3;
const DELETE_ON_CLOSE: u32 = 0x1000;

fn status(client: &mut Client, open: &Open<'_>) -> Status {
    client.open(open).status()
}

/// Name and size of each stream.
fn streams(client: &mut Client, file: FileId) -> Vec<(String, u64)> {
    let answer = client.query(file, class::STREAM, 4096, &[]);
    assert_eq!(answer.status(), Status::SUCCESS);
    let data = query_info::Response::decode(&answer.0).unwrap().data;
    let list = stream::decode(data).unwrap();
    list.into_iter().map(|(name, size, _)| (name.decode().unwrap(), size)).collect()
}

fn made(client: &mut Client, name: &str, data: &[u8]) {
    let id = client.open(&Open::file(name)).file_id();
    assert_eq!(client.write(id, 0, data), Status::SUCCESS);
    assert_eq!(client.close(id), Status::SUCCESS);
}

#[test]
fn a_file_has_streams_beside_its_data() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    made(&mut client, "f:Zone.Identifier", b"[ZoneTransfer]"); // the file is made with it
    made(&mut client, "f", b"data");
    let file = client.open(&Open::file("f")).file_id();
    let upper = client.open(&Open::file("F:ZONE.IDENTIFIER:$data")).file_id();
    assert_eq!((client.get(file), client.get(upper)), (b"data".to_vec(), b"[ZoneTransfer]".to_vec()));
    assert_eq!(streams(&mut client, file), [("::$DATA".into(), 4), (":Zone.Identifier:$DATA".into(), 14)]);
    assert_eq!(streams(&mut client, upper).len(), 2);
    for disposition in [disposition::OPEN, disposition::OVERWRITE] {
        let missing = Open { disposition, ..Open::file("f:other") };
        assert_eq!(status(&mut client, &missing), Status::OBJECT_NAME_NOT_FOUND);
    }
    let again = Open { disposition: disposition::CREATE, ..Open::file("f:zone.identifier") };
    assert_eq!(status(&mut client, &again), Status::OBJECT_NAME_COLLISION);
    assert_eq!(status(&mut client, &Open::file("f:s:$INDEX")), Status::OBJECT_NAME_INVALID);
}

#[test]
fn a_directory_has_named_streams_only() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let directory = Open { options: options::DIRECTORY_FILE, ..Open::file("d") };
    let d = client.open(&directory).file_id();
    made(&mut client, "d:s", b"123");
    assert_eq!(streams(&mut client, d), [(":s:$DATA".into(), 3)]);
    assert_eq!(status(&mut client, &Open::file("d::$DATA")), Status::FILE_IS_A_DIRECTORY);
    let as_directory = |name| Open { options: options::DIRECTORY_FILE, ..Open::file(name) };
    assert_eq!(status(&mut client, &as_directory("d::$DATA")), Status::NOT_A_DIRECTORY);
    assert_eq!(status(&mut client, &as_directory("d:s")), Status::NOT_A_DIRECTORY);
}

#[test]
fn share_modes_are_each_stream_s_but_for_deleting_the_file() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let alone = |name| Open { access: READ_WRITE, share: 0, ..Open::file(name) };
    let first = client.open(&alone("f:a")).file_id();
    assert_eq!(status(&mut client, &alone("f:b")), Status::SUCCESS);
    assert_eq!(status(&mut client, &alone("f:A")), Status::SHARING_VIOLATION);
    let file = client.open(&alone("f")).file_id();
    let deleting = |name| Open { access: DELETE, ..Open::file(name) };
    assert_eq!(status(&mut client, &deleting("f")), Status::SHARING_VIOLATION);
    client.close(file);
    assert_eq!(status(&mut client, &deleting("f")), Status::SHARING_VIOLATION, "a stream does not share it");
    client.close(first);
    assert_eq!(status(&mut client, &deleting("f:a")), Status::SUCCESS);
}

#[test]
fn a_deleted_file_stays_until_its_last_stream_is_closed() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let id = client.open(&Open::file("f:s")).file_id();
    client.write(id, 0, b"kept");
    let deleting = client.open(&Open { options: DELETE_ON_CLOSE, ..Open::file("f") }).file_id();
    assert_eq!(client.close(deleting), Status::SUCCESS);
    assert_eq!(client.get(id), b"kept");
    for name in ["f", "f:s", "f:t"] {
        assert_eq!(status(&mut client, &Open::file(name)), Status::DELETE_PENDING, "{name}");
    }
    assert_eq!(client.close(id), Status::SUCCESS);
    let missing = Open { disposition: disposition::OPEN, ..Open::file("f") };
    assert_eq!(status(&mut client, &missing), Status::OBJECT_NAME_NOT_FOUND);
    // Nothing of it is left, and nothing shows.
    let area = desk.directory.path().join(".importfs-streams");
    assert_eq!(std::fs::read_dir(area).unwrap().count(), 0);
    for hidden in [".importfs-streams", ".IMPORTFS-streams\\x"] {
        assert_eq!(status(&mut client, &Open::file(hidden)), Status::ACCESS_DENIED);
    }
}

/// Found by `sequences`.
#[test]
fn a_directory_that_is_not_empty_stays_when_its_last_stream_is_closed() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let directory = Open { options: options::DIRECTORY_FILE | DELETE_ON_CLOSE, ..Open::file("d") };
    let d = client.open(&directory).file_id();
    made(&mut client, "d\\x", b"");
    let stream = client.open(&Open::file("d:s")).file_id();
    assert_eq!(client.close(d), Status::SUCCESS);
    assert_eq!(client.close(stream), Status::SUCCESS, "that is no failure");
    assert_eq!(status(&mut client, &Open::file("d")), Status::SUCCESS);
}

#[test]
fn streams_are_deleted_one_by_one_and_with_their_file() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    for name in ["f:a", "f:b"] {
        made(&mut client, name, b"x");
    }
    let a = client.open(&Open { options: DELETE_ON_CLOSE, ..Open::file("f:a") }).file_id();
    client.close(a);
    let file = client.open(&Open::file("f")).file_id();
    assert_eq!(streams(&mut client, file).len(), 2);
    client.close(file);
    let replaced = client.open(&Open { disposition: disposition::OVERWRITE, ..Open::file("f") }).file_id();
    assert_eq!(streams(&mut client, replaced).len(), 1, "an overwritten file has lost its streams");
    client.close(replaced);
    made(&mut client, "f:c", b"x");
    made(&mut client, "g", b"x");
    let g = client.open(&Open::file("g")).file_id();
    assert_eq!(client.rename(g, "f", true), Status::SUCCESS);
    assert_eq!(streams(&mut client, g).len(), 1, "the replaced file's streams are not the new one's");
    let area = desk.directory.path().join(".importfs-streams");
    assert_eq!(std::fs::read_dir(area).unwrap().count(), 0);
}

#[test]
fn streams_are_renamed_within_their_file() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    made(&mut client, "f:a", b"a");
    made(&mut client, "f:b", b"b");
    let a = client.open(&Open::file("f:a")).file_id();
    assert_eq!(client.rename(a, ":B", false), Status::OBJECT_NAME_COLLISION);
    let b = client.open(&Open { share: share_access::READ, access: 1, ..Open::file("f:b") }).file_id();
    assert_eq!(client.rename(a, ":b", true), Status::ACCESS_DENIED, "open");
    client.close(b);
    assert_eq!(client.rename(a, ":B:$DATA", true), Status::SUCCESS);
    assert_eq!(streams(&mut client, a), [("::$DATA".into(), 0), (":B:$DATA".into(), 1)]);
    assert_eq!(client.rename(a, "g:a", true), Status::SHARING_VIOLATION);
    // What is open goes by one key under both names.
    let alone = Open { share: 0, access: 1, ..Open::file("f:b") };
    assert_eq!(status(&mut client, &alone), Status::SHARING_VIOLATION);
    client.close(a);
    let file = client.open(&Open::file("f")).file_id();
    let stream = client.open(&Open::file("f:b")).file_id();
    assert_eq!(client.rename(file, "h", false), Status::ACCESS_DENIED, "a stream is open");
    client.close(stream);
    assert_eq!(client.rename(file, "h", false), Status::SUCCESS);
    let moved = client.open(&Open::file("h:b")).file_id();
    assert_eq!(client.get(moved), b"a");
}

#[test]
fn a_copy_made_beside_the_server_has_no_part_in_the_original_s_streams() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    made(&mut client, "f:s", b"secret");
    let root = desk.directory.path();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(root.join("f")).arg(root.join("g")).status().unwrap();
    assert!(copied.success());
    let missing = Open { disposition: disposition::OPEN, ..Open::file("g:s") };
    assert_eq!(status(&mut client, &missing), Status::OBJECT_NAME_NOT_FOUND);
    made(&mut client, "g:s", b"other");
    let original = client.open(&Open::file("f:s")).file_id();
    assert_eq!(client.get(original), b"secret");
}

#[test]
fn streams_of_a_file_are_bounded() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let mut refused = 0;
    for number in 0..260 {
        let opened = client.open(&Open::file(&format!("f:{number}")));
        if opened.status() == Status::INSUFFICIENT_RESOURCES {
            refused += 1;
        } else {
            client.close(opened.file_id());
        }
    }
    assert_eq!(refused, 4);
}

fn eas(client: &mut Client, file: FileId, room: u32, names: &[u8]) -> (Status, Vec<(String, Vec<u8>)>) {
    let answer = client.query(file, class::FULL_EA, room, names);
    if answer.status().is_error() {
        return (answer.status(), Vec::new());
    }
    let data = query_info::Response::decode(&answer.0).unwrap().data;
    let list = ea::decode(data).unwrap();
    let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
    (answer.status(), list.iter().map(|ea| (text(ea.name), ea.value.to_vec())).collect())
}

fn set_ea(client: &mut Client, file: FileId, name: &str, value: &[u8]) -> Status {
    let mut data = Vec::new();
    ea::encode(&[Ea { flags: 0, name: name.as_bytes(), value }], &mut data);
    client.set(file, class::FULL_EA, &data)
}

#[test]
fn extended_attributes_are_set_found_and_removed_without_case() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let file = client.open(&Open::file("f")).file_id();
    assert_eq!(eas(&mut client, file, 4096, &[]).0, Status::NO_EAS_ON_FILE);
    assert_eq!(set_ea(&mut client, file, "one", b"1"), Status::SUCCESS);
    assert_eq!(set_ea(&mut client, file, "Two", b"22"), Status::SUCCESS);
    assert_eq!(set_ea(&mut client, file, "ONE", b"11"), Status::SUCCESS);
    let both = [("ONE".to_owned(), b"11".to_vec()), ("TWO".to_owned(), b"22".to_vec())];
    assert_eq!(eas(&mut client, file, 4096, &[]), (Status::SUCCESS, both.to_vec()));
    assert_eq!(eas(&mut client, file, 20, &[]), (Status::BUFFER_OVERFLOW, both[..1].to_vec()));
    assert_eq!(eas(&mut client, file, 4, &[]).0, Status::BUFFER_TOO_SMALL);
    let asked = [0, 0, 0, 0, 3, b't', b'w', b'o', 0];
    assert_eq!(eas(&mut client, file, 4096, &asked), (Status::SUCCESS, both[1..].to_vec()));
    assert_eq!(set_ea(&mut client, file, "one", b""), Status::SUCCESS);
    assert_eq!(eas(&mut client, file, 4096, &[]), (Status::SUCCESS, both[1..].to_vec()));
    assert_eq!(set_ea(&mut client, file, "a:b", b"1"), Status::INVALID_EA_NAME);
    assert_eq!(client.set(file, class::FULL_EA, &[0, 0, 0, 0, 0, 9, 0, 0]), Status::EA_LIST_INCONSISTENT);
    let blind = client.open(&Open { access: 1, ..Open::file("f") }).file_id();
    assert_eq!(set_ea(&mut client, blind, "x", b"1"), Status::ACCESS_DENIED);
    assert_eq!(eas(&mut client, blind, 4096, &[]).0, Status::ACCESS_DENIED);
}
