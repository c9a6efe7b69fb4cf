//! Requests that take long: their clients are told so by an interim response (MS-SMB2 3.3.4.2), once, and answered by its AsyncId.
#![allow(clippy::unwrap_used)]

mod desk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use desk::import::begin;
use desk::{Client, Desk, Message, NOW, Open, Part, part, split};
use importfs::inventory::{
    Checked, Identities, Inventory, InventoryError, Machine, MachineDisk, Place, Registered, Registration,
    StoreFile, Wanted,
};
use importfs::smb::dispatch;
use smb_proto::msg::{FileId, close, echo};
use smb_proto::{Command, Flags, Status};

/// A hypervisor that registers a virtual machine when it is told to.
struct Slow {
    go: Mutex<mpsc::Receiver<()>>,
    fails: AtomicBool,
}

impl Inventory for Slow {
    fn check(&self, _: &Wanted) -> Checked {
        Checked::default()
    }
    fn datastore_name(&self, _: &str, name: &str) -> Result<Option<String>, InventoryError> {
        Ok(Some(name.to_owned()))
    }
    fn sees(&self, _: &str, _: &str, _: &str) -> Result<bool, InventoryError> {
        Ok(true)
    }
    fn vm_exists(&self, _: &Place, _: &str) -> Result<bool, InventoryError> {
        Ok(false)
    }
    fn identities(&self, _: &str, _: &str, _: &str, _: (&str, &str)) -> Result<Identities, InventoryError> {
        Ok(Identities::default())
    }
    fn register(&self, _: &Registration) -> Result<Registered, InventoryError> {
        self.go.lock().unwrap().recv().unwrap();
        if self.fails.load(Ordering::Relaxed) {
            return Err(InventoryError { message: "no".into(), transient: false });
        }
        Ok(Registered { id: "vm-1".into(), instance: "52-1".into(), before: false, notes: Vec::new() })
    }
    fn machine(&self, _: &str, _: &StoreFile) -> Result<Option<Machine>, InventoryError> {
        Ok(None)
    }
    fn machines_in(&self, _: &str, _: &[StoreFile]) -> Result<Vec<Machine>, InventoryError> {
        Ok(Vec::new())
    }
    fn disks(&self, _: &Machine) -> Result<Vec<MachineDisk>, InventoryError> {
        unreachable!("it has no virtual machines")
    }
    fn snapshot(&self, _: &Machine, _: &str, _: &str) -> Result<bool, InventoryError> {
        unreachable!("it has no virtual machines")
    }
    fn has_snapshot(&self, _: &Machine, _: &str) -> Result<bool, InventoryError> {
        unreachable!("it has no virtual machines")
    }
    fn remove_snapshot(&self, _: &Machine, _: &str) -> Result<(), InventoryError> {
        unreachable!("it has no virtual machines")
    }
    fn lacks_for_snapshot(&self, _: &Machine) -> Result<Vec<String>, InventoryError> {
        unreachable!("it has no virtual machines")
    }
    fn unregister(&self, _: &Machine) -> Result<(), InventoryError> {
        unreachable!("it has no virtual machines")
    }
    fn register_again(&self, _: &str, _: &Machine) -> Result<Registered, InventoryError> {
        unreachable!("it has no virtual machines")
    }
}

/// A restore up to its VMX, which is written and open; what has it registered; the hypervisor.
fn restored() -> (Desk, Client, FileId, mpsc::Sender<()>, Arc<Slow>) {
    let (go, told) = mpsc::channel();
    let slow = Arc::new(Slow { go: Mutex::new(told), fails: AtomicBool::new(false) });
    let desk = Desk::import(Some(Arc::clone(&slow) as Arc<dyn Inventory>));
    let mut client = desk.client(1, "user");
    begin(&mut client, "register-after-import = 1\n");
    let extent = client.open(&Open::file("w\\w-flat.vmdk")).file_id();
    for piece in 0..3 {
        assert_eq!(client.write(extent, piece << 20, &[1; 1 << 20]), Status::SUCCESS);
    }
    assert_eq!(client.close(extent), Status::SUCCESS);
    let vmx = client.open(&Open::file("w\\w.vmx")).file_id();
    let text = b"displayName = \"w\"\nscsi0.present = \"TRUE\"\nscsi0:0.fileName = \"w.vmdk\"\n";
    assert_eq!(client.write(vmx, 0, text), Status::SUCCESS);
    (desk, client, vmx, go, slow)
}

fn close_of(file_id: FileId) -> Part {
    part(Command::CLOSE, false, |out| close::Request { flags: 0, file_id }.encode(out))
}

/// Has a compound worked on beside this thread until its client was told something; `meanwhile` runs then. Gives what was told, and
/// the answers.
fn run_beside(
    client: &mut Client,
    parts: Vec<Part>,
    meanwhile: impl FnOnce(&mut Client, &Message),
) -> (Message, Vec<Message>) {
    let mut job = client.job(parts);
    job.set_apart();
    let (server, connection) = (Arc::clone(&client.server), Arc::clone(&client.connection));
    std::thread::scope(|scope| {
        let working = {
            let (server, connection) = (Arc::clone(&server), Arc::clone(&connection));
            scope.spawn(move || dispatch::run(&server, &connection, job, None, NOW))
        };
        let mut told = Vec::new();
        while told.is_empty() {
            assert!(!working.is_finished(), "it was answered and nothing was told");
            std::thread::sleep(Duration::from_millis(1));
            dispatch::tell_pending(&server, &connection, Duration::from_millis(20), |output| {
                told.extend(output.frames.iter().flat_map(|frame| split(&frame.bytes()[4..])));
            });
        }
        assert_eq!(told.len(), 1);
        dispatch::tell_pending(&server, &connection, Duration::ZERO, |_| panic!("it is told once"));
        let interim = told.remove(0);
        meanwhile(client, &interim);
        let output = working.join().unwrap();
        (interim, client.sent(&output))
    })
}

#[test]
fn a_close_that_waits_for_a_hypervisor_is_told_and_answered_later() {
    let (_desk, mut client, vmx, go, _) = restored();
    let (interim, answers) = run_beside(&mut client, vec![close_of(vmx)], |client, _| {
        // The connection goes on meanwhile.
        let answer = client.request(Command::ECHO, |out| echo::Request.encode(out));
        assert_eq!(answer.status(), Status::SUCCESS);
        go.send(()).unwrap();
    });
    let told = interim.header();
    assert_eq!((told.status, told.command), (Status::PENDING, Command::CLOSE));
    assert!(told.flags.contains(Flags::ASYNC_COMMAND) && told.async_id != 0 && told.credits > 0);
    assert_eq!(answers.len(), 1);
    let answer = answers[0].header();
    assert_eq!((answer.status, answer.message_id), (Status::SUCCESS, told.message_id));
    assert!(answer.flags.contains(Flags::ASYNC_COMMAND));
    assert_eq!(
        (answer.async_id, answer.credits),
        (told.async_id, 0),
        "the credits went with the interim response"
    );
}

#[test]
fn its_failure_is_the_answer_s_status() {
    let (_desk, mut client, vmx, go, slow) = restored();
    slow.fails.store(true, Ordering::Relaxed);
    let (interim, answers) = run_beside(&mut client, vec![close_of(vmx)], |_, _| go.send(()).unwrap());
    assert!(answers[0].status().is_error());
    assert_eq!(answers[0].header().async_id, interim.header().async_id);
}

#[test]
fn what_comes_before_and_behind_it_in_a_compound_is_answered_as_usual() {
    let (_desk, mut client, vmx, go, _) = restored();
    let echo = || part(Command::ECHO, false, |out| echo::Request.encode(out));
    let (interim, answers) =
        run_beside(&mut client, vec![echo(), close_of(vmx), echo()], |_, _| go.send(()).unwrap());
    let ids: Vec<_> = answers.iter().map(|answer| (answer.status(), answer.header().async_id)).collect();
    let of_close = interim.header().async_id;
    assert_eq!(ids.iter().map(|(_, id)| *id == of_close).collect::<Vec<_>>(), [false, true, false]);
    assert!(ids.iter().all(|(status, _)| *status == Status::SUCCESS));
    assert!(!answers[2].header().flags.contains(Flags::ASYNC_COMMAND));
}

#[test]
fn a_cancel_neither_ends_nor_loses_what_can_t_be_undone() {
    let (_desk, mut client, vmx, go, _) = restored();
    let (_, answers) = run_beside(&mut client, vec![close_of(vmx)], |client, interim| {
        client.send_cancel(interim);
        go.send(()).unwrap();
    });
    assert_eq!(answers[0].status(), Status::SUCCESS);
}
