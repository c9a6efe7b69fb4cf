//! Tasks: what takes longer than a call.

use std::time::Duration;

use super::client::Client;
use super::error::{Fault, VsphereError};
use super::xml::{Element, Writer};
use super::{Ref, soap};

/// How long registration may take: seconds, unless a host is waking up a datastore.
pub const REGISTER_TIMEOUT: Duration = Duration::from_mins(10);
/// How long a look into a datastore may take: directories of thousands of files on a slow NFS server.
pub const SEARCH_TIMEOUT: Duration = Duration::from_mins(5);

impl Client {
    /// Starts a task; `method` is one of the API's `…_Task`.
    pub fn start_task(
        &self,
        method: &str,
        this: &Ref,
        write: impl Fn(&mut Writer),
    ) -> Result<Ref, VsphereError> {
        soap::returned_reference(method, &self.call(method, this, write)?)
    }

    /// Waits for a task; its result, or its error. `what` says what it does, for sentences.
    pub fn wait_task(
        &self,
        task: &Ref,
        limit: Duration,
        what: &str,
    ) -> Result<Option<Element>, VsphereError> {
        // Whole `info` is more than some servers can write out; the parts are enough.
        let paths = ["info.state", "info.error", "info.result"];
        self.watch(task, &paths, limit, what, |known| {
            match known.get("info.state").map(|state| state.text.trim()) {
                Some("success") => Ok(Some(known.get("info.result").cloned())),
                Some("error") => Err(VsphereError::Fault(match known.get("info.error") {
                    Some(error) => Fault::of_localized(error),
                    None => Fault {
                        kind: String::new(),
                        message: "the task failed".into(),
                        detail: Box::default(),
                    },
                })),
                _ => Ok(None),
            }
        })
        .map_err(|error| error.about(what))
    }

    /// Starts a task and waits for it.
    pub fn run_task(
        &self,
        method: &str,
        this: &Ref,
        limit: Duration,
        what: &str,
        write: impl Fn(&mut Writer),
    ) -> Result<Option<Element>, VsphereError> {
        let task = self.start_task(method, this, write).map_err(|error| error.about(what))?;
        self.wait_task(&task, limit, what)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::vsphere::testing::{Script, fault, script_client};

    pub(crate) fn update(properties: &[(&str, &str)]) -> String {
        let set: Vec<_> = properties
            .iter()
            .map(|(name, value)| format!("<changeSet><name>{name}</name><op>assign</op>{value}</changeSet>"))
            .collect();
        let set = set.concat();
        format!(
            "<returnval><version>2</version><filterSet><objectSet><kind>modify</kind><obj type=\"Task\">t-1</obj>{set}\
             </objectSet></filterSet></returnval>"
        )
    }

    pub(crate) fn with_collector(script: &Script) {
        script.always("CreatePropertyCollector", "<returnval type=\"PropertyCollector\">pc-2</returnval>");
        script.always("DestroyPropertyCollector", "");
        script.always("CreateFilter", "<returnval type=\"PropertyFilter\">f</returnval>");
    }

    #[test]
    fn a_task_is_awaited_through_empty_updates_a_lost_line_and_a_lost_session() {
        let script = Script::new();
        with_collector(&script);
        script.answer("WaitForUpdatesEx", &update(&[("info.state", "<val>running</val>")]));
        script.answer("WaitForUpdatesEx", "");
        script.lost("WaitForUpdatesEx");
        script.fault("WaitForUpdatesEx", &fault("NotAuthenticated", ""));
        let done = [
            ("info.state", "<val>success</val>"),
            ("info.result", "<val type=\"VirtualMachine\">vm-7</val>"),
        ];
        script.answer("WaitForUpdatesEx", &update(&done));
        let client = script_client(&script);
        let task = Ref::new("Task", "t-1");
        let result = client.wait_task(&task, REGISTER_TIMEOUT, "it").unwrap().unwrap();
        assert_eq!(soap::reference(&result), Some(Ref::new("VirtualMachine", "vm-7")));
        let waits = script.requests("WaitForUpdatesEx");
        assert_eq!(
            (waits.len(), waits[1].text_at(&["version"]), waits[3].text_at(&["version"])),
            (5, "2", "")
        );
        assert_eq!(script.requests("DestroyPropertyCollector").len(), 3);
    }

    #[test]
    fn a_failed_task_and_one_that_does_not_end() {
        let script = Script::new();
        with_collector(&script);
        let error = "<val><fault xsi:type=\"NoDiskSpace\"><datastore>ds1</datastore></fault><localizedMessage/></val>";
        script.answer(
            "WaitForUpdatesEx",
            &update(&[("info.state", "<val>error</val>"), ("info.error", error)]),
        );
        let client = script_client(&script);
        let task = Ref::new("Task", "t-1");
        let told =
            client.wait_task(&task, REGISTER_TIMEOUT, "web can't be registered").unwrap_err().to_string();
        assert_eq!(
            told,
            "web can't be registered: the datastore 'ds1' is full; free some space or choose another"
        );
        let told = client.wait_task(&task, Duration::ZERO, "registering web").unwrap_err().to_string();
        assert_eq!(
            told,
            "registering web has not ended within 0 seconds; look at the hypervisor's recent tasks"
        );
    }
}
