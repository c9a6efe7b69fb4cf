//! What one step of a sequence is: six bytes, all of them valid, so that cutting bytes out of a finding keeps the rest of it.

/// Bytes of one step.
pub const STEP_BYTES: usize = 6;
/// Steps of one sequence: what comes after is left out, so that one input takes milliseconds.
pub const STEPS_MAX: usize = 160;

/// Directories of the share that there may be.
pub const DIRECTORIES: [&str; 3] = ["s", "t", "r"];

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What a restore that goes well does next.
    Next,
    Make,
    Remove,
    Move,
    Cfg,
    Open,
    Close,
    Fill,
    Write,
    Zero,
    Size,
    Read,
    Flush,
    Copy,
    Ranges,
    Descriptor,
    Differential,
    Vmx,
    Beside,
    Delete,
    Lose,
    TakeBack,
    Expire,
    Restart,
}

/// What goes wrong on the datastore while a step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its operation of that number fails.
    Fails(u32),
    /// Its operation of that number finds no room.
    Full(u32),
    /// The service is killed within its operation of that number.
    Kill(u32),
}

/// One step: the action, who does it (`link`) to what (`which`), and how.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub action: Action,
    pub trouble: Option<Trouble>,
    pub link: u8,
    pub which: u8,
    pub a: u8,
    pub b: u8,
    pub c: u8,
}

impl Step {
    pub fn decode(bytes: [u8; STEP_BYTES]) -> Self {
        use Action::{
            Beside, Cfg, Close, Copy, Delete, Descriptor, Differential, Expire, Fill, Flush, Lose, Make,
            Move, Next, Open, Ranges, Read, Remove, Restart, Size, TakeBack, Vmx, Write, Zero,
        };
        // What leads on comes more often than what ends it all.
        const ACTIONS: [Action; 40] = [
            Next,
            Next,
            Next,
            Next,
            Next,
            Next,
            Next,
            Next,
            Make,
            Remove,
            Move,
            Cfg,
            Cfg,
            Open,
            Open,
            Open,
            Open,
            Open,
            Close,
            Close,
            Fill,
            Fill,
            Write,
            Write,
            Zero,
            Size,
            Read,
            Flush,
            Copy,
            Ranges,
            Descriptor,
            Differential,
            Differential,
            Vmx,
            Beside,
            Delete,
            Lose,
            TakeBack,
            Expire,
            Restart,
        ];
        let [what, link, which, a, b, c] = bytes;
        let operation = u32::from(c % 8);
        let trouble = match link >> 3 {
            0x1D => Some(Trouble::Full(operation)),
            0x1E => Some(Trouble::Fails(operation)),
            0x1F => Some(Trouble::Kill(operation)),
            _ => None,
        };
        Self { action: ACTIONS[usize::from(what) % ACTIONS.len()], trouble, link: link & 7, which, a, b, c }
    }

    pub fn directory(self) -> &'static str {
        DIRECTORIES[usize::from(self.which) % DIRECTORIES.len()]
    }

    /// Which of the two disks.
    pub fn disk(self) -> usize {
        usize::from(self.a & 1)
    }
}
