//! What clients write into a named pipe: DCE/RPC PDUs, and NDR behind a good bind. Output and input stay bounded.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use smb_proto::rpc::{Interface, Pipe, Provider, ShareInfo};

/// Far above what a pipe may hold for its client, far below what would hurt.
const OUTPUT_MAX: usize = 8 << 20;

struct Server;

impl Provider for Server {
    fn shares(&self) -> Vec<ShareInfo> {
        ["import", "dir", "IPC$"]
            .map(|name| ShareInfo { name: name.into(), remark: "a share".into(), kind: 0 })
            .to_vec()
    }
    fn server_name(&self) -> String {
        "SERVER".into()
    }
    fn domain(&self) -> String {
        "WORKGROUP".into()
    }
    fn comment(&self) -> String {
        String::new()
    }
    fn now(&self) -> Duration {
        Duration::from_secs(1 << 31)
    }
}

fn pdu(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut pdu = vec![5, 0, kind, 3, 0x10, 0, 0, 0];
    pdu.extend(((body.len() + 16) as u16).to_le_bytes());
    pdu.extend([0, 0, 1, 0, 0, 0]);
    pdu.extend(body);
    pdu
}

fn bind(interface: Interface) -> Vec<u8> {
    let syntax: [u8; 20] = match interface {
        Interface::Srvsvc => {
            *b"\xc8\x4f\x32\x4b\x70\x16\xd3\x01\x12\x78\x5a\x47\xbf\x6e\xe1\x88\x03\x00\x00\x00"
        }
        Interface::Wkssvc => {
            *b"\x98\xd0\xff\x6b\x12\xa1\x10\x36\x98\x33\x46\xc3\xf8\x7e\x34\x5a\x01\x00\x00\x00"
        }
    };
    let ndr = *b"\x04\x5d\x88\x8a\xeb\x1c\xc9\x11\x9f\xe8\x08\x00\x2b\x10\x48\x60\x02\x00\x00\x00";
    let head = [0xB8, 0x10, 0xB8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0];
    pdu(11, &[&head[..], &syntax, &ndr].concat())
}

fn drain(pipe: &mut Pipe) {
    assert!(pipe.available() <= OUTPUT_MAX);
    let mut buffer = [0; 999];
    for _ in 0..OUTPUT_MAX {
        if pipe.read(&mut buffer) == 0 {
            break;
        }
    }
    assert_eq!(pipe.available(), 0);
}

fuzz_target!(|data: &[u8]| {
    for interface in [Interface::Srvsvc, Interface::Wkssvc] {
        // As it comes, in two writes.
        let mut pipe = Pipe::new(interface);
        let (first, second) = data.split_at(data.len() / 3);
        let _ = pipe.write(first, &Server).and_then(|()| pipe.write(second, &Server));
        drain(&mut pipe);
        // As the stub of a request, its operation from the first byte.
        let Some((operation, stub)) = data.split_first() else { continue };
        let mut pipe = Pipe::new(interface);
        pipe.write(&bind(interface), &Server).expect("a good bind");
        drain(&mut pipe);
        let mut body = (stub.len() as u32).to_le_bytes().to_vec();
        body.extend([0, 0, *operation, 0]);
        body.extend(stub);
        if body.len() < 60_000 {
            let _ = pipe.write(&pdu(0, &body), &Server);
            drain(&mut pipe);
        }
    }
});
