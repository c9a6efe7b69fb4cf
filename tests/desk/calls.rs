//! Requests that several tests send, each by one call.

use smb_proto::fscc::set;
use smb_proto::msg::{FileId, ioctl, query_info, read, set_info};
use smb_proto::utf16::{self, Utf16};
use smb_proto::{Command, Status};

use super::{Client, Message};

impl Client {
    /// Reads up to 64 KiB from the beginning.
    pub fn get(&mut self, file_id: FileId) -> Vec<u8> {
        let request = read::Request::new(file_id, 0, 65_536);
        let answer = self.request(Command::READ, |out| request.encode(out));
        match answer.status() {
            Status::SUCCESS => read::Response::decode(&answer.0).unwrap().data.to_vec(),
            Status::END_OF_FILE => Vec::new(),
            other => panic!("{other}"),
        }
    }

    /// Sets a class of file information.
    pub fn set(&mut self, file_id: FileId, info_class: u8, data: &[u8]) -> Status {
        let request =
            set_info::Request { info_type: 1, info_class, additional_information: 0, file_id, data };
        self.request(Command::SET_INFO, |out| request.encode(out)).status()
    }

    /// Renames.
    pub fn rename(&mut self, file_id: FileId, to: &str, replace: bool) -> Status {
        let name = utf16::encode(to);
        let mut data = Vec::new();
        let flags = if replace { set::RENAME_REPLACE_IF_EXISTS } else { 0 };
        set::Target { flags, root_directory: 0, name: Utf16(&name) }.encode(&mut data);
        self.set(file_id, smb_proto::fscc::info::class::RENAME, &data)
    }

    /// Asks for a class of file information.
    pub fn query(&mut self, file_id: FileId, info_class: u8, room: u32, input: &[u8]) -> Message {
        let request = query_info::Request {
            info_type: 1,
            info_class,
            output_buffer_length: room,
            additional_information: 0,
            flags: 0,
            file_id,
            input,
        };
        self.request(Command::QUERY_INFO, |out| request.encode(out))
    }

    /// Sends a control code.
    pub fn fsctl(&mut self, file_id: FileId, ctl_code: u32, input: &[u8], room: u32) -> Message {
        let request = ioctl::Request::fsctl(file_id, ctl_code, input, room);
        self.request(Command::IOCTL, |out| request.encode(out))
    }
}
