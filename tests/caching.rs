//! Oplocks and leases between connections (MS-SMB2 3.3.4.6, 3.3.4.7, 3.3.5.9, 3.3.5.22): a conflicting CREATE waits, the holder
//! is told on its own connection, and its acknowledgement, its close or its end lets the other go on.
#![allow(clippy::unwrap_used)]

mod desk;

use desk::{Client, Desk, Message, Open};
use smb_proto::fscc::info;
use smb_proto::msg::create::context::{self, LEASE_HANDLE, LEASE_READ, LEASE_WRITE, Lease, LeaseV2, Writer};
use smb_proto::msg::create::{self, oplock};
use smb_proto::msg::oplock_break::{self as wire, LeaseNotification};
use smb_proto::msg::query_info::info_type;
use smb_proto::msg::{FileId, set_info};
use smb_proto::{Command, Status};

const RH: u32 = LEASE_READ | LEASE_HANDLE;
const RWH: u32 = RH | LEASE_WRITE;

fn batch(name: &str) -> Open<'_> {
    Open { oplock: oplock::BATCH, ..Open::file(name) }
}

/// Opens with a lease of version 2.
fn lease(client: &mut Client, name: &str, key: u8, state: u32) -> Message {
    let v2 = Some(LeaseV2 { parent_key: [0; 16], epoch: 1 });
    let mut contexts = Writer::new();
    contexts.push(context::RQLS, &Lease { key: [key; 16], state, flags: 0, v2 }.encode());
    client.open(&Open { oplock: oplock::LEASE, contexts: contexts.contexts(), ..Open::file(name) })
}

fn leased(message: &Message) -> Lease {
    let response = create::Response::decode(&message.0).unwrap();
    assert_eq!(response.oplock_level, oplock::LEASE);
    Lease::decode(response.contexts.find(context::RQLS).unwrap()).unwrap()
}

fn level(message: &Message) -> u8 {
    create::Response::decode(&message.0).unwrap().oplock_level
}

fn acknowledge(client: &mut Client, file_id: FileId, level: u8) -> Status {
    let request = wire::Request::Oplock(wire::Oplock { level, file_id });
    client.request(Command::OPLOCK_BREAK, |out| request.encode(out)).status()
}

fn acknowledge_lease(client: &mut Client, key: u8, state: u32) -> Status {
    let request = wire::Request::Lease(wire::Lease { flags: 0, key: [key; 16], state });
    client.request(Command::OPLOCK_BREAK, |out| request.encode(out)).status()
}

fn only(mut sent: Vec<Message>) -> Message {
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent.remove(0)
}

#[test]
fn a_batch_oplock_breaks_for_the_second_opener_who_waits() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let held = first.open(&batch("f"));
    assert_eq!(level(&held), oplock::BATCH);
    assert_eq!(second.open(&batch("f")).status(), Status::PENDING);
    let told = only(first.poll());
    assert_eq!((told.header().command, told.header().message_id), (Command::OPLOCK_BREAK, u64::MAX));
    let wire::Request::Oplock(told) = wire::Request::decode(&told.0).unwrap() else { panic!("a lease") };
    assert_eq!((told.level, told.file_id), (oplock::LEVEL_II, held.file_id()));
    assert!(second.poll().is_empty());
    assert_eq!(acknowledge(&mut first, held.file_id(), oplock::LEVEL_II), Status::SUCCESS);
    let opened = only(second.poll());
    assert_eq!((opened.status(), level(&opened)), (Status::SUCCESS, oplock::LEVEL_II));
    assert_eq!(acknowledge(&mut first, held.file_id(), oplock::NONE), Status::INVALID_OPLOCK_PROTOCOL);
}

#[test]
fn a_holder_that_closes_or_goes_away_makes_room() {
    let desk = Desk::new();
    let exclusive = Open { share: 0, ..batch("f") };
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let held = first.open(&exclusive);
    assert_eq!(second.open(&exclusive).status(), Status::PENDING);
    assert_eq!(first.close(held.file_id()), Status::SUCCESS);
    assert_eq!(level(&only(second.poll())), oplock::BATCH);
    assert_eq!(only(first.poll()).header().command, Command::OPLOCK_BREAK);
    assert_eq!(first.open(&exclusive).status(), Status::PENDING);
    assert_eq!(only(second.poll()).header().command, Command::OPLOCK_BREAK);
    desk.server.remove_session(second.session.id);
    assert_eq!(level(&only(first.poll())), oplock::BATCH);
}

#[test]
fn one_who_refuses_to_share_keeps_others_out_when_he_has_answered() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let held = first.open(&Open { share: 0, ..batch("f") });
    assert_eq!(second.open(&batch("f")).status(), Status::PENDING);
    assert_eq!(acknowledge(&mut first, held.file_id(), oplock::NONE), Status::SUCCESS);
    assert_eq!(only(second.poll()).status(), Status::SHARING_VIOLATION);
}

#[test]
fn what_ends_a_wait_never_overtakes_its_interim_response() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let held = first.open(&batch("f"));
    let output = second.run_only(vec![desk::part(Command::CREATE, false, |out| batch("f").encode(out))]);
    first.close(held.file_id());
    assert!(second.poll().is_empty(), "the interim response is not out yet");
    assert_eq!(only(second.sent(&output)).status(), Status::PENDING);
    assert_eq!(level(&only(second.poll())), oplock::BATCH);
}

#[test]
fn a_lease_is_the_clients_and_breaks_on_any_of_its_connections() {
    let desk = Desk::new();
    let (mut first, mut other) = (desk.client(1, "a"), desk.client(2, "b"));
    assert_eq!(leased(&lease(&mut first, "f", 1, RWH)).state, RWH);
    let mut again = desk.client(1, "a");
    let shared = lease(&mut again, "f", 1, RWH);
    assert_eq!((leased(&shared).state, leased(&shared).v2.unwrap().epoch), (RWH, 2));
    assert!(first.poll().is_empty(), "a lease does not break for its own opens");
    assert_eq!(lease(&mut other, "f", 1, RWH).status(), Status::PENDING, "another client's key is another");
    let told = LeaseNotification::decode(&only(first.poll()).0).unwrap();
    assert_eq!((told.current_state, told.new_state, told.new_epoch, told.flags), (RWH, RH, 3, 1));
    assert!(again.poll().is_empty(), "told once");
    assert_eq!(acknowledge_lease(&mut again, 1, RH), Status::SUCCESS);
    assert_eq!(leased(&only(other.poll())).state, RH);
    // The opens live on, without what was given up.
    assert_eq!(leased(&lease(&mut again, "f", 1, 0)).state, RH);
}

#[test]
fn a_key_leases_one_file() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let first = lease(&mut client, "f", 1, RWH);
    assert_eq!(lease(&mut client, "g", 1, RWH).status(), Status::INVALID_PARAMETER);
    client.close(first.file_id());
    assert_eq!(leased(&lease(&mut client, "g", 1, RWH)).state, RWH);
}

#[test]
fn a_write_tells_the_readers_and_does_not_wait() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    lease(&mut first, "f", 1, LEASE_READ);
    let writer = second.open(&Open::file("f"));
    assert_eq!(second.write(writer.file_id(), 0, b"data"), Status::SUCCESS);
    let told = LeaseNotification::decode(&only(first.poll()).0).unwrap();
    assert_eq!((told.current_state, told.new_state, told.flags), (LEASE_READ, 0, 0));
    assert_eq!(second.write(writer.file_id(), 0, b"data"), Status::SUCCESS);
    assert!(first.poll().is_empty());
}

#[test]
fn a_deletion_waits_until_cached_handles_are_closed() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    lease(&mut first, "f", 1, RH);
    let delete = Open { options: create::options::DELETE_ON_CLOSE, ..Open::file("f") };
    assert_eq!(second.open(&delete).status(), Status::PENDING);
    let told = LeaseNotification::decode(&only(first.poll()).0).unwrap();
    assert_eq!((told.current_state, told.new_state), (RH, LEASE_READ));
    assert_eq!(acknowledge_lease(&mut first, 1, LEASE_READ), Status::SUCCESS);
    assert_eq!(only(second.poll()).status(), Status::SUCCESS);
}

/// FileRenameInformation (MS-FSCC 2.4.42), replacing what is there.
fn rename(client: &mut Client, file_id: FileId, to: &str) -> Message {
    let name = smb_proto::utf16::encode(to);
    let mut data = vec![0; 20];
    data[0] = 1;
    data[16..].copy_from_slice(&(name.len() as u32).to_le_bytes());
    data.extend(name);
    let request = set_info::Request {
        info_type: info_type::FILE,
        info_class: info::class::RENAME,
        additional_information: 0,
        file_id,
        data: &data,
    };
    client.request(Command::SET_INFO, |out| request.encode(out))
}

#[test]
fn a_rename_asks_for_what_is_only_kept_open_at_its_target() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let kept = first.open(&batch("to")).file_id();
    let moved = second.open(&Open::file("from")).file_id();
    assert_eq!(rename(&mut second, moved, "to").status(), Status::PENDING);
    assert_eq!(only(first.poll()).header().command, Command::OPLOCK_BREAK);
    assert_eq!(first.close(kept), Status::SUCCESS);
    assert_eq!(only(second.poll()).status(), Status::SUCCESS);
    // One who really has it open says so by keeping it.
    lease(&mut first, "other", 1, RH);
    assert_eq!(rename(&mut second, moved, "other").status(), Status::PENDING);
    first.poll();
    assert_eq!(acknowledge_lease(&mut first, 1, LEASE_READ), Status::SUCCESS);
    assert_eq!(only(second.poll()).status(), Status::ACCESS_DENIED);
}

#[test]
fn a_directorys_rename_asks_for_what_is_only_kept_open_below() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let options = create::options::DIRECTORY_FILE;
    let moved = second.open(&Open { options, ..Open::file("d") }).file_id();
    let kept = lease(&mut first, "d\\f", 1, RWH).file_id();
    assert_eq!(rename(&mut second, moved, "e").status(), Status::PENDING);
    let told = LeaseNotification::decode(&only(first.poll()).0).unwrap();
    assert_eq!((told.current_state, told.new_state), (RWH, LEASE_READ | LEASE_WRITE));
    assert_eq!(first.close(kept), Status::SUCCESS);
    assert_eq!(only(second.poll()).status(), Status::SUCCESS);
    assert!(desk.directory.path().join("e/f").exists());
}

#[test]
fn a_directorys_rename_goes_on_when_the_last_below_is_closed_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let desk = Desk::new();
        let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
        let options = create::options::DIRECTORY_FILE;
        let moved = second.open(&Open { options, ..Open::file("d") }).file_id();
        let sub = second.open(&Open { options, ..Open::file("d\\sub") }).file_id();
        assert_eq!(second.close(sub), Status::SUCCESS);
        let kept = [
            lease(&mut first, "d\\f", 1, RH).file_id(),
            lease(&mut first, "d\\f", 1, RH).file_id(),
            first.open(&batch("d\\sub\\g")).file_id(),
        ];
        assert_eq!(rename(&mut second, moved, "e").status(), Status::PENDING);
        assert_eq!(first.poll().len(), 2, "one break for the lease, one for the oplock");
        for which in order {
            assert!(second.poll().is_empty(), "{order:?} at {which}");
            assert_eq!(first.close(kept[which]), Status::SUCCESS);
        }
        assert_eq!(only(second.poll()).status(), Status::SUCCESS, "{order:?}");
    }
}

/// Opens a directory with a lease.
fn lease_directory(client: &mut Client, name: &str, key: u8, state: u32) -> Message {
    let v2 = Some(LeaseV2 { parent_key: [0; 16], epoch: 1 });
    let mut contexts = Writer::new();
    contexts.push(context::RQLS, &Lease { key: [key; 16], state, flags: 0, v2 }.encode());
    let options = create::options::DIRECTORY_FILE;
    let access = 0x0012_0089; // to read it
    client.open(&Open {
        access,
        oplock: oplock::LEASE,
        options,
        contexts: contexts.contexts(),
        ..Open::file(name)
    })
}

/// What a directory's lease was told to keep: nothing.
fn told_to_list_again(client: &mut Client) {
    let told = LeaseNotification::decode(&only(client.poll()).0).unwrap();
    assert_eq!((told.current_state, told.new_state, told.flags), (RH, 0, 1));
}

#[test]
fn a_directorys_lease_breaks_when_its_entries_change() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    assert_eq!(
        leased(&lease_directory(&mut first, "d", 1, RWH)).state,
        RH,
        "nothing is written to a directory"
    );
    let file = second.open(&Open::file("D\\f")).file_id();
    told_to_list_again(&mut first);
    assert_eq!(acknowledge_lease(&mut first, 1, 0), Status::SUCCESS);
    for step in 0..4 {
        assert_eq!(leased(&lease_directory(&mut first, "d", 1, RH)).state, RH);
        match step {
            0 => {
                let written = second.open(&Open::file("d\\f")).file_id();
                assert_eq!(second.write(written, 0, b"x"), Status::SUCCESS);
                assert!(first.poll().is_empty(), "told at the close");
                assert_eq!(second.close(written), Status::SUCCESS);
            }
            1 => assert_eq!(rename(&mut second, file, "d\\g").status(), Status::SUCCESS),
            2 => drop(second.open(&Open { disposition: 5, ..Open::file("d\\g") })),
            _ => {
                let delete = Open { options: create::options::DELETE_ON_CLOSE, ..Open::file("d\\new") };
                drop(second.open(&delete));
            }
        }
        told_to_list_again(&mut first);
        assert_eq!(acknowledge_lease(&mut first, 1, 0), Status::SUCCESS);
    }
    // What happens elsewhere, or is only looked at, disturbs nobody.
    lease_directory(&mut first, "d", 1, RH);
    second.open(&Open::file("elsewhere"));
    second.open(&Open { access: 0x80, ..Open::file("d\\g") });
    assert!(first.poll().is_empty());
}

#[test]
fn a_clients_own_changes_under_the_parents_key_do_not_break_its_lease() {
    let desk = Desk::new();
    let (mut first, mut other) = (desk.client(1, "a"), desk.client(2, "b"));
    lease_directory(&mut first, "d", 1, RH);
    let create = |client: &mut Client, name: &str, key: u8| {
        let v2 = Some(LeaseV2 { parent_key: [1; 16], epoch: 1 });
        let lease = Lease { key: [key; 16], state: RWH, flags: context::LEASE_FLAG_PARENT_KEY_SET, v2 };
        let mut contexts = Writer::new();
        contexts.push(context::RQLS, &lease.encode());
        client.open(&Open { oplock: oplock::LEASE, contexts: contexts.contexts(), ..Open::file(name) })
    };
    assert_eq!(create(&mut first, "d\\f", 2).status(), Status::SUCCESS);
    assert!(first.poll().is_empty());
    assert_eq!(create(&mut other, "d\\g", 2).status(), Status::SUCCESS);
    told_to_list_again(&mut first);
}

#[test]
fn directories_have_no_oplocks() {
    let desk = Desk::new();
    let mut client = desk.client(1, "a");
    let options = create::options::DIRECTORY_FILE;
    assert_eq!(level(&client.open(&Open { options, ..batch("d") })), oplock::NONE);
}

#[test]
fn a_break_that_was_lost_with_its_channel_is_sent_on_another() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let mut channel = desk.channel(&first.session, first.tree);
    let held = first.open(&batch("f")).file_id();
    lease(&mut first, "g", 7, RWH);
    assert_eq!(second.open(&Open::file("f")).status(), Status::PENDING);
    assert_eq!(second.open(&Open::file("g")).status(), Status::PENDING);
    assert!(channel.poll().is_empty(), "sent on the channel that opened");
    first.lose();
    let sent = channel.poll();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(acknowledge(&mut channel, held, oplock::LEVEL_II), Status::SUCCESS);
    assert_eq!(acknowledge_lease(&mut channel, 7, RH), Status::SUCCESS);
    assert_eq!(second.poll().len(), 2);
}

#[test]
fn a_break_that_was_acknowledged_is_not_sent_again() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.client(1, "a"), desk.client(2, "b"));
    let mut channel = desk.channel(&first.session, first.tree);
    let held = first.open(&batch("f")).file_id();
    assert_eq!(second.open(&Open::file("f")).status(), Status::PENDING);
    assert_eq!(acknowledge(&mut first, held, oplock::LEVEL_II), Status::SUCCESS);
    first.lose();
    assert!(channel.poll().is_empty());
}
