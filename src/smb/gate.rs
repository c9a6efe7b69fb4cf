//! The gate that a share asks while it opens a file: admits one open, and reserves its share mode before the share touches
//! the file. Dropped unused, it takes that back.

use std::sync::Arc;

use smb_proto::Status;
use smb_proto::fscc::access;

use super::file_entry::{Admission, Admitted, FileEntry};
use super::open_table::OpenTable;
use super::oplock::{Asker, Break, LeaseKey};
use super::share::{FileKey, OpenGate, Refusal};
use super::share_mode::ShareMode;

/// What a CREATE says of the open that it is to make.
#[derive(Debug, Clone, Copy, Default)]
pub struct Intent {
    /// ShareAccess.
    pub share: u32,
    /// Its disposition empties or replaces an existing file.
    pub overwrites: bool,
    /// FILE_DELETE_ON_CLOSE.
    pub deletes: bool,
    /// The lease that it asks for.
    pub lease: Option<LeaseKey>,
    /// It has waited before.
    pub again: bool,
}

/// Admits one open.
pub struct Gate<'t> {
    pub(super) table: &'t OpenTable,
    pub(super) session_id: u64,
    pub(super) id: u64,
    pub(super) intent: Intent,
    pub(super) entry: Option<Arc<FileEntry>>,
    /// Of a named stream: its file's.
    pub(super) base: Option<Arc<FileEntry>>,
    pub(super) breaks: Vec<Break>,
    pub(super) waits_for: Option<Arc<FileEntry>>,
}

impl Gate<'_> {
    /// The notifications that the admission calls for: to be sent whether the open succeeds, waits or fails.
    pub fn take_breaks(&mut self) -> Vec<Break> {
        std::mem::take(&mut self.breaks)
    }

    /// The file whose opens have to give something up first, where the share was told to wait.
    pub fn waits_for(&self) -> Option<&Arc<FileEntry>> {
        self.waits_for.as_ref()
    }
}

impl Gate<'_> {
    /// A stream's open has a part in its file's fate.
    fn admit_base(&mut self, key: &FileKey) -> Result<(), Status> {
        let key = FileKey { stream: String::new(), ..key.clone() };
        let mut files = self.table.file_shard(&key);
        let entry = files.entry(key.clone()).or_insert_with(|| Arc::new(FileEntry::new(key)));
        let asker = Asker { open: self.id, lease: None };
        entry.lock().admit_stream(asker, ShareMode { access: 0, share: self.intent.share })?;
        self.base = Some(Arc::clone(entry));
        Ok(())
    }
}

impl OpenGate for Gate<'_> {
    fn admit(&mut self, key: &FileKey, existed: bool, granted: u32) -> Result<(), Refusal> {
        if self.intent.lease.is_some_and(|lease| self.table.is_leased_elsewhere(lease, key)) {
            return Err(Status::INVALID_PARAMETER.into()); // MS-SMB2 3.3.5.9.8
        }
        if !key.stream.is_empty() {
            self.admit_base(key)?;
        }
        let overwrites = existed && self.intent.overwrites;
        let admission = Admission {
            asker: Asker { open: self.id, lease: self.intent.lease },
            mode: ShareMode { access: granted & access::ALL, share: self.intent.share },
            needs: if overwrites { access::WRITE_DATA } else { 0 },
            overwrites,
            deletes: self.intent.deletes,
            again: self.intent.again,
        };
        let mut files = self.table.file_shard(key);
        let entry = files.entry(key.clone()).or_insert_with(|| Arc::new(FileEntry::new(key.clone())));
        let admitted = entry.lock().admit(admission, &mut self.breaks)?;
        match admitted {
            Admitted::Now => {
                self.entry = Some(Arc::clone(entry));
                Ok(())
            }
            Admitted::Later => {
                self.waits_for = Some(Arc::clone(entry));
                Err(Refusal::Wait)
            }
        }
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        for entry in [self.entry.take(), self.base.take()].into_iter().flatten() {
            self.table.release(&entry, self.id);
        }
        self.table.unreserve(self.session_id);
    }
}
