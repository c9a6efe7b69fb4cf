//! A client on a link: a method per command, for tests that read like what a client does.

use std::collections::VecDeque;

use super::{Answer, Client, ClientError, Draft, Initiator, LoginOptions};
use crate::fscc::access;
use crate::msg::create::context::Contexts;
use crate::msg::create::{disposition, share_access};
use crate::msg::ioctl::validate_negotiate;
use crate::msg::{
    FileId, close, create, echo, flush, ioctl, lock, logoff, query_directory, query_info, read, set_info,
    tree_connect, tree_disconnect, write,
};
use crate::utf16::Utf16;
use crate::{Command, Status};

/// Answers that may come before the one that is waited for: interim responses and those of other requests.
const ANSWERS_HELD_MAX: usize = 4096;

/// What carries messages: a socket, or a server in the same process.
pub trait Link {
    /// Carries one message to the server, without the transport's length.
    fn send(&mut self, message: &[u8]) -> Result<(), ClientError>;
    /// The next message from the server.
    fn receive(&mut self) -> Result<Vec<u8>, ClientError>;
}

/// A file as CREATE gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Opened {
    pub id: FileId,
    pub size: u64,
    pub action: u32,
    pub attributes: u32,
}

/// A client on its connection.
#[derive(Debug)]
pub struct Peer<L> {
    /// The protocol's side.
    pub client: Client,
    /// The bytes' side.
    pub link: L,
    held: VecDeque<Answer>,
}

/// Text as it goes on the wire.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

impl<L: Link> Peer<L> {
    /// A client that has said nothing yet.
    pub fn new(client: Client, link: L) -> Self {
        Self { client, link, held: VecDeque::new() }
    }

    /// Negotiates and logs in.
    pub fn connect(client: Client, link: L, user: &str, password: &str) -> Result<Self, ClientError> {
        let mut peer = Self::new(client, link);
        peer.negotiate()?;
        peer.login(LoginOptions::new(user, password))?;
        Ok(peer)
    }

    /// Sends drafts as one frame, bent by `bend` after it was protected.
    pub fn send_bent(
        &mut self,
        drafts: &[Draft],
        bend: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<u64>, ClientError> {
        let mut frame = self.client.frame(drafts);
        bend(&mut frame);
        self.link.send(&frame)?;
        Ok(drafts.iter().map(|draft| draft.header.message_id).collect())
    }

    /// Sends drafts as one frame; their message ids.
    pub fn send(&mut self, drafts: &[Draft]) -> Result<Vec<u64>, ClientError> {
        self.send_bent(drafts, |_| {})
    }

    /// The final answer to a message: an interim one is passed over.
    pub fn answer(&mut self, message_id: u64) -> Result<Answer, ClientError> {
        loop {
            let found = self.held.iter().position(|answer| answer.header.message_id == message_id);
            if let Some(answer) = found.and_then(|at| self.held.remove(at)) {
                return Ok(answer);
            }
            self.receive()?;
        }
    }

    /// Takes the next frame; its answers but interim ones are kept for [`Peer::answer`]. The AsyncIds of interim ones.
    pub fn receive(&mut self) -> Result<Vec<u64>, ClientError> {
        let frame = self.link.receive()?;
        let mut interim = Vec::new();
        for answer in self.client.open(frame)? {
            if answer.header.status == Status::PENDING {
                interim.push(answer.header.async_id);
            } else if self.held.len() < ANSWERS_HELD_MAX {
                self.held.push_back(answer);
            }
        }
        Ok(interim)
    }

    /// One request, its answer whatever its status.
    pub fn ask(&mut self, draft: Draft) -> Result<Answer, ClientError> {
        let ids = self.send(&[draft])?;
        self.answer(ids[0])
    }

    /// One request that must succeed.
    pub fn must(&mut self, draft: Draft) -> Result<Answer, ClientError> {
        let answer = self.ask(draft)?;
        match answer.header.status {
            Status::SUCCESS => Ok(answer),
            status => Err(ClientError::Status(status)),
        }
    }

    /// One request by its command and body.
    pub fn call(
        &mut self,
        command: Command,
        payload: u32,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Answer, ClientError> {
        let draft = self.client.draft(command, payload, encode);
        self.must(draft)
    }

    /// NEGOTIATE.
    pub fn negotiate(&mut self) -> Result<(), ClientError> {
        let draft = self.client.negotiate();
        let frame = self.client.frame(std::slice::from_ref(&draft));
        self.link.send(&frame)?;
        let answer = self.answer(draft.header.message_id)?;
        self.client.negotiated(&frame, &answer).map(drop)
    }

    /// Both legs of SESSION_SETUP; SessionFlags.
    pub fn login(&mut self, options: LoginOptions) -> Result<u16, ClientError> {
        let previous = options.previous_session;
        let mut initiator = Initiator::new(options);
        self.client.begin_session();
        let answer = self.leg(&initiator.first(), previous)?;
        let challenge = self.client.session_challenged(&answer)?;
        let token = initiator.second(&challenge)?;
        let answer = self.leg(&token, previous)?;
        self.client.session_done(&initiator, &answer)
    }

    /// One SESSION_SETUP.
    pub fn leg(&mut self, token: &[u8], previous: u64) -> Result<Answer, ClientError> {
        let draft = self.client.session_setup(token, previous);
        let frame = self.client.frame(std::slice::from_ref(&draft));
        self.client.session_sent(&frame);
        self.link.send(&frame)?;
        self.answer(draft.header.message_id)
    }

    /// TREE_CONNECT; later requests go to this tree.
    pub fn tree_connect(&mut self, share: &str) -> Result<tree_connect::Response, ClientError> {
        let path = utf16(&format!("\\\\server\\{share}"));
        let request = tree_connect::Request { flags: 0, path: Utf16(&path) };
        let answer = self.call(Command::TREE_CONNECT, 0, |out| request.encode(out))?;
        self.client.tree_id = answer.header.tree_id;
        Ok(tree_connect::Response::decode(&answer.message)?)
    }

    /// TREE_DISCONNECT.
    pub fn tree_disconnect(&mut self) -> Result<(), ClientError> {
        self.call(Command::TREE_DISCONNECT, 0, |out| tree_disconnect::Request.encode(out)).map(drop)
    }

    /// LOGOFF.
    pub fn logoff(&mut self) -> Result<(), ClientError> {
        self.call(Command::LOGOFF, 0, |out| logoff::Request.encode(out)).map(drop)
    }

    /// ECHO.
    pub fn echo(&mut self) -> Result<(), ClientError> {
        self.call(Command::ECHO, 0, |out| echo::Request.encode(out)).map(drop)
    }

    /// A CREATE to be bent or put into a compound: shared with everybody, all access that files have.
    pub fn create_draft(&mut self, name: &str, disposition: u32, options: u32) -> Draft {
        self.create_draft_of(&utf16(name), disposition, options)
    }

    /// The same with the name's bytes as they are.
    pub fn create_draft_of(&mut self, name: &[u8], disposition: u32, options: u32) -> Draft {
        let request = create::Request {
            oplock_level: 0,
            impersonation_level: 2,
            desired_access: access::MAXIMUM_ALLOWED,
            file_attributes: 0,
            share_access: share_access::READ | share_access::WRITE | share_access::DELETE,
            disposition,
            options,
            name: Utf16(name),
            contexts: Contexts::default(),
        };
        self.client.draft(Command::CREATE, 0, |out| request.encode(out))
    }

    /// CREATE.
    pub fn create(&mut self, name: &str, disposition: u32, options: u32) -> Result<Opened, ClientError> {
        let draft = self.create_draft(name, disposition, options);
        let answer = self.must(draft)?;
        let response = create::Response::decode(&answer.message)?;
        Ok(Opened {
            id: response.file_id,
            size: response.file.end_of_file,
            action: response.create_action,
            attributes: response.file.basic.attributes,
        })
    }

    /// CLOSE.
    pub fn close(&mut self, file_id: FileId) -> Result<(), ClientError> {
        let request = close::Request { flags: 0, file_id };
        self.call(Command::CLOSE, 0, |out| request.encode(out)).map(drop)
    }

    /// FLUSH.
    pub fn flush(&mut self, file_id: FileId) -> Result<(), ClientError> {
        self.call(Command::FLUSH, 0, |out| flush::Request { file_id }.encode(out)).map(drop)
    }

    /// A WRITE.
    pub fn write_draft(&mut self, file_id: FileId, offset: u64, data: &[u8]) -> Draft {
        let request = write::Request::new(file_id, offset, data);
        self.client.draft(Command::WRITE, data.len() as u32, |out| request.encode(out))
    }

    /// WRITE; how many bytes were taken.
    pub fn write(&mut self, file_id: FileId, offset: u64, data: &[u8]) -> Result<u32, ClientError> {
        let draft = self.write_draft(file_id, offset, data);
        Ok(write::Response::decode(&self.must(draft)?.message)?.count)
    }

    /// A READ.
    pub fn read_draft(&mut self, file_id: FileId, offset: u64, length: u32) -> Draft {
        let request = read::Request::new(file_id, offset, length);
        self.client.draft(Command::READ, length, |out| request.encode(out))
    }

    /// READ.
    pub fn read(&mut self, file_id: FileId, offset: u64, length: u32) -> Result<Vec<u8>, ClientError> {
        let draft = self.read_draft(file_id, offset, length);
        Ok(read::Response::decode(&self.must(draft)?.message)?.data.to_vec())
    }

    /// QUERY_INFO of a class.
    pub fn query(&mut self, file_id: FileId, info_type: u8, info_class: u8) -> Result<Vec<u8>, ClientError> {
        let request = query_info::Request {
            info_type,
            info_class,
            output_buffer_length: 65536,
            additional_information: 7,
            flags: 0,
            file_id,
            input: &[],
        };
        let answer = self.call(Command::QUERY_INFO, 65536, |out| request.encode(out))?;
        Ok(query_info::Response::decode(&answer.message)?.data.to_vec())
    }

    /// SET_INFO of a file's class.
    pub fn set(&mut self, file_id: FileId, info_class: u8, data: &[u8]) -> Result<(), ClientError> {
        let request = set_info::Request {
            info_type: query_info::info_type::FILE,
            info_class,
            additional_information: 0,
            file_id,
            data,
        };
        self.call(Command::SET_INFO, data.len() as u32, |out| request.encode(out)).map(drop)
    }

    /// QUERY_DIRECTORY, FileIdBothDirectoryInformation (37): the entries as they came; empty at the end.
    pub fn list(&mut self, file_id: FileId, pattern: &str) -> Result<Vec<u8>, ClientError> {
        let pattern = utf16(pattern);
        let request = query_directory::Request {
            info_class: 37,
            flags: 0,
            file_index: 0,
            file_id,
            output_buffer_length: 65536,
            pattern: Utf16(&pattern),
        };
        match self.call(Command::QUERY_DIRECTORY, 65536, |out| request.encode(out)) {
            Ok(answer) => Ok(query_directory::Response::decode(&answer.message)?.data.to_vec()),
            Err(ClientError::Status(Status::NO_MORE_FILES)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// LOCK.
    pub fn lock_draft(&mut self, file_id: FileId, locks: Vec<lock::Element>) -> Draft {
        let request = lock::Request { lock_sequence: 0, file_id, locks };
        self.client.draft(Command::LOCK, 0, |out| request.encode(out))
    }

    /// IOCTL with an FSCTL.
    pub fn fsctl(
        &mut self,
        file_id: FileId,
        ctl_code: u32,
        input: &[u8],
        room: u32,
    ) -> Result<Vec<u8>, ClientError> {
        let request = ioctl::Request::fsctl(file_id, ctl_code, input, room);
        let answer = self.call(Command::IOCTL, room.max(input.len() as u32), |out| request.encode(out))?;
        Ok(ioctl::Response::decode(&answer.message)?.output.to_vec())
    }

    /// FSCTL_VALIDATE_NEGOTIATE_INFO, and whether the answer is what was negotiated (MS-SMB2 3.2.5.5).
    pub fn validate_negotiate(&mut self) -> Result<(), ClientError> {
        let Some(agreed) = self.client.agreed else {
            return Err(ClientError::Rule("nothing was negotiated"));
        };
        let offer = &self.client.offer;
        let request = validate_negotiate::Request {
            capabilities: super::capabilities(offer),
            client_guid: offer.guid,
            security_mode: offer.security_mode,
            dialects: offer.dialects.clone(),
        };
        let code = crate::fscc::fsctl::code::VALIDATE_NEGOTIATE_INFO;
        let output = self.fsctl(FileId::ANY, code, &request.encode(), 24)?;
        let answer = validate_negotiate::Response::decode(&output)?;
        let same = answer.dialect == agreed.dialect
            && answer.capabilities == agreed.capabilities
            && answer.security_mode == agreed.security_mode
            && answer.server_guid == agreed.server_guid;
        if same { Ok(()) } else { Err(ClientError::Rule("the negotiation was changed on its way")) }
    }

    /// A file written whole: made or replaced, sent in pieces of `piece` bytes, closed.
    pub fn put(&mut self, name: &str, data: &[u8], piece: usize) -> Result<(), ClientError> {
        let file = self.create(name, disposition::OVERWRITE_IF, 0)?;
        for (number, part) in data.chunks(piece).enumerate() {
            self.write(file.id, (number * piece) as u64, part)?;
        }
        self.close(file.id)
    }

    /// A file read whole.
    pub fn get(&mut self, name: &str, piece: u32) -> Result<Vec<u8>, ClientError> {
        let file = self.create(name, disposition::OPEN, 0)?;
        let mut data = Vec::new();
        while (data.len() as u64) < file.size {
            let left = (file.size - data.len() as u64).min(piece.into()) as u32;
            data.extend(self.read(file.id, data.len() as u64, left)?);
        }
        self.close(file.id)?;
        Ok(data)
    }
}
