//! DCE/RPC over named pipes (C706 12, MS-RPCE), connection-oriented, as a machine without input or output:
//! [`Pipe::write`] takes the bytes a client wrote, [`Pipe::read`] gives those it may read.
//!
//! Two interfaces live here: srvsvc (the list of shares) and wkssvc (the workstation's names). What they tell comes
//! from a [`Provider`]. No authentication of its own: the SMB session has done that.

pub mod ndr;
mod service;
mod srvsvc;
mod wkssvc;

pub use service::{Provider, ShareInfo};

use std::collections::VecDeque;

use crate::codec::{DecodeError, Put, Reader};

/// Largest fragment taken or sent, in bytes; what Windows uses over pipes (MS-RPCE 3.3.1.5.1).
const FRAGMENT_MAX: u16 = 4280;
/// Longest request over all its fragments: none of the operations here takes more than a few names.
const REQUEST_MAX: usize = 64 * 1024;
/// Most bytes that wait to be read; a client that writes on without reading is refused.
const PENDING_MAX: usize = 4 * 1024 * 1024;
/// Length of the header that every PDU has.
const HEADER_LEN: usize = 16;
/// Presentation contexts in one bind; clients send up to three.
const CONTEXTS_MAX: u8 = 16;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 2;
const FAULT: u8 = 3;
const BIND: u8 = 11;
const BIND_ACK: u8 = 12;
const BIND_NAK: u8 = 13;
const ALTER_CONTEXT: u8 = 14;
const ALTER_CONTEXT_RESPONSE: u8 = 15;

const FIRST: u8 = 1;
const LAST: u8 = 2;

/// nca_s_op_rng_error: no such operation.
const OP_RANGE: u32 = 0x1C01_0002;
/// nca_s_unk_if: no such presentation context.
const UNKNOWN_INTERFACE: u32 = 0x1C01_0003;
/// rpc_x_bad_stub_data.
const BAD_STUB: u32 = 0x0000_06F7;

/// 8a885d04-1ceb-11c9-9fe8-08002b104860 version 2: NDR.
const NDR: [u8; 20] = [
    0x04, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8, 0x08, 0x00, 0x2b, 0x10, 0x48, 0x60, 2, 0, 0,
    0,
];
/// 4b324fc8-1670-01d3-1278-5a47bf6ee188 version 3.0: srvsvc (MS-SRVS 1.9).
const SRVSVC: [u8; 20] = [
    0xc8, 0x4f, 0x32, 0x4b, 0x70, 0x16, 0xd3, 0x01, 0x12, 0x78, 0x5a, 0x47, 0xbf, 0x6e, 0xe1, 0x88, 3, 0, 0,
    0,
];
/// 6bffd098-a112-3610-9833-46c3f87e345a version 1.0: wkssvc (MS-WKST 1.9).
const WKSSVC: [u8; 20] = [
    0x98, 0xd0, 0xff, 0x6b, 0x12, 0xa1, 0x10, 0x36, 0x98, 0x33, 0x46, 0xc3, 0xf8, 0x7e, 0x34, 0x5a, 1, 0, 0,
    0,
];

/// The pipes that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// The server service.
    Srvsvc,
    /// The workstation service.
    Wkssvc,
}

impl Interface {
    /// The interface behind a pipe's name, without case.
    pub fn from_pipe_name(name: &str) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("srvsvc") { Some(Self::Srvsvc) } else { is("wkssvc").then_some(Self::Wkssvc) }
    }

    fn syntax(self) -> &'static [u8; 20] {
        match self {
            Self::Srvsvc => &SRVSVC,
            Self::Wkssvc => &WKSSVC,
        }
    }
}

/// A request of which not all fragments have come.
#[derive(Debug)]
struct Partial {
    call: u32,
    stub: Vec<u8>,
}

/// One open pipe.
#[derive(Debug)]
pub struct Pipe {
    interface: Interface,
    /// The presentation contexts that were accepted.
    contexts: Vec<u16>,
    /// The longest fragment that the client takes.
    fragment: u16,
    input: Vec<u8>,
    partial: Option<Partial>,
    /// What waits to be read, a PDU each: a pipe in message mode never gives bytes of two at once.
    output: VecDeque<Vec<u8>>,
    /// Bytes of all of `output`, without those of its first PDU that were read.
    waiting: usize,
    /// Bytes of the first PDU that were read.
    read: usize,
}

/// The header of a PDU (C706 12.6.3.1).
struct Pdu<'a> {
    kind: u8,
    flags: u8,
    call: u32,
    body: &'a [u8],
}

impl Pipe {
    /// A pipe just opened.
    pub fn new(interface: Interface) -> Self {
        Self {
            interface,
            contexts: Vec::new(),
            fragment: FRAGMENT_MAX,
            input: Vec::new(),
            partial: None,
            output: VecDeque::new(),
            waiting: 0,
            read: 0,
        }
    }

    /// Takes bytes that a client wrote; complete PDUs among them are answered. After an error the pipe is broken.
    pub fn write(&mut self, bytes: &[u8], provider: &dyn Provider) -> Result<(), DecodeError> {
        let refuse = |what, value: usize| Err(DecodeError::Invalid { what, value: value as u64 });
        if self.input.len() + bytes.len() > REQUEST_MAX {
            return refuse("length of a pipe's input", self.input.len() + bytes.len());
        }
        let mut input = std::mem::take(&mut self.input);
        input.put_slice(bytes);
        let mut used = 0;
        while let Some((pdu, len)) = split(&input[used..])? {
            self.handle(&pdu, provider)?;
            used += len;
            if self.available() > PENDING_MAX {
                return refuse("length of a pipe's output", self.available());
            }
        }
        input.drain(..used);
        self.input = input;
        Ok(())
    }

    /// How many bytes wait to be read.
    pub fn available(&self) -> usize {
        self.waiting
    }

    /// How many bytes are left of a message that was read in part.
    pub fn left_of_message(&self) -> usize {
        if self.read == 0 { 0 } else { self.output.front().map_or(0, |pdu| pdu.len() - self.read) }
    }

    /// Fills `buffer` with the next bytes of one message; 0 if there is nothing to read.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(pdu) = self.output.front() else { return 0 };
        let rest = &pdu[self.read..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        self.waiting -= count;
        if self.read == pdu.len() {
            self.output.pop_front();
            self.read = 0;
        }
        count
    }

    fn handle(&mut self, pdu: &Pdu<'_>, provider: &dyn Provider) -> Result<(), DecodeError> {
        match pdu.kind {
            BIND => self.bind(pdu, BIND_ACK),
            ALTER_CONTEXT => self.bind(pdu, ALTER_CONTEXT_RESPONSE),
            REQUEST => self.request(pdu, provider),
            // Cancels and orphans: every call is answered at once, there is nothing to stop.
            18 | 19 => Ok(()),
            kind => Err(DecodeError::Invalid { what: "PDU type", value: u64::from(kind) }),
        }
    }

    /// bind and alter_context (C706 12.6.4.3): accepts this pipe's interface over NDR, refuses every other context.
    fn bind(&mut self, pdu: &Pdu<'_>, answer: u8) -> Result<(), DecodeError> {
        let mut r = Reader::new(pdu.body, "RPC bind");
        r.skip(2)?;
        let receive = r.u16()?;
        r.skip(4)?;
        let count = r.u8()?;
        r.skip(3)?;
        if count == 0 || count > CONTEXTS_MAX {
            self.send(BIND_NAK, FIRST | LAST, pdu.call, &[0; 4]);
            return Ok(());
        }
        self.fragment = receive.clamp(1024, FRAGMENT_MAX);
        let mut results = Vec::new();
        for _ in 0..count {
            let (context, transfers) = (r.u16()?, r.u8()?);
            r.skip(1)?;
            let ours = r.bytes(20)? == self.interface.syntax();
            let mut ndr = false;
            for _ in 0..transfers {
                ndr |= r.bytes(20)? == NDR;
            }
            if ours && ndr {
                if !self.contexts.contains(&context) && self.contexts.len() < usize::from(CONTEXTS_MAX) {
                    self.contexts.push(context);
                }
                results.put_u32(0);
                results.put_slice(&NDR);
            } else {
                // Provider rejection: 1 the abstract syntax, 2 the transfer syntaxes are not supported.
                results.put_u16(2);
                results.put_u16(if ours { 2 } else { 1 });
                results.put_zeros(20);
            }
        }
        let mut body = Vec::new();
        body.put_u16(self.fragment);
        body.put_u16(self.fragment);
        body.put_u32(1); // association group
        let address: &[u8] = match self.interface {
            Interface::Srvsvc => b"\\PIPE\\srvsvc\0",
            Interface::Wkssvc => b"\\PIPE\\wkssvc\0",
        };
        body.put_u16(address.len() as u16);
        body.put_slice(address);
        body.pad_to(0, 4);
        body.put_u32(u32::from(count));
        body.put_slice(&results);
        self.send(answer, FIRST | LAST, pdu.call, &body);
        Ok(())
    }

    /// A fragment of a request (C706 12.6.4.9); the last one is answered.
    fn request(&mut self, pdu: &Pdu<'_>, provider: &dyn Provider) -> Result<(), DecodeError> {
        let mut r = Reader::new(pdu.body, "RPC request");
        r.skip(4)?; // alloc_hint: nothing is allocated by it
        let (context, operation) = (r.u16()?, r.u16()?);
        let stub = r.bytes(r.remaining())?;
        let mut partial = if pdu.flags & FIRST != 0 {
            Partial { call: pdu.call, stub: Vec::new() }
        } else {
            let wrong = DecodeError::Invalid { what: "call_id", value: u64::from(pdu.call) };
            self.partial.take().filter(|partial| partial.call == pdu.call).ok_or(wrong)?
        };
        if partial.stub.len() + stub.len() > REQUEST_MAX {
            return Err(DecodeError::Invalid { what: "RPC request", value: REQUEST_MAX as u64 });
        }
        partial.stub.put_slice(stub);
        if pdu.flags & LAST == 0 {
            self.partial = Some(partial);
            return Ok(());
        }
        let result = if self.contexts.contains(&context) {
            match service::call(self.interface, operation, &partial.stub, provider) {
                Ok(Some(stub)) => Ok(stub),
                Ok(None) => Err(OP_RANGE),
                Err(_) => Err(BAD_STUB),
            }
        } else {
            Err(UNKNOWN_INTERFACE)
        };
        match result {
            Ok(stub) => self.respond(pdu.call, context, &stub),
            Err(status) => {
                let mut body = Vec::new();
                body.put_u32(0);
                body.put_u16(context);
                body.put_u16(0);
                body.put_u32(status);
                body.put_u32(0);
                self.send(FAULT, FIRST | LAST, pdu.call, &body);
            }
        }
        Ok(())
    }

    /// A response, in as many fragments as the client's limit wants.
    fn respond(&mut self, call: u32, context: u16, stub: &[u8]) {
        // A multiple of 8, so that every fragment but the last ends aligned (C706 12.6.4.10).
        let room = (usize::from(self.fragment) - HEADER_LEN - 8) & !7;
        let mut sent = 0;
        loop {
            let end = stub.len().min(sent + room);
            let first = if sent == 0 { FIRST } else { 0 };
            let last = if end == stub.len() { LAST } else { 0 };
            let mut body = Vec::with_capacity(8 + end - sent);
            body.put_u32((stub.len() - sent) as u32);
            body.put_u16(context);
            body.put_u16(0);
            body.put_slice(&stub[sent..end]);
            self.send(RESPONSE, first | last, call, &body);
            if last != 0 {
                return;
            }
            sent = end;
        }
    }

    fn send(&mut self, kind: u8, flags: u8, call: u32, body: &[u8]) {
        let mut pdu = Vec::with_capacity(HEADER_LEN + body.len());
        pdu.put_slice(&[5, 0, kind, flags]);
        pdu.put_u32(0x10); // little-endian, ASCII, IEEE
        pdu.put_u16((HEADER_LEN + body.len()) as u16);
        pdu.put_u16(0);
        pdu.put_u32(call);
        pdu.put_slice(body);
        self.waiting += pdu.len();
        self.output.push_back(pdu);
    }
}

/// The PDU at the start of `input` and its length; `None` where it is not complete yet.
fn split(input: &[u8]) -> Result<Option<(Pdu<'_>, usize)>, DecodeError> {
    if input.len() < HEADER_LEN {
        return Ok(None);
    }
    let mut r = Reader::new(input, "RPC header");
    let (version, _minor, kind, flags) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
    let representation = r.u32()?;
    let (len, auth) = (r.u16()?, r.u16()?);
    let call = r.u32()?;
    let invalid = |what, value: u32| Err(DecodeError::Invalid { what, value: u64::from(value) });
    match () {
        () if version != 5 => invalid("rpc_vers", version.into()),
        () if representation & 0xFF != 0x10 => invalid("data representation", representation),
        () if auth != 0 => invalid("auth_length", auth.into()),
        () if usize::from(len) < HEADER_LEN => invalid("frag_length", len.into()),
        () if input.len() < usize::from(len) => Ok(None),
        () => {
            let body = &input[HEADER_LEN..usize::from(len)];
            Ok(Some((Pdu { kind, flags, call, body }, usize::from(len))))
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
