//! A client's bytes against a pipe.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::ndr::{Decoder, Encoder};
use super::*;

struct Names(usize);

impl Provider for Names {
    fn shares(&self) -> Vec<ShareInfo> {
        let share = |n| ShareInfo { name: format!("share{n}"), remark: "a remark".into(), kind: 0 };
        (0..self.0).map(share).collect()
    }
    fn server_name(&self) -> String {
        "APPLIANCE".into()
    }
    fn domain(&self) -> String {
        "WORKGROUP".into()
    }
    fn comment(&self) -> String {
        String::new()
    }
    fn now(&self) -> Duration {
        Duration::from_millis(1_795_593_600_250) // 2026-11-25 08:00:00.25, a Wednesday
    }
}

fn pdu(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![5, 0, kind, flags, 0x10, 0, 0, 0];
    out.put_u16((HEADER_LEN + body.len()) as u16);
    out.put_u16(0);
    out.put_u32(1);
    out.put_slice(body);
    out
}

fn bind(syntax: &[u8; 20]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_slice(&[0xB8, 0x10, 0xB8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    body.put_slice(syntax);
    body.put_slice(&NDR);
    pdu(BIND, FIRST | LAST, &body)
}

fn request(flags: u8, operation: u16, stub: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32(0);
    body.put_u16(0);
    body.put_u16(operation);
    body.put_slice(stub);
    pdu(REQUEST, flags, &body)
}

/// Everything that waits, read message by message.
fn read_all(pipe: &mut Pipe) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match pipe.read(&mut buffer) {
            0 => return all,
            count => all.put_slice(&buffer[..count]),
        }
    }
}

fn bound(interface: Interface) -> Pipe {
    let mut pipe = Pipe::new(interface);
    pipe.write(&bind(interface.syntax()), &Names(0)).unwrap();
    assert_eq!(read_all(&mut pipe)[2], BIND_ACK);
    pipe
}

fn share_enum(level: u32) -> Vec<u8> {
    let mut stub = Encoder::default();
    stub.string_pointer("\\\\APPLIANCE");
    stub.flush();
    [level, level, 0x2_0008, 0, 0, u32::MAX, 0].into_iter().for_each(|value| stub.u32(value));
    stub.finish()
}

/// The stubs of a response's fragments, joined.
fn stub_of(mut output: &[u8]) -> Vec<u8> {
    let mut stub = Vec::new();
    while !output.is_empty() {
        let (pdu, len) = split(output).unwrap().unwrap();
        assert_eq!(pdu.kind, RESPONSE);
        stub.put_slice(&pdu.body[8..]);
        output = &output[len..];
    }
    stub
}

#[test]
fn shares_are_listed_over_many_fragments() {
    let mut pipe = bound(Interface::Srvsvc);
    pipe.write(&request(FIRST | LAST, 15, &share_enum(1)), &Names(200)).unwrap();
    let output = read_all(&mut pipe);
    assert!(output.len() > 2 * usize::from(FRAGMENT_MAX));
    let stub = stub_of(&output);
    let mut r = Decoder::new(&stub);
    let head: Vec<u32> = (0..6).map(|_| r.u32().unwrap()).collect();
    assert_eq!((head[0], head[3], head[5]), (1, 200, 200));
    for _ in 0..200 * 3 {
        r.u32().unwrap();
    }
    for n in 0..200 {
        assert_eq!(r.string().unwrap(), format!("share{n}"));
        assert_eq!(r.string().unwrap(), "a remark");
    }
    assert_eq!([r.u32(), r.u32(), r.u32()], [Ok(200), Ok(0), Ok(0)]);
}

#[test]
fn a_request_may_come_byte_by_byte_and_in_fragments() {
    let mut pipe = bound(Interface::Srvsvc);
    let stub = share_enum(0);
    let bytes = [request(FIRST, 15, &stub[..20]), request(LAST, 15, &stub[20..])].concat();
    for byte in &bytes {
        pipe.write(&[*byte], &Names(1)).unwrap();
    }
    assert!(!stub_of(&read_all(&mut pipe)).is_empty());
}

#[test]
fn what_is_not_there_is_a_fault_and_a_foreign_interface_is_refused() {
    let mut pipe = bound(Interface::Wkssvc);
    let null_name = [0; 8];
    pipe.write(&request(FIRST | LAST, 99, &null_name), &Names(0)).unwrap();
    let fault = read_all(&mut pipe);
    assert_eq!((fault[2], &fault[24..28]), (FAULT, &OP_RANGE.to_le_bytes()[..]));
    // Parameters that do not begin with a name make no difference.
    pipe.write(&request(FIRST | LAST, 99, &[1]), &Names(0)).unwrap();
    assert_eq!(read_all(&mut pipe)[24..28], OP_RANGE.to_le_bytes());
    pipe.write(&request(FIRST | LAST, 0, &[1]), &Names(0)).unwrap();
    assert_eq!(read_all(&mut pipe)[24..28], BAD_STUB.to_le_bytes());

    let mut pipe = Pipe::new(Interface::Srvsvc);
    pipe.write(&bind(&WKSSVC), &Names(0)).unwrap();
    read_all(&mut pipe);
    pipe.write(&request(FIRST | LAST, 15, &share_enum(1)), &Names(0)).unwrap();
    assert_eq!(read_all(&mut pipe)[24..28], UNKNOWN_INTERFACE.to_le_bytes());
}

#[test]
fn an_endless_request_is_cut_off() {
    let mut pipe = bound(Interface::Srvsvc);
    let first = request(FIRST, 15, &[0; 4000]);
    pipe.write(&first, &Names(0)).unwrap();
    let more = request(0, 15, &[0; 4000]);
    assert!((0..20).any(|_| pipe.write(&more, &Names(0)).is_err()));
}

proptest! {
    #[test]
    fn no_bytes_panic(kind in 0_u8..20, flags in 0_u8..4, body in prop::collection::vec(any::<u8>(), 0..128)) {
        let mut pipe = bound(Interface::Srvsvc);
        let _ = pipe.write(&pdu(kind, flags, &body), &Names(2));
        let _ = pipe.write(&request(FIRST | LAST, 15 + u16::from(flags), &body), &Names(2));
    }
}

fn asked(operation: u16, stub: Encoder) -> Vec<u8> {
    let mut pipe = bound(Interface::Srvsvc);
    pipe.write(&request(FIRST | LAST, operation, &stub.finish()), &Names(3)).unwrap();
    stub_of(&read_all(&mut pipe))
}

fn named(names: &[&str]) -> Encoder {
    let mut stub = Encoder::default();
    for name in names {
        stub.string_pointer(name);
        stub.flush();
    }
    stub
}

/// A `[string]` that is no pointer, as names of shares and paths are sent.
fn put_name(stub: &mut Encoder, name: &str) {
    stub.u32(name.len() as u32 + 1);
    stub.fixed_string(name);
}

#[test]
fn a_read_never_gives_bytes_of_two_messages() {
    let mut pipe = bound(Interface::Srvsvc);
    let bytes = request(FIRST | LAST, 15, &share_enum(0));
    pipe.write(&bytes, &Names(1)).unwrap();
    let one = pipe.available();
    pipe.write(&bytes, &Names(1)).unwrap();
    assert_eq!(pipe.available(), 2 * one);
    let mut buffer = vec![0; 4 * one];
    assert_eq!((pipe.read(&mut buffer[..10]), pipe.left_of_message()), (10, one - 10));
    assert_eq!((pipe.read(&mut buffer), pipe.left_of_message()), (one - 10, 0));
    assert_eq!((pipe.read(&mut buffer), pipe.available(), pipe.read(&mut buffer)), (one, 0, 0));
}

#[test]
fn the_time_of_day_is_told_in_its_parts() {
    let stub = asked(28, named(&["s"]));
    let mut r = Decoder::new(&stub);
    let values: Vec<u32> = (0..14).map(|_| r.u32().unwrap()).collect();
    assert_eq!(values[1], 1_795_593_600);
    assert_eq!(values[3..7], [8, 0, 0, 25]);
    assert_eq!(values[9..], [25, 11, 2026, 3, 0]);
}

#[test]
fn a_shared_path_is_found_and_another_is_not() {
    for (path, expected) in [("C:\\share2", 0), ("c:\\SHARE1", 0), ("C:\\other", 2311)] {
        let mut stub = named(&["s"]);
        put_name(&mut stub, path);
        let answer = asked(20, stub);
        assert_eq!(answer[4..], u32::to_le_bytes(expected), "{path}");
    }
}

#[test]
fn what_only_administrators_may_list_is_refused_in_the_shape_that_was_asked_for() {
    for (operation, names) in [(8, 1), (9, 2), (12, 2), (26, 0)] {
        let mut stub = named(&["s", "a", "b"][..=names]);
        [1, 1, 0x2_0000, 0, 0, u32::MAX, 0].into_iter().for_each(|value| stub.u32(value));
        let answer = asked(operation, stub);
        assert_eq!(
            (&answer[..4], answer.last_chunk()),
            (&[1, 0, 0, 0][..], Some(&[5, 0, 0, 0])),
            "{operation}"
        );
    }
}

#[test]
fn names_of_shares_are_checked() {
    let valid = |name: &str, kind: u32| {
        let mut stub = named(&["s"]);
        put_name(&mut stub, name);
        stub.u32(kind);
        stub.u32(0);
        asked(33, stub)[0]
    };
    assert_eq!(
        [valid("import", 9), valid("a/b", 9), valid(&"x".repeat(81), 9), valid("import", 1)],
        [0, 123, 123, 87]
    );
}
