//! Requests that no honest client sends, over a whole session in memory. The rows are those of the bug classes that every
//! SMB server has had (the project's checklist of public CVEs).

#![allow(clippy::unwrap_used)]

mod support;

use smb_proto::msg::create::disposition::{CREATE, OPEN, OPEN_IF};
use smb_proto::msg::lock::{Element, FLAG_FAIL_IMMEDIATELY, FLAG_UNLOCK};
use smb_proto::msg::{FileId, cancel, echo, logoff, tree_disconnect};
use smb_proto::testing::{Client, ClientError, Draft, Link, Offer, Peer, Protection};
use smb_proto::{Command, Flags, Status};
use support::{DIRECTORY, PASSWORD, Pair, USER, World, exclusive, status};

/// Row 1: after LOGOFF nothing of the session is left, and what waits is answered.
#[test]
fn nothing_works_after_logoff() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN_IF, 0).unwrap();
    peer.logoff().unwrap();
    for outcome in [
        peer.write(file.id, 0, b"x").map(drop),
        peer.read(file.id, 0, 1).map(drop),
        peer.flush(file.id),
        peer.close(file.id),
        peer.create("b", OPEN_IF, 0).map(drop),
        peer.tree_disconnect(),
        peer.logoff(),
        peer.query(file.id, 1, 5).map(drop),
    ] {
        assert_eq!(status(outcome), Status::USER_SESSION_DELETED);
    }
    assert!(!world.path("dir/b").exists());
    assert!(world.server.session(peer.client.session_id).is_none());
}

/// Row 1: after TREE_DISCONNECT nothing of the tree is left, in the same compound too.
#[test]
fn nothing_works_after_tree_disconnect() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN_IF, 0).unwrap();
    let disconnect =
        peer.client.draft(Command::TREE_DISCONNECT, 0, |out| tree_disconnect::Request.encode(out));
    let after = [
        peer.create_draft("b", OPEN_IF, 0),
        peer.write_draft(file.id, 0, b"x"),
        peer.read_draft(file.id, 0, 1),
    ];
    let drafts: Vec<Draft> = std::iter::once(disconnect).chain(after).collect();
    let ids = peer.send(&drafts).unwrap();
    assert_eq!(peer.answer(ids[0]).unwrap().header.status, Status::SUCCESS);
    for id in &ids[1..] {
        assert_eq!(peer.answer(*id).unwrap().header.status, Status::NETWORK_NAME_DELETED);
    }
    assert_eq!(status(peer.flush(file.id)), Status::NETWORK_NAME_DELETED);
    assert_eq!(status(peer.tree_disconnect()), Status::NETWORK_NAME_DELETED);
    peer.tree_connect("dir").unwrap();
    assert_eq!(status(peer.flush(file.id)), Status::FILE_CLOSED, "a file of the old tree");
    assert!(!world.path("dir/b").exists());
    peer.put("b", b"x", 1).unwrap();
}

/// Row 1: a request that waits while its session, tree, file or connection goes is answered, and leaves nothing.
#[test]
fn what_waits_ends_with_what_it_waits_on() {
    let endings: [fn(&mut Peer<Pair>, FileId); 3] = [
        |peer, id| peer.close(id).unwrap(),
        |peer, _| peer.tree_disconnect().unwrap(),
        |peer, _| peer.logoff().unwrap(),
    ];
    for (number, end) in endings.into_iter().enumerate() {
        let world = World::plain();
        let mut holder = world.modern("dir");
        let held = holder.create("a", OPEN_IF, 0).unwrap();
        let draft = holder.lock_draft(held.id, exclusive(0, 10, FLAG_FAIL_IMMEDIATELY));
        holder.must(draft).unwrap();
        let mut waiter = world.modern("dir");
        let waiting = waiter.create("a", OPEN, 0).unwrap();
        let draft = waiter.lock_draft(waiting.id, exclusive(0, 10, 0));
        let ids = waiter.send(&[draft]).unwrap();
        assert_eq!(waiter.receive().unwrap().len(), 1, "an interim response");
        end(&mut waiter, waiting.id);
        let answer = waiter.answer(ids[0]).unwrap();
        assert!(answer.header.status.is_error(), "ending {number}: {:?}", answer.header.status);
        assert!(waiter.link.connection.parked.lock().unwrap().is_empty(), "ending {number}");
        // The lock was never had: the holder can let go and take it again.
        let draft = holder.lock_draft(held.id, vec![Element { offset: 0, length: 10, flags: FLAG_UNLOCK }]);
        holder.must(draft).unwrap();
        let draft = holder.lock_draft(held.id, exclusive(0, 10, FLAG_FAIL_IMMEDIATELY));
        holder.must(draft).unwrap();
    }
}

/// Row 3: NextCommand, plain, signed and inside a transform.
#[test]
fn links_of_a_compound_that_lead_nowhere_end_the_connection() {
    for protection in [Protection::Plain, Protection::Sealed] {
        for next in [1u32, 8, 56, 63, 65, 68, 100, 0x7FFF_FFF8, u32::MAX - 7, u32::MAX] {
            let world = World::plain();
            let mut peer = world.modern("dir");
            peer.client.protection = Protection::Plain;
            let drafts = [peer.create_draft("a", OPEN_IF, 0), peer.create_draft("b", OPEN_IF, 0)];
            let mut frame = peer.client.frame(&drafts);
            frame[20..24].copy_from_slice(&next.to_le_bytes());
            if protection == Protection::Sealed {
                frame = peer.client.seal(&frame, peer.client.session_id);
            }
            peer.link.send(&frame).unwrap();
            assert!(peer.link.closed, "NextCommand {next}, {protection:?}");
            assert!(!world.path("dir/b").exists(), "NextCommand {next}");
        }
        // A whole request, but not where one may begin.
        for off in [1, 2, 4, 7] {
            let world = World::plain();
            let mut peer = world.modern("dir");
            peer.client.protection = Protection::Plain;
            let (first, second) = (peer.create_draft("a", OPEN_IF, 0), peer.create_draft("b", OPEN_IF, 0));
            let mut frame = peer.client.frame(&[first]);
            frame.resize(frame.len().next_multiple_of(8) + off, 0);
            let next = frame.len() as u32;
            frame[20..24].copy_from_slice(&next.to_le_bytes());
            frame.extend(peer.client.frame(&[second]));
            if protection == Protection::Sealed {
                frame = peer.client.seal(&frame, peer.client.session_id);
            }
            peer.link.send(&frame).unwrap();
            assert!(peer.link.closed, "the second request {off} bytes off, {protection:?}");
            assert!(!world.path("dir/b").exists(), "{off} bytes off");
        }
        // The last one's: it points behind the frame, or at its end.
        for next in [64u32, 128, 1 << 20] {
            let world = World::plain();
            let mut peer = world.modern("dir");
            peer.client.protection = Protection::Plain;
            let draft = peer.client.draft(Command::ECHO, 0, |out| echo::Request.encode(out));
            let mut frame = peer.client.frame(&[draft]);
            frame[20..24].copy_from_slice(&next.to_le_bytes());
            peer.link.send(&frame).unwrap();
            assert!(peer.link.closed, "NextCommand {next} of the last");
        }
    }
}

/// Row 3: related requests use the file of the one before, fail with it, and never reach another session's.
#[test]
fn related_requests_stay_with_their_file() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let related = |mut draft: Draft| {
        draft.header.flags = Flags::RELATED_OPERATIONS;
        draft.header.session_id = u64::MAX;
        draft.header.tree_id = u32::MAX;
        draft
    };
    let drafts = [
        peer.create_draft("a", CREATE, 0),
        related(peer.write_draft(FileId::ANY, 0, b"hello")),
        related(peer.read_draft(FileId::ANY, 0, 5)),
        related(peer.client.draft(Command::CLOSE, 0, |out| {
            smb_proto::msg::close::Request { flags: 0, file_id: FileId::ANY }.encode(out);
        })),
    ];
    let ids = peer.send(&drafts).unwrap();
    for id in ids {
        assert_eq!(peer.answer(id).unwrap().header.status, Status::SUCCESS);
    }
    assert_eq!(std::fs::read(world.path("dir/a")).unwrap(), b"hello");
    let drafts = [peer.create_draft("a", CREATE, 0), related(peer.write_draft(FileId::ANY, 0, b"other"))];
    let ids = peer.send(&drafts).unwrap();
    for id in ids {
        assert_eq!(peer.answer(id).unwrap().header.status, Status::OBJECT_NAME_COLLISION);
    }
    assert_eq!(std::fs::read(world.path("dir/a")).unwrap(), b"hello");
}

/// Row 7: message ids are good once, and only where granted; charges are paid.
#[test]
fn credits_are_kept() {
    let world = World::plain();
    let closes = |bend: fn(&mut Peer<Pair>, &mut Draft)| {
        let mut peer = world.modern("dir");
        peer.echo().unwrap();
        let mut draft = peer.client.draft(Command::ECHO, 0, |out| echo::Request.encode(out));
        bend(&mut peer, &mut draft);
        peer.send(&[draft]).unwrap();
        peer.link.closed
    };
    assert!(!closes(|_, _| {}));
    assert!(closes(|_, draft| draft.header.message_id -= 1), "used before");
    assert!(closes(|_, draft| draft.header.message_id = 0), "used long ago");
    assert!(closes(|_, draft| draft.header.message_id += 100_000), "never granted");
    assert!(closes(|_, draft| draft.header.message_id = u64::MAX), "what oplock breaks have");
    assert!(
        closes(|peer, draft| draft.header.credit_charge = peer.client.credits as u16 + 2),
        "more than granted"
    );
    assert!(closes(|_, draft| draft.header.credit_charge = u16::MAX), "far more than granted");
    // A hole in the ids bounds how far a client gets.
    let mut peer = world.modern("dir");
    peer.client.message_id += 1;
    for _ in 0..20_000 {
        if peer.client.credits <= 1 {
            break;
        }
        peer.echo().unwrap();
    }
    assert!(peer.client.credits <= 1, "the window grows without bound");
}

/// Row 7: a payload beyond what its charge pays for (MS-SMB2 3.3.5.2.5), and what 2.0.2 may send.
#[test]
fn payloads_are_paid_for() {
    let world = World::plain();
    for dialect in [0x0202, 0x0210, 0x0311] {
        let mut peer = world.peer(Offer { dialects: vec![dialect], ..Offer::default() }, "dir");
        let file = peer.create("a", OPEN_IF, 0).unwrap().id;
        let large = vec![1; 65537];
        peer.write(file, 0, &large[..65536]).unwrap();
        for charge in [0, 1] {
            let mut draft = peer.write_draft(file, 0, &large);
            draft.header.credit_charge = charge;
            assert_eq!(status(peer.must(draft)), Status::INVALID_PARAMETER, "{dialect:x}");
            let mut draft = peer.read_draft(file, 0, 65537);
            draft.header.credit_charge = charge;
            assert_eq!(status(peer.must(draft)), Status::INVALID_PARAMETER, "{dialect:x}");
        }
        peer.client.message_id += 1000; // what a charge of 2 has skipped is not used
        if dialect > 0x0202 {
            let mut peer = world.peer(Offer { dialects: vec![dialect], ..Offer::default() }, "dir");
            let file = peer.create("a", OPEN_IF, 0).unwrap().id;
            peer.write(file, 0, &large).unwrap();
        }
    }
}

/// Row 7: an interim response has the credits, the final one none; CANCEL uses no id.
#[test]
fn async_requests_get_their_credits_once() {
    let world = World::plain();
    let mut holder = world.modern("dir");
    let held = holder.create("a", OPEN_IF, 0).unwrap();
    let draft = holder.lock_draft(held.id, exclusive(0, u64::MAX, FLAG_FAIL_IMMEDIATELY));
    holder.must(draft).unwrap();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN, 0).unwrap();
    for _ in 0..300 {
        let before = peer.client.credits;
        let draft = peer.lock_draft(file.id, exclusive(0, 1, 0));
        let id = peer.send(&[draft]).unwrap()[0];
        let async_id = peer.receive().unwrap()[0];
        let granted = peer.client.credits;
        assert!(granted > before.saturating_sub(1) || before > 8000, "the interim response grants");
        let next = peer.client.message_id;
        let mut draft = peer.client.draft(Command::CANCEL, 0, |out| cancel::Request.encode(out));
        draft.header.message_id = 0;
        draft.header.flags = Flags::ASYNC_COMMAND;
        draft.header.async_id = async_id;
        peer.client.message_id = next;
        peer.client.credits = granted;
        peer.send(&[draft]).unwrap();
        assert_eq!(
            peer.answer(id).unwrap().header.status,
            Status::CANCELLED,
            "row 14: a blocking lock is cancelled"
        );
        assert_eq!(peer.client.credits, granted, "the final response grants nothing");
    }
    peer.echo().unwrap();
}

/// Row 11: no name leads out of a share, whatever stands in it.
#[test]
fn names_lead_nowhere_else() {
    let world = World::plain();
    std::fs::write(world.path("outside"), "secret").unwrap();
    std::os::unix::fs::symlink(world.path("outside"), world.path("dir/file-link")).unwrap();
    std::os::unix::fs::symlink(world.path("."), world.path("dir/directory-link")).unwrap();
    std::os::unix::fs::symlink("..", world.path("dir/relative")).unwrap();
    for share in ["dir", "import"] {
        let mut peer = world.modern(share);
        for name in [
            "..\\outside",
            "..",
            ".",
            "a\\..\\..\\outside",
            "../outside",
            "/etc/passwd",
            "\\outside",
            "a\\\\b",
            "file-link",
            "directory-link\\outside",
            "relative\\outside",
            "a\0b",
            "a\u{1}",
            "a*",
            "a?",
            "a<",
            "a>",
            "a|",
            "a\"",
            "a:b:c:d",
            "outside:stream",
            "a:$DATA",
            "a::$INDEX_ALLOCATION",
            ":",
            "::$DATA",
            "C:\\x",
            "\\\\?\\C:\\x",
            "\\??\\x",
            "a\\.\\b",
            "a\\",
            "a/b",
        ] {
            for action in [OPEN, OPEN_IF, CREATE] {
                match peer.create(name, action, 0) {
                    Err(ClientError::Status(found)) => assert!(found.is_error(), "{share}: {name}"),
                    Ok(file) => {
                        // What opens all the same is in the share, and not what lies outside.
                        let read = peer.read(file.id, 0, 100).unwrap_or_default();
                        assert_ne!(read, b"secret", "{share}: {name}");
                        let _ = peer.close(file.id);
                    }
                    Err(error) => panic!("{share}: {name}: {error}"),
                }
            }
        }
        for bytes in [&[0x00, 0xD8][..], &[0x41], &[0xFF; 3], &[b'a', 0, 0, 0xDC]] {
            let draft = peer.create_draft_of(bytes, OPEN_IF, 0);
            assert!(status(peer.must(draft)).is_error(), "{share}: {bytes:x?} is no UTF-16");
        }
        let long = "x".repeat(40_000);
        let draft = peer.create_draft(&long, OPEN_IF, 0);
        let mut draft = draft;
        draft.message[64 + 46..64 + 48].copy_from_slice(&65_534u16.to_le_bytes());
        assert!(status(peer.must(draft)).is_error(), "{share}: a name of 32,767 characters");
    }
    assert_eq!(std::fs::read_to_string(world.path("outside")).unwrap(), "secret");
    let mut left: Vec<_> =
        std::fs::read_dir(world.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["data", "datastore1", "dir", "others", "outside", "secret"],
        "nothing was made beside the share"
    );
}

/// Row 11: renames, links and patterns neither.
#[test]
fn new_names_lead_nowhere_else() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    peer.put("a", b"x", 1).unwrap();
    std::fs::create_dir(world.path("dir/sub")).unwrap();
    std::os::unix::fs::symlink("..", world.path("dir/up")).unwrap();
    let file = peer.create("a", OPEN, 0).unwrap().id;
    for name in
        ["..\\b", "up\\b", "/b", "sub/../../b", "sub\\..\\..\\b", "b\0", ".", "..", "\\..\\b", "b:c", ":c"]
    {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for class in [10, 11] {
            let mut data = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            data.extend((wide.len() as u32).to_le_bytes());
            data.extend(&wide);
            assert!(status(peer.set(file, class, &data)).is_error(), "class {class}: {name}");
        }
    }
    assert!(!world.path("b").exists() && world.path("dir/a").exists());
    for pattern in ["..\\*", "../*", "..", "\\*", "sub\\*"] {
        let directory = peer.create("", OPEN, DIRECTORY).unwrap().id;
        match peer.list(directory, pattern) {
            Ok(listed) => {
                let wide: Vec<u8> = "datastore1".encode_utf16().flat_map(u16::to_le_bytes).collect();
                assert!(!listed.windows(wide.len()).any(|part| part == wide), "{pattern}");
            }
            Err(error) => assert!(matches!(error, ClientError::Status(_)), "{pattern}: {error}"),
        }
    }
}

/// Row 13 as far as there are no durable handles: file ids that were guessed, or belong to someone else.
#[test]
fn another_sessions_file_ids_are_nobodys() {
    let world = World::plain();
    let mut owner = world.modern("dir");
    let file = owner.create("a", OPEN_IF, 0).unwrap().id;
    owner.write(file, 0, b"private").unwrap();
    let mut other = Peer::connect(Client::default(), world.pair(), support::OTHER, PASSWORD).unwrap();
    other.tree_connect("dir").unwrap();
    let mut second = Peer::connect(Client::default(), world.pair(), USER, PASSWORD).unwrap();
    second.tree_connect("dir").unwrap();
    for peer in [&mut other, &mut second] {
        for id in [file, FileId { persistent: 0, ..file }, FileId { volatile: 0, ..file }, FileId::ANY] {
            assert_eq!(status(peer.read(id, 0, 7)), Status::FILE_CLOSED);
            assert_eq!(status(peer.write(id, 0, b"changed")), Status::FILE_CLOSED);
            assert_eq!(status(peer.close(id)), Status::FILE_CLOSED);
        }
    }
    // The same session through another tree.
    let first_tree = owner.client.tree_id;
    owner.tree_connect("dir").unwrap();
    assert_eq!(status(owner.read(file, 0, 7)), Status::FILE_CLOSED);
    owner.client.tree_id = first_tree;
    assert_eq!(owner.read(file, 0, 7).unwrap(), b"private");
}

/// Row 14: ranges that wrap, foreign locks, counts.
#[test]
fn locks_stay_within_their_rules() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    let mut other = world.modern("dir");
    let file = peer.create("a", OPEN_IF, 0).unwrap().id;
    let foreign = other.create("a", OPEN, 0).unwrap().id;
    for (offset, length) in [(u64::MAX, 2), (2, u64::MAX), (u64::MAX, u64::MAX)] {
        let draft = peer.lock_draft(file, exclusive(offset, length, FLAG_FAIL_IMMEDIATELY));
        assert_eq!(status(peer.must(draft)), Status::INVALID_LOCK_RANGE, "{offset} {length}");
    }
    let draft = peer.lock_draft(file, exclusive(10, 10, FLAG_FAIL_IMMEDIATELY));
    peer.must(draft).unwrap();
    let unlock = || vec![Element { offset: 10, length: 10, flags: FLAG_UNLOCK }];
    let draft = other.lock_draft(foreign, unlock());
    assert_eq!(status(other.must(draft)), Status::RANGE_NOT_LOCKED, "someone else's lock");
    assert_eq!(status(other.write(foreign, 15, b"x")), Status::FILE_LOCK_CONFLICT);
    let draft = peer.lock_draft(file, unlock());
    peer.must(draft).unwrap();
    let bounded = (0..20_000u64).any(|at| {
        let draft = peer.lock_draft(file, exclusive(at * 2, 1, FLAG_FAIL_IMMEDIATELY));
        peer.ask(draft).unwrap().header.status == Status::INSUFFICIENT_RESOURCES
    });
    assert!(bounded, "20,000 locks on one file");
}

/// Rows 14 and 15: requests that wait are bounded, and a flood of them costs nobody else anything.
#[test]
fn waiting_requests_have_a_bound() {
    let world = World::plain();
    let mut holder = world.modern("dir");
    let held = holder.create("a", OPEN_IF, 0).unwrap();
    let draft = holder.lock_draft(held.id, exclusive(0, 10, FLAG_FAIL_IMMEDIATELY));
    holder.must(draft).unwrap();
    let mut peer = world.modern("dir");
    let file = peer.create("a", OPEN, 0).unwrap();
    let mut refused = false;
    for _ in 0..2000 {
        let draft = peer.lock_draft(file.id, exclusive(0, 10, 0));
        let id = peer.send(&[draft]).unwrap()[0];
        if peer.receive().unwrap().is_empty() {
            refused = peer.answer(id).unwrap().header.status == Status::INSUFFICIENT_RESOURCES;
            break;
        }
    }
    assert!(refused, "2,000 requests wait on one connection");
    holder.echo().unwrap();
    drop(peer);
    holder.close(held.id).unwrap();
    holder.put("b", b"x", 1).unwrap();
}

/// Memory of others is never sent: a READ answers what it has read, and no byte more.
#[test]
fn a_read_answers_only_what_it_read() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    peer.put("secret", &[0xAA; 200_000], 65536).unwrap();
    let file = peer.create("a", OPEN_IF, 0).unwrap().id;
    peer.write(file, 0, b"0123456789").unwrap();
    assert_eq!(peer.read(file, 0, 65536).unwrap(), b"0123456789");
    assert_eq!(peer.read(file, 4, 65536).unwrap(), b"456789");
    assert_eq!(status(peer.read(file, 10, 65536)), Status::END_OF_FILE);
    assert_eq!(status(peer.read(file, u64::MAX, 1)), Status::INVALID_PARAMETER);
    peer.set(file, 20, &100_000u64.to_le_bytes()).unwrap();
    let hole = peer.read(file, 10, 65536).unwrap();
    assert!(hole.len() == 65536 && hole.iter().all(|byte| *byte == 0));
    // The padding between the parts of a compound's answer; unsigned, because a signature may hold any byte.
    peer.client.protection = Protection::Plain;
    let drafts: Vec<Draft> = (0..3).map(|_| peer.read_draft(file, 0, 3)).collect();
    let frame = peer.client.frame(&drafts);
    peer.link.send(&frame).unwrap();
    let answer = peer.link.receive().unwrap();
    assert!(!answer.contains(&0xAA));
}

/// Commands that there are none of, and bodies of the wrong StructureSize.
#[test]
fn unknown_commands_are_refused_and_the_session_goes_on() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    for command in [19, 20, 255, u16::MAX] {
        let draft = peer.client.draft(Command(command), 0, |out| out.extend([4, 0, 0, 0]));
        assert!(status(peer.must(draft)).is_error(), "{command}");
    }
    for command in (2..=18).filter(|command| *command != Command::CANCEL.0) {
        let draft = peer.client.draft(Command(command), 0, |out| out.extend([0xFF; 200]));
        assert!(status(peer.must(draft)).is_error(), "{command}");
    }
    let draft = peer.client.draft(Command::LOGOFF, 0, |out| logoff::Request.encode(out));
    peer.must(draft).unwrap();
}
