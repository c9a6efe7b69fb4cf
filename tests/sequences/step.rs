//! What one step of a sequence is: six bytes, all of them valid, so that cutting bytes out of a finding keeps the rest of it.

use smb_proto::fscc::access;
use smb_proto::msg::create::context::{LEASE_HANDLE, LEASE_READ, LEASE_WRITE};
use smb_proto::msg::create::{disposition, oplock};

/// Bytes of one step.
pub const STEP_BYTES: usize = 6;
/// Steps of one sequence: what comes after is left out, so that one input takes milliseconds.
pub const STEPS_MAX: usize = 300;

/// What files may be called; `d` is there from the beginning, `e` may become a directory by a rename.
pub const NAMES: [&str; 8] = ["a", "b", "a", "d\\x", "d\\y", "d", "e", "e\\x"];

/// Named streams that they may have.
const STREAMS: [&str; 8] = ["a:s", "b:s", "a:t", "d\\x:s", "d\\y:s", "d:s", "e:s", "e\\x:s"];

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Create,
    CreateAgain,
    TakeBack,
    Close,
    Read,
    Write,
    Watch,
    Lock,
    Unlock,
    Rename,
    Delete,
    EndOfFile,
    Acknowledge,
    Cancel,
    Expire,
    Lose,
    NewLink,
    Logoff,
    Settle,
}

/// One step: the action, who does it (`link`) to what (`which`), and how.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub action: Action,
    /// What it sets off is worked on at once; otherwise signals stay queued, and later steps come in between.
    pub settles: bool,
    pub link: u8,
    pub which: u8,
    pub a: u8,
    pub b: u8,
    pub c: u8,
}

impl Step {
    pub fn decode(bytes: [u8; STEP_BYTES]) -> Self {
        use Action::{
            Acknowledge, Cancel, Close, Create, CreateAgain, Delete, EndOfFile, Expire, Lock, Logoff, Lose,
            NewLink, Read, Rename, Settle, TakeBack, Unlock, Watch, Write,
        };
        // CREATE and what makes others wait come more often than what ends it all.
        const ACTIONS: [Action; 32] = [
            Create,
            Create,
            Create,
            Create,
            Create,
            Watch,
            Close,
            Close,
            Close,
            Read,
            Watch,
            Write,
            Write,
            Write,
            Lock,
            Lock,
            Lock,
            Unlock,
            Rename,
            Rename,
            Delete,
            EndOfFile,
            Acknowledge,
            Acknowledge,
            Acknowledge,
            Cancel,
            Expire,
            TakeBack,
            Lose,
            NewLink,
            CreateAgain,
            Logoff,
        ];
        let [what, link, which, a, b, c] = bytes;
        let action = if what & 0x7F == 0x7F { Settle } else { ACTIONS[usize::from(what) % ACTIONS.len()] };
        Self { action, settles: what & 0x80 == 0, link, which, a, b, c }
    }

    pub fn name(self) -> &'static str {
        let names = if self.stream() { STREAMS } else { NAMES };
        names[usize::from(self.which) % names.len()]
    }

    /// It is about a named stream, which nobody caches here.
    pub fn stream(self) -> bool {
        self.which & 0x30 == 0x30
    }

    /// ShareAccess: mostly everything.
    pub fn share(self) -> u32 {
        if self.a & 0x40 == 0 { 7 } else { u32::from(self.a & 7) }
    }

    pub fn access(self) -> u32 {
        match self.a >> 3 & 7 {
            0..=2 => access::ALL,
            3 => access::FILE_READ,
            4 => access::FILE_WRITE,
            5 => access::FILE_READ | access::FILE_WRITE,
            6 => access::READ_ATTRIBUTES | access::SYNCHRONIZE,
            _ => access::DELETE | access::READ_ATTRIBUTES | access::SYNCHRONIZE,
        }
    }

    pub fn disposition(self) -> u32 {
        match self.b & 7 {
            low @ 0..=5 => u32::from(low),
            _ => disposition::OPEN_IF,
        }
    }

    pub fn deletes(self) -> bool {
        self.b & 0x38 == 0x38
    }

    pub fn directory(self) -> bool {
        self.b & 0x40 != 0 && matches!(self.name(), "d" | "e")
    }

    /// The oplock level, or the state of a lease.
    pub fn cache(self) -> Result<u8, u32> {
        match self.c & 7 {
            _ if self.stream() => Ok(oplock::NONE),
            0 => Ok(oplock::NONE),
            1 => Ok(oplock::LEVEL_II),
            2 => Ok(oplock::EXCLUSIVE),
            3 => Ok(oplock::BATCH),
            4 => Err(LEASE_READ),
            5 => Err(LEASE_READ | LEASE_HANDLE),
            6 => Err(LEASE_READ | LEASE_WRITE),
            _ => Err(LEASE_READ | LEASE_HANDLE | LEASE_WRITE),
        }
    }

    /// Which of its client's lease keys is used: mostly the file's own.
    pub fn lease_key(self) -> u8 {
        let own = self.which as usize % NAMES.len();
        if self.c & 0x18 == 0x18 { 0 } else { own as u8 }
    }
}
