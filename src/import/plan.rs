//! Where everything of a session goes: a clean CFG, resolved against a hypervisor's datastores and their contents.

use serde::{Deserialize, Serialize};

use super::formats::cfg::{self, Cfg, OnConflict};
use super::formats::vmcfg;
use crate::datastore::{Adapter, DiskSpec, Provisioning};
use crate::inventory::StoreFile;
use crate::journal::LedgerKey;

/// A directory on a datastore.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Datastore as the hypervisor calls it.
    pub datastore: String,
    /// As the CFG wrote the datastore, name or UUID: what `/vmfs/volumes/` paths in the log show.
    pub volume: String,
    /// Directory on it, components joined by `/`.
    pub directory: String,
}

impl Place {
    /// The path of a file in the directory, relative to the datastore.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        if self.directory.is_empty() { name.to_owned() } else { format!("{}/{name}", self.directory) }
    }

    /// The path as ESXi would show it.
    #[must_use]
    pub fn vmfs(&self, name: &str) -> String {
        format!("/vmfs/volumes/{}/{}", self.volume, self.file(name))
    }
}

/// A directory whose place another takes (`on-conflict = "overwrite"`). Paths are on the datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Name of the datastore.
    pub datastore: String,
    /// Where the restored one goes in the end.
    pub target: String,
    /// Where it is until then.
    pub beside: String,
    /// Where the one that was there is moved.
    pub old: String,
}

impl Swap {
    /// The path of something that goes below the target, as long as that is beside; `None` where it goes elsewhere.
    fn aside(&self, datastore: &str, path: &str) -> Option<String> {
        self.mapped(datastore, path, &self.beside)
    }

    /// The path that something below the target has once that was moved away.
    pub(super) fn moved(&self, datastore: &str, path: &str) -> Option<String> {
        self.mapped(datastore, path, &self.old)
    }

    /// Where something of the restored machine is that was noted at `path`, if it took its place since, or went back beside.
    pub(super) fn other(&self, datastore: &str, path: &str) -> Option<String> {
        let back = || below(&self.beside, path).map(|rest| format!("{}{rest}", self.target));
        self.aside(datastore, path).or_else(|| back().filter(|_| datastore == self.datastore))
    }

    fn mapped(&self, datastore: &str, path: &str, to: &str) -> Option<String> {
        let rest = below(&self.target, path).filter(|_| datastore == self.datastore)?;
        Some(format!("{to}{rest}"))
    }
}

/// What a path has behind a directory that it is, or lies below.
fn below<'p>(directory: &str, path: &'p str) -> Option<&'p str> {
    path.strip_prefix(directory).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One disk's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// Descriptor as the backup calls it.
    pub name: String,
    /// Descriptor on the datastore.
    pub target_name: String,
    /// Extent as the backup calls it.
    pub extent: String,
    /// Extent on the datastore.
    pub target_extent: String,
    /// Where both go.
    pub place: Place,
    /// Bytes.
    pub size: u64,
    /// Thin, or else thick.
    pub thin: bool,
    /// The virtual machine whose disk it is, by the inventory's id, where a snapshot of one is restored into.
    pub machine: Option<String>,
}

impl DiskPlan {
    /// As the driver wants it.
    #[must_use]
    pub fn spec(&self) -> DiskSpec {
        DiskSpec {
            directory: self.place.directory.clone(),
            extent: self.target_extent.clone(),
            descriptor: self.target_name.clone(),
            size: self.size,
            provisioning: if self.thin { Provisioning::Thin } else { Provisioning::Thick },
            adapter: Adapter::default(),
            machine: self.machine.clone(),
        }
    }
}

/// Where everything of a session goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The hypervisor's configured name.
    pub hypervisor: String,
    /// Where the VMX goes.
    pub place: Place,
    /// Disks, numbered as in the CFG.
    pub disks: Vec<DiskPlan>,
    /// The CFG as it was asked for.
    pub asked: Cfg,
    /// The CFG after conflicts were resolved.
    pub taken: Cfg,
    /// Directories that take the place of others; until they have, `place` and those of the disks are beside.
    pub swaps: Vec<Swap>,
    /// They have.
    pub placed: bool,
}

/// How a plan stands in the journal: both CFGs as text, so that no second notation has to be kept in step.
#[derive(Serialize, Deserialize)]
struct Recorded {
    hypervisor: String,
    /// Datastore names, the VMX's first, then those of the disks.
    datastores: Vec<String>,
    asked: String,
    taken: String,
    #[serde(default)]
    swaps: Vec<Swap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
}

impl Plan {
    /// Puts a plan together. `datastores` are the names of the datastores that the CFG means: the VMX's, then those of
    /// the disks.
    #[must_use]
    pub fn new(hypervisor: &str, asked: Cfg, taken: Cfg, datastores: &[String]) -> Self {
        let place = |number: usize, volume: &str, directory: &str| Place {
            datastore: datastores.get(number).cloned().unwrap_or_else(|| volume.to_owned()),
            volume: volume.to_owned(),
            directory: directory.to_owned(),
        };
        let disks = taken.disks.iter().enumerate().map(|(number, disk)| DiskPlan {
            name: disk.name.clone(),
            target_name: disk.target_name().to_owned(),
            extent: disk.extent_name.clone(),
            target_extent: disk.target_extent(),
            place: place(number + 1, &disk.datastore, &disk.directory),
            size: disk.size,
            // What a snapshot's disk gives back might show what is below it.
            thin: disk.provisioning == Provisioning::Thin && taken.on_conflict != OnConflict::Snapshot,
            machine: None,
        });
        Self {
            hypervisor: hypervisor.to_owned(),
            disks: disks.collect(),
            place: place(0, &taken.datastore, &taken.directory),
            asked,
            taken,
            swaps: Vec::new(),
            placed: false,
        }
    }

    /// With disks that are those of a virtual machine, by the inventory's id.
    #[must_use]
    pub fn of_machine(mut self, machine: Option<&str>) -> Self {
        for disk in &mut self.disks {
            disk.machine = machine.map(str::to_owned);
        }
        self
    }

    fn machine(&self) -> Option<&str> {
        self.disks.first().and_then(|disk| disk.machine.as_deref())
    }

    /// With these directories put in the place of others.
    #[must_use]
    pub fn replacing(mut self, swaps: Vec<Swap>, placed: bool) -> Self {
        self.swaps = swaps;
        self.placed = placed;
        let at = |place: &mut Place, directory: &str| {
            let aside = self.swaps.iter().find_map(|swap| swap.aside(&place.datastore, directory));
            place.directory = aside.filter(|_| !placed).unwrap_or_else(|| directory.to_owned());
        };
        at(&mut self.place, &self.taken.directory);
        for (disk, cfg) in self.disks.iter_mut().zip(&self.taken.disks) {
            at(&mut disk.place, &cfg.directory);
        }
        self
    }

    /// The same with its directories where they go in the end, or beside those that they replace.
    #[must_use]
    pub fn with_placed(&self, placed: bool) -> Self {
        self.clone().replacing(self.swaps.clone(), placed)
    }

    /// The VMX as it stands in the end.
    #[must_use]
    pub fn target_vmx(&self) -> StoreFile {
        let place = Place { directory: self.taken.directory.clone(), ..self.place.clone() };
        StoreFile { path: place.file(self.taken.target_vmx()), datastore: place.datastore }
    }

    /// The plan of a CFG whose destinations are this one's ([`Cfg::changed_destinations`] is empty): conflicts stay
    /// resolved as they were.
    #[must_use]
    pub fn with(&self, asked: Cfg) -> Self {
        let mut taken = asked.clone();
        taken.directory.clone_from(&self.taken.directory);
        if asked.vm_name == self.asked.vm_name {
            taken.vm_name.clone_from(&self.taken.vm_name);
        }
        for (disk, before) in taken.disks.iter_mut().zip(&self.taken.disks) {
            disk.directory.clone_from(&before.directory);
            if self.into_snapshot() {
                disk.rename.clone_from(&before.rename);
                disk.extent_rename.clone_from(&before.extent_rename);
            }
        }
        taken.on_conflict = match (asked.on_conflict, self.taken.on_conflict) {
            (_, OnConflict::Snapshot) => OnConflict::Snapshot,
            // There was no virtual machine to make a snapshot of.
            (OnConflict::Snapshot, before) => before,
            (asked, _) => asked,
        };
        let names: Vec<_> = self.places().map(|place| place.datastore.clone()).collect();
        let plan = Self::new(&self.hypervisor, asked, taken, &names).of_machine(self.machine());
        plan.replacing(self.swaps.clone(), self.placed)
    }

    /// The CFG after redirection, in which a datastore that is the VMX's is spelled as the VMX's: by name and by UUID it is
    /// the same directory, and a disk beside its VMX is named alone there.
    #[must_use]
    pub fn for_vmx(&self) -> Cfg {
        let mut cfg = self.taken.clone();
        for (disk, plan) in cfg.disks.iter_mut().zip(&self.disks) {
            if plan.place.datastore == self.place.datastore {
                disk.datastore.clone_from(&cfg.datastore);
            }
        }
        cfg
    }

    /// How the ledger names an object of this plan.
    #[must_use]
    pub fn key(&self, datastore: &str, path: &str) -> LedgerKey {
        LedgerKey {
            hypervisor: self.hypervisor.clone(),
            datastore: datastore.to_owned(),
            path: path.to_owned(),
        }
    }

    /// Whether an object lies where this plan leads, or lay there before one directory took another's place: then it is the virtual
    /// machine's once that is complete. What an earlier CFG of the session led elsewhere is not.
    #[must_use]
    pub fn has(&self, key: &LedgerKey) -> bool {
        let at = |datastore: &str, directory: &str| {
            let rest = below(directory, &key.path).filter(|_| key.datastore == datastore);
            rest.is_some_and(|rest| !rest.trim_start_matches('/').contains('/'))
        };
        let placed = [false, true].map(|placed| self.with_placed(placed));
        let mut places = placed.iter().flat_map(Self::places);
        (key.hypervisor.is_empty() || key.hypervisor == self.hypervisor)
            && places.any(|place| at(&place.datastore, &place.directory))
    }

    /// Whether it leads into a snapshot of a virtual machine that exists: its directories and disks are none of the session's.
    #[must_use]
    pub fn into_snapshot(&self) -> bool {
        self.taken.on_conflict == OnConflict::Snapshot
    }

    /// Every place, the VMX's first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.place).chain(self.disks.iter().map(|disk| &disk.place))
    }

    /// For the journal.
    pub fn record(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Recorded {
            hypervisor: self.hypervisor.clone(),
            datastores: self.places().map(|place| place.datastore.clone()).collect(),
            asked: vmcfg::render(&self.asked),
            taken: vmcfg::render(&self.taken),
            swaps: self.swaps.clone(),
            machine: self.machine().map(str::to_owned),
        })
    }

    /// From the journal; `None` where it is not one of ours.
    #[must_use]
    pub fn recorded(text: &str) -> Option<Self> {
        let recorded: Recorded = serde_json::from_str(text).ok()?;
        let read = |text: &str| cfg::parse(text.as_bytes(), OnConflict::Stop).cfg.ok();
        let (asked, taken) = (read(&recorded.asked)?, read(&recorded.taken)?);
        let plan = Self::new(&recorded.hypervisor, asked, taken, &recorded.datastores);
        let plan = plan.of_machine(recorded.machine.as_deref());
        Some(plan.replacing(recorded.swaps, false))
    }
}
