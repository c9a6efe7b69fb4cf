//! Names that go or change: deleting and renaming files of a session.

use std::fs;

use super::error::ImportError;
use super::formats::log_text::Event;
use super::formats::names::Kind;
use super::formats::vmcfg;
use super::session::{Content, Inner, Session, fold_name};
use super::state::{Stage, State};
use crate::journal::Record;

impl Session {
    /// Deletes a file of the client's from the session; what it led to on a datastore stays. Deleting one of the
    /// service's own succeeds and does nothing: a recursive delete asks for each file first and gives up at a refusal,
    /// while the directory itself goes with them in it (docs/decisions: own files).
    pub fn delete(&self, name: &str) -> Result<(), ImportError> {
        if self.find(name).is_some_and(|info| !info.own) {
            self.call_off()?;
        }
        if self.is_last(name) {
            if matches!(&self.lock().state, State::Receiving(all) if all.completing) {
                return Err(ImportError::InUse(self.display(name)));
            }
            // Nothing of a machine that was to be replaced may be forgotten out of its place.
            self.end_swap()?;
        }
        let mut inner = self.lock();
        let key = inner.key(name);
        let Some(entry) = inner.files.get(&key).cloned() else {
            return Err(ImportError::NotFound(self.display(name)));
        };
        if matches!(entry.content, Content::Own(_)) {
            return Ok(());
        }
        if matches!(entry.content, Content::Small(..)) {
            fs::remove_file(self.cached(&entry.name)).map_err(ImportError::io(self.display(name)))?;
        }
        inner.files.remove(&key);
        inner.aliases.retain(|_, target| *target != key);
        self.log.line(&Event::Note(&format!("Remove {}", self.display(&entry.name))).to_string());
        match entry.content {
            Content::Small(Kind::Cfg, _) => self.forget_cfg(&mut inner, &entry.name)?,
            Content::Extent(number) => self.forget_extent(&mut inner, number)?,
            _ => {}
        }
        let left = inner.files.values().any(|entry| !matches!(entry.content, Content::Own(_)));
        if !left && matches!(&inner.state, State::Receiving(all) if all.has_data()) {
            // Nothing of the client's is left: the next CFG begins anew. What lies on datastores stays in the ledger,
            // unless it is a complete virtual machine and so none of the session's business any more.
            if let State::Receiving(all) = &inner.state
                && all.was_complete
            {
                let plan = all.plan.clone();
                for key in inner.ledger.take(|key| plan.has(key)) {
                    self.append(&Record::LedgerRemoved { key })?;
                }
                for snapshot in std::mem::take(&mut inner.snapshots) {
                    self.append(&snapshot.removed())?;
                }
                for machine in std::mem::take(&mut inner.registered) {
                    self.append(&machine.removed())?;
                }
            }
            self.record(&Record::CfgWithdrawn)?;
            inner.state = State::Cfg;
            inner.faults.clear();
        }
        Ok(())
    }

    /// Whether a file is the only one of the client's.
    fn is_last(&self, name: &str) -> bool {
        let inner = self.lock();
        let key = inner.key(name);
        let mut others = inner
            .files
            .iter()
            .filter(|(other, entry)| **other != key && !matches!(entry.content, Content::Own(_)));
        inner.files.contains_key(&key) && others.next().is_none()
    }

    /// The CFG is gone, and what it led to as far as nothing has arrived; with data, the session goes on by it.
    fn forget_cfg(&self, inner: &mut Inner, name: &str) -> Result<(), ImportError> {
        self.put_own(inner, &format!("{name}.err"), None)?;
        self.put_own(inner, &vmcfg::file_name(name), None)?;
        inner.cfg_errors.clear();
        inner.faults.retain(|fault| fault.file != fold_name(name));
        if matches!(&inner.state, State::Receiving(all) if !all.has_data()) {
            self.give_back(inner)?;
        }
        Ok(())
    }

    /// The extent is gone from the session, not from its datastore: before a VMX it has to come again.
    fn forget_extent(&self, inner: &mut Inner, number: usize) -> Result<(), ImportError> {
        let State::Receiving(receiving) = &mut inner.state else { return Ok(()) };
        let imported = receiving.imported.is_some();
        let Some(slot) = receiving.disks.get_mut(number) else { return Ok(()) };
        let half_merged = slot.stage == Stage::Doubtful || slot.merging;
        slot.begin_extent();
        slot.stage = Stage::Absent;
        // After the VMX this is a session being cleared away, whose virtual machine stays complete.
        if imported {
            return Ok(());
        }
        let disk = number as u32;
        self.record(&Record::ExtentIncomplete { disk })?;
        // A restart lists it again, and nothing but all of it makes it whole.
        if half_merged { self.record(&Record::DiskDoubtful { disk }) } else { Ok(()) }
    }

    /// Renames a file: what copy tools do with their temporary names. Any other rename of data is refused, as the CFG
    /// says what each name means.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), ImportError> {
        let mut inner = self.lock();
        let (key, target) = (inner.key(from), fold_name(to));
        if key == target {
            inner.aliases.remove(&fold_name(from));
            return Ok(());
        }
        drop(inner);
        Err(self.refuse(ImportError::UnsupportedType(self.display(to))))
    }
}
