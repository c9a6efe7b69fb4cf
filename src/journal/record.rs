//! The records of a session's journal and their bytes.
//!
//! A payload is one tag byte and the record's fields in order. Integers are LEB128 (7 bits a byte, least significant
//! first, the high bit says that more follow); strings and byte strings are their length and their bytes; a digest is its
//! 32 bytes; a list of ranges is their number and, for each, the gap since the last one's end and its length; a list of facts
//! is their number and, for each, two strings. Tags are
//! never used again for something else; a change of a record's fields takes a new tag.

use std::ops::Range;

use crate::disk::{DiskMap, Region};

/// SHA-256 of a file's contents.
pub type Digest = [u8; 32];

/// Bytes of the largest payload: a [`Record::Map`] of three full extent maps with numbers of 10 bytes fits.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;

/// Bytes of a string: names, paths and destinations are far shorter.
const MAX_STRING: usize = 1024 * 1024;

/// What kind of object a ledger entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ObjectKind {
    Directory = 1,
    Extent = 2,
    File = 3,
    VirtualMachine = 4,
}

/// By what the ledger names an object on a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerKey {
    /// The hypervisor's configured name; empty in records of a version that did not keep it.
    pub hypervisor: String,
    /// Name of the datastore.
    pub datastore: String,
    /// The object's path on it.
    pub path: String,
}

/// What of a hypervisor's inventory the ledger names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum InventoryKind {
    /// A virtual machine, named by its VMX as the API writes it (`[ds1] web/web.vmx`).
    VirtualMachine = 1,
    /// A snapshot, named by its virtual machine's VMX and its own name, which has the session's number.
    Snapshot = 2,
}

/// One thing that happened in a session and must be known after a restart. Disks are numbered as in the CFG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The session began, in this directory of the share.
    SessionCreated {
        /// The directory's name.
        directory: String,
    },
    /// A small file is whole in the session's directory.
    FileStored {
        /// Its name.
        name: String,
        /// Bytes.
        length: u64,
        /// Of its contents.
        digest: Digest,
    },
    /// A CFG without errors defines the session.
    CfgAccepted {
        /// Of the CFG.
        digest: Digest,
        /// Where everything goes, after conflicts were resolved, in the engine's own notation.
        destination: String,
    },
    /// A disk's extent exists on its datastore; nothing was written to it yet.
    DiskCreated {
        /// Which disk.
        disk: u32,
        /// Name of the datastore.
        datastore: String,
        /// The extent's path on it.
        path: String,
    },
    /// Regions of a disk may be written from here on.
    Intent {
        /// Which disk.
        disk: u32,
        /// Which regions.
        region: Region,
    },
    /// What is known of a disk, and durable on its datastore.
    Map {
        /// Which disk.
        disk: u32,
        /// What is known.
        map: DiskMap,
    },
    /// An extent arrived whole.
    ExtentComplete {
        /// Which disk.
        disk: u32,
    },
    /// An extent was closed with something missing.
    ExtentIncomplete {
        /// Which disk.
        disk: u32,
    },
    /// A disk holds half of a merge or is otherwise not to be trusted: its extent is needed again.
    DiskDoubtful {
        /// Which disk.
        disk: u32,
    },
    /// A differential file was merged.
    PancbtMerged {
        /// Which disk.
        disk: u32,
        /// Its place in the chain, from 0.
        index: u32,
        /// Of the file.
        digest: Digest,
        /// The change id that the disk now stands at.
        target: String,
    },
    /// The VMX is in place on its datastore.
    VmxImported {
        /// Of the VMX as the client sent it.
        digest: Digest,
    },
    /// The virtual machine is registered.
    Registered {
        /// The hypervisor's reference of it.
        reference: String,
    },
    /// The session was removed by the client; what it left on datastores stays.
    SessionRemoved,
    /// An object is about to be made on a datastore.
    LedgerCreated {
        /// Which.
        key: LedgerKey,
        /// What it is.
        kind: ObjectKind,
    },
    /// An object of the ledger is gone, or belongs to a virtual machine that is complete.
    LedgerRemoved {
        /// Which.
        key: LedgerKey,
    },
    /// An object of the ledger was made: by this its datastore recognises it.
    LedgerIdentity {
        /// Which.
        key: LedgerKey,
        /// In the driver's notation.
        identity: String,
    },
    /// Something is about to be made in a hypervisor's inventory, or was made: replaces what was known of it.
    InventoryObject {
        /// The hypervisor's configured name.
        hypervisor: String,
        /// What it is.
        kind: InventoryKind,
        /// Its name; the kind says which.
        name: String,
        /// What is known of it, by key.
        facts: Vec<(String, String)>,
    },
    /// Something of the inventory is gone, or belongs to a virtual machine that is complete.
    InventoryRemoved {
        /// The hypervisor's configured name.
        hypervisor: String,
        /// What it was.
        kind: InventoryKind,
        /// Its name.
        name: String,
    },
    /// What is about to be made of a machine that is brought to a hypervisor as a whole, or what was; ends with
    /// [`Record::VmxImported`].
    Pushing {
        /// The hypervisor's configured name.
        hypervisor: String,
        /// Name of the datastore of its VMX.
        datastore: String,
        /// Path of its VMX there.
        path: String,
        /// By what it is found again, in its sink's notation; empty: nothing of it is left.
        trace: String,
    },
    /// The CFG that was accepted last holds no more, and no disk of it: the session waits for another.
    CfgWithdrawn,
    /// How far the session is with putting its directories in the place of others, in the engine's own notation; empty: not at
    /// all.
    Swap {
        /// How far.
        state: String,
    },
    /// The session's directory of the share has another path.
    SessionMoved {
        /// Its path now.
        directory: String,
        /// The path that it had, while sessions below that have yet to follow it; empty once none has.
        followers: String,
    },
}

/// Why a payload whose checksum is right is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A tag that this version does not know.
    #[error("a record of the unknown kind {0}, written by a newer version")]
    UnknownTag(u8),
    /// The bytes do not follow the layout.
    #[error("a record whose {0} is malformed")]
    Malformed(&'static str),
}

impl Record {
    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::SessionCreated { directory } => put(out, 1).string(directory),
            Self::FileStored { name, length, digest } => put(out, 2).string(name).number(*length).raw(digest),
            Self::CfgAccepted { digest, destination } => put(out, 3).raw(digest).string(destination),
            Self::DiskCreated { disk, datastore, path } => {
                put(out, 4).number(u64::from(*disk)).string(datastore).string(path)
            }
            Self::Intent { disk, region } => put(out, 5)
                .number(u64::from(*disk))
                .number(region.epoch)
                .number(region.first)
                .number(region.count),
            Self::Map { disk, map } => put(out, 6).number(u64::from(*disk)).map(map),
            Self::ExtentComplete { disk } => put(out, 7).number(u64::from(*disk)),
            Self::ExtentIncomplete { disk } => put(out, 8).number(u64::from(*disk)),
            Self::DiskDoubtful { disk } => put(out, 9).number(u64::from(*disk)),
            Self::PancbtMerged { disk, index, digest, target } => {
                put(out, 10).number(u64::from(*disk)).number(u64::from(*index)).raw(digest).string(target)
            }
            Self::VmxImported { digest } => put(out, 11).raw(digest),
            Self::Registered { reference } => put(out, 12).string(reference),
            Self::SessionRemoved => put(out, 13),
            Self::LedgerCreated { key, kind } => put_key(out, key, [14, 19]).raw(&[*kind as u8]),
            Self::LedgerRemoved { key } => put_key(out, key, [15, 20]),
            Self::CfgWithdrawn => put(out, 16),
            Self::LedgerIdentity { key, identity } => put_key(out, key, [17, 21]).string(identity),
            Self::SessionMoved { directory, followers } => put(out, 18).string(directory).string(followers),
            Self::InventoryObject { hypervisor, kind, name, facts } => {
                put(out, 22).string(hypervisor).raw(&[*kind as u8]).string(name).pairs(facts)
            }
            Self::InventoryRemoved { hypervisor, kind, name } => {
                put(out, 23).string(hypervisor).raw(&[*kind as u8]).string(name)
            }
            Self::Swap { state } => put(out, 24).string(state),
            Self::Pushing { hypervisor, datastore, path, trace } => {
                put(out, 30).string(hypervisor).string(datastore).string(path).string(trace)
            }
        };
    }

    /// Parses a payload, all of it.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader { rest: payload };
        let record = Self::decode_fields(&mut from)?;
        if from.rest.is_empty() { Ok(record) } else { Err(DecodeError::Malformed("length")) }
    }

    fn decode_fields(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let [tag] = from.array()?;
        Ok(match tag {
            1 => Self::SessionCreated { directory: from.string()? },
            2 => Self::FileStored { name: from.string()?, length: from.number()?, digest: from.array()? },
            3 => Self::CfgAccepted { digest: from.array()?, destination: from.string()? },
            4 => Self::DiskCreated { disk: from.small()?, datastore: from.string()?, path: from.string()? },
            5 => Self::Intent {
                disk: from.small()?,
                region: Region { epoch: from.number()?, first: from.number()?, count: from.number()? },
            },
            6 => Self::Map { disk: from.small()?, map: from.map()? },
            7 => Self::ExtentComplete { disk: from.small()? },
            8 => Self::ExtentIncomplete { disk: from.small()? },
            9 => Self::DiskDoubtful { disk: from.small()? },
            10 => Self::PancbtMerged {
                disk: from.small()?,
                index: from.small()?,
                digest: from.array()?,
                target: from.string()?,
            },
            11 => Self::VmxImported { digest: from.array()? },
            12 => Self::Registered { reference: from.string()? },
            13 => Self::SessionRemoved,
            14 | 19 => Self::LedgerCreated { key: from.key(tag == 19)?, kind: from.kind()? },
            15 | 20 => Self::LedgerRemoved { key: from.key(tag == 20)? },
            16 => Self::CfgWithdrawn,
            17 | 21 => Self::LedgerIdentity { key: from.key(tag == 21)?, identity: from.string()? },
            18 => Self::SessionMoved { directory: from.string()?, followers: from.string()? },
            22 => Self::InventoryObject {
                hypervisor: from.string()?,
                kind: from.inventory_kind()?,
                name: from.string()?,
                facts: from.pairs()?,
            },
            23 => Self::InventoryRemoved {
                hypervisor: from.string()?,
                kind: from.inventory_kind()?,
                name: from.string()?,
            },
            24 => Self::Swap { state: from.string()? },
            30 => Self::Pushing {
                hypervisor: from.string()?,
                datastore: from.string()?,
                path: from.string()?,
                trace: from.string()?,
            },
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

/// Starts a payload.
fn put(out: &mut Vec<u8>, tag: u8) -> Writer<'_> {
    out.push(tag);
    Writer { out }
}

/// Starts a payload that names an object: the first tag where its hypervisor is not known, else the second.
fn put_key<'a>(out: &'a mut Vec<u8>, key: &LedgerKey, [without, with]: [u8; 2]) -> Writer<'a> {
    let started =
        if key.hypervisor.is_empty() { put(out, without) } else { put(out, with).string(&key.hypervisor) };
    started.string(&key.datastore).string(&key.path)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn raw(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    fn number(self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
        self
    }

    fn string(self, text: &str) -> Self {
        self.number(text.len() as u64).raw(text.as_bytes())
    }

    fn pairs(mut self, pairs: &[(String, String)]) -> Self {
        self = self.number(pairs.len() as u64);
        for (key, value) in pairs {
            self = self.string(key).string(value);
        }
        self
    }

    fn ranges(mut self, ranges: &[Range<u64>]) -> Self {
        self = self.number(ranges.len() as u64);
        let mut last = 0;
        for range in ranges {
            self = self.number(range.start - last).number(range.end - range.start);
            last = range.end;
        }
        self
    }

    /// The declared end is kept as itself plus one, 0 for none.
    fn map(self, map: &DiskMap) -> Self {
        self.number(map.epoch)
            .ranges(&map.received)
            .ranges(&map.written)
            .ranges(&map.lost)
            .number(map.end_of_file)
            .number(map.declared_end.map_or(0, |end| end.saturating_add(1)))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Malformed("length"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Malformed("length"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(DecodeError::Malformed("number")); // Too large, or longer than it needs to be.
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("number"))
    }

    fn small(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.number()?).map_err(|_| DecodeError::Malformed("number"))
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let length = self.number()?;
        if length > MAX_STRING as u64 {
            return Err(DecodeError::Malformed("string"));
        }
        let bytes = self.take(length as usize)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Malformed("string"))
    }

    fn key(&mut self, with_hypervisor: bool) -> Result<LedgerKey, DecodeError> {
        let hypervisor = if with_hypervisor { self.string()? } else { String::new() };
        if with_hypervisor && hypervisor.is_empty() {
            return Err(DecodeError::Malformed("hypervisor")); // That is the other tag's.
        }
        Ok(LedgerKey { hypervisor, datastore: self.string()?, path: self.string()? })
    }

    fn inventory_kind(&mut self) -> Result<InventoryKind, DecodeError> {
        match self.array()? {
            [1] => Ok(InventoryKind::VirtualMachine),
            [2] => Ok(InventoryKind::Snapshot),
            _ => Err(DecodeError::Malformed("kind of object")),
        }
    }

    fn pairs(&mut self) -> Result<Vec<(String, String)>, DecodeError> {
        let count = self.number()?;
        // Each takes two bytes at least: a false count reserves nothing that is not there.
        if count > self.rest.len() as u64 / 2 {
            return Err(DecodeError::Malformed("list of facts"));
        }
        (0..count).map(|_| Ok((self.string()?, self.string()?))).collect()
    }

    fn kind(&mut self) -> Result<ObjectKind, DecodeError> {
        match self.array()? {
            [1] => Ok(ObjectKind::Directory),
            [2] => Ok(ObjectKind::Extent),
            [3] => Ok(ObjectKind::File),
            [4] => Ok(ObjectKind::VirtualMachine),
            _ => Err(DecodeError::Malformed("kind of object")),
        }
    }

    fn ranges(&mut self) -> Result<Vec<Range<u64>>, DecodeError> {
        let count = self.number()?;
        // Each takes two bytes at least: a false count reserves nothing that is not there.
        if count > self.rest.len() as u64 / 2 {
            return Err(DecodeError::Malformed("list of ranges"));
        }
        let mut ranges = Vec::with_capacity(count as usize);
        let mut last: u64 = 0;
        for _ in 0..count {
            let start = last.checked_add(self.number()?).ok_or(DecodeError::Malformed("range"))?;
            last = start.checked_add(self.number()?).ok_or(DecodeError::Malformed("range"))?;
            ranges.push(start..last);
        }
        Ok(ranges)
    }

    fn map(&mut self) -> Result<DiskMap, DecodeError> {
        Ok(DiskMap {
            epoch: self.number()?,
            received: self.ranges()?,
            written: self.ranges()?,
            lost: self.ranges()?,
            end_of_file: self.number()?,
            declared_end: self.number()?.checked_sub(1),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
pub(super) mod tests {
    use super::*;

    /// One of each kind.
    pub(in crate::journal) fn samples() -> Vec<Record> {
        let map = DiskMap {
            epoch: 300,
            received: vec![0..1 << 30],
            written: vec![512..1024, 65536..1 << 29],
            lost: vec![],
            end_of_file: 1 << 30,
            declared_end: Some(0),
        };
        let (datastore, path) = (String::from("datastore1"), String::from("vm/x-flat.vmdk"));
        let key = LedgerKey { hypervisor: "local".into(), datastore: datastore.clone(), path: path.clone() };
        let old = LedgerKey { hypervisor: String::new(), datastore: datastore.clone(), path: "old".into() };
        let (hypervisor, vmx) = (String::from("vc"), String::from("[datastore1] vm/x.vmx"));
        let facts = vec![("id".to_owned(), "vm-42".to_owned()), ("instance".to_owned(), String::new())];
        vec![
            Record::SessionCreated { directory: "Büro".into() },
            Record::FileStored { name: "x.cfg".into(), length: 4938, digest: [1; 32] },
            Record::CfgAccepted { digest: [1; 32], destination: "{}".into() },
            Record::LedgerCreated { key: key.clone(), kind: ObjectKind::Extent },
            Record::LedgerCreated { key: old.clone(), kind: ObjectKind::Directory },
            Record::DiskCreated { disk: 0, datastore, path },
            Record::Intent { disk: 0, region: Region { epoch: 0, first: 8, count: 8 } },
            Record::Map { disk: 0, map },
            Record::ExtentComplete { disk: 0 },
            Record::ExtentIncomplete { disk: u32::MAX },
            Record::DiskDoubtful { disk: 1 },
            Record::PancbtMerged { disk: 0, index: 2, digest: [9; 32], target: "52 aa/7".into() },
            Record::VmxImported { digest: [3; 32] },
            Record::Registered { reference: "vm-42".into() },
            Record::LedgerRemoved { key: key.clone() },
            Record::CfgWithdrawn,
            Record::LedgerIdentity { key: old, identity: "12.34".into() },
            Record::LedgerIdentity { key: LedgerKey { path: "vm".into(), ..key }, identity: "12.34".into() },
            Record::InventoryObject {
                hypervisor: hypervisor.clone(),
                kind: InventoryKind::VirtualMachine,
                name: vmx.clone(),
                facts,
            },
            Record::InventoryRemoved {
                hypervisor,
                kind: InventoryKind::VirtualMachine,
                name: "[b] c".into(),
            },
            Record::SessionMoved { directory: "vms/web".into(), followers: "New folder".into() },
            Record::Swap { state: "{}".into() },
            Record::Pushing {
                hypervisor: "vc".into(),
                datastore: "datastore1".into(),
                path: "vm/x.vmx".into(),
                trace: "{}".into(),
            },
            Record::SessionRemoved,
        ]
    }

    #[test]
    fn every_record_survives_and_no_prefix_does() {
        for record in samples() {
            let mut payload = Vec::new();
            record.encode(&mut payload);
            assert_eq!(Record::decode(&payload).unwrap(), record);
            for cut in 0..payload.len() {
                assert!(Record::decode(&payload[..cut]).is_err(), "{record:?} cut at {cut}");
            }
            payload.push(0);
            assert!(Record::decode(&payload).is_err());
        }
    }

    #[test]
    fn layout_stays_as_documented() {
        let mut payload = Vec::new();
        let map = DiskMap { epoch: 300, received: vec![1..3], ..DiskMap::default() };
        Record::Map { disk: 2, map }.encode(&mut payload);
        assert_eq!(payload, [6, 2, 0xac, 2, 1, 1, 2, 0, 0, 0, 0]);
        assert_eq!(Record::decode(&[200]), Err(DecodeError::UnknownTag(200)));
    }

    #[test]
    fn numbers_are_canonical_and_bounded() {
        let decode = |bytes: &[u8]| Reader { rest: bytes }.number();
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(u64::MAX));
        assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
        assert!(decode(&[0x80, 0]).is_err());
        let huge = [6, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(Record::decode(&huge), Err(DecodeError::Malformed("list of ranges")));
        let huge = [22, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(Record::decode(&huge), Err(DecodeError::Malformed("list of facts")));
        assert_eq!(Record::decode(&[20, 0, 1, b'd', 1, b'p']), Err(DecodeError::Malformed("hypervisor")));
        let key = LedgerKey { hypervisor: String::new(), datastore: "d".into(), path: "p".into() };
        assert_eq!(Record::decode(&[15, 1, b'd', 1, b'p']), Ok(Record::LedgerRemoved { key }));
    }
}
