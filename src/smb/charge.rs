//! How many bytes a request asks to be answered with (ExpectedResponsePayloadSize of MS-SMB2 3.3.5.2.5), told before it is
//! handled: so much memory its answer may take. Whether it has paid for them is [`super::request::Request::check_payload`]'s.

use smb_proto::codec::Reader;
use smb_proto::fscc::fsctl::code;
use smb_proto::header::HEADER_LEN;
use smb_proto::{Command, DecodeError};

use super::commands::copy_chunk::CHUNK_BYTES_MAX;
use super::server::PAYLOAD_BYTES_MAX;

/// The bytes, at most those that there are in any answer. 0 for commands that ask for none, for messages too short to say
/// (their handler refuses them), and for CHANGE_NOTIFY, which waits and gathers its answer later.
pub fn expected(command: Command, message: &[u8]) -> u64 {
    asked(command, message).unwrap_or_default().min(PAYLOAD_BYTES_MAX.into())
}

/// The offsets are those of the fields behind the header.
fn asked(command: Command, message: &[u8]) -> Result<u64, DecodeError> {
    let field = |offset: usize| Reader::at(message, HEADER_LEN + offset, "payload size").u32().map(u64::from);
    Ok(match command {
        Command::READ | Command::QUERY_INFO => field(4)?,
        Command::QUERY_DIRECTORY => field(28)?,
        Command::IOCTL => {
            let copies = [code::SRV_COPYCHUNK, code::SRV_COPYCHUNK_WRITE].map(u64::from).contains(&field(4)?);
            field(32)? + field(44)? + if copies { u64::from(CHUNK_BYTES_MAX) } else { 0 }
        }
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smb_proto::msg::{FileId, ioctl, query_directory, query_info, read};
    use smb_proto::utf16::Utf16;

    use super::*;

    #[test]
    fn a_copy_within_the_server_asks_for_its_buffer() {
        for (ctl_code, expected_bytes) in [(code::SRV_COPYCHUNK, (1 << 20) + 12), (code::SRV_READ_HASH, 12)] {
            let mut message = vec![0; HEADER_LEN];
            let file_id = FileId::ANY;
            let (max_input_response, max_output_response, flags) = (0, 12, 1);
            ioctl::Request { ctl_code, file_id, max_input_response, max_output_response, flags, input: &[] }
                .encode(&mut message);
            assert_eq!(expected(Command::IOCTL, &message), expected_bytes);
        }
    }

    #[test]
    fn each_command_tells_what_it_asks_for() {
        let mut messages = vec![vec![0; HEADER_LEN]; 4];
        let file_id = FileId::ANY;
        read::Request {
            padding: 0,
            flags: 0,
            length: 70_000,
            offset: 1,
            file_id,
            minimum_count: 2,
            channel: 0,
            remaining_bytes: 3,
            channel_info: &[],
        }
        .encode(&mut messages[0]);
        query_directory::Request {
            info_class: 1,
            flags: 0,
            file_index: 2,
            file_id,
            pattern: Utf16(&[]),
            output_buffer_length: 70_001,
        }
        .encode(&mut messages[1]);
        query_info::Request {
            info_type: 1,
            info_class: 2,
            output_buffer_length: 70_002,
            additional_information: 3,
            flags: 4,
            file_id,
            input: &[],
        }
        .encode(&mut messages[2]);
        ioctl::Request {
            ctl_code: 1,
            file_id,
            max_input_response: 3,
            max_output_response: 70_000,
            flags: 1,
            input: &[],
        }
        .encode(&mut messages[3]);
        let commands = [Command::READ, Command::QUERY_DIRECTORY, Command::QUERY_INFO, Command::IOCTL];
        let found = commands.iter().zip(&messages).map(|(command, message)| expected(*command, message));
        assert_eq!(found.collect::<Vec<_>>(), [70_000, 70_001, 70_002, 70_003]);
    }

    proptest! {
        #[test]
        fn no_message_panics_or_asks_for_more_than_there_is(
            command in 0u16..20,
            message in prop::collection::vec(any::<u8>(), 0..130),
        ) {
            prop_assert!(expected(Command(command), &message) <= u64::from(PAYLOAD_BYTES_MAX));
        }
    }
}
