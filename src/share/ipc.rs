//! IPC$: a share whose files are named pipes, each with an RPC server behind it ([`smb_proto::rpc`]). Knows the share traits
//! and the RPC machine; what the services tell comes from their provider.
//!
//! Each open is a pipe of its own: it has no size, no times, and nothing of it is left after its close. What one pipe holds
//! is bounded by the RPC machine, how many there are by the server's table of opens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smb_proto::Status;
use smb_proto::fscc::{access, attributes};
use smb_proto::rpc::{Interface, Pipe, Provider};

use crate::smb::share::{
    BasicChange, Caller, CreateAction, Disposition, File, FileKey, Listing, Metadata, ObjectKind, OpenGate,
    OpenRequest, Opened, Refusal, Share, SharePath, ShareTraits, StreamEntry, Volume,
};

/// The volume of all pipes: no device has this number.
const VOLUME: u64 = u64::MAX;
/// FILE_GENERIC_READ and FILE_GENERIC_WRITE (MS-SMB2 2.2.13.1.1): what MAXIMUM_ALLOWED comes to on a pipe.
const PIPE_ACCESS: u32 = 0x0012_019F;
/// Bytes that a pipe is said to allocate (FileStandardInformation), as Windows does.
const PIPE_ALLOCATION: u64 = 4096;

/// The share IPC$.
pub struct IpcShare {
    provider: Arc<dyn Provider + Send + Sync>,
    opened: AtomicU64,
}

impl IpcShare {
    /// IPC$ whose services tell what `provider` says.
    pub fn new(provider: Arc<dyn Provider + Send + Sync>) -> Self {
        Self { provider, opened: AtomicU64::new(1) }
    }
}

impl Share for IpcShare {
    fn traits(&self) -> ShareTraits {
        ShareTraits { attributes: 0, file_system: "NPFS".into(), name_max: 255, is_slow: false }
    }

    fn volume(&self) -> Result<Volume, Status> {
        Err(Status::INVALID_DEVICE_REQUEST)
    }

    fn open(
        &self,
        request: &OpenRequest,
        _caller: &Caller,
        gate: &mut dyn OpenGate,
    ) -> Result<Opened, Refusal> {
        let [name] = request.path.components.as_slice() else {
            return Err(Status::OBJECT_NAME_NOT_FOUND.into());
        };
        let interface = Interface::from_pipe_name(name).ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
        if request.path.stream.is_some() {
            return Err(Status::OBJECT_NAME_INVALID.into());
        }
        if request.kind == ObjectKind::Directory {
            return Err(Status::NOT_A_DIRECTORY.into());
        }
        match request.disposition {
            Disposition::Open | Disposition::OpenIf => {}
            Disposition::Create => return Err(Status::ACCESS_DENIED.into()), // pipes are made by services only
            _ => return Err(Status::INVALID_PARAMETER.into()),
        }
        let granted = match request.desired_access {
            desired if desired & access::MAXIMUM_ALLOWED != 0 => {
                (desired & !access::MAXIMUM_ALLOWED) | PIPE_ACCESS
            }
            desired => desired,
        };
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let key = FileKey { volume: VOLUME, file: number, stream: String::new() };
        gate.admit(&key, true, granted)?;
        let pipe = Mutex::new(Pipe::new(interface));
        let file = PipeFile { key, path: request.path.clone(), provider: Arc::clone(&self.provider), pipe };
        Ok(Opened { file: Arc::new(file), action: CreateAction::Opened, granted, maximal: granted })
    }
}

/// One open pipe.
struct PipeFile {
    key: FileKey,
    path: SharePath,
    provider: Arc<dyn Provider + Send + Sync>,
    pipe: Mutex<Pipe>,
}

impl PipeFile {
    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File for PipeFile {
    fn key(&self) -> FileKey {
        self.key.clone()
    }

    fn path(&self) -> SharePath {
        self.path.clone()
    }

    fn is_directory(&self) -> bool {
        false
    }

    fn is_uncached(&self) -> bool {
        true
    }

    /// `size` is what is left of a message that was read in part: BUFFER_OVERFLOW tells the client to come back for it.
    fn metadata(&self) -> Result<Metadata, Status> {
        Ok(Metadata {
            file: self.key.file,
            attributes: attributes::NORMAL,
            size: self.pipe().left_of_message() as u64,
            allocation: PIPE_ALLOCATION,
            links: 1,
            ..Metadata::default()
        })
    }

    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> Result<usize, Status> {
        match self.pipe().read(buffer) {
            0 if !buffer.is_empty() => Err(Status::PIPE_EMPTY),
            count => Ok(count),
        }
    }

    fn write_at(&self, data: &[u8], _offset: u64, _write_through: bool) -> Result<(), Status> {
        self.pipe().write(data, &*self.provider).map_err(|error| {
            tracing::debug!(pipe = ?self.path.components, "broken off: {error}");
            Status::PIPE_DISCONNECTED
        })
    }

    fn flush(&self) -> Result<(), Status> {
        Ok(()) // every write was taken when it was answered
    }

    fn set_end_of_file(&self, _size: u64) -> Result<(), Status> {
        Err(Status::INVALID_PARAMETER)
    }

    fn set_allocation(&self, _size: u64) -> Result<(), Status> {
        Err(Status::INVALID_PARAMETER)
    }

    fn set_basic(&self, _change: &BasicChange) -> Result<(), Status> {
        Err(Status::INVALID_PARAMETER)
    }

    fn list(&self) -> Result<Box<dyn Listing>, Status> {
        Err(Status::INVALID_PARAMETER)
    }

    fn rename(&self, _to: &SharePath, _replace: bool, _gate: &mut dyn OpenGate) -> Result<(), Refusal> {
        Err(Status::INVALID_PARAMETER.into())
    }

    fn check_delete(&self) -> Result<(), Status> {
        Err(Status::CANNOT_DELETE)
    }

    fn delete(&self) -> Result<(), Status> {
        Err(Status::CANNOT_DELETE)
    }

    fn security(&self, _parts: u32) -> Result<Vec<u8>, Status> {
        Err(Status::NOT_SUPPORTED)
    }

    fn set_security(&self, _parts: u32, _descriptor: &[u8]) -> Result<(), Status> {
        Err(Status::ACCESS_DENIED)
    }

    fn streams(&self) -> Result<Vec<StreamEntry>, Status> {
        Err(Status::INVALID_PARAMETER)
    }

    fn set_sparse(&self, _sparse: bool) -> Result<(), Status> {
        Err(Status::INVALID_DEVICE_REQUEST)
    }

    fn zero_range(&self, _from: u64, _to: u64) -> Result<(), Status> {
        Err(Status::INVALID_DEVICE_REQUEST)
    }

    fn allocated_ranges(&self, _from: u64, _to: u64, _max: usize) -> Result<(Vec<(u64, u64)>, bool), Status> {
        Err(Status::INVALID_DEVICE_REQUEST)
    }

    fn close(&self, _clean: bool) -> Result<(), Status> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use smb_proto::rpc::ShareInfo;

    use super::*;

    struct Nothing;

    impl Provider for Nothing {
        fn shares(&self) -> Vec<ShareInfo> {
            Vec::new()
        }
        fn server_name(&self) -> String {
            String::new()
        }
        fn domain(&self) -> String {
            String::new()
        }
        fn comment(&self) -> String {
            String::new()
        }
        fn now(&self) -> Duration {
            Duration::ZERO
        }
    }

    struct Open;

    impl OpenGate for Open {
        fn admit(&mut self, _key: &FileKey, _existed: bool, _granted: u32) -> Result<(), Refusal> {
            Ok(())
        }
    }

    fn open(name: &[&str], disposition: Disposition) -> Result<Opened, Refusal> {
        let request = OpenRequest {
            path: SharePath { components: name.iter().map(ToString::to_string).collect(), stream: None },
            disposition,
            kind: ObjectKind::Any,
            desired_access: access::MAXIMUM_ALLOWED,
            attributes: 0,
            options: 0,
            allocation_size: None,
            security: None,
            extended_attributes: Vec::new(),
        };
        let caller = Caller { user: "a".into(), peer: "b".into() };
        IpcShare::new(Arc::new(Nothing)).open(&request, &caller, &mut Open)
    }

    #[test]
    fn only_the_services_pipes_are_there() {
        assert!(open(&["SRVSVC"], Disposition::Open).is_ok());
        assert!(open(&["wkssvc"], Disposition::OpenIf).is_ok());
        for name in [&["lsarpc"][..], &[], &["srvsvc", "x"]] {
            let refused = open(name, Disposition::Open).err().unwrap();
            assert_eq!(refused, Status::OBJECT_NAME_NOT_FOUND.into(), "{name:?}");
        }
        assert_eq!(open(&["srvsvc"], Disposition::Create).err(), Some(Status::ACCESS_DENIED.into()));
    }

    #[test]
    fn a_pipe_is_empty_until_something_is_asked_and_broken_by_nonsense() {
        let file = open(&["srvsvc"], Disposition::Open).unwrap().file;
        let mut buffer = [0; 100];
        assert_eq!(file.read_at(&mut buffer, 0), Err(Status::PIPE_EMPTY));
        assert_eq!(file.write_at(&[0xFF; 40], 0, false), Err(Status::PIPE_DISCONNECTED));
    }
}
