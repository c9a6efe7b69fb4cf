//! What the names of a CFG stand for: datacenter, folder, host, cluster, resource pool, datastores.
//!
//! Errors are sentences that list what there is instead, as whoever writes a CFG can't see the inventory.

use std::collections::BTreeMap;

use super::client::Client;
use super::error::VsphereError;
use super::property::Object;
use super::{Ref, soap};

/// Names that a sentence lists before it says 'and N more'.
const LISTED_MAX: usize = 20;
/// Folders above an object: deeper trees than anybody navigates.
pub(super) const PARENTS_MAX: usize = 64;

/// A datacenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datacenter {
    /// It.
    pub reference: Ref,
    /// Its name.
    pub name: String,
    /// The root of its virtual machines' folders.
    pub vm_folder: Ref,
    /// The root of its hosts' folders.
    pub host_folder: Ref,
    /// Its datastores.
    pub datastores: Vec<Ref>,
    /// Its networks.
    pub networks: Vec<Ref>,
}

/// A datastore, as its server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// It.
    pub reference: Ref,
    /// Its name.
    pub name: String,
    /// The last component of its URL: `4e3193a0-698e20ea-f9ef-180373f1beff`.
    pub uuid: String,
    /// Whether any host reaches it; room counts only where it does.
    pub accessible: bool,
    /// `normal` unless it is being emptied.
    pub maintenance: String,
    /// Bytes free.
    pub free: u64,
    /// Bytes in all.
    pub capacity: u64,
    /// Hosts that can write to it now.
    pub hosts: Vec<Ref>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// It.
    pub reference: Ref,
    /// Its name.
    pub name: String,
    /// Its cluster, or the compute resource that is this host alone.
    pub compute: Ref,
    /// `connected`, or why not.
    pub state: String,
    /// In maintenance mode.
    pub maintenance: bool,
}

/// A cluster, or a host standing alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compute {
    /// It.
    pub reference: Ref,
    /// Its name.
    pub name: String,
    /// Its root resource pool.
    pub pool: Ref,
    /// Its hosts.
    pub hosts: Vec<Ref>,
    /// A cluster that places virtual machines by itself.
    pub places: bool,
}

/// Where a virtual machine is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The resource pool.
    pub pool: Ref,
    /// The host, where the server does not choose it.
    pub host: Option<Host>,
    /// The cluster.
    pub compute: Compute,
    /// What was chosen without being asked for, as a line for the log.
    pub note: Option<String>,
}

/// A pool, its compute resource, its path.
type Pool = (Ref, Ref, String);

/// A name as the inventory writes it: `%`, `/` and `\` are escaped there.
pub fn stored_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

/// A stored name as people see it.
pub fn shown_name(name: &str) -> String {
    name.replace("%2f", "/").replace("%2F", "/").replace("%5c", "\\").replace("%5C", "\\").replace("%25", "%")
}

/// `a, b and 3 more`.
pub(super) fn listed(names: impl IntoIterator<Item = String>) -> String {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(LISTED_MAX);
    names.truncate(LISTED_MAX);
    match (names.is_empty(), more) {
        (true, _) => "none that the account may see".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

fn told<T>(sentence: String) -> Result<T, VsphereError> {
    Err(VsphereError::Told(sentence))
}

fn same(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

impl Client {
    pub(super) fn root(&self) -> Result<Ref, VsphereError> {
        self.with_session(|live| Ok(live.content.root_folder.clone()))
    }

    /// A method of the search index that returns one reference or none.
    pub(super) fn search(
        &self,
        method: &str,
        write: impl Fn(&mut super::xml::Writer),
    ) -> Result<Option<Ref>, VsphereError> {
        let result = self.read(method, |live| live.content.search_index.clone(), |w, _| write(w))?;
        Ok(result.child("returnval").and_then(soap::reference))
    }

    /// The datacenter of that name or path; of an empty name, the only one.
    pub fn datacenter(&self, wanted: &str) -> Result<Datacenter, VsphereError> {
        let paths = ["name", "vmFolder", "hostFolder", "datastore", "network"];
        let all = self.below(&self.root()?, "Datacenter", &paths)?;
        let names = || listed(all.iter().map(|dc| shown_name(dc.text("name"))));
        let found = if wanted.is_empty() {
            match all.as_slice() {
                [one] => one,
                _ => {
                    return told(format!(
                        "{} has more than one datacenter or none, name one: {}",
                        self.server(),
                        names()
                    ));
                }
            }
        } else {
            let path: Vec<_> = wanted.split('/').map(stored_name).collect();
            let by_path = self.search("FindByInventoryPath", |w| {
                w.value("inventoryPath", path.join("/"));
            })?;
            let named = |dc: &&Object| shown_name(dc.text("name")) == wanted;
            match all.iter().find(|dc| Some(&dc.reference) == by_path.as_ref()) {
                Some(found) => found,
                None => match all.iter().filter(named).collect::<Vec<_>>().as_slice() {
                    [] => {
                        return told(format!(
                            "{} has no datacenter '{wanted}'; it has: {}",
                            self.server(),
                            names()
                        ));
                    }
                    [one] => one,
                    _ => {
                        return told(format!(
                            "there are several datacenters '{wanted}'; write its whole path, as in 'folder/{wanted}'"
                        ));
                    }
                },
            }
        };
        let reference = |path: &str| {
            let missing =
                || VsphereError::Told(format!("the account may not see the {path} of datacenter '{wanted}'"));
            found.reference(path).ok_or_else(missing)
        };
        Ok(Datacenter {
            reference: found.reference.clone(),
            name: shown_name(found.text("name")),
            vm_folder: reference("vmFolder")?,
            host_folder: reference("hostFolder")?,
            datastores: found.references("datastore"),
            networks: found.references("network"),
        })
    }

    /// The path by which `/folder` and the search index know an object: names from below the root, escaped.
    pub fn inventory_path(&self, object: &Ref) -> Result<String, VsphereError> {
        let root = self.root()?;
        let (mut at, mut names) = (object.clone(), Vec::new());
        while at != root && names.len() < PARENTS_MAX {
            let entity = self.properties_of(&at, &["name", "parent"])?;
            names.push(entity.text("name").to_owned());
            match entity.reference("parent") {
                Some(parent) => at = parent,
                None => break,
            }
        }
        names.reverse();
        Ok(names.join("/"))
    }

    /// The folder of virtual machines at that path.
    pub fn vm_folder(&self, datacenter: &Datacenter, folder: &str) -> Result<Ref, VsphereError> {
        let mut at = datacenter.vm_folder.clone();
        let mut walked = String::new();
        for component in folder.split('/').filter(|component| !component.is_empty()) {
            let child = self.search("FindChild", |w| {
                w.reference("entity", &at).value("name", stored_name(component));
            })?;
            match child.filter(|child| child.kind == "Folder") {
                Some(child) => at = child,
                None => {
                    let of = if walked.is_empty() { &datacenter.name } else { &walked };
                    let children = self.properties_of(&at, &["childEntity"])?.references("childEntity");
                    let folders: Vec<_> =
                        children.into_iter().filter(|child| child.kind == "Folder").collect();
                    let names = self.properties("Folder", &folders, &["name"])?;
                    let names = listed(names.iter().map(|folder| shown_name(folder.text("name"))));
                    return told(format!(
                        "'{of}' has no folder '{component}' for virtual machines; its folders: {names}; make it, or change folder"
                    ));
                }
            }
            if !walked.is_empty() {
                walked.push('/');
            }
            walked.push_str(component);
        }
        Ok(at)
    }

    /// All hosts of a datacenter.
    pub fn hosts(&self, datacenter: &Datacenter) -> Result<Vec<Host>, VsphereError> {
        let paths = ["name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode"];
        let found = self.below(&datacenter.host_folder, "HostSystem", &paths)?;
        let host = |object: &Object| {
            Some(Host {
                reference: object.reference.clone(),
                name: object.text("name").to_owned(),
                compute: object.reference("parent")?,
                state: object.text("runtime.connectionState").to_owned(),
                maintenance: object.flag("runtime.inMaintenanceMode"),
            })
        };
        Ok(found.iter().filter_map(host).collect())
    }

    /// The host of that name, DNS name or address.
    pub fn host(&self, datacenter: &Datacenter, hosts: &[Host], wanted: &str) -> Result<Host, VsphereError> {
        if let Some(host) = hosts.iter().find(|host| same(&host.name, wanted)) {
            return Ok(host.clone());
        }
        let by_address = wanted.parse::<std::net::IpAddr>().is_ok();
        let (method, key) = if by_address { ("FindByIp", "ip") } else { ("FindByDnsName", "dnsName") };
        let found = self.search(method, |w| {
            w.reference("datacenter", &datacenter.reference).value(key, wanted).value("vmSearch", false);
        })?;
        match hosts.iter().find(|host| Some(&host.reference) == found.as_ref()) {
            Some(host) => Ok(host.clone()),
            None => told(format!(
                "datacenter '{}' has no host '{wanted}'; it has: {}; \"\" lets the hypervisor choose",
                datacenter.name,
                listed(hosts.iter().map(|host| host.name.clone()))
            )),
        }
    }

    /// All clusters and lone hosts of a datacenter, by name.
    pub fn computes(&self, datacenter: &Datacenter) -> Result<Vec<Compute>, VsphereError> {
        let paths = ["name", "resourcePool", "host", "configurationEx"];
        let found = self.below(&datacenter.host_folder, "ComputeResource", &paths)?;
        let compute = |object: &Object| {
            let configuration = object.values.get("configurationEx");
            Some(Compute {
                reference: object.reference.clone(),
                name: shown_name(object.text("name")),
                pool: object.reference("resourcePool")?,
                hosts: object.references("host"),
                places: configuration.is_some_and(|c| c.flag_at(&["drsConfig", "enabled"])),
            })
        };
        let mut computes: Vec<_> = found.iter().filter_map(compute).collect();
        computes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(computes)
    }

    /// Pools of that name, or whose path ends in those names, as (pool, its compute resource, its path).
    fn pools(
        &self,
        datacenter: &Datacenter,
        computes: &[Compute],
        wanted: &str,
    ) -> Result<(Vec<Pool>, String), VsphereError> {
        let all = self.below(&datacenter.host_folder, "ResourcePool", &["name", "parent", "owner"])?;
        let by_reference: BTreeMap<&Ref, &Object> = all.iter().map(|pool| (&pool.reference, pool)).collect();
        let path_of = |pool: &Object| {
            let mut names = vec![shown_name(pool.text("name"))];
            let mut at = pool.reference("parent");
            while let Some(parent) =
                at.as_ref().and_then(|at| by_reference.get(at)).filter(|_| names.len() < PARENTS_MAX)
            {
                names.push(shown_name(parent.text("name")));
                at = parent.reference("parent");
            }
            let owner = pool.reference("owner");
            let cluster = computes.iter().find(|compute| Some(&compute.reference) == owner.as_ref());
            names.push(cluster.map(|compute| compute.name.clone()).unwrap_or_default());
            names.reverse();
            names.join("/")
        };
        let mut found = Vec::new();
        let mut paths = Vec::new();
        for pool in &all {
            let path = path_of(pool);
            let matches = path == wanted || path.ends_with(&format!("/{wanted}"));
            if let Some(owner) = pool.reference("owner").filter(|_| matches) {
                found.push((pool.reference.clone(), owner, path.clone()));
            }
            paths.push(path);
        }
        Ok((found, listed(paths)))
    }

    /// Where a virtual machine runs that is registered with this host and pool, either of which may be empty. `fits` tells
    /// whether a host reaches every datastore that the virtual machine needs.
    pub fn target(
        &self,
        datacenter: &Datacenter,
        host: &str,
        pool: &str,
        fits: impl Fn(&Ref) -> bool,
    ) -> Result<Target, (&'static str, VsphereError)> {
        let at = |key: &'static str| move |error| (key, error);
        let hosts = self.hosts(datacenter).map_err(at("hostsystem"))?;
        let computes = self.computes(datacenter).map_err(at("resourcepool"))?;
        let named = match host {
            "" => None,
            host => Some(self.host(datacenter, &hosts, host).map_err(at("hostsystem"))?),
        };
        let mut note = None;
        let usable = |host: &&Host| host.state == "connected" && !host.maintenance && fits(&host.reference);
        let (pool, owner) = match pool {
            "" => {
                let compute = match &named {
                    Some(host) => computes.iter().find(|compute| compute.reference == host.compute),
                    None => {
                        let fitting: Vec<_> = computes
                            .iter()
                            .filter(|compute| {
                                hosts.iter().filter(usable).any(|host| host.compute == compute.reference)
                            })
                            .collect();
                        if fitting.len() > 1 {
                            let others = listed(fitting.iter().map(|compute| compute.name.clone()));
                            note = Some(format!(
                                "hostsystem and resourcepool are empty: {} is taken of {others}",
                                fitting[0].name
                            ));
                        }
                        fitting.first().copied()
                    }
                };
                let nowhere = || {
                    VsphereError::Told(format!(
                        "no host of datacenter '{}' is connected and writes to all the datastores that the CFG names",
                        datacenter.name
                    ))
                };
                let compute = compute.ok_or_else(nowhere).map_err(at("hostsystem"))?;
                (compute.pool.clone(), compute.reference.clone())
            }
            wanted => {
                let (found, paths) = self.pools(datacenter, &computes, wanted).map_err(at("resourcepool"))?;
                let here = |(_, owner, _): &&Pool| named.as_ref().is_none_or(|host| host.compute == *owner);
                match found.iter().filter(here).collect::<Vec<_>>().as_slice() {
                    [(pool, owner, _)] => (pool.clone(), owner.clone()),
                    [] if !found.is_empty() => {
                        let with = listed(found.iter().map(|(.., path)| path.clone()));
                        let told = format!(
                            "the resource pool '{wanted}' is not one of that host's; it is at: {with}"
                        );
                        return Err(("resourcepool", VsphereError::Told(told)));
                    }
                    [] => {
                        let told = format!("there is no resource pool '{wanted}'; there are: {paths}");
                        return Err(("resourcepool", VsphereError::Told(told)));
                    }
                    several => {
                        let which = listed(several.iter().map(|(.., path)| path.clone()));
                        let told = format!(
                            "there are several resource pools '{wanted}', write one with its path: {which}"
                        );
                        return Err(("resourcepool", VsphereError::Told(told)));
                    }
                }
            }
        };
        let compute = computes.into_iter().find(|compute| compute.reference == owner);
        let hidden =
            || VsphereError::Told("the account may not see the cluster of that resource pool".into());
        let compute = compute.ok_or_else(hidden).map_err(at("resourcepool"))?;
        // A cluster without DRS wants to be told a host; a lone host and one with DRS do not.
        let host = match named {
            Some(host) => Some(host),
            None if compute.places || compute.hosts.len() < 2 => None,
            None => {
                let mut inside = hosts.iter().filter(|host| host.compute == compute.reference).filter(usable);
                let chosen = inside.next().cloned();
                if let Some(host) = &chosen {
                    note = Some(format!(
                        "hostsystem is empty and {} does not choose by itself: {} is taken",
                        compute.name, host.name
                    ));
                }
                chosen
            }
        };
        Ok(Target { pool, host, compute, note })
    }

    /// All datastores of a datacenter.
    pub fn stores(&self, datacenter: &Datacenter) -> Result<Vec<Store>, VsphereError> {
        self.stores_among(&datacenter.datastores)
    }

    /// The datastores of a datacenter that is known by its reference alone.
    pub fn stores_of(&self, datacenter: &Ref) -> Result<Vec<Store>, VsphereError> {
        self.stores_among(&self.properties_of(datacenter, &["datastore"])?.references("datastore"))
    }

    fn stores_among(&self, datastores: &[Ref]) -> Result<Vec<Store>, VsphereError> {
        let found = self.properties("Datastore", datastores, STORE_PATHS)?;
        Ok(found.iter().map(store).collect())
    }

    /// The datastore of that name, in whichever datacenter; of several, the one with that UUID.
    pub fn one_store(&self, name: &str, uuid: Option<&str>) -> Result<Store, VsphereError> {
        let all = self.below(&self.root()?, "Datastore", STORE_PATHS)?;
        let all: Vec<_> = all.iter().map(store).collect();
        let mut found: Vec<_> = all.iter().filter(|store| store.name == name).collect();
        if let Some(uuid) = uuid {
            found.retain(|store| same(&store.uuid, uuid));
        }
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => told(format!(
                "{} has no datastore '{name}'{}; it has: {}; correct the configuration",
                self.server(),
                uuid.map(|uuid| format!(" with the UUID {uuid}")).unwrap_or_default(),
                listed(all.iter().map(|store| store.name.clone()))
            )),
            _ => told(format!(
                "{} has several datastores '{name}'; give the uuid of the one that is meant in the configuration",
                self.server()
            )),
        }
    }
}

const STORE_PATHS: &[&str] = &[
    "name",
    "summary.url",
    "summary.accessible",
    "summary.freeSpace",
    "summary.capacity",
    "summary.maintenanceMode",
    "host",
];

fn store(object: &Object) -> Store {
    let mounts = object.values.get("host").map(|hosts| hosts.children.as_slice()).unwrap_or_default();
    let writes = |mount: &super::xml::Element| {
        // The two flags are newer than the API's first versions: absent means yes.
        let yes = |name: &str| mount.at(&["mountInfo", name]).is_none_or(|flag| flag.text.trim() != "false");
        mount.text_at(&["mountInfo", "accessMode"]) == "readWrite" && yes("accessible") && yes("mounted")
    };
    let url = object.text("summary.url").trim_end_matches('/');
    Store {
        reference: object.reference.clone(),
        name: shown_name(object.text("name")),
        uuid: url.rsplit('/').next().unwrap_or_default().to_owned(),
        accessible: object.flag("summary.accessible"),
        maintenance: object.text("summary.maintenanceMode").to_owned(),
        free: object.number("summary.freeSpace").unwrap_or(0),
        capacity: object.number("summary.capacity").unwrap_or(0),
        hosts: mounts
            .iter()
            .filter(|mount| writes(mount))
            .filter_map(|m| m.child("key").and_then(soap::reference))
            .collect(),
    }
}

impl Store {
    /// The one that a CFG calls `dsname`: by name, else by UUID.
    pub fn find<'a>(stores: &'a [Self], dsname: &str) -> Option<&'a Self> {
        let named = stores.iter().find(|store| store.name == dsname);
        named.or_else(|| stores.iter().find(|store| same(&store.uuid, dsname)))
    }

    /// `[datastore] path`, as the API writes places on it.
    pub fn path(name: &str, path: &str) -> String {
        format!("[{name}] {path}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_datastore_is_found_in_whichever_datacenter() {
        use crate::vsphere::testing::{Script, object, script_client};
        let named = |id: &str, uuid: &str| {
            let url = format!("ds:///vmfs/volumes/{uuid}/");
            object("Datastore", id, &[("name", "ds1"), ("summary.url", &url)])
        };
        let answer = |objects: &[String]| {
            let script = Script::new();
            script.always("CreateContainerView", "<returnval type=\"ContainerView\">v-1</returnval>");
            script.always("DestroyView", "");
            script.answer("RetrievePropertiesEx", &format!("<returnval>{}</returnval>", objects.concat()));
            script_client(&script)
        };
        let both = [named("ds-1", "4e31-aa"), named("ds-2", "4e31-bb")];
        let told = answer(&both).one_store("ds1", None).unwrap_err().to_string();
        assert!(told.contains("several datastores 'ds1'; give the uuid"), "{told}");
        assert_eq!(answer(&both).one_store("ds1", Some("4E31-BB")).unwrap().reference.id, "ds-2");
        assert_eq!(answer(&both[..1]).one_store("ds1", None).unwrap().uuid, "4e31-aa");
        let told = answer(&both).one_store("ds7", None).unwrap_err().to_string();
        assert!(told.contains("hv:443 has no datastore 'ds7'; it has: ds1;"), "{told}");
    }

    #[test]
    fn names_and_lists() {
        assert_eq!(stored_name("a/b\\c%d"), "a%2fb%5cc%25d");
        assert_eq!(shown_name("a%2fb%5cc%25d%252f"), "a/b\\c%d%2f");
        assert_eq!(listed(Vec::new()), "none that the account may see");
        assert_eq!(listed(["b".into(), "a".into(), "b".into()]), "a, b");
        let many = (0..25).map(|n| format!("n{n:02}"));
        assert!(listed(many).ends_with("n19 and 5 more"));
    }
}
