//! Data: what is written, read, cut, zeroed and copied, of disks and of small files, and the close of a disk.

use smb_proto::fscc::access;
use smb_proto::fscc::fsctl::{Chunk, CopyChunk, RESUME_KEY_LEN, code};
use smb_proto::fscc::info::class;
use smb_proto::msg::{flush, ioctl, read, write};
use smb_proto::{Command, Status};

use super::World;
use super::model::{Held, Name, SIZES, Stage, Whole};
use super::requests::{Verdict, is_failure};
use super::step::Step;

impl World {
    /// Bytes that no write has had before, with zeros in some of them.
    pub(super) fn data(&mut self, length: usize, kind: u8) -> Vec<u8> {
        self.last_fill = self.last_fill.wrapping_add(1);
        let fill = self.last_fill | 1;
        let zero = |at: usize| match kind >> 4 {
            0..=6 => false,
            7 => true,
            8..=11 => at % 1200 < 600,
            _ => at % 1100 > 40,
        };
        (0..length).map(|at| if zero(at) { 0 } else { fill.wrapping_add((at % 5) as u8 * 2) }).collect()
    }

    /// A whole extent: back to front, in pieces.
    pub(super) fn fill(&mut self, at: usize, id: u64, kind: u8) {
        let Name::Extent(disk) = self.model.opens[&id].name else { return };
        let data = self.data(SIZES[disk], kind);
        let piece = [700, 1024, 3000, 8192][usize::from(kind) % 4];
        for (number, part) in data.chunks(piece).enumerate().rev() {
            self.write(at, id, number * piece, part);
            if self.dead {
                return;
            }
        }
    }

    /// A file's first refusal on a handle is logged.
    pub(super) fn complain(&mut self, id: u64, before: usize, what: &str) {
        let held = self.model.opens[&id].clone();
        if !held.complained {
            self.must_be_logged(self.directory_of(&held), before, what);
            self.model.opens.get_mut(&id).unwrap().complained = true;
        }
    }

    /// An operation on a disk failed, or might have.
    pub(super) fn note_trouble(&mut self, held: &Held) {
        if !self.struck && !self.dead {
            return;
        }
        let session = self.model.session(held.session);
        session.unsure = true;
        session.disks.iter_mut().for_each(super::model::Disk::troubled);
    }

    pub(super) fn write(&mut self, at: usize, id: u64, offset: usize, data: &[u8]) {
        let held = self.model.opens[&id].clone();
        let before = self.errors_logged(self.directory_of(&held));
        let request = write::Request::new(held.id, offset as u64, data);
        let status = self.call(at, Command::WRITE, |out| request.encode(out)).status();
        let may = held.access & access::WRITE_DATA != 0;
        let what = format!("WRITE of {} at {offset} of {:?}", data.len(), held.name);
        let session = self.model.session(held.session);
        let expected = match held.name {
            _ if !may => Err(Status::ACCESS_DENIED),
            Name::Extent(disk) => {
                let open = session.reopen(disk);
                open.and(if offset + data.len() > SIZES[disk] { Err(Status::DISK_FULL) } else { Ok(()) })
            }
            Name::Differential(..) => Err(Status::INVALID_PARAMETER), // it is merged
            _ => Ok(()),
        };
        let fails = may && expected.is_ok() && is_failure(status);
        let expected = self.or_late(&held, expected, status);
        let verdict = self.judge(status, expected, &what);
        if verdict != Verdict::Done && may {
            self.complain(id, before, &what);
        }
        let session = self.model.session(held.session);
        match held.name {
            Name::Extent(disk) if verdict == Verdict::Done => session.disks[disk].wrote(offset, data),
            Name::Extent(disk) if fails || may && verdict == Verdict::Failed => {
                let end = (offset + data.len()).min(SIZES[disk]);
                session.disks[disk].failed(offset.min(end)..end);
                session.unsure = true;
            }
            name if verdict == Verdict::Done && name.is_small() => {
                if let Some(stored) = session.files.get_mut(&name).filter(|stored| stored.serial == held.file)
                {
                    let end = offset + data.len();
                    stored.bytes.resize(stored.bytes.len().max(end), 0);
                    stored.bytes[offset..end].copy_from_slice(data);
                }
            }
            _ => {}
        }
        if verdict == Verdict::Done {
            self.model.opens.get_mut(&id).unwrap().wrote = true;
        }
        self.note_trouble(&held);
    }

    /// A failure to write what was held before may be the answer instead.
    pub(super) fn or_late(
        &mut self,
        held: &Held,
        expected: Result<(), Status>,
        status: Status,
    ) -> Result<(), Status> {
        let Name::Extent(disk) = held.name else { return expected };
        let (struck, disk) = (self.struck || self.dead, &mut self.model.session(held.session).disks[disk]);
        if disk.late && is_failure(status) && !struck && expected.is_ok() {
            disk.late = false;
            return Err(status);
        }
        expected
    }

    pub(super) fn zero(&mut self, at: usize, id: u64, offset: usize, length: usize) {
        let held = self.model.opens[&id].clone();
        let before = self.errors_logged(self.directory_of(&held));
        let mut input = (offset as u64).to_le_bytes().to_vec();
        input.extend(((offset + length) as u64).to_le_bytes());
        let status = self.fsctl(at, held.id, code::SET_ZERO_DATA, &input, 0).status();
        let session = self.model.session(held.session);
        let may = held.access & access::WRITE_DATA != 0;
        let expected = match held.name {
            _ if !may => Err(Status::ACCESS_DENIED),
            Name::Extent(disk) => session.reopen(disk),
            _ => Err(Status::INVALID_PARAMETER),
        };
        let verdict = self.judge(status, expected, "zeroing");
        if verdict != Verdict::Done && may {
            self.complain(id, before, "zeroing");
        }
        let session = self.model.session(held.session);
        if let Name::Extent(disk) = held.name {
            let disk = &mut session.disks[disk];
            let end = (offset + length).min(disk.end);
            match verdict {
                Verdict::Done if offset < end => disk.wrote(offset, &vec![0; end - offset]),
                Verdict::Failed if offset < end => disk.failed(offset..end),
                _ => {}
            }
        }
        self.note_trouble(&held);
    }

    pub(super) fn resize(&mut self, at: usize, id: u64, size: usize) {
        let held = self.model.opens[&id].clone();
        let before = self.errors_logged(self.directory_of(&held));
        let status = self.set(at, held.id, class::END_OF_FILE, &(size as u64).to_le_bytes()).status();
        let session = self.model.session(held.session);
        let may = held.access & access::WRITE_DATA != 0;
        let expected = match held.name {
            _ if !may => Err(Status::ACCESS_DENIED),
            Name::Extent(disk) => {
                let shrinks = size < session.disks[disk].end;
                let open = match shrinks {
                    true if size == 0 => {
                        session.restart(disk);
                        Ok(())
                    }
                    true => session.reopen(disk),
                    false => Ok(()),
                };
                open.and(if size > SIZES[disk] { Err(Status::DISK_FULL) } else { Ok(()) })
            }
            Name::Differential(..) if size == 0 && (held.sends.is_none() || held.wrote) => {
                Err(Status::MEDIA_WRITE_PROTECTED)
            }
            _ => Ok(()),
        };
        let verdict = self.judge(status, expected, &format!("end of file {size} of {:?}", held.name));
        if verdict != Verdict::Done && may {
            self.complain(id, before, "an end of file");
        }
        let session = self.model.session(held.session);
        match held.name {
            Name::Extent(disk) if verdict == Verdict::Done => session.disks[disk].cut_or_grow(size),
            Name::Extent(disk) if verdict == Verdict::Failed && size < SIZES[disk] => {
                session.disks[disk].cut_or_grow(size);
                session.disks[disk].failed(size..SIZES[disk]);
            }
            name if verdict == Verdict::Done && name.is_small() => {
                if let Some(stored) = session.files.get_mut(&name).filter(|stored| stored.serial == held.file)
                {
                    stored.bytes.resize(size, 0);
                }
                self.model.opens.get_mut(&id).unwrap().wrote = true;
            }
            _ => {}
        }
        self.note_trouble(&held);
    }

    pub(super) fn read(&mut self, at: usize, id: u64, offset: usize, length: usize) {
        let held = self.model.opens[&id].clone();
        let request = read::Request::new(held.id, offset as u64, length as u32);
        let answer = self.call(at, Command::READ, |out| request.encode(out));
        self.note_trouble(&held);
        let session = self.model.session_of(&held);
        let known: Vec<_> = match held.name {
            _ if held.access & access::READ_DATA == 0 => {
                return assert_eq!(answer.status(), Status::ACCESS_DENIED);
            }
            Name::Differential(..) => return assert_eq!(answer.status(), Status::ACCESS_DENIED),
            Name::Log | Name::CfgErr => return, // what it says is held against other things
            Name::Extent(disk) => {
                let disk = &session.disks[disk];
                disk.bytes[..disk.end].iter().map(|byte| (byte.value, byte.sure)).collect()
            }
            _ => match self.stored(&held) {
                Some(stored) => stored.bytes.iter().map(|byte| (*byte, true)).collect(),
                None => return, // another has its name
            },
        };
        let from = offset.min(known.len());
        let known = &known[from..(from + length).min(known.len())];
        let expected = if known.is_empty() { Err(Status::END_OF_FILE) } else { Ok(()) };
        if self.judge(answer.status(), expected, &format!("READ of {:?}", held.name)) != Verdict::Done {
            return;
        }
        let data = read::Response::decode(&answer.0).unwrap().data;
        assert_eq!(data.len(), known.len(), "as much as there is");
        for (number, ((value, sure), read)) in known.iter().zip(data).enumerate() {
            assert!(!sure || value == read, "byte {} of {held:?} is {read}, not {value}", from + number);
        }
    }

    pub(super) fn flush(&mut self, at: usize, id: u64) {
        let held = self.model.opens[&id].clone();
        let request = flush::Request { file_id: held.id };
        let status = self.call(at, Command::FLUSH, |out| request.encode(out)).status();
        let may = held.access & access::WRITE_DATA != 0;
        let expected = if may { Ok(()) } else { Err(Status::ACCESS_DENIED) };
        let expected = if may { self.or_late(&held, expected, status) } else { expected };
        let verdict = self.judge(status, expected, "FLUSH");
        if let (Name::Extent(disk), Verdict::Done, false) = (held.name, verdict, self.struck) {
            let disk = &mut self.model.session(held.session).disks[disk];
            disk.flushed();
            disk.late = false;
        }
        self.note_trouble(&held);
    }

    /// Copies a range of one open file to another, within the server.
    pub(super) fn copy(&mut self, at: usize, target: u64, own: &[u64], step: Step) {
        let source = self.model.opens[&own[usize::from(step.a) % own.len()]].clone();
        let held = self.model.opens[&target].clone();
        let (Name::Extent(from), Name::Extent(to)) = (source.name, held.name) else { return };
        if source.access & held.access & access::WRITE_DATA == 0 {
            return;
        }
        let known = &self.model.session_of(&source).disks[from];
        let offset = usize::from(step.b) * 19 % SIZES[from];
        let end = (offset + 1 + usize::from(step.c) * 13).min(known.end);
        if offset >= end || known.bytes[offset..end].iter().any(|byte| !byte.sure) {
            return;
        }
        let data: Vec<_> = known.bytes[offset..end].iter().map(|byte| byte.value).collect();
        let target_offset = usize::from(step.c) * 31 % SIZES[to];
        let answer = self.fsctl(at, source.id, code::SRV_REQUEST_RESUME_KEY, &[], 32);
        let output = ioctl::Response::decode(&answer.0).unwrap().output;
        let source_key: [u8; RESUME_KEY_LEN] = output[..RESUME_KEY_LEN].try_into().unwrap();
        let chunk = Chunk {
            source_offset: offset as u64,
            target_offset: target_offset as u64,
            length: data.len() as u32,
        };
        let mut input = Vec::new();
        CopyChunk { source_key, chunks: vec![chunk] }.encode(&mut input);
        self.troubles.set(None); // which of the two files failed, nobody tells
        let before = self.errors_logged(self.directory_of(&held));
        let status = self.fsctl(at, held.id, code::SRV_COPYCHUNK, &input, 12).status();
        let fits = if target_offset + data.len() > SIZES[to] { Err(Status::DISK_FULL) } else { Ok(()) };
        let expected = self.model.session(held.session).reopen(to).and(fits);
        let fails = expected.is_ok() && is_failure(status);
        let expected = self.or_late(&held, expected, status);
        let verdict = self.judge(status, expected, "a copy within the server");
        if verdict != Verdict::Done {
            self.complain(target, before, "a copy within the server");
        }
        let session = self.model.session(held.session);
        if verdict == Verdict::Done {
            session.disks[to].wrote(target_offset, &data);
        } else if fails || verdict == Verdict::Failed {
            session.disks[to].failed(target_offset..(target_offset + data.len()).min(SIZES[to]));
            session.unsure = true;
        }
        self.note_trouble(&held);
    }

    /// What is said to hold no data reads as zeros.
    pub(super) fn ranges(&mut self, at: usize, id: u64) {
        let held = self.model.opens[&id].clone();
        let Name::Extent(disk) = held.name else { return };
        if held.access & access::READ_DATA == 0 {
            return;
        }
        let mut input = 0_u64.to_le_bytes().to_vec();
        input.extend((SIZES[disk] as u64).to_le_bytes());
        let answer = self.fsctl(at, held.id, code::QUERY_ALLOCATED_RANGES, &input, 4096);
        assert_eq!(answer.status(), Status::SUCCESS);
        let output = ioctl::Response::decode(&answer.0).unwrap().output;
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) as usize;
        let ranges: Vec<_> =
            output.chunks_exact(16).map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect();
        let disk = &self.model.session_of(&held).disks[disk];
        for (at, byte) in disk.bytes[..disk.end].iter().enumerate() {
            let inside = ranges.iter().any(|(from, length)| (*from..from + length).contains(&at));
            assert!(inside || !byte.sure || byte.value == 0, "byte {at} holds data outside of {ranges:?}");
        }
    }

    pub(super) fn closed_extent(
        &mut self,
        held: &Held,
        number: usize,
        clean: bool,
        status: Status,
    ) -> Verdict {
        let may = if held.writes { self.or_late(held, Ok(()), status) } else { Ok(()) };
        let verdict = self.judge(status, may, &format!("CLOSE of {held:?}"));
        let last = self.model.writers(held.session, number) == 0;
        let struck = self.struck || self.dead;
        let session = self.model.session(held.session);
        if !held.writes {
            return verdict;
        }
        let disk = &mut session.disks[number];
        if !clean && disk.stage == Stage::Receiving {
            disk.declared = None;
        }
        if verdict != Verdict::Done || struck || !clean && disk.late {
            disk.troubled();
            session.unsure = true;
            return verdict;
        }
        disk.flushed();
        disk.late = false;
        if disk.stage == Stage::Receiving && last {
            match disk.whole() {
                Whole::Yes => disk.stage = Stage::Complete,
                Whole::No => {}
                Whole::Maybe => session.unsure = true,
            }
        }
        verdict
    }
}
