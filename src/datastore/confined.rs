//! Paths that cannot leave their root: each component is opened relative to the one before, without following symbolic
//! links, so that neither a name nor a link that somebody swaps in meanwhile leads out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Components of a path: deeper is a mistake or an attack.
const MAX_DEPTH: usize = 32;

/// Bytes of a component, as every file system of interest has it (NAME_MAX).
const MAX_COMPONENT: usize = 255;

/// How directories on the way are opened.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Permissions of a directory that is made.
const DIRECTORY_MODE: u32 = 0o700;

/// The directory that paths are relative to.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Opens the root. Its own path comes from the configuration and may hold links.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// The root itself.
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Opens the directory that holds the last component of `path`, and gives that component.
    pub fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let components = components(path)?;
        let Some((name, directories)) = components.split_last() else {
            return Err(invalid("the datastore's own directory"));
        };
        Ok((self.walk(directories)?, name))
    }

    /// Whether anything, a link too, has that name.
    pub fn exists(&self, path: &str) -> io::Result<bool> {
        let found = self.parent(path).and_then(|(parent, name)| {
            Ok(rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|_| ())?)
        });
        match found {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a directory and its parents, durably; the last component must be new.
    pub fn create_directory(&self, path: &str) -> io::Result<()> {
        let components = components(path)?;
        let Some((last, parents)) = components.split_last() else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        let mut directory = self.walk(&[])?;
        for name in parents {
            match make(&directory, name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => directory = enter(&directory, name)?,
            }
        }
        make(&directory, last)
    }

    fn walk(&self, components: &[&str]) -> io::Result<OwnedFd> {
        let mut directory = self.directory.try_clone()?;
        for name in components {
            directory = enter(&directory, name)?;
        }
        Ok(directory)
    }
}

/// Opens a file below `parent`, never through a link.
pub fn open_file(parent: &OwnedFd, name: &str, flags: OFlags, mode: Mode) -> io::Result<File> {
    match rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode) {
        Ok(file) => Ok(File::from(file)),
        Err(Errno::LOOP) => Err(invalid("a symbolic link")),
        Err(error) => Err(error.into()),
    }
}

/// Opens the directory `name` below `parent`, never through a link.
pub fn enter(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        Ok(directory) => Ok(directory),
        Err(Errno::LOOP) => Err(invalid("a symbolic link")),
        // With O_DIRECTORY and O_NOFOLLOW Linux reports a link as not a directory.
        Err(Errno::NOTDIR) => match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Ok(_) => Err(invalid("a symbolic link")),
            Err(_) => Err(Errno::NOTDIR.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn make(parent: &OwnedFd, name: &str) -> io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(DIRECTORY_MODE))?;
    Ok(rustix::fs::fsync(parent)?)
}

/// Splits and checks a path: relative, with `/` between components that are plain names. Empty means the root.
pub fn components(path: &str) -> io::Result<Vec<&str>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let components: Vec<_> = path.split('/').take(MAX_DEPTH + 1).collect();
    if components.len() > MAX_DEPTH {
        return Err(invalid("a path of too many components"));
    }
    for name in &components {
        match *name {
            "" | "." | ".." => return Err(invalid("an empty, `.` or `..` component")),
            name if name.len() > MAX_COMPONENT => return Err(Errno::NAMETOOLONG.into()),
            name if name.chars().any(char::is_control) => return Err(invalid("a control character")),
            _ => {}
        }
    }
    Ok(components)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the path holds or leads through {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_plain_relative_names() {
        for bad in ["/a", "a/", "a//b", "..", "a/../b", ".", "a/./b", "a\0b", "a/b\n"] {
            assert_eq!(components(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(components(&"x".repeat(256)).is_err());
        assert!(components(&vec!["a"; MAX_DEPTH + 1].join("/")).is_err());
        assert_eq!(components("VM (1)/ä.vmx").unwrap(), ["VM (1)", "ä.vmx"]);
    }

    #[test]
    fn directories_are_made_with_parents_and_links_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        root.create_directory("a/b/c").unwrap();
        assert_eq!(root.create_directory("a/b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(root.exists("a/b/c").unwrap() && !root.exists("a/x/c").unwrap());
        std::os::unix::fs::symlink("a", directory.path().join("inside")).unwrap();
        assert!(root.exists("inside").unwrap(), "a link takes a name");
        assert_eq!(root.create_directory("inside/d").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(root.exists("inside/b").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
