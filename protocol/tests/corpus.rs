//! Requests that real clients sent (smbclient and smbtorture against Samba), one of every shape: every one must decode that
//! Samba answers with anything but STATUS_INVALID_PARAMETER for its layout, and no damage to any of them may panic.
//!
//! `tests/data/*.bin` holds a little-endian u32 length and an SMB2 message, repeated. `SMB_CORPUS=dir` runs the same over the
//! whole recordings, unpacked into a directory.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::decode_request;
use smb_proto::frame::Kind;
use smb_proto::{Command, Header};

fn recordings() -> Vec<PathBuf> {
    let dir = std::env::var_os("SMB_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"), PathBuf::from);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect()
}

fn messages(recording: &[u8]) -> Vec<&[u8]> {
    let mut rest = recording;
    let mut list = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk() {
        let (message, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        list.push(message);
        rest = tail;
    }
    list
}

/// The parts of a compound, each from its header on (MS-SMB2 2.2.1, NextCommand).
fn parts(mut message: &[u8]) -> Vec<&[u8]> {
    let mut list = Vec::new();
    while let Ok(header) = Header::decode(message) {
        let next = header.next_command as usize;
        if next == 0 || next >= message.len() {
            break;
        }
        let (part, rest) = message.split_at(next);
        list.push(part);
        message = rest;
    }
    list.push(message);
    list
}

#[test]
fn what_clients_sent_decodes() {
    let mut refused = BTreeMap::<(u16, String), usize>::new();
    let (mut decoded, mut encrypted) = (0, 0);
    for path in recordings() {
        let recording = std::fs::read(path).unwrap();
        for message in messages(&recording) {
            if Kind::of(message) == Ok(Kind::Transform) {
                encrypted += 1;
                continue;
            }
            for part in parts(message) {
                match decode_request(part) {
                    Some(Err(error)) => {
                        let command = Header::decode(part).map_or(u16::MAX, |header| header.command.0);
                        *refused.entry((command, error.to_string())).or_default() += 1;
                    }
                    _ => decoded += 1,
                }
            }
        }
    }
    println!("{decoded} decoded, {encrypted} encrypted, refused: {refused:#?}");
    assert!(decoded > 200, "the corpus has only {decoded} messages");
    // Sent to be refused: LOCK without a range (smb2.lock.valid-request), at most two in a whole recording.
    let lock_without_range = (Command::LOCK.0, "LockCount: value 0x0 is not allowed".to_owned());
    assert!(refused.remove(&lock_without_range).is_none_or(|count| count <= 2));
    assert!(refused.is_empty(), "refused: {refused:#?}");
}

#[test]
fn no_damaged_message_panics() {
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for path in recordings() {
        let recording = std::fs::read(path).unwrap();
        for message in messages(&recording) {
            for len in (0..message.len()).step_by(7) {
                let _ = decode_request(&message[..len]);
            }
            for _ in 0..64 {
                let mut damaged = message.to_vec();
                for _ in 0..=random() % 4 {
                    let at = random() as usize % damaged.len();
                    damaged[at] = [0, 1, 0x7F, 0x80, 0xFF, random() as u8][random() as usize % 6];
                }
                let _ = decode_request(&damaged);
            }
        }
    }
}
