//! What clients copy: CFGs, descriptors, virtual machines, differentials.

use std::fmt::{self, Write as _};

use importfs::pancbt::{Header, Writer};

use super::model::{DISKS, SIZES};

/// Bytes of every CFG: so that one written over another leaves nothing of it.
const CFG_BYTES: usize = 1200;

/// The CFGs that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cfg {
    /// On the datastore.
    pub directory: &'static str,
    pub renames: bool,
    /// It has an error of its own.
    pub bad: bool,
    /// As `bad`, in half.
    pub torn: bool,
    pub vm_name: u8,
}

/// A directory of the datastore that somebody else has files in.
pub const TAKEN: &str = "taken";
/// The directories that CFGs name.
const TARGETS: [&str; 4] = ["v", "w", TAKEN, "x/y"];

impl Cfg {
    pub fn of(a: u8, b: u8) -> Self {
        let directory = TARGETS[usize::from(a) % TARGETS.len()];
        Self { directory, renames: a & 0x10 == 0, bad: b % 8 == 7, torn: b & 7 == 1, vm_name: b >> 3 & 1 }
    }

    pub fn text(self) -> Vec<u8> {
        let conflict = if self.renames { "rename" } else { "stop" };
        let (directory, name) = (self.directory, self.vm_name);
        let mut text = format!(
            "version = \"4\"\nvmname = \"n{name}\"\nservername = \"local\"\ndatacenter = \"\"\nfolder = \"\"\n\
             hostsystem = \"\"\nresourcepool = \"\"\ndsname = \"ds1\"\ndirectory = \"{directory}\"\n\
             vmx-name = \"v.vmx\"\non-conflict = \"{conflict}\"\n"
        );
        for (number, disk) in DISKS.iter().enumerate() {
            let kind = ["thin", "thick"][number];
            let _ = write!(
                text,
                "vmdk.{number}.name = \"{disk}.vmdk\"\nvmdk.{number}.extent-name = \"{disk}-flat.vmdk\"\n\
                 vmdk.{number}.dsname = \"ds1\"\nvmdk.{number}.directory = \"{directory}\"\n\
                 vmdk.{number}.size = {}\nvmdk.{number}.type = \"{kind}\"\n",
                SIZES[number]
            );
        }
        if self.bad {
            text += "vmname = \"again\"\n";
        }
        if self.torn {
            text.truncate(100);
        }
        let filler = CFG_BYTES - text.len() - 3;
        let _ = write!(text, "\n#{}\n", "-".repeat(filler));
        text.into_bytes()
    }

    /// Which CFG that is; `None` where it is none of them.
    pub fn read(text: &[u8]) -> Option<Self> {
        let all = (0..32_u8).flat_map(|a| (0..16_u8).map(move |b| Self::of(a, b)));
        all.into_iter().find(|cfg| cfg.text() == text)
    }

    pub fn is_wrong(self) -> bool {
        self.bad || self.torn
    }
}

/// The descriptor of a disk.
pub fn descriptor(disk: usize, good: bool) -> Vec<u8> {
    let sectors = SIZES[disk] / 512 + usize::from(!good);
    let name = DISKS[disk];
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
         RW {sectors} VMFS \"{name}-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\n"
    )
    .into_bytes()
}

/// How a virtual machine begins.
pub const VMX_BEGINS: &[u8] = b"displayName = \"";

/// A virtual machine; what is none is refused.
pub fn vmx(number: u8, good: bool) -> Vec<u8> {
    if !good {
        return vec![b'?'; 80];
    }
    let lines = ["scsi0:0.fileName = \"a.vmdk\"", "scsi0:1.fileName = \"b.vmdk\""];
    format!("displayName = \"m{}\"\n{}\n{}\n", number % 2, lines[0], lines[1]).into_bytes()
}

/// What a differential changes, and where in the file that has been said.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    pub offset: usize,
    pub data: Vec<u8>,
    pub said_at: usize,
}

impl fmt::Debug for Differential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, changes, base, target, fits, whole } = self;
        write!(f, "{} bytes, {} to {}, fits {fits}, whole {whole}:", bytes.len(), base, target)?;
        changes.iter().try_for_each(|change| write!(f, " {}+{}", change.offset, change.data.len()))
    }
}

/// A differential as its client means to send it.
#[derive(Clone, PartialEq, Eq)]
pub struct Differential {
    pub bytes: Vec<u8>,
    pub changes: Vec<Change>,
    /// Change ids, by number; 0 for none.
    pub base: u8,
    pub target: u8,
    /// It is for this disk, by its size.
    pub fits: bool,
    pub whole: bool,
}

/// Bytes of a differential's header.
pub const HEADER_BYTES: usize = 256;
/// Of a record's.
const RECORD_BYTES: usize = 40;
const SECTOR: usize = 512;

fn change_id(number: u8) -> String {
    if number == 0 { String::new() } else { format!("id {number}") }
}

impl Differential {
    pub fn new(disk: usize, (a, b, c): (u8, u8, u8), fill: u8) -> Self {
        let fits = b & 0x0F != 0;
        let size = if fits { SIZES[disk] } else { SIZES[1 - disk] };
        let (base, target) = (a >> 1 & 3, a >> 3 & 3);
        let header = Header {
            disk_size: size as u64,
            disk_uuid: None,
            base: change_id(base),
            target: change_id(target),
        };
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        let (mut changes, mut said_at) = (Vec::new(), HEADER_BYTES);
        for number in 0..=usize::from(c % 3) {
            let sectors = size / SECTOR;
            let first = (usize::from(b >> 4) + number * 3) % sectors;
            let count = (1 + usize::from(c >> 2 & 3)).min(sectors - first);
            let (offset, length) = (first * SECTOR, count * SECTOR);
            let byte = if (c >> 4) & (1 << number) != 0 { 0 } else { fill.wrapping_add(number as u8) | 1 };
            let data = vec![byte; length];
            if byte == 0 {
                writer.zero(offset as u64, length as u64).unwrap();
                said_at += RECORD_BYTES;
            } else {
                writer.data(offset as u64, &data).unwrap();
                said_at += RECORD_BYTES + length;
            }
            changes.push(Change { offset, data, said_at });
        }
        let mut bytes = writer.finish().unwrap().0;
        let whole = c & 0xC0 != 0xC0;
        if !whole {
            bytes.truncate(bytes.len() - 1 - usize::from(b) % (bytes.len() / 2));
        }
        Self { bytes, changes, base, target, fits, whole }
    }
}
