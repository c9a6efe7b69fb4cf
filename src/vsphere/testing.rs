//! A server of canned answers, for unit tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::{Account, Client};
use super::error::VsphereError;
use super::http::{Reply, Transport};
use super::xml::Element;

#[derive(Default)]
struct Inner {
    answers: BTreeMap<String, VecDeque<Result<String, VsphereError>>>,
    standing: BTreeMap<String, String>,
    seen: Vec<(String, Element, String)>,
    logins: u32,
    properties: BTreeMap<String, String>,
    children: BTreeMap<String, String>,
    denied: Option<String>,
}

/// Answers by method, in order; and what was asked.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<Inner>>);

const CONTENT: &str = "<returnval><rootFolder type=\"Folder\">root</rootFolder>\
    <propertyCollector type=\"PropertyCollector\">pc</propertyCollector><virtualDiskManager type=\"VirtualDiskManager\">dm</virtualDiskManager><viewManager type=\"ViewManager\">vm</viewManager>\
    <about><fullName>VMware vCenter Server 6.5.0 build-1</fullName><apiType>VirtualCenter</apiType></about>\
    <sessionManager type=\"SessionManager\">sm</sessionManager><authorizationManager type=\"AuthorizationManager\">am</authorizationManager>\
    <searchIndex type=\"SearchIndex\">si</searchIndex></returnval>";

/// The body of a fault.
pub(crate) fn fault(kind: &str, inside: &str) -> String {
    format!(
        "<Fault><faultcode>ServerFaultCode</faultcode><faultstring/><detail><{kind}Fault xsi:type=\"{kind}\">{inside}\
         </{kind}Fault></detail></Fault>"
    )
}

impl Script {
    pub(crate) fn new() -> Self {
        let script = Self::default();
        script.always("RetrieveServiceContent", CONTENT);
        script.always("Login", "<returnval><key>key-1</key></returnval>");
        script.always("Logout", "");
        script
    }

    fn push(&self, method: &str, answer: Result<String, VsphereError>) {
        self.0.lock().unwrap().answers.entry(method.to_owned()).or_default().push_back(answer);
    }

    /// The next answer to a method: what stands in its response.
    pub(crate) fn answer(&self, method: &str, inside: &str) {
        self.push(method, Ok(format!("<{method}Response>{inside}</{method}Response>")));
    }

    /// The answer to a method whenever there is no other.
    pub(crate) fn always(&self, method: &str, inside: &str) {
        let answer = format!("<{method}Response>{inside}</{method}Response>");
        self.0.lock().unwrap().standing.insert(method.to_owned(), answer);
    }

    /// The next answer is a fault.
    pub(crate) fn fault(&self, method: &str, fault: &str) {
        self.push(method, Ok(fault.to_owned()));
    }

    /// The next call fails on its way.
    pub(crate) fn lost(&self, method: &str) {
        self.push(method, Err(VsphereError::Lost { server: "hv:443".into(), why: "cut".into() }));
    }

    /// What was called, in order.
    pub(crate) fn methods(&self) -> Vec<String> {
        self.0.lock().unwrap().seen.iter().map(|(method, ..)| method.clone()).collect()
    }

    /// The requests of a method.
    pub(crate) fn requests(&self, method: &str) -> Vec<Element> {
        let inner = self.0.lock().unwrap();
        inner.seen.iter().filter(|(seen, ..)| seen == method).map(|(_, element, _)| element.clone()).collect()
    }

    /// The cookies that came, empty where there was none.
    pub(crate) fn cookies(&self) -> Vec<String> {
        self.0.lock().unwrap().seen.iter().map(|(_, _, cookie)| cookie.clone()).collect()
    }
}

impl Transport for Script {
    fn post(&self, body: &str, cookie: Option<&str>, _timeout: Duration) -> Result<Reply, VsphereError> {
        let envelope = Element::parse(body.as_bytes()).unwrap();
        let request = envelope.at(&["Body"]).unwrap().children[0].clone();
        let method = request.name.clone();
        let mut inner = self.0.lock().unwrap();
        inner.seen.push((method.clone(), request.clone(), cookie.unwrap_or_default().to_owned()));
        if method == "Login" {
            inner.logins += 1;
        }
        let next = inner.answers.get_mut(&method).and_then(VecDeque::pop_front);
        let standing =
            inner.standing.get(&method).cloned().or_else(|| inner.computed(&method, &request)).map(Ok);
        let answer = next.or(standing).unwrap_or_else(|| panic!("no answer to {method}"))?;
        let text = format!("<E xmlns:xsi=\"x\"><Body>{answer}</Body></E>");
        let cookie = (method == "Login").then(|| format!("vmware_soap_session=\"{}\"", inner.logins));
        let status = if answer.starts_with("<Fault") { 500 } else { 200 };
        Ok(Reply { status, cookie, body: text.into_bytes() })
    }
}

/// A client that is answered from the script.
pub(crate) fn script_client(script: &Script) -> Client {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let password_file = file.into_temp_path().keep().unwrap();
    let account = Account { username: "user".into(), password_file };
    Client::over(Box::new(script.clone()), account, "hv:443".into())
}

/// One object of a RetrievePropertiesEx answer. A value that begins with `<val` is taken as it stands.
pub(crate) fn object(kind: &str, id: &str, properties: &[(&str, &str)]) -> String {
    let set: Vec<_> = properties
        .iter()
        .map(|(name, value)| {
            let value =
                if value.starts_with("<val") { (*value).to_owned() } else { format!("<val>{value}</val>") };
            format!("<propSet><name>{name}</name>{value}</propSet>")
        })
        .collect();
    format!("<objects><obj type=\"{kind}\">{id}</obj>{}</objects>", set.concat())
}

/// A small inventory: datacenter `dc`; `cluster` with esx1 and pool `low`, and esx2 `alone`; datastores ds1, ds2; folder
/// `Restored` with a virtual machine `taken`. What may be wrong with it is a field.
pub(crate) struct Site {
    pub(crate) accessible: bool,
    pub(crate) maintenance: &'static str,
    pub(crate) free: u64,
    pub(crate) access: &'static str,
    pub(crate) connection: &'static str,
    pub(crate) host_maintenance: bool,
    pub(crate) denied: &'static str,
    /// An ESXi host with that licence, or else a vCenter.
    pub(crate) edition: &'static str,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            accessible: true,
            maintenance: "normal",
            free: 1_000_000,
            access: "readWrite",
            connection: "connected",
            host_maintenance: false,
            denied: "",
            edition: "",
        }
    }

    fn hosts(&self) -> String {
        let host = |id: &str, name: &str, kind: &str, parent: &str, first: bool| {
            let parent = format!("<val type=\"{kind}\">{parent}</val>");
            let state = if first { self.connection } else { "connected" };
            let maintenance = (first && self.host_maintenance).to_string();
            let set = [
                ("name", name),
                ("parent", &parent),
                ("runtime.connectionState", state),
                ("runtime.inMaintenanceMode", &maintenance),
            ];
            object("HostSystem", id, &set)
        };
        host("h-1", "esx1", "ClusterComputeResource", "c-1", true)
            + &host("h-2", "esx2", "ComputeResource", "c-2", false)
    }

    fn stores(&self) -> String {
        let mount = |host: &str, access: &str| {
            format!(
                "<DatastoreHostMount><key type=\"HostSystem\">{host}</key><mountInfo><path>/x</path><accessMode>{access}\
                 </accessMode><mounted>true</mounted><accessible>true</accessible></mountInfo></DatastoreHostMount>"
            )
        };
        let mounts = format!("<val>{}{}</val>", mount("h-1", self.access), mount("h-2", "readWrite"));
        let (accessible, free) = (self.accessible.to_string(), self.free.to_string());
        let one = |id: &str, name: &str, url: &str| {
            let set = [
                ("name", name),
                ("summary.url", url),
                ("summary.accessible", &accessible),
                ("summary.freeSpace", &free),
                ("summary.capacity", "2000000"),
                ("summary.maintenanceMode", self.maintenance),
                ("host", &mounts),
            ];
            object("Datastore", id, &set)
        };
        one("ds-1", "ds1", "ds:///vmfs/volumes/4e3193a0-698e20ea-f9ef-180373f1beff/")
            + &one("ds-2", "ds2", "/vmfs/volumes/x")
    }

    fn computes(&self) -> String {
        let one = |kind: &str, id: &str, name: &str, pool: &str, host: &str, drs: bool| {
            let set = [
                ("name", name.to_owned()),
                ("resourcePool", format!("<val type=\"ResourcePool\">{pool}</val>")),
                (
                    "host",
                    format!(
                        "<val><ManagedObjectReference type=\"HostSystem\">{host}</ManagedObjectReference></val>"
                    ),
                ),
                ("configurationEx", format!("<val><drsConfig><enabled>{drs}</enabled></drsConfig></val>")),
            ];
            let set: Vec<_> = set.iter().map(|(name, value)| (*name, value.as_str())).collect();
            object(kind, id, &set)
        };
        one("ClusterComputeResource", "c-1", "cluster", "p-1", "h-1", true)
            + &one("ComputeResource", "c-2", "alone", "p-2", "h-2", false)
    }

    fn pools(&self) -> String {
        let one = |id: &str, name: &str, owner: (&str, &str), parent: (&str, &str)| {
            let reference = |(kind, id): (&str, &str)| format!("<val type=\"{kind}\">{id}</val>");
            let (owner, parent) = (reference(owner), reference(parent));
            object("ResourcePool", id, &[("name", name), ("owner", &owner), ("parent", &parent)])
        };
        let (cluster, alone) = (("ClusterComputeResource", "c-1"), ("ComputeResource", "c-2"));
        one("p-1", "Resources", cluster, cluster)
            + &one("p-low", "low", cluster, ("ResourcePool", "p-1"))
            + &one("p-2", "Resources", alone, alone)
    }

    /// A script that answers for it.
    pub(crate) fn script(&self) -> Script {
        let script = Script::new();
        script.always("CreateContainerView", "<returnval type=\"ContainerView\">v-1</returnval>");
        script.always("DestroyView", "");
        let list = |kind: &str, ids: &[&str]| {
            let refs: Vec<_> = ids
                .iter()
                .map(|id| format!("<ManagedObjectReference type=\"{kind}\">{id}</ManagedObjectReference>"))
                .collect();
            format!("<val>{}</val>", refs.concat())
        };
        let datacenter = object(
            "Datacenter",
            "dc-1",
            &[
                ("name", "dc"),
                ("vmFolder", "<val type=\"Folder\">f-0</val>"),
                ("hostFolder", "<val type=\"Folder\">f-h</val>"),
                ("datastore", &list("Datastore", &["ds-1", "ds-2"])),
                ("network", &list("Network", &[])),
            ],
        );
        script.answer_properties("Datacenter", &datacenter);
        script.answer_properties("Datastore", &self.stores());
        script.answer_properties("HostSystem", &self.hosts());
        script.answer_properties("ComputeResource", &self.computes());
        script.answer_properties("ResourcePool", &self.pools());
        let children = list("Folder", &["f-2"]);
        script.answer_properties(
            "Folder",
            &object("Folder", "f-1", &[("name", "Other"), ("childEntity", &children)]),
        );
        script.answer_properties("VirtualMachine", &object("VirtualMachine", "vm-7", &[("name", "we%2fb")]));
        script.child("Restored", "<returnval type=\"Folder\">f-1</returnval>");
        script.child("taken", "<returnval type=\"VirtualMachine\">vm-1</returnval>");
        script.always("FindByInventoryPath", "");
        script.always("FindByDnsName", "");
        script.privileges(self.denied);
        if !self.edition.is_empty() {
            let content = CONTENT.replace("VirtualCenter", "HostAgent");
            let manager = "<licenseManager type=\"LicenseManager\">lm</licenseManager></returnval>";
            script.always("RetrieveServiceContent", &content.replace("</returnval>", manager));
            let licence = format!(
                "<val><LicenseManagerLicenseInfo><editionKey>{}</editionKey></LicenseManagerLicenseInfo></val>",
                self.edition
            );
            script.answer_properties(
                "LicenseManager",
                &object("LicenseManager", "lm", &[("licenses", &licence)]),
            );
        }
        script
    }
}

impl Script {
    /// The answer to every question for properties of that kind.
    pub(crate) fn answer_properties(&self, kind: &str, objects: &str) {
        self.0.lock().unwrap().properties.insert(kind.to_owned(), objects.to_owned());
    }

    /// What FindChild answers for that name; nothing for others.
    fn child(&self, name: &str, answer: &str) {
        self.0.lock().unwrap().children.insert(name.to_owned(), answer.to_owned());
    }

    /// All privileges are granted but that one.
    fn privileges(&self, denied: &str) {
        self.0.lock().unwrap().denied = Some(denied.to_owned());
    }
}

impl Inner {
    /// Answers that depend on the question.
    fn computed(&self, method: &str, request: &Element) -> Option<String> {
        match method {
            "RetrievePropertiesEx" => {
                let kind = request.text_at(&["specSet", "propSet", "type"]);
                let objects = self.properties.get(kind)?;
                Some(format!("<{method}Response><returnval>{objects}</returnval></{method}Response>"))
            }
            "FindChild" if !self.children.is_empty() => {
                let found = self.children.get(request.text_at(&["name"])).cloned().unwrap_or_default();
                Some(format!("<{method}Response>{found}</{method}Response>"))
            }
            "HasPrivilegeOnEntities" => {
                let denied = self.denied.as_deref()?;
                assert_eq!(request.text_at(&["sessionId"]), "key-1");
                let one = |id: &Element| {
                    let granted = id.text != denied;
                    format!(
                        "<privAvailability><privId>{}</privId><isGranted>{granted}</isGranted></privAvailability>",
                        id.text
                    )
                };
                let all: String = request.all("privId").map(one).collect();
                Some(format!("<{method}Response><returnval>{all}</returnval></{method}Response>"))
            }
            _ => None,
        }
    }
}
