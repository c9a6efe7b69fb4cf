//! A differential on its way into its disk.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::error::ImportError;
use super::file::{ImportFile, MERGED};
use super::formats::cfg::Cfg;
use super::formats::names::{Kind, classify};
use super::session::{Fault, digest};
use super::state::{Stage, State};
use crate::disk::{DiskError, ImportDisk};
use crate::journal::Record;
use crate::pancbt::{Header, Merger, PancbtError, Sink};

/// The disk as the merger sees it.
struct DiskSink<'a> {
    disk: &'a ImportDisk,
    /// The change id at which the disk stands, empty where unknown.
    stands_at: &'a str,
    /// The disk's UUID by its descriptor, where that came and has one.
    uuid: Option<[u8; 16]>,
    /// Called once, before the first change of the disk.
    begin: &'a mut dyn FnMut() -> io::Result<()>,
}

fn io_error(error: DiskError) -> io::Error {
    io::Error::new(error.kind(), error)
}

impl Sink for DiskSink<'_> {
    fn header(&mut self, header: &Header) -> Result<(), String> {
        if header.disk_size != self.disk.size() {
            return Err(format!(
                "it is for a disk of {} bytes, and this one has {}",
                header.disk_size,
                self.disk.size()
            ));
        }
        if let (Some(disk), Some(differential)) = (self.uuid, header.disk_uuid)
            && disk != differential
        {
            return Err(format!(
                "it is for the disk {}, and this one is {} by its descriptor",
                uuid::Uuid::from_bytes(differential),
                uuid::Uuid::from_bytes(disk)
            ));
        }
        if !self.stands_at.is_empty() && !header.base.is_empty() && self.stands_at != header.base {
            return Err(format!(
                "it applies to change id {}, and the disk stands at {}",
                header.base, self.stands_at
            ));
        }
        (self.begin)().map_err(|error| error.to_string())
    }

    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(data, offset).map_err(io_error)
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.zero_range(offset, offset.saturating_add(length)).map_err(io_error)
    }
}

impl ImportFile {
    /// Merges what arrived at `offset` of a differential.
    pub(super) fn merge(
        &self,
        number: usize,
        merger: &Mutex<Option<Merger>>,
        data: &[u8],
        offset: u64,
    ) -> Result<(), ImportError> {
        let (disk, stands_at, uuid) = {
            let inner = self.session.lock();
            let State::Receiving(receiving) = &inner.state else {
                return Err(ImportError::NotInCfg(self.display()));
            };
            let slot = receiving.disks.get(number);
            let uuid = slot.and_then(|slot| slot.descriptor.as_ref()?.uuid_bytes());
            let found = slot.and_then(|slot| Some((slot.disk.clone()?, slot.target.clone(), uuid)));
            found.ok_or_else(|| ImportError::NotInCfg(self.display()))?
        };
        let mut held = merger.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(merger) = held.as_mut() else {
            return Err(ImportError::Refused { path: self.display(), why: MERGED.into() });
        };
        // From the first change on the disk is neither its old nor its new state: a crash must find that written down.
        let mut begin = || self.session.journal.record(&Record::DiskDoubtful { disk: number as u32 });
        let mut sink = DiskSink { disk: &disk, stands_at: &stands_at, uuid, begin: &mut begin };
        merger.write(offset, data, &mut sink).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &PancbtError) -> ImportError {
        ImportError::Refused { path: self.display(), why: error.to_string() }
    }

    /// The differential of `length` bytes was closed: the disk is at its new state, or needs its extent again.
    pub(super) fn finish_merge(
        &self,
        number: usize,
        merger: &Mutex<Option<Merger>>,
        length: u64,
        arrived: bool,
    ) -> Result<(), ImportError> {
        let Some(merger) = merger.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let outcome = merger.finish();
        let begun = merger.header().is_some();
        let target = merger.header().map(|header| header.target.clone()).unwrap_or_default();
        let mut inner = self.session.lock();
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        slot.merging = false;
        let disk = slot.disk.clone();
        let flushed = disk.map_or(Ok(()), |disk| disk.flush());
        let outcome = outcome.map_err(|error| self.refused(&error));
        let outcome = outcome.and_then(|summary| {
            flushed.map_err(ImportError::disk(self.display()))?;
            Ok(summary)
        });
        match outcome {
            Ok(summary) if arrived => {
                let index = chain_index(&self.name, &receiving.plan.taken).unwrap_or(slot.merged);
                slot.merged = index + 1;
                slot.refused = None;
                slot.target.clone_from(&target);
                receiving.imported = None;
                inner.faults.retain(|fault| fault.disk != Some(number));
                self.session.report(&mut inner)?;
                // What its checksummed END! record vouches for stands for the file: it is merged, not kept.
                let digest = digest(format!("{summary:?} {target}").as_bytes());
                let (disk, name) = (number as u32, self.name.clone());
                self.session.append(&Record::FileStored { name, length, digest })?;
                // Before the disk is called whole again: a crash between the two may not forget the merge.
                self.session.append(&Record::PancbtMerged { disk, index, digest, target })?;
                self.session.record(&Record::ExtentComplete { disk })
            }
            outcome => {
                let why = match &outcome {
                    Err(error) => error.to_string(),
                    Ok(_) => format!("{}: it broke off", self.display()),
                };
                let extent = slot.plan.extent.clone();
                let remedy = if begun {
                    slot.stage = Stage::Doubtful;
                    format!("copy {extent} again from its start")
                } else {
                    slot.refused = Some(self.name.clone());
                    format!("nothing was merged; copy the right one, or {extent} again from its start")
                };
                inner.faults.retain(|fault| fault.file != self.key);
                let text = format!("{why}; {remedy}");
                inner.faults.push(Fault { file: self.key.clone(), disk: Some(number), text });
                inner.files.remove(&self.key);
                self.session.report(&mut inner)?;
                if begun {
                    self.session.record(&Record::DiskDoubtful { disk: number as u32 })?;
                }
                outcome.map(|_| ())
            }
        }
    }
}

/// A differential's number in the chain, by its name.
fn chain_index(name: &str, cfg: &Cfg) -> Option<u32> {
    match classify(name, Some(cfg)).kind {
        Kind::Pancbt { index, .. } => Some(index),
        _ => None,
    }
}
