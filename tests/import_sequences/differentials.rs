//! Differentials: sent piece by piece, and what their close does to their disk.

use smb_proto::fscc::access;
use smb_proto::msg::create::disposition;
use smb_proto::msg::write;
use smb_proto::{Command, Status};

use super::World;
use super::model::{Held, Name, Stage};
use super::requests::{Verdict, Way};
use super::step::Step;
use super::texts::{Differential, HEADER_BYTES};

impl World {
    /// Sends more of a differential.
    pub(super) fn send(&mut self, at: usize, id: u64, length: usize) {
        let held = self.model.opens[&id].clone();
        let (Name::Differential(number, _), Some((differential, sent))) = (held.name, held.sends.clone())
        else {
            return;
        };
        let end = (sent + length).min(differential.bytes.len());
        if sent == end {
            return;
        }
        let before = self.errors_logged(self.directory_of(&held));
        let request = write::Request::new(held.id, sent as u64, &differential.bytes[sent..end]);
        let status = self.call(at, Command::WRITE, |out| request.encode(out)).status();
        if held.access & access::WRITE_DATA == 0 {
            return assert_eq!(status, Status::ACCESS_DENIED);
        }
        let stands_at = self.model.session_of(&held).disks[number].target;
        let unknown = stands_at == u8::MAX && differential.base != 0;
        let follows = stands_at == 0 || differential.base == 0 || stands_at == differential.base;
        let refused =
            held.refused || sent < HEADER_BYTES && end >= HEADER_BYTES && !(differential.fits && follows);
        let expected = match refused {
            _ if unknown && !held.refused && differential.fits && status != Status::SUCCESS => {
                Err(Status::INVALID_PARAMETER)
            }
            _ if unknown && !held.refused && differential.fits => Ok(()),
            true => Err(Status::INVALID_PARAMETER),
            false => Ok(()),
        };
        let verdict = self.judge(status, expected, &format!("a part of {:?}", held.name));
        if verdict != Verdict::Done {
            self.complain(id, before, "a part of a differential");
        }
        let open = self.model.opens.get_mut(&id).unwrap();
        open.wrote |= verdict == Verdict::Done;
        open.refused |= verdict != Verdict::Done;
        open.begun |= verdict == Verdict::Done && end >= HEADER_BYTES;
        open.may_have_begun |= verdict == Verdict::Failed;
        open.sends = Some((differential.clone(), end));
        let disk = &mut self.model.session(held.session).disks[number];
        for change in differential.changes.iter().filter(|change| (sent + 1..=end).contains(&change.said_at))
        {
            match verdict {
                Verdict::Done => disk.wrote(change.offset, &change.data),
                Verdict::Failed => disk.failed(change.offset..change.offset + change.data.len()),
                Verdict::Refused => {}
            }
        }
        self.note_trouble(&held);
    }

    pub(super) fn copy_differential(&mut self, at: usize, step: Step) {
        let disk = step.disk();
        let index = u32::from(disk == 0 && step.a & 0x80 != 0);
        let way = Way { disposition: disposition::OPEN_IF, durable: step.b & 2 != 0, ..Way::COPY };
        let Some(id) = self.open(at, step.directory(), Name::Differential(disk, index), way) else { return };
        let open = self.model.opens.get_mut(&id).unwrap();
        if open.sends.is_none() || self.dead {
            return;
        }
        let differential = Differential::new(disk, (step.a, step.b, step.c), self.last_fill);
        open.sends = Some((differential, 0));
        // Most are sent at once; the others as further steps have it.
        for _ in 0..if step.link & 4 == 0 { 3 } else { 1 } {
            self.send(at, id, 300 + usize::from(step.c) * 4);
            if self.dead {
                return;
            }
        }
        if step.link & 4 == 0 {
            self.send(at, id, usize::MAX / 2);
            if !self.dead {
                self.close(at, id);
            }
        }
    }

    pub(super) fn closed_differential(
        &mut self,
        held: &Held,
        (number, index): (usize, u32),
        clean: bool,
        status: Status,
    ) -> Verdict {
        let Some((differential, sent)) = &held.sends else {
            return self.judge(status, Ok(()), "CLOSE of a differential");
        };
        let all = *sent == differential.bytes.len() && differential.whole && !held.refused;
        let merged = all && held.wrote && clean;
        let may = if merged || !clean { Ok(()) } else { Err(Status::INVALID_PARAMETER) };
        let verdict = self.judge(status, may, &format!("CLOSE of {:?}", held.name));
        let session = self.model.session(held.session);
        if merged && verdict == Verdict::Done {
            let disk = &mut session.disks[number];
            (disk.merged, disk.target, disk.refused, disk.told) =
                (index + 1, differential.target, false, false);
            disk.flushed();
            session.imported = None;
            session.report();
            return verdict;
        }
        session.files.remove(&held.name);
        let disk = &mut session.disks[number];
        (disk.told, disk.refused) = (true, true);
        if held.begun {
            disk.stage = Stage::Doubtful;
        }
        // One that came whole may have been taken up all the same.
        disk.half |= held.begun && !merged;
        session.report();
        session.unsure |= held.may_have_begun;
        verdict
    }
}
