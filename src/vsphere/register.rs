//! A VMX on a datastore becomes a virtual machine of the inventory.
//!
//! Idempotent by the VMX's path: whatever became of an earlier try, the inventory is asked first, and what is registered
//! stays registered once.

use super::client::Client;
use super::error::VsphereError;
use super::inventory::{Datacenter, Store, stored_name};
use super::task::REGISTER_TIMEOUT;
use super::xml::Element;
use super::{Ref, soap};
use crate::inventory::{Registered, Registration};

/// Tries of one registration whose connection breaks before the task is known.
const TRIES_MAX: usize = 2;

/// Where a VMX is registered.
pub(super) struct Target {
    pub(super) folder: Ref,
    pub(super) pool: Ref,
    pub(super) host: Option<Ref>,
}

/// A virtual machine that is in the inventory now, and whether it was before.
pub(super) struct Made {
    pub(super) machine: Ref,
    pub(super) before: bool,
}

/// Registers it, or finds it registered.
pub fn register(client: &Client, vm: &Registration) -> Result<Registered, VsphereError> {
    let datacenter = client
        .datacenter(&vm.place.datacenter)
        .map_err(|error| error.about("the datacenter can't be found"))?;
    let path = Store::path(&vm.datastore, &vm.vmx);
    let mut note = None;
    let made = match find(client, &datacenter, &path)? {
        Some(machine) => Made { machine, before: true },
        None => {
            let folder = client.vm_folder(&datacenter, &vm.place.folder)?;
            let stores = client.stores(&datacenter)?;
            let needed: Vec<_> = stores.iter().filter(|store| vm.datastores.contains(&store.name)).collect();
            let fits = |host: &Ref| needed.iter().all(|store| store.hosts.contains(host));
            let target = client
                .target(&datacenter, &vm.place.host, &vm.place.pool, fits)
                .map_err(|(_, error)| error)?;
            note = target.note;
            let host = target.host.map(|host| host.reference);
            start(client, &datacenter, &Target { folder, pool: target.pool, host }, &path, &vm.vm_name)?
        }
    };
    let mut done = finish(client, made, &vm.vm_name, vm.same_machine)?;
    done.notes.splice(0..0, note);
    Ok(done)
}

/// The virtual machine with that VMX.
pub fn find(client: &Client, datacenter: &Datacenter, path: &str) -> Result<Option<Ref>, VsphereError> {
    client.search("FindByDatastorePath", |w| {
        w.reference("datacenter", &datacenter.reference).value("path", path);
    })
}

/// What is known of one that has been registered; the question that stands in its way is answered.
pub(super) fn finish(
    client: &Client,
    made: Made,
    vm_name: &str,
    same_machine: bool,
) -> Result<Registered, VsphereError> {
    let Made { machine, before } = made;
    let paths = ["name", "runtime.question", "summary.config.instanceUuid"];
    let known = client.properties_of(&machine, &paths)?;
    let mut notes = Vec::new();
    if let Some(question) = known.values.get("runtime.question") {
        notes.push(answer(client, &machine, question, same_machine)?);
    }
    let name = stored_name(vm_name);
    if !known.text("name").is_empty() && known.text("name") != name {
        notes.push(format!("the virtual machine is in the inventory as '{}'", known.text("name")));
    }
    let instance = known.text("summary.config.instanceUuid").to_owned();
    Ok(Registered { id: machine.id, instance, before, notes })
}

/// Registers a VMX, once whatever becomes of the connection.
pub(super) fn start(
    client: &Client,
    datacenter: &Datacenter,
    target: &Target,
    path: &str,
    vm_name: &str,
) -> Result<Made, VsphereError> {
    let what = format!("the virtual machine '{vm_name}' can't be registered from {path}");
    let mut tries = 0;
    loop {
        tries += 1;
        let task = client.start_task("RegisterVM_Task", &target.folder, |w| {
            w.value("path", path).value("name", stored_name(vm_name)).value("asTemplate", false);
            w.reference("pool", &target.pool);
            if let Some(host) = &target.host {
                w.reference("host", host);
            }
        });
        let done = task.and_then(|task| client.wait_task(&task, REGISTER_TIMEOUT, &what));
        match done {
            Ok(Some(result)) => {
                let machine = soap::reference(&result).ok_or_else(|| VsphereError::Answer {
                    method: "RegisterVM_Task".into(),
                    why: "its result is no virtual machine".into(),
                })?;
                return Ok(Made { machine, before: false });
            }
            // The request may have arrived, or somebody else's; the inventory knows.
            Ok(None) | Err(VsphereError::Lost { .. }) if tries < TRIES_MAX => {
                if let Some(machine) = find(client, datacenter, path)? {
                    return Ok(Made { machine, before: false });
                }
            }
            Ok(None) => {
                return Err(VsphereError::Told(format!("{what}: the task ended without a virtual machine")));
            }
            Err(error) if error.kind() == "AlreadyExists" => match find(client, datacenter, path)? {
                Some(machine) => return Ok(Made { machine, before: true }),
                None => return Err(error.about(what)),
            },
            Err(error) => return Err(error.about(what)),
        }
    }
}

/// Answers 'did you move or copy this virtual machine', which stands in the way of every use of it. Any other question is
/// for a person.
fn answer(
    client: &Client,
    machine: &Ref,
    question: &Element,
    same_machine: bool,
) -> Result<String, VsphereError> {
    let wanted = if same_machine { "moved" } else { "copied" };
    let text = question.text_at(&["text"]).lines().next().unwrap_or_default().to_owned();
    let about_uuid = question.text_at(&["text"]).contains("msg.uuid.altered")
        || question.all("message").any(|message| message.text_at(&["id"]).starts_with("msg.uuid."));
    // The letter behind `_` is a keyboard shortcut.
    let means =
        |choice: &&Element| choice.text_at(&["label"]).replace('_', "").to_lowercase().contains(wanted);
    let choice = question.child("choice").and_then(|choices| choices.all("choiceInfo").find(means));
    let Some(choice) = choice.filter(|_| about_uuid) else {
        return Ok(format!("the virtual machine waits for an answer: {text}"));
    };
    client
        .call("AnswerVM", machine, |w| {
            w.value("questionId", question.text_at(&["id"])).value("answerChoice", choice.text_at(&["key"]));
        })
        .map_err(|error| error.about(format!("the question '{text}' can't be answered")))?;
    Ok(format!("the question whether the virtual machine was moved or copied was answered: {wanted}"))
}

/// Other virtual machines that have that UUID, besides the one with that VMX.
pub fn uuid_in_use(
    client: &Client,
    datacenter: &Datacenter,
    path: &str,
    uuid: &str,
    instance: bool,
) -> Result<bool, VsphereError> {
    let Some(uuid) = canonical(uuid) else { return Ok(false) };
    // In the whole inventory: identities are not a datacenter's own.
    let found = client.search("FindByUuid", |w| {
        w.value("uuid", &uuid).value("vmSearch", true).value("instanceUuid", instance);
    })?;
    let Some(found) = found else { return Ok(false) };
    Ok(find(client, datacenter, path)? != Some(found))
}

/// `56 4d … - …` of a VMX as `564d…-…-…`.
pub fn canonical(uuid: &str) -> Option<String> {
    let digits: String = uuid.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    digits.parse::<uuid::Uuid>().ok().map(|uuid| uuid.to_string())
}

#[cfg(test)]
mod tests;
