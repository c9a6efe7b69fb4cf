//! One service at a time on a data directory: two would write each other's journals.
//!
//! `<data-dir>/lock` is held with flock(2) for as long as the process lives, however it ends; its text is the process id,
//! for people.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// Name of the lock file.
const LOCK_NAME: &str = "lock";
/// How often a start tries: whoever asks [`holder`] has the lock for a moment.
const ATTEMPTS: u32 = 5;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Digits of a process id, with room.
const PID_BYTES_MAX: u64 = 32;

/// Why the data directory can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// Another service has it.
    #[error(
        "{}: another importfs{} serves this data directory; stop it first, or give this one a data directory of its own",
        .data_dir.display(), shown(*.pid)
    )]
    Taken {
        /// The data directory.
        data_dir: PathBuf,
        /// Its process, where the lock file tells.
        pid: Option<u32>,
    },
    /// The lock file can't be made or locked.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

fn shown(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// The right to serve a data directory. Given back when dropped or when the process ends.
#[derive(Debug)]
pub struct Instance {
    _file: File,
}

impl Instance {
    /// Takes it, or says who has it. The directory must exist.
    pub fn take(data_dir: &Path) -> Result<Self, InstanceError> {
        let path = data_dir.join(LOCK_NAME);
        let failed = |source| InstanceError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        for attempt in 1.. {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if attempt < ATTEMPTS => sleep(PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(InstanceError::Taken { data_dir: data_dir.into(), pid: pid(&mut file) });
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a service has the data directory, and its process where that is known. Changes nothing.
pub fn holder(data_dir: &Path) -> io::Result<Option<Option<u32>>> {
    let mut file = match File::open(data_dir.join(LOCK_NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(pid(&mut file))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_one_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(holder(data.path()).unwrap(), None);
        let first = Instance::take(data.path()).unwrap();
        assert_eq!(holder(data.path()).unwrap(), Some(Some(std::process::id())));
        let sentence = Instance::take(data.path()).unwrap_err().to_string();
        assert!(sentence.contains(&format!("(process {})", std::process::id())), "{sentence}");
        drop(first);
        assert_eq!(holder(data.path()).unwrap(), None);
        Instance::take(data.path()).unwrap();
    }
}
