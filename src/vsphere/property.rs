//! The property collector: what is asked of many objects at once, page by page; and changes that are waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::{Client, Live, again};
use super::error::{Fault, VsphereError};
use super::xml::{Element, Writer};
use super::{Ref, soap};

/// Objects of one page.
const PAGE_OBJECTS: usize = 500;
/// Objects of one question: several times the virtual machines that one vCenter may have.
const OBJECTS_MAX: usize = 200_000;
/// How long the server holds one WaitForUpdatesEx before it answers that nothing happened.
const WAIT_SECONDS: u64 = 30;
/// The same where somebody may want the wait to end before that.
const PACE_SECONDS: u64 = 2;
/// The bound of such a call: its wait, and an ordinary call's time.
const WAIT_TIMEOUT: Duration = Duration::from_secs(WAIT_SECONDS + 60);

/// Properties of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Which.
    pub reference: Ref,
    /// By their path, as asked for. What the account may not read, or the object does not have, is missing.
    pub values: BTreeMap<String, Element>,
}

impl Object {
    /// A property's text, empty where it is missing.
    pub fn text(&self, path: &str) -> &str {
        self.values.get(path).map_or("", |value| value.text.trim())
    }

    /// A property's number.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path).parse().ok()
    }

    /// Whether a property is true.
    pub fn flag(&self, path: &str) -> bool {
        self.text(path) == "true" || self.text(path) == "1"
    }

    /// A property that is a reference.
    pub fn reference(&self, path: &str) -> Option<Ref> {
        self.values.get(path).and_then(soap::reference)
    }

    /// A property that is a list of references.
    pub fn references(&self, path: &str) -> Vec<Ref> {
        self.values
            .get(path)
            .map_or_else(Vec::new, |value| value.children.iter().filter_map(soap::reference).collect())
    }
}

/// The end of a wait, whatever comes.
struct Until<'a> {
    deadline: Instant,
    wanted: Option<&'a dyn Fn() -> bool>,
}

fn property_set(w: &mut Writer, kind: &str, paths: &[&str]) {
    w.element("propSet", |w| {
        w.value("type", kind).value("all", false);
        for path in paths {
            w.value("pathSet", path);
        }
    });
}

fn values(set: &Element, list: &str) -> BTreeMap<String, Element> {
    let pairs =
        set.all(list).filter_map(|one| Some((one.text_at(&["name"]).to_owned(), one.child("val")?.clone())));
    pairs.collect()
}

/// Without a session a server does not refuse the question: it answers that each property can't be read.
fn lost_session(object: &Element) -> Result<(), VsphereError> {
    let faults = object.all("missingSet").filter_map(|missing| missing.child("fault"));
    match faults.map(Fault::of_localized).find(|fault| fault.kind == "NotAuthenticated") {
        Some(fault) => Err(VsphereError::Fault(fault)),
        None => Ok(()),
    }
}

impl Client {
    /// Properties of objects of one kind; one that is gone meanwhile is left out.
    pub fn properties(
        &self,
        kind: &str,
        objects: &[Ref],
        paths: &[&str],
    ) -> Result<Vec<Object>, VsphereError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let asked = |objects: &[Ref]| {
            again(|| {
                self.with_session(|live| {
                    self.retrieve(live, |w| {
                        property_set(w, kind, paths);
                        for object in objects {
                            w.element("objectSet", |w| {
                                w.reference("obj", object);
                            });
                        }
                    })
                })
            })
        };
        match asked(objects) {
            // One dead reference fails the whole question.
            Err(error) if error.kind() == "ManagedObjectNotFound" && objects.len() > 1 => {
                let mut found = Vec::new();
                for object in objects {
                    match asked(std::slice::from_ref(object)) {
                        Ok(one) => found.extend(one),
                        Err(error) if error.kind() == "ManagedObjectNotFound" => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(found)
            }
            answer => answer,
        }
    }

    /// Properties of one object.
    pub fn properties_of(&self, object: &Ref, paths: &[&str]) -> Result<Object, VsphereError> {
        let found = self.properties(&object.kind, std::slice::from_ref(object), paths)?;
        found.into_iter().next().ok_or_else(|| {
            VsphereError::Told(format!(
                "{} {} is gone from the inventory, or hidden from the account",
                object.kind, object.id
            ))
        })
    }

    /// Properties of all objects of one kind below `root`.
    pub fn below(&self, root: &Ref, kind: &str, paths: &[&str]) -> Result<Vec<Object>, VsphereError> {
        again(|| {
            self.with_session(|live| {
                let made = self.call_in(live, "CreateContainerView", &live.content.view_manager, |w| {
                    w.reference("container", root).value("type", kind).value("recursive", true);
                })?;
                let view = soap::returned_reference("CreateContainerView", &made)?;
                let found = self.retrieve(live, |w| {
                    property_set(w, kind, paths);
                    w.element("objectSet", |w| {
                        w.reference("obj", &view).value("skip", true);
                        w.typed("selectSet", "TraversalSpec", |w| {
                            w.value("name", "view")
                                .value("type", "ContainerView")
                                .value("path", "view")
                                .value("skip", false);
                        });
                    });
                });
                // A view costs the server work until it goes; one that can't be destroyed goes with the session.
                if let Err(error) = self.call_in(live, "DestroyView", &view, |_| {}) {
                    tracing::debug!("{}: {error}", self.server());
                }
                found
            })
        })
    }

    fn retrieve(&self, live: &Live, write: impl FnOnce(&mut Writer)) -> Result<Vec<Object>, VsphereError> {
        let collector = &live.content.property_collector;
        let mut method = "RetrievePropertiesEx";
        let mut result = self.call_in(live, method, collector, |w| {
            w.element("specSet", write);
            w.element("options", |w| {
                w.value("maxObjects", PAGE_OBJECTS);
            });
        })?;
        let mut found = Vec::new();
        // No returnval at all: nothing matched.
        while let Some(page) = result.child("returnval") {
            for object in page.all("objects") {
                let reference = object.child("obj").and_then(soap::reference);
                let reference = reference.ok_or_else(|| VsphereError::Answer {
                    method: method.to_owned(),
                    why: "an object has no reference".into(),
                })?;
                lost_session(object)?;
                found.push(Object { reference, values: values(object, "propSet") });
            }
            if found.len() > OBJECTS_MAX {
                return Err(VsphereError::Told(format!(
                    "{} has more than {OBJECTS_MAX} objects",
                    self.server()
                )));
            }
            let token = page.text_at(&["token"]).to_owned();
            if token.is_empty() {
                break;
            }
            method = "ContinueRetrievePropertiesEx";
            result = self.call_in(live, method, collector, |w| {
                w.value("token", &token);
            })?;
        }
        Ok(found)
    }

    /// Waits until `done` says so of an object's properties, for no longer than `limit`; `what` is for the error. Told by the
    /// server when something changes, not asked again and again.
    pub fn watch<T>(
        &self,
        object: &Ref,
        paths: &[&str],
        limit: Duration,
        what: &str,
        done: impl FnMut(&BTreeMap<String, Element>) -> Result<Option<T>, VsphereError>,
    ) -> Result<T, VsphereError> {
        self.watch_while(object, paths, (limit, None), what, done)
    }

    /// [`Self::watch`], given up soon after the function beside the limit says that it is wanted no more.
    pub fn watch_while<T>(
        &self,
        object: &Ref,
        paths: &[&str],
        (limit, wanted): (Duration, Option<&dyn Fn() -> bool>),
        what: &str,
        mut done: impl FnMut(&BTreeMap<String, Element>) -> Result<Option<T>, VsphereError>,
    ) -> Result<T, VsphereError> {
        let until = Until { deadline: Instant::now() + limit, wanted };
        // A connection that breaks while waiting says nothing about the object: the wait begins again.
        again(|| {
            self.with_session(|live| {
                // A collector of its own: waits of several imports must not take each other's updates.
                let made =
                    self.call_in(live, "CreatePropertyCollector", &live.content.property_collector, |_| {})?;
                let collector = soap::returned_reference("CreatePropertyCollector", &made)?;
                let outcome = self.watch_with(live, &collector, object, paths, &until, &mut done);
                if let Err(error) = self.call_in(live, "DestroyPropertyCollector", &collector, |_| {}) {
                    tracing::debug!("{}: {error}", self.server());
                }
                outcome?
                    .ok_or_else(|| VsphereError::TimedOut { what: what.to_owned(), seconds: limit.as_secs() })
            })
        })
    }

    fn watch_with<T>(
        &self,
        live: &Live,
        collector: &Ref,
        object: &Ref,
        paths: &[&str],
        until: &Until<'_>,
        done: &mut impl FnMut(&BTreeMap<String, Element>) -> Result<Option<T>, VsphereError>,
    ) -> Result<Option<T>, VsphereError> {
        self.call_in(live, "CreateFilter", collector, |w| {
            w.element("spec", |w| {
                property_set(w, &object.kind, paths);
                w.element("objectSet", |w| {
                    w.reference("obj", object);
                });
            });
            w.value("partialUpdates", false);
        })?;
        let mut known = BTreeMap::new();
        let mut version = String::new();
        loop {
            let left = until.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if until.wanted.is_some_and(|wanted| !wanted()) {
                return Err(VsphereError::Unwanted);
            }
            let pace = if until.wanted.is_some() { PACE_SECONDS } else { WAIT_SECONDS };
            let seconds = pace.min(left.as_secs().max(1));
            let result = self.call_for(live, "WaitForUpdatesEx", collector, WAIT_TIMEOUT, |w| {
                w.value("version", &version);
                w.element("options", |w| {
                    w.value("maxWaitSeconds", seconds);
                });
            })?;
            // Without a returnval the wait has ended and nothing happened.
            let Some(update) = result.child("returnval") else { continue };
            update.text_at(&["version"]).clone_into(&mut version);
            for set in update.all("filterSet").flat_map(|filter| filter.all("objectSet")) {
                if set.text_at(&["kind"]) == "leave" {
                    let gone = format!("{} {} is gone", object.kind, object.id);
                    return Err(VsphereError::Told(gone));
                }
                known.extend(values(set, "changeSet"));
                if let Some(missing) = set.child("missingSet").and_then(|missing| missing.child("fault")) {
                    return Err(VsphereError::Fault(Fault::of_localized(missing)));
                }
            }
            if let Some(answer) = done(&known)? {
                return Ok(Some(answer));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vsphere::testing::{Script, fault, object, script_client};

    #[test]
    fn all_pages_are_read() {
        let script = Script::new();
        let (one, two) =
            (object("Datastore", "ds-1", &[("name", "a")]), object("Datastore", "ds-2", &[("name", "b")]));
        script.answer("RetrievePropertiesEx", &format!("<returnval><token>t</token>{one}</returnval>"));
        script.answer("ContinueRetrievePropertiesEx", &format!("<returnval>{two}</returnval>"));
        let client = script_client(&script);
        let wanted = [Ref::new("Datastore", "ds-1"), Ref::new("Datastore", "ds-2")];
        let found = client.properties("Datastore", &wanted, &["name"]).unwrap();
        assert_eq!(found.iter().map(|o| o.text("name")).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(script.requests("ContinueRetrievePropertiesEx")[0].text_at(&["token"]), "t");
        assert_eq!(script.requests("RetrievePropertiesEx")[0].all("specSet").count(), 1);
    }

    #[test]
    fn a_session_that_ended_shows_as_missing_properties() {
        let script = Script::new();
        let missing = "<objects><obj type=\"Datastore\">ds-1</obj><missingSet><path>name</path><fault>\
            <fault xsi:type=\"NotAuthenticated\"/><localizedMessage/></fault></missingSet></objects>";
        script.answer("RetrievePropertiesEx", &format!("<returnval>{missing}</returnval>"));
        let one = object("Datastore", "ds-1", &[("name", "a")]);
        script.answer("RetrievePropertiesEx", &format!("<returnval>{one}</returnval>"));
        let found = script_client(&script).properties_of(&Ref::new("Datastore", "ds-1"), &["name"]).unwrap();
        assert_eq!(found.text("name"), "a");
        assert_eq!(script.methods().iter().filter(|method| *method == "Login").count(), 2);
    }

    #[test]
    fn a_dead_reference_is_left_out() {
        let script = Script::new();
        let gone = fault("ManagedObjectNotFound", "<obj type=\"Datastore\">ds-1</obj>");
        let two = object("Datastore", "ds-2", &[("name", "b")]);
        script.fault("RetrievePropertiesEx", &gone);
        script.fault("RetrievePropertiesEx", &gone);
        script.answer("RetrievePropertiesEx", &format!("<returnval>{two}</returnval>"));
        let client = script_client(&script);
        let wanted = [Ref::new("Datastore", "ds-1"), Ref::new("Datastore", "ds-2")];
        assert_eq!(client.properties("Datastore", &wanted, &["name"]).unwrap().len(), 1);
    }

    #[test]
    fn a_broken_read_is_tried_again_and_a_view_is_destroyed() {
        let script = Script::new();
        script.always("CreateContainerView", "<returnval type=\"ContainerView\">v-1</returnval>");
        script.always("DestroyView", "");
        script.lost("RetrievePropertiesEx");
        script.answer("RetrievePropertiesEx", "");
        let client = script_client(&script);
        assert!(client.below(&Ref::new("Folder", "f"), "HostSystem", &["name"]).unwrap().is_empty());
        assert_eq!(script.methods().iter().filter(|method| *method == "DestroyView").count(), 2);
    }
}
