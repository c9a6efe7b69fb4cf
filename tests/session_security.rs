//! Logging in and what protects a session, with the client half and the server in one process. The rows are those of the
//! bug classes that every SMB server has had (the project's checklist of public CVEs).

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use importfs::smb::server::Encryption;
use smb_proto::crypto::encrypt::TRANSFORM_LEN;
use smb_proto::crypto::sign::SigningAlgorithm;
use smb_proto::msg::create::disposition;
use smb_proto::msg::negotiate::{DIALECT_202, DIALECT_300, DIALECT_302, DIALECT_311, SIGNING_REQUIRED};
use smb_proto::testing::{Client, ClientError, Link, LoginOptions, Offer, Peer, Protection};
use smb_proto::{Command, Status};
use support::{OTHER, PASSWORD, Pair, USER, World, status};

const DIALECTS: [u16; 5] = [0x0202, 0x0210, 0x0300, 0x0302, 0x0311];

/// Changes a sealed frame; the number is another session's id.
type Bend = fn(&mut Vec<u8>, u64);

fn only(dialect: u16) -> Offer {
    Offer { dialects: vec![dialect], ..Offer::default() }
}

/// What a client does with a file.
fn use_a_file(peer: &mut Peer<Pair>, name: &str) {
    let data: Vec<u8> = (0..150_000u32).map(|at| (at % 251) as u8).collect();
    peer.put(name, &data, 65536).unwrap();
    assert!(peer.get(name, 65536).unwrap() == data);
    let directory = peer.create("", disposition::OPEN, 1).unwrap();
    let listed = peer.list(directory.id, "*").unwrap();
    let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(listed.windows(wide.len()).any(|part| part == wide), "{name} is listed");
    peer.close(directory.id).unwrap();
}

#[test]
fn each_dialect_plain_signed_and_encrypted() {
    let world = World::plain();
    for dialect in DIALECTS {
        let mut peer = world.peer(only(dialect), "dir");
        assert_eq!(peer.client.dialect(), dialect);
        for protection in [Protection::Plain, Protection::Signed, Protection::Sealed] {
            if protection == Protection::Sealed && dialect < DIALECT_300 {
                assert!(!peer.client.can_seal());
                continue;
            }
            peer.client.protection = protection;
            use_a_file(&mut peer, &format!("{dialect:x}-{protection:?}"));
            if dialect >= DIALECT_300 && protection != Protection::Plain && dialect < DIALECT_311 {
                peer.validate_negotiate().unwrap();
            }
        }
        peer.tree_disconnect().unwrap();
        peer.logoff().unwrap();
    }
}

#[test]
fn each_cipher_and_signing_algorithm_that_3_1_1_has() {
    let world = World::plain();
    for cipher in 1..=4 {
        let mut peer = world.peer(Offer { ciphers: vec![cipher], ..Offer::default() }, "secret");
        peer.client.protection = Protection::Sealed;
        assert_eq!(peer.client.agreed.unwrap().cipher.unwrap() as u16, cipher);
        use_a_file(&mut peer, &format!("cipher-{cipher}"));
    }
    for signing in 0..=2 {
        let mut peer = world.peer(Offer { signing: vec![signing], ..Offer::default() }, "dir");
        assert_eq!(peer.client.agreed.unwrap().signing as u16, signing);
        use_a_file(&mut peer, &format!("signing-{signing}"));
    }
    let mut peer = world.peer(Offer { signing: vec![], ciphers: vec![], ..Offer::default() }, "dir");
    assert_eq!(peer.client.agreed.unwrap().signing, SigningAlgorithm::AesCmac);
    assert!(!peer.client.can_seal());
    use_a_file(&mut peer, "neither");
}

/// MS-SMB2 3.3.5.3.1: a client that begins with SMB1 goes on with MessageId 1, as Windows does, or 0, as old ones do.
#[test]
fn a_client_that_begins_with_smb1() {
    for next in [0, 1] {
        let world = World::plain();
        let mut peer = Peer::new(Client::default(), world.pair());
        let offer = smb_proto::frame::Smb1Negotiate { smb2_002: true, smb2_wildcard: true };
        peer.link.send(&offer.encode()).unwrap();
        let answer = peer.link.receive().unwrap();
        let response = smb_proto::msg::negotiate::Response::decode(&answer).unwrap();
        assert_eq!(response.dialect, smb_proto::msg::negotiate::DIALECT_WILDCARD);
        peer.client.message_id = next;
        peer.negotiate().unwrap();
        peer.login(LoginOptions::new(USER, PASSWORD)).unwrap();
        peer.tree_connect("dir").unwrap();
        use_a_file(&mut peer, "a");
        peer.link.send(&offer.encode()).unwrap();
        assert!(peer.link.closed, "SMB1 after SMB2 was negotiated");
    }
}

/// Row 8: NTLM and SPNEGO. The proof and the MIC decide, nobody is a guest, and whatever might be a guess is answered slowly.
#[test]
fn logins_that_must_fail() {
    let world = World::plain();
    let good = || LoginOptions::new(USER, PASSWORD);
    let cases = [
        ("a wrong password", LoginOptions { password: "pass-Word2".into(), ..good() }),
        ("an empty password", LoginOptions { password: String::new(), ..good() }),
        ("an unknown user", LoginOptions::new("nobody", PASSWORD)),
        ("a guest", LoginOptions::new("guest", "")),
        ("no user", LoginOptions::new("", "")),
        ("anonymous by flag", LoginOptions { extra_flags: 0x800, ..good() }),
        ("a wrong MIC", LoginOptions { spoil_mic: true, ..good() }),
        ("a wrong MIC without SPNEGO", LoginOptions { spoil_mic: true, raw: true, ..good() }),
        ("a wrong mechListMIC", LoginOptions { spoil_mech_list_mic: true, ..good() }),
    ];
    for (what, options) in cases {
        for dialect in [DIALECT_202, DIALECT_302, DIALECT_311] {
            let mut peer = Peer::new(Client::new(only(dialect)), world.pair());
            peer.negotiate().unwrap();
            assert_eq!(status(peer.login(options.clone())), Status::LOGON_FAILURE, "{what}");
            let guesses = !matches!(what, "no user" | "anonymous by flag");
            let slow = peer.link.delay.is_some_and(|delay| delay >= Duration::from_secs(1));
            assert_eq!(slow, guesses, "{what} is slow, or names no account");
            assert_eq!(status(peer.tree_connect("dir")), Status::USER_SESSION_DELETED, "{what}");
            assert!(!peer.link.connection.has_session());
            peer.login(good()).unwrap();
            assert_eq!(peer.link.delay, None);
        }
    }
}

/// Row 8: what clients of all ages may leave out.
#[test]
fn logins_that_must_succeed() {
    let world = World::plain();
    let good = || LoginOptions::new(USER, PASSWORD);
    for options in [
        LoginOptions { announce_mic: false, ..good() },
        LoginOptions { mech_list_mic: false, ..good() },
        LoginOptions { key_exchange: false, ..good() },
        LoginOptions { raw: true, ..good() },
        LoginOptions { domain: String::new(), ..good() },
    ] {
        let mut peer = Peer::new(Client::default(), world.pair());
        peer.negotiate().unwrap();
        assert_eq!(peer.login(options.clone()), Ok(0), "neither guest nor anonymous: {options:?}");
        peer.tree_connect("dir").unwrap();
        use_a_file(&mut peer, "a");
    }
}

/// Row 8: token loops and oversized fields end.
#[test]
fn a_login_that_never_ends_ends() {
    let world = World::plain();
    let mut peer = Peer::new(Client::default(), world.pair());
    peer.negotiate().unwrap();
    peer.client.begin_session();
    // NegTokenInit without a token: 'go on' each time.
    let hint = smb_proto::auth::spnego::hint();
    let mut legs = 0;
    loop {
        let answer = peer.leg(&hint, 0).unwrap();
        peer.client.session_id = answer.header.session_id;
        if answer.header.status != Status::MORE_PROCESSING_REQUIRED {
            break;
        }
        legs += 1;
        assert!(legs < 10, "the server goes on for ever");
    }
    peer.client.begin_session();
    let huge = peer.leg(&[b"NTLMSSP\0\x01\0\0\0".to_vec(), vec![0xFF; 60_000]].concat(), 0).unwrap();
    assert!(huge.header.status.is_error() && huge.header.status != Status::MORE_PROCESSING_REQUIRED);
}

/// Row 15: logins that are begun and left are bounded.
#[test]
fn half_logins_have_a_bound() {
    let world = World::plain();
    let mut peer = Peer::new(Client::default(), world.pair());
    peer.negotiate().unwrap();
    let mut initiator = smb_proto::testing::Initiator::new(LoginOptions::new(USER, PASSWORD));
    let token = initiator.first();
    let refused = (0..2000).any(|_| {
        peer.client.begin_session();
        peer.leg(&token, 0).unwrap().header.status == Status::INSUFFICIENT_RESOURCES
    });
    assert!(refused, "2,000 half logins are kept on one connection");
}

/// Row 9: unsigned where a signature is required, and signatures that are wrong.
#[test]
fn requests_must_be_signed_where_required() {
    let world = World::new(|settings| settings.signing_required = true);
    for dialect in DIALECTS {
        let mut peer = world.peer(only(dialect), "dir");
        peer.client.protection = Protection::Plain;
        assert_eq!(status(peer.put("a", b"x", 1)), Status::ACCESS_DENIED, "{dialect:x}");
        peer.client.protection = Protection::Signed;
        for bit in [0, 17, 127] {
            let draft = peer.create_draft("a", disposition::OPEN_IF, 0);
            let ids = peer.send_bent(&[draft], |frame| frame[48 + bit / 8] ^= 1 << (bit % 8)).unwrap();
            assert_eq!(peer.answer(ids[0]).unwrap().header.status, Status::ACCESS_DENIED, "{dialect:x}");
        }
        let draft = peer.create_draft("a", disposition::OPEN_IF, 0);
        let ids = peer.send_bent(&[draft], |frame| *frame.last_mut().unwrap() ^= 1).unwrap();
        assert_eq!(peer.answer(ids[0]).unwrap().header.status, Status::ACCESS_DENIED, "{dialect:x}");
        assert!(!world.path("dir/a").exists());
        peer.put("a", b"x", 1).unwrap();
        std::fs::remove_file(world.path("dir/a")).unwrap();
    }
    let world = World::plain();
    let wants = Offer { security_mode: SIGNING_REQUIRED, ..Offer::default() };
    let mut peer = world.peer(wants, "dir");
    peer.client.protection = Protection::Plain;
    assert_eq!(status(peer.put("a", b"x", 1)), Status::ACCESS_DENIED, "the client required it");
}

/// Row 9: in a compound each part has a signature of its own.
#[test]
fn each_part_of_a_compound_is_verified() {
    let world = World::new(|settings| settings.signing_required = true);
    let mut peer = world.modern("dir");
    let drafts = [
        peer.create_draft("first", disposition::OPEN_IF, 0),
        peer.create_draft("second", disposition::OPEN_IF, 0),
    ];
    let ids = peer
        .send_bent(&drafts, |frame| {
            let next = u32::from_le_bytes(frame[20..24].try_into().unwrap()) as usize;
            frame[next + 48] ^= 1;
        })
        .unwrap();
    assert_eq!(peer.answer(ids[0]).unwrap().header.status, Status::SUCCESS);
    assert_eq!(peer.answer(ids[1]).unwrap().header.status, Status::ACCESS_DENIED);
    assert!(world.path("dir/first").exists() && !world.path("dir/second").exists());
}

/// Row 9: signed by another session, of another user or of the same.
#[test]
fn another_sessions_signature_proves_nothing() {
    let world = World::new(|settings| settings.signing_required = true);
    for user in [USER, OTHER] {
        let mut victim = world.modern("dir");
        let mut thief = Peer::connect(Client::default(), world.pair(), user, PASSWORD).unwrap();
        victim.client.steal_keys(&mut thief.client);
        let draft = victim.create_draft("stolen", disposition::OPEN_IF, 0);
        let ids = victim.send(&[draft]).unwrap();
        // The answer is signed with the true key, which this client does not have any more.
        assert!(matches!(victim.answer(ids[0]), Err(ClientError::Signature)));
        assert!(!world.path("dir/stolen").exists());
    }
}

/// Row 9: a session is used on its own connection only, whoever knows its id.
#[test]
fn a_session_id_of_another_connection_is_nobodys() {
    let world = World::plain();
    let victim = world.modern("dir");
    let mut other = world.modern("dir");
    let own = other.client.session_id;
    other.client.session_id = victim.client.session_id;
    other.client.protection = Protection::Plain;
    assert_eq!(status(other.create("a", disposition::OPEN_IF, 0)), Status::USER_SESSION_DELETED);
    other.client.session_id = own;
    assert_eq!(status(other.tree_connect("others")), Status::ACCESS_DENIED, "not this user's share");
    assert_eq!(status(other.tree_connect("none")), Status::BAD_NETWORK_NAME);
}

/// Row 9: what must be encrypted is not reached in the clear, neither a share nor the whole server.
#[test]
fn encryption_that_is_required_is_required() {
    let world = World::plain();
    let mut peer = world.modern("secret");
    assert_eq!(status(peer.put("a", b"x", 1)), Status::ACCESS_DENIED);
    peer.client.protection = Protection::Sealed;
    peer.put("a", b"x", 1).unwrap();
    let mut old = Peer::connect(Client::new(only(DIALECT_202)), world.pair(), USER, PASSWORD).unwrap();
    assert_eq!(status(old.tree_connect("secret")), Status::ACCESS_DENIED);

    let world = World::new(|settings| settings.encryption = Encryption::Required);
    let mut old = Peer::new(Client::new(only(DIALECT_202)), world.pair());
    old.negotiate().unwrap();
    assert_eq!(status(old.login(LoginOptions::new(USER, PASSWORD))), Status::ACCESS_DENIED);
    let mut peer = Peer::new(Client::default(), world.pair());
    peer.negotiate().unwrap();
    assert_eq!(peer.login(LoginOptions::new(USER, PASSWORD)).unwrap(), 4, "SMB2_SESSION_FLAG_ENCRYPT_DATA");
    peer.client.protection = Protection::Signed;
    assert_eq!(status(peer.tree_connect("dir")), Status::ACCESS_DENIED);
    peer.client.protection = Protection::Sealed;
    peer.tree_connect("dir").unwrap();
    use_a_file(&mut peer, "a");
}

/// Row 9: with 3.1.1 the keys are bound to every byte of NEGOTIATE and SESSION_SETUP.
#[test]
fn a_negotiation_changed_on_its_way_gives_other_keys() {
    let world = World::plain();
    // Bytes of the client's GUID, of a salt, of the offered ciphers.
    for at in [64 + 12, 64 + 60, 64 + 36 + 10 + 20] {
        let mut peer = Peer::new(Client::default(), world.pair());
        let draft = peer.client.negotiate();
        let mut frame = peer.client.frame(std::slice::from_ref(&draft));
        let sent = frame.clone();
        frame[at] ^= 1;
        peer.link.send(&frame).unwrap();
        let answer = peer.answer(0).unwrap();
        if peer.client.negotiated(&sent, &answer).is_err() {
            continue; // refused already
        }
        let refused = peer.login(LoginOptions::new(USER, PASSWORD));
        assert_eq!(refused, Err(ClientError::Signature), "byte {at}");
    }
    // In 3.0 and 3.0.2, VALIDATE_NEGOTIATE_INFO finds it, and the server cuts the connection.
    for dialect in [DIALECT_300, DIALECT_302] {
        let mut peer = world.peer(only(dialect), "dir");
        peer.client.offer.dialects = vec![0x0202, dialect];
        assert_eq!(peer.validate_negotiate(), Err(ClientError::Closed));
        assert!(peer.link.closed);
    }
}

/// MS-SMB2 3.3.5.4: a second NEGOTIATE ends the connection, in whatever form it comes.
#[test]
fn a_second_negotiate_ends_the_connection() {
    for dialects in [vec![0x0311], vec![0x0202], vec![0x0999]] {
        let world = World::plain();
        let mut peer = world.modern("dir");
        peer.client.offer.dialects = dialects.clone();
        let draft = peer.client.negotiate();
        peer.client.protection = Protection::Plain;
        peer.send(&[draft]).unwrap();
        assert!(peer.link.closed, "{dialects:x?}");
    }
}

/// Row 10: a transform in the name of another session, with another's key, or changed, ends the connection.
#[test]
fn transforms_that_are_not_this_sessions_end_the_connection() {
    let world = World::plain();
    let bends: [(&str, Bend); 9] = [
        ("another session's id", |frame, other| frame[44..52].copy_from_slice(&other.to_le_bytes())),
        ("no session's id", |frame, _| frame[44..52].fill(0xEE)),
        ("session 0", |frame, _| frame[44..52].fill(0)),
        ("the tag", |frame, _| frame[4] ^= 1),
        ("the nonce", |frame, _| frame[20] ^= 1),
        ("the message", |frame, _| *frame.last_mut().unwrap() ^= 1),
        ("OriginalMessageSize", |frame, _| frame[36..40].copy_from_slice(&u32::MAX.to_le_bytes())),
        ("its flags", |frame, _| frame[42] = 2),
        ("its end", |frame, _| frame.truncate(TRANSFORM_LEN + 3)),
    ];
    for (what, bend) in bends {
        let other = world.modern("dir");
        let mut peer = world.modern("dir");
        peer.client.protection = Protection::Sealed;
        let draft = peer.create_draft("sealed", disposition::OPEN_IF, 0);
        peer.send_bent(&[draft], |frame| bend(frame, other.client.session_id)).unwrap();
        assert!(peer.link.closed, "{what}");
        assert!(!world.path("dir/sealed").exists(), "{what}");
    }
}

/// Row 10: what is inside a transform is of the session whose key sealed it, and is no further transform or SMB1.
#[test]
fn what_is_inside_a_transform_is_its_sessions() {
    let world = World::plain();
    let mut victim = world.modern("dir");
    let mut thief = world.modern("dir");
    let mut draft = thief.create_draft("stolen", disposition::OPEN_IF, 0);
    draft.header.session_id = victim.client.session_id;
    thief.client.protection = Protection::Plain;
    let plain = thief.client.frame(&[draft]);
    let sealed = thief.client.seal(&plain, thief.client.session_id);
    thief.link.send(&sealed).unwrap();
    assert!(!world.path("dir/stolen").exists());
    assert!(thief.link.closed || thief.link.receive().is_ok_and(|frame| !frame.is_empty()));

    // Both on one connection, where the other's session can be found.
    let mut both = world.modern("dir");
    let (session, tree) = (both.client.session_id, both.client.tree_id);
    both.login(LoginOptions::new(OTHER, PASSWORD)).unwrap();
    both.client.protection = Protection::Plain;
    let mut draft = both.create_draft("stolen", disposition::OPEN_IF, 0);
    (draft.header.session_id, draft.header.tree_id) = (session, tree);
    let plain = both.client.frame(&[draft]);
    let sealed = both.client.seal(&plain, both.client.session_id);
    both.link.send(&sealed).unwrap();
    assert!(both.link.closed, "sealed by another session of the same connection");
    assert!(!world.path("dir/stolen").exists());

    let draft = victim.create_draft("nested", disposition::OPEN_IF, 0);
    victim.client.protection = Protection::Sealed;
    let sealed = victim.client.frame(&[draft]);
    let nested = victim.client.seal(&sealed, victim.client.session_id);
    victim.link.send(&nested).unwrap();
    assert!(victim.link.closed && !world.path("dir/nested").exists());

    let mut peer = world.modern("dir");
    let smb1 = smb_proto::frame::Smb1Negotiate { smb2_002: true, smb2_wildcard: true }.encode();
    let sealed = peer.client.seal(&smb1, peer.client.session_id);
    peer.link.send(&sealed).unwrap();
    assert!(peer.link.closed, "SMB1 inside a transform");

    let mut early = Peer::new(Client::default(), world.pair());
    early.negotiate().unwrap();
    let mut frame = early.client.seal(&[0; 100], 1);
    frame[..4].copy_from_slice(b"\xfdSMB");
    early.link.send(&frame).unwrap();
    assert!(early.link.closed, "a transform before any login");
}

/// Row 10: no nonce is used twice under one key.
#[test]
fn the_servers_nonces_never_repeat() {
    let world = World::plain();
    let mut peer = world.modern("dir");
    peer.client.protection = Protection::Sealed;
    let mut nonces = HashSet::new();
    for round in 0..200 {
        let draft = if round % 2 == 0 {
            peer.create_draft("a", disposition::OPEN_IF, 0)
        } else {
            peer.client.draft(Command::ECHO, 0, |out| smb_proto::msg::echo::Request.encode(out))
        };
        let frame = peer.client.frame(&[draft]);
        peer.link.send(&frame).unwrap();
        let answer = peer.link.receive().unwrap();
        assert_eq!(&answer[..4], b"\xfdSMB", "sealed requests have sealed answers");
        assert!(nonces.insert(answer[20..36].to_vec()), "a nonce repeats");
        peer.client.open(answer).unwrap();
    }
}

/// MS-SMB2 3.3.5.5.3: PreviousSessionId ends the old session of the same user, and nobody else's.
#[test]
fn a_previous_session_is_ended_by_its_own_user_only() {
    let world = World::plain();
    let mut first = world.modern("dir");
    let open = first.create("a", disposition::OPEN_IF, 0).unwrap();
    let again = |user: &str| {
        let mut peer = Peer::new(Client::default(), world.pair());
        peer.negotiate().unwrap();
        let previous_session = first.client.session_id;
        peer.login(LoginOptions { previous_session, ..LoginOptions::new(user, PASSWORD) }).unwrap();
        peer
    };
    let _stranger = again(OTHER);
    let mut first_again = world.modern("dir");
    first_again.put("b", b"x", 1).unwrap();
    assert!(world.server.session(first.client.session_id).is_some(), "someone else's login ends nothing");
    let _back = again(USER);
    assert!(world.server.session(first.client.session_id).is_none());
    assert_eq!(status(first.close(open.id)), Status::USER_SESSION_DELETED);
}
