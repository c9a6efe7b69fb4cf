//! What can go wrong with a hypervisor, as sentences for a backup administrator: which object, what, and what to do.

use std::fmt::Write as _;

use super::xml::Element;

/// A fault of the API, from a SOAP answer, a task or a property that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its type (`DuplicateName`), empty where the server names none.
    pub kind: String,
    /// The server's own words.
    pub message: String,
    /// What it holds.
    pub detail: Box<Element>,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VsphereError {
    /// No connection, or one that was not trusted: nothing was sent.
    #[error(
        "{server} can't be reached: {why}; check its url and thumbprint in the configuration, the network and the server"
    )]
    Unreachable {
        /// Host and port.
        server: String,
        /// The system's or TLS's words.
        why: String,
    },
    /// The connection broke after something was sent: whether it was done is not known.
    #[error("the connection to {server} was lost: {why}; try again when the network and the server are up")]
    Lost {
        /// Host and port.
        server: String,
        /// The system's words.
        why: String,
    },
    /// The connection stands, and no answer came within the call's bound.
    #[error("{server} does not answer; look whether its services run, and try again")]
    Silent {
        /// Host and port.
        server: String,
    },
    /// An HTTP status where none is expected.
    #[error("{what}: the server answers with HTTP status {status}{advice}")]
    Http {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What to do, with a leading `; `, or empty.
        advice: &'static str,
    },
    /// An answer that is none of the API's.
    #[error(
        "the answer to {method} can't be understood: {why}; is the url that of a vCenter or an ESXi host, ending in /sdk?"
    )]
    Answer {
        /// The method.
        method: String,
        /// What is wrong with it.
        why: String,
    },
    /// A fault that nobody has put into words yet.
    #[error("{}", .0.sentence("the hypervisor refuses the request"))]
    Fault(Fault),
    /// A fault, with what was to be done.
    #[error("{}", fault.sentence(about))]
    Refused {
        /// What was to be done with which object, as in 'the virtual machine web can't be registered'.
        about: String,
        /// Why not.
        fault: Fault,
    },
    /// Something took too long.
    #[error("{what} has not ended within {seconds} seconds; look at the hypervisor's recent tasks")]
    TimedOut {
        /// What.
        what: String,
        /// The bound.
        seconds: u64,
    },
    /// A lease that is no more, though nothing was wrong with what was uploaded.
    #[error("{what}: {why}")]
    Ended {
        /// What can't be done without it.
        what: String,
        /// Why it is no more.
        why: String,
    },
    /// Nobody wants the answer any more.
    #[error("it is not wanted any more")]
    Unwanted,
    /// Any other sentence.
    #[error("{0}")]
    Told(String),
}

impl VsphereError {
    /// Says what was to be done, where it is a fault that does not say so itself.
    #[must_use]
    pub fn about(self, about: impl Into<String>) -> Self {
        match self {
            Self::Fault(fault) => Self::Refused { about: about.into(), fault },
            other => other,
        }
    }

    /// The type of the fault, empty where it is none.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Fault(fault) | Self::Refused { fault, .. } => &fault.kind,
            _ => "",
        }
    }

    /// Whether the same may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::TimedOut { .. }
            | Self::Ended { .. } => true,
            // 507: full, and that needs somebody.
            Self::Http { status, .. } => *status >= 500 && *status != 507,
            _ => matches!(
                self.kind(),
                "NotAuthenticated" | "TaskInProgress" | "HostCommunication" | "HostNotConnected"
            ),
        }
    }
}

impl Fault {
    /// Of a SOAP `Fault` element.
    pub fn of_soap(fault: &Element) -> Self {
        let detail =
            fault.child("detail").and_then(|detail| detail.children.first()).cloned().unwrap_or_default();
        let named = detail.name.strip_suffix("Fault").unwrap_or(&detail.name);
        let kind = if detail.xsi_type.is_empty() { named.to_owned() } else { detail.xsi_type.clone() };
        Self { kind, message: fault.text_at(&["faultstring"]).to_owned(), detail: Box::new(detail) }
    }

    /// Of a `LocalizedMethodFault`: a task's error, a lease's, that of a property.
    pub fn of_localized(error: &Element) -> Self {
        let detail = error.child("fault").cloned().unwrap_or_default();
        let message = error.text_at(&["localizedMessage"]).to_owned();
        Self { kind: detail.xsi_type.clone(), message, detail: Box::new(detail) }
    }

    /// What it means and what to do; `about` says what was to be done.
    #[must_use]
    pub fn sentence(&self, about: &str) -> String {
        let advice = self.advice();
        let said = self.message.trim().trim_end_matches('.');
        let mut sentence = format!("{about}: ");
        match (advice, said.is_empty()) {
            (Some(advice), true) => sentence.push_str(&advice),
            (Some(advice), false) => {
                let _ = write!(sentence, "{advice} (the server says: {said})");
            }
            (None, false) => {
                let _ = write!(sentence, "{said} ({})", self.named());
            }
            (None, true) => sentence.push_str(self.named()),
        }
        sentence
    }

    fn named(&self) -> &str {
        if self.kind.is_empty() { "a fault without a name" } else { &self.kind }
    }

    /// For the faults that an import can meet: the list in docs/vsphere.md.
    fn advice(&self) -> Option<String> {
        let field = |name: &str| self.detail.text_at(&[name]).to_owned();
        let file = || {
            let file = field("file");
            if file.is_empty() { "a file".to_owned() } else { file }
        };
        Some(match self.kind.as_str() {
            "DuplicateName" => format!(
                "the name '{}' is taken in that folder; choose another, or set on-conflict = \"rename\"",
                field("name")
            ),
            "AlreadyExists" => {
                format!("'{}' exists in the inventory already; remove it there, or restore to another directory", field("name"))
            }
            "InvalidDatastore" | "InvalidDatastorePath" => format!(
                "the datastore '{}' is not one that the host can use; choose another datastore, or mount it there",
                if field("datastorePath").is_empty() { field("name") } else { field("datastorePath") }
            ),
            "NotFound" => "the hypervisor does not find the files; if the datastore is mounted here, check that `path` in the \
                 configuration leads to that datastore"
                .to_owned(),
            "FileNotFound" => format!("{} is not on the datastore; check that `path` in the configuration leads to it", file()),
            "FileAlreadyExists" => format!("{} exists already; choose another directory, or set on-conflict = \"rename\"", file()),
            "FileLocked" => format!("{} is in use by a virtual machine; power that off first", file()),
            "NoPermission" => format!(
                "the account of the configuration lacks the privilege {}; give it the role of docs/vsphere.md",
                field("privilegeId")
            ),
            "CannotAccessFile" | "FileFault" => format!("{} can't be used by the host; look at its datastore", file()),
            "NoDiskSpace" => {
                format!("the datastore '{}' is full; free some space or choose another", field("datastore"))
            }
            "InvalidName" => format!("'{}' is not a name that the hypervisor takes; change vmname", field("name")),
            "InvalidArgument" | "InvalidRequest" => match field("invalidProperty") {
                property if property.is_empty() => "the hypervisor does not take one of the values".to_owned(),
                property => format!("the hypervisor does not take the value of {property}"),
            },
            "VmConfigFault" | "InvalidVmConfig" | "InvalidFormat" | "DeviceNotSupported" | "InvalidDeviceSpec" => {
                "the hypervisor does not take the VMX; check its hardware version and devices against the host's".to_owned()
            }
            "InsufficientResourcesFault" | "InsufficientCpuResourcesFault" | "InsufficientMemoryResourcesFault" => {
                "the resource pool has no room for it; choose another, or raise its limits".to_owned()
            }
            "InvalidState" | "InvalidPowerState" | "TaskInProgress" => {
                "the object is busy or in another state; wait for its tasks and try again".to_owned()
            }
            "NotAuthenticated" => "the session has ended; it is opened again at the next try".to_owned(),
            "InvalidLogin" => "the user name or the password is wrong; check username and password-file in the configuration"
                .to_owned(),
            "RestrictedVersion" => "its licence (a free ESXi) refuses changes through the API; use a licensed host or a vCenter"
                .to_owned(),
            "ManagedObjectNotFound" => {
                let missing = self.detail.child("obj").map(|obj| format!("{} {}", obj.kind, obj.text.trim()));
                format!("{} is gone from the inventory; check the CFG and try again", missing.unwrap_or_else(|| "it".into()))
            }
            "HostNotConnected" | "HostCommunication" | "HostNotReachable" => {
                "the host does not answer its vCenter; connect it, or choose another".to_owned()
            }
            "NotSupported" | "MethodNotFound" => "the hypervisor does not support that".to_owned(),
            "OutOfBounds" | "ConcurrentAccess" | "Timedout" => "the hypervisor could not do it now; try again".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn soap(kind: &str, inside: &str) -> Fault {
        let text = format!(
            "<Fault><faultcode>ServerFaultCode</faultcode><faultstring>Said so.</faultstring><detail>\
             <{kind}Fault xmlns:xsi=\"x\" xsi:type=\"{kind}\">{inside}</{kind}Fault></detail></Fault>"
        );
        Fault::of_soap(&Element::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn each_fault_has_a_sentence_that_says_what_to_do() {
        let cases = [
            ("DuplicateName", "<name>web</name>", "the name 'web' is taken in that folder; choose another"),
            (
                "AlreadyExists",
                "<name>[ds] a/a.vmx</name>",
                "'[ds] a/a.vmx' exists in the inventory already; remove",
            ),
            (
                "InvalidDatastore",
                "<name>ds</name>",
                "the datastore 'ds' is not one that the host can use; choose",
            ),
            ("InvalidDatastorePath", "<datastorePath>[x] a</datastorePath>", "the datastore '[x] a'"),
            ("NotFound", "", "does not find the files; if the datastore is mounted here, check that `path`"),
            ("FileNotFound", "<file>[ds] a/a.vmx</file>", "[ds] a/a.vmx is not on the datastore; check"),
            ("FileAlreadyExists", "<file>[ds] a</file>", "[ds] a exists already; choose another directory"),
            ("FileLocked", "", "a file is in use by a virtual machine; power that off"),
            ("FileFault", "<file>[ds] b</file>", "[ds] b can't be used by the host; look"),
            (
                "NoPermission",
                "<privilegeId>Resource.AssignVMToPool</privilegeId>",
                "lacks the privilege Resource.Assign",
            ),
            ("NoDiskSpace", "<datastore>ds1</datastore>", "the datastore 'ds1' is full; free some space"),
            (
                "InvalidName",
                "<name>a%b</name>",
                "'a%b' is not a name that the hypervisor takes; change vmname",
            ),
            ("InvalidArgument", "<invalidProperty>pool</invalidProperty>", "does not take the value of pool"),
            ("VmConfigFault", "", "does not take the VMX; check"),
            ("InsufficientResourcesFault", "", "the resource pool has no room for it; choose another"),
            ("InvalidState", "", "busy or in another state; wait"),
            ("NotAuthenticated", "", "the session has ended"),
            ("InvalidLogin", "", "the user name or the password is wrong; check username and password-file"),
            ("RestrictedVersion", "", "(a free ESXi) refuses changes through the API; use a licensed host"),
            (
                "ManagedObjectNotFound",
                "<obj type=\"Datastore\">ds-9</obj>",
                "Datastore ds-9 is gone from the inventory",
            ),
            ("HostNotConnected", "", "the host does not answer its vCenter; connect it"),
        ];
        for (kind, inside, part) in cases {
            let fault = soap(kind, inside);
            assert_eq!(fault.kind, kind);
            let sentence = VsphereError::Fault(fault).about("web can't be registered").to_string();
            assert!(sentence.starts_with("web can't be registered: "), "{sentence}");
            assert!(
                sentence.contains(part) && sentence.ends_with("(the server says: Said so)"),
                "{sentence}"
            );
        }
        let other = VsphereError::Fault(soap("Strange", "")).to_string();
        assert_eq!(other, "the hypervisor refuses the request: Said so (Strange)");
    }

    #[test]
    fn faults_without_a_type_and_of_tasks() {
        let bare =
            Element::parse(b"<Fault><faultstring>x</faultstring><detail><NotFoundFault/></detail></Fault>");
        assert_eq!(Fault::of_soap(&bare.unwrap()).kind, "NotFound");
        let none = Fault::of_soap(&Element::parse(b"<Fault/>").unwrap());
        assert_eq!(none.sentence("x"), "x: a fault without a name");
        let text = "<error><fault xmlns:xsi=\"x\" xsi:type=\"vim:NoDiskSpace\"><file/><datastore>d</datastore></fault>\
                    <localizedMessage>Full.</localizedMessage></error>";
        let fault = Fault::of_localized(&Element::parse(text.as_bytes()).unwrap());
        assert_eq!((fault.kind.as_str(), fault.message.as_str()), ("NoDiskSpace", "Full."));
    }
}
