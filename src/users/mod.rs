//! The accounts: names and NT hashes in one file of the data directory.
//!
//! NTLM needs the NT hash itself, which is as good as the password to whoever has it; so the file is readable by the
//! service's account only, and a file that others can read is refused. `importfs user` changes it while the service
//! runs: the service looks at the file's identity and time before each login and reads it again when they changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use md4::{Digest, Md4};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// The file's name in the data directory.
const FILE_NAME: &str = "users.toml";
/// Largest file that is read, in bytes: ten thousand accounts.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest account name in characters (the limit of Windows).
const NAME_CHARS_MAX: usize = 64;
/// Shortest password in characters: below that a guess over the network succeeds in days.
const PASSWORD_CHARS_MIN: usize = 8;

/// MD4 over the password in UTF-16LE (MS-NLMP 3.3.1, NTOWFv1).
pub type NtHash = [u8; 16];

/// Why the accounts could not be read or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UsersError {
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is damaged.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// Others than its owner can read it.
    #[error("{}: others than its owner can read it (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The name can't be one.
    #[error("'{0}' is not an account name: 1 to 64 characters, none of \\ / : ; | = , + * ? < > \" [ ] @")]
    Name(String),
    /// The password is too short.
    #[error("the password has fewer than {PASSWORD_CHARS_MIN} characters")]
    ShortPassword,
    /// The system gives no random numbers.
    #[error("no random numbers for a password: {0}")]
    Random(String),
    /// It is there already.
    #[error("account '{0}' exists already; change its password with: importfs user passwd {0}")]
    Exists(String),
    /// It is not there.
    #[error("there is no account '{0}'")]
    Unknown(String),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default, rename = "user")]
    users: Vec<Account>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Account {
    name: String,
    nt_hash: String,
}

/// Tells one state of the file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// The accounts by lower-case name.
type Accounts = BTreeMap<String, (String, Zeroizing<NtHash>)>;

/// The accounts of one data directory.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    known: Mutex<(Option<Stamp>, Accounts)>,
}

impl Users {
    /// The accounts in `data_dir`; the file need not exist yet.
    pub fn open(data_dir: &Path) -> Result<Self, UsersError> {
        let users = Self { path: data_dir.join(FILE_NAME), known: Mutex::default() };
        users.with(|_| ())?;
        Ok(users)
    }

    /// The account's NT hash; names are compared without case.
    pub fn nt_hash(&self, name: &str) -> Result<Option<NtHash>, UsersError> {
        self.with(|accounts| accounts.get(&name.to_lowercase()).map(|(_, hash)| **hash))
    }

    /// All names as they were given.
    pub fn names(&self) -> Result<Vec<String>, UsersError> {
        self.with(|accounts| accounts.values().map(|(name, _)| name.clone()).collect())
    }

    /// Adds an account.
    pub fn add(&self, name: &str, password: &str) -> Result<(), UsersError> {
        check_name(name)?;
        self.change(|accounts| {
            let key = name.to_lowercase();
            if accounts.contains_key(&key) {
                return Err(UsersError::Exists(name.to_owned()));
            }
            accounts.insert(key, (name.to_owned(), hash_password(password)?));
            Ok(())
        })
    }

    /// Gives an account another password.
    pub fn set_password(&self, name: &str, password: &str) -> Result<(), UsersError> {
        let hash = hash_password(password)?;
        self.change(|accounts| match accounts.get_mut(&name.to_lowercase()) {
            Some(account) => {
                account.1 = hash;
                Ok(())
            }
            None => Err(UsersError::Unknown(name.to_owned())),
        })
    }

    /// Removes an account.
    pub fn remove(&self, name: &str) -> Result<(), UsersError> {
        self.change(|accounts| match accounts.remove(&name.to_lowercase()) {
            Some(_) => Ok(()),
            None => Err(UsersError::Unknown(name.to_owned())),
        })
    }

    fn with<T>(&self, look: impl FnOnce(&Accounts) -> T) -> Result<T, UsersError> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stamp = self.stamp()?;
        if known.0 != Some(stamp) {
            *known = (Some(stamp), self.read()?);
        }
        Ok(look(&known.1))
    }

    fn error(&self, source: io::Error) -> UsersError {
        UsersError::Io { path: self.path.clone(), source }
    }

    fn stamp(&self) -> Result<Stamp, UsersError> {
        match fs::metadata(&self.path) {
            Ok(meta) => {
                Ok(Stamp { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()), size: meta.len() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stamp::default()),
            Err(error) => Err(self.error(error)),
        }
    }

    fn read(&self) -> Result<Accounts, UsersError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Accounts::new()),
            Err(error) => return Err(self.error(error)),
        };
        let mode = file.metadata().map_err(|e| self.error(e))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(UsersError::Exposed { path: self.path.clone(), mode });
        }
        let syntax = |message: String| UsersError::Syntax { path: self.path.clone(), message };
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| self.error(e))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            // What lies behind would be lost at the next change.
            return Err(syntax(format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        parse(&text).map_err(syntax)
    }

    /// Changes the file under a lock, so that two commands at once lose nothing; whole or not at all.
    fn change(&self, edit: impl FnOnce(&mut Accounts) -> Result<(), UsersError>) -> Result<(), UsersError> {
        let failed = |e| self.error(e);
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = lock.open(self.path.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut accounts = self.read()?;
        edit(&mut accounts)?;
        let users = accounts.into_values();
        let users = users.map(|(name, hash)| Account { name, nt_hash: hex(&*hash) }).collect();
        let text = toml::to_string(&Contents { users })
            .map_err(|e| UsersError::Syntax { path: self.path.clone(), message: e.to_string() })?;
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory).and_then(|d| d.sync_all()).map_err(failed)
    }
}

/// The accounts in the text of an accounts file. What is wrong is told without the text: it holds hashes, and errors are logged.
fn parse(text: &str) -> Result<Accounts, String> {
    let contents: Contents = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })?;
    let mut accounts = Accounts::new();
    for account in contents.users {
        let hash = parse_hash(&account.nt_hash)
            .ok_or_else(|| format!("nt-hash of '{}' is not 32 hexadecimal digits", account.name))?;
        accounts.insert(account.name.to_lowercase(), (account.name, Zeroizing::new(hash)));
    }
    Ok(accounts)
}

/// How many accounts the text of an accounts file has, or what is wrong with it.
pub fn check(text: &str) -> Result<usize, String> {
    parse(text).map(|accounts| accounts.len())
}

fn check_name(name: &str) -> Result<(), UsersError> {
    let forbidden = |c: char| c.is_control() || "\\/:;|=,+*?<>\"[]@".contains(c);
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX || name.contains(forbidden) {
        return Err(UsersError::Name(name.to_owned()));
    }
    Ok(())
}

fn hash_password(password: &str) -> Result<Zeroizing<NtHash>, UsersError> {
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(UsersError::ShortPassword);
    }
    let units: Zeroizing<Vec<u8>> =
        Zeroizing::new(password.encode_utf16().flat_map(u16::to_le_bytes).collect());
    Ok(Zeroizing::new(Md4::digest(&*units).into()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String can't fail
        text
    })
}

fn parse_hash(text: &str) -> Option<NtHash> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut hash = [0; 16];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn accounts_are_added_changed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (service, command) = (Users::open(dir.path()).unwrap(), Users::open(dir.path()).unwrap());
        assert_eq!(service.nt_hash("import").unwrap(), None);
        command.add("Import", "Password").unwrap();
        // MS-NLMP 4.2.2.1.2: the NT hash of "Password".
        let expected =
            [0xa4, 0xf4, 0x9c, 0x40, 0x65, 0x10, 0xbd, 0xca, 0xb6, 0x82, 0x4e, 0xe7, 0xc3, 0x0f, 0xd8, 0x52];
        assert_eq!(service.nt_hash("iMPORT").unwrap(), Some(expected));
        assert!(matches!(command.add("IMPORT", "another-one"), Err(UsersError::Exists(_))));
        command.set_password("import", "another-one").unwrap();
        assert_ne!(service.nt_hash("import").unwrap(), Some(expected));
        assert_eq!(service.names().unwrap(), ["Import"]);
        command.remove("import").unwrap();
        assert_eq!(service.nt_hash("import").unwrap(), None);
        assert!(matches!(command.remove("import"), Err(UsersError::Unknown(_))));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(dir.path()).unwrap();
        users.add("import", "long enough").unwrap();
        let path = dir.path().join(FILE_NAME);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(users.nt_hash("import"), Err(UsersError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn damaged_files_and_bad_names_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(dir.path()).unwrap();
        for name in ["", " ", "a/b", "a@b", "a\nb", &"x".repeat(65)] {
            assert!(matches!(users.add(name, "long enough"), Err(UsersError::Name(_))), "{name:?}");
        }
        assert!(matches!(users.add("a", "short"), Err(UsersError::ShortPassword)));
        let mut options = OpenOptions::new();
        let path = dir.path().join(FILE_NAME);
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(b"[[user]]\nname = \"a\"\nnt-hash = \"xyz\"\n").unwrap();
        assert!(matches!(users.nt_hash("a"), Err(UsersError::Syntax { .. })));
        let hash = "4f9490c7e9e138ac84fbc047710632d7";
        let error = check(&format!("\n[[user]]\nname = \"a\"\nnt-hash = \"{hash}\n")).unwrap_err();
        assert!(error.starts_with("line 4: ") && !error.contains(hash), "{error}");
        // Comments up to the limit, and an account behind it: reading a part would lose that one at the next change.
        let text = format!("{}\n[[user]]\nname = \"b\"\nnt-hash = \"{hash}\"\n", "#".repeat(1 << 20));
        file.set_len(0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
        assert!(users.add("c", "long enough").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
