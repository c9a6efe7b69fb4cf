//! What an NBD server says, from arbitrary bytes: the handshake and replies never panic, and no reply goes beyond what was
//! asked. Addresses too.
#![no_main]

use std::io::{self, Read, Write};

use importfs::datastore::nbd::uri::{Place, Uri, fill};
use importfs::datastore::nbd::wire::{Command, Content, Expected, agree, greet, read_reply, start_tls};
use libfuzzer_sys::fuzz_target;

/// Bytes that a request asks for: more than the inputs have, so that lengths matter.
const ASKED: u32 = 8192;

/// The input as a server's side.
struct Canned<'a>(&'a [u8]);

impl Read for Canned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Canned<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = greet(&mut Canned(data));
    let _ = start_tls(&mut Canned(data));
    let _ = agree(&mut Canned(data), "export");
    for command in [Command::Read, Command::Write, Command::BlockStatus, Command::Flush] {
        let expected = Expected { command, offset: 1 << 20, length: ASKED };
        let mut rest = data;
        while let Ok(reply) = read_reply(&mut rest, |_| Some(expected)) {
            match reply.content {
                Content::Data(inside, bytes) => assert!(inside + bytes.len() <= ASKED as usize),
                Content::Hole(inside, length) => assert!(inside + length <= ASKED as usize),
                _ => {}
            }
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Uri::parse(text);
    let place =
        Place { datastore: "d", directory: text, extent: "x-flat.vmdk", descriptor: "x.vmdk", machine: None };
    if !text.contains('\0') && text.len() < 1000 {
        let filled = fill("nbd://h/{directory}", place).expect("a good template");
        assert_eq!(Uri::parse(&filled).expect("an address").export, text);
    }
});
