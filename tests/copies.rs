//! Copies within the server: resume keys and SRV_COPYCHUNK (MS-SMB2 3.3.5.15.5, 3.3.5.15.6).
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Open};
use smb_proto::Status;
use smb_proto::fscc::fsctl::{Chunk, CopyChunk, CopyChunkResponse, RESUME_KEY_LEN, code};
use smb_proto::msg::{FileId, ioctl};

fn key(client: &mut Client, file: FileId) -> [u8; RESUME_KEY_LEN] {
    let answer = client.fsctl(file, code::SRV_REQUEST_RESUME_KEY, &[], 32);
    assert_eq!(answer.status(), Status::SUCCESS);
    ioctl::Response::decode(&answer.0).unwrap().output[..RESUME_KEY_LEN].try_into().unwrap()
}

fn chunk(source_offset: u64, target_offset: u64, length: u32) -> Chunk {
    Chunk { source_offset, target_offset, length }
}

fn copy(
    client: &mut Client,
    source_key: [u8; RESUME_KEY_LEN],
    target: FileId,
    chunks: &[Chunk],
) -> (Status, Option<CopyChunkResponse>) {
    let mut input = Vec::new();
    CopyChunk { source_key, chunks: chunks.to_vec() }.encode(&mut input);
    let answer = client.fsctl(target, code::SRV_COPYCHUNK, &input, 12);
    let output = ioctl::Response::decode(&answer.0).ok().map(|response| response.output);
    (answer.status(), output.and_then(|output| CopyChunkResponse::decode(output).ok()))
}

/// A client with a file `s` of ten digits and an empty one, `t`, both open, and the key of the first.
fn source_and_target() -> (Desk, Client, FileId, FileId, [u8; RESUME_KEY_LEN]) {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    let source = client.open(&Open::file("s")).file_id();
    let target = client.open(&Open::file("t")).file_id();
    client.write(source, 0, b"0123456789");
    let key = key(&mut client, source);
    (desk, client, source, target, key)
}

#[test]
fn ranges_are_copied_whole_and_in_order() {
    let (_desk, mut client, source, target, key) = source_and_target();
    let (status, done) = copy(&mut client, key, target, &[chunk(5, 2, 5), chunk(0, 0, 2)]);
    assert_eq!(status, Status::SUCCESS);
    assert_eq!(done, Some(CopyChunkResponse { chunks: 2, chunk_bytes: 0, total_bytes: 7 }));
    assert_eq!(client.get(target), b"0156789");
    // Onto itself, overlapping: as if by way of a buffer.
    assert_eq!(copy(&mut client, key, source, &[chunk(0, 3, 7)]).0, Status::SUCCESS);
    assert_eq!(client.get(source), b"0120123456");
}

#[test]
fn what_came_before_a_failure_is_told() {
    let (_desk, mut client, _, target, key) = source_and_target();
    let (status, done) = copy(&mut client, key, target, &[chunk(0, 0, 4), chunk(4, 4, 7)]);
    assert_eq!(status, Status::INVALID_VIEW_SIZE);
    assert_eq!(done, Some(CopyChunkResponse { chunks: 1, chunk_bytes: 0, total_bytes: 4 }));
    let limits = CopyChunkResponse { chunks: 256, chunk_bytes: 1 << 20, total_bytes: 16 << 20 };
    for chunks in [vec![chunk(0, 0, (1 << 20) + 1)], vec![chunk(0, 0, 0)], vec![chunk(0, 0, 1); 257]] {
        assert_eq!(copy(&mut client, key, target, &chunks), (Status::INVALID_PARAMETER, Some(limits)));
    }
    assert_eq!(copy(&mut client, key, target, &[chunk(u64::MAX, 0, 4)]).0, Status::INVALID_PARAMETER);
    assert_eq!(client.get(target), b"0123");
}

#[test]
fn a_key_is_its_session_s_and_its_open_s() {
    let desk = Desk::new();
    let (mut client, mut other) = (desk.client(1, "user"), desk.client(2, "other"));
    let source = client.open(&Open::file("s")).file_id();
    client.write(source, 0, b"secret");
    let key = key(&mut client, source);
    let theirs = other.open(&Open::file("t")).file_id();
    let one = [chunk(0, 0, 6)];
    assert_eq!(copy(&mut other, key, theirs, &one).0, Status::OBJECT_NAME_NOT_FOUND);
    let target = client.open(&Open::file("t")).file_id();
    assert_eq!(copy(&mut client, [0xDB; RESUME_KEY_LEN], target, &one).0, Status::OBJECT_NAME_NOT_FOUND);
    let write_only = client.open(&Open { access: 0x2, ..Open::file("t") }).file_id();
    assert_eq!(copy(&mut client, key, write_only, &one).0, Status::ACCESS_DENIED);
    let read_only = client.open(&Open { access: 0x1, ..Open::file("t") }).file_id();
    assert_eq!(copy(&mut client, key, read_only, &one).0, Status::ACCESS_DENIED);
    assert_eq!(copy(&mut client, key, target, &one).0, Status::SUCCESS);
    client.close(source);
    assert_eq!(copy(&mut client, key, target, &one).0, Status::OBJECT_NAME_NOT_FOUND);
}

#[test]
fn the_source_may_lie_on_another_share_of_the_session() {
    let desk = Desk::new();
    let mut client = desk.client(1, "user");
    client.connect("other");
    let source = client.open(&Open::file("s")).file_id();
    client.write(source, 0, b"staged");
    let key = key(&mut client, source);
    client.connect("dir");
    let target = client.open(&Open::file("t")).file_id();
    assert_eq!(copy(&mut client, key, target, &[chunk(0, 0, 6)]).0, Status::SUCCESS);
    assert_eq!(client.get(target), b"staged");
}
