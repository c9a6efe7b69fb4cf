//! Small files of a datastore through `/folder`: VMX, nvram, descriptors. Not for disks: there are no ranges and no holes.
//!
//! A PUT that breaks off leaves a partial file; a retry writes it anew from its start. So every file is compared in length after it was
//! put.

use std::io::Cursor;
use std::time::Duration;

use reqwest::Method;

use super::Ref;
use super::client::{Client, Live};
use super::error::{Fault, VsphereError};
use super::http::read_bounded;
use super::inventory::{Store, stored_name};
use super::task::SEARCH_TIMEOUT;
use super::xml::Element;

/// How long one file may take: 16 MiB over a bad line.
const FILE_TIMEOUT: Duration = Duration::from_mins(5);
/// Tries of one file.
const TRIES_MAX: u32 = 4;
/// Before the second try; doubled before each further one.
const PAUSE: Duration = Duration::from_millis(500);

/// Files of one datastore.
pub struct Files<'c> {
    client: &'c Client,
    /// The datacenter as `/folder` knows it: its inventory path.
    datacenter: String,
    datastore: String,
}

impl<'c> Files<'c> {
    /// Those of a datastore, by its name.
    pub fn new(client: &'c Client, datacenter: &Ref, datastore: &str) -> Result<Self, VsphereError> {
        Ok(Self { client, datacenter: client.inventory_path(datacenter)?, datastore: datastore.to_owned() })
    }

    /// Puts a file there, in a directory that exists.
    pub fn put(&self, path: &str, contents: &[u8]) -> Result<(), VsphereError> {
        let what = self.what("written", path);
        self.again(|live| {
            let answer = self.request(live, Method::PUT, path, |request| {
                self.client.https()?.upload(
                    request,
                    Cursor::new(contents.to_vec()),
                    Some(contents.len() as u64),
                )
            })?;
            self.taken(answer.status().as_u16(), &what)?;
            let there = self.length(live, path, &what)?;
            if there == contents.len() as u64 {
                return Ok(());
            }
            let why = format!("{there} bytes arrived of {}", contents.len());
            Err(VsphereError::Lost { server: self.client.server().to_owned(), why })
        })
    }

    /// A file of at most `limit` bytes; `None` where there is none.
    pub fn get(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, VsphereError> {
        let what = self.what("read", path);
        self.again(|live| {
            let answer =
                self.request(live, Method::GET, path, |request| self.client.https()?.send(request))?;
            let status = answer.status().as_u16();
            if status == 404 {
                return Ok(None);
            }
            self.taken(status, &what)?;
            read_bounded(answer, self.client.server(), limit).map(Some)
        })
    }

    fn what(&self, done: &str, path: &str) -> String {
        format!("{} can't be {done}", Store::path(&self.datastore, path))
    }

    fn length(&self, live: &Live, path: &str, what: &str) -> Result<u64, VsphereError> {
        let answer = self.request(live, Method::HEAD, path, |request| self.client.https()?.send(request))?;
        self.taken(answer.status().as_u16(), what)?;
        let length =
            answer.headers().get(reqwest::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        length
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| VsphereError::Told(format!("{what}: its length is not told")))
    }

    fn request<T>(
        &self,
        live: &Live,
        method: Method,
        path: &str,
        send: impl FnOnce(reqwest::blocking::RequestBuilder) -> Result<T, VsphereError>,
    ) -> Result<T, VsphereError> {
        let https = self.client.https()?;
        let components: Vec<_> = std::iter::once("folder").chain(path.split('/')).collect();
        let query = [("dcPath", self.datacenter.as_str()), ("dsName", &stored_name(&self.datastore))];
        send(https.request(method, https.address(&components, &query), live.cookie(), FILE_TIMEOUT))
    }

    fn taken(&self, status: u16, what: &str) -> Result<(), VsphereError> {
        match status {
            200..=299 => Ok(()),
            401 => Err(VsphereError::Fault(Fault {
                kind: "NotAuthenticated".into(),
                message: String::new(),
                detail: Box::default(),
            })),
            _ => Err(VsphereError::Http {
                what: what.to_owned(),
                status,
                advice: match status {
                    403 => "; the account lacks Datastore.FileManagement there, docs/vsphere.md has its role",
                    404 => "; the directory or the datastore does not exist",
                    507 => "; the datastore is full",
                    _ => "",
                },
            }),
        }
    }

    fn again<T>(&self, mut work: impl FnMut(&Live) -> Result<T, VsphereError>) -> Result<T, VsphereError> {
        let (mut tries, mut pause) = (1, PAUSE);
        loop {
            match self.client.with_session(&mut work) {
                Err(error) if error.is_transient() && tries < TRIES_MAX => {
                    tracing::info!("{error}; once more");
                    tries += 1;
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                done => return done,
            }
        }
    }
}

impl Client {
    /// Whether a datastore has a directory or file at that path.
    pub fn exists(&self, store: &Store, path: &str) -> Result<bool, VsphereError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found = self.look(store, parent, name)?;
        Ok(found.is_some_and(|found| found.all("file").any(|file| file.text_at(&["path"]) == name)))
    }

    /// Makes a directory and those above it; one that is there is fine.
    pub fn make_directory(&self, datacenter: &Ref, store: &Store, path: &str) -> Result<(), VsphereError> {
        match self.make_new_directory(datacenter, store, path) {
            Err(error) if error.kind() == "FileAlreadyExists" => Ok(()),
            done => done,
        }
    }

    /// Makes a directory and those above it; one that is there is the fault `FileAlreadyExists`.
    pub fn make_new_directory(
        &self,
        datacenter: &Ref,
        store: &Store,
        path: &str,
    ) -> Result<(), VsphereError> {
        let place = Store::path(&store.name, path);
        let made = self.call("MakeDirectory", &self.file_manager()?, |w| {
            w.value("name", &place)
                .reference("datacenter", datacenter)
                .value("createParentDirectories", true);
        });
        made.map(|_| ()).map_err(|error| error.about(format!("{place} can't be made")))
    }

    /// Whether nothing is in a directory that exists.
    pub fn is_empty(&self, store: &Store, path: &str) -> Result<bool, VsphereError> {
        Ok(self.look(store, path, "*")?.is_none_or(|found| found.all("file").next().is_none()))
    }

    /// Deletes a file, or a directory with all that is in it, by its `[datastore] path`. Not for disks.
    pub fn delete_file(&self, datacenter: &Ref, place: &str) -> Result<(), VsphereError> {
        let what = format!("{place} can't be deleted");
        let manager = self.file_manager()?;
        self.run_task("DeleteDatastoreFile_Task", &manager, SEARCH_TIMEOUT, &what, |w| {
            w.value("name", place).reference("datacenter", datacenter);
        })?;
        Ok(())
    }

    fn file_manager(&self) -> Result<Ref, VsphereError> {
        let manager = self.with_session(|live| Ok(live.content.file_manager.clone()))?;
        manager.ok_or_else(|| VsphereError::Told(format!("{} has no file manager", self.server())))
    }

    /// What of a datastore's directory has a name like `pattern`; `None` where there is no such directory.
    fn look(&self, store: &Store, directory: &str, pattern: &str) -> Result<Option<Element>, VsphereError> {
        let browser = self.properties_of(&store.reference, &["browser"])?.reference("browser");
        let hidden =
            || VsphereError::Told(format!("the account may not browse the datastore '{}'", store.name));
        let browser = browser.ok_or_else(hidden)?;
        let place = Store::path(&store.name, directory);
        let what = format!("{place} can't be searched");
        let found = self.run_task("SearchDatastore_Task", &browser, SEARCH_TIMEOUT, &what, |w| {
            w.value("datastorePath", &place);
            w.element("searchSpec", |w| {
                w.value("matchPattern", pattern);
            });
        });
        match found {
            Err(error) if matches!(error.kind(), "FileNotFound" | "NotFound" | "InvalidDatastorePath") => {
                Ok(None)
            }
            done => done,
        }
    }
}
