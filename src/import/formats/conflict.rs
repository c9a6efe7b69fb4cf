//! `on-conflict`: destinations that exist already (behaviour.md section 2; import_fs.txt, 'VM Name Conflict').

use std::collections::BTreeMap;

use super::cfg::{Cfg, CfgProblem, Draft};
use crate::inventory::StoreFile;

/// Numbers tried for one name. Past this somebody restores in a loop, and another number would not help.
pub const NUMBERS_MAX: u32 = 10_000;

/// One item that goes elsewhere: the VMX, or a disk. One each, also where they share a directory, as the sample logs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The directory of the CFG.
    pub from: String,
    /// The directory taken.
    pub to: String,
}

/// Why no name was found.
#[derive(Debug, thiserror::Error)]
pub enum ConflictError<E> {
    /// The datastore did not answer.
    #[error(transparent)]
    Exists(#[from] E),
    /// `x(1)` to `x(10000)` are all taken.
    #[error("'{0}' and all names from '{0}(1)' to '{0}(10000)' exist; remove some or choose another")]
    Exhausted(String),
}

/// (datastore, directory) of the VMX and of each disk, in the order of the log.
fn places(cfg: &Cfg) -> Vec<(&str, &str)> {
    let disks = cfg.disks.iter().map(|disk| (disk.datastore.as_str(), disk.directory.as_str()));
    std::iter::once((cfg.datastore.as_str(), cfg.directory.as_str())).chain(disks).collect()
}

/// `on-conflict = "stop"`: each destination directory that exists, or can't be asked about, is a problem. `exists` is
/// asked once for each datastore and directory.
pub fn stopped(draft: &Draft, mut exists: impl FnMut(&str, &str) -> Result<bool, String>) -> Vec<CfgProblem> {
    let mut known: BTreeMap<(&str, &str), Option<String>> = BTreeMap::new();
    let mut problems = Vec::new();
    for place in &draft.places {
        let (Some(datastore), Some(directory)) = (&place.datastore, &place.directory) else { continue };
        let fault = known.entry((datastore, directory)).or_insert_with(|| match exists(datastore, directory) {
            Ok(false) => None,
            Ok(true) => Some(format!(
                "the directory [{datastore}] {directory} exists already; choose another, or set on-conflict = \
                 \"rename\""
            )),
            Err(why) => Some(why),
        });
        // A disk without a directory of its own follows the VM's, whose line is the one to change.
        let told = draft.has(&place.directory_key) || place.directory_key == "directory";
        if let (Some(message), true) = (fault, told) {
            problems.push(draft.problem(&place.directory_key, message.clone()));
        }
    }
    problems
}

/// `on-conflict = "rename"`: the CFG with every directory in conflict renamed, and what was. Items that share a directory
/// still do afterwards, and none is led into a directory that another item of the CFG has for its own. `identity` maps a
/// dsname to the datastore it stands for, so that a name and a UUID of one datastore count as the same.
pub fn renamed<E>(
    cfg: &Cfg,
    mut identity: impl FnMut(&str) -> String,
    mut exists: impl FnMut(&str, &str) -> Result<bool, E>,
) -> Result<(Cfg, Vec<Redirect>), ConflictError<E>> {
    let items: Vec<_> = places(cfg)
        .into_iter()
        .map(|(datastore, directory)| ((identity(datastore), directory.to_owned()), datastore))
        .collect();
    let mut chosen: BTreeMap<(String, String), String> = BTreeMap::new();
    for (place, datastore) in &items {
        if chosen.contains_key(place) {
            continue;
        }
        let new = free_name(&place.1, |candidate| {
            let key = (place.0.clone(), candidate.to_owned());
            let ours = candidate != place.1 && items.iter().any(|(other, _)| *other == key)
                || chosen.iter().any(|(other, taken)| other.0 == place.0 && taken == candidate);
            Ok(ours || exists(datastore, candidate)?)
        })?;
        chosen.insert(place.clone(), new);
    }
    let mut result = cfg.clone();
    let mut redirects = Vec::new();
    for (index, (place, _)) in items.iter().enumerate() {
        let Some(to) = chosen.get(place) else { continue };
        if *to != place.1 {
            redirects.push(Redirect { from: place.1.clone(), to: to.clone() });
        }
        match index.checked_sub(1).and_then(|n| result.disks.get_mut(n)) {
            Some(disk) => disk.directory.clone_from(to),
            None => result.directory.clone_from(to),
        }
    }
    Ok((result, redirects))
}

/// `on-conflict = "overwrite"`: the directories that exist, as datastore (by `identity`) and path, without those that lie in
/// another of them.
pub fn replaced<E>(
    cfg: &Cfg,
    mut identity: impl FnMut(&str) -> String,
    mut exists: impl FnMut(&str, &str) -> Result<bool, E>,
) -> Result<Vec<StoreFile>, E> {
    let mut found: Vec<StoreFile> = Vec::new();
    let mut items = places(cfg);
    items.sort_by_key(|(_, directory)| directory.matches('/').count());
    for (datastore, directory) in items {
        let place = StoreFile { datastore: identity(datastore), path: directory.to_owned() };
        if !found.iter().any(|root| place.is_in(root)) && exists(datastore, directory)? {
            found.push(place);
        }
    }
    Ok(found)
}

/// `name`, or the first of `name(1)`, `name(2)` … that is not taken. Serves VM names too.
pub fn free_name<E>(
    name: &str,
    mut taken: impl FnMut(&str) -> Result<bool, E>,
) -> Result<String, ConflictError<E>> {
    if !taken(name)? {
        return Ok(name.to_owned());
    }
    for number in 1..=NUMBERS_MAX {
        let candidate = format!("{name}({number})");
        if !taken(&candidate)? {
            return Ok(candidate);
        }
    }
    Err(ConflictError::Exhausted(name.to_owned()))
}
