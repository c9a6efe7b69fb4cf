//! The server over a real socket: negotiation, the shape of compounds, and what is asked before a login.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use importfs::smb::server::{Server, Settings, Users};
use importfs::smb::transport;
use smb_proto::frame::Smb1Negotiate;
use smb_proto::header::Header;
use smb_proto::msg::{echo, negotiate};
use smb_proto::{Command, Flags, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

struct Nobody;
impl Users for Nobody {
    fn nt_hash(&self, _account: &str) -> Option<[u8; 16]> {
        None
    }
}

async fn start() -> (TcpStream, watch::Sender<bool>) {
    let settings =
        Settings { guid: [7; 16], signing_required: true, ..Settings::new(Arc::new(Nobody), Vec::new()) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(transport::serve(listener, Server::new(settings), stopped));
    (TcpStream::connect(address).await.unwrap(), stop)
}

fn header(command: Command, message_id: u64) -> Header {
    Header {
        credit_charge: 0,
        status: Status::SUCCESS,
        command,
        credits: 4,
        flags: Flags::default(),
        next_command: 0,
        message_id,
        async_id: 0,
        tree_id: 0,
        session_id: 0,
        signature: [0; 16],
    }
}

async fn exchange(stream: &mut TcpStream, message: &[u8]) -> Option<Vec<u8>> {
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    stream.write_all(&frame).await.ok()?;
    let len = stream.read_u32().await.ok()?;
    let mut answer = vec![0; len as usize];
    stream.read_exact(&mut answer).await.ok()?;
    Some(answer)
}

fn negotiate_message(dialects: &[u16]) -> Vec<u8> {
    let mut message = Vec::new();
    header(Command::NEGOTIATE, 0).encode(&mut message);
    let request = negotiate::Request {
        security_mode: 1,
        capabilities: 0,
        client_guid: [1; 16],
        dialects: dialects.to_vec(),
        contexts: Vec::new(),
    };
    request.encode(&mut message);
    message
}

fn echo_message(message_id: u64) -> Vec<u8> {
    let mut message = Vec::new();
    header(Command::ECHO, message_id).encode(&mut message);
    echo::Request.encode(&mut message);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn negotiates_and_answers_an_echo() {
    let (mut stream, _stop) = start().await;
    let answer = exchange(&mut stream, &negotiate_message(&[0x0202, 0x0210, 0x0302])).await.unwrap();
    let response = negotiate::Response::decode(&answer).unwrap();
    assert_eq!((response.dialect, response.server_guid), (0x0302, [7; 16]));
    assert_eq!(Header::decode(&answer).unwrap().credits, 1, "who has not logged in gets what it uses");
    let answer = exchange(&mut stream, &echo_message(1)).await.unwrap();
    assert_eq!(Header::decode(&answer).unwrap().status, Status::SUCCESS);
}

/// Directory leases are for clients that offer them (MS-SMB2 3.3.5.4); impacket does not, and fails where they are announced.
#[tokio::test(flavor = "multi_thread")]
async fn directory_leasing_is_announced_to_those_who_offer_it() {
    for offered in [0, negotiate::CAP_DIRECTORY_LEASING] {
        let (mut stream, _stop) = start().await;
        let mut message = negotiate_message(&[0x0302]);
        let at = smb_proto::header::HEADER_LEN + 8; // Capabilities (2.2.3)
        message[at..at + 4].copy_from_slice(&offered.to_le_bytes());
        let answer = exchange(&mut stream, &message).await.unwrap();
        let response = negotiate::Response::decode(&answer).unwrap();
        assert_eq!(response.capabilities & negotiate::CAP_DIRECTORY_LEASING, offered);
    }
}

/// MS-SMB2 3.3.5.3.2: pysmb and Windows Vista offer no `SMB 2.???`, and go on without another NEGOTIATE.
#[tokio::test(flavor = "multi_thread")]
async fn an_smb1_negotiate_for_2_002_settles_that_dialect() {
    let (mut stream, _stop) = start().await;
    let offer = Smb1Negotiate { smb2_002: true, smb2_wildcard: false };
    let answer = exchange(&mut stream, &offer.encode()).await.unwrap();
    assert_eq!(negotiate::Response::decode(&answer).unwrap().dialect, 0x0202);
    let answer = exchange(&mut stream, &echo_message(1)).await.unwrap();
    assert_eq!(Header::decode(&answer).unwrap().status, Status::SUCCESS);
    let again = exchange(&mut stream, &negotiate_message(&[0x0302])).await;
    assert!(again.is_none(), "a dialect is settled once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_smb1_negotiate_for_later_dialects_asks_for_another() {
    let (mut stream, _stop) = start().await;
    let offer = Smb1Negotiate { smb2_002: true, smb2_wildcard: true };
    let answer = exchange(&mut stream, &offer.encode()).await.unwrap();
    assert_eq!(negotiate::Response::decode(&answer).unwrap().dialect, 0x02FF);
    let answer = exchange(&mut stream, &negotiate_message(&[0x0302])).await.unwrap();
    assert_eq!(negotiate::Response::decode(&answer).unwrap().dialect, 0x0302);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_smb1_only_is_cut() {
    let (mut stream, _stop) = start().await;
    let offer = Smb1Negotiate { smb2_002: false, smb2_wildcard: false };
    assert!(exchange(&mut stream, &offer.encode()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_used_twice_ends_the_connection() {
    let (mut stream, _stop) = start().await;
    exchange(&mut stream, &negotiate_message(&[0x0210])).await.unwrap();
    exchange(&mut stream, &echo_message(1)).await.unwrap();
    assert!(exchange(&mut stream, &echo_message(1)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_negotiate_and_no_dialect_is_a_status() {
    let (mut stream, _stop) = start().await;
    assert!(exchange(&mut stream, &echo_message(0)).await.is_none());
    let (mut stream, _stop) = start().await;
    let answer = exchange(&mut stream, &negotiate_message(&[0x0999])).await.unwrap();
    assert_eq!(Header::decode(&answer).unwrap().status, Status::NOT_SUPPORTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_command_out_of_the_frame_ends_the_connection() {
    for next in [4u32, 68, 1 << 20, u32::MAX] {
        let (mut stream, _stop) = start().await;
        exchange(&mut stream, &negotiate_message(&[0x0210])).await.unwrap();
        let mut message = echo_message(1);
        message[20..24].copy_from_slice(&next.to_le_bytes());
        assert!(exchange(&mut stream, &message).await.is_none(), "NextCommand {next}");
    }
}
