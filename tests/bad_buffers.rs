//! Requests whose buffers lie where they may not, that end early, or that claim sizes (rows 4 to 6 of the bug classes in
//! `bad_requests.rs`), over a whole session in memory.

#![allow(clippy::unwrap_used)]

mod support;

use smb_proto::fscc::fsctl::code;
use smb_proto::header::HEADER_LEN;
use smb_proto::msg::create::disposition::{OPEN, OPEN_IF};
use smb_proto::msg::lock::FLAG_FAIL_IMMEDIATELY;
use smb_proto::msg::{FileId, ioctl, query_directory, set_info, tree_connect};
use smb_proto::testing::{ClientError, Draft, Link, Peer, Protection};
use smb_proto::utf16::Utf16;
use smb_proto::{Command, Status};
use support::{DIRECTORY, Pair, World, exclusive, status};

/// A request that names a buffer: where its offset and length stand in the message, and how wide they are.
struct Named {
    what: &'static str,
    draft: fn(&mut Peer<Pair>, FileId, FileId) -> Draft,
    offset: (usize, usize),
    length: (usize, usize),
}

/// A request, and its buffer's offset and length: where they stand in the request's body, and how wide they are.
fn named(
    what: &'static str,
    offset: (usize, usize),
    length: (usize, usize),
    draft: fn(&mut Peer<Pair>, FileId, FileId) -> Draft,
) -> Named {
    let in_message = |(at, width)| (HEADER_LEN + at, width);
    Named { what, draft, offset: in_message(offset), length: in_message(length) }
}

/// The requests that name a buffer by offset (MS-SMB2 2.2.x).
fn named_buffers() -> [Named; 7] {
    let create = |peer: &mut Peer<Pair>, _, _| peer.create_draft("name", OPEN_IF, 0);
    [
        named("CREATE's name", (44, 2), (46, 2), create),
        named("CREATE's contexts", (48, 4), (52, 4), create),
        named("WRITE's data", (2, 2), (4, 4), |peer, file, _| peer.write_draft(file, 0, b"0123456789abcdef")),
        named("SET_INFO's data", (8, 2), (4, 4), |peer, file_id, _| {
            let (info_type, info_class, additional_information) = (1, 20, 0);
            let data = &[0; 8];
            let request = set_info::Request { info_type, info_class, additional_information, file_id, data };
            peer.client.draft(Command::SET_INFO, 8, |out| request.encode(out))
        }),
        named("QUERY_DIRECTORY's pattern", (24, 2), (26, 2), |peer, _, file_id| {
            let (info_class, flags, file_index, output_buffer_length) = (37, 0, 0, 4096);
            let pattern = Utf16(b"*\0");
            let request = query_directory::Request {
                info_class,
                flags,
                file_index,
                file_id,
                output_buffer_length,
                pattern,
            };
            peer.client.draft(Command::QUERY_DIRECTORY, 4096, |out| request.encode(out))
        }),
        named("IOCTL's input", (24, 4), (28, 4), |peer, file_id, _| {
            let (max_input_response, max_output_response, flags) = (0, 0, 1);
            let (ctl_code, input) = (code::SET_ZERO_DATA, &[0; 16]);
            let request =
                ioctl::Request { ctl_code, file_id, max_input_response, max_output_response, flags, input };
            peer.client.draft(Command::IOCTL, 16, |out| request.encode(out))
        }),
        named("TREE_CONNECT's path", (4, 2), (6, 2), |peer, _, _| {
            let request = tree_connect::Request { flags: 0, path: Utf16(b"\\\0\\\0s\0\\\0d\0i\0r\0") };
            peer.client.draft(Command::TREE_CONNECT, 0, |out| request.encode(out))
        }),
    ]
}

fn poke(message: &mut [u8], (at, width): (usize, usize), value: u64) {
    message[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// Row 4: buffers that point into the header or the fixed part, past the frame, or wrap. Row 5: lengths that are claimed.
#[test]
fn buffers_lie_behind_the_fixed_part_and_inside_the_message() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN_IF, 0).unwrap().id;
    let directory = peer.create("", OPEN, DIRECTORY).unwrap().id;
    peer.write(file, 0, &[7; 100]).unwrap();
    for named in named_buffers() {
        let good = (named.draft)(&mut peer, file, directory);
        let end = good.message.len() as u64;
        let widest = |width: usize| if width == 2 { u64::from(u16::MAX) } else { u64::from(u32::MAX) };
        let mut cases: Vec<(u64, u64)> =
            [1, 4, 48, 63, 64, named.offset.0 as u64].map(|at| (at, 16)).to_vec();
        cases.extend([(end, 16), (end - 1, 16), (end + 8, 16), (widest(named.offset.1), 16)]);
        cases.extend([(104, widest(named.length.1)), (widest(named.offset.1), widest(named.length.1))]);
        for (offset, length) in cases {
            let mut draft = (named.draft)(&mut peer, file, directory);
            poke(&mut draft.message, named.offset, offset);
            poke(&mut draft.message, named.length, length);
            let found = peer.ask(draft).unwrap().header.status;
            assert_eq!(found, Status::INVALID_PARAMETER, "{} at {offset}, {length} bytes", named.what);
        }
    }
    assert_eq!(std::fs::read(world.path("dir/a")).unwrap(), [7; 100], "nothing was changed");
    assert_eq!(std::fs::read_dir(world.path("dir")).unwrap().count(), 1);
}

/// Row 4: a message that ends early, at each of its bytes.
#[test]
fn messages_cut_off_anywhere_are_refused() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN_IF, 0).unwrap().id;
    let directory = peer.create("", OPEN, DIRECTORY).unwrap().id;
    peer.client.protection = Protection::Plain;
    for named in named_buffers() {
        let whole = (named.draft)(&mut peer, file, directory);
        for length in 64..whole.message.len() - 2 {
            let mut draft = (named.draft)(&mut peer, file, directory);
            draft.message.truncate(length);
            let found = peer.ask(draft).unwrap().header.status;
            assert!(found.is_error(), "{} cut to {length} bytes: {found:?}", named.what);
        }
    }
}

/// Row 5: what is announced is not allocated: reads, outputs and counts far beyond what was negotiated.
#[test]
fn claimed_sizes_are_refused() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN_IF, 0).unwrap().id;
    assert_eq!(
        status(peer.read(file, 0, (8 << 20) + 1)),
        Status::INVALID_PARAMETER,
        "paid for, and too much"
    );
    let ranges = peer.fsctl(file, code::QUERY_ALLOCATED_RANGES, &[0; 16], (8 << 20) + 1);
    assert_eq!(status(ranges), Status::INVALID_PARAMETER);
    for length in [1 << 24, 1 << 30, u32::MAX] {
        let mut draft = peer.read_draft(file, 0, 1);
        draft.message[68..72].copy_from_slice(&u32::to_le_bytes(length));
        assert_eq!(status(peer.must(draft)), Status::INVALID_PARAMETER);
    }
    let mut draft = peer.lock_draft(file, exclusive(0, 1, FLAG_FAIL_IMMEDIATELY));
    draft.message[66..68].copy_from_slice(&u16::MAX.to_le_bytes());
    assert_eq!(status(peer.must(draft)), Status::INVALID_PARAMETER);
    // Chained entries and self-relative parts inside a buffer: EAs (15), a rename (10), a link (11).
    for class in [10, 11, 15] {
        for data in [&[0xFF; 24][..], &[0xFF; 4], &[0, 0, 0, 0, 0, 9, 0xFF, 0xFF, 0], &[0; 24]] {
            let found = peer.set(file, class, data);
            assert!(matches!(found, Err(ClientError::Status(_))), "class {class}: {data:x?}: {found:?}");
        }
    }
}

/// Row 6: no compression is ever negotiated, so a compressed message is none, whatever it claims to grow to (MS-SMB2 3.3.5.2.13).
#[test]
fn compressed_messages_end_the_connection() {
    let world = World::plain();
    for (size, algorithm, flags, offset) in
        [(100, 1_u16, 0_u16, 0), (u32::MAX, 1, 0, 0), (100, 0, 1, u32::MAX), (1 << 30, 4, 1, 16)]
    {
        let mut frame = b"\xfcSMB".to_vec();
        frame.extend(u32::to_le_bytes(size));
        frame.extend(algorithm.to_le_bytes());
        frame.extend(flags.to_le_bytes());
        frame.extend(u32::to_le_bytes(offset));
        frame.extend([0x5A; 64]);
        let mut peer = world.modern("dir");
        peer.link.send(&frame).unwrap();
        assert!(peer.link.closed, "plain: {size} {algorithm} {flags} {offset}");
        let mut peer = world.modern("dir");
        let sealed = peer.client.seal(&frame, peer.client.session_id);
        peer.link.send(&sealed).unwrap();
        assert!(peer.link.closed, "encrypted: {size} {algorithm} {flags} {offset}");
        let mut early = world.pair();
        early.send(&frame).unwrap();
        assert!(early.closed, "before any login");
    }
}
